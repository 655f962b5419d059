"""Which authorities (``Host``) this gateway answers for, by listener (RFC 9110 section 7.4).

Trust: pure, meets bytes of untrusted clients.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from typing import Final

from rhttp.http1.target import is_same_authority, split_authority
from rhttp.memo import Memo
from rhttp.message import SharedFields

_SAME_SITE: Final = frozenset({b"same-origin", b"none"})
"""What ``Sec-Fetch-Site`` (Fetch Metadata, section 2.3) says of our own pages, and of a user who asks without one."""
_MEMO: Final = 1024
_MEMO_AUTHORITY: Final = 300
"""Bytes of an authority that is remembered: a DNS name and a port fit, and strangers choose them."""


class HostMatcher:
    """A set of host names and addresses; ports are not compared, since a forwarded port is nobody's fault."""

    __slots__ = ("_hosts", "_memo")

    def __init__(self, hosts: Iterable[str]) -> None:
        self._hosts = frozenset(host.lower().rstrip(".").encode("ascii") for host in hosts)
        self._memo: Memo[bytes, bool | None] = Memo(_MEMO)

    def covers(self, authority: bytes) -> bool | None:
        """True: ours. False: somebody else's (421). None: no authority at all by its grammar (400)."""
        memo = self._memo
        try:
            return memo[authority]
        except KeyError:
            parts = split_authority(authority)
            known = None if parts is None else parts[0].removesuffix(b".") in self._hosts
            if len(authority) <= _MEMO_AUTHORITY:
                memo.remember(authority, known)
            return known


def is_address(authority: bytes) -> bool:
    """Whether an authority names an IP address, not a name that somebody else may point anywhere."""
    parts = split_authority(authority)
    if parts is None:
        return False
    try:
        ipaddress.ip_address(parts[0].decode("ascii"))
    except ValueError:
        return False
    return True


def same_origin(origin: bytes, host: bytes | None, scheme: bytes) -> bool:
    """Whether an ``Origin`` value names the very authority that the request is for (RFC 6454)."""
    prefix, separator, authority = origin.partition(b"://")
    if not separator or host is None or prefix.lower() != scheme:
        return False
    return is_same_authority(host, authority, default_port=443 if scheme == b"https" else 80)


def cross_site(fields: SharedFields, host: bytes | None, scheme: bytes) -> str | None:
    """Why a request counts as another site's, by what browsers say of their own accord; None: it does not.

    Not asked of what changes nothing: a browser shows no page an answer that is another site's.
    """
    for name, value in fields:
        if name == b"origin" and not same_origin(value, host, scheme):
            return "cross_site_origin"
        if name == b"sec-fetch-site" and value not in _SAME_SITE:
            return "cross_site_fetch"
    return None
