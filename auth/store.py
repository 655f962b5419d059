"""The credential store (I/O): users and their sealed H(A1) values in the state database.

H(A1) equals the password for Digest, so each is sealed with AES-256-GCM under the state key; the additional data are
the user's name and the algorithm, so a row moved to another user or algorithm does not open. What a thief of the
database alone learns: names, roles, times, which algorithms.

Trust: trusts whoever holds the database *and* the state key. A row that does not open fails everything that reads it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, assert_never

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import Connection, Engine, bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError

from auth.credentials import DUMMY_HA1, UserCredentials
from auth.errors import CredentialsUnavailable, UserExists, UserUnknown
from auth.passwords import normalise_password, parse_user_name
from auth.tables import user_credentials, users
from rhttp.digest.formula import Algorithm, ha1

__all__ = [
    "Holder",
    "StoredUser",
    "UserExists",
    "UserStore",
    "has_user",
    "is_enabled",
    "read_users",
    "seal_ha1",
    "unseal_ha1",
]

STATE_KEY_BYTES: Final = 32
_FORMAT: Final = b"\x01"  # AES-256-GCM; 12 bytes of nonce, then the ciphertext with its tag
_NONCE: Final = 12
_ENABLED: Final = select(users.c.enabled).where(users.c.name == bindparam("who"))
_MEND: Final = "use the state key of this home, or set the password again with `rhttp-pki user passwd`"


class Holder(StrEnum):
    """Whose H(A1) it is. One kind does not open as another, whatever row it is moved to."""

    USER = "user credential"
    TOKEN = "enrolment token"  # noqa: S105 - the word for it, not one


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredUser:
    """What may be shown of a user. Times are seconds since the epoch."""

    name: str
    role: str | None
    enabled: bool
    algorithms: tuple[str, ...]
    created_at: float
    changed_at: float


class UserStore:
    """Users of one realm. Every method is one transaction, or a part of the one that the caller's ``connection`` is in.

    Args:
        state_key: 32 bytes; None for a store that neither sets nor exports passwords (`CredentialsUnavailable` if it
            is asked to).
        realm: part of every H(A1): users of another realm must be given new passwords.
        on_write: called first in each writing transaction.
        algorithms: for which H(A1) is stored when a password is set.
        clock: seconds since the epoch.
    """

    def __init__(
        self,
        engine: Engine,
        state_key: bytes | None,
        realm: str,
        on_write: Callable[[Connection], None],
        *,
        algorithms: Sequence[str] = (Algorithm.SHA_256,),
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._engine = engine
        self._key = None if state_key is None else _checked_key(state_key)
        self._realm = realm
        self._on_write = on_write
        self._algorithms = tuple(Algorithm(name) for name in algorithms)
        self._clock = clock

    def __repr__(self) -> str:
        return f"<UserStore of realm {self._realm!r}>"

    def add(self, name: str, password: str, *, role: str | None = None, connection: Connection | None = None) -> None:
        """Make an enabled user.

        Raises:
            UserNameInvalid, PasswordRefused: see `auth.passwords`.
            UserExists: there is one of that name, enabled or not.
        """
        parse_user_name(name)
        sealed = self._seal(name, password)
        now = self._clock()
        row = {"name": name, "role": role, "enabled": True, "created_at": now, "changed_at": now}
        with self._writing(connection) as writing:
            if has_user(writing, name):
                raise _exists(name)
            try:
                writing.execute(insert(users), row)
            except IntegrityError:  # another command was quicker (only where transactions do not wait)
                raise _exists(name) from None
            writing.execute(insert(user_credentials), sealed)

    def passwd(self, name: str, password: str, *, connection: Connection | None = None) -> None:
        """Give a user a new password, for the algorithms of this store and no other; a disabled one stays disabled.

        Raises:
            PasswordRefused: see `auth.passwords`.
            UserUnknown: there is no such user.
        """
        sealed = self._seal(name, password)
        with self._writing(connection) as writing:
            self._change(writing, name)
            writing.execute(delete(user_credentials).where(user_credentials.c.name == name))
            writing.execute(insert(user_credentials), sealed)

    def disable(self, name: str) -> bool:
        """Refuse the user until it is enabled again; whether that changed anything. Raises `UserUnknown`."""
        return self._set_enabled(name, False, None)

    def enable(self, name: str, *, connection: Connection | None = None) -> bool:
        """Undo `disable`, with the password of before; whether that changed anything. Raises `UserUnknown`."""
        return self._set_enabled(name, True, connection)

    def remove(self, name: str) -> None:
        """Forget the user and its password. Raises `UserUnknown`."""
        with self._writing(None) as writing:
            # Not left to ON DELETE CASCADE: SQLite only obeys it when a pragma is on.
            writing.execute(delete(user_credentials).where(user_credentials.c.name == name))
            if writing.execute(delete(users).where(users.c.name == name)).rowcount != 1:
                raise _unknown(name)

    def list(self, *, connection: Connection | None = None) -> tuple[StoredUser, ...]:
        """All users by name. Opens nothing."""
        with self._reading(connection) as connection:
            known: dict[str, list[str]] = {}
            columns = select(user_credentials.c.name, user_credentials.c.algorithm).order_by(
                user_credentials.c.algorithm
            )
            for name, algorithm in connection.execute(columns):
                known.setdefault(name, []).append(algorithm)
            rows = connection.execute(select(users).order_by(users.c.name)).all()
        return tuple(StoredUser(**row._mapping, algorithms=tuple(known.get(row.name, ()))) for row in rows)

    def export(self, algorithm: str = Algorithm.SHA_256, *, connection: Connection | None = None) -> tuple[str, ...]:
        """``user:realm:H(A1)`` lines of the enabled users that have that algorithm: as secret as their passwords.

        Disabled users are left out, since the format cannot say that they are. Raises `CredentialsUnavailable`.
        """
        with self._reading(connection) as connection:
            found = read_users(connection, self._state_key())
        return tuple(
            f"{user.name}:{self._realm}:{user.ha1[algorithm]}"
            for user in found
            if user.enabled and algorithm in user.ha1
        )

    def _seal(self, name: str, password: str) -> Sequence[Mapping[str, object]]:
        normal, state_key = normalise_password(password), self._state_key()
        return [
            {
                "name": name,
                "algorithm": algorithm.value,
                "sealed": seal_ha1(state_key, name, algorithm, ha1(name, self._realm, normal, algorithm)),
            }
            for algorithm in self._algorithms
        ]

    def _state_key(self) -> bytes:
        if self._key is None:
            raise CredentialsUnavailable(
                "this store was opened without the state key; open the home with its passphrase"
            )
        return self._key

    def _set_enabled(self, name: str, enabled: bool, connection: Connection | None) -> bool:
        with self._writing(connection) as writing:
            was = writing.execute(select(users.c.enabled).where(users.c.name == name)).scalar_one_or_none()
            if was is None:
                raise _unknown(name)
            if bool(was) is not enabled:
                self._change(writing, name, enabled=enabled)
            return bool(was) is not enabled

    def _change(self, writing: Connection, name: str, **values: object) -> None:
        change = update(users).where(users.c.name == name).values(changed_at=self._clock(), **values)
        if writing.execute(change).rowcount != 1:
            raise _unknown(name)

    @contextmanager
    def _reading(self, connection: Connection | None) -> Iterator[Connection]:
        if connection is not None:
            yield connection
            return
        with self._engine.connect() as own:
            yield own

    @contextmanager
    def _writing(self, connection: Connection | None) -> Iterator[Connection]:
        # Counted first: where transactions do not wait by themselves, the row that it locks makes them take turns, so
        # that what is read here still holds when it is written upon.
        if connection is not None:
            self._on_write(connection)
            yield connection
            return
        with self._engine.begin() as own:
            self._on_write(own)
            yield own


def read_users(connection: Connection, state_key: bytes) -> tuple[UserCredentials, ...]:
    """All users by name with their credentials opened, for a state snapshot.

    Raises:
        CredentialsUnavailable: wrong state key or a damaged row; then nothing is answered.
    """
    _checked_key(state_key)
    opened: dict[str, dict[str, str]] = {}
    for name, algorithm, sealed in connection.execute(select(user_credentials)):
        opened.setdefault(name, {})[algorithm] = unseal_ha1(state_key, name, algorithm, sealed)
    rows = connection.execute(select(users.c.name, users.c.enabled).order_by(users.c.name))
    return tuple(UserCredentials(name=name, enabled=bool(enabled), ha1=opened.get(name, {})) for name, enabled in rows)


def seal_ha1(state_key: bytes, name: str, algorithm: str, value: str, holder: Holder = Holder.USER) -> bytes:
    """Seal one H(A1). The nonce is random: 2^32 seals under one key are safe, passwords are set less often."""
    nonce = os.urandom(_NONCE)
    cipher = AESGCM(_checked_key(state_key))
    return _FORMAT + nonce + cipher.encrypt(nonce, value.encode(), _bound_to(name, algorithm, holder))


def unseal_ha1(state_key: bytes, name: str, algorithm: str, sealed: bytes, holder: Holder = Holder.USER) -> str:
    """Open what `seal_ha1` made for the same holder, name and algorithm.

    Raises:
        CredentialsUnavailable: wrong key, damaged, or sealed for another of them.
    """
    try:
        if sealed[:1] != _FORMAT:
            raise ValueError
        bound = _bound_to(name, algorithm, holder)
        value = AESGCM(state_key).decrypt(sealed[1 : 1 + _NONCE], sealed[1 + _NONCE :], bound)
        if len(value) != len(DUMMY_HA1[Algorithm(algorithm)]):
            raise ValueError
        return value.decode("ascii")
    except (InvalidTag, ValueError):
        match holder:
            case Holder.USER:
                message = f"the {algorithm} password of user {name} does not open; {_MEND}"
            case Holder.TOKEN:
                message = (
                    f"the secret of the enrolment token {name} does not open; use the state key of this home, or end "
                    f"that token with `rhttp-pki token revoke {name}`"
                )
            case _ as unreachable:
                assert_never(unreachable)
        raise CredentialsUnavailable(message) from None


def _bound_to(name: str, algorithm: str, holder: Holder) -> bytes:
    return b"\0".join((b"rhttp-pki " + holder.encode(), name.encode(), algorithm.encode()))


def _checked_key(state_key: bytes) -> bytes:
    if len(state_key) != STATE_KEY_BYTES:
        raise CredentialsUnavailable(f"the state key has {len(state_key)} bytes, not {STATE_KEY_BYTES}; {_MEND}")
    return state_key


def has_user(connection: Connection, name: str) -> bool:
    """Whether there is a user of this name, enabled or not, as this transaction sees it."""
    return is_enabled(connection, name) is not None


def is_enabled(connection: Connection, name: str) -> bool | None:
    """Whether the user of this name is enabled, as this transaction sees it; None: there is none."""
    found = connection.execute(_ENABLED, {"who": name}).scalar_one_or_none()
    return None if found is None else bool(found)


def _exists(name: str) -> UserExists:
    return UserExists(f"there is a user {name} already; set its password with `rhttp-pki user passwd {name}`")


def _unknown(name: str) -> UserUnknown:
    return UserUnknown(f"there is no user {name[:80]!r}; `rhttp-pki user list` shows who is there")
