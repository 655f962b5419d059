"""The table of certificate kinds: what each is, may do and may be called, and for how long.

Lifetimes are the defaults of `init` and `issue-*` and the longest that `issue` signs; a certificate also never outlives
its issuer.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from enum import StrEnum
from types import MappingProxyType

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pki.keys import KeyType
from pki.names import Role

__all__ = ["CA_PROFILES", "LEAF_PROFILES", "PROFILES", "Profile", "ProfileName", "SanKind", "key_usage"]

CLOCK_CUSHION = timedelta(minutes=5)
"""How far notBefore lies before the moment of issue, for peers whose clocks run late."""

LIST_LIFETIME = timedelta(days=1)
"""How long a revocation list is good unless told otherwise. A certificate that does not live longer says that it needs
none (noRevAvail, RFC 9608)."""


class ProfileName(StrEnum):
    ROOT = "root"
    SERVER_CA = "server-ca"
    CLIENT_CA = "client-ca"
    WORKER_CA = "worker-ca"
    MASTER_CA = "master-ca"
    SERVER = "server"
    CLIENT = "client"
    WORKER = "worker"
    MASTER = "master"


class SanKind(StrEnum):
    """What the subject alternative name holds."""

    ABSENT = "absent"
    SPIFFE = "spiffe"
    """Exactly one URI, a SPIFFE ID of the profile's role."""
    HOSTS = "hosts"
    """One or more DNS names and IP addresses, nothing else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One row. `purposes` empty means no extended key usage at all; `no_hosts` means critical name constraints that
    exclude every DNS name and IP address."""

    name: ProfileName
    role: Role | None
    is_ca: bool
    path_length: int | None
    usages: frozenset[str]
    purposes: tuple[x509.ObjectIdentifier, ...]
    san: SanKind
    no_hosts: bool
    lifetime: timedelta
    max_lifetime: timedelta
    keys: frozenset[KeyType]


_DAY = timedelta(days=1)
_YEAR = 365 * _DAY
_CLIENT_AUTH = (ExtendedKeyUsageOID.CLIENT_AUTH,)
_SERVER_AUTH = (ExtendedKeyUsageOID.SERVER_AUTH,)
_CA_USAGES = frozenset({"key_cert_sign", "crl_sign"})
_LEAF_USAGES = frozenset({"digital_signature"})


def _root() -> Profile:
    return Profile(
        name=ProfileName.ROOT,
        role=None,
        is_ca=True,
        path_length=1,
        usages=_CA_USAGES,
        purposes=(),
        san=SanKind.ABSENT,
        no_hosts=False,
        lifetime=10 * _YEAR,
        max_lifetime=20 * _YEAR,
        keys=frozenset(KeyType),
    )


def _ca(role: Role) -> Profile:
    return Profile(
        name=ProfileName(f"{role.value}-ca"),
        role=role,
        is_ca=True,
        path_length=0,
        usages=_CA_USAGES,
        purposes=_SERVER_AUTH if role is Role.SERVER else _CLIENT_AUTH,
        san=SanKind.ABSENT,
        no_hosts=role is not Role.SERVER,
        lifetime=2 * _YEAR,
        max_lifetime=5 * _YEAR,
        keys=frozenset(KeyType),
    )


def _leaf(role: Role, lifetime: timedelta) -> Profile:
    return Profile(
        name=ProfileName(role.value),
        role=role,
        is_ca=False,
        path_length=None,
        usages=_LEAF_USAGES,
        purposes=_SERVER_AUTH if role is Role.SERVER else _CLIENT_AUTH,
        san=SanKind.HOSTS if role is Role.SERVER else SanKind.SPIFFE,
        no_hosts=False,
        lifetime=lifetime,
        max_lifetime=2 * _YEAR,
        keys=frozenset(KeyType),
    )


CA_PROFILES: Mapping[Role, Profile] = MappingProxyType({role: _ca(role) for role in Role})
LEAF_PROFILES: Mapping[Role, Profile] = MappingProxyType(
    {
        Role.CLIENT: _leaf(Role.CLIENT, 30 * _DAY),
        Role.WORKER: _leaf(Role.WORKER, _DAY),
        Role.MASTER: _leaf(Role.MASTER, 30 * _DAY),
        Role.SERVER: _leaf(Role.SERVER, 30 * _DAY),
    }
)
PROFILES: Mapping[ProfileName, Profile] = MappingProxyType(
    {profile.name: profile for profile in (_root(), *CA_PROFILES.values(), *LEAF_PROFILES.values())}
)

ALL_HOSTS: tuple[x509.GeneralName, ...] = (
    x509.DNSName(""),
    x509.IPAddress(ipaddress.IPv4Network("0.0.0.0/0")),
    x509.IPAddress(ipaddress.IPv6Network("::/0")),
)
"""Every DNS name and IP address, as excluded subtrees."""

USAGE_BITS = (
    "digital_signature",
    "content_commitment",
    "key_encipherment",
    "data_encipherment",
    "key_agreement",
    "key_cert_sign",
    "crl_sign",
)


def key_usage(usages: frozenset[str]) -> x509.KeyUsage:
    """The extension with exactly these bits."""
    bits = {bit: bit in usages for bit in USAGE_BITS}
    return x509.KeyUsage(**bits, encipher_only=False, decipher_only=False)
