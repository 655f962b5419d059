"""Issuing: request -> template -> findings -> signed -> linted again.

API skeleton; the shapes are stable, the bodies follow.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from pki.keys import PrivateKey, PublicKey
from pki.names import Role, SpiffeId


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """A CA certificate with its key. Building one checks that they belong together (`StoreError`)."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)


def serial_from(entropy: bytes) -> int:
    """A serial number of 159 random bits out of 20 random bytes (RFC 5280 §4.1.2.2: positive, at most 20 octets)."""
    raise NotImplementedError


def issue_root(
    *, key: PrivateKey, trust_domain: str, at: datetime, entropy: bytes, lifetime: timedelta | None = None
) -> x509.Certificate:
    raise NotImplementedError


def issue_ca(
    role: Role,
    *,
    root: IssuerKey,
    public_key: PublicKey,
    trust_domain: str,
    at: datetime,
    entropy: bytes,
    lifetime: timedelta | None = None,
) -> x509.Certificate:
    raise NotImplementedError


def issue_peer(
    identity: SpiffeId,
    *,
    issuer: IssuerKey,
    public_key: PublicKey,
    at: datetime,
    entropy: bytes,
    lifetime: timedelta | None = None,
) -> x509.Certificate:
    raise NotImplementedError


def issue_server(
    names: Sequence[x509.DNSName | x509.IPAddress],
    *,
    issuer: IssuerKey,
    public_key: PublicKey,
    at: datetime,
    entropy: bytes,
    lifetime: timedelta | None = None,
) -> x509.Certificate:
    raise NotImplementedError


def serial_hex(serial: int) -> str:
    """Lower-case hex without colons, an even number of digits: the form of the inventory and the commands."""
    raise NotImplementedError


def certificate_pem(*path: x509.Certificate) -> bytes:
    """PEM blocks in the order given."""
    raise NotImplementedError
