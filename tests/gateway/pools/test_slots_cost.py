"""What a pool's steps cost: the same, whatever the number of its workers."""

from __future__ import annotations

import collections
import sys
from collections.abc import Callable
from types import FrameType

import gateway.pools.slots as pool_module
from gateway.pools.least_busy import Label, Slot
from gateway.pools.slots import Pool


def cost(work: Callable[[], object]) -> int:
    """Lines of Python that the work executes, also in loops and comprehensions: a measure that no machine changes."""
    lines = 0

    def trace(frame: FrameType, event: str, arg: object) -> Callable[..., object]:
        nonlocal lines
        lines += frame.f_code.co_filename == pool_module.__file__
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        work()
    finally:
        sys.settrace(before)
    return lines


def costs(workers: int) -> dict[str, int]:
    """What each step costs at most in a pool of so many workers, from all idle to all busy and back."""
    pool = Pool("render", queue=10)
    for number in range(workers):
        for _ in range(2):
            pool.add(f"w{number}", object(), labels=[("all", "1"), ("mod", str(number % 7))], now=0.0)
    busy: collections.deque[Slot] = collections.deque()
    found: dict[str, int] = collections.defaultdict(int)

    def lease(name: str, label: Label | None, not_again: str | None) -> None:
        slot: Slot | None = None

        def take() -> None:
            nonlocal slot
            slot = pool.lease(label=label, not_again=not_again)

        found[name] = max(found[name], cost(take))
        if slot is not None:
            busy.append(slot)

    for _ in range(workers):
        lease("lease", None, None)
        lease("lease with a label", ("mod", "3"), None)
        lease("lease elsewhere", None, "w1")
    for number in range(20):
        found["join"] = max(found["join"], cost(lambda name=f"n{number}": pool.add(name, object(), now=0.0)))
        found["leave busy"] = max(found["leave busy"], cost(lambda: pool.remove(busy.popleft())))
        slot = pool.lease(worker=f"n{number}")
        assert slot is not None
        pool.release(slot)
        found["leave idle"] = max(found["leave idle"], cost(lambda slot=slot: pool.remove(slot)))
    while busy:
        found["release"] = max(found["release"], cost(lambda: pool.release(busy.popleft())))
    assert pool.free == pool.total
    return dict(found)


def test_pool_costs_the_same_whatever_its_size() -> None:
    """O(1): the same few lines run among 100 workers and among 10,000, whichever of them are busy."""
    assert costs(10_000) == costs(100)
