"""Problem answers: the table is complete, the form is RFC 9457's, refusals of who and whether keep their reasons."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any

import orjson
import pytest

from gateway.http.problems import PROBLEMS, Problem, problem_body

STATUSES = {
    "no-slot": 503,
    "not-sent": 503,
    "worker-lost": 502,
    "worker-invalid": 502,
    "deadline": 504,
    "master-asked-credentials": 502,
    "unauthenticated": 401,
    "forbidden": 403,
    "target-invalid": 400,
    "uri-too-long": 414,
    "fields-too-large": 431,
    "method-not-implemented": 501,
    "version-not-supported": 505,
    "misdirected": 421,
    "cross-site": 403,
    "not-found": 404,
    "upgrade-required": 426,
    "loop-detected": 508,
    "draining": 503,
}


def body(slug: Problem, detail: str | None = None) -> dict[str, Any]:
    loaded: dict[str, Any] = orjson.loads(problem_body(slug, "req-1", detail))
    return loaded


@pytest.mark.parametrize(("slug", "status"), STATUSES.items())
def test_problem_type_of_the_contract_has_its_status(slug: str, status: int) -> None:
    """Slugs and statuses that users rely on do not move."""
    assert PROBLEMS[Problem(slug)].status == status


def test_problem_table_has_every_type_once_with_an_error_status() -> None:
    """Each slug has one entry under its own name, a registered 4xx or 5xx status and a title that is one sentence."""
    assert set(PROBLEMS) == set(Problem)
    for slug, kind in PROBLEMS.items():
        assert kind.slug is slug
        assert HTTPStatus(kind.status).value >= 400
        assert kind.title
        assert not kind.title.endswith(".")
    assert len({kind.title for kind in PROBLEMS.values()}) == len(PROBLEMS)


@pytest.mark.parametrize("slug", Problem)
def test_problem_body_is_an_rfc_9457_object(slug: Problem) -> None:
    """type, title, status and the request's id; no detail unless one was given."""
    kind = PROBLEMS[slug]
    assert body(slug) == {
        "type": f"urn:rhttp:problem:{slug.value}",
        "title": kind.title,
        "status": kind.status,
        "request_id": "req-1",
    }


def test_problem_body_carries_a_detail_where_the_type_is_open() -> None:
    """Detail is passed on as text, cut at 1,000 characters."""
    assert body(Problem.NO_SLOT, 'pool "render"')["detail"] == 'pool "render"'
    assert len(body(Problem.NO_SLOT, "x" * 5000)["detail"]) == 1000


@pytest.mark.parametrize(
    "slug",
    [
        Problem.UNAUTHENTICATED,
        Problem.FORBIDDEN,
        Problem.CERTIFICATE_REFUSED,
        Problem.STATE_STALE,
        Problem.AUDIT_UNAVAILABLE,
        Problem.INTERNAL,
    ],
)
def test_problem_body_of_a_closed_type_is_the_same_for_every_reason(slug: Problem) -> None:
    """Why credentials, a certificate or a policy refused, or what broke inside, is never told to the peer."""
    assert problem_body(slug, "r", "unknown_user") == problem_body(slug, "r", "bad_response") == problem_body(slug, "r")
    assert [kind for kind in PROBLEMS.values() if kind.status == 401 and kind.open_detail] == []
