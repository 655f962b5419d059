"""A requester, a worker and a gateway between them in one hand: every byte and every pause is the test's to place.

Everything of the gateway is real, the mesh between two processes included; kernels, peers and time are not. Nothing
runs by itself, so an order of events that a network brings once in a year is one line of a test.
"""

from __future__ import annotations

import asyncio
import re
from pathlib import Path

from support.bench import Bench, Requester, Worker
from support.links import FakeLink

from gateway.cluster.directory import whole
from gateway.cluster.frames import FOR_NEWS
from gateway.cluster.incoming import Incoming
from gateway.cluster.peers import Mesh
from gateway.control.descriptors import Inherited
from gateway.dataplane.wiring import join
from rhttp.timers import TimerWheel

POOL = '[pools.render]\nmode = "hosted"\nqueue = 8\n'
LIMITS = "buffer_bytes = 16384\n"
MESH_BUFFER = 20_000
"""What the kernel takes of one process before the other reads it."""

SIZES = (0, 10, 17_000, 50_000)
"""Of contents and answers: what blocks a link and fits into the mesh's buffer, and what fits nowhere."""
_ANSWERED = re.compile(rb"HTTP/1\.1 [2-5][0-9][0-9] ")


class MeshLink(FakeLink):
    """One side of a connection between processes."""


class Process(Bench):
    """One of two processes that know of each other and have one clock."""

    mesh: Mesh

    def __init__(self, index: int, loop: asyncio.AbstractEventLoop, wheel: TimerWheel) -> None:
        self._index = index
        self._wheel = wheel
        super().__init__(POOL, limits=LIMITS, loop=loop)

    def _prepare(self) -> None:
        self.process.wheel = self._wheel
        inherited = Inherited(control=-1, index=self._index, processes=2)
        mesh = join(self.process, inherited, Path("/nowhere"), b"n" * 32, lambda *_: None)
        assert mesh is not None
        self.mesh = mesh
        self.join = mesh.pool
        mesh.news._due = lambda _: None  # the test tells it


