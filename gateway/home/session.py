"""A home open for a command of an operator, or for the issuer (I/O): its state, authorities and audit log.

Trust: the operator is trusted; what commands read from elsewhere is not, and is checked where it is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from datetime import datetime
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.hashes import SHA256

from gateway.home.certificate_health import authority_warning
from gateway.home.issuance_log import audit_certificate
from gateway.home.layout import Home, HomeInvalid
from gateway.state.database import COMMAND_PATIENCE, bump, check_schema, open_state
from pki.authority import Authority
from pki.errors import PkiError
from pki.inventory import CertificateRecord, Identity, Inventory
from pki.issue import IssuerKey, serial_hex
from pki.keys import load_private_key, seal
from pki.names import Role
from pki.pem import read_certificates

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from auth.store import UserStore
    from gateway.state.tokens import TokenStore

__all__ = ["GatewayUnreachable", "HomeSession"]


class GatewayUnreachable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """What was asked is written, but the running gateway did not confirm that it took it up."""


class HomeSession:
    """One home, open; a context manager that lets the state go at the end."""

    def __init__(
        self,
        home: Home,
        passphrase: bytes | None,
        *,
        locks_out: bool = False,
        patience: float = COMMAND_PATIENCE,
    ) -> None:
        """Raises `HomeInvalid` or `StateUnavailable` when the home cannot be worked with. No key is opened yet.

        A command that ``locks_out`` somebody does not hang on a ``gateway.toml`` that is being edited: it goes on by
        what the home was last used with, and `warning` says so. ``patience``: see `open_state`.
        """
        self.home = home
        self.warning: str | None = None
        try:
            home.require()
            self.basics = home.basics()
        except HomeInvalid as error:
            if not locks_out:
                raise
            home.require(with_config=False)
            self.basics = home.last_basics()
            self.warning = f"{error} (going on by what this home was last used with)"
        else:
            home.remember(self.basics.state_url)
        self._passphrase = passphrase
        self.engine = open_state(home, self.basics.state_url, patience=patience)
        try:
            check_schema(self.engine)
        except BaseException:
            self.engine.dispose()
            raise
        self.inventory = Inventory(self.engine, on_write=bump)
        self._signing: Ed25519PrivateKey | None = None

    def __enter__(self) -> HomeSession:
        return self

    def __exit__(self, *_: object) -> None:
        self.engine.dispose()

    def authority(self, role: Role) -> Authority:
        """The issuing CA of a role, its key unsealed."""
        key = self.home.read_secret(self.home.ca_key(role), self._passphrase)
        certificate, pointers = self.home.ca_cert(role).read_bytes(), self.basics.pointers(role)
        return Authority.from_pem(role, certificate=certificate, key=key, pointers=pointers)

    def ending_authority(self, role: Role, at: datetime) -> str | None:
        """What is to be said of a role's CA that will soon end, or has ended."""
        (certificate,) = read_certificates(self.home.ca_cert(role).read_bytes(), what=f"file of the {role.value} CA")
        return authority_warning(role.value, certificate, at)

    def served_serial(self) -> str | None:
        """The serial number of the server certificate in the home; None when it cannot be told."""
        try:
            found = read_certificates(self.home.server_cert.read_bytes())
        except (OSError, PkiError):
            return None
        return serial_hex(found[0].serial_number)

    def root(self) -> IssuerKey:
        """The root, its key unsealed."""
        key = load_private_key(self.home.read_secret(self.home.root_key, self._passphrase))
        found = read_certificates(self.home.root_cert.read_bytes(), what="file of the root")
        return IssuerKey(certificate=found[0], key=key)

    def root_fingerprint(self) -> str:
        """SHA-256 of the root's DER, in hex: what a machine that enrols is told to expect."""
        (certificate,) = read_certificates(self.home.root_cert.read_bytes(), what="file of the root")
        return certificate.fingerprint(SHA256()).hex()

    def users(self, *, with_key: bool = True) -> UserStore:
        """The Digest users, with the key that opens their credentials unless that is not needed."""
        from auth.store import UserStore

        return UserStore(
            self.engine,
            self.state_key() if with_key else None,
            self.basics.realm,
            bump,
            algorithms=self.basics.algorithms,
        )

    def tokens(self) -> TokenStore:
        """The enrolment tokens."""
        from gateway.state.tokens import TokenStore

        return TokenStore(self.engine, bump)

    def state_key(self) -> bytes:
        """The key under which credentials are sealed in the state, itself unsealed."""
        return self.home.read_secret(self.home.state_key, self._passphrase)

    def seal_like_home(self, secret: bytes) -> bytes:
        """The content for a key file of this home: sealed when the others are."""
        return seal(secret, self._passphrase) if self._passphrase and self.home.is_sealed() else secret

    def audit(
        self,
        event: str,
        record: CertificateRecord,
        *,
        reason: str | None = None,
        old: str | None = None,
        formerly: Identity | None = None,
    ) -> None:
        """One line in the audit log: see `audit_certificate`."""
        key = self.checkpoint_key()
        audit_certificate(self.home, event, record, key=key, reason=reason, old=old, formerly=formerly)

    def audit_revoked(self, records: Sequence[CertificateRecord], reason: str) -> None:
        """A line for each certificate that was revoked. The last is signed, and by it all: a signature covers what
        comes before."""
        key = self.checkpoint_key()
        for record in records:
            is_last = record is records[-1]
            audit_certificate(self.home, "pki.revoked", record, key=key, reason=reason, sign=is_last)

    def checkpoint_key(self) -> Ed25519PrivateKey | None:
        """The key that signs checkpoints when the passphrase for it was given; None: it is not sealed, or stays so.

        A passphrase that does not open it refuses nothing here: what locks somebody out never hangs on it.
        """
        if self._passphrase is None:
            return None
        if self._signing is None:
            from gateway.audit.checkpoints import parse_signing_key
            from gateway.home.layout import HomeInvalid

            with suppress(HomeInvalid):
                self._signing = parse_signing_key(self.home.read_secret(self.home.checkpoint_key, self._passphrase))
        return self._signing

    def tell_gateway(self, path: str) -> int | None:
        """Have the running gateway do what `path` of its admin socket says; wait until it has.

        Returns how many connections were cut, None when no gateway runs.

        Raises:
            GatewayUnreachable: one runs but did not confirm.
        """
        from gateway.admin.client import AdminFailed, call

        try:
            answer = call(self.home.path, "POST", path, {})
        except AdminFailed as error:
            raise GatewayUnreachable(
                f"the change is written, but the running gateway did not confirm it: {error}"
            ) from None
        if answer is None:
            return None
        cut = answer.get("cut", 0)
        return cut if isinstance(cut, int) else 0
