"""Who waits for a slot, and who is served next: in any order of coming, leaving and being taken."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.pools.least_busy import Label, Slot
from gateway.pools.queue import WaitQueue


class Waiter:
    """A request that waits."""

    def __init__(self, number: int, worker: str | None, is_ours: bool = True) -> None:
        self.number = number
        self.worker = worker
        self.is_ours = is_ours
        self.label: Label | None = None

    def offered(self, slot: Slot) -> None:
        raise AssertionError("a line offers nothing")


def line_of(*waiters: Waiter) -> WaitQueue:
    line = WaitQueue()
    for waiter in waiters:
        line.add(waiter)
    return line


@pytest.mark.parametrize(
    ("wanted", "worker", "served"),
    [
        ([None, None], "w1", 0),
        (["w2", None], "w1", 1),
        (["w1", None], "w1", 0),
        ([None, "w1"], "w1", 0),
        (["w2", "w2"], "w1", None),
        ([], "w1", None),
    ],
)
def test_line_serves_whoever_waits_longest_and_may_use_the_worker(
    wanted: list[str | None], worker: str, served: int | None
) -> None:
    """A wish for one worker neither gains nor loses a place by it."""
    waiter = line_of(*(Waiter(n, w) for n, w in enumerate(wanted))).take(worker)
    assert (waiter.number if isinstance(waiter, Waiter) else None) == served


def test_line_gives_a_borrowed_slot_to_a_request_of_its_own_only() -> None:
    """Requests of other processes wait in their own lines as well."""
    line = line_of(Waiter(0, None, is_ours=False), Waiter(1, "w1", is_ours=False), Waiter(2, None))
    taken = line.take_own("w1")
    assert isinstance(taken, Waiter)
    assert taken.number == 2
    assert line.take_own("w1") is None
    assert len(line) == 2


def test_line_forgets_whoever_left() -> None:
    """A request that gave up is not served, and leaving twice is no fault."""
    first, second = Waiter(0, None), Waiter(1, None)
    line = line_of(first, second)
    assert line.remove(first)
    assert not line.remove(first)
    assert line.take("w1") is second
    assert len(line) == 0


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["add", "take", "own", "leave"]),
            st.sampled_from([None, "w1", "w2"]),
            st.booleans(),
            st.integers(0, 9),
        ),
        max_size=80,
    )
)
def test_line_agrees_with_a_plain_list(steps: list[tuple[str, str | None, bool, int]]) -> None:
    """Whatever comes and goes: the order, the counts, and nothing that is kept of who is gone."""
    line, model = WaitQueue(), list[Waiter]()
    for number, (what, worker, is_ours, which) in enumerate(steps):
        if what == "add":
            model.append(waiter := Waiter(number, worker, is_ours))
            line.add(waiter)
        elif what == "leave" and model:
            assert line.remove(model.pop(which % len(model)))
        elif what in ("take", "own"):
            name = worker or "w1"
            may = [w for w in model if w.worker in (None, name) and (what == "take" or w.is_ours)]
            got = line.take(name) if what == "take" else line.take_own(name)
            assert got is (may[0] if may else None)
            if may:
                model.remove(may[0])
                assert may[0] not in line
        assert len(line) == len(model)
        assert line.own == sum(w.is_ours for w in model)
        assert line.own_any == sum(w.is_ours and w.worker is None for w in model)
        assert sorted(w.number for w in line.own_named() if isinstance(w, Waiter)) == [
            w.number for w in model if w.is_ours and w.worker is not None
        ]
        assert all(w in line for w in model)
    assert line.remove_all() == model
    assert not any(w in line for w in model)
    assert (len(line), line._workers) == (0, {})


@pytest.mark.parametrize("worker", [None, "w1"])
def test_line_puts_whoever_took_a_turn_before_where_that_is(worker: str | None) -> None:
    """Ahead of all that came after the turn was taken, behind those that came before, in whatever order they come."""
    line = line_of(Waiter(0, worker))
    turns = {1: line.turn(), 2: line.turn()}
    line.add(Waiter(3, worker))
    turns[4] = line.turn()
    line.add(Waiter(5, worker))
    for number in (2, 4, 1):
        line.add(Waiter(number, worker), turns[number])
    line.add(Waiter(6, worker))
    assert (line.own, line.own_any, len(line)) == (7, 0 if worker else 7, 7)
    served = [line.take("w1") for _ in range(7)]
    assert [one.number for one in served if isinstance(one, Waiter)] == list(range(7))
    assert line.take("w1") is None
