"""Coarse deadlines for very many connections, at no cost for each message.

A deadline that moves later is one attribute store; the wheel finds out when its old bucket comes round. Pure: the
owner turns the wheel and brings the time.
"""

from __future__ import annotations

import math
from typing import Protocol


class Timed(Protocol):
    """What a wheel can watch. Both attributes belong to the wheel and start as 0.0."""

    deadline: float
    """Monotonic time, seconds; 0.0 is never."""
    bucket: float
    """The bucket that holds the object; 0.0 is none."""

    def deadline_passed(self) -> None:
        """Called once when the deadline was reached; it may set another."""


class TimerWheel:
    """Deadlines in buckets of ``tick`` seconds; each fires between its time and one tick later."""

    __slots__ = ("_buckets", "_turned", "now", "tick")

    def __init__(self, now: float, *, tick: float = 0.25) -> None:
        self.now = now
        """Time of the last turn: coarse, good enough for deadlines."""
        self.tick = tick
        self._turned = math.floor(now / tick)
        self._buckets: dict[int, set[Timed]] = {}

    def __len__(self) -> int:
        return sum(map(len, self._buckets.values()))

    def set(self, item: Timed, seconds: float) -> None:
        """Let ``item`` expire ``seconds`` from now, earlier or later than before."""
        deadline = self.now + seconds
        item.deadline = deadline
        if not item.bucket or deadline < item.bucket - self.tick:  # else its bucket is early enough
            self._place(item, deadline)

    def clear(self, item: Timed) -> None:
        """Let ``item`` never expire; it leaves its bucket when that comes round. To store 0.0 in it does the same."""
        item.deadline = 0.0

    def forget(self, item: Timed) -> None:
        """Drop ``item`` at once, for objects that are gone."""
        item.deadline = 0.0
        if item.bucket:
            number = round(item.bucket / self.tick)
            bucket = self._buckets.get(number)
            if bucket is not None:
                bucket.discard(item)
                if not bucket:
                    del self._buckets[number]  # its time may be days away
            item.bucket = 0.0

    def _place(self, item: Timed, deadline: float) -> None:
        if item.bucket:
            old = self._buckets.get(round(item.bucket / self.tick))
            if old is not None:
                old.discard(item)
        number = max(math.floor(deadline / self.tick) + 1, self._turned + 1)
        item.bucket = number * self.tick
        bucket = self._buckets.get(number)
        if bucket is None:
            bucket = self._buckets[number] = set()
        bucket.add(item)

    def turn(self, now: float) -> None:
        """Move to ``now`` and fire what is due.

        A fault of one item does not cost the others their deadlines: the first fault is raised when all have fired.
        """
        self.now = now
        until = math.floor(now / self.tick)
        if until <= self._turned:
            return
        span = range(self._turned + 1, until + 1)
        # After a long stall there are fewer buckets than ticks.
        numbers = sorted(n for n in self._buckets if n <= until) if len(span) > len(self._buckets) else span
        self._turned = until
        fault: Exception | None = None
        for number in numbers:
            for item in self._buckets.pop(number, ()):
                item.bucket = 0.0
                if not item.deadline:
                    continue
                if item.deadline > now:
                    self._place(item, item.deadline)
                else:
                    item.deadline = 0.0
                    try:
                        item.deadline_passed()
                    except Exception as error:
                        fault = fault or error
        if fault is not None:
            raise fault
