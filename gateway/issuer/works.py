"""What becomes of one order, step by step (I/O in the transactions that it is given): look, sign, look again and enter.

Trust: orders are not trusted; the state and whoever signs are.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from datetime import timedelta
from hashlib import sha256
from typing import Final, Protocol, assert_never

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import Connection

from auth.passwords import GENERATED_ENTROPY, build_password
from auth.store import UserStore, is_enabled
from gateway.home.claim import Claim, Hindrance, judge_renewal
from gateway.home.issuance_log import certificate_fields
from gateway.issuer.orders import (
    Certified,
    Credentials,
    Enroll,
    Given,
    Origin,
    Refusal,
    Renew,
    Result,
)
from gateway.state.tokens import check_use, find_token, take_credentials, take_use
from pki.csr import parse_key_info
from pki.enrolment import EnrolmentToken, TokenReason, Wanted
from pki.errors import NameInvalid, RequestInvalid
from pki.inventory import (
    CertificateRecord,
    Identity,
    count_valid,
    enter_certificate,
    find_certificate,
)
from pki.keys import PublicKey
from pki.profiles import LEAF_PROFILES

__all__ = [
    "MAX_VALID",
    "Enrolment",
    "Line",
    "Password",
    "Refuse",
    "Renewal",
    "Work",
    "certified_path",
    "counted",
    "require_valid",
]

MAX_VALID: Final = 16
"""Certificates of one name that are valid at the same time; a renewal beyond is refused."""
_HASH_DIGITS: Final = 10
_MAX_NAME: Final = 63


Line = tuple[str, dict[str, object]]
"""Event and fields of an audit line."""


class Signing(Protocol):
    """Who signs: the issuer, with its keys."""

    def certify(
        self, owner: Identity, key: PublicKey, labels: Mapping[str, str], lifetime: timedelta | None, /
    ) -> tuple[Certified, CertificateRecord]:
        """Sign; nothing is entered anywhere."""

    def again(self, connection: Connection, serial: str, at: int, /) -> Certified:
        """The certificate that a use of a token gave before."""

    def users(self) -> UserStore:
        """The users, for new passwords."""


class Refuse(Exception):  # noqa: N818
    """Ends what is done for one order, and undoes it."""

    def __init__(self, reason: TokenReason | Refusal) -> None:
        super().__init__(reason.value)
        self.reason = reason


class Work(ABC):
    """One order on its way."""

    def __init__(self, issuer: Signing, origin: Origin) -> None:
        self.result: Result | None = None
        self.is_undone = False
        """Its result is not committed."""
        self._issuer = issuer
        self._origin = origin

    @abstractmethod
    def look(self, connection: Connection, at: int) -> Result | None:
        """What can be said before anything is signed; None: nothing."""

    @abstractmethod
    def sign(self) -> None:
        """Make what will be entered."""

    @abstractmethod
    def enter(self, connection: Connection, at: int) -> tuple[Result, Line | None]:
        """Look again, enter it, and say what the log is to tell."""

    def _line(self, event: str, fields: Mapping[str, object]) -> Line:
        origin = self._origin
        told = {"request_id": origin.request_id, "source": origin.source, "listener": origin.listener}
        return event, told | dict(fields)


class Enrolment(Work):
    def __init__(self, issuer: Signing, order: Enroll) -> None:
        super().__init__(issuer, order.origin)
        self._order = order
        self._key_hash = sha256(order.key).hexdigest()
        self._key: PublicKey
        self._token: EnrolmentToken
        self._wanted: Wanted
        self._claim: Claim
        self._made: tuple[Certified, CertificateRecord]

    def look(self, connection: Connection, at: int) -> Result | None:
        self._key = _key(self._order.key)
        token = find_token(connection, self._order.token)
        if token is None:
            raise Refuse(TokenReason.UNKNOWN)
        self._token = token
        try:
            self._wanted = Wanted(role=self._order.role, name=self._name(token), pool=token.pool)
        except NameInvalid:
            raise Refuse(TokenReason.WRONG_NAME) from None
        serial = check_use(connection, token.id, self._wanted, key_hash=self._key_hash, at=at)
        if serial is not None:
            return self._issuer.again(connection, serial, at)
        try:
            self._claim = Claim(connection, self._owner(), at=at)
        except NameInvalid:
            raise Refuse(Refusal.NAME_TAKEN) from None
        return None

    def _name(self, token: EnrolmentToken) -> str:
        if self._order.name is not None:
            return self._order.name
        if token.name is not None:
            return token.name
        prefix = f"{token.role.value}-" if token.name_prefix is None else token.name_prefix
        return f"{prefix}{self._key_hash[:_HASH_DIGITS]}"[:_MAX_NAME]

    def _owner(self) -> Identity:
        return Identity(name=self._wanted.name, role=self._token.role, pool=self._token.pool)

    def sign(self) -> None:
        self._made = self._issuer.certify(self._owner(), self._key, self._token.labels, None)

    def enter(self, connection: Connection, at: int) -> tuple[Result, Line | None]:
        certified, record = self._made
        use = take_use(
            connection,
            self._token.id,
            self._wanted,
            key_hash=self._key_hash,
            serial=record.serial,
            at=at,
            on_write=counted,
        )
        if use.repeated:  # the same was ordered twice at once
            return self._issuer.again(connection, use.serial, at), None
        self._claim.check(connection)
        enter_certificate(connection, record)
        fields = certificate_fields(record, formerly=self._claim.formerly, token=self._token.id)
        return certified, self._line("pki.issued", fields)


class Renewal(Work):
    def __init__(self, issuer: Signing, order: Renew) -> None:
        super().__init__(issuer, order.origin)
        self._order = order
        self._key: PublicKey
        self._old: CertificateRecord
        self._made: tuple[Certified, CertificateRecord]

    def look(self, connection: Connection, at: int) -> Result | None:
        self._key = _key(self._order.key)
        self._old = self._renewable(connection, at)
        return None

    def _renewable(self, connection: Connection, at: int) -> CertificateRecord:
        record = find_certificate(connection, self._order.serial)
        if record is None or record.name is None:
            raise Refuse(Refusal.UNKNOWN_CERTIFICATE)
        require_valid(record, at)
        match judge_renewal(connection, record, at):
            case None:
                pass
            case Hindrance.NAME_TAKEN:
                raise Refuse(Refusal.NAME_TAKEN)
            case Hindrance.REVOKED | Hindrance.NAME_REVOKED:
                raise Refuse(Refusal.REVOKED)
            case unreachable:
                assert_never(unreachable)
        if count_valid(connection, record.name, at) >= MAX_VALID:
            raise Refuse(Refusal.TOO_MANY_VALID)
        return record

    def sign(self) -> None:
        old = self._old
        assert old.name is not None
        owner = Identity(name=old.name, role=old.role, pool=old.pool)
        lifetime = min(LEAF_PROFILES[old.role].lifetime, timedelta(seconds=old.not_after - old.issued_at))
        self._made = self._issuer.certify(owner, self._key, old.labels, lifetime)

    def enter(self, connection: Connection, at: int) -> tuple[Result, Line | None]:
        certified, record = self._made
        old = self._renewable(connection, at)
        enter_certificate(connection, record)
        return certified, self._line("pki.renewed", certificate_fields(record, old=old.serial))


class Password(Work):
    def __init__(self, issuer: Signing, order: Credentials) -> None:
        super().__init__(issuer, order.origin)
        self._serial = order.serial
        self._users: UserStore

    def look(self, connection: Connection, at: int) -> Result | None:
        return None

    def sign(self) -> None:
        self._users = self._issuer.users()

    def enter(self, connection: Connection, at: int) -> tuple[Result, Line | None]:
        token = take_credentials(connection, self._serial, at=at, on_write=counted)
        record = find_certificate(connection, self._serial)
        if token is None or record is None or record.name is None:
            raise Refuse(Refusal.UNKNOWN_CERTIFICATE)
        require_valid(record, at)
        name, password = record.name, build_password(os.urandom(GENERATED_ENTROPY))
        match is_enabled(connection, name):
            case False:
                raise Refuse(Refusal.USER_DISABLED)
            case True:
                event = "user.password"
                self._users.passwd(name, password, connection=connection)
            case None:
                event = "user.added"
                self._users.add(name, password, role=record.role.value, connection=connection)
        detail = {"user": name, "token": token, "serial": record.serial}
        return Given(user=name, password=password), self._line(event, {"outcome": "done", "detail": detail})


def require_valid(record: CertificateRecord, at: int) -> None:
    if record.revoked_at is not None:
        raise Refuse(Refusal.REVOKED)
    if record.not_after < at:
        raise Refuse(Refusal.EXPIRED)


def _key(data: bytes) -> PublicKey:
    try:
        return parse_key_info(data)
    except RequestInvalid:
        raise Refuse(Refusal.KEY_REFUSED) from None


def certified_path(path: Sequence[x509.Certificate], record: CertificateRecord, *, repeated: bool = False) -> Certified:
    chain = tuple(certificate.public_bytes(Encoding.DER) for certificate in path)
    assert record.name is not None
    return Certified(chain=chain, serial=record.serial, name=record.name, repeated=repeated)


def counted(_connection: Connection) -> None:
    """The transaction of a batch was counted at its beginning."""
