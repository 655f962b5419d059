"""Who may be at the other end of a socket between processes, and the messages on it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.meshes import Meshed, until

from gateway.cluster import sockets
from gateway.cluster.frames import (
    FOR_NEWS,
    FOR_REQUESTS,
    GREETING_SIZE,
    NEWS,
    WANT,
    Greetings,
    MeshError,
    Wish,
    message,
    parse_message,
    read_wish,
)
from gateway.cluster.incoming import GREET_WITHIN
from gateway.cluster.peers import MAX_STRANGERS
from gateway.control.descriptors import mesh_path
from gateway.control.frames import FrameError, FrameReader, frame

SECRET = b"s" * 32


@pytest.fixture
async def two() -> AsyncIterator[Meshed]:
    with tempfile.TemporaryDirectory(prefix="mesh") as folder:
        meshed = await Meshed.start(Path(folder))
        yield meshed
        meshed.close()
        for _ in range(10):
            await asyncio.sleep(0)


@contextlib.contextmanager
def stray(two: Meshed, said: bytes) -> object:
    """A connection to the first process's socket by somebody, who has said something."""
    with sockets.dial(str(mesh_path(two[0].folder, 0))) as sock:
        if said:
            sock.send(said)
        yield sock


async def ended(sock: socket.socket) -> None:
    """Wait until the other side is gone."""
    async with asyncio.timeout(20):
        with contextlib.suppress(ConnectionResetError):
            while await asyncio.get_running_loop().sock_recv(sock, 4096):
                pass


STRANGE = {
    "garbage": b"x" * GREETING_SIZE,
    "http": b"GET /-/pools/render/any/job HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "another key": Greetings(b"o" * 32, 1).greet(FOR_NEWS, 0),
    "for another process": Greetings(b"n" * 32, 1).greet(FOR_REQUESTS, 2),
    "of ourselves": Greetings(b"n" * 32, 0).greet(FOR_REQUESTS, 0),
}


@pytest.mark.parametrize("said", STRANGE.values(), ids=STRANGE)
async def test_stranger_is_refused_counted_and_told_of(two: Meshed, said: bytes) -> None:
    """A socket that somebody could open after all is no way in."""
    here = two[0]
    with stray(two, said) as sock:
        await ended(sock)  # type: ignore[arg-type]
    assert here.process.counters.strangers == 1
    assert [(line["listener"], line["reason"]) for line in here.audit.of("connection.cut")] == [("mesh", "stranger")]
    assert here.mesh.missing() == [], "and disturbs nobody"


@pytest.mark.parametrize("said", [b"", b"rhm1"])
async def test_stranger_that_says_no_greeting_is_refused_in_time(two: Meshed, said: bytes) -> None:
    """Nor does it stay."""
    here = two[0]
    with stray(two, said) as sock:
        await until(lambda: len(here.mesh._strangers) == 1)
        here.turn(GREET_WITHIN + 0.5)
        await ended(sock)  # type: ignore[arg-type]
    assert here.process.counters.strangers == 1


async def test_strangers_are_so_many_and_no_more(two: Meshed) -> None:
    """The one beyond is refused at once; who greets makes room."""
    here = two[0]
    with contextlib.ExitStack() as open_ones:
        for _ in range(MAX_STRANGERS):
            open_ones.enter_context(stray(two, b""))
        await until(lambda: len(here.mesh._strangers) == MAX_STRANGERS)
        assert here.process.counters.strangers == 0
        with stray(two, b"") as sock:
            await ended(sock)  # type: ignore[arg-type]
        assert here.process.counters.strangers == 1


