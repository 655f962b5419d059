"""Who is at the other end of a connection, for as long as the connection lives.

Trust: pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from auth.principal import LOCAL_MASTER, Principal, PrincipalKind
from gateway.audit.line import render_fields
from pki.names import Role
from pki.verify import VerifiedPeer
from rhttp.memo import Memo

_ROLES = {"Client": "client", "Worker": "worker", "Master": "master"}
_KINDS: Final[dict[Role, PrincipalKind]] = {Role.CLIENT: "Client", Role.WORKER: "Worker", Role.MASTER: "Master"}
_Proof = tuple[VerifiedPeer, Mapping[str, str] | None, Principal, str]
_KNOWN: Final[Memo[bytes, _Proof]] = Memo(16384)
"""By the SHA-256 of a certificate: what it proves, its labels, and the principal and identity that follow from both."""


@dataclass(frozen=True, slots=True)
class SeenPath:
    """What the verify callback answers: the proof, and the certificate itself when it is to be forwarded."""

    peer: VerifiedPeer
    der: bytes | None


class _Peer:
    """What is known of every peer. Never made itself: a peer is a `CertifiedPeer` or a `LocalPeer`."""

    __slots__ = (
        "_rendered",
        "expires",
        "fingerprint",
        "group",
        "identity",
        "key_type",
        "name",
        "principal",
        "role",
        "source",
    )

    def __init__(
        self, principal: Principal, *, fingerprint: bytes, expires: float, source: str | None, identity: str | None
    ) -> None:
        self.principal = principal
        self.name = principal.name
        self.role = _ROLES[principal.kind]
        self.identity = principal.identity if identity is None else identity
        self.fingerprint = fingerprint
        """Of the certificate; empty for a local peer."""
        self.expires = expires
        """Epoch seconds; a local peer is there for ever."""
        self.source = source
        self.key_type: str | None = None
        """Of the key in the certificate (`pki.keys.KeyType`); a local peer has none."""
        self.group: str | None = None
        """The group in which the keys of the connection were agreed on, by its registered name."""
        self._rendered: bytes | None = None

    @property
    def rendered(self) -> bytes:
        """`audit` as it stands in a line of the log; idle workers never need it."""
        if self._rendered is None:
            self._rendered = render_fields(self.audit())
        return self._rendered

    def audit(self) -> dict[str, object]:
        """The fields of an audit line that say who this is."""
        fields: dict[str, object] = {"identity": self.identity}
        if self.source is not None:
            fields["source"] = self.source
        return fields


class CertifiedPeer(_Peer):
    """A peer whose certificate was verified. A plain slotted class: one a connection, so it holds no certificate."""

    __slots__ = ("client_cert", "issuer", "serial")

    def __init__(
        self,
        *,
        principal: Principal,
        serial: str,
        fingerprint: bytes,
        issuer: bytes,
        expires: float,
        source: str | None,
        client_cert: bytes | None = None,
        identity: str | None = None,
        key_type: str | None = None,
        group: str | None = None,
    ) -> None:
        super().__init__(principal, fingerprint=fingerprint, expires=expires, source=source, identity=identity)
        self.key_type = key_type
        self.group = group
        self.serial = serial
        self.issuer = issuer
        """SHA-256 of the CA that issued the certificate."""
        self.client_cert = client_cert
        """The value of ``Client-Cert`` (RFC 9440), when the configuration asks for it."""

    def audit(self) -> dict[str, object]:
        """The fields of an audit line that say who this is."""
        fields: dict[str, object] = {"identity": self.identity, "serial": self.serial}
        if self.source is not None:
            fields["source"] = self.source
        return fields


class LocalPeer(_Peer):
    """Whoever may open the dispatch listener: a master on this host, without a certificate and without Digest.

    To have no certificate is a type and not an absent value: who forgot to fill something in is not let in by that.
    """

    __slots__ = ()

    def __init__(self, source: str | None) -> None:
        super().__init__(LOCAL_MASTER, fingerprint=b"", expires=float("inf"), source=source, identity=None)


Peer = CertifiedPeer | LocalPeer
"""A connection's peer: whoever decides about one says what it does about each kind."""


def peer_of(
    verified: VerifiedPeer,
    labels: Mapping[str, Mapping[str, str]],
    *,
    source: str | None,
    der: bytes | None = None,
    group: str | None = None,
) -> CertifiedPeer:
    """The peer that a verified path proves, with the labels that its certificate was given.

    What a certificate says is worked out once, and shared by all connections that show it.
    """
    own = labels.get(verified.serial_hex) if verified.role is Role.WORKER else None
    known = _KNOWN.get(verified.fingerprint)
    if known is None or known[0] is not verified or known[1] is not own:
        principal = Principal(
            kind=_KINDS[verified.role],
            name=verified.name,
            pool=verified.pool,
            labels=tuple(sorted(own.items())) if own else (),
        )
        known = _KNOWN.remember(verified.fingerprint, (verified, own, principal, principal.identity))
    return CertifiedPeer(
        principal=known[2],
        identity=known[3],
        serial=verified.serial_hex,
        fingerprint=verified.fingerprint,
        issuer=verified.issuer,
        expires=verified.expires,
        source=source,
        key_type=verified.key_type.value,
        group=group,
        client_cert=b":%b:" % base64.b64encode(der) if der is not None else None,
    )
