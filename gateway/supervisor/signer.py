"""The supervisor's work on the audit log: a checkpoint every second, its own acts, and what is to be said of the log.

Writing blocks on the disk, so it has a thread of its own; what goes wrong is told, and never ends anything here.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Final

from gateway.audit.health import AuditHealth
from gateway.audit.supervisor_log import SupervisorLog
from gateway.config.values import AuditConfig

CHECKPOINT_INTERVAL: Final = 1.0


class Signer:
    """Writes and signs one log for as long as the gateway runs."""

    def __init__(self, supervisor_log: SupervisorLog, log: Callable[[str], None]) -> None:
        self._supervisor_log = supervisor_log
        self._log = log
        self._health = AuditHealth(log)
        self._last: Mapping[str, Mapping[str, object]] | None = None
        self.due = asyncio.Event()
        """Set when a process wants its lines signed before the second is over."""

    def configure(self, config: AuditConfig) -> None:
        """Keep the log by these settings from now on."""
        self._supervisor_log.configure(config)

    def status(self) -> dict[str, object]:
        """What ``status`` shows of the log."""
        return self._health.status()

    async def record(self, event: str, outcome: str = "done", **detail: object) -> bool:
        """Add an act to the log; whether it is there. One that cannot be recorded is told."""
        try:
            await asyncio.to_thread(self._supervisor_log.record, event, outcome, detail)
        except Exception as error:  # the act is done or must be done: say that its line is missing
            self._log(f"{event} could not be recorded in the audit log: {type(error).__name__}: {error}")
            return False
        return True

    async def settle(self) -> bool:
        """Whether the log is the one that was written, and is signed up to its end: without it no process may start."""
        settled = await self._signed(self._supervisor_log.settle)
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
            self._health.update(told)
            await self._signed(partial(self._supervisor_log.checkpoint, _with_lines(told)))

    def ended(self, heads: Mapping[str, Mapping[str, object]]) -> None:
        """What the processes that ended by themselves told then, by stream."""
        self._last = heads

    async def finish(self, streams: Sequence[str]) -> None:
        """Sign what the processes wrote last; when all of these streams told it, nothing may follow."""
        if (last := self._last) is not None:
            complete = last.keys() == set(streams)
            await self._signed(partial(self._supervisor_log.finish, _with_lines(last.values()), complete=complete))

    async def _signed(self, sign: Callable[[], None]) -> bool:
        fault = ""
        try:
            await asyncio.to_thread(sign)
        except Exception as error:
            fault = f"{type(error).__name__}: {error}"
        self._health.find(self._supervisor_log.found())
        self._health.signed(fault)
        return not fault


def _with_lines(heads: Iterable[Mapping[str, object]]) -> list[Mapping[str, object]]:
    return [head for head in heads if head.get("seq")]  # 0: no line yet