async def test_process_of_another_user_is_refused(two: Meshed, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says: the kernel knows better."""
    here = two[0]
    sock = sockets.dial(str(mesh_path(here.folder, 0)))
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(sockets, "_ROOT", 4243)
    sock.send(Greetings(b"n" * 32, 1).greet(FOR_NEWS, 0))
    await ended(sock)
    sock.close()
    assert here.process.counters.strangers == 1
    with pytest.raises(PermissionError):
        sockets.dial(str(mesh_path(here.folder, 0)))


async def test_connection_in_which_a_message_is_wrong_ends(two: Meshed) -> None:
    """Half understood is worse than begun anew."""
    greeting = Greetings(b"n" * 32, 1).greet(FOR_NEWS, 0)
    for said in (message(NEWS), message(WANT, 1, b"[]"), frame(b"\x09\x00\x00\x00\x01", 9), frame(b"x", 1)):
        with stray(two, greeting + said) as sock:
            await ended(sock)  # type: ignore[arg-type]
    assert two[0].process.counters.strangers == 0


async def test_hop_that_does_not_say_who_asks_ends(two: Meshed) -> None:
    """Nothing is sent to a worker without it."""
    worker = two[0].worker("w1")
    head = b"GET /job HTTP/1.1\r\nHost: w1\r\n%b\r\nRhttp-Request-Id: %b\r\nRhttp-Slot: %b\r\n\r\n"
    wrong = [
        b"GET /job HTTP/1.1\r\nHost: w1\r\n\r\n",
        head % (b"A: b", b"r1", b"1"),
        head % (b"Rhttp-Identity: client/a\r\nRhttp-Identity: client/b", b"r1", b"1"),
        head % (b"Rhttp-Identity: client/a", b"r 1", b"1"),
        head % (b"Rhttp-Identity: client/a", b"r1", b"-1"),
    ]
    for said in wrong:
        with stray(two, Greetings(b"n" * 32, 1).greet(FOR_REQUESTS, 0) + said) as sock:
            await ended(sock)  # type: ignore[arg-type]
    assert worker.taken() == b""
    with stray(
        two, Greetings(b"n" * 32, 1).greet(FOR_REQUESTS, 0) + head % (b"Rhttp-Identity: a", b"r1", b"1")
    ) as sock:
        answer = await asyncio.get_running_loop().sock_recv(sock, 4096)  # type: ignore[arg-type]
    assert b"\r\nRhttp-Loss: not-sent the reservation is over\r\n" in answer
    assert worker.taken() == b""


def test_greeting_proves_purpose_and_both_ends() -> None:
    """It is good for one purpose, from one process to one other, and not a byte of it can be another."""
    mine, other = Greetings(SECRET, 1), Greetings(SECRET, 2)
    greeting = mine.greet(FOR_REQUESTS, 2)
    assert len(greeting) == GREETING_SIZE
    assert other.check(greeting) == (FOR_REQUESTS, 1)
    for at in range(GREETING_SIZE):
        changed = greeting[:at] + bytes([greeting[at] ^ 1]) + greeting[at + 1 :]
        with pytest.raises(MeshError):
            other.check(changed)
    for checker in (Greetings(SECRET, 3), Greetings(b"t" * 32, 2), mine):
        with pytest.raises(MeshError):
            checker.check(greeting)
    for short in (b"", greeting[:-1], greeting + b"x"):
        with pytest.raises(MeshError):
            other.check(short)


@given(st.lists(st.binary(max_size=40), max_size=8), st.lists(st.integers(1, 50), max_size=20))
def test_frames_any_cuts_yield_the_same_contents(contents: list[bytes], cuts: list[int]) -> None:
    """Where reads end does not matter."""
    stream = b"".join(frame(content, 40) for content in contents)
    reader = FrameReader(40)
    seen: list[bytes] = []
    for cut in (*cuts, len(stream)):
        seen += reader.feed(stream[:cut])
        stream = stream[cut:]
    assert seen + reader.feed(stream) == contents


def test_frame_at_the_limit_passes_and_one_byte_more_is_refused() -> None:
    """The limit is looked at when the length arrives, before any content is kept."""
    assert FrameReader(3).feed(frame(b"abc", 3)) == [b"abc"]
    with pytest.raises(FrameError):
        FrameReader(2).feed(frame(b"abc", 3)[:4])
    with pytest.raises(FrameError):
        frame(b"abcd", 3)


@given(st.binary(max_size=60))
def test_message_any_bytes_are_one_or_an_error(data: bytes) -> None:
    """Garbage never raises anything but `MeshError`."""
    with contextlib.suppress(MeshError):
        kind, number, content = parse_message(data)
        assert FrameReader(1 << 20).feed(message(kind, number, content)) == [data]
    with contextlib.suppress(MeshError):
        Wish.from_bytes(data)


@pytest.mark.parametrize(
    "wish",
    [
        Wish("p"),
        Wish("p", worker="w", waits=True),
        Wish("p", label=("k", "v"), strict=True, not_again="w2"),
    ],
)
def test_wish_is_read_as_it_was_told(wish: Wish) -> None:
    """Every part of it."""
    parts = ("pool", "worker", "label", "strict", "not_again", "waits")
    for told in (Wish.from_bytes(wish.to_bytes()), read_wish(wish.to_bytes()), read_wish(wish.to_bytes())):
        assert [getattr(told, name) for name in parts] == [getattr(wish, name) for name in parts]


@pytest.mark.parametrize("content", [b"[1,2,3]", b'["p",1,null,0,null,0]', b'["p",null,"k",0,null,0]', b"{}"])
def test_wish_of_another_shape_is_refused(content: bytes) -> None:
    """Half a wish is none."""
    for _ in range(2):
        with pytest.raises(MeshError):
            read_wish(content)
