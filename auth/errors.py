"""What `auth` raises when it cannot decide. A wrong password or a replayed counter is a value, never one of these."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


class AuthError(Exception):
    """Base of everything `auth` raises on purpose. The text names the fault and the mend and holds no secret."""


class CredentialsUnavailable(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """Stored credentials cannot be read: wrong state key or a damaged row. The store is at fault, not a user."""


class UserExists(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """A user of that name is there already."""


class UserUnknown(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """No user of that name."""


class UserNameInvalid(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """The text is no NAME and so can never match a certificate."""


class PasswordRefused(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """The password breaks the policy of `auth.passwords`; the text says which rule, never the password."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyProblem:
    """One fault of a policy file: where (``line`` from 1, None when the whole file is meant) and what."""

    file: str
    line: int | None
    message: str

    def __str__(self) -> str:
        where = self.file if self.line is None else f"{self.file}:{self.line}"
        return f"{where}: {self.message}"


class PolicyInvalid(AuthError):  # noqa: N818 - says what is the case, like every error of ours
    """Policies that may not be used, with every problem at once. Raised at load, never while a request is decided."""

    def __init__(self, problems: Sequence[PolicyProblem]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(str(problem) for problem in self.problems))
