"""Revocation lists for others who verify our certificates (I/O): one for each CA of the home, the root's too.

Who looks up every certificate of a path (OpenSSL's ``-crl_check_all``, nginx, HAProxy) needs the list of each CA in it:
without the root's, which says that no issuing CA was revoked, every path is refused.

Trust: the operator is trusted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.serialization import Encoding

from gateway.home.session import HomeSession
from pki.inventory import fingerprint_of
from pki.names import Role
from pki.revocation import RevokedEntry, build_crl

__all__ = ["KEPT", "SignedList", "sign_lists"]

KEPT = timedelta(days=7)
"""How long after its end a revoked certificate is still listed: on more than one list (RFC 5280 §3.3), not for ever."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedList:
    """A list in DER and PEM; `role` None is the root's."""

    role: Role | None
    number: int
    entries: Sequence[RevokedEntry] = field(repr=False)
    this_update: datetime
    next_update: datetime
    der: bytes
    pem: bytes

    @property
    def revoked(self) -> int:
        """How many it names."""
        return len(self.entries)

    @property
    def name(self) -> str:
        """The role's name, or ``root``."""
        return "root" if self.role is None else self.role.value


def sign_lists(session: HomeSession, roles: Sequence[Role | None], lifetime: timedelta) -> tuple[SignedList, ...]:
    """The lists of these CAs as of now, good for `lifetime`, each with a number that was never given before."""
    return tuple(_sign(session, role, lifetime) for role in roles)


def _sign(session: HomeSession, role: Role | None, lifetime: timedelta) -> SignedList:
    issuer = session.root() if role is None else session.authority(role).issuer
    fingerprint = fingerprint_of(issuer.certificate)
    # The number before the entries: a list with a higher number never knows less.
    number = session.inventory.next_crl_number(fingerprint)
    at = datetime.now(UTC)
    entries = session.inventory.revoked_by(fingerprint, valid_at=int((at - KEPT).timestamp()))
    signed = build_crl(issuer, entries, number=number, at=at, lifetime=lifetime)
    return SignedList(
        role=role,
        number=number,
        entries=entries,
        this_update=signed.last_update_utc,
        next_update=signed.next_update_utc or at + lifetime,
        der=signed.public_bytes(Encoding.DER),
        pem=signed.public_bytes(Encoding.PEM),
    )
