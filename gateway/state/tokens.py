"""Enrolment tokens in the state's database: what is kept of them, and how a use is taken.

Of a secret the hashed A1 (RFC 7616 §3.4.2) is kept, with the token's id as user name and the home's realm, sealed under
the state key like those of users: Digest can ask for the secret later, and who has the database alone learns nothing.

Whoever takes a use calls `on_write` first, like every writer, so that what it reads holds until it commits. That no
token is used more often than it may does not rest on that: one UPDATE with all its conditions says so by itself.

Bounds: `MAX_LIVE` tokens that are live; of those that ended the newest `MAX_ENDED`, for `KEEP_SECONDS`, told apart when
the next one is made; uses, for as long as they may be asked for again.

Trust: trusts the database's owner. Failures of the database come out as SQLAlchemy raises them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection, Engine, Row, bindparam, case, delete, func, insert, or_, select, update

from auth.credentials import TokenGrant
from auth.store import Holder, seal_ha1, unseal_ha1
from gateway.state.database import reading
from pki.enrolment import (
    REPEAT_SECONDS,
    EnrolmentToken,
    TokenReason,
    TokenRefused,
    Wanted,
    judge_use,
    judge_wanted,
)
from pki.errors import StoreError
from pki.names import Role
from pki.tables import certificates, enrolment_tokens, enrolment_uses
from rhttp.digest.formula import Algorithm, ha1

__all__ = [
    "KEEP_SECONDS",
    "MAX_ENDED",
    "MAX_LIVE",
    "CredentialsGiven",
    "TokenStore",
    "TokenUnknown",
    "TooManyTokens",
    "Use",
    "check_use",
    "find_token",
    "read_grants",
    "take_credentials",
    "take_use",
]

MAX_LIVE: Final = 10_000
"""Tokens that are live at the same time."""
MAX_ENDED: Final = 10_000
"""Tokens that ended and are still listed, at most."""
KEEP_SECONDS: Final = 30 * 86_400
"""How long a token is listed once it ended, at most."""

_tokens = enrolment_tokens.c
_uses = enrolment_uses.c
_SHOWN = [column for column in enrolment_tokens.c if column.name != "sealed"]
# The second in which it ended or will end: `EnrolmentToken.ended` in the words of the database.
_ends = func.coalesce(
    _tokens.revoked_at, case((_tokens.used >= _tokens.uses, _tokens.used_at), else_=None), _tokens.expires_at
)


# Made once: to put such a statement together takes longer than to execute it, and an enrolment asks for all of them.
_TOKEN: Final = select(*_SHOWN).where(_tokens.id == bindparam("token"))
_SAME_USE: Final = (
    select(_uses.serial)
    .where(_uses.token == bindparam("token"), _uses.key_hash == bindparam("key"), _uses.name == bindparam("who"))
    .where(_uses.used_at > bindparam("since"))
    .order_by(_uses.used_at.desc())
    .limit(1)
)
_HELD: Final = (
    select(certificates.c.serial)
    .where(certificates.c.name == bindparam("who"), certificates.c.revoked_at.is_(None))
    .where(certificates.c.not_after >= bindparam("at"))
    .limit(1)
)
_TAKE: Final = (
    update(enrolment_tokens)
    .where(_tokens.id == bindparam("token"), _tokens.revoked_at.is_(None))
    .where(_tokens.used < _tokens.uses, _tokens.expires_at > bindparam("at"))
    .values(used=_tokens.used + 1, used_at=bindparam("at"))
)
_FORGET: Final = delete(enrolment_uses).where(_uses.used_at <= bindparam("since"))
_USE: Final = insert(enrolment_uses)


class CredentialsGiven(StoreError):  # noqa: N818 - says what is the case, like every error of ours
    """Credentials are given once for each use of a token."""


class TokenUnknown(StoreError):  # noqa: N818 - says what is the case, like every error of ours
    """There is no enrolment token of that id."""


class TooManyTokens(StoreError):  # noqa: N818
    """As many tokens as there may be are live."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Use:
    """A use of a token: the certificate that it gave or is about to give. `repeated`: it was taken before."""

    serial: str
    repeated: bool


