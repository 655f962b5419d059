"""Names: what may be called what, parsed once into types.

A *name* or *pool* is one lower-case DNS label. An identity is a SPIFFE ID (SPIFFE-ID §2) of one of three forms::

    spiffe://<trust-domain>/client/<name>
    spiffe://<trust-domain>/worker/<pool>/<name>
    spiffe://<trust-domain>/master/<name>

Parsing is exact: nothing is trimmed, folded or decoded, so two different texts never name the same identity.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass
from enum import StrEnum

from cryptography import x509

from pki.errors import NameInvalid

__all__ = [
    "PEER_ROLES",
    "Role",
    "SpiffeId",
    "parse_dns_name",
    "parse_name",
    "parse_san",
    "parse_spiffe_id",
    "parse_trust_domain",
]

_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME = re.compile(_LABEL)
_DNS_NAME = re.compile(rf"(?:{_LABEL}\.)*{_LABEL}")
_ALL_DIGITS = re.compile(r"[0-9]+")
_MAX_DNS_NAME = 253
# SPIFFE-ID §2.3: at most 2,048 bytes, the trust domain at most 255.
_MAX_SPIFFE_ID = 2048


class Role(StrEnum):
    """What an issuing CA lets its certificates be."""

    CLIENT = "client"
    WORKER = "worker"
    MASTER = "master"
    SERVER = "server"


PEER_ROLES = frozenset({Role.CLIENT, Role.WORKER, Role.MASTER})
"""The roles whose certificates hold a SPIFFE ID and may come in at the TLS listener."""


def parse_name(text: str) -> str:
    """The name itself, or `NameInvalid`: `[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?`. Used for pools too."""
    if not _NAME.fullmatch(text):
        raise NameInvalid(f"{text[:80]!r} is no name: 1 to 63 of a-z, 0-9 and -, neither first nor last a -")
    return text


def parse_dns_name(text: str) -> str:
    """A DNS name in lower-case A-labels, no wildcard, no final dot, not an IP address; or `NameInvalid`."""
    if len(text) > _MAX_DNS_NAME or not _DNS_NAME.fullmatch(text):
        raise NameInvalid(f"{text[:80]!r} is no DNS name in lower case without wildcard (write IDNs as xn-- labels)")
    if _ALL_DIGITS.fullmatch(text.rsplit(".", 1)[-1]):
        raise NameInvalid(f"{text[:80]!r} ends in a number, so it would be read as an IP address; use IP:")
    return text


def parse_trust_domain(text: str) -> str:
    """A SPIFFE trust domain, narrowed to DNS name form (no `_`); or `NameInvalid`."""
    return parse_dns_name(text)


def parse_san(text: str) -> x509.DNSName | x509.IPAddress:
    """`DNS:name` or `IP:address` as a subject alternative name of a server; or `NameInvalid`. No zones, no networks."""
    kind, colon, value = text.partition(":")
    if colon and kind == "DNS":
        return x509.DNSName(parse_dns_name(value))
    if colon and kind == "IP":
        try:
            if "%" not in value:
                return x509.IPAddress(ipaddress.ip_address(value))
        except ValueError:
            pass
        raise NameInvalid(f"{value[:80]!r} is no IP address")
    raise NameInvalid(f"{text[:80]!r} is no subject alternative name: write DNS:name or IP:address")


@dataclass(frozen=True, slots=True, kw_only=True)
class SpiffeId:
    """An identity. `pool` is set for workers and only for them. Building one checks it (`NameInvalid`)."""

    trust_domain: str
    role: Role
    name: str
    pool: str | None = None

    def __post_init__(self) -> None:
        parse_trust_domain(self.trust_domain)
        parse_name(self.name)
        if self.role not in PEER_ROLES:
            raise NameInvalid(f"a {self.role.value} has no SPIFFE ID")
        if (self.pool is not None) != (self.role is Role.WORKER):
            raise NameInvalid("a worker belongs to one pool, and nobody else to any")
        if self.pool is not None:
            parse_name(self.pool)

    def __str__(self) -> str:
        pool = f"{self.pool}/" if self.pool is not None else ""
        return f"spiffe://{self.trust_domain}/{self.role.value}/{pool}{self.name}"


def parse_spiffe_id(text: str) -> SpiffeId:
    """The identity that the URI names, or `NameInvalid`. `str()` of the answer is the text that came in."""
    if len(text) > _MAX_SPIFFE_ID:
        raise NameInvalid("a SPIFFE ID has at most 2048 characters")
    scheme, _, rest = text.partition("://")
    trust_domain, *segments = rest.split("/")
    match scheme, segments:
        case "spiffe", [Role.CLIENT.value | Role.MASTER.value as role, name]:
            return SpiffeId(trust_domain=trust_domain, role=Role(role), name=name)
        case "spiffe", [Role.WORKER.value, pool, name]:
            return SpiffeId(trust_domain=trust_domain, role=Role.WORKER, pool=pool, name=name)
        case _:
            raise NameInvalid(
                f"{text[:80]!r} is no identity of the form spiffe://DOMAIN/client|worker/POOL|master/NAME"
            )
