"""What the field lines of a request mean, whatever its target: requests that repeat them share what was found.

Trust: pure, meets bytes of untrusted clients, workers and masters.
"""

from __future__ import annotations

import re
from typing import Final

from gateway.admission.checks import Refusal
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.http.fields import forwarded, max_forwards, request_fields, via_names
from gateway.http.hosts import cross_site
from gateway.ingress.serving import Serving
from rhttp.http1.fields import TOKEN, values
from rhttp.http1.target import is_same_authority, split_authority
from rhttp.message import SAFE, FieldBlock, RequestHead, SharedFields

_MAX_REQUEST_ID: Final = 128
_WAIT: Final = re.compile(rb'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_LABEL: Final = re.compile(r"([^=]{1,63})=(.{0,255})")
_PAGES: Final = frozenset({b"origin", b"sec-fetch-site"})
"""Fields that only browsers send, of their own accord."""


class Wishes:
    """What a requester would like of a pool."""

    __slots__ = ("label", "wait")

    def __init__(self, fields: SharedFields, wait_max: float) -> None:
        seconds = preferred_wait(fields)
        self.wait = min(float(seconds), wait_max) if seconds else None
        """Seconds that it may wait for a slot: what its requester is willing to, and the configuration allows."""
        self.label = preferred_label(fields)


class FieldSection:
    """One field section of one peer under one generation; the method and the version count as part of it.

    A plain slotted class: a connection keeps the last one.
    """

    __slots__ = (
        "_fields",
        "_wishes",
        "block",
        "cross_site",
        "generation",
        "host_refusal",
        "is_loop",
        "max_forwards",
        "memo",
        "parent_id",
        "refusal",
    )

    def __init__(self, head: RequestHead, peer: Peer, generation: Serving, who: SharedFields) -> None:
        is_local = isinstance(peer, LocalPeer)
        self.memo = head.forwarded
        """What heads with this section share, and nothing else does: by its identity the section is known."""
        self.generation = generation
        self._fields = head.fields
        self._wishes: Wishes | None = None
        self.host_refusal = refuse_authority(head.authority, peer, generation)
        """Why ``Host`` is none of ours; a target in absolute form takes its place."""
        self.refusal = _refusal(head, is_local and generation.dispatch_authorities is not None)
        """Why it is refused for what else it says."""
        self.cross_site: str | None = None
        """Why the request counts as another site's that asks for a change."""
        # No page reaches a unix socket: what is said there is told by a master, of its own requester.
        if head.method not in SAFE and not (is_local and generation.dispatch_authorities is None):
            self.cross_site = cross_site(head.fields, head.authority, b"http" if is_local else b"https")
        self.parent_id = _parent_id(head) if peer.role == "master" else None
        self.max_forwards = max_forwards(head)
        via, self.is_loop = via_names(head, generation.via)
        ours = generation.via_received
        via_field = (b"Via", b"%b, %b" % (via, ours) if via else ours)
        self.block = FieldBlock((*request_fields(head), *who, via_field))
        """The fields that go on with a request: stripped, then set, without ``Rhttp-Request-Id``."""

    @property
    def wishes(self) -> Wishes:
        """What is asked of a pool."""
        known = self._wishes
        if known is None:
            known = self._wishes = Wishes(self._fields, self.generation.config.limits.wait_max)
        return known


def fields_about(peer: Peer, host: bytes | None) -> SharedFields:
    """The fields that say who asks."""
    value = forwarded(peer.source, b"http" if isinstance(peer, LocalPeer) else b"https", host)
    fields = ((b"Forwarded", value), (b"Rhttp-Identity", peer.identity.encode("ascii")))
    if isinstance(peer, CertifiedPeer) and peer.client_cert is not None:
        return (*fields, (b"Client-Cert", peer.client_cert))
    return fields


def refuse_authority(authority: bytes | None, peer: Peer, generation: Serving) -> Refusal | None:
    """Why the host that a request names is not to be served by the listener that it came through; None: it is."""
    if authority is None:
        return None
    ours = generation.dispatch_authorities if isinstance(peer, LocalPeer) else generation.authorities
    if ours is not None:
        covered = ours.covers(authority)
    else:  # any name will do on a unix socket, none too; but it goes into ``Forwarded``
        covered = None if authority and split_authority(authority) is None else True
    if covered:
        return None
    if covered is None:
        return Refusal(status=400, slug="bad-request", reason="authority_malformed")
    return Refusal(status=421, slug="misdirected", reason="authority_not_ours")


def refuse_absolute(
    raw: bytes, authority: bytes, host: bytes | None, peer: Peer, generation: Serving
) -> Refusal | None:
    """As `refuse_authority`, for a target in absolute form.

    RFC 9112 section 3.2.2 lets the target win over ``Host``; two names for one request are refused. HTTP/1.0 may leave
    ``Host`` out.
    """
    refusal = refuse_authority(authority, peer, generation)
    if refusal is None and host is not None:
        port = 443 if raw[:6].lower() == b"https:" else 80
        if not is_same_authority(authority, host, default_port=port):
            return Refusal(status=400, slug="bad-request", reason="authority_malformed")
    return refusal


def _refusal(head: RequestHead, may_be_a_page: bool) -> Refusal | None:
    """``may_be_a_page``: it came by the dispatch listener, over a port that a browser could reach."""
    if head.expect is not None and head.expect != (b"100-continue",):
        return Refusal(status=417, slug="expectation-failed", reason="expectation_unknown")
    if may_be_a_page and any(field[0] in _PAGES for field in head.fields):
        return Refusal(status=403, slug="cross-site", reason="web_page_on_dispatch")
    return None


def _parent_id(head: RequestHead) -> str | None:
    given = values(head.fields, b"rhttp-request-id")
    if len(given) == 1 and len(given[0]) <= _MAX_REQUEST_ID and TOKEN.fullmatch(given[0]):
        return given[0].decode("ascii")
    return None


def preferred_wait(fields: SharedFields) -> int:
    """Seconds of ``Prefer: wait=N`` (RFC 7240 section 4.3); 0 without it."""
    for value in values(fields, b"prefer"):
        for member in value.split(b","):
            match = _WAIT.fullmatch(member.partition(b";")[0].strip())
            if match is not None:
                return int(match[1])
    return 0


def preferred_label(fields: SharedFields) -> tuple[str, str] | None:
    """The wish in ``Rhttp-Prefer-Label: k=v``; one that is malformed is no wish."""
    for value in values(fields, b"rhttp-prefer-label"):
        match = _LABEL.fullmatch(value.decode("latin-1").strip())
        if match is not None:
            return match[1].strip(), match[2].strip()
    return None
