"""Problems (RFC 9457): the one form in which this application says that something did not work.

Pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

CONTENT_TYPE = "application/problem+json"
GATEWAY = "urn:rhttp:problem:"
"""Prefix of the gateway's problem types."""
OURS = "urn:mapreduce:problem:"
_MAX_TEXT = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """What did not work: `type` for programs, `title` and `detail` for people."""

    type: str
    title: str
    status: int
    detail: str | None = None

    def to_json(self) -> dict[str, object]:
        """The members of the JSON object."""
        body: dict[str, object] = {"type": self.type, "title": self.title, "status": self.status}
        if self.detail is not None:
            body["detail"] = self.detail
        return body


class Refused(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A request that is not answered, or a job that ended without a result; `problem` says why."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem.detail or problem.title)
        self.problem = problem


def refuse(slug: str, status: int, title: str, detail: str | None = None) -> Refused:
    """One of our own problems, to be raised."""
    return Refused(Problem(type=OURS + slug, title=title, status=status, detail=detail))


def invalid(detail: str) -> Refused:
    """What was sent is no order that can be worked on."""
    return refuse("order-invalid", 422, "The order cannot be worked on", detail)


def read_problem(value: object, status: int) -> Problem:
    """The problem in an answer with this status, whoever wrote it; what is no problem becomes one without a type."""
    members: Mapping[object, object] = value if isinstance(value, dict) else {}
    kind, title, detail = members.get("type"), members.get("title"), members.get("detail")
    inner = members.get("status")
    return Problem(
        type=kind[:_MAX_TEXT] if isinstance(kind, str) else "about:blank",
        title=title[:_MAX_TEXT] if isinstance(title, str) else f"The answer has the status {status}",
        status=inner if isinstance(inner, int) and 400 <= inner <= 599 else status,
        detail=detail[:_MAX_TEXT] if isinstance(detail, str) else None,
    )