class TokenStore:
    """Makes, lists and ends tokens of one home. `on_write` is called first in each writing transaction."""

    __slots__ = ("_engine", "_on_write")

    def __init__(self, engine: Engine, on_write: Callable[[Connection], None]) -> None:
        self._engine = engine
        self._on_write = on_write

    def add(self, token: EnrolmentToken, secret: str, *, realm: str, state_key: bytes, connection: Connection) -> None:
        """Enter a token in the caller's transaction, and forget those that ended long ago.

        Raises:
            TooManyTokens: `MAX_LIVE` are live.
            CredentialsUnavailable: the state key is none.
        """
        hashed = ha1(token.id, realm, secret, Algorithm.SHA_256)
        sealed = seal_ha1(state_key, token.id, Algorithm.SHA_256, hashed, Holder.TOKEN)
        self._on_write(connection)
        _forget_ended(connection, token.created_at)
        live = select(func.count()).select_from(enrolment_tokens).where(token.created_at < _ends)
        if connection.execute(live).scalar_one() >= MAX_LIVE:
            raise TooManyTokens(
                f"{MAX_LIVE} enrolment tokens are live, which is as many as there may be; end some with "
                "`rhttp-pki token revoke`, or make one with more --uses"
            )
        connection.execute(insert(enrolment_tokens).values(**_values(token), sealed=sealed))

    def list(self) -> tuple[EnrolmentToken, ...]:
        """All that are known, ended ones too, the newest first."""
        query = select(*_SHOWN).order_by(_tokens.created_at.desc(), _tokens.id)
        with reading(self._engine) as connection:
            return tuple(_token(row) for row in connection.execute(query))

    def revoke(self, token_id: str, at: int) -> bool:
        """End a token: no use of it is given any more, nor told again. Whether that changed anything.

        Raises:
            TokenUnknown: there is none of that id.
        """
        with self._engine.begin() as connection:
            self._on_write(connection)
            end = update(enrolment_tokens).where(_tokens.id == token_id, _tokens.revoked_at.is_(None))
            if connection.execute(end.values(revoked_at=at)).rowcount == 1:
                return True
            if find_token(connection, token_id) is None:
                raise TokenUnknown(
                    f"there is no enrolment token {token_id}; `rhttp-pki token list` shows which there are"
                )
            return False


def check_use(connection: Connection, token_id: str, wanted: Wanted, *, key_hash: str, at: int) -> str | None:
    """Ask, before anything is signed, whether a use would be given now.

    Returns the serial when this use was taken before, else None. Nothing is changed; `take_use` asks all of it again.

    Raises:
        TokenRefused: it would not.
    """
    token, before = _look(connection, token_id, wanted, key_hash, at)
    if before is None:
        reason = judge_use(token, wanted, at, held=_is_held(connection, wanted.name, at))
        if reason is not None:
            raise TokenRefused(reason)
    return before


def take_use(
    connection: Connection,
    token_id: str,
    wanted: Wanted,
    *,
    key_hash: str,
    serial: str,
    at: int,
    on_write: Callable[[Connection], None],
) -> Use:
    """Take a use for the certificate with this serial, in the transaction that enters it (`Inventory.record`, `also`).

    `key_hash` is the SHA-256 of the SubjectPublicKeyInfo, lower-case hex. When the same key and name took a use within
    `REPEAT_SECONDS`, that one is told and none is taken: the caller enters nothing, and gives out the certificate of
    that serial if it was not revoked meanwhile, which is not looked at here. It is told even when the token was used up
    or expired since, but not when it was revoked.

    Raises:
        TokenRefused: no use is given; the caller's transaction is to be undone.
    """
    on_write(connection)
    token, before = _look(connection, token_id, wanted, key_hash, at)
    if before is not None:
        return Use(serial=before, repeated=True)
    held = _is_held(connection, wanted.name, at)
    reason = judge_use(token, wanted, at, held=held)
    if reason is not None:
        raise TokenRefused(reason)
    # Whoever was quicker is seen by these conditions, in one statement, on a row that it locks.
    if connection.execute(_TAKE, {"token": token_id, "at": at}).rowcount != 1:
        now = find_token(connection, token_id)
        raise TokenRefused(TokenReason.UNKNOWN if now is None else now.ended(at) or TokenReason.USED_UP)
    connection.execute(_FORGET, {"since": at - REPEAT_SECONDS})
    row = {"serial": serial, "token": token_id, "key_hash": key_hash, "name": wanted.name, "used_at": at}
    connection.execute(_USE, row)
    return Use(serial=serial, repeated=False)


