"""Accepting for oneself, and for a process that is down; never more than the limits allow."""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest
from support.bench import POOL, PlaneBench
from support.wire import is_ended

from gateway.config.values import TcpAddress
from gateway.control.descriptors import Sockets, Tally
from gateway.core.context import ProcessContext
from gateway.ingress.acceptor import Acceptor
from gateway.ingress.handlers import dispatch_listener, tls_listener
from gateway.supervisor.sockets import bind_tcp, bind_unix


class Ports:
    """TCP sockets of three processes, each with a port of its own so that a test says whose queue it means."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack
        self.sockets = tuple(
            stack.enter_context(closing(socket.create_server(("127.0.0.1", 0), backlog=64))) for _ in range(3)
        )
        for sock in self.sockets:
            sock.setblocking(False)

    def knock(self, index: int, source: str = "127.0.0.1") -> socket.socket:
        """A connection in this process's queue, from an address of this machine."""
        address = self.sockets[index].getsockname()
        made = socket.create_connection(address, timeout=20, source_address=(source, 0))
        return self._stack.enter_context(closing(made))


@pytest.fixture
def ports() -> Iterator[Ports]:
    with ExitStack() as stack:
        yield Ports(stack)


@pytest.fixture
async def process(tmp_path: Path) -> AsyncIterator[ProcessContext]:
    made = await PlaneBench.start(tmp_path, POOL, limits="handshakes = 8\nhandshake_timeout = 60.0\n")
    yield made.process
    for live in tuple(made.process.registry):
        live.disconnect("test")
    await asyncio.sleep(0.05)
    made.close()


async def until(is_so: Callable[[], bool]) -> None:
    """Wait for what the event loop does by itself."""
    async with asyncio.timeout(20):
        while not is_so():
            await asyncio.sleep(0.005)


def client_hello() -> bytes:
    """What a client says first."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    outgoing = ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="localhost").do_handshake()
    return outgoing.read()


async def never(is_so: Callable[[], bool]) -> None:
    """Give it every chance, and see that it does not happen."""
    for _ in range(20):
        await asyncio.sleep(0.005)
        assert not is_so()


# -- TLS ---------------------------------------------------------------------------------------------------------------


async def test_tls_accepts_for_itself_only_until_a_peer_is_down(process: ProcessContext, ports: Ports) -> None:
    """A queue of another process is its own business, until that process is gone; and again when it is back."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets, index=1, processes=3)))
    acceptor.start()
    mine = ports.knock(1)
    await until(lambda: process.counters.connections == 1)
    other = ports.knock(2)
    await never(lambda: process.counters.connections != 1)
    acceptor.peer_down(2)
    await until(lambda: process.counters.connections == 2)
    mine.close()
    other.close()
    await until(lambda: process.counters.connections == 0)
    acceptor.peer_up(2)
    ports.knock(2)
    await never(lambda: process.counters.connections != 0)
    assert ports.sockets[2].accept()[0].close() is None  # it is there for whom it is for, on an open socket
    acceptor.close()


async def test_tls_at_its_limit_accepts_from_nobodys_queue(tmp_path: Path, ports: Ports) -> None:
    """A limit is a limit of the process, not of a queue; with room again all queues are served."""
    plane = await PlaneBench.start(tmp_path, POOL, limits="handshakes = 2\nhandshake_timeout = 60.0\n")
    process = plane.process
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets, index=0, processes=3)))
    acceptor.start()
    acceptor.peer_down(1)
    held: list[socket.socket] = []

    def all_answered() -> bool:
        holders = acceptor.places.holders()
        return len(holders) == len(held) and all(link.was_answered() for link in holders)

    for index in (0, 1):
        held.append(ports.knock(index))
        held[-1].sendall(client_hello())
        await until(all_answered)
    acceptor.peer_down(2)
    late = [ports.knock(index) for index in (0, 1, 2)]
    await never(lambda: process.counters.connections != 2)
    for sock in (*held, *late):
        sock.close()
    for index in (0, 1, 2):
        held = [ports.knock(index)]
        held[0].sendall(client_hello())
        await until(all_answered)
        held[0].close()
        held = []
        await until(all_answered)
    acceptor.close()
    plane.close()


