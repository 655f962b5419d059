"""How many connections there should be."""

from __future__ import annotations

from rhttp.worker.slots import MAX_SLOTS, FreeSlots, Slots, as_slots


def test_number_is_the_total() -> None:
    """A number counts busy connections too."""
    assert as_slots(3).wanted(busy=2) == 3


def test_slots_object_tells_its_watcher_of_a_change() -> None:
    """The agent hears of a new number at once."""
    slots, told = as_slots(Slots(1)), []
    slots.watch(lambda: told.append(slots.wanted(0)))
    slots.set(5)
    assert told == [5]


def test_callable_is_asked_each_time() -> None:
    """What a callable says may change."""
    numbers = iter([1, 2])
    slots = as_slots(lambda: next(numbers))
    assert [slots.wanted(0), slots.wanted(0)] == [1, 2]


def test_free_slots_come_on_top_of_busy_ones() -> None:
    """A master's free sum says what it can take beside what it already serves."""
    assert as_slots(FreeSlots(lambda: 3)).wanted(busy=4) == 7
    assert FreeSlots(lambda: -1).wanted(busy=4) == 4


def test_numbers_out_of_bounds_are_brought_back() -> None:
    """A mistake in a program opens neither a negative nor a ruinous number of connections."""
    assert as_slots(-1).wanted(0) == 0
    assert as_slots(10**9).wanted(0) == MAX_SLOTS
    assert as_slots(lambda: 10**9).wanted(0) == MAX_SLOTS
