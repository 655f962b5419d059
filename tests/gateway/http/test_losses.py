"""What a requester is told when no whole answer came: whether it may have run, and by whose fault."""

from __future__ import annotations

import pytest

from gateway.http.losses import failure
from gateway.http.problems import PROBLEMS, Problem
from gateway.http.responses import _RETRY
from rhttp.errors import Loss

EXPECTED = {
    Loss.NOT_SENT: (503, "not-sent", "not-sent"),
    Loss.SENT_NO_ANSWER: (502, "worker-lost", "master-lost"),
    Loss.CUT: (502, "worker-lost", "master-lost"),
    Loss.INVALID: (502, "worker-invalid", "master-invalid"),
    Loss.DEADLINE: (504, "deadline", "deadline"),
    Loss.ABORTED: (502, "worker-lost", "master-lost"),
}


@pytest.mark.parametrize("loss", Loss)
def test_failure_names_status_and_problem_of_every_loss(loss: Loss) -> None:
    """Each loss has one answer on either side, and the problem's own status is that answer's."""
    status, of_worker, of_master = EXPECTED[loss]
    assert failure(loss, dispatch=True) == (status, of_worker)
    assert failure(loss, dispatch=False) == (status, of_master)
    for slug in (of_worker, of_master):
        assert PROBLEMS[Problem(slug)].status == status


@pytest.mark.parametrize("loss", Loss)
@pytest.mark.parametrize("dispatch", [True, False])
def test_failure_invites_to_ask_again_only_when_nothing_was_sent(loss: Loss, dispatch: bool) -> None:
    """`Retry-After` stands with 503 alone, and 503 means that nothing ran."""
    status, slug = failure(loss, dispatch=dispatch)
    assert (slug in _RETRY) is (status == 503) is (loss is Loss.NOT_SENT)


def test_retry_after_stands_only_with_problems_whose_request_did_not_run() -> None:
    """Whoever obeys it sends the request again: no problem after which something may have run invites to that."""
    ran = {"worker-lost", "worker-invalid", "master-lost", "master-invalid", "deadline", "answer-withheld"}
    assert ran.isdisjoint(_RETRY)
    assert all(PROBLEMS[Problem(slug)].status in (409, 503) for slug in _RETRY)
