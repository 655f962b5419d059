"""The timer wheel against a plain list of deadlines: once, never early, at most one tick late."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from rhttp.timers import TimerWheel

TICK = 0.25


class Item:
    """Counts how often and when it fired."""

    def __init__(self, wheel: TimerWheel) -> None:
        self.deadline = 0.0
        self.bucket = 0.0
        self.fired: list[float] = []
        self.again: float | None = None
        self._wheel = wheel

    def deadline_passed(self) -> None:
        self.fired.append(self._wheel.now)
        if self.again is not None:
            self._wheel.set(self, self.again)


class WheelModel(RuleBasedStateMachine):
    """A few items; `due` is what a list of deadlines would say."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = TimerWheel(1000.0, tick=TICK)
        self.items = [Item(self.wheel) for _ in range(4)]
        self.due: dict[Item, float] = {}
        self.seen = dict.fromkeys(self.items, 0)

    @rule(number=st.integers(0, 3), seconds=st.floats(0, 10) | st.sampled_from([0.0, TICK, 2 * TICK, 1.0]))
    def set(self, number: int, seconds: float) -> None:
        item = self.items[number]
        self.wheel.set(item, seconds)
        self.due[item] = self.wheel.now + seconds

    @rule(number=st.integers(0, 3))
    def clear(self, number: int) -> None:
        self.wheel.clear(self.items[number])
        self.due.pop(self.items[number], None)

    @rule(number=st.integers(0, 3))
    def forget(self, number: int) -> None:
        self.wheel.forget(self.items[number])
        self.due.pop(self.items[number], None)
        assert not self.items[number].bucket

    @precondition(lambda self: self.due)
    @rule(seconds=st.floats(0.001, 3) | st.sampled_from([TICK, 100.0]))
    def turn(self, seconds: float) -> None:
        now = self.wheel.now + seconds
        self.wheel.turn(now)
        for item in self.items:
            due = self.due.get(item)
            fired = len(item.fired) - self.seen[item]
            self.seen[item] = len(item.fired)
            assert fired <= (due is not None), "fired without a deadline, or twice"
            if due is None:
                continue
            if fired:
                assert due <= now, "fired early"
                del self.due[item]
            else:
                assert now < due + TICK + 1e-9, "more than a tick late"

    @invariant()
    def holds_no_more_than_its_items(self) -> None:
        assert len(self.wheel) <= len(self.items)


TestWheel = WheelModel.TestCase
TestWheel.settings = settings(max_examples=150, stateful_step_count=30, deadline=None)


def test_wheel_moves_a_deadline_later_without_firing_at_the_old_one() -> None:
    """Later is one attribute store; the old time passes without effect."""
    wheel = TimerWheel(100.0)
    item = Item(wheel)
    wheel.set(item, 1.0)
    wheel.set(item, 5.0)
    wheel.turn(103.0)
    assert item.fired == []
    wheel.turn(105.5)
    assert item.fired == [105.5]
    wheel.turn(200.0)
    assert len(item.fired) == 1


def test_wheel_moves_a_deadline_earlier() -> None:
    """Earlier takes effect, and the later time is forgotten."""
    wheel = TimerWheel(100.0)
    item = Item(wheel)
    wheel.set(item, 50.0)
    wheel.set(item, 1.0)
    wheel.turn(101.5)
    assert item.fired == [101.5]
    wheel.turn(200.0)
    assert len(item.fired) == 1


def test_wheel_lets_an_item_set_itself_again() -> None:
    """A heartbeat: each time from the moment when it fired."""
    wheel = TimerWheel(100.0)
    item = Item(wheel)
    item.again = 10.0
    wheel.set(item, 10.0)
    for now in range(101, 145):
        wheel.turn(float(now))
    assert item.fired == [111.0, 122.0, 133.0, 144.0]


def test_wheel_lets_an_item_forget_another_that_is_due_in_the_same_turn() -> None:
    """Whoever is forgotten does not fire, whatever the order in the bucket."""
    wheel = TimerWheel(100.0)
    items = [Item(wheel) for _ in range(10)]

    class Killer(Item):
        def deadline_passed(self) -> None:
            super().deadline_passed()
            for item in items:
                wheel.forget(item)

    killer = Killer(wheel)
    for item in [*items, killer]:
        wheel.set(item, 1.0)
    wheel.turn(102.0)
    fired_after = [item for item in items if item.fired and item.bucket]
    assert killer.fired == [102.0]
    assert fired_after == []
    wheel.turn(110.0)
    assert all(len(item.fired) <= 1 for item in items)
    assert len(wheel) == 0


def test_wheel_fires_the_others_when_one_fails() -> None:
    """A fault is raised, after everybody had their turn."""
    wheel = TimerWheel(100.0)
    items = [Item(wheel) for _ in range(20)]

    class Faulty(Item):
        def deadline_passed(self) -> None:
            raise RuntimeError("fault")

    for item in [*items[:10], Faulty(wheel), *items[10:]]:
        wheel.set(item, 1.0)
    with pytest.raises(RuntimeError, match="fault"):
        wheel.turn(102.0)
    assert all(item.fired == [102.0] for item in items)
    wheel.set(items[0], 1.0)
    wheel.turn(104.0)
    assert items[0].fired == [102.0, 104.0]


def test_wheel_after_a_long_stall_looks_at_its_buckets_not_at_every_tick() -> None:
    """A year of ticks with one item in the wheel is one step."""
    wheel = TimerWheel(0.0)
    item = Item(wheel)
    wheel.set(item, 1.0)
    wheel.turn(366 * 86400.0)
    assert len(item.fired) == 1


def test_wheel_does_not_keep_what_was_forgotten() -> None:
    """A connection that is gone is held by nobody, though its deadline was far away."""
    wheel = TimerWheel(100.0)
    item = Item(wheel)
    wheel.set(item, 75.0)
    assert len(wheel) == 1
    wheel.forget(item)
    assert len(wheel) == 0
