"""The inventory: who may hold certificates, and every certificate that was issued (I/O: SQLAlchemy Core).

It works on an engine given to it and makes no tables. `on_write` is called once inside every transaction that writes.
Two writers at the same time are safe when transactions start with the write lock (SQLite: BEGIN IMMEDIATE) or, as in
PostgreSQL, `on_write` locks a common row before anything is read; every writing method therefore calls it first. What
was decided before such a transaction is asked again inside it, by the functions here that take a connection.

Reads carry the execution option ``rhttp_read_only``, by which an engine may start them without the write lock.

Trust: trusts the database. Failures of the database come out as SQLAlchemy raises them.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from sqlalchemy import ColumnElement, Connection, Engine, Row, Select, bindparam, func, insert, select, update

from pki.errors import StoreError
from pki.issue import serial_hex
from pki.names import Role
from pki.revocation import RevocationReason, RevokedEntry
from pki.selection import Selection
from pki.tables import authorities, certificates, identities

__all__ = [
    "AuthorityRecord",
    "CertificateRecord",
    "Identity",
    "Inventory",
    "NameTaken",
    "RevokedMeanwhile",
    "UnknownCertificate",
    "count_revocations",
    "count_valid",
    "enter_certificate",
    "find_certificate",
    "find_identity",
    "fingerprint_of",
    "require_free",
    "revoked_since",
    "was_revoked_after",
]


class NameTaken(StoreError):  # noqa: N818 - says what is the case, like every error of ours
    """The name is in use for another role or pool in this home."""


class RevokedMeanwhile(StoreError):  # noqa: N818
    """A certificate was revoked while another was being made that must not come after it."""


class UnknownCertificate(StoreError):  # noqa: N818
    """No certificate of that name or serial was issued here."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A name with its role and, for a worker, its pool."""

    name: str
    role: Role
    pool: str | None = None

    def __str__(self) -> str:
        return f"{self.role.value}/{self.name}" if self.pool is None else f"{self.role.value}/{self.pool}/{self.name}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateRecord:
    """A certificate that was issued. Times are whole seconds since the epoch; `name` is None for a server's."""

    serial: str
    name: str | None
    role: Role
    pool: str | None
    labels: Mapping[str, str] = field(default_factory=dict)
    fingerprint: str
    issuer: str
    not_before: int
    not_after: int
    pem: str = field(repr=False)
    issued_at: int
    revoked_at: int | None = None
    reason: str | None = None

    @classmethod
    def build(
        cls,
        certificate: x509.Certificate,
        *,
        issuer: x509.Certificate,
        role: Role,
        owner: Identity | None,
        labels: Mapping[str, str],
        at: int,
    ) -> CertificateRecord:
        """The record of a certificate just signed; that it says what `owner` and `role` say is the caller's promise."""
        return cls(
            serial=serial_hex(certificate.serial_number),
            name=owner.name if owner else None,
            role=role,
            pool=owner.pool if owner else None,
            labels=labels,
            fingerprint=fingerprint_of(certificate),
            issuer=fingerprint_of(issuer),
            not_before=int(certificate.not_valid_before_utc.timestamp()),
            not_after=int(certificate.not_valid_after_utc.timestamp()),
            pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
            issued_at=at,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorityRecord:
    """A root or issuing CA of this home; `role` is ``root`` or a `Role`'s value."""

    fingerprint: str
    role: str
    not_before: int
    not_after: int
    pem: str = field(repr=False)


def fingerprint_of(certificate: x509.Certificate) -> str:
    """SHA-256 of the DER in lower-case hex."""
    return certificate.fingerprint(SHA256()).hex()


# Made once: to put a statement together takes longer than to execute it, and issuing asks for all of these.
_IDENTITY = select(identities.c.role, identities.c.pool).where(identities.c.name == bindparam("who"))
_CERTIFICATE = select(certificates).where(certificates.c.serial == bindparam("is_serial"))
_COUNT = select(func.count()).select_from(certificates)
_REVOCATIONS = _COUNT.where(certificates.c.name == bindparam("who"), certificates.c.revoked_at.is_not(None))
_AUTHORITY = select(authorities.c.role).where(authorities.c.fingerprint == bindparam("is_fingerprint"))
_ENTER = insert(certificates)


class Inventory:
    """Reads and writes the inventory of one home. Every method is one transaction."""

    __slots__ = ("_engine", "_on_write")

    def __init__(self, engine: Engine, *, on_write: Callable[[Connection], None]) -> None:
        self._engine = engine
        self._on_write = on_write

    def add_authority(self, certificate: x509.Certificate, *, role: Role | None) -> None:
        """Enter a CA (role None: the root)."""
        with self._engine.begin() as connection:
            self._on_write(connection)
            connection.execute(
                insert(authorities).values(
                    fingerprint=fingerprint_of(certificate),
                    role=role.value if role else "root",
                    not_before=int(certificate.not_valid_before_utc.timestamp()),
                    not_after=int(certificate.not_valid_after_utc.timestamp()),
                    pem=certificate.public_bytes(Encoding.PEM).decode("ascii"),
                )
            )

    def authorities(self) -> tuple[AuthorityRecord, ...]:
        """The root and the issuing CAs, by role."""
        columns = authorities.c
        query = select(columns.fingerprint, columns.role, columns.not_before, columns.not_after, columns.pem)
        with self._reading() as connection:
            rows = connection.execute(query.order_by(columns.role, columns.not_before)).all()
        return tuple(AuthorityRecord(**row._mapping) for row in rows)

    def _reading(self) -> Connection:
        return self._engine.connect().execution_options(rhttp_read_only=True)

    def find(self, name: str) -> Identity | None:
        """Whose the name is, or was last; None when nobody ever had it."""
        with self._reading() as connection:
            return find_identity(connection, name)

    def require_free(self, owner: Identity, *, at: int) -> None:
        """`require_free` as of now; `record` asks again, in its transaction."""
        with self._reading() as connection:
            require_free(connection, owner, at)

    def record(self, record: CertificateRecord, also: Callable[[Connection], None] | None = None) -> None:
        """Enter a certificate, and whose its name is from now on.

        `also` comes first in the same transaction, and may do more or refuse: what it raises undoes all.

        Raises:
            NameTaken: a certificate of the name, for another role or pool, is valid.
            UnknownCertificate: the CA is not in the inventory.
        """
        with self._engine.begin() as connection:
            self._on_write(connection)
            if also is not None:
                also(connection)
            enter_certificate(connection, record)

    def revoke(self, selection: Selection, *, reason: str, at: int) -> tuple[CertificateRecord, ...]:
        """Revoke what `affected` tells, in one transaction; the records are as they were before.

        What is revoked already keeps its time and reason.

        Raises:
            UnknownCertificate: there is no such certificate, expired or not.
        """
        with self._engine.begin() as connection:
            self._on_write(connection)
            affected = _affected(connection, selection, at)
            if affected:
                change = update(certificates).where(certificates.c.serial == bindparam("which"))
                rows = [{"which": record.serial} for record in affected]
                connection.execute(change.values(revoked_at=at, reason=reason), rows)
        return affected

    def affected(self, selection: Selection, *, at: int) -> tuple[CertificateRecord, ...]:
        """What `revoke` would revoke now: of the certificates selected those that have not expired, nor are revoked.

        One that is named by its serial may have expired. Of a name whose certificates have all expired it is the
        newest, so that the name's end is written down.

        Raises:
            UnknownCertificate: there is no such certificate, expired or not.
        """
        with self._reading() as connection:
            return _affected(connection, selection, at)

    def by_serial(self, serial: str) -> CertificateRecord | None:
        """The certificate with this serial (lower-case hex), or None."""
        with self._reading() as connection:
            return find_certificate(connection, serial)

    def certificates(
        self, *, name: str | None = None, role: Role | None = None, valid_at: int | None = None
    ) -> tuple[CertificateRecord, ...]:
        """Certificates by name, role and (`valid_at`) not expired then; the newest of a name first, server's first."""
        query = select(certificates)
        if name is not None:
            query = query.where(certificates.c.name == name)
        if role is not None:
            query = query.where(certificates.c.role == role.value)
        if valid_at is not None:
            query = query.where(certificates.c.not_after >= valid_at)
        # Databases differ in where NULLs sort, so the server's (without a name) are told apart by role.
        order = (
            certificates.c.role != Role.SERVER.value,
            certificates.c.name,
            certificates.c.issued_at.desc(),
            certificates.c.serial,
        )
        with self._reading() as connection:
            return tuple(_records(connection, query.order_by(*order)))

    def revoked_by(self, issuer: str, *, valid_at: int) -> tuple[RevokedEntry, ...]:
        """What the revocation list of a CA (its fingerprint) names, by serial: the revoked that had not expired then.

        ValueError for a reason that no list can say.
        """
        columns = certificates.c
        query = select(columns.serial, columns.revoked_at, columns.reason).where(
            columns.issuer == issuer, columns.revoked_at.is_not(None), columns.not_after >= valid_at
        )
        with self._reading() as connection:
            rows = connection.execute(query.order_by(columns.serial)).all()
        return tuple(
            RevokedEntry(
                serial=int(serial, 16),
                revoked_at=datetime.fromtimestamp(revoked_at, UTC),
                reason=RevocationReason(reason),
            )
            for serial, revoked_at, reason in rows
        )

    def next_crl_number(self, issuer: str) -> int:
        """A number for a revocation list of this CA that was never given before (RFC 5280 §5.2.3).

        Raises:
            UnknownCertificate: the CA is not in the inventory.
        """
        is_meant = _is_authority(issuer)
        with self._engine.begin() as connection:
            self._on_write(connection)
            connection.execute(update(authorities).where(is_meant).values(crl_number=authorities.c.crl_number + 1))
            number = connection.execute(select(authorities.c.crl_number).where(is_meant)).scalar()
        if number is None:
            raise _unknown_authority(issuer)
        return int(number)


def enter_certificate(connection: Connection, record: CertificateRecord) -> None:
    """What `Inventory.record` does, with what it raises, in a transaction for which `on_write` was called."""
    if record.name is not None:
        _enter(connection, Identity(name=record.name, role=record.role, pool=record.pool), record.issued_at)
    if connection.execute(_AUTHORITY, {"is_fingerprint": record.issuer}).first() is None:
        raise _unknown_authority(record.issuer)
    connection.execute(_ENTER, _values(record))


def _is_authority(fingerprint: str) -> ColumnElement[bool]:
    return authorities.c.fingerprint == fingerprint


def _unknown_authority(fingerprint: str) -> UnknownCertificate:
    return UnknownCertificate(f"the CA {fingerprint} is not in the inventory; enter it with: rhttp-pki db upgrade")


def _affected(connection: Connection, selection: Selection, at: int) -> tuple[CertificateRecord, ...]:
    query = select(certificates).where(selection.condition()).order_by(certificates.c.not_after, certificates.c.serial)
    found = [record for record in _records(connection, query) if selection.has_labels(record.labels)]
    if not found:
        raise UnknownCertificate(
            f"no certificate with the {selection} was issued in this home; `rhttp-pki list --all` shows what was"
        )
    alive = [record for record in found if record.not_after >= at]
    if selection.serial is not None:
        alive = found
    elif selection.name is not None:
        alive = alive or found[-1:]
    return tuple(record for record in alive if record.revoked_at is None)


def find_identity(connection: Connection, name: str) -> Identity | None:
    """`Inventory.find` in the transaction of the connection."""
    row = connection.execute(_IDENTITY, {"who": name}).one_or_none()
    return None if row is None else Identity(name=name, role=Role(row[0]), pool=row[1])


def find_certificate(connection: Connection, serial: str) -> CertificateRecord | None:
    """`Inventory.by_serial` in the transaction of the connection."""
    row = connection.execute(_CERTIFICATE, {"is_serial": serial}).one_or_none()
    return None if row is None else _record(row)


def revoked_since(connection: Connection, name: str, before: int) -> bool:
    """Whether a certificate of the name was revoked since `count_revocations` answered `before`."""
    return count_revocations(connection, name) != before


def was_revoked_after(connection: Connection, name: str, at: int) -> bool:
    """Whether a certificate of the name was revoked at this time or later."""
    is_meant = (certificates.c.name == name) & (certificates.c.revoked_at >= at)
    return connection.execute(select(certificates.c.serial).where(is_meant).limit(1)).first() is not None


def count_revocations(connection: Connection, name: str) -> int:
    """How many certificates of the name were revoked so far: see `revoked_since`."""
    return int(connection.execute(_REVOCATIONS, {"who": name}).scalar_one())


def _enter(connection: Connection, owner: Identity, at: int) -> None:
    there = require_free(connection, owner, at)
    row = {"role": owner.role.value, "pool": owner.pool, "created_at": at}
    if there is None:
        connection.execute(insert(identities), {"name": owner.name, **row})
    elif there != owner:
        connection.execute(update(identities).where(identities.c.name == owner.name).values(**row))


def require_free(connection: Connection, wanted: Identity, at: int) -> Identity | None:
    """Whose the name is now; `NameTaken` when a certificate of it, for another role or pool, is valid at this time."""
    there = find_identity(connection, wanted.name)
    if there is None or there == wanted:
        return there
    if connection.execute(select(certificates.c.serial).where(_is_valid(wanted.name, at)).limit(1)).first() is not None:
        raise NameTaken(
            f"the name {wanted.name} belongs to {there} and cannot be {wanted}; choose another name, or end that one: "
            f"rhttp-pki revoke {wanted.name}, and if it has a Digest user: rhttp-pki user remove {wanted.name}"
        )
    return there


def count_valid(connection: Connection, name: str, at: int) -> int:
    """How many certificates of the name are valid at this time."""
    return int(connection.execute(_COUNT.where(_is_valid(name, at))).scalar_one())


def _is_valid(name: str, at: int) -> ColumnElement[bool]:
    return (certificates.c.name == name) & certificates.c.revoked_at.is_(None) & (certificates.c.not_after >= at)


def _records(connection: Connection, query: Select[tuple[object, ...]]) -> list[CertificateRecord]:
    return [_record(row) for row in connection.execute(query)]


def _record(row: Row[tuple[object, ...]]) -> CertificateRecord:
    values = dict(row._mapping)
    values["role"] = Role(values["role"])
    values["labels"] = json.loads(values["labels"])
    return CertificateRecord(**values)


def _values(record: CertificateRecord) -> dict[str, object]:
    values: dict[str, object] = {field.name: getattr(record, field.name) for field in fields(record)}
    return values | {"role": record.role.value, "labels": json.dumps(dict(record.labels), sort_keys=True)}
