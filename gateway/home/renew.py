"""Renewing (I/O): a new key and certificate in a bundle that is there, in the order of `gateway.home.issue`.

Trust: the operator is trusted; the files of the bundle are not.
"""

from __future__ import annotations

import os
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_never

from cryptography import x509
from sqlalchemy import Connection

from gateway.home.claim import Hindrance, judge_renewal
from gateway.home.issue import Issued, read_path, revoke_undelivered, sign_peer
from gateway.home.session import HomeSession
from gateway.state.database import reading
from pki.csr import parse_request
from pki.errors import CertificateInvalid, InputUnreadable
from pki.inventory import (
    CertificateRecord,
    Identity,
    find_certificate,
    find_identity,
    fingerprint_of,
)
from pki.issue import serial_hex
from rhttp.worker.renewal import Certified, renew_files
from rhttp.worker.versions import CERT, KEY

__all__ = ["BundleEnded", "BundleInvalid", "bundle_end", "bundles_of", "present_in", "renew_bundle"]

_ANEW = "issue a new bundle into another directory (issue-*, --out DIR)"


class BundleInvalid(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A directory is not a bundle of this home that can be renewed; the message says why, and the mend."""


class BundleEnded(BundleInvalid):
    """It was one, and was ended on purpose: revoked, or its name is somebody else's by now."""


def bundles_of(session: HomeSession) -> list[Path]:
    """The bundles that lie where `issue-*` puts them, by name. One that was put elsewhere (``--out``) is not known."""
    with suppress(FileNotFoundError):
        return sorted(path for path in session.home.bundles.iterdir() if os.path.lexists(path / CERT))
    return []


def bundle_end(session: HomeSession, bundle: Path) -> int:
    """When the certificate in a bundle of this home expires, in epoch seconds.

    Raises:
        BundleInvalid: see `renew_bundle`.
    """
    return present_in(session, bundle)[1].not_after


def renew_bundle(
    session: HomeSession, bundle: Path, lifetime: timedelta | None = None, csr: bytes | None = None
) -> Issued:
    """Put a new key and certificate of the same identity, labels, key type and (by default) lifetime into a bundle.

    `csr` is the content of a request, whose key is certified instead of a new one. The certificate that is replaced
    stays valid until it expires, for connections that are open.

    Raises:
        BundleInvalid: it is no bundle of this home, holds no key (or another than the request's), or may not be
            renewed; also when that came to be so while this was under way.
        RequestInvalid: the request is not to be signed.
    """
    (leaf, *_), found = present_in(session, bundle)
    _require_key(bundle, leaf, csr)
    serial = found.serial
    with reading(session.engine) as connection:
        old = _require_renewable(connection, serial, bundle)
    if old.name is None:
        raise BundleInvalid(f"{bundle} is not a client's, worker's or master's bundle; use issue-server for servers")
    owner = Identity(name=old.name, role=old.role, pool=old.pool)
    issued: list[CertificateRecord] = []

    def ask_again(connection: Connection) -> None:
        _require_renewable(connection, serial, bundle)

    def obtain(request: bytes) -> Certified:
        lives = timedelta(seconds=old.not_after - old.issued_at) if lifetime is None else lifetime
        path, record = sign_peer(session, owner, parse_request(request), lives, old.labels)
        session.inventory.record(record, ask_again)
        issued.append(record)
        session.audit("pki.renewed", record, old=old.serial)
        return Certified(path=path, trust=session.home.root_cert.read_bytes())

    try:
        renew_files(bundle, leaf, obtain, request=csr)
    except BaseException:
        for record in issued:
            revoke_undelivered(session, record)
        raise
    return Issued(record=issued[0], place=bundle)


def present_in(session: HomeSession, bundle: Path) -> tuple[list[x509.Certificate], CertificateRecord]:
    """The bundle's path, whose first certificate is one of this home, and what is known of that.

    Raises:
        BundleInvalid: it is no bundle of this home.
    """
    place = bundle / CERT
    try:
        path = read_path(place)
    except FileNotFoundError:
        raise BundleInvalid(f"{bundle} is no bundle (no {CERT} in it); name the directory that issue-* made") from None
    except (InputUnreadable, CertificateInvalid) as error:
        raise BundleInvalid(f"{place}: {error}; {_ANEW}") from None
    serial = serial_hex(path[0].serial_number)
    record = session.inventory.by_serial(serial)
    if record is None or record.fingerprint != fingerprint_of(path[0]):
        raise BundleInvalid(f"the certificate in {bundle} was not issued by this home; use the home that issued it")
    return path, record


def _require_key(bundle: Path, leaf: x509.Certificate, csr: bytes | None) -> None:
    has_key = (bundle / KEY).is_file()
    if csr is None and not has_key:
        raise BundleInvalid(
            f"{bundle} holds no {KEY}: its key is kept elsewhere; make a request with it or with a new key there, "
            "and renew with --csr FILE"
        )
    if csr is not None and has_key and parse_request(csr) != leaf.public_key():
        raise BundleInvalid(
            f"{bundle} holds a {KEY}, and the request is for another key; renew without --csr, or take that file away"
        )


def _require_renewable(connection: Connection, serial: str, bundle: Path) -> CertificateRecord:
    """The record of the certificate that is to be renewed, as it stands in this transaction.

    One that expired was passed over by a later `revoke NAME`: then it is no longer to be renewed either.
    """
    record = find_certificate(connection, serial)
    if record is None:
        raise BundleInvalid(f"the certificate in {bundle} is no longer known; restore state.db from a backup")
    match judge_renewal(connection, record, int(datetime.now(UTC).timestamp())):
        case None:
            return record
        case Hindrance.REVOKED:
            raise BundleEnded(f"the certificate in {bundle} was revoked ({record.reason}); {_ANEW}")
        case Hindrance.NAME_TAKEN:
            assert record.name is not None
            owner = Identity(name=record.name, role=record.role, pool=record.pool)
            now = find_identity(connection, record.name)
            raise BundleEnded(f"the certificate in {bundle} is for {owner}, and the name is {now}'s by now; {_ANEW}")
        case Hindrance.NAME_REVOKED:
            raise BundleEnded(f"the certificate in {bundle} expired, and {record.name} was revoked since; {_ANEW}")
        case unreachable:
            assert_never(unreachable)
