"""What the verifier knows of users: an immutable view, built once for each state snapshot. Pure.

Trust: holds H(A1) values, which equal passwords for Digest (RFC 7616 §3.4.2): no repr shows one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from rhttp.digest.formula import HASHES, Algorithm


@dataclass(frozen=True, slots=True, kw_only=True)
class UserCredentials:
    """A user with its opened H(A1) values (algorithm's name to lower-case hex). Its repr shows none of them."""

    name: str
    enabled: bool
    ha1: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<UserCredentials of {self.name}>"


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class TokenGrant:
    """An enrolment token as Digest and policies see it; `ha1` by algorithm, as in `UserCredentials`."""

    id: str
    ha1: Mapping[str, str]
    role: str
    pool: str | None
    labels: Mapping[str, str]

    def __repr__(self) -> str:
        return f"<TokenGrant {self.id}>"


DUMMY_HA1: Final[Mapping[Algorithm, bytes]] = {
    algorithm: b"0" * (2 * make(b"").digest_size) for algorithm, make in HASHES.items()
}
"""Stands in where there is no H(A1), so that such a check takes the same time. A match with it is never a success."""


class Credentials:
    """The users of one snapshot, with every H(A1) as the bytes that the formula takes."""

    __slots__ = ("_disabled", "_ha1", "_names")

    def __init__(self, users: Iterable[UserCredentials] = ()) -> None:
        self._ha1: dict[str, dict[str, bytes]] = {algorithm: {} for algorithm in Algorithm}
        known = list(users)
        self._names = frozenset(user.name for user in known)
        self._disabled = frozenset(user.name for user in known if not user.enabled)
        for user in known:
            for algorithm, value in user.ha1.items():
                if user.enabled and algorithm in self._ha1:
                    self._ha1[algorithm][user.name] = value.encode()

    def __repr__(self) -> str:
        return f"<Credentials of {len(self._names)} users>"

    def ha1(self, user: str, algorithm: str) -> bytes | None:
        """H(A1) in hex; None when the user is unknown, disabled, or has no password for that algorithm."""
        return self._ha1[algorithm].get(user)

    def is_known(self, user: str) -> bool:
        """Whether there is such a user, enabled or not."""
        return user in self._names

    def is_disabled(self, user: str) -> bool:
        """Whether there is such a user and it is disabled."""
        return user in self._disabled


def token_credentials(grants: Iterable[TokenGrant]) -> Credentials:
    """Enrolment tokens as Digest sees them."""
    return Credentials(UserCredentials(name=one.id, enabled=True, ha1=one.ha1) for one in grants)