def take_credentials(
    connection: Connection, serial: str, *, at: int, on_write: Callable[[Connection], None]
) -> str | None:
    """Take the one time that credentials are given for the certificate with this serial; the token that it was upon.

    None: no use of the last `REPEAT_SECONDS` gave that certificate.

    Raises:
        CredentialsGiven: they were given before.
    """
    on_write(connection)
    is_recent = (_uses.serial == serial) & (_uses.used_at > at - REPEAT_SECONDS)
    take = update(enrolment_uses).where(is_recent, _uses.credentials_at.is_(None)).values(credentials_at=at)
    taken = connection.execute(take).rowcount == 1
    token = connection.execute(select(_uses.token).where(is_recent)).scalar()
    if token is not None and not taken:
        raise CredentialsGiven("the credentials of this enrolment were given before")
    return None if token is None else str(token)


def find_token(connection: Connection, token_id: str) -> EnrolmentToken | None:
    """The token of this id, ended or not, as this transaction sees it; None: there is none."""
    row = connection.execute(_TOKEN, {"token": token_id}).one_or_none()
    return None if row is None else _token(row)


def read_grants(connection: Connection, state_key: bytes, *, at: int) -> tuple[TokenGrant, ...]:
    """What Digest and policies need of each token with something to ask for: the live ones, and those just used.

    The user name is the token's id, the algorithm SHA-256 alone. A token without a live use is in it for as long as its
    last use may be asked for again; whether it gets one is for `take_use` to say.

    Raises:
        CredentialsUnavailable: wrong state key or a damaged row; then nothing is answered.
    """
    is_asked = or_(_tokens.used_at > at - REPEAT_SECONDS, at < _ends)
    columns = _tokens.id, _tokens.role, _tokens.pool, _tokens.labels, _tokens.sealed
    query = select(*columns).where(_tokens.revoked_at.is_(None), is_asked).order_by(_tokens.id)
    algorithm = Algorithm.SHA_256
    return tuple(
        TokenGrant(
            id=token_id,
            ha1={algorithm.value: unseal_ha1(state_key, token_id, algorithm, sealed, Holder.TOKEN)},
            role=role,
            pool=pool,
            labels=json.loads(labels),
        )
        for token_id, role, pool, labels, sealed in connection.execute(query)
    )


def _look(
    connection: Connection, token_id: str, wanted: Wanted, key_hash: str, at: int
) -> tuple[EnrolmentToken, str | None]:
    """The token, when it is for what is wanted, and the serial of the use when it was taken before."""
    token = find_token(connection, token_id)
    reason = judge_wanted(token, wanted)
    if token is None or reason is not None:
        raise TokenRefused(reason or TokenReason.UNKNOWN)
    same = {"token": token_id, "key": key_hash, "who": wanted.name, "since": at - REPEAT_SECONDS}
    return token, connection.execute(_SAME_USE, same).scalar()


def _is_held(connection: Connection, name: str, at: int) -> bool:
    """Whether a certificate of the name is valid now, of whatever role."""
    return connection.execute(_HELD, {"who": name, "at": at}).first() is not None


def _forget_ended(connection: Connection, at: int) -> None:
    ended = select(_tokens.id).where(at >= _ends)
    # What is not told again is needed for nothing; what may be still keeps its token.
    connection.execute(_FORGET, {"since": at - REPEAT_SECONDS})
    old = ended.where(at - KEEP_SECONDS >= _ends)
    surplus = ended.order_by(_ends.desc(), _tokens.id).offset(MAX_ENDED)
    used = {row[0] for row in connection.execute(select(_uses.token).distinct())}
    gone = [{"gone": row[0]} for query in (old, surplus) for row in connection.execute(query) if row[0] not in used]
    if gone:
        connection.execute(delete(enrolment_tokens).where(_tokens.id == bindparam("gone")), gone)


def _token(row: Row[tuple[object, ...]]) -> EnrolmentToken:
    values = dict(row._mapping)
    return EnrolmentToken(**values | {"role": Role(values["role"]), "labels": json.loads(values["labels"])})


def _values(token: EnrolmentToken) -> dict[str, object]:
    values: dict[str, object] = {column.name: getattr(token, column.name) for column in _SHOWN}
    return values | {"role": token.role.value, "labels": json.dumps(dict(token.labels), sort_keys=True)}
