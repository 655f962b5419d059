"""Renewing (I/O): a new key and certificate in a bundle that is there, in the order of `gateway.home.issue`.

Trust: the operator is trusted; the files of the bundle are not.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy import Connection

from gateway.home.bundle import CERT, KEY
from gateway.home.issue import PUBLIC, SECRET, Issued, read_path, revoke_undelivered, sign_peer
from gateway.home.session import HomeSession
from gateway.state.database import reading
from pki.errors import CertificateInvalid, InputUnreadable
from pki.files import replace_files
from pki.inventory import (
    CertificateRecord,
    Identity,
    find_certificate,
    find_identity,
    fingerprint_of,
    was_revoked_after,
)
from pki.issue import certificate_pem, serial_hex
from pki.keys import generate_key, key_type, private_key_pem

__all__ = ["BundleInvalid", "renew_bundle"]

_ANEW = "issue a new bundle into another directory (issue-*, --out DIR)"


class BundleInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A directory is not a bundle of this home that can be renewed; the message says why, and the mend."""


def renew_bundle(session: HomeSession, bundle: Path, lifetime: timedelta | None = None) -> Issued:
    """Put a new key and certificate of the same identity, labels, key type and (by default) lifetime into a bundle.

    The certificate that it replaces stays valid until it expires, for connections that are open.

    Raises:
        BundleInvalid: it is no bundle of this home, holds no key, or may not be renewed; also when that came to be so
            while this was under way.
    """
    serial = _serial_in(session, bundle)
    with reading(session.engine) as connection:
        old = _require_renewable(connection, serial, bundle)
    certificate = x509.load_pem_x509_certificate(old.pem.encode())
    kind = key_type(certificate.public_key())
    if old.name is None or kind is None:
        raise BundleInvalid(f"{bundle} is not a client's, worker's or master's bundle; use issue-server for servers")
    owner = Identity(name=old.name, role=old.role, pool=old.pool)
    key = generate_key(kind)
    if lifetime is None:
        lifetime = timedelta(seconds=old.not_after - old.issued_at)
    path, record = sign_peer(session, owner, key.public_key(), lifetime, old.labels)

    def ask_again(connection: Connection) -> None:
        _require_renewable(connection, serial, bundle)

    session.inventory.record(record, ask_again)
    try:
        session.audit("pki.renewed", record, old=old.serial)
        replace_files(
            {
                bundle / KEY: (private_key_pem(key), SECRET),
                bundle / CERT: (certificate_pem(*path), PUBLIC),
            }
        )
    except BaseException:
        revoke_undelivered(session, record)
        raise
    return Issued(record=record, place=bundle)


def _serial_in(session: HomeSession, bundle: Path) -> str:
    """The serial of the bundle's certificate, which is one of this home."""
    place = bundle / CERT
    try:
        leaf = read_path(place)[0]
        has_key = (bundle / KEY).is_file()
    except FileNotFoundError:
        raise BundleInvalid(f"{bundle} is no bundle (no {CERT} in it); name the directory that issue-* made") from None
    except (InputUnreadable, CertificateInvalid) as error:
        raise BundleInvalid(f"{place}: {error}; {_ANEW}") from None
    serial = serial_hex(leaf.serial_number)
    record = session.inventory.by_serial(serial)
    if record is None or record.fingerprint != fingerprint_of(leaf):
        raise BundleInvalid(f"the certificate in {bundle} was not issued by this home; use the home that issued it")
    if not has_key:
        raise BundleInvalid(
            f"{bundle} holds no {KEY}: its key is kept elsewhere; issue again with --csr, into a new directory"
        )
    return serial


def _require_renewable(connection: Connection, serial: str, bundle: Path) -> CertificateRecord:
    """The record of the certificate that is to be renewed, as it stands in this transaction.

    One that expired was passed over by a later `revoke NAME`: then it is no longer to be renewed either.
    """
    record = find_certificate(connection, serial)
    if record is None:
        raise BundleInvalid(f"the certificate in {bundle} is no longer known; restore state.db from a backup")
    if record.revoked_at is not None:
        raise BundleInvalid(f"the certificate in {bundle} was revoked ({record.reason}); {_ANEW}")
    if record.name is None:
        return record
    owner = Identity(name=record.name, role=record.role, pool=record.pool)
    now = find_identity(connection, record.name)
    if now != owner:
        raise BundleInvalid(f"the certificate in {bundle} is for {owner}, and the name is {now}'s by now; {_ANEW}")
    has_expired = record.not_after < int(datetime.now(UTC).timestamp())
    if has_expired and was_revoked_after(connection, record.name, record.issued_at):
        raise BundleInvalid(f"the certificate in {bundle} expired, and {record.name} was revoked since; {_ANEW}")
    return record
