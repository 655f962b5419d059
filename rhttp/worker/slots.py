"""How many requests a worker takes at a time: over HTTP/1.1, how many reversed connections it keeps open.

Trust: pure.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

MAX_SLOTS: Final = 4096
"""More connections than any gateway takes from one worker; a wrong number must not eat the machine."""


class Slots:
    """A number of slots that may change while the agent runs.

    >>> slots = Slots(4)
    >>> slots.set(2)        # a quiet connection closes, a busy one after its answer
    >>> slots.wanted(busy=1)
    2
    """

    def __init__(self, total: int = 1) -> None:
        self._total = _bounded(total)
        self._tell: Callable[[], None] | None = None

    def set(self, total: int) -> None:
        """Have so many connections from now on, busy ones included. Call it in the event loop's thread."""
        self._total = _bounded(total)
        if self._tell is not None:
            self._tell()

    def wanted(self, busy: int) -> int:
        """How many connections there should be, when ``busy`` of them serve a request now."""
        return self._total

    def watch(self, tell: Callable[[], None]) -> None:
        """For the agent: have ``tell`` called when the number changed. The last watcher counts."""
        self._tell = tell


class _Called(Slots):
    """A number that a callable gives; the agent asks a few times a second."""

    def __init__(self, call: Callable[[], int]) -> None:
        super().__init__(0)
        self._call = call

    def wanted(self, busy: int) -> int:
        return _bounded(self._call())


class FreeSlots(Slots):
    """As many *idle* connections as ``free()`` says, beside those that are busy.

    For a master that joins a higher gateway as a worker: its free sum is what it can take right now, and a request that
    it serves has left that sum already.

    >>> FreeSlots(lambda: 3).wanted(busy=2)
    5
    """

    def __init__(self, free: Callable[[], int]) -> None:
        super().__init__(0)
        self._free = free

    def wanted(self, busy: int) -> int:
        """Busy and free together."""
        return _bounded(busy + max(0, self._free()))


def as_slots(slots: int | Callable[[], int] | Slots) -> Slots:
    """A `Slots` from what users write: a number, a callable that gives the total, or a `Slots`."""
    if isinstance(slots, Slots):
        return slots
    return _Called(slots) if callable(slots) else Slots(slots)


def _bounded(total: int) -> int:
    return max(0, min(int(total), MAX_SLOTS))
