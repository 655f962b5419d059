"""Requests that wait for a slot of a pool: first come, first served, save that some want one worker only.

Trust: pure.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from gateway.pools.least_busy import Label, Slot


class Waiter(Protocol):
    """A request that waits for a slot."""

    worker: str | None
    """Only this worker will do."""
    label: Label | None
    waiting: bool
    """Set to False by whoever takes it out of the queue or gives up."""
    is_ours: bool
    """False: it waits for a request of another process, and is counted there."""

    def offered(self, slot: Slot, /) -> None:
        """The wait is over: the slot is leased to this request."""

    def pool_closed(self) -> None:
        """The wait is over: the pool hands out nothing more."""


class WaitQueue:
    """The queue of one pool."""

    __slots__ = ("_any", "_next", "_sequence", "_workers", "own", "own_any")

    def __init__(self) -> None:
        self.own = 0
        """How many are requests of this process."""
        self.own_any = 0
        """How many of these any worker may serve."""
        self._any: deque[Waiter] = deque()
        self._workers: dict[str, deque[Waiter]] = {}
        self._sequence: dict[Waiter, int] = {}
        self._next = 0

    def __len__(self) -> int:
        return len(self._sequence)

    def add(self, waiter: Waiter) -> None:
        """Put it at the end."""
        waiter.waiting = True
        self._next += 1
        self._sequence[waiter] = self._next
        self._count(waiter, 1)
        if waiter.worker is None:
            self._any.append(waiter)
        else:
            self._workers.setdefault(waiter.worker, deque()).append(waiter)

    def remove(self, waiter: Waiter) -> bool:
        """Take it out: its time is up or its client is gone. False when it does not wait."""
        if not waiter.waiting:
            return False
        self._take_out(waiter)
        # The deque forgets it lazily; a queue that is mostly forgotten is swept, so it stays within twice its bound.
        if waiter.worker is not None:
            queue = self._workers[waiter.worker]
            queue.remove(waiter)
            if not queue:
                del self._workers[waiter.worker]
        elif len(self._any) > 2 * len(self._sequence) + 16:
            self._any = deque(other for other in self._any if other.waiting)
        return True

    def remove_all(self) -> list[Waiter]:
        """Empty it; answer who waited."""
        waiters = list(self._sequence)
        for waiter in waiters:
            self.remove(waiter)
        return waiters

    def take(self, worker: str) -> Waiter | None:
        """Take out whoever waits longest and may use a slot of this worker."""
        waiters = self._any
        while waiters and not waiters[0].waiting:
            waiters.popleft()
        named = self._workers.get(worker)
        if named is not None and (not waiters or self._sequence[named[0]] < self._sequence[waiters[0]]):
            waiter = named.popleft()
            if not named:
                del self._workers[worker]
        elif waiters:
            waiter = waiters.popleft()
        else:
            return None
        self._take_out(waiter)
        return waiter

    def take_own(self, worker: str) -> Waiter | None:
        """As `take`, but only a request of this process: what another one reserved for us is not passed on."""
        named = self._workers.get(worker, ())
        candidates = [next((w for w in queue if w.waiting and w.is_ours), None) for queue in (self._any, named)]
        found = [waiter for waiter in candidates if waiter is not None]
        if not found:
            return None
        waiter = min(found, key=self._sequence.__getitem__)
        self.remove(waiter)
        return waiter

    def own_named(self) -> list[Waiter]:
        """Requests of this process that want one worker."""
        return [waiter for queue in self._workers.values() for waiter in queue if waiter.is_ours]

    def _take_out(self, waiter: Waiter) -> None:
        waiter.waiting = False
        self._count(waiter, -1)
        del self._sequence[waiter]

    def _count(self, waiter: Waiter, change: int) -> None:
        if waiter.is_ours:
            self.own += change
            if waiter.worker is None:
                self.own_any += change