async def test_tls_peer_that_goes_down_while_paused_is_adopted_with_the_next_start(
    process: ProcessContext, ports: Ports
) -> None:
    """What is learnt while nothing is accepted is not forgotten; and what was only rumour has no effect."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets, index=0, processes=3)))
    for index in (-1, 0, 3):
        acceptor.peer_down(index)  # ourselves, and nobody
        acceptor.peer_up(index)
    acceptor.peer_down(1)
    acceptor.peer_down(2)
    acceptor.peer_up(2)
    for index in range(3):
        ports.knock(index)
    acceptor.start()
    await until(lambda: process.counters.connections == 2)
    await never(lambda: process.counters.connections != 2)
    assert ports.sockets[2].accept()[0].close() is None
    acceptor.close()


async def gone(sock: socket.socket) -> bool:
    """Whether the listener has closed this connection."""
    sock.setblocking(False)
    await asyncio.sleep(0.02)
    try:
        return is_ended(sock)
    except BlockingIOError:
        return False


@pytest.mark.parametrize("floods", [3, 9, 40])
async def test_tls_source_that_floods_loses_its_own_places(process: ProcessContext, ports: Ports, floods: int) -> None:
    """A quarter of eight places is its share; somebody else's silent connection stays, and a newcomer gets in."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets[:1])))
    acceptor.start()
    other = ports.knock(0, "127.0.0.3")
    await until(lambda: acceptor.counts.accepted == 1)
    flood = []
    for count in range(floods):
        flood.append(ports.knock(0, "127.0.0.2"))
        await until(lambda count=count: acceptor.counts.accepted == count + 2)  # type: ignore[misc]
    assert len(acceptor.places) == 3
    assert acceptor.counts.given_up == floods - 2
    assert [await gone(sock) for sock in flood] == [True] * (floods - 2) + [False] * 2
    assert not await gone(other)
    newcomer = ports.knock(0)
    newcomer.sendall(client_hello())
    await until(lambda: any(link.was_answered() for link in acceptor.places.holders()))
    acceptor.close()


async def test_tls_gives_up_the_oldest_silent_and_none_whose_hello_waits_unread(
    process: ProcessContext, ports: Ports
) -> None:
    """Whoever has spoken waits for us: the most silent go, and not even in one turn is one taken for the other."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets[:1])))
    spoken = [ports.knock(0, f"127.0.1.{n}") for n in range(4)]
    for sock in spoken:
        sock.sendall(client_hello())
    silent = [ports.knock(0, f"127.0.2.{n}") for n in range(4)]
    late = [ports.knock(0, f"127.0.3.{n}") for n in range(2)]
    for sock in late:
        sock.sendall(client_hello())
    acceptor.start()
    await until(lambda: acceptor.counts.accepted == 10)
    assert [await gone(sock) for sock in silent] == [True, True, False, False]
    assert acceptor.counts.given_up == 2
    await until(lambda: sum(link.was_answered() for link in acceptor.places.holders()) == 6)
    acceptor.close()


async def test_tls_closed_accepts_from_nobodys_queue(process: ProcessContext, ports: Ports) -> None:
    """A process that drains takes over for nobody."""
    addresses = [sock.getsockname() for sock in ports.sockets]
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets, index=0, processes=3)))
    acceptor.start()
    acceptor.peer_down(1)
    acceptor.end()
    acceptor.peer_down(2)
    acceptor.start()
    for address in addresses:
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(address, timeout=20)
    await never(lambda: process.counters.connections != 0)


async def test_tls_that_closes_takes_what_waits_first(process: ProcessContext, ports: Ports) -> None:
    """Who was in the queue when the door was closed had come in time."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets, index=0, processes=3)))
    acceptor.start()
    acceptor.peer_down(1)
    waiting = [ports.knock(index) for index in (0, 1)]
    for sock in waiting:
        sock.sendall(client_hello())
    acceptor.close()  # in this very turn: the loop has not looked at them yet
    assert process.counters.connections == 2
    await until(lambda: all(link.was_answered() for link in acceptor.places.holders()))


async def test_tls_of_one_process_has_nobody_to_adopt(process: ProcessContext, ports: Ports) -> None:
    """Its socket is the only one, whatever number is named."""
    acceptor = Acceptor(process, tls_listener(process, Sockets(tls=ports.sockets[:1])))
    acceptor.start()
    acceptor.peer_down(0)
    acceptor.peer_up(0)
    ports.knock(0)
    await until(lambda: process.counters.connections == 1)
    acceptor.close()


# -- dispatch ----------------------------------------------------------------------------------------------------------


async def health(sock: socket.socket) -> bytes:
    """The first line of the answer to a request for health."""
    reader, writer = await asyncio.open_connection(sock=sock)
    writer.write(b"GET /-/health HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    try:
        return await asyncio.wait_for(reader.readline(), 20)
    finally:
        writer.close()
        await writer.wait_closed()


async def test_dispatch_serves_its_own_queue_and_that_of_a_peer_that_is_down(
    process: ProcessContext, ports: Ports
) -> None:
    """A master on this host waits for no process either; giving a queue back closes nothing."""
    acceptor = Acceptor(process, dispatch_listener(process, Sockets(dispatch=ports.sockets, index=1, processes=3)))
    acceptor.start()
    assert await health(ports.knock(1)) == b"HTTP/1.1 200 OK\r\n"
    waiting = ports.knock(0)
    await never(lambda: process.counters.connections != 0)
    acceptor.peer_down(0)
    assert await health(waiting) == b"HTTP/1.1 200 OK\r\n"
    acceptor.peer_up(0)
    await until(lambda: process.counters.connections == 0)
    ports.knock(0)
    await never(lambda: process.counters.connections != 0)
    assert ports.sockets[0].accept()[0].close() is None
    acceptor.peer_down(0)
    assert await health(ports.knock(0)) == b"HTTP/1.1 200 OK\r\n"
    acceptor.close()


@pytest.mark.parametrize("processes", [1, 2])
async def test_dispatch_on_a_file_is_one_queue_for_all(process: ProcessContext, tmp_path: Path, processes: int) -> None:
    """Any process may take a connection, so none has to be taken over."""
    listener = bind_unix(tmp_path / "d.sock", "dispatch", mode=0o600)
    acceptor = Acceptor(
        process,
        dispatch_listener(process, Sockets(dispatch=(listener.sock,), index=processes - 1, processes=processes)),
    )
    acceptor.start()
    acceptor.peer_down(0)
    acceptor.peer_up(0)
    for _ in range(3):
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(tmp_path / "d.sock"))
        assert await health(sock) == b"HTTP/1.1 200 OK\r\n"
    acceptor.end()
    with closing(socket.socket(socket.AF_UNIX)) as late:
        with suppress(ConnectionRefusedError):  # one process closed it: the supervisor has it still, this test has not
            late.connect(str(tmp_path / "d.sock"))
        await never(lambda: process.counters.connections != 0)
    listener.close()


