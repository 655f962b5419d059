"""Errors of `auth`."""

from __future__ import annotations

import auth.errors
from auth.errors import AuthError, PolicyInvalid, PolicyProblem


def test_errors_have_a_code_of_their_own() -> None:
    """Machines tell errors apart by a stable slug; no two share one."""
    kinds = [kind for kind in vars(auth.errors).values() if isinstance(kind, type) and issubclass(kind, AuthError)]
    assert len({kind.code for kind in kinds}) == len(kinds) > 5


def test_policy_invalid_names_every_problem_with_its_place() -> None:
    """All problems at once, each with file and line where there is one."""
    problems = [
        PolicyProblem(file="policy.cedar", line=3, message="no @id"),
        PolicyProblem(file="policy.cedar", line=None, message="empty"),
    ]
    error = PolicyInvalid(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "policy.cedar:3: no @id; policy.cedar: empty"
