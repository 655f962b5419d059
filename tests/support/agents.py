"""An agent that runs against a stand-in gateway: its handler, and what it tells."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from support.standin import SWITCH, challenge

from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.worker.agent import Agent
from rhttp.worker.reversed import Status


class Echo:
    """A handler: answers each request with its target; ``/hold`` waits until `release`."""

    def __init__(self) -> None:
        self.orphans = 0
        self.held: list[ServerEnd] = []
        self.holding = asyncio.Event()

    def handle(self, end: ServerEnd, head: RequestHead) -> None:
        if head.target == b"/fault":
            raise RuntimeError("a bug")
        if head.target == b"/hold":
            self.held.append(end)
            self.holding.set()
            return
        self.answer(end, head.target)

    def answer(self, end: ServerEnd, body: bytes) -> None:
        end.head(200, (), len(body))
        end.content(body)
        end.end([])

    def release(self) -> None:
        for end in self.held:
            self.answer(end, b"held")
        self.held.clear()

    async def start(self) -> None:
        """Nothing to start."""

    async def stop(self) -> None:
        """Nothing to stop."""


class Told:
    """What an agent told; `until` waits for a state of it."""

    def __init__(self) -> None:
        self.states: list[Status] = []
        self._changed = asyncio.Event()

    def __call__(self, status: Status) -> None:
        self.states.append(status)
        self._changed.set()

    async def until(self, is_so: Callable[[Status], bool]) -> Status:
        async with asyncio.timeout(30):
            while not self.states or not is_so(self.states[-1]):
                self._changed.clear()
                await self._changed.wait()
        return self.states[-1]


@contextlib.asynccontextmanager
async def running(
    place: Path, url: str, handler: Echo | None = None, **options: Any
) -> AsyncIterator[tuple[Agent, Told]]:
    told = Told()
    options.setdefault("drain_timeout", 5.0)
    options.setdefault("chance", lambda: 0.1)
    options.setdefault("on_status", told)
    agent = Agent(handler or Echo(), place, gateway=url, **options)
    await agent.start()
    try:
        yield agent, told
    finally:
        await agent.stop()


def digest(head: bytes) -> bytes:
    return SWITCH if b"Authorization: Digest" in head else challenge()
