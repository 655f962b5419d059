"""The master's side of `bench/run polling`: the jobs, what becomes of them, and the queues that pollers ask.

All that is measured is written into ledgers, by one clock: master and workers run in one process, on the rig core.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Mapping

from rig.pollmodel import Course
from rig.processes import BenchFailed

HOLD_SECONDS = 30.0


def now() -> float:
    """The loop's clock."""
    return asyncio.get_running_loop().time()


async def sleep_until(at: float) -> None:
    """Sleep until the loop's clock says `at`; at once when it does already."""
    if (pause := at - now()) > 0:
        await asyncio.sleep(pause)


class Ledger:
    """What becomes of the jobs of one crowd in one phase; jobs are known by their number."""

    def __init__(self) -> None:
        self._jobs: list[tuple[float, float]] = []  # arrival, service
        self._begun: dict[int, float] = {}
        self._finished: dict[int, float] = {}

    def arrived(self, service: float) -> int:
        """A job is there, now; its number."""
        self._jobs.append((now(), service))
        return len(self._jobs) - 1

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
        self._finished[number] = now()

    def all_begun(self) -> bool:
        """Has every job reached a worker?"""
        return len(self._begun) == len(self._jobs)

    def all_finished(self) -> bool:
        """Is every job done?"""
        return len(self._finished) == len(self._jobs)

    def courses(self) -> list[Course]:
        """All jobs; one that is still being worked on ends when its work will have been done."""
        return [
            Course(at, self._begun[number], self._finished.get(number, self._begun[number] + service))
            for number, (at, service) in enumerate(self._jobs)
        ]


class JobQueue:
    """The jobs of one crowd of pollers: who asks gets the oldest, or 204, at once or after `hold` seconds.

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
            end = next(iter(self._held))
            self.forget(end)
            end.answer(job)
        else:
            self._waiting.append(job)

    def ask(self, end: MasterEnd) -> None:
        """Somebody asks for a job."""
        self.asked += 1
        if self._waiting or not self._hold:
            end.answer(self._waiting.popleft() if self._waiting else None)
        else:
            pause = self._chance.uniform(self._hold / 2, self._hold)
            self._held[end] = asyncio.get_running_loop().call_later(pause, self._release, end)

    def forget(self, end: MasterEnd) -> None:
        """It is not held any longer: it has its answer, or its connection ended and nothing can be given to it."""
        if timer := self._held.pop(end, None):
            timer.cancel()

    def _release(self, end: MasterEnd) -> None:
        self.forget(end)
        end.answer(None)


class MasterEnd(asyncio.Protocol):
    """One connection of the gateway to the master: `GET /jobs/QUEUE/next`, one request after the other, no content."""

    def __init__(self, queues: Mapping[str, JobQueue], ends: set[MasterEnd]) -> None:
        self._queues = queues
        self._ends = ends  # all that are open
        self._buffer = b""
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        self._ends.add(self)

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while b"\r\n\r\n" in self._buffer:
            head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
            queue = self._queues.get(head.split(b"/", 3)[2].decode())
            if queue is not None:
                queue.ask(self)
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
        self._ends.discard(self)
        for queue in self._queues.values():
            queue.forget(self)

    def cut(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()
