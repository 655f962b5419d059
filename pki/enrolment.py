"""Enrolment tokens: what one lets its holder enrol as, until when and how often. Pure.

A token is an id, which is public, and a secret. Whoever shows that it has the secret gets a certificate for a key of
its own: of the token's role and pool, with the token's labels, for a name that the token allows. Whether it has the
secret is asked elsewhere, before anything here.

A *use* is one certificate for one key and name. It is asked for again when its answer was lost; for `REPEAT_SECONDS`
that is the same use, with the same certificate, and not another one.

Trust: what is asked for comes from a stranger who has the secret and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

from pki.errors import NameInvalid, PkiError
from pki.names import PEER_ROLES, Role, parse_name

__all__ = [
    "ID_ENTROPY",
    "MAX_USES",
    "REPEAT_SECONDS",
    "EnrolmentToken",
    "TokenReason",
    "TokenRefused",
    "Wanted",
    "build_token_id",
    "judge_use",
    "judge_wanted",
    "parse_prefix",
    "parse_token_id",
]

REPEAT_SECONDS: Final = 600
"""How long after a use the same key and name are told as that use again."""
MAX_USES: Final = 10_000
ID_ENTROPY: Final = 8  # bytes

# An underscore stands in no NAME: a token's id is never a user's.
_ID: Final = re.compile(r"et_[0-9a-f]{16}")
_PREFIX: Final = re.compile(r"[a-z0-9][a-z0-9-]{0,61}")


class TokenReason(StrEnum):
    """Why a token is refused. The values are for the audit log, never for whoever asks."""

    UNKNOWN = "unknown"
    """There is none of that id: there never was, or it ended so long ago that it is forgotten."""
    REVOKED = "revoked"
    EXPIRED = "expired"
    USED_UP = "used_up"
    WRONG_ROLE = "wrong_role"
    WRONG_POOL = "wrong_pool"
    WRONG_NAME = "wrong_name"
    NAME_HELD = "name_held"
    """Somebody holds a valid certificate of the name, and the token was not made for that very name."""


class TokenRefused(PkiError):  # noqa: N818 - says what is the case, like every error of ours
    """A token that is not good for what is asked; says why, for the audit log alone."""

    def __init__(self, reason: TokenReason) -> None:
        super().__init__(f"the enrolment token is refused: {reason.value}")
        self.reason = reason


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentToken:
    """A token without its secret. Times are whole seconds since the epoch. Building one checks it (`NameInvalid`).

    `pool` is set for workers and only for them. `name` allows that name alone, `name_prefix` each that is longer and
    begins with it, neither of them any name. `expires_at` is the first second at which no use is given any more.
    """

    id: str
    role: Role
    pool: str | None = None
    name: str | None = None
    name_prefix: str | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    uses: int = 1
    used: int = 0
    created_at: int
    expires_at: int
    used_at: int | None = None
    revoked_at: int | None = None

    def __post_init__(self) -> None:
        parse_token_id(self.id)
        if self.role not in PEER_ROLES:
            raise NameInvalid(f"no {self.role.value} is enrolled by a token")
        if (self.pool is not None) != (self.role is Role.WORKER):
            raise NameInvalid("a worker belongs to one pool, and nobody else to any")
        if self.pool is not None:
            parse_name(self.pool)
        if self.name is not None:
            parse_name(self.name)
        if self.name_prefix is not None:
            parse_prefix(self.name_prefix)
        if self.name is not None and self.name_prefix is not None:
            raise NameInvalid("a token is for one name or for a prefix of names, not both")
        if not 1 <= self.uses <= MAX_USES:
            raise NameInvalid(f"a token has 1 to {MAX_USES} uses")

    def allows_name(self, name: str) -> bool:
        """Whether the token is for this name."""
        if self.name is not None:
            return name == self.name
        if self.name_prefix is not None:
            return name.startswith(self.name_prefix) and len(name) > len(self.name_prefix)
        return True

    def state(self, at: int) -> str:
        """``revoked``, ``used_up``, ``expired`` or ``live``: the first of them that holds at this time."""
        ended = self.ended(at)
        return "live" if ended is None else ended.value

    def ended(self, at: int) -> TokenReason | None:
        """Why no use is given at this time, whatever is asked; None while one is."""
        if self.revoked_at is not None:
            return TokenReason.REVOKED
        if self.used >= self.uses:
            return TokenReason.USED_UP
        return TokenReason.EXPIRED if at >= self.expires_at else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What is asked for. A `pool` of None is the token's. Building one checks the names (`NameInvalid`)."""

    role: Role
    name: str
    pool: str | None = None

    def __post_init__(self) -> None:
        parse_name(self.name)
        if self.pool is not None:
            parse_name(self.pool)


def judge_wanted(token: EnrolmentToken | None, wanted: Wanted) -> TokenReason | None:
    """Why the token is not good for this, now or ever; None when it is, or was before it ended."""
    if token is None:
        return TokenReason.UNKNOWN
    if token.revoked_at is not None:
        return TokenReason.REVOKED
    if wanted.role is not token.role:
        return TokenReason.WRONG_ROLE
    if wanted.pool is not None and wanted.pool != token.pool:
        return TokenReason.WRONG_POOL
    return None if token.allows_name(wanted.name) else TokenReason.WRONG_NAME


def judge_use(token: EnrolmentToken, wanted: Wanted, at: int, *, held: bool) -> TokenReason | None:
    """Why no new use is given for what `judge_wanted` passed; `held`: a valid certificate of the name is out.

    Whoever has a token for many names could else become one of those who used it before.
    """
    ended = token.ended(at)
    if ended is None and held and token.name != wanted.name:
        return TokenReason.NAME_HELD
    return ended


def build_token_id(entropy: bytes) -> str:
    """The id out of exactly 8 unpredictable bytes. Raises ValueError for another number of them."""
    if len(entropy) != ID_ENTROPY:
        raise ValueError(f"a token's id takes {ID_ENTROPY} bytes")
    return f"et_{entropy.hex()}"


def parse_token_id(text: str) -> str:
    """The id itself, or `NameInvalid`, which does not quote the text: it may be a whole token, with its secret."""
    if _ID.fullmatch(text) is None:
        raise NameInvalid("that is no token's id: et_ and 16 hex digits, what stands before the dot of a token")
    return text


def parse_prefix(text: str) -> str:
    """What names begin with, or `NameInvalid`: 1 to 62 of a-z, 0-9 and -, the first no -."""
    if _PREFIX.fullmatch(text) is None:
        raise NameInvalid(f"{text[:80]!r} begins no name: 1 to 62 of a-z, 0-9 and -, the first no -")
    return text
