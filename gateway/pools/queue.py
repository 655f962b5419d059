"""Requests that wait for a slot of a pool: first come, first served, save that some want one worker only.

Trust: pure.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Protocol

from gateway.pools.least_busy import Slot


class Waiter(Protocol):
    """A request that waits for a slot. One that is gone takes itself out of the queue; nobody asks it."""

    worker: str | None
    """Only this worker will do."""
    is_ours: bool
    """False: it waits for a request of another process, and is counted there."""

    def offered(self, slot: Slot, /) -> None:
        """The wait is over: the slot is this request's."""

    def pool_closed(self) -> None:
        """The wait is over: the pool hands out nothing more."""


_Line = OrderedDict[Waiter, int]


class WaitQueue:
    """The queue of one pool."""

    __slots__ = ("_any", "_next", "_workers", "own", "own_any", "size")

    def __init__(self) -> None:
        self.size = 0
        """How many wait, which is asked for every request."""
        self.own = 0
        """How many are requests of this process."""
        self.own_any = 0
        """How many of these any worker may serve."""
        # Each with the number of its turn; ordered dictionaries, since whoever gives up leaves from the middle.
        self._any: _Line = OrderedDict()
        self._workers: dict[str, _Line] = {}
        self._next = 0

    def __len__(self) -> int:
        return self.size

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in (self._any if waiter.worker is None else self._workers.get(waiter.worker, ()))

    def turn(self) -> int:
        """A turn for a request that may have to wait later on: ahead of all that come from now on."""
        self._next += 1
        return self._next

    def add(self, waiter: Waiter, turn: int = 0) -> None:
        """Put it where its turn is; without one at the end."""
        self._count(waiter, 1)
        line = self._any if waiter.worker is None else self._workers.setdefault(waiter.worker, OrderedDict())
        is_late = turn > 0 and line and turn < next(reversed(line.values()))
        line[waiter] = turn or self.turn()
        if is_late:
            inside = sorted(line.items(), key=lambda one: one[1])
            line.clear()
            line.update(inside)

    def remove(self, waiter: Waiter) -> bool:
        """Take it out: its time is up or its client is gone. False when it does not wait."""
        if waiter not in self:
            return False
        if waiter.worker is None:
            del self._any[waiter]
        else:
            named = self._workers[waiter.worker]
            del named[waiter]
            if not named:
                del self._workers[waiter.worker]
        self._count(waiter, -1)
        return True

    def remove_all(self) -> list[Waiter]:
        """Empty it; answer who waited, in the order in which they came."""
        turns = [(turn, waiter) for line in (self._any, *self._workers.values()) for waiter, turn in line.items()]
        waiters = [waiter for _, waiter in sorted(turns, key=lambda one: one[0])]
        for waiter in waiters:
            self.remove(waiter)
        return waiters

    def take(self, worker: str) -> Waiter | None:
        """Take out whoever waits longest and may use a slot of this worker."""
        return self._take([next(iter(line.items()), None) for line in self._lines(worker)])

    def take_own(self, worker: str) -> Waiter | None:
        """As `take`, but only a request of this process: what another one reserved for us is not passed on."""
        return self._take([next((one for one in line.items() if one[0].is_ours), None) for line in self._lines(worker)])

    def own_named(self) -> list[Waiter]:
        """Requests of this process that want one worker."""
        return [waiter for line in self._workers.values() for waiter in line if waiter.is_ours]

    def _lines(self, worker: str) -> list[_Line]:
        named = self._workers.get(worker)
        return [self._any] if named is None else [self._any, named]

    def _take(self, firsts: list[tuple[Waiter, int] | None]) -> Waiter | None:
        waiter = None
        earliest = self._next + 1
        for first in firsts:
            if first is not None and first[1] < earliest:
                waiter, earliest = first
        if waiter is not None:
            self.remove(waiter)
        return waiter

    def _count(self, waiter: Waiter, change: int) -> None:
        self.size += change
        if waiter.is_ours:
            self.own += change
            if waiter.worker is None:
                self.own_any += change
