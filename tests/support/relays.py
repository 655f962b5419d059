"""A relay pool on a bench, and a master in the test's own loop behind it."""

from __future__ import annotations

import asyncio

from support.bench import Bench, BenchLink, Requester, worker_peer

from gateway.pools.relay import RelayPool
from rhttp.reversal.upgrade import PTTH_1_0

OPEN = '@id("open") permit (principal, action, resource);'
AGREED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"


class Master:
    """A master in the test's own loop: takes one connection at a time and says what it is told to."""

    def __init__(self) -> None:
        self.port = 0
        self._arrived: asyncio.Queue[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = asyncio.Queue()
        self.writers: list[asyncio.StreamWriter] = []

    def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.writers.append(writer)
        self._arrived.put_nowait((reader, writer))

    async def asked(self) -> tuple[bytes, asyncio.StreamReader, asyncio.StreamWriter]:
        """The next upgrade request's head, and the connection."""
        reader, writer = await self.arrived()
        return await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 20), reader, writer

    async def arrived(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """The next connection."""
        return await asyncio.wait_for(self._arrived.get(), 20)

    def is_alone(self) -> bool:
        """Whether no other connection came."""
        return self._arrived.empty()


def relay_config(port: int) -> str:
    """The relay pool `far` behind a master on this port."""
    return f'[masters.tier]\nurls = ["http://127.0.0.1:{port}"]\n[pools.far]\nmode = "relay"\nmaster = "tier"\n'


class Rig:
    """A bench with the relay pool `far` behind a master."""

    def __init__(self, port: int, path: str = "") -> None:
        self.bench = Bench(relay_config(port) + (f'path = "{path}"\n' if path else ""), policy=OPEN)
        pool = self.bench.process.generation.pools["far"]
        assert isinstance(pool, RelayPool)
        self.pool = pool

    def worker(self, *lines: str) -> Requester:
        worker = self.bench.requester(worker_peer("w1", "far"))
        asked = worker.ask("/-/reverse/far", "POST", "Upgrade: PTTH/1.0", "Connection: Upgrade", *lines)
        assert asked is None
        return worker

    def check_over(self) -> None:
        """Nothing is left of it."""
        process = self.bench.process
        assert (process.counters.connections, process.registry.count) == (0, 0)
        assert self.pool.connections() == []


async def sent(link: BenchLink, data: bytes) -> None:
    """Wait until exactly this was written to a link."""
    await link.until(lambda: len(link.sent) >= len(data) or link.is_closing())
    assert link.take() == data


async def switched(rig: Rig, master: Master) -> tuple[Requester, asyncio.StreamReader, asyncio.StreamWriter]:
    """A relayed connection."""
    worker = rig.worker()
    _, reader, writer = await master.asked()
    writer.write(AGREED)
    await sent(worker.link, PTTH_1_0.answer)
    return worker, reader, writer
