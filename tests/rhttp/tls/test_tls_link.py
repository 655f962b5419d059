"""An open TLS link: back-pressure, the ways to end it, and giving the bare socket away."""

from __future__ import annotations

import asyncio
import hashlib
import random
import socket
import struct

import pytest
import uvloop
from support.tlspeers import Side, dialling_context, joined, leaf, listening_context

from rhttp.timers import TimerWheel

CHUNK = b"x" * 16384


async def drained(side: Side) -> None:
    """Until the link has closed its socket."""
    await side.owner.until(lambda: side.owner.lost)
    assert side.link.socket.fileno() == -1


def fill(side: Side) -> int:
    """Write until the link says stop; how much it took."""
    written = 0
    while not side.owner.blocked:
        side.link.write(CHUNK)
        written += len(CHUNK)
        assert written < 64 << 20, "no back-pressure"
    return written


async def test_link_tells_its_owner_to_stop_and_to_go_on() -> None:
    """One pause when more than the high-water mark waits, one resume when it is nearly gone; nothing is lost."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        written = fill(ours)
        assert (ours.owner.blocked, ours.owner.unblocked) == (1, 0)
        await asyncio.sleep(0)
        assert theirs.owner.data == b""
        theirs.link.resume_reading()
        await theirs.owner.until(lambda: len(theirs.owner.data) == written)
        await ours.owner.until(lambda: ours.owner.unblocked == 1)
        assert ours.owner.blocked == 1


async def test_link_paused_delivers_nothing_and_then_everything() -> None:
    """Pausing in the middle of a batch stops at a record."""
    async with joined() as (ours, theirs):
        ours.owner.on_data = lambda _: ours.link.pause_reading()
        for _ in range(4):
            theirs.link.write(CHUNK)
        await ours.owner.until(lambda: len(ours.owner.data) >= len(CHUNK))
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(ours.owner.data) == len(CHUNK)
        ours.owner.on_data = None
        ours.link.resume_reading()
        await ours.owner.until(lambda: len(ours.owner.data) == 4 * len(CHUNK))


@pytest.mark.parametrize("seed", [1, 2])
async def test_link_carries_megabytes_both_ways_with_random_pauses(seed: int) -> None:
    """Ten megabytes each way at once, in pieces of any size, with either reader stopping at random."""
    chance = random.Random(seed)
    size = 10 << 20
    async with joined() as (ours, theirs):
        sent = {side: hashlib.sha256() for side in (ours, theirs)}
        got = {side: hashlib.sha256() for side in (ours, theirs)}
        received = dict.fromkeys((ours, theirs), 0)

        def reader(side: Side) -> None:
            def take(data: bytes) -> None:
                side.owner.data.clear()
                got[side].update(data)
                received[side] += len(data)
                if chance.random() < 0.05:
                    side.link.pause_reading()
                    asyncio.get_running_loop().call_later(0.001, side.link.resume_reading)

            side.owner.on_data = take

        async def writer(side: Side) -> None:
            left = size
            while left:
                data = chance.randbytes(min(left, chance.choice([1, 100, 16384, 16385, 100_000, 300_000])))
                sent[side].update(data)
                left -= len(data)
                side.link.write(data)
                if side.owner.blocked > side.owner.unblocked:
                    await side.owner.until(lambda: side.owner.blocked == side.owner.unblocked)
                elif chance.random() < 0.2:
                    await asyncio.sleep(0)

        reader(ours)
        reader(theirs)
        await asyncio.gather(writer(ours), writer(theirs))
        await ours.owner.until(lambda: received[ours] == size)
        await theirs.owner.until(lambda: received[theirs] == size)
        assert got[ours].digest() == sent[theirs].digest()
        assert got[theirs].digest() == sent[ours].digest()


async def test_link_half_closes_both_ways() -> None:
    """After our last byte we still read, after the peer's we still write; close_notify tells the end from a cut."""
    async with joined() as (ours, theirs):
        theirs.link.write(b"the whole question")
        theirs.link.write_eof()
        await ours.owner.until(lambda: ours.owner.eof)
        assert bytes(ours.owner.data) == b"the whole question"
        assert ours.link.get_extra_info("truncated") is False
        ours.link.write(CHUNK * 3)
        ours.link.write_eof()
        await theirs.owner.until(lambda: theirs.owner.eof)
        assert bytes(theirs.owner.data) == CHUNK * 3
        assert theirs.link.get_extra_info("truncated") is False
        assert not ours.owner.lost


async def test_link_sends_what_waits_before_its_half_close() -> None:
    """The end of output comes behind output that the peer was too slow for."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        written = fill(ours)
        ours.link.write_eof()
        theirs.link.resume_reading()
        await theirs.owner.until(lambda: theirs.owner.eof)
        assert len(theirs.owner.data) == written


async def test_link_tells_a_bare_fin_from_a_close_notify() -> None:
    """Anyone on the way can forge a FIN; it ends input, still lets us answer, and is known for what it is."""
    async with joined() as (ours, theirs):
        theirs.link.write(b"cut of")
        theirs.link.socket.shutdown(socket.SHUT_WR)
        await ours.owner.until(lambda: ours.owner.eof)
        assert bytes(ours.owner.data) == b"cut of"
        assert ours.link.get_extra_info("truncated") is True
        ours.link.write(b"answer")
        await theirs.owner.until(lambda: bytes(theirs.owner.data) == b"answer")


async def test_link_closes_when_its_owner_has_no_use_for_half_a_connection() -> None:
    """An owner that answers False to the end of input gets the link closed."""
    async with joined() as (ours, theirs):
        ours.owner.keep_open = False
        theirs.link.write_eof()
        await drained(ours)
        assert ours.owner.error is None


async def test_link_close_sends_everything_and_says_so() -> None:
    """What was written arrives, then close_notify."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        written = fill(ours)
        ours.link.close()
        assert ours.link.is_closing()
        ours.link.write(b"too late")
        theirs.link.resume_reading()
        await theirs.owner.until(lambda: theirs.owner.eof)
        assert len(theirs.owner.data) == written
        assert theirs.link.get_extra_info("truncated") is False
        await drained(ours)


