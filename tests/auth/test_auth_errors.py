"""Errors of `auth`."""

from __future__ import annotations

from auth.errors import PolicyInvalid, PolicyProblem


def test_policy_invalid_names_every_problem_with_its_place() -> None:
    """All problems at once, each with file and line where there is one."""
    problems = [
        PolicyProblem(file="policy.cedar", line=3, message="no @id"),
        PolicyProblem(file="policy.cedar", line=None, message="empty"),
    ]
    error = PolicyInvalid(problems)
    assert error.problems == tuple(problems)
    assert str(error) == "policy.cedar:3: no @id; policy.cedar: empty"
