"""The issuer as the supervisor sees it: kept alive, given what data processes order, waited for by nobody else.

Trust: an order is passed on as it came, its size bounded; its shape is the issuer's to judge.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, Protocol

import orjson

from gateway.admin.status import stamp
from gateway.control.channel import ControlError, Done, Issue, Message, StartIssuer
from gateway.control.descriptors import Inherited
from gateway.supervisor.child import STOP_TIMEOUT, Controlled, Problem
from gateway.supervisor.fleet import BACKOFF_FIRST, BACKOFF_MOST, STEADY, exit_text
from gateway.supervisor.launcher import ISSUER, Child

ORDER_TIMEOUT: Final = 15.0
"""Seconds for one order; an issuer that answers none at all for so long is wedged."""
START_TIMEOUT: Final = 60.0
MAX_OF_PROCESS: Final = 256
"""Orders of one data process that are under way at the same time."""
MAX_ORDERS: Final = 1024
"""Orders of all data processes together."""
MAX_SIZE: Final = 16 * 1024
"""Bytes of one order."""


class Orderer(Protocol):
    """A data process, as far as its orders are answered."""

    def send(self, message: Message, /) -> None:
        """Tell it something; nothing happens when it is gone."""


class IssuerKeeper:
    """One issuer process at a time, for as long as the gateway runs; none when it is not wanted."""

    def __init__(
        self,
        home: str,
        state_url: str,
        passphrase: bytes | None,
        log: Callable[[str], None],
        *,
        wanted: bool,
        refresh: Callable[[], Awaitable[None]],
        command: Sequence[str] = ISSUER,
    ) -> None:
        """The passphrase is held only for an issuer that is wanted.

        ``refresh`` makes what the issuer wrote known to all processes: who was given a password is going to use it.
        """
        self._home = home
        self._state_url = state_url
        self._passphrase = passphrase.decode("latin-1") if wanted and passphrase is not None else None
        self._log = log
        self._wanted = wanted
        self._refresh = refresh
        self._command = command
        self._process: Controlled | None = None
        """The one that takes orders."""
        self._since = 0.0
        self._keeper: asyncio.Task[None] | None = None
        self._under_way: Counter[Orderer] = Counter()
        self._orders: set[asyncio.Task[None]] = set()
        self._answered = 0.0
        """When it last answered an order, or began."""
        self._issued = 0
        self._refused = 0

    def __repr__(self) -> str:
        return f"<the issuer of {self._home}>"

    async def start(self) -> tuple[Problem, ...]:
        """Start it, if it is wanted; what it cannot open is returned, and none runs then."""
        if not self._wanted:
            return ()
        try:
            process, problems = await self._spawn()
        except (ControlError, OSError) as error:
            return (("issuer", f"it did not start: {error}; its own lines above say more"),)
        if process is not None:
            self._keeper = asyncio.create_task(self._keep(process))
        return problems

    async def _spawn(self) -> tuple[Controlled | None, tuple[Problem, ...]]:
        process = await Controlled.spawn(
            Child(self._command), lambda control: Inherited(control=control), lambda _process, _message: None
        )
        try:
            done = await process.call(
                lambda number: StartIssuer(
                    id=number, home=self._home, state_url=self._state_url, passphrase=self._passphrase
                ),
                within=START_TIMEOUT,
            )
        except BaseException:
            await process.stop(0.0)
            raise
        if done.problems:
            await process.stop(0.0)
            return None, done.problems
        self._process, self._since = process, time.time()
        self._answered = asyncio.get_running_loop().time()
        return process, ()

    async def _keep(self, process: Controlled) -> None:
        """Restart it for ever, ever more slowly while it does not last."""
        pause = BACKOFF_FIRST
        loop = asyncio.get_running_loop()
        while True:
            status = await process.ended()
            self._process = None
            if loop.time() - process.started >= STEADY:
                pause = BACKOFF_FIRST
            self._log(f"the issuer (pid {process.pid}) ended {exit_text(status)}; another starts in {pause:g} s")
            while True:
                await asyncio.sleep(pause)
                pause = min(pause * 2, BACKOFF_MOST)
                try:
                    made, problems = await self._spawn()
                except Exception as error:  # whatever it is, another try is all that can be done
                    text = str(error) if isinstance(error, ControlError | OSError) else type(error).__name__
                    self._log(f"the issuer did not start: {text}; again in {pause:g} s")
                    continue
                if made is None:
                    text = "; ".join(message for _, message in problems)
                    self._log(f"the issuer did not start: {text}; again in {pause:g} s")
                    continue
                process = made
                self._log(f"the issuer runs again with pid {process.pid}")
                break

    def take(self, orderer: Orderer, message: Issue) -> None:
        """Take an order; whoever gave it is sent the answer."""
        process = self._process
        if process is None:
            _answer(orderer, message, "no issuer runs")
            return
        if self._under_way[orderer] >= MAX_OF_PROCESS or len(self._orders) >= MAX_ORDERS:
            _answer(orderer, message, "busy")
            return
        if len(orjson.dumps(message.order)) > MAX_SIZE:
            _answer(orderer, message, "too long")
            return
        self._under_way[orderer] += 1
        task = asyncio.create_task(self._relay(process, orderer, message))
        self._orders.add(task)

        def over(task: asyncio.Task[None]) -> None:
            self._orders.discard(task)
            self._under_way[orderer] -= 1
            if not self._under_way[orderer]:
                del self._under_way[orderer]

        task.add_done_callback(over)

    async def _relay(self, process: Controlled, orderer: Orderer, message: Issue) -> None:
        loop, order = asyncio.get_running_loop(), message.order
        asked = loop.time()
        try:
            done = await process.call(lambda number: Issue(id=number, order=order), within=ORDER_TIMEOUT)
        except ControlError as error:
            if process.is_gone:
                _answer(orderer, message, "the issuer ended")
                return
            _answer(orderer, message, "no answer in time")
            if self._answered <= asked and not process.is_killed:
                self._log(f"the issuer (pid {process.pid}) is killed: {error}")
                process.kill()
            return
        self._answered = loop.time()
        self._issued += "chain" in done.value and done.value.get("repeated") is not True
        self._refused += "refused" in done.value
        if "password" in done.value:
            await self._refresh()
        orderer.send(Done(id=message.id, value=done.value))

    def status(self) -> dict[str, object] | None:
        """What `status` shows of it; None while none runs."""
        if self._process is None:
            return None
        return {"pid": self._process.pid, "since": stamp(self._since), "issued": self._issued, "refused": self._refused}

    async def stop(self) -> None:
        """End it; orders that are under way are not answered any more."""
        tasks = [*self._orders, *([] if self._keeper is None else [self._keeper])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        process, self._process = self._process, None
        if process is not None:
            with contextlib.suppress(ControlError):
                await process.stop(STOP_TIMEOUT)


def _answer(orderer: Orderer, message: Issue, why: str) -> None:
    """Say that nothing can be had now."""
    orderer.send(Done(id=message.id, value={"unavailable": why}))
