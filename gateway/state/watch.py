"""Users and revocations on their way from the database to the data processes.

Twice a second the version of the state is read; when it moved, a snapshot is loaded and pushed, and the push ends when
every process has closed what the snapshot ends. No database call runs on the event loop. When the state cannot be
read nothing is pushed and nobody is told that it is fresh: the processes stop admitting after ``limits.state_stale``.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, replace
from typing import Any, Final, Protocol

from gateway.state.database import StateUnavailable
from gateway.state.snapshot import StateSnapshot
from rhttp.clock import elapsed

INTERVAL: Final = 0.5
REFRESH_PAUSE: Final = 0.1
"""Seconds between two refreshes of those who share them: what many write one after another is pushed out together."""
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
        push: Callable[[StateSnapshot], Coroutine[Any, Any, int]],
        fresh: Callable[[float], None],
        log: Callable[[str], None],
        interval: float = INTERVAL,
    ) -> None:
        """``push`` makes every process use a snapshot and returns the connections cut; ``fresh`` tells them a time.

        A push waits for nothing and nobody waits for it but who asked: not a reload, not a process that starts, not the
        push of what is read next. `StateSnapshot.read` tells a process which of two is the newer one.
        """
        self._source = source
        self._push = push
        self._fresh = fresh
        self._reading = asyncio.Lock()
        self._pushing: asyncio.Task[Pushed] | None = None
        """The push of the latest snapshot, under way or over; None: it is the first, which nobody was told."""
        self._pushes: set[asyncio.Task[Pushed]] = set()
        self._log = log
        self._interval = interval
        self._unreadable = False
        self._sharing = asyncio.Lock()
        self._shared_at = 0.0
        self._shared: asyncio.Task[None] | None = None
        """The refresh that has not begun yet, for all who ask before it does."""
        self.snapshot = first
        """The latest; a process that starts has it before it serves."""
        self._offset = time.time() - elapsed()
        self.fresh_at = elapsed()
        """Second of `rhttp.clock` before the last read that succeeded."""

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
        if version == self.snapshot.version and not self._clock_was_set():
            self._told(at)
        else:
            # Not waited for: the next change is not to wait for a process that is slow to take up this one.
            with contextlib.suppress(StateUnreadable):  # said already
                await self._read()
        for push in tuple(self._pushes):
            if push.done():
                self._pushes.discard(push)
                push.result()

    async def refresh(self) -> Pushed:
        """Read the state now; returns when every process uses what was read, or something newer.

        Raises:
            StateUnreadable: it cannot be read.
        """
        at = await self._read()
        pushing = self._pushing
        pushed = Pushed(version=self.snapshot.version, cut=0) if pushing is None else await asyncio.shield(pushing)
        self._told(at)
        return pushed

    async def refresh_shared(self) -> None:
        """As `refresh`, together with whoever asks at about the same time; what cannot be read was said."""
        if self._shared is None:
            self._shared = asyncio.create_task(self._refresh_next())
        await asyncio.shield(self._shared)

    async def _refresh_next(self) -> None:
        async with self._sharing:
            await asyncio.sleep(self._shared_at + REFRESH_PAUSE - elapsed())  # at once when that is over
            self._shared = None  # who asks from now on wants what is written from now on
            with contextlib.suppress(StateUnreadable):
                await self.refresh()
            self._shared_at = elapsed()

    async def _read(self) -> float:
        """Read the state and begin to push what is new; the second of `rhttp.clock` before it was read."""
        async with self._reading:
            at = elapsed()
            try:
                snapshot = await asyncio.to_thread(self._source.load)
            except Exception as error:
                self._failed(error)
                detail = f"({type(error).__name__}); see the gateway's log"
                raise StateUnreadable(f"the state cannot be read {detail}") from None
            number = self.snapshot.read
            if replace(snapshot, read=number) != self.snapshot:
                self.snapshot = replace(snapshot, read=number + 1)
                self._pushing = asyncio.create_task(self._push_out(self.snapshot))
                self._pushes.add(self._pushing)
            return at

    async def _push_out(self, snapshot: StateSnapshot) -> Pushed:
        return Pushed(version=snapshot.version, cut=await self._push(snapshot))

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
