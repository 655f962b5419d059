"""What the issuer does with the state and its keys (I/O): orders in, results out, many in one transaction.

Of all orders that wait, each is looked at in one transaction that reads, signed outside of any, and looked at again in
the one that writes, in a savepoint of its own: what refuses or breaks one undoes nothing of the others. Before it
commits, the audit lines of all are on disk. So a certificate or password that anybody sees is always in the log and in
the state; killed in between, it is in the log alone, and nobody has it.

Trust: the state and the files of the home are trusted, orders are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import assert_never

from cryptography import x509
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from auth.errors import CredentialsUnavailable
from auth.store import UserStore
from gateway.audit.cli_stream import CliStream
from gateway.audit.line import AuditUnavailable
from gateway.config.values import AuditConfig
from gateway.home.issue import sign
from gateway.home.layout import Home, HomeInvalid
from gateway.home.session import HomeSession
from gateway.issuer.orders import (
    Certified,
    Credentials,
    Enroll,
    Order,
    Refusal,
    Refused,
    Renew,
    Result,
    Unavailable,
)
from gateway.issuer.works import (
    Enrolment,
    Line,
    Password,
    Refuse,
    Renewal,
    Work,
    certified_path,
    counted,
    require_valid,
)
from gateway.state.database import GATEWAY_PATIENCE, StateFile, StateUnavailable, bump, reading, unavailable
from gateway.state.tokens import CredentialsGiven
from pki.authority import Authority
from pki.enrolment import TokenRefused
from pki.errors import PkiError
from pki.inventory import (
    CertificateRecord,
    Identity,
    NameTaken,
    RevokedMeanwhile,
    find_certificate,
    fingerprint_of,
)
from pki.keys import PublicKey
from pki.names import PEER_ROLES, Role, SpiffeId

__all__ = ["CannotOpen", "Issuer"]


class CannotOpen(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The home, its state or its issuing keys cannot be opened; the message says what, and the mend."""


