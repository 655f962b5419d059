"""What leaves at the end of a turn of the event loop: small writes of many links, one after the other.

A write to a peer that sleeps wakes it, and that costs more than the write. Peers that are written to back to back are
awake for the second one; and what several writers give to one link in one turn leaves in one record. A turn in which
thousands of links are read would keep the first of them waiting for the last: then some leave between two reads.

Trust: pure; the loop is given.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

MANY: Final = 128
"""Links that hold bytes back before they send without waiting for the end of the turn."""


class Held(Protocol):
    """A link that holds bytes back until the end of the turn."""

    def send_held(self) -> None:
        """Send them now."""


class Outbox:
    """The links of one event loop that hold bytes back. Each adds itself once a turn.

    ``first`` is called before they send: what must have happened before any of the bytes leaves. It may add links.
    """

    __slots__ = ("_first", "_flush", "_is_due", "_links", "_loop")

    def __init__(self, loop: asyncio.AbstractEventLoop, first: Callable[[], None] | None = None) -> None:
        self._loop = loop
        self._first = first
        self._links: list[Held] = []
        self._is_due = False
        self._flush = self.flush  # bound once, not every turn; an outbox lives as long as its loop

    def add(self, link: Held) -> None:
        """Have ``link.send_held()`` called when this turn is over, before anything more is read."""
        self._links.append(link)
        self.soon()

    def soon(self) -> None:
        """Have `flush` called when this turn is over, also when no link holds anything yet."""
        if not self._is_due:
            self._is_due = True
            self._loop.call_soon(self._flush)

    def between_reads(self) -> None:
        """A link was read, and all that comes of it is said: send now if there are many. Raises as `flush`."""
        if len(self._links) >= MANY:
            self._send(self._do_first())

    def flush(self) -> None:
        """Send what all of them hold. A fault of one costs the others nothing: the first is raised at the end."""
        fault = self._do_first()
        self._is_due = False
        self._send(fault)

    def _do_first(self) -> Exception | None:
        first = self._first
        if first is not None:
            try:
                first()
            except Exception as error:
                return error
        return None

    def _send(self, fault: Exception | None) -> None:
        links, self._links = self._links, []
        for link in links:
            try:
                link.send_held()
            except Exception as error:
                fault = fault or error
        if fault is not None:
            raise fault