async def test_dispatch_takes_one_connection_at_a_time(process: ProcessContext, tmp_path: Path) -> None:
    """What waits behind it is for whichever process is free first."""
    listener = bind_unix(tmp_path / "d.sock", "dispatch", mode=0o600)
    acceptor = Acceptor(process, dispatch_listener(process, Sockets(dispatch=(listener.sock,), index=0, processes=2)))
    with ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(closing(socket.socket(socket.AF_UNIX))).connect(str(tmp_path / "d.sock"))
        acceptor._accept(listener.sock)
        await until(lambda: process.counters.connections == 1)
        for _ in range(2):
            listener.sock.accept()[0].close()
        acceptor._accept(listener.sock)  # another was quicker
        await never(lambda: process.counters.connections != 1)
    acceptor.close()
    listener.close()


async def test_dispatch_leaves_a_connection_to_a_process_that_has_fewer(
    process: ProcessContext, tmp_path: Path
) -> None:
    """For a moment, or not at all when that process is gone; nobody waits for one that hangs."""
    listener = bind_unix(tmp_path / "d.sock", "dispatch", mode=0o600)
    fd = Tally.make(2)
    other, ours = Tally(os.dup(fd), 1, 2), Tally(fd, 0, 2)
    acceptor = Acceptor(
        process, dispatch_listener(process, Sockets(dispatch=(listener.sock,), tally=ours, index=0, processes=2))
    )
    with ExitStack() as stack:

        def knock() -> None:
            stack.enter_context(closing(socket.socket(socket.AF_UNIX))).connect(str(tmp_path / "d.sock"))

        for count in (1, 2):
            knock()
            acceptor._accept(listener.sock)
            assert process.counters.connections == count
        knock()
        acceptor._accept(listener.sock)
        assert process.counters.connections == 2
        await until(lambda: process.counters.connections == 3)
        acceptor._stop()
        acceptor.peer_down(1)
        knock()
        acceptor._accept(listener.sock)
        assert process.counters.connections == 4
        acceptor.peer_up(1)
        assert not other.is_ahead(4, ())  # it says that it has as many
        knock()
        acceptor._accept(listener.sock)
        assert process.counters.connections == 5
    await until(lambda: process.counters.connections == 0)
    acceptor.close()
    listener.close()


def queue_of(sock: socket.socket) -> int:
    """How many connections may wait: Linux tells it in ``tcpi_sacked`` of a socket that listens."""
    info = sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 32)
    return int(struct.unpack_from("8x6I", info)[5])


@pytest.mark.parametrize("processes", [1, 2])
async def test_dispatch_keeps_the_length_of_the_queue(process: ProcessContext, processes: int) -> None:
    """An event loop that begins to serve would shorten it to its own default."""
    bound = bind_tcp(TcpAddress(host="127.0.0.1", port=0), "dispatch", count=processes)
    before = queue_of(bound.sock)
    assert before > 100
    sockets = (bound.sock, *(other.sock for other in bound.more))
    acceptor = Acceptor(process, dispatch_listener(process, Sockets(dispatch=sockets, processes=processes)))
    acceptor.start()
    assert queue_of(bound.sock) == before
    acceptor.close()
    bound.close()


class Exhausted(socket.socket):
    """A listening socket of a process that has no descriptor left, once."""

    tries = 0

    def accept(self) -> tuple[socket.socket, object]:
        self.tries += 1
        if self.tries == 1:
            raise OSError(errno.EMFILE, "Too many open files")
        return super().accept()


async def test_dispatch_without_descriptors_tries_again_and_spins_not(process: ProcessContext) -> None:
    """The connection waits a moment; the loop is not kept busy with it."""
    bound = bind_tcp(TcpAddress(host="127.0.0.1", port=0), "dispatch")
    with Exhausted(fileno=bound.sock.detach()) as sock:
        sock.setblocking(False)
        acceptor = Acceptor(process, dispatch_listener(process, Sockets(dispatch=(sock,), index=0, processes=2)))
        acceptor.start()
        client = socket.create_connection(sock.getsockname(), timeout=20)
        assert await health(client) == b"HTTP/1.1 200 OK\r\n"
        assert sock.tries == 2
        acceptor.close()
