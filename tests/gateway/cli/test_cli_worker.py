"""What ``rhttp-pki worker`` tells its operator, and how often."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from rhttp import Status
from rhttp.worker.command import _StatusPrinter


def status(open_: int, *, wanted: int = 4, problem: str | None = None, draining: bool = False) -> Status:
    return Status(wanted=wanted, open=open_, busy=0, dialling=0, served=0, problem=problem, draining=draining)


def lines(told: list[Status], capsys: pytest.CaptureFixture[str]) -> int:
    """How many lines come of it; all say the same."""
    teller = _StatusPrinter()
    bundle = SimpleNamespace(name="w1", gateway="https://g:1", pool="render")
    teller.worker = SimpleNamespace(bundle=bundle)  # type: ignore[assignment]
    for one in told:
        teller.status(one)
    said = capsys.readouterr().out.splitlines()
    assert set(said) <= {"worker w1: 4 slots connected to https://g:1 pool render"}
    return len(said)


STEPS = {
    "start": ([0, 1, 2, 3, 4], 1),
    "one is replaced": ([0, 4, 3, 4, 3, 2, 4], 1),
    "all are lost": ([0, 4, 2, 0, 1, 4, 4], 2),
    "never whole": ([0, 1, 3, 2], 0),
}


@pytest.mark.parametrize("what", STEPS)
def test_worker_tells_once_that_all_slots_are_connected(what: str, capsys: pytest.CaptureFixture[str]) -> None:
    """At first, and again when all were lost: a line for a reconnect, none for one connection of several."""
    steps, count = STEPS[what]
    assert lines([status(open_) for open_ in steps], capsys) == count


def test_worker_tells_that_trouble_is_over(capsys: pytest.CaptureFixture[str]) -> None:
    """Whoever read of it learns that it passed, though some slots were there all the time."""
    assert lines([status(0), status(4), status(3, problem="it refuses"), status(4)], capsys) == 2


def test_worker_that_drains_tells_of_no_slots(capsys: pytest.CaptureFixture[str]) -> None:
    """They are about to go."""
    assert lines([status(0), status(4, draining=True)], capsys) == 0