class Issuer:
    """One home and the keys of its client, worker and master CAs. All of it blocks; one thread at a time."""

    def __init__(
        self,
        session: HomeSession,
        authorities: Mapping[Role, Authority],
        state_key: bytes,
        say: Callable[[str], None],
    ) -> None:
        """``say`` gets a line for what an operator must mend."""
        self._session = session
        self._authorities = authorities
        self._state_key = state_key
        self._say = say
        self._file = StateFile(session.engine)
        self._log = CliStream(session.home.path, AuditConfig(), say)

    @classmethod
    def open(cls, place: Path, state_url: str, passphrase: bytes | None, say: Callable[[str], None]) -> Issuer:
        """Open the home, whose state must still be where the gateway has it.

        Raises:
            CannotOpen: it cannot be, or one of its keys.
        """
        try:
            session = HomeSession(Home(place), passphrase, patience=GATEWAY_PATIENCE)
        except (HomeInvalid, StateUnavailable, OSError) as error:
            raise CannotOpen(str(error)) from None
        try:
            if session.basics.state_url != state_url:
                raise CannotOpen("state.url is another one than the gateway runs with; put it back, or restart it")
            authorities = {role: session.authority(role) for role in sorted(PEER_ROLES)}
            return cls(session, authorities, session.state_key(), say)
        except (HomeInvalid, PkiError, OSError) as error:
            session.engine.dispose()
            raise CannotOpen(str(error)) from None
        except BaseException:
            session.engine.dispose()
            raise

    def close(self) -> None:
        """Let the state go."""
        self._session.engine.dispose()

    def perform(self, orders: Sequence[Order]) -> list[Result]:
        """What becomes of each, in their order. What is answered with a certificate or password is done for good."""
        works = [self._work(order) for order in orders]
        try:
            self._file.reopen_if_replaced()
            with reading(self._session.engine) as connection:
                at = _now()
                for work in works:
                    self._attempt(work, lambda work=work: work.look(connection, at))  # type: ignore[misc]
            for work in works:
                if work.result is None:
                    self._attempt(work, work.sign)
            if any(work.result is None for work in works):
                self._enter([work for work in works if work.result is None])
        except SQLAlchemyError as error:
            self._fail(works, "state", str(unavailable(error)))
        except AuditUnavailable as error:
            self._fail(works, "audit", str(error))
        return [work.result or Unavailable(what="fault") for work in works]

    def _fail(self, works: Sequence[Work], what: str, message: str) -> None:
        self._say(message)
        for work in works:
            if work.result is None or work.is_undone:
                work.result = Unavailable(what=what)

    def _enter(self, works: Sequence[Work]) -> None:
        lines: list[Line] = []
        are_written = False
        for work in works:
            work.is_undone = True  # until all is committed, whatever its result
        try:
            with self._session.engine.begin() as connection:
                bump(connection)
                at = _now()
                for work in works:
                    self._attempt(work, lambda work=work: self._entered(work, connection, at, lines))  # type: ignore[misc]
                if lines:
                    self._log.append_all(lines)
                    are_written = True
        except SQLAlchemyError:
            if are_written:
                # Whether it was committed is not known when the answer to that was lost; nobody was given anything.
                with suppress(AuditUnavailable):
                    self._log.append_all([_unconfirmed(line) for line in lines])
            raise
        for work in works:
            work.is_undone = False

    @staticmethod
    def _entered(work: Work, connection: Connection, at: int, lines: list[Line]) -> Result:
        with connection.begin_nested():
            result, line = work.enter(connection, at)
        if line is not None:
            lines.append(line)
        return result

    def _attempt(self, work: Work, step: Callable[[], Result | None]) -> None:
        """Take one step for one order; what ends it there is its result."""
        try:
            work.result = step()
        except Refuse as refuse:
            work.result = Refused(reason=refuse.reason)
        except TokenRefused as refused:
            work.result = Refused(reason=refused.reason)
        except NameTaken:
            work.result = Refused(reason=Refusal.NAME_TAKEN)
        except RevokedMeanwhile:
            work.result = Refused(reason=Refusal.REVOKED)
        except CredentialsGiven:
            work.result = Refused(reason=Refusal.CREDENTIALS_GIVEN)
        except (PkiError, CredentialsUnavailable) as error:  # a CA that ends, a CA that is not in the inventory
            self._say(str(error))
            work.result = Unavailable(what="authority")
        except IntegrityError as error:
            self._say(str(unavailable(error)))
            work.result = Unavailable(what="state")
        except SQLAlchemyError:
            raise
        except Exception as error:  # a bug: it may end this order, and no other
            self._say(f"an order failed: {type(error).__name__}")
            work.result = Unavailable(what="fault")

    def _work(self, order: Order) -> Work:
        match order:
            case Enroll():
                return Enrolment(self, order)
            case Renew():
                return Renewal(self, order)
            case Credentials():
                return Password(self, order)
            case unreachable:
                assert_never(unreachable)

    def certify(
        self, owner: Identity, key: PublicKey, labels: Mapping[str, str], lifetime: timedelta | None
    ) -> tuple[Certified, CertificateRecord]:
        """Sign; nothing is entered anywhere."""
        identity = SpiffeId(
            trust_domain=self._session.basics.trust_domain, role=owner.role, name=owner.name, pool=owner.pool
        )
        path, record = sign(self._authorities[owner.role], identity, key, lifetime, owner=owner, labels=labels)
        return certified_path(path, record), record

    def again(self, connection: Connection, serial: str, at: int) -> Certified:
        """The certificate that a use of a token gave before."""
        record = find_certificate(connection, serial)
        if record is None:
            raise Refuse(Refusal.UNKNOWN_CERTIFICATE)
        require_valid(record, at)
        issuer = self._authorities[record.role].issuer.certificate
        if fingerprint_of(issuer) != record.issuer:
            raise Refuse(Refusal.UNKNOWN_CERTIFICATE)
        leaf = x509.load_pem_x509_certificate(record.pem.encode())
        return certified_path((leaf, issuer), record, repeated=True)

    def users(self) -> UserStore:
        """The users, whose passwords are kept for the algorithms that the home says now."""
        basics = self._session.basics
        with suppress(HomeInvalid):  # it is being edited: as it was
            basics = self._session.home.basics()
        return UserStore(
            self._session.engine, self._state_key, self._session.basics.realm, counted, algorithms=basics.algorithms
        )


def _unconfirmed(line: Line) -> Line:
    event, fields = line
    return f"{event.partition('.')[0]}.unconfirmed", fields | {"outcome": "failed", "reason": event}


def _now() -> int:
    return int(datetime.now(UTC).timestamp())
