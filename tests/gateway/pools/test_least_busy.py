"""Which worker comes first: the least busy, then the longest idle, whoever comes and goes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from gateway.pools.least_busy import Levels, Place, Worker


def worker(name: str) -> Worker:
    return Worker(name, (), "ptth/1.0", 0.0, b".render.test")


def test_first_worker_is_the_least_busy_then_the_longest_idle() -> None:
    """The order within a level is that of coming to it."""
    levels = Levels()
    busy, first, second = worker("busy"), worker("first"), worker("second")
    for one, level in ((busy, 1), (first, 0), (second, 0)):
        levels.add(one.place, level)
    assert levels.first() is first
    assert levels.first("first") is second
    Levels.discard(first.place)
    Levels.discard(second.place)
    assert levels.first() is busy
    assert levels.first("busy") is None


def test_worker_that_stands_nowhere_can_be_taken_out() -> None:
    """As often as one likes."""
    one = worker("w1")
    Levels.discard(one.place)
    levels = Levels()
    levels.add(one.place, 3)
    Levels.discard(one.place)
    Levels.discard(one.place)
    assert levels.first() is None


@given(
    st.lists(
        st.tuples(st.integers(0, 5), st.one_of(st.none(), st.integers(0, 4)), st.sampled_from([None, "w0", "w1"])),
        max_size=80,
    )
)
def test_levels_agree_with_plain_lists(steps: list[tuple[int, int | None, str | None]]) -> None:
    """Moving workers between levels, and asking in between."""
    levels, workers = Levels(), [worker(f"w{number}") for number in range(6)]
    model: list[list[Worker]] = [[] for _ in range(5)]
    for number, level, not_again in steps:
        one = workers[number]
        place: Place = one.place
        Levels.discard(place)
        for ring in model:
            if one in ring:
                ring.remove(one)
        if level is not None:
            levels.add(place, level)
            model[level].append(one)
        wanted = next((w for ring in model for w in ring if w.name != not_again), None)
        assert levels.first(not_again) is wanted
        assert levels.first() is next((w for ring in model for w in ring), None)
