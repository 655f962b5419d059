"""The master's side of `bench/run polling`: queues that pollers ask, and dispatches to workers that are connected.

All that is measured is written into ledgers, by one clock: master and workers run in one process, on the rig core.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections import deque
from collections.abc import Mapping

from rig.pollmodel import Course
from rig.processes import BenchFailed

HOLD_SECONDS = 30.0
OPENED_AT_A_TIME = 32


class Ledger:
    """What becomes of the jobs of one crowd in one phase; jobs are known by their number."""

    def __init__(self) -> None:
        self._arrival: list[float] = []
        self._service: list[float] = []
        self._begun: dict[int, float] = {}
        self._finished: dict[int, float] = {}

    def arrived(self, service: float) -> int:
        """A job is there, now; its number."""
        self._arrival.append(asyncio.get_running_loop().time())
        self._service.append(service)
        return len(self._arrival) - 1

    def begun(self, number: int, at: float) -> None:
        """A worker had the first byte of it.

        Raises:
            BenchFailed: for the second time: a job was done twice.
        """
        if number in self._begun:
            raise BenchFailed(f"job {number} was given to two workers")
        self._begun[number] = at

    def finished(self, number: int) -> None:
        """The worker's work is done, now."""
        self._finished[number] = asyncio.get_running_loop().time()

    @property
    def all_begun(self) -> bool:
        return len(self._begun) == len(self._arrival)

    @property
    def all_finished(self) -> bool:
        return len(self._finished) == len(self._arrival)

    def courses(self) -> list[Course]:
        """All jobs; one that is still being worked on ends when its work will have been done."""
        return [
            Course(arrival=at, begun=begun, finished=self._finished.get(number, begun + self._service[number]))
            for number, at in enumerate(self._arrival)
            for begun in [self._begun[number]]
        ]


class Desk:
    """The queue of one crowd of pollers: who asks gets the oldest job, or 204, at once or after `hold` seconds.

    A poll is held for between half of `hold` and all of it, or polls that began together would end together for ever.
    """

    def __init__(self, *, hold: float = 0.0) -> None:
        self.asked = 0
        self._hold = hold
        self._chance = random.Random(0)
        self._waiting: deque[bytes] = deque()
        self._held: dict[MasterEnd, asyncio.TimerHandle] = {}  # in the order of their coming

    def put(self, job: bytes) -> None:
        """A job for whoever asks next, or for the poll that has been held longest."""
        if self._held:
            end, timer = next(iter(self._held.items()))
            del self._held[end]
            timer.cancel()
            end.answer(job)
        else:
            self._waiting.append(job)

    def ask(self, end: MasterEnd) -> None:
        """Somebody asks for a job."""
        self.asked += 1
        if self._waiting:
            end.answer(self._waiting.popleft())
        elif self._hold:
            self._held[end] = asyncio.get_running_loop().call_later(
                self._chance.uniform(self._hold / 2, self._hold), self._release, end
            )
        else:
            end.answer(None)

    def gone(self, end: MasterEnd) -> None:
        """Its connection ended: nothing can be given to it."""
        if timer := self._held.pop(end, None):
            timer.cancel()

    def _release(self, end: MasterEnd) -> None:
        del self._held[end]
        end.answer(None)


class Master:
    """What pollers ask: a desk for each crowd, on a port for the gateway."""

    def __init__(self, desks: Mapping[str, Desk]) -> None:
        self.desks = desks
        self.ends: set[MasterEnd] = set()
        self._server: asyncio.Server | None = None

    async def listen(self, port: int) -> None:
        """Begin to serve."""
        self._server = await asyncio.get_running_loop().create_server(lambda: MasterEnd(self), "127.0.0.1", port)

    async def close(self) -> None:
        """End all connections."""
        if self._server is not None:
            self._server.close()
        for end in self.ends:
            end.cut()
        await asyncio.sleep(0)  # in the loop's next turn they are gone


class MasterEnd(asyncio.Protocol):
    """One connection of the gateway to the master: `GET /jobs/DESK/next`, one request after the other, no content."""

    def __init__(self, master: Master) -> None:
        self._master = master
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._master.ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            desk = self._master.desks.get(head.split(b"/", 3)[2].decode())
            if desk is not None:
                desk.ask(self)
            else:  # of an earlier crowd, whose connections have just ended
                self.answer(None)

    def answer(self, job: bytes | None) -> None:
        """200 with the job, or 204."""
        if self._transport is not None:
            head = b"HTTP/1.1 204 No Content\r\n\r\n"
            if job is not None:
                head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(job), job)
            self._transport.write(head)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        self._master.ends.discard(self)
        for desk in self._master.desks.values():
            desk.gone(self)

    def cut(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()


class Dispatcher:
    """A master that sends jobs down through the gateway's dispatch listener, over connections that it keeps."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._kept: list[tuple[asyncio.StreamReader, asyncio.StreamWriter]] = []
        self._writers: list[asyncio.StreamWriter] = []

    async def open(self, count: int) -> None:
        """Have `count` connections ready, as a master with so many jobs at a time keeps them."""
        while count > 0:
            some = [self._dial() for _ in range(min(count, OPENED_AT_A_TIME))]
            self._kept += await asyncio.gather(*some)
            count -= len(some)

    async def _dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        reader, writer = await asyncio.open_connection("127.0.0.1", self._port)
        self._writers.append(writer)
        return reader, writer

    async def send(self, job: bytes) -> None:
        """One job to any worker that is free, or becomes free within a minute; returns with the worker's answer.

        Raises:
            BenchFailed: any answer but 200.
        """
        reader, writer = self._kept.pop() if self._kept else await self._dial()
        target = job.replace(b" ", b"/")
        writer.write(
            b"GET /-/pools/bench/any/job/%s HTTP/1.1\r\nHost: 127.0.0.1:%d\r\nPrefer: wait=60\r\n\r\n"
            % (target, self._port)
        )
        status, _ = await read_answer(reader)
        if status != 200:
            raise BenchFailed(f"a dispatch was answered {status}")
        self._kept.append((reader, writer))

    async def close(self) -> None:
        """End all connections."""
        await close_all(self._writers)


async def close_all(writers: list[asyncio.StreamWriter]) -> None:
    """Cut connections and wait until they are gone."""
    for writer in writers:
        writer.transport.abort()
    for writer in writers:
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def read_answer(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    """Status and head of an answer whose content, if any, has a stated length and is left out.

    Raises:
        BenchFailed: the connection ended.
    """
    head = await read_head(reader)
    length = field(head, b"content-length")
    if length:
        await reader.readexactly(int(length))
    return int(head.split(b" ", 2)[1]), head


async def read_head(reader: asyncio.StreamReader) -> bytes:
    """The next head.

    Raises:
        BenchFailed: the connection ended.
    """
    try:
        return await reader.readuntil(b"\r\n\r\n")
    except (asyncio.IncompleteReadError, OSError) as error:
        raise BenchFailed(f"a connection of the bench ended: {error}") from error


def field(head: bytes, name: bytes) -> bytes | None:
    """The first value of a field in a head, or None."""
    for line in head.split(b"\r\n")[1:]:
        key, _, value = line.partition(b":")
        if key.lower() == name:
            return value.strip()
    return None