async def test_link_close_does_not_wait_for_a_peer_that_never_reads() -> None:
    """Two seconds, then it is dropped with what it did not want."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        fill(ours)
        ours.link.close()
        ours.wheel.turn(101.9)
        assert not ours.owner.lost
        assert ours.link.socket.fileno() != -1
        ours.wheel.turn(102.3)
        await drained(ours)
        assert len(ours.wheel) == 0


async def test_link_abort_shows_that_something_was_cut() -> None:
    """No close_notify: content until close must not look whole."""
    async with joined() as (ours, theirs):
        ours.link.write(b"half an ans")
        ours.link.abort()
        ours.link.abort()
        await theirs.owner.until(lambda: theirs.owner.eof or theirs.owner.lost)
        assert theirs.owner.lost or theirs.link.get_extra_info("truncated") is True
        await drained(ours)


async def test_link_tells_of_a_reset_once() -> None:
    """A peer that vanishes is told as an error, whoever notices first."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        fill(ours)
        theirs.link.abort()  # with unread bytes: a reset
        await drained(ours)


def test_link_tells_of_a_reset_that_comes_together_with_data() -> None:
    """uvloop reports both at once and then stops watching: the link looks once more by itself."""

    async def once() -> None:
        async with joined() as (ours, theirs):
            theirs.link.write(b"the last words")
            theirs.link.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            theirs.link.abort()
            await ours.owner.until(lambda: bytes(ours.owner.data) == b"the last words")
            ours.wheel.turn(ours.wheel.now + 1)
            await drained(ours)

    for _ in range(20):
        uvloop.run(once())


async def test_link_whose_owner_fails_is_cut() -> None:
    """After an exception nobody knows where the connection stands: fail closed, and tell the loop."""
    faults: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: faults.append(context.get("exception")))
    async with joined() as (ours, theirs):

        def fail(_: bytes) -> None:
            raise RuntimeError("bug")

        ours.owner.on_data = fail
        theirs.link.write(b"hello")
        await drained(ours)
        assert [type(fault) for fault in faults] == [RuntimeError]


async def test_link_detached_gives_the_socket_for_tls_in_the_other_role() -> None:
    """The role switch under TLS: the side that accepted becomes the client on the same socket, and back again."""
    async with joined() as (ours, theirs):
        theirs.link.write(b"switch")
        await ours.owner.until(lambda: bytes(ours.owner.data) == b"switch")
        ours.link.write(b"agreed")
        await theirs.owner.until(lambda: bytes(theirs.owner.data) == b"agreed")
        first, second = ours.link.detach(), theirs.link.detach()
        assert ours.link.is_closing()
        ours.link.abort()
        assert first.fileno() != -1
        assert len(ours.wheel) == 0
        client = Side(first, dialling_context(leaf("w1")), server=False)
        server = Side(second, listening_context(), server=True)
        assert await client.outcome() is None
        assert await server.outcome() is None
        client.link.write(b"inner question")
        await server.owner.until(lambda: bytes(server.owner.data) == b"inner question")
        server.link.write(b"inner answer")
        await client.owner.until(lambda: bytes(client.owner.data) == b"inner answer")
        client.link.abort()
        server.link.abort()
        await asyncio.sleep(0)
        assert not ours.owner.lost


async def test_link_with_output_under_way_cannot_be_detached() -> None:
    """Half a record on the wire is no boundary."""
    async with joined() as (ours, theirs):
        theirs.link.pause_reading()
        fill(ours)
        with pytest.raises(ValueError, match="under way"):
            ours.link.detach()


async def test_link_changes_hands_without_losing_a_byte() -> None:
    """`set_protocol` in the middle of a batch: the next byte goes to the next owner."""
    async with joined() as (ours, theirs):
        heir = Side.__new__(Side)  # only its owner is needed
        heir.owner = type(ours.owner)()
        ours.owner.on_data = lambda _: ours.link.set_protocol(heir.owner)
        theirs.link.write(CHUNK)
        theirs.link.write(b"rest")
        await heir.owner.until(lambda: bytes(heir.owner.data) == b"rest")
        assert len(ours.owner.data) == len(CHUNK)


async def test_link_knows_its_socket() -> None:
    """As asyncio transports do; None, or the default, for what is unknown."""
    async with joined() as (ours, _):
        assert ours.link.get_extra_info("socket") is ours.link.socket
        assert ours.link.get_extra_info("cipher") is None
        assert ours.link.get_extra_info("cipher", "x") == "x"


async def test_link_after_its_end_ignores_everything() -> None:
    """Late calls of owners do no harm."""
    wheel = TimerWheel(100.0)
    async with joined() as (ours, _):
        ours.link.close()
        for late in (ours.link.close, ours.link.abort, ours.link.pause_reading, ours.link.resume_reading):
            late()
        ours.link.write(b"late")
        ours.link.write_eof()
        await drained(ours)
        assert len(wheel) == 0
