"""A gateway over the fake data plane that serves, and its operator."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from support.fakegateway import FakeGateway

from gateway.admin.client import call


class Running:
    """A gateway that serves, and its operator."""

    def __init__(self, gateway: FakeGateway, task: asyncio.Task[int]) -> None:
        self.gateway = gateway
        self.task = task

    async def ask(self, method: str, path: str) -> dict[str, Any]:
        answer = await asyncio.to_thread(call, self.gateway.place, method, path)
        assert answer is not None
        return answer

    async def process(self) -> dict[str, Any]:
        """What the one data process tells of itself."""
        (entry,) = await self.processes()
        assert entry["answers"] is True
        return entry

    async def processes(self) -> list[dict[str, Any]]:
        """What every data process tells of itself."""
        return list((await self.ask("GET", "/status"))["processes"])

    async def knock(self, purpose: str = "tls") -> list[str]:
        """Connect; the line that the data process says: purpose, pid, serving or draining."""
        sock = self.gateway.listeners[purpose].sock  # type: ignore[index]
        if sock.family == 1:
            reader, writer = await asyncio.open_unix_connection(sock.getsockname())
        else:
            reader, writer = await asyncio.open_connection(*sock.getsockname()[:2])
        try:
            return (await reader.readline()).decode().split()
        finally:
            writer.close()
            await writer.wait_closed()

    async def ended(self) -> int:
        async with asyncio.timeout(30):
            return await self.task

    async def terminate(self) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return await self.ended()


@asynccontextmanager
async def running(place: Path, policy: str = "", **config: Any) -> AsyncIterator[Running]:
    """A gateway from ready to its end; a test may end it earlier."""
    gateway = FakeGateway(place, policy, **config)
    task = asyncio.create_task(gateway.supervisor.run())
    try:
        ready = asyncio.create_task(gateway.until(gateway.is_ready))
        await asyncio.wait({ready, task}, return_when=asyncio.FIRST_COMPLETED)
        ready.cancel()
        assert gateway.is_ready(), gateway.logged
        yield Running(gateway, task)
    finally:
        if not task.done():
            task.cancel()
            await asyncio.wait({task})
        gateway.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for something that nobody announces."""
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.01)


def is_gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z"
    except FileNotFoundError:
        return True
