"""Connections to masters, over real loopback sockets: reused, bounded, dialled elsewhere when one URL is dead."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from support.bench import Bench, Requester, client_peer, sink_of

from gateway.exchange.ends import ClientConnection
from gateway.exchange.masters import MasterPool
from rhttp.http1.client import ClientEnd

OPEN = '@id("open") permit (principal, action, resource);'


class Origin:
    """A master in the test's own loop; `answer` says what a request gets, None keeps it waiting."""

    def __init__(self) -> None:
        self.port = 0
        self.heads: list[bytes] = []
        self.connections: list[asyncio.StreamWriter] = []
        self.answer: Callable[[bytes], bytes | None] = lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
        self._seen = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                self._seen.set()
                answer = self.answer(head)
                if answer is not None:
                    writer.write(answer)
        writer.close()

    async def asked(self, count: int) -> None:
        """Wait for so many requests in all."""
        async with asyncio.timeout(20):
            while len(self.heads) < count:
                self._seen.clear()
                await self._seen.wait()

    def reply(self, number: int, data: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok") -> None:
        """Answer on one connection."""
        self.connections[number].write(data)


@contextlib.asynccontextmanager
async def origin() -> AsyncIterator[Origin]:
    made = Origin()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    try:
        yield made
    finally:
        server.close()
        for writer in made.connections:
            writer.transport.abort()
        await asyncio.sleep(0)


@contextlib.contextmanager
def dead_port() -> Any:
    """A port that refuses connections: bound, so that nobody else gets it, and not listening."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


class Rig:
    """A bench with one route to the master `jobs`."""

    def __init__(self, *ports: int, limits: str = "", host: str | None = None) -> None:
        urls = ", ".join(f'"http://127.0.0.1:{port}"' for port in ports)
        tables = f"[masters.jobs]\nurls = [{urls}]\n"
        if host is not None:
            tables += f'host = "{host}"\n'
        tables += '[[routes]]\npath = "/jobs/*"\nmaster = "jobs"\n'
        self.bench = Bench(tables, policy=OPEN, limits=limits)
        self.master = self.bench.process.generation.masters["jobs"]
        assert isinstance(self.master, MasterPool)

    def requester(self) -> Requester:
        return self.bench.requester(client_peer())

    async def get(self, requester: Requester | None = None, method: str = "GET") -> int:
        """One request to its end; the status."""
        requester = requester or self.requester()
        answer = requester.ask("/jobs/1", method) or await requester.answered()
        return answer.status

    def totals(self) -> tuple[int, int]:
        """Open and idle connections over all URLs."""
        values: Any = self.master.status().values()
        return sum(v["open"] for v in values), sum(v["idle"] for v in values)

    async def close(self) -> None:
        self.master.close()
        for live in tuple(self.bench.process.registry):
            live.end.abort()  # type: ignore[attr-defined]
        await asyncio.sleep(0)
        self.bench.close()


@contextlib.asynccontextmanager
async def rig(*ports: int, limits: str = "", host: str | None = None) -> AsyncIterator[Rig]:
    made = Rig(*ports, limits=limits, host=host)
    try:
        yield made
        assert made.bench.process.exchanges == 0
    finally:
        await made.close()


async def test_master_connection_is_used_again() -> None:
    """Ten requests of two clients, one connection, whatever they were."""
    async with origin() as jobs, rig(jobs.port) as made:
        first, second = made.requester(), made.requester()
        for method in ("GET", "POST", "HEAD", "PUT", "GET"):
            jobs.answer = lambda _, m=method: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
            assert await made.get(first, method) == 200
            assert await made.get(second, method) == 200
        assert len(jobs.connections) == 1
        assert made.totals() == (1, 1)
        assert made.master.status() == {f"http://127.0.0.1:{jobs.port}": {"open": 1, "idle": 1}}


async def test_master_sees_the_clients_host_unless_another_is_set() -> None:
    """`[masters.X] host` replaces it."""
    async with origin() as jobs:
        async with rig(jobs.port) as made:
            await made.get()
        async with rig(jobs.port, host="inner.example") as made:
            await made.get()
        assert b"\r\nHost: localhost\r\n" in jobs.heads[0]
        assert b"\r\nHost: inner.example\r\n" in jobs.heads[1]


async def test_master_keeps_no_more_idle_connections_than_allowed() -> None:
    """Those on top close when nobody has needed them for a second."""
    async with origin() as jobs, rig(jobs.port, limits="master_idle_connections = 1") as made:
        jobs.answer = lambda _: None
        askers = [made.requester() for _ in range(3)]
        for asker in askers:
            asker.ask("/jobs/1")
        await jobs.asked(3)
        assert made.totals() == (3, 0)
        for number in range(3):
            jobs.reply(number)
        for asker in askers:
            assert (await asker.answered()).status == 200
        assert made.totals() == (3, 3)
        made.bench.turn(1.5)
        assert made.totals() == (1, 1)


async def test_master_connection_that_nobody_needs_is_closed() -> None:
    """After its idle time, and not before."""
    async with origin() as jobs, rig(jobs.port, limits="master_idle_timeout = 30") as made:
        assert await made.get() == 200
        made.bench.turn(29.0)
        assert made.totals() == (1, 1)
        made.bench.turn(1.5)
        assert made.totals() == (0, 0)


async def test_master_connection_closed_by_the_master_is_forgotten() -> None:
    """Its end arrives while it is idle: the next request dials."""
    async with origin() as jobs, rig(jobs.port) as made:
        assert await made.get() == 200
        jobs.connections[0].close()
        async with asyncio.timeout(20):
            while made.totals() != (0, 0):
                await asyncio.sleep(0)
        assert await made.get(method="POST") == 200
        assert len(jobs.connections) == 2


@pytest.mark.parametrize(("method", "status"), [("GET", 200), ("POST", 502)])
async def test_master_that_closes_while_a_request_is_on_its_way(method: str, status: int) -> None:
    """The race of every pool: what may have run is not repeated unless it is idempotent."""
    async with origin() as jobs, rig(jobs.port) as made:
        assert await made.get() == 200
        jobs.connections[0].transport.abort()  # in the kernel, and not yet in our loop
        asker = made.requester()
        assert asker.ask("/jobs/1", method) is None
        answer = await asker.answered()
        assert answer.status == status
        if status == 502:
            assert answer.problem == "master-lost"
        assert made.bench.process.counters.retries == (method == "GET")


async def test_master_with_a_dead_url_is_reached_by_the_other() -> None:
    """Whichever comes first; the dead one is left alone for a while, and its failures are nobody's answer."""
    with dead_port() as dead:
        async with origin() as jobs, rig(dead, jobs.port, limits="master_idle_connections = 0") as made:
            for _ in range(5):
                assert await made.get() == 200
            assert len(jobs.connections) == 5
            assert made.totals() == (0, 0)


async def test_master_that_is_dead_is_one_clear_answer() -> None:
    """502 at once, for each request, also for those that come while the URLs are shunned."""
    with dead_port() as dead, dead_port() as dead_too:
        async with rig(dead, dead_too) as made:
            for _ in range(3):
                asker = made.requester()
                asker.ask("/jobs/1")
                answer = await asker.answered()
                assert (answer.status, answer.problem) == (502, "master-unreachable")
            assert made.totals() == (0, 0)


class CountingLoop:
    """The running loop, counting what is dialled."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self.dialled = 0

    def create_connection(self, *arguments: Any, **options: Any) -> Any:
        self.dialled += 1
        return self._loop.create_connection(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loop, name)


async def test_master_at_its_limit_waits_for_the_living_instead_of_dialling_the_dead() -> None:
    """One URL is full, the other dead: a request waits, and dials once, not as fast as it can."""
    with dead_port() as dead:
        async with origin() as jobs, rig(jobs.port, dead, limits="master_connections = 1") as made:
            made.bench.process.loop = counting = CountingLoop(made.bench.process.loop)  # type: ignore[assignment]
            jobs.answer = lambda _: None
            first, second = made.requester(), made.requester()
            first.ask("/jobs/1")
            await jobs.asked(1)
            second.ask("/jobs/2")
            for _ in range(200):
                await asyncio.sleep(0.0005)
            assert counting.dialled <= 3
            assert second.answer() is None
            jobs.reply(0)
            assert (await first.answered()).status == 200
            await jobs.asked(2)
            jobs.reply(0)
            assert (await second.answered()).status == 200


async def test_master_at_its_limit_lets_requests_wait_in_order() -> None:
    """The next one gets the connection when it is free; a queue that is full says so at once."""
    async with origin() as jobs, rig(jobs.port, limits="master_connections = 2") as made:
        jobs.answer = lambda _: None
        askers = [made.requester() for _ in range(5)]
        answers = [asker.ask(f"/jobs/{number}") for number, asker in enumerate(askers)]
        assert answers[:4] == [None] * 4
        refused = answers[4]
        assert refused is not None
        assert (refused.status, refused.problem) == (503, "overloaded")
        await jobs.asked(2)
        for number in range(2, 4):
            jobs.reply(number % 2)
            await jobs.asked(number + 1)
            assert jobs.heads[number].startswith(b"GET /jobs/%d " % number)
        for number in range(2):
            jobs.reply(number)
        for asker in askers[:4]:
            assert (await asker.answered()).status == 200
        assert len(jobs.connections) == 2


async def test_master_at_its_limit_answers_who_waited_too_long_or_left() -> None:
    """503, and both give their places back: nobody is refused for the sake of somebody who is gone."""
    limits = "master_connections = 1\nmaster_connect_timeout = 5"
    async with origin() as jobs, rig(jobs.port, limits=limits) as made:
        jobs.answer = lambda _: None
        first, second, third, fourth = (made.requester() for _ in range(4))
        first.ask("/jobs/1")
        await jobs.asked(1)
        assert second.ask("/jobs/2") is None
        made.bench.turn(5.5)
        answer = await second.answered()
        assert (answer.status, answer.problem) == (503, "overloaded")
        assert third.ask("/jobs/3") is None
        third.link.reset()
        assert fourth.ask("/jobs/4") is None
        jobs.reply(0)
        assert (await first.answered()).status == 200
        await jobs.asked(2)
        assert jobs.heads[1].startswith(b"GET /jobs/4 ")
        jobs.reply(0)
        assert (await fourth.answered()).status == 200


async def test_master_dialled_for_one_who_left_serves_the_next() -> None:
    """The connection is not wasted."""
    async with origin() as jobs, rig(jobs.port) as made:
        asker = made.requester()
        asker.ask("/jobs/1")
        asker.link.reset()
        async with asyncio.timeout(20):
            while made.totals() != (1, 1):
                await asyncio.sleep(0)
        assert await made.get() == 200
        assert len(jobs.connections) == 1
        assert len(jobs.heads) == 1


async def test_master_dialled_for_one_who_half_closed_serves_it() -> None:
    """A peer may end its side right behind its request: it is served, whether or not a connection was at hand."""
    async with origin() as jobs, rig(jobs.port) as made:
        asker = made.requester()
        assert asker.ask("/jobs/1") is None
        asker.end.eof_received()
        assert (await asker.answered()).status == 200


async def test_master_that_asks_for_credentials_is_a_fault() -> None:
    """A client must never answer a master's challenge with its gateway password."""
    async with origin() as jobs, rig(jobs.port) as made:
        jobs.answer = lambda _: b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="x"\r\nContent-Length: 0\r\n\r\n'
        asker = made.requester()
        asker.ask("/jobs/1")
        answer = await asker.answered()
        assert (answer.status, answer.problem) == (502, "master-asked-credentials")
        assert "www-authenticate" not in answer.fields
        assert made.totals() == (0, 0)


async def test_master_that_a_reload_replaced_lets_its_connections_go() -> None:
    """Idle ones at once, a busy one when it has served."""
    async with origin() as jobs, rig(jobs.port) as made:
        assert await made.get() == 200
        jobs.answer = lambda _: None
        first, second = made.requester(), made.requester()
        first.ask("/jobs/1")
        second.ask("/jobs/2")
        await jobs.asked(3)
        jobs.reply(0)
        assert (await first.answered()).status == 200
        assert made.totals() == (2, 1)
        made.master.close()
        assert made.totals() == (1, 0)
        assert sink_of(second)
        jobs.reply(1)
        assert (await second.answered()).status == 200
        assert made.totals() == (0, 0)


class Apart:
    """Has a connection of its own."""

    def __init__(self) -> None:
        self.closed: list[str] = []

    def client_idle(self, connection: ClientConnection) -> None:
        raise AssertionError("nothing was asked")

    def client_closed(self, connection: ClientConnection, detail: str) -> None:
        self.closed.append(detail)


async def test_master_gives_a_connection_of_its_own_for_a_role_switch() -> None:
    """From the first URL that answers; none when none does. It is not the pool's."""
    with dead_port() as dead:
        async with origin() as jobs, rig(dead, jobs.port) as made:
            owner = Apart()
            connection = await made.master.dial_apart(owner)
            assert isinstance(connection, ClientEnd)
            assert connection.link.get_extra_info("socket").getpeername()[1] == jobs.port
            connection.abort()
            assert owner.closed == ["aborted"]
            assert made.totals() == (0, 0)
            assert made.master.host_for(None) == b"127.0.0.1:%d" % dead
            assert made.master.host_for(b"asked.example") == b"asked.example"
        async with rig(dead, host="x.example") as made:
            assert await made.master.dial_apart(Apart()) is None
            assert made.master.host_for(b"asked.example") == b"x.example"


@pytest.mark.parametrize("limits", ["master_idle_timeout = 30", "master_idle_connections = 1"])
async def test_master_connection_that_is_used_again_carries_an_upload_of_any_length(limits: str) -> None:
    """The time for which idle connections are kept, or surplus ones, does not run on in a request."""
    async with origin() as jobs, rig(jobs.port, limits=limits) as made:
        jobs.answer = lambda _: None
        askers = [made.requester() for _ in range(2)]
        for asker in askers:
            asker.ask("/jobs/1")
        await jobs.asked(2)
        for number, asker in enumerate(askers):
            jobs.reply(number)
            assert (await asker.answered()).status == 200
        assert made.totals() == (2, 2)
        for number, asker in enumerate(askers):
            asker.send(b"PUT /jobs/2 HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
            await jobs.asked(number + 3)
        for _ in range(50):
            made.bench.turn(2.0)
            for asker in askers:
                asker.send(b"xx")
        for number, asker in enumerate(askers):
            assert asker.answer() is None
            jobs.reply(number)
        for asker in askers:
            assert (await asker.answered()).status == 200
