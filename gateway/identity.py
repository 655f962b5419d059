"""Who is at the other end of a connection, for as long as the connection lives.

Posture: pure.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping

from auth.principal import LOCAL_MASTER, Principal
from gateway.audit import render_fields
from pki.names import Role
from pki.verify import VerifiedPeer

_ROLES = {"Client": "client", "Worker": "worker", "Master": "master"}
_KINDS = {Role.CLIENT: "Client", Role.WORKER: "Worker", Role.MASTER: "Master"}


class Peer:
    """A connection's verified peer. A plain slotted class: one for every connection, so it holds no certificate."""

    __slots__ = (
        "_rendered",
        "client_cert",
        "expires",
        "fingerprint",
        "identity",
        "name",
        "principal",
        "role",
        "serial",
        "source",
    )

    def __init__(
        self,
        *,
        principal: Principal,
        serial: str | None,
        fingerprint: bytes,
        expires: float,
        source: str | None,
        client_cert: bytes | None = None,
    ) -> None:
        self.principal = principal
        self.name = principal.name
        self.role = _ROLES[principal.kind]
        self.identity = principal.identity
        self.serial = serial
        self.fingerprint = fingerprint
        self.expires = expires
        """Epoch seconds."""
        self.source = source
        self.client_cert = client_cert
        """The value of ``Client-Cert`` (RFC 9440), when the configuration asks for it."""
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
        if self.serial is not None:
            fields["serial"] = self.serial
        if self.source is not None:
            fields["source"] = self.source
        return fields


def peer_of(
    verified: VerifiedPeer,
    labels: Mapping[str, Mapping[str, str]],
    *,
    source: str | None,
    der: bytes | None = None,
) -> Peer:
    """The peer that a verified path proves, with the labels that its certificate was given."""
    kind = _KINDS[verified.role]
    own = labels.get(verified.serial_hex) if verified.role is Role.WORKER else None
    principal = Principal(
        kind=kind,  # type: ignore[arg-type]  # the three literals, by the table above
        name=verified.name,
        pool=verified.pool,
        labels=tuple(sorted(own.items())) if own else (),
    )
    return Peer(
        principal=principal,
        serial=verified.serial_hex,
        fingerprint=verified.fingerprint,
        expires=verified.expires,
        source=source,
        client_cert=b":%b:" % base64.b64encode(der) if der is not None else None,
    )


def local_master(source: str | None) -> Peer:
    """Whoever may open the dispatch listener."""
    return Peer(principal=LOCAL_MASTER, serial=None, fingerprint=b"", expires=float("inf"), source=source)
