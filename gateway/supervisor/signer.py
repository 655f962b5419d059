"""The supervisor's work on the audit log: a checkpoint every second, its own acts, and what is to be said of the log.

The trail blocks on the disk, so each call of it has a thread; what goes wrong is told, and never ends anything here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final, Protocol

from gateway.audit.health import AuditHealth
from gateway.config.values import AuditConfig

CHECKPOINT_INTERVAL: Final = 1.0


class Trail(Protocol):
    """Where the supervisor's own acts are recorded; all calls block on the disk."""

    def record(self, event: str, outcome: str, detail: Mapping[str, object]) -> None:
        """Add an act of the operator's to the ``cli`` stream."""
        ...

    def checkpoint(self, heads: Sequence[Mapping[str, object]]) -> None:
        """Sign and store the heads of the processes' streams, and of ``cli``."""
        ...

    def configure(self, config: AuditConfig) -> None:
        """Keep the log by these settings from now on; does not block."""
        ...

    def settle(self) -> None:
        """Before any process writes: see that the log is the one that was written, and sign where it ends."""
        ...

    def finish(self, heads: Sequence[Mapping[str, object]], *, complete: bool) -> None:
        """Sign and store the last heads of processes that ended; whether all told theirs."""
        ...

    def found(self) -> tuple[str, ...]:
        """What was found in the log and is not as it was written; does not block."""
        ...


class Signer:
    """One trail for as long as the gateway runs."""

    def __init__(self, trail: Trail, log: Callable[[str], None]) -> None:
        self._trail = trail
        self._log = log
        self._health = AuditHealth(log)
        self._last: Mapping[str, Mapping[str, object]] | None = None
        self.due = asyncio.Event()
        """Set when a process wants its lines signed before the second is over."""

    def configure(self, config: AuditConfig) -> None:
        """Keep the log by these settings from now on."""
        self._trail.configure(config)

    def status(self) -> dict[str, object]:
        """What ``status`` shows of the log."""
        return self._health.status()

    async def record(self, event: str, outcome: str = "done", **detail: object) -> bool:
        """Add an act to the log; whether it is there. One that cannot be recorded is told."""
        try:
            await asyncio.to_thread(self._trail.record, event, outcome, detail)
        except Exception as error:  # the act is done or must be done: say that its line is missing
            self._log(f"{event} could not be recorded in the audit log: {type(error).__name__}: {error}")
            return False
        return True

    async def settle(self) -> bool:
        """Whether the log is the one that was written, and is signed up to its end: without it no process may start."""
        settled = await self._signed(self._trail.settle)
        if settled:
            self._last = {}
        return settled

    async def run(self, heads: Callable[[], Awaitable[Sequence[Mapping[str, object]]]]) -> None:
        """Sign for ever what the processes tell when they are asked for their ``heads``."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(CHECKPOINT_INTERVAL):
                    await self.due.wait()
            self.due.clear()
            told = await heads()
            self._health.hear(told)
            await self._signed(partial(self._trail.checkpoint, _with_lines(told)))

    def ended(self, heads: Mapping[str, Mapping[str, object]]) -> None:
        """What the processes that ended by themselves told then, by stream."""
        self._last = heads

    async def finish(self, streams: Sequence[str]) -> None:
        """Sign what the processes wrote last; when all of these streams told it, nothing may follow."""
        if (last := self._last) is not None:
            complete = last.keys() == set(streams)
            await self._signed(partial(self._trail.finish, _with_lines(last.values()), complete=complete))

    async def _signed(self, sign: Callable[[], None]) -> bool:
        fault = ""
        try:
            await asyncio.to_thread(sign)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        self._health.find(self._trail.found())
        self._health.signed(fault)
        return not fault


def _with_lines(heads: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [head for head in heads if head.get("seq")]  # 0: no line yet
