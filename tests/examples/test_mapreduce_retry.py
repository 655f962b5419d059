"""Which failure of a unit is tried again, how often, and after which pause."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapreduce.problems import GATEWAY, OURS, Problem
from mapreduce.retry import LOST, MAX_LOST, MAX_WAITING, WAITING, Again, GiveUp, Tries, judge


def problem(kind: str, status: int = 503) -> Problem:
    return Problem(type=kind, title="t", status=status)


@pytest.mark.parametrize("slug", ["no-slot", "not-sent", "worker-lost", "worker-invalid", "deadline"])
def test_problems_of_the_gateway_about_workers_are_tried_again(slug: str) -> None:
    """The types that say that another try may do."""
    assert GATEWAY + slug in WAITING | LOST
    assert isinstance(judge(problem(GATEWAY + slug), Tries(), chance=0.5), Again)


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (GATEWAY + "forbidden", 403),
        (GATEWAY + "not-found", 404),
        (OURS + "order-invalid", 422),
        (GATEWAY + "worker-lost", 400),
        ("about:blank", 400),
        ("about:blank", 499),
    ],
)
def test_client_errors_fail_the_job_whoever_says_so(kind: str, status: int) -> None:
    """What is wrong with the order is wrong everywhere."""
    given_up = problem(kind, status)
    assert judge(given_up, Tries(), chance=0.5) == GiveUp(given_up)


@pytest.mark.parametrize("kind", [*sorted(LOST), "about:blank", "urn:example:own"])
def test_unit_that_workers_are_lost_with_is_given_up_soon(kind: str) -> None:
    """A unit that kills its workers must not kill the whole pool."""
    tries, count = Tries(), 1
    while isinstance(verdict := judge(problem(kind, 502), tries, chance=0.0), Again):
        tries, count = verdict.tries, count + 1
    assert count == MAX_LOST


@pytest.mark.parametrize("kind", sorted(WAITING))
def test_unit_that_reached_no_worker_is_tried_for_long(kind: str) -> None:
    """Waiting for a slot harms nobody, but not for ever."""
    tries, count = Tries(), 1
    while isinstance(verdict := judge(problem(kind), tries, chance=0.0), Again):
        tries, count = verdict.tries, count + 1
    assert count == MAX_WAITING


@given(st.integers(0, MAX_WAITING - 2), st.integers(0, MAX_LOST - 2), st.floats(0, 1), st.floats(0, 1e9))
def test_pause_is_bounded(waiting: int, lost: int, chance: float, retry_after: float) -> None:
    """Whatever an answer asks for, nobody waits longer than five seconds."""
    verdict = judge(problem(GATEWAY + "no-slot"), Tries(waiting, lost), chance=chance, retry_after=retry_after)
    assert isinstance(verdict, Again)
    assert 0 <= verdict.delay <= 5.0


def test_pause_grows_and_honours_retry_after() -> None:
    """Each pause may be twice as long as the one before; what the answer asks for is the least."""
    delays = []
    tries = Tries()
    for _ in range(8):
        verdict = judge(problem(GATEWAY + "no-slot"), tries, chance=1.0)
        assert isinstance(verdict, Again)
        delays.append(verdict.delay)
        tries = verdict.tries
    assert delays == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    verdict = judge(problem(GATEWAY + "no-slot"), Tries(), chance=0.0, retry_after=2.0)
    assert isinstance(verdict, Again)
    assert verdict.delay == 2.0