class Flow:
    """One requester of the first process, one worker of the first or of the second."""

    def __init__(self, *, is_remote: bool, sizes: list[tuple[int, int]]) -> None:
        """``sizes`` are those of each request's content and of its answer."""
        self.loop = asyncio.new_event_loop()
        self.wheel = TimerWheel(1000.0)
        self.here, self.there = Process(0, self.loop, self.wheel), Process(1, self.loop, self.wheel)
        self.home = self.there if is_remote else self.here
        self.pairs: list[tuple[MeshLink, MeshLink]] = []
        """Connections between the processes, our side first: that for news and wants, then those for requests."""
        self.here.mesh.connect = self._connect
        self.requests = b"".join(_request(number, content) for number, (content, _) in enumerate(sizes))
        self.answers = [_answer(size) for _, size in sizes]
        self.count = len(sizes)
        self.asked = 0
        """Bytes of the requests that were sent."""
        self.answered: dict[tuple[int, int], int] = {}
        """Bytes of each answer that were sent, by worker and request: one that had not left goes to another worker."""
        self.workers: list[Worker] = []
        self.requester: Requester = self.here.requester()
        if is_remote:
            self.here.mesh._dial(1)
        self.come()

    def _connect(self, index: int, purpose: int, owner: asyncio.Protocol) -> MeshLink:
        """Greeted at once: what takes time is tested with real sockets."""
        high_water = self.here.process.generation.config.limits.buffer_bytes
        ours, theirs = (MeshLink(wheel=self.wheel, high_water=high_water) for _ in range(2))
        self.pairs.append((ours, theirs))
        ours.set_protocol(owner)
        owner.connection_made(ours)  # type: ignore[arg-type]  # a Link
        incoming = Incoming(self.there.mesh)
        theirs.set_protocol(incoming)
        incoming.connection_made(theirs)  # type: ignore[arg-type]  # a Link
        theirs.receive(self.here.mesh.greetings.greet(purpose, index))
        if purpose == FOR_NEWS:
            theirs.take()  # news that the test tells itself
        for side in (ours, theirs):
            side.socket.room = MESH_BUFFER
        return ours

    # ---- what can happen ----

    def come(self) -> None:
        """The worker comes, when none is there."""
        if not any(not worker.link.is_closing() for worker in self.workers):
            worker = self.home.worker(f"w{len(self.workers)}")
            worker.link.block()
            self.workers.append(worker)
        if self.home is self.there:
            self.here.mesh.heard(1, whole([self.there.pool.pool], {}))
        self.settle()

    def ask(self, size: int) -> None:
        """The requester sends more of its requests."""
        if not self.requester.link.is_closing():
            data = self.requests[self.asked : self.asked + size]
            self.asked += len(data)
            self.requester.link.receive(data)
        self.settle()

    def answer(self, size: int) -> None:
        """The worker sends more of its answer, whether it has the whole request or not; it need not have read it."""
        worker = self.workers[-1]
        for number in _numbers(worker)[-1:]:
            of = (len(self.workers), number)
            begun = self.answered.get(of, 0)
            data = self.answers[number][begun : begun + size]
            self.answered[of] = begun + len(data)
            worker.link.receive(data)
        self.settle()

    def pump(self, size: int, ways: str = "there and back") -> None:
        """So many bytes pass between the processes."""
        for ours, theirs in tuple(self.pairs):
            both = {"there": (ours, theirs), "back": (theirs, ours)}
            for source, sink in (both[way] for way in ways.split(" and ")):
                data = bytes(source.sent[:size])
                del source.sent[:size]
                source.drain(MESH_BUFFER - len(source.sent))
                sink.receive(data)
                is_over = (source.socket.is_closed or source.eof) and not source.sent
                if is_over and not sink.is_closing() and b"" not in sink.socket.coming and not sink.real._eof:
                    sink.finish()
        self.settle()

    def wait(self, seconds: float) -> None:
        """Time passes."""
        self.wheel.turn(self.wheel.now + seconds)
        self.settle()

    def links(self) -> list[FakeLink]:
        """All that are or were there."""
        return [
            self.requester.link,
            *(worker.link for worker in self.workers),
            *(side for pair in self.pairs for side in pair),
        ]

    def settle(self) -> None:
        """All that follows by itself, in all loops."""
        for _ in range(1000):
            self._turn_loop()
            if not any(link.loop.has_work() for link in self.links()):
                return
            for link in self.links():
                link.settle()
        raise AssertionError("it never comes to rest")

    def _turn_loop(self) -> None:
        """What the gateway put off to the next turn; its timers are left alone."""
        self.loop.call_soon(self.loop.stop)
        self.loop.run_forever()

    # ---- how it ends ----

    def finish(self) -> None:
        """From now on everybody does its part: all is sent, all is read, whoever is told goodbye says it too."""
        for _ in range(40):
            self.come()
            for link in (self.requester.link, *(worker.link for worker in self.workers)):
                link.drain()
                if link.eof and not link.is_closing():
                    link.finish()
            self.ask(len(self.requests))
            self.answer(1 << 20)
            self.pump(1 << 20)

    def fall_silent(self) -> None:
        """From now on nobody sends or reads a byte, and time passes; the processes go on."""
        for link in (self.requester.link, *(worker.link for worker in self.workers)):
            link.block()
        for _ in range(80):
            self.wait(30.0)
            self.pump(1 << 20)

    def check_over(self) -> None:
        """No exchange is under way anywhere, and each slot is free or gone."""
        for process in (self.here, self.there):
            pool = process.pool.pool
            assert process.process.exchanges == 0, "an exchange waits for ever"
            assert pool.total == pool.free == sum(len(worker.idle) for worker in pool.workers.values())
        for worker in self.workers:
            if not worker.link.is_closing():
                assert not worker.reversed.client.blocked
                assert worker.link.reading, "a free worker of which nobody hears"
                assert worker.link.owner is worker.reversed.client

    def answers_seen(self) -> int:
        """Final answers that the requester got, whole or not."""
        return len(_ANSWERED.findall(bytes(self.requester.link.sent)))

    def close(self) -> None:
        for process in (self.here, self.there):
            for live in tuple(process.process.registry):
                live.disconnect("end of test")
            process.mesh.close()
            process.close()
        self.pump(1 << 20)
        self.loop.close()


def _request(number: int, content: int) -> bytes:
    head = f"PUT /-/pools/render/any/n{number}n HTTP/1.1\r\nHost: localhost\r\n"
    if number % 2:
        chunk = b"%x\r\n%b\r\n" % (content, b"x" * content) if content else b""
        return f"{head}Transfer-Encoding: chunked\r\n\r\n".encode() + chunk + b"0\r\n\r\n"
    return f"{head}Content-Length: {content}\r\n\r\n".encode() + b"x" * content


def _answer(size: int) -> bytes:
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (size, b"y" * size)


def _numbers(worker: Worker) -> list[int]:
    """The requests of which a worker has the head, or would have if it had read."""
    out = worker.link.real._out or ()
    data = bytes(worker.link.sent) + b"".join(bytes(piece) for piece in out)
    return [int(number) for number in re.findall(rb"PUT /n(\d)n HTTP/1\.1\r\n", data)]
