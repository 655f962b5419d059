"""Plain links on real sockets: bytes both ways, what is held back, back-pressure, and how they end."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from typing import Any

import pytest
from support.tlspeers import Owner

from rhttp.timers import TimerWheel
from rhttp.tls.outbox import Outbox
from rhttp.tls.plain import PlainLink, dial


@pytest.fixture(autouse=True)
async def nothing_surfaces() -> AsyncIterator[None]:
    """No exception reaches the event loop's handler."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield
    assert faults == []


@contextlib.asynccontextmanager
async def linked(
    *, held: bool = True, high_water: int = 65536
) -> AsyncIterator[tuple[PlainLink, Owner, socket.socket]]:
    """A link, its owner, and the peer's socket, which blocks for 20 s at most."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        theirs.settimeout(20)
        ours, _ = listener.accept()
    ours.setblocking(False)
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 65536)
    loop = asyncio.get_running_loop()
    outbox = Outbox(loop) if held else None
    link, owner = PlainLink(loop, ours, wheel=TimerWheel(100.0), outbox=outbox, high_water=high_water), Owner()
    owner.link = link
    link.set_protocol(owner)
    try:
        yield link, owner, theirs
    finally:
        theirs.close()
        link.abort()
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def receive(sock: socket.socket, size: int) -> bytes:
    """So many bytes from a blocking socket; fewer when it ends."""

    def take() -> bytes:
        data = bytearray()
        while len(data) < size and (more := sock.recv(size - len(data))):
            data += more
        return bytes(data)

    return await asyncio.to_thread(take)


@pytest.mark.parametrize("held", [True, False])
async def test_link_carries_bytes_both_ways(held: bool) -> None:
    """What one side writes the other one gets, held back until the end of the turn or not."""
    async with linked(held=held) as (link, owner, theirs):
        theirs.sendall(b"question")
        await owner.until(lambda: bytes(owner.data) == b"question")
        link.write(b"ans")
        link.write(b"wer")
        assert link.get_write_buffer_size() == (6 if held else 0)
        assert await receive(theirs, 6) == b"answer"
        assert link.get_write_buffer_size() == 0


async def test_link_that_holds_bytes_sends_them_before_more_than_a_little() -> None:
    """A large write takes what was held back with it, in order and at once."""
    async with linked() as (link, _owner, theirs):
        link.write(b"first")
        link.write(b"x" * 5000)
        assert link.get_write_buffer_size() == 0
        assert await receive(theirs, 5005) == b"first" + b"x" * 5000


@pytest.mark.parametrize("end", ["close", "write_eof"])
async def test_link_that_ends_sends_what_it_held_back(end: str) -> None:
    """An orderly end loses nothing, even in the turn of the last write."""
    async with linked() as (link, _owner, theirs):
        link.write(b"last")
        getattr(link, end)()
        assert await receive(theirs, 5) == b"last"
        assert link.is_closing() == (end == "close")


async def test_link_that_is_aborted_sends_nothing_of_what_it_held_back() -> None:
    """An abort is at once, and the owner is told."""
    async with linked() as (link, owner, theirs):
        link.write(b"never")
        link.abort()
        assert await receive(theirs, 5) == b""
        await owner.until(lambda: owner.lost)


async def test_link_with_a_slow_peer_pauses_its_owner_and_resumes() -> None:
    """Bytes above the high-water mark pause the owner once; when the peer reads, it goes on, and nothing is lost."""
    async with linked(high_water=20000) as (link, owner, theirs):
        written = 0
        while not owner.blocked:
            link.write(b"y" * 10000)
            written += 10000
        assert link.get_write_buffer_size() > 20000
        assert await receive(theirs, written) == b"y" * written
        await owner.until(lambda: owner.unblocked == 1)
        assert (owner.blocked, link.get_write_buffer_size()) == (1, 0)


async def test_link_that_is_paused_delivers_nothing_until_it_resumes() -> None:
    """The reader's back-pressure holds."""
    async with linked() as (link, owner, theirs):
        link.pause_reading()
        theirs.sendall(b"wait")
        for _ in range(20):  # turns in which the bytes, which are there, would have come
            await asyncio.sleep(0)
        assert not owner.data
        link.resume_reading()
        await owner.until(lambda: bytes(owner.data) == b"wait")


async def test_link_whose_peer_half_closes_tells_its_owner_and_still_writes() -> None:
    """The end of the peer's bytes is not the end of ours."""
    async with linked() as (link, owner, theirs):
        theirs.shutdown(socket.SHUT_WR)
        await owner.until(lambda: owner.eof)
        link.write(b"still here")
        assert await receive(theirs, 10) == b"still here"


async def test_link_whose_owner_does_not_stay_closes_at_the_end() -> None:
    """An owner that answers the half-close with False has the link closed."""
    async with linked() as (_link, owner, theirs):
        owner.keep_open = False
        theirs.shutdown(socket.SHUT_WR)
        await owner.until(lambda: owner.lost)


async def test_link_that_is_reset_tells_its_owner_once() -> None:
    """A reset is the end, whether it is noticed while reading or while writing."""
    async with linked() as (link, owner, theirs):
        theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        theirs.close()
        link.write(b"z")
        await owner.until(lambda: owner.lost)
        link.write(b"into the void")
        link.abort()


async def test_dial_reaches_whoever_listens_and_says_when_nobody_does() -> None:
    """A dialled socket is connected and does not block; a port without a listener is an OSError."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        sock = await dial(loop, "localhost", port)
        accepted, _ = listener.accept()
        with sock, accepted:
            assert not sock.getblocking()
            assert sock.getpeername()[1] == port
    with pytest.raises(OSError, match=r".+"):
        await dial(loop, "127.0.0.1", port)
