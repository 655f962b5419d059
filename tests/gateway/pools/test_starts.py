"""Starts of one worker: the older stays the older, for as long as the newer one is there."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gateway.pools.starts import ABSENCE, KEPT, MAX_STARTS, MAX_WORKERS, Starts


class Worker:
    """One worker's connections, as a pool sees them, and what is remembered of its starts."""

    def __init__(self) -> None:
        self.starts = Starts()
        self.present: dict[str, float] = {}
        self.now = 100.0

    def comes(self, instance: str) -> str | None:
        """A start dials: None when it is let in, else the newer one."""
        self.now += 1
        newer = self.starts.newer("w1", instance, self.now)
        if newer is None and instance not in self.present:
            self.present[instance] = self.starts.came("w1", instance, self.now, self.present, self.now)
        return newer

    def serves(self, instance: str) -> set[str]:
        """It answers a request; which of those present are superseded by that, and so leave."""
        self.starts.served("w1", instance, self.present[instance], self.present, self.now)
        older = {other for other in self.present if self.starts.is_older("w1", other)}
        for other in older:
            self.leaves(other)
        return older

    def leaves(self, instance: str) -> None:
        del self.present[instance]
        self.starts.left("w1", instance, self.present, self.now)


def test_newer_start_supersedes_once_it_serves_and_the_older_one_stays_away() -> None:
    """Not before it served; then for as long as it is there, however often the older one dials."""
    worker = Worker()
    assert worker.comes("a") is None
    assert worker.serves("a") == set()
    assert worker.comes("b") is None
    assert worker.comes("a") is None
    assert worker.serves("a") == set()
    assert worker.serves("b") == {"a"}
    worker.now += 10 * ABSENCE
    assert [worker.comes("a") for _ in range(3)] == ["b"] * 3
    assert worker.comes("b") is None
    assert worker.comes("c") is None
    assert worker.serves("c") == {"b"}
    assert (worker.comes("a"), worker.comes("b")) == ("c", "c")


def test_older_start_may_come_back_when_the_newer_one_was_gone_for_a_while() -> None:
    """Not at once: the newer one may only have lost its connections. Who comes later still is newer."""
    worker = Worker()
    worker.comes("a")
    worker.comes("b")
    worker.serves("b")
    worker.leaves("b")
    gone = worker.now
    worker.now = gone + ABSENCE - 2
    assert worker.comes("a") == "b"
    assert worker.comes("a") is None
    assert worker.serves("a") == set()
    assert worker.comes("b") is None
    assert worker.serves("a") == set()
    assert worker.serves("b") == {"a"}


def test_newer_start_that_comes_back_in_time_stays_the_newer() -> None:
    """A short loss of all its connections changes no order."""
    worker = Worker()
    worker.comes("a")
    worker.comes("b")
    worker.serves("b")
    worker.leaves("b")
    assert worker.comes("b") is None
    worker.now += 10 * ABSENCE
    assert worker.comes("a") == "b"


def test_start_that_lost_its_connections_is_as_old_as_before() -> None:
    """Its next connection makes it no newer than a start that came after its first one."""
    worker = Worker()
    worker.comes("a")
    worker.comes("b")
    worker.leaves("a")
    assert worker.comes("a") is None
    assert worker.serves("b") == {"a"}


def test_only_start_of_a_worker_costs_nothing() -> None:
    """There is nothing to remember of workers that start one after the other."""
    worker = Worker()
    for number in range(100):
        assert worker.comes(f"i{number}") is None
        worker.serves(f"i{number}")
        worker.leaves(f"i{number}")
    assert len(worker.starts) == 0


@pytest.mark.parametrize("beyond", [0, 1])
def test_starts_of_a_worker_are_bounded(beyond: int) -> None:
    """As many as the bound are remembered; with one more the oldest is forgotten, and is a new start when it dials."""
    worker = Worker()
    for number in range(MAX_STARTS + beyond):
        worker.comes(f"i{number}")
        worker.serves(f"i{number}")
    assert (worker.comes("i0") is None) == bool(beyond)
    ((_name, _current, seen),) = worker.starts.orders()
    assert len(seen) <= MAX_STARTS + 1


@pytest.mark.parametrize("beyond", [0, 1])
def test_workers_are_bounded(beyond: int) -> None:
    """Beyond the bound the one that was not heard of for longest is forgotten."""
    starts = Starts()
    for number in range(MAX_WORKERS + beyond):
        starts.came(f"w{number}", "b", 2.0, {"a": 1.0}, 2.0)
        starts.served(f"w{number}", "b", 2.0, {"a": 1.0, "b": 2.0}, 2.0)
    assert len(starts) == MAX_WORKERS
    assert (starts.newer("w0", "a", 3.0) is None) == bool(beyond)
    assert starts.newer(f"w{MAX_WORKERS - 1}", "a", 3.0) == "b"


def test_order_that_nobody_asked_for_is_forgotten() -> None:
    """A worker of which no start was heard for an hour; one that dials is remembered."""
    starts = Starts()
    for name in ("quiet", "dials"):
        starts.came(name, "b", 2.0, {"a": 1.0}, 2.0)
        starts.served(name, "b", 2.0, {"a": 1.0, "b": 2.0}, 2.0)
    assert starts.newer("dials", "a", KEPT) == "b"
    assert starts.newer("dials", "a", KEPT + 3.0) == "b"
    assert starts.newer("quiet", "a", KEPT + 3.0) is None


def test_start_that_two_processes_saw_is_as_old_as_the_first_sight() -> None:
    """The news of the earlier one may come late."""
    starts = Starts()
    assert starts.came("w1", "a", 5.0, {"b": 4.0}, 5.0) == 5.0
    assert starts.came("w1", "a", 3.0, {"b": 4.0, "a": 5.0}, 6.0) == 3.0
    starts.served("w1", "b", 4.0, {"a": 3.0, "b": 4.0}, 6.0)
    assert starts.is_older("w1", "a")


def test_what_one_process_remembers_another_learns() -> None:
    """Also of starts without a connection: a process that was started again refuses whom the one before refused."""
    worker = Worker()
    worker.comes("a")
    worker.comes("b")
    worker.serves("b")
    fresh = Starts()
    for name, current, seen in worker.starts.orders():
        fresh.learn(name, current, seen, worker.present, worker.now)
    assert fresh.newer("w1", "a", worker.now + 5 * ABSENCE) == "b"
    assert fresh.newer("w1", "b", worker.now) is None


STEPS = st.tuples(st.sampled_from(["comes", "serves", "leaves", "waits"]), st.sampled_from("abc"))


@given(st.lists(STEPS, max_size=60))
@settings(max_examples=150, deadline=None)
def test_starts_come_to_rest_whatever_happened(steps: list[tuple[str, str]]) -> None:
    """When all dial and serve as they can, one of them stays and no other is let in; somebody always has slots."""
    worker = Worker()
    for what, instance in steps:
        if what == "comes":
            worker.comes(instance)
        elif what == "waits":
            worker.now += ABSENCE / 2
        elif instance in worker.present:
            getattr(worker, what)(instance)

    def round_() -> set[str]:
        for instance in "abc":
            worker.comes(instance)
        for instance in tuple(worker.present):
            if instance in worker.present:
                worker.serves(instance)
        assert worker.present
        return set(worker.present)

    rounds: list[Any] = [round_() for _ in range(6)]
    assert len(rounds[2]) == 1
    assert all(later == rounds[2] for later in rounds[2:])
