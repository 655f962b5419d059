"""What the issuer is ordered, and what it answers: values and their JSON shapes. Pure.

Trust: an order comes from a data process, which parses what strangers send and may be in a stranger's hands. So its
shape is strict (every key, no other), each text is bounded, and nothing that it says is a permission: the issuer asks
the state for each.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final, TypeVar

from pki.enrolment import TokenReason, parse_token_id
from pki.errors import NameInvalid
from pki.names import PEER_ROLES, Role

__all__ = [
    "Certified",
    "Credentials",
    "Enroll",
    "Given",
    "Order",
    "OrderMalformed",
    "Refusal",
    "Refused",
    "Renew",
    "Result",
    "Unavailable",
    "parse_order",
]

MAX_TEXT: Final = 256
MAX_KEY: Final = 8192
"""Bytes of a SubjectPublicKeyInfo; the largest that anybody uses, of ML-DSA-87, has 2.6 thousand."""
_SERIAL: Final = re.compile(r"(?:[0-9a-f]{2}){1,20}")

T = TypeVar("T")


class OrderMalformed(ValueError):  # noqa: N818 - says what is the case, like every error of ours
    """No order of ours: a bug, or a data process that is not its own master. Nothing of it is quoted."""


class Refusal(StrEnum):
    """Why an order is refused, beside the reasons of `pki.enrolment.TokenReason`."""

    NAME_TAKEN = "name_taken"
    KEY_REFUSED = "key_refused"
    REVOKED = "revoked"
    EXPIRED = "expired"
    UNKNOWN_CERTIFICATE = "unknown_certificate"
    TOO_MANY_VALID = "too_many_valid"
    CREDENTIALS_GIVEN = "credentials_given"
    USER_DISABLED = "user_disabled"


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Which request an order comes from: for the audit log."""

    request_id: str
    source: str
    listener: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Enroll:
    """Certify a key by an enrolment token whose secret was shown. `name` is None when none was given."""

    origin: Origin
    token: str
    role: Role
    name: str | None
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    """Certify a new key for whoever presented the certificate with this serial."""

    origin: Origin
    serial: str
    key: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Give whoever presented the certificate with this serial, which a token gave, the password of its user."""

    origin: Origin
    serial: str


Order = Enroll | Renew | Credentials


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """A certificate and that of its CA, in DER. `repeated`: it was given for the same use before."""

    chain: tuple[bytes, ...]
    serial: str
    name: str
    repeated: bool = False

    def to_wire(self) -> dict[str, object]:
        """``{"chain", "serial", "name", "repeated"}``."""
        chain = [b64encode(one).decode() for one in self.chain]
        return {"chain": chain, "serial": self.serial, "name": self.name, "repeated": self.repeated}


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """The credentials of a user, which are nowhere else."""

    user: str
    password: str = field(repr=False)

    def to_wire(self) -> dict[str, object]:
        """``{"user", "password"}``."""
        return {"user": self.user, "password": self.password}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """It may not be. The reason is for the audit log."""

    reason: TokenReason | Refusal

    def to_wire(self) -> dict[str, object]:
        """``{"refused"}``."""
        return {"refused": self.reason.value}


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """It cannot be now; nothing of it was done."""

    what: str

    def to_wire(self) -> dict[str, object]:
        """``{"unavailable"}``."""
        return {"unavailable": self.what}


Result = Certified | Given | Refused | Unavailable


def parse_order(value: Mapping[str, object]) -> Order:
    """The order that the JSON object says.

    Raises:
        OrderMalformed: it says none, or more than one.
    """
    kind = value.get("kind")
    readers = _SHAPES.get(kind) if isinstance(kind, str) else None
    if readers is None:
        raise OrderMalformed("an order of no known kind")
    make, keys = readers
    if value.keys() != keys | _COMMON:
        raise OrderMalformed("an order with other keys than its kind has")
    origin = Origin(
        request_id=_text(value["request_id"]), source=_text(value["source"]), listener=_text(value["listener"])
    )
    return make(origin, value)


def _enroll(origin: Origin, value: Mapping[str, object]) -> Enroll:
    return Enroll(
        origin=origin,
        token=_read(parse_token_id, _text(value["token"])),
        role=_read(_role, _text(value["role"])),
        name=_text(value["name"], least=0) or None,
        key=_key(value["key"]),
    )


def _renew(origin: Origin, value: Mapping[str, object]) -> Renew:
    return Renew(origin=origin, serial=_serial(value["serial"]), key=_key(value["key"]))


def _credentials(origin: Origin, value: Mapping[str, object]) -> Credentials:
    return Credentials(origin=origin, serial=_serial(value["serial"]))


_COMMON: Final = frozenset({"kind", "request_id", "source", "listener"})
_SHAPES: Final[Mapping[str, tuple[Callable[[Origin, Mapping[str, object]], Order], frozenset[str]]]] = {
    "enroll": (_enroll, frozenset({"token", "role", "name", "key"})),
    "renew": (_renew, frozenset({"serial", "key"})),
    "credentials": (_credentials, frozenset({"serial"})),
}


def _text(value: object, *, least: int = 1) -> str:
    if not isinstance(value, str) or not least <= len(value) <= MAX_TEXT:
        raise OrderMalformed("an order with a text that is none, or too long")
    return value


def _serial(value: object) -> str:
    text = _text(value)
    if _SERIAL.fullmatch(text) is None:
        raise OrderMalformed("an order with a serial number that is none")
    return text


def _key(value: object) -> bytes:
    if isinstance(value, str) and len(value) <= 2 * MAX_KEY:
        try:
            key = b64decode(value, validate=True)
        except (binascii.Error, ValueError):
            pass
        else:
            # One encoding for one key: bits that Base64 throws away say nothing (RFC 4648 section 3.5).
            if 0 < len(key) <= MAX_KEY and b64encode(key).decode() == value:
                return key
    raise OrderMalformed("an order with a key that is no Base64, or too long")


def _role(text: str) -> Role:
    role = Role(text)
    if role not in PEER_ROLES:
        raise ValueError
    return role


def _read(read: Callable[[str], T], text: str) -> T:
    try:
        return read(text)
    except (ValueError, NameInvalid):
        raise OrderMalformed("an order with a word that it cannot have") from None
