"""Issuing (I/O): what `issue-*` do; `gateway.home.renew` does the same for a bundle that is there.

The order is always the same: refuse what can be refused, sign, enter in the inventory, write the audit line, and only
then let anybody see the result. A certificate that is handed out is therefore always known and can be revoked; one that
could not be handed out is revoked at once.

Others revoke and remove meanwhile. What a certificate is issued upon is therefore asked again in the transaction that
enters it: a `revoke` comes before it, and it is refused, or after it, and catches it.

Trust: the operator is trusted; the files of a bundle and a signing request are not.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from sqlalchemy import Connection

from auth.store import has_user
from gateway.config.address import gateway_url
from gateway.home.claim import Claim
from gateway.home.locks import lock_name
from gateway.home.session import HomeSession
from gateway.state.database import reading
from pki.authority import Authority
from pki.errors import CertificateInvalid, InputUnreadable
from pki.files import Staging, replace_files, staged_directory
from pki.inventory import CertificateRecord, Identity
from pki.issue import certificate_pem
from pki.keys import KeyType, PublicKey, generate_key, key_type, private_key_pem
from pki.names import Role, SpiffeId, parse_san
from pki.pem import read_certificates
from pki.selection import Selection
from pki.signatures import certificate_key
from pki.template import HostName
from rhttp.worker.bundle import PASSWORD, SETTINGS
from rhttp.worker.bundle_texts import CURL, build_certificate_files, build_curl_conf, build_settings
from rhttp.worker.versions import KEY, write_version

__all__ = [
    "PUBLIC",
    "SECRET",
    "IssueOrder",
    "Issued",
    "issue_bundle",
    "issue_server",
    "read_path",
    "revoke_undelivered",
    "served_dns_names",
    "server_names",
    "sign",
    "sign_peer",
]

ALWAYS_NAMED = ("DNS:localhost", "IP:127.0.0.1", "IP:::1")
"""What every server certificate names, whatever is asked for beside it."""
SECRET, PUBLIC = 0o600, 0o644
_MAX_FILE = 1 << 20
# A certificate that was signed but never handed out (RFC 5280 §5.3.1).
_UNDELIVERED = "cessationOfOperation"


@dataclass(frozen=True, slots=True, kw_only=True)
class IssueOrder:
    """What is to be issued: for whom, where to, and how. `csr` is the content of a request, instead of a new key."""

    owner: Identity
    out: Path
    lifetime: timedelta | None = None
    key_type: KeyType = KeyType.P256
    csr: bytes | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    with_user: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """What was issued; `user_kept`: the user was there before, so no password lies in the bundle."""

    record: CertificateRecord
    place: Path
    user_kept: bool = False


class _User:
    """The Digest user of a name: made with its first certificate, left alone afterwards.

    Of a user that is there only a hash of the password is stored, and a new one would break the bundle that holds it.
    """

    __slots__ = ("_owner", "_store", "exists", "password")

    def __init__(self, session: HomeSession, owner: Identity, *, make: bool) -> None:
        # Opened before the transaction: unsealing the state key takes a while, and may be refused.
        self._store = session.users() if make else None
        self._owner = owner
        self.exists = False
        self.password: str | None = None

    def __repr__(self) -> str:
        return f"<user {self._owner.name}>"

    def enter(self, connection: Connection) -> None:
        """Make the user in the transaction that `connection` is in, unless it exists or is not wanted."""
        from auth.passwords import GENERATED_ENTROPY, build_password

        self.exists = has_user(connection, self._owner.name)
        if self._store is None or self.exists:
            return
        password = build_password(os.urandom(GENERATED_ENTROPY))
        self._store.add(self._owner.name, password, role=self._owner.role.value, connection=connection)
        self.exists, self.password = True, password

    def remove(self) -> None:
        """Forget the user if it was made here."""
        if self._store is not None and self.password is not None:
            with suppress(Exception):
                self._store.remove(self._owner.name)


def issue_bundle(session: HomeSession, order: IssueOrder) -> Issued:
    """Issue a certificate, make the Digest user when the name has none, and lay both down as a bundle.

    Raises:
        NameTaken: the name is in use for another role or pool.
        RevokedMeanwhile: the name was revoked, or its user removed, while this was under way.
        NameBusy: another command has been issuing for the name for too long.
        RunFolderUnsafe: others than the owner may enter the home's ``run``.
        DirectoryTaken: the bundle's directory is not empty.
        PkiError: the request or the names are not ones to be signed, or a key is not to be had.
    """
    owner = order.owner
    with reading(session.engine) as connection:
        claim = Claim(connection, owner, at=int(datetime.now(UTC).timestamp()))
    with staged_directory(order.out) as staging:
        public_key, key_pem = _key_for(order)
        path, record = sign_peer(session, owner, public_key, order.lifetime, order.labels)
        user = _User(session, owner, make=order.with_user)

        def enter(connection: Connection) -> None:
            claim.check(connection)
            user.enter(connection)

        # Of two commands at once for a new name one makes the user and has its password; the other, whose bundle relies
        # on that user, sees it only when it stays. All that takes long (keys, unsealing) is done by now.
        with lock_name(session.home.issuing_lock, owner.name):
            session.inventory.record(record, enter)
            try:
                _fill(staging, session, order, path, key_pem, user)
                session.audit("pki.issued", record, formerly=claim.formerly)
                staging.commit()
            except BaseException:
                revoke_undelivered(session, record)
                user.remove()
                raise
    return Issued(record=record, place=order.out, user_kept=order.with_user and user.password is None)


def _key_for(order: IssueOrder) -> tuple[PublicKey, bytes | None]:
    if order.csr is not None:
        from pki.csr import parse_request

        return parse_request(order.csr), None
    key = generate_key(order.key_type)
    return key.public_key(), private_key_pem(key)


def sign_peer(
    session: HomeSession, owner: Identity, public_key: PublicKey, lifetime: timedelta | None, labels: Mapping[str, str]
) -> tuple[tuple[x509.Certificate, ...], CertificateRecord]:
    identity = SpiffeId(trust_domain=session.basics.trust_domain, role=owner.role, name=owner.name, pool=owner.pool)
    return sign(session.authority(owner.role), identity, public_key, lifetime, owner=owner, labels=labels)


def sign(
    authority: Authority,
    subject: SpiffeId | Sequence[HostName],
    public_key: PublicKey,
    lifetime: timedelta | None = None,
    *,
    owner: Identity | None = None,
    labels: Mapping[str, str] | None = None,
    at: datetime | None = None,
) -> tuple[tuple[x509.Certificate, ...], CertificateRecord]:
    """A certificate of this authority: its path, and what is to be entered of it. Without `at` it begins now."""
    at = at or datetime.now(UTC)
    path = authority.issue(subject, public_key=public_key, at=at, entropy=os.urandom, lifetime=lifetime)
    record = CertificateRecord.build(
        path[0], issuer=path[1], role=authority.role, owner=owner, labels=labels or {}, at=int(at.timestamp())
    )
    return path, record


def _fill(
    staging: Staging,
    session: HomeSession,
    order: IssueOrder,
    path: Sequence[x509.Certificate],
    key_pem: bytes | None,
    user: _User,
) -> None:
    files = build_certificate_files(path, session.home.root_cert.read_bytes())
    write_version(staging.path, files if key_pem is None else {**files, KEY: key_pem}, known_as=staging.target)
    if user.password is not None:
        staging.write(PASSWORD, f"{user.password}\n".encode())
    name = order.owner.name if user.exists else None
    curl = build_curl_conf(order.out, user=name, password=user.password, has_key=key_pem is not None)
    staging.write(CURL, curl)
    url = gateway_url(session.basics.listen, served_dns_names(session))
    owner = order.owner
    settings = build_settings(
        gateway=url, pool=owner.pool, name=owner.name, role=owner.role.value, has_user=user.exists
    )
    staging.write(SETTINGS, settings, mode=PUBLIC)


def revoke_undelivered(session: HomeSession, record: CertificateRecord) -> None:
    """Revoke what was signed and not handed out; its key is gone, so when that fails too, little is lost."""
    with suppress(Exception):
        session.inventory.revoke(Selection(serial=record.serial), reason=_UNDELIVERED, at=record.issued_at)


def issue_server(
    session: HomeSession, sans: Sequence[str], lifetime: timedelta | None = None, kind: KeyType | None = None
) -> CertificateRecord:
    """A new key and certificate for the TLS listener, in the home.

    Without `sans` the names of the present one stay, without `kind` the type of its key. When the present one is
    missing or cannot be read, the newest that was issued counts for them. A running gateway
    goes on with the old one until it is told to reload.
    """
    home = session.home
    present = _present_server(session)
    names = server_names(sans) if sans or present is None else _names(present)
    key = generate_key(kind or (present and key_type(certificate_key(present))) or KeyType.P256)
    path, record = sign(session.authority(Role.SERVER), names, key.public_key(), lifetime)
    session.inventory.record(record)
    try:
        session.audit("pki.issued", record)
        replace_files(
            {
                home.server_key: (session.seal_like_home(private_key_pem(key)), SECRET),
                home.server_cert: (certificate_pem(*path), PUBLIC),
            }
        )
    except BaseException:
        revoke_undelivered(session, record)
        raise
    return record


def server_names(sans: Sequence[str]) -> list[HostName]:
    """The names of a server certificate: those that it always has, then the given ones, each once; or `NameInvalid`."""
    return list(dict.fromkeys(parse_san(text) for text in (*ALWAYS_NAMED, *sans)))


def read_path(place: Path) -> list[x509.Certificate]:
    with place.open("rb") as file:
        return read_certificates(file.read(_MAX_FILE))


def _names(certificate: x509.Certificate) -> list[HostName]:
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return [name for name in sans if isinstance(name, x509.DNSName | x509.IPAddress)]


def _present_server(session: HomeSession) -> x509.Certificate | None:
    """The server certificate in the home, else the newest one that was issued."""
    with suppress(OSError, InputUnreadable, CertificateInvalid):
        return read_path(session.home.server_cert)[0]
    for record in session.inventory.certificates(role=Role.SERVER):
        return x509.load_pem_x509_certificate(record.pem.encode())
    return None


def served_dns_names(session: HomeSession) -> list[str]:
    """The DNS names of the server certificate."""
    present = _present_server(session)
    names = server_names(()) if present is None else _names(present)
    return [name.value for name in names if isinstance(name, x509.DNSName)]
