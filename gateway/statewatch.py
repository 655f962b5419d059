"""Users and revocations on their way from the database to the data processes.

Twice a second the version of the state is read; when it moved, a snapshot is loaded and pushed, and the push ends when
every process has closed what the snapshot ends. No database call runs on the event loop. When the state cannot be
read nothing is pushed and nobody is told that it is fresh: the processes stop admitting after ``limits.state_stale``.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Final, Protocol

from gateway.clock import elapsed
from gateway.state import StateSnapshot, StateUnavailable

INTERVAL: Final = 0.5
CLOCK_STEP: Final = 60.0
"""Seconds that the time of day may differ from elapsed time before state is read anew."""


class StateSource(Protocol):
    """The database; both calls block, and raise whatever the driver raises."""

    def read_version(self) -> int:
        """The number that every write transaction raises."""
        ...

    def load(self) -> StateSnapshot:
        """All that the data processes need to know."""
        ...


class StateUnreadable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The state could not be read now; what the processes have stays, and goes stale."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pushed:
    """The version that every process has, and how many connections ended when it came."""

    version: int
    cut: int


class StateWatch:
    """Holds the latest snapshot; `run` polls for ever, `refresh` does it now."""

    def __init__(
        self,
        source: StateSource,
        first: StateSnapshot,
        *,
        push: Callable[[StateSnapshot], Awaitable[int]],
        fresh: Callable[[float], None],
        lock: asyncio.Lock,
        log: Callable[[str], None],
        interval: float = INTERVAL,
    ) -> None:
        """``push`` makes every process use a snapshot and returns the connections cut; ``fresh`` tells them a time.

        ``lock`` is held during a push, so that it never overtakes a reload or the start of a process.
        """
        self._source = source
        self._push = push
        self._fresh = fresh
        self._lock = lock
        self._log = log
        self._interval = interval
        self._unreadable = False
        self._last = Pushed(version=first.version, cut=0)
        self.snapshot = first
        self._offset = time.time() - elapsed()
        self.fresh_at = elapsed()
        """Second of `gateway.clock` before the last read that succeeded."""

    @property
    def readable(self) -> bool:
        """Whether the last look at the database succeeded."""
        return not self._unreadable

    async def run(self) -> None:
        """Poll until cancelled."""
        while True:
            await asyncio.sleep(self._interval)
            await self._poll()

    async def _poll(self) -> None:
        at = elapsed()  # before the read: what was written after it may be missing from it
        try:
            version = await asyncio.to_thread(self._source.read_version)
        except Exception as error:  # whatever a driver raises: it cannot be read
            self._failed(error)
            return
        if version == self._last.version and not self._clock_was_set():
            self._told(at)
            return
        try:
            await self.refresh()
        except StateUnreadable:
            return  # said already

    async def refresh(self) -> Pushed:
        """Read the state now; returns when every process uses what was read, or something newer.

        Raises:
            StateUnreadable: it cannot be read.
        """
        async with self._lock:
            return await self.refresh_locked()

    async def refresh_locked(self) -> Pushed:
        """`refresh` for a caller that holds the lock."""
        at = elapsed()
        try:
            snapshot = await asyncio.to_thread(self._source.load)
        except Exception as error:
            self._failed(error)
            raise StateUnreadable(f"the state cannot be read ({type(error).__name__}); see the gateway's log") from None
        if snapshot.version != self._last.version or snapshot != self.snapshot:
            self.snapshot = snapshot  # first: a process that starts from here on must have it
            cut = await self._push(snapshot)
            self._last = Pushed(version=snapshot.version, cut=cut)
        self._told(at)
        return self._last

    def _clock_was_set(self) -> bool:
        """Whether the time of day has jumped: a snapshot leaves out what had expired long before it was read."""
        offset = time.time() - elapsed()
        jump = offset - self._offset
        if abs(jump) < CLOCK_STEP:
            return False
        self._offset = offset
        self._log(f"the clock was set {'forward' if jump > 0 else 'back'} by {abs(jump):.0f} s; state is read anew")
        return True

    def _told(self, at: float) -> None:
        if self._unreadable:
            self._log("the state can be read again")
        self._unreadable = False
        self.fresh_at = at
        self._fresh(at)

    def _failed(self, error: Exception) -> None:
        if not self._unreadable:
            # Its own errors are one safe line; a driver's text may hold parameters or the URL's password.
            detail = str(error) if isinstance(error, StateUnavailable) else type(error).__name__
            self._log(f"the state cannot be read, so admissions end when it is stale: {detail}")
        self._unreadable = True
