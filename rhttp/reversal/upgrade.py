"""Ways to switch roles by ``Upgrade`` (RFC 9110 section 7.8): one table.

Trust: pure, meets bytes of untrusted workers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from rhttp.message import FieldBlock, RequestHead


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeVariant:
    """One way to become the HTTP server of a connection that one has opened."""

    name: str
    """As policies, the audit log and ``--protocol`` name it."""
    token: bytes
    methods: frozenset[bytes]
    answer: bytes
    """The whole 101 head: peers compare it byte by byte."""


PTTH_1_0: Final = UpgradeVariant(
    name="ptth/1.0",
    token=b"PTTH/1.0",
    # Every implementation found sends POST; RFC 9931 asks new ones for GET.
    methods=frozenset({b"POST", b"GET"}),
    # npm reverse-http wants `Connection` to hold nothing else and the token byte for byte.
    answer=b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
)
VARIANTS: Final = (PTTH_1_0,)
OFFER: Final = FieldBlock(
    ((b"Upgrade", b", ".join(variant.token for variant in VARIANTS)), (b"Connection", b"Upgrade"))
)
"""The fields of 401 and 426 answers (RFC 9110 section 15.5.22)."""


def chosen_variant(head: RequestHead) -> UpgradeVariant | None:
    """The first of our variants that the request names, in its own order; None when it names none."""
    for token in head.upgrade or ():
        for variant in VARIANTS:
            if token.lower() == variant.token.lower():
                return variant
    return None
