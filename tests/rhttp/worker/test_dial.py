"""One dial: TLS with both certificates, Digest, the switch of roles, and every way in which that fails."""

from __future__ import annotations

import asyncio
import shutil
import socket
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from support.homes import run_cli
from support.standin import SWITCH, challenge, refusal, stand_in, worker_home

from rhttp.reversal.upgrade import PTTH_1_0
from rhttp.timers import TimerWheel
from rhttp.tls.tls_link import TlsLink
from rhttp.worker.backoff import REFUSAL, TROUBLE
from rhttp.worker.bundle import load_bundle
from rhttp.worker.dial import DialFailed, Dialling, Session, dial
from rhttp.worker.handler import LIMITS


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return worker_home(tmp_path / "home")


@pytest.fixture
def place(home: Path) -> Path:
    return home / "bundles" / "w1"


class Taker(asyncio.Protocol):
    """Takes a link over and keeps what comes."""

    def __init__(self) -> None:
        self.link: TlsLink | None = None
        self.received = b""

    def take(self, link: TlsLink, surplus: bytes) -> None:
        self.link = link
        self.received += surplus
        link.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        self.received += data


@pytest.fixture
async def taker() -> AsyncIterator[Taker]:
    taker = Taker()
    yield taker
    if taker.link is not None:
        taker.link.abort()


def session(place: Path, url: str) -> Session:
    return Session(load_bundle(place, gateway=url))


async def dial_once(session: Session, take: Callable[[TlsLink, bytes], None]) -> None:
    wheel = TimerWheel(asyncio.get_running_loop().time())
    await dial(session, Dialling(wheel=wheel, limits=LIMITS, variant=PTTH_1_0, instance="i1"), take)


def no_take(link: TlsLink, surplus: bytes) -> None:
    raise AssertionError("nothing was to be taken over")


async def failure(session: Session) -> DialFailed:
    with pytest.raises(DialFailed) as caught:
        await dial_once(session, no_take)
    return caught.value


async def test_dial_sends_the_request_that_gateways_know(home: Path, place: Path, taker: Taker) -> None:
    """The request line and every field, and nothing else."""
    async with stand_in(home, lambda _: SWITCH) as peer:
        await dial_once(session(place, peer.url), taker.take)
        assert peer.heads[0].decode().split("\r\n") == [
            "POST /-/reverse/render HTTP/1.1",
            f"Host: 127.0.0.1:{peer.port}",
            "Upgrade: PTTH/1.0",
            "Connection: Upgrade",
            "Rhttp-Instance: i1",
            "Content-Length: 0",
            "",
            "",
        ]


async def test_dial_answers_the_challenge_on_the_same_connection(home: Path, place: Path, taker: Taker) -> None:
    """One 401, one more request, one connection; the next dial of the session needs no challenge."""

    def answer(head: bytes) -> bytes:
        return SWITCH if b"Authorization: Digest" in head else challenge()

    async with stand_in(home, answer) as peer:
        shared = session(place, peer.url)
        assert shared.is_unprimed()
        await dial_once(shared, taker.take)
        assert (len(peer.heads), peer.connections) == (2, 1)
        assert not shared.is_unprimed()
        other = Taker()
        await dial_once(shared, other.take)
        assert (len(peer.heads), peer.connections) == (3, 2)
        assert b"nc=00000002" in peer.heads[2]
        assert other.link is not None
        other.link.abort()


async def test_dial_takes_up_a_new_nonce_when_its_own_is_stale(home: Path, place: Path, taker: Taker) -> None:
    """After a restart of the gateway the credentials are made anew, on the same connection."""

    def answer(head: bytes) -> bytes:
        if b"Authorization" not in head:
            return challenge(b"old")
        return SWITCH if b'nonce="new"' in head else challenge(b"new", stale=True)

    async with stand_in(home, answer) as peer:
        await dial_once(session(place, peer.url), taker.take)
        assert (len(peer.heads), peer.connections) == (3, 1)


async def test_dial_keeps_what_comes_glued_to_the_switch(home: Path, place: Path, taker: Taker) -> None:
    """The first request may come in one piece with the 101; no byte of it is lost."""
    async with stand_in(home, lambda _: SWITCH + b"GET / HTTP/1.1\r\n") as peer:
        await dial_once(session(place, peer.url), taker.take)
        assert taker.received == b"GET / HTTP/1.1\r\n"


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (b"403 Forbidden", "forbidden", "policy explain --as worker/w1 --action reverse --on pool/render`"),
        (b"404 Not Found", "not-found", "add [pools.render]"),
        (b"426 Upgrade Required", "refused", "does not speak this protocol"),
        (b"500 Internal Server Error", "refused", "500"),
    ],
)
async def test_dial_refused_says_why_and_waits_longer(
    home: Path, place: Path, status: bytes, code: str, words: str
) -> None:
    """A refusal is told in words that name the mend, and is asked about less often than an outage."""
    body = b'{"title": "The reason\\n", "request_id": "r1"}'
    async with stand_in(home, lambda _: refusal(status, body=body)) as peer:
        error = await failure(session(place, peer.url))
    assert (error.code, error.pace) == (code, REFUSAL)
    assert words in str(error)
    assert "The reason? (request r1)" in str(error)


async def test_dial_of_a_superseded_start_says_so_with_the_mend(home: Path, place: Path) -> None:
    """Two workers run with one bundle: that is somebody's to mend, and is asked about seldom."""
    body = b'{"type": "urn:rhttp:problem:superseded", "title": "A newer start"}'
    async with stand_in(home, lambda _: refusal(b"409 Conflict", b"Retry-After: 30\r\n", body=body)) as peer:
        error = await failure(session(place, peer.url))
    assert (error.code, error.pace, error.retry_after) == ("superseded", REFUSAL, 30.0)
    assert "this start of w1 is superseded: 409, A newer start; a worker that was started later runs" in str(error)
    assert "rhttp-pki issue-worker NAME --pool render" in str(error)
    async with stand_in(home, lambda _: refusal(b"409 Conflict")) as peer:
        assert (await failure(session(place, peer.url))).code == "refused"


async def test_dial_overloaded_gateway_is_trouble_with_its_own_delay(home: Path, place: Path) -> None:
    """503 passes by itself; Retry-After is kept for whoever waits."""
    answer = refusal(b"503 Service Unavailable", b"Retry-After: 7\r\n")
    async with stand_in(home, lambda _: answer) as peer:
        error = await failure(session(place, peer.url))
    assert (error.pace, error.retry_after) == (TROUBLE, 7.0)


async def test_dial_with_a_wrong_password_ends_after_one_answer(home: Path, place: Path) -> None:
    """A second challenge that is not stale means that the password is wrong: no third request."""
    async with stand_in(home, lambda _: challenge()) as peer:
        error = await failure(session(place, peer.url))
        assert len(peer.heads) == 2
    assert error.code == "credentials"
    assert "does not take the password of w1" in str(error)


async def test_dial_with_a_gateway_that_is_always_stale_ends(home: Path, place: Path) -> None:
    """A peer may say stale=true for ever; we do not ask for ever."""
    async with stand_in(home, lambda head: challenge(b"n%d" % len(head), stale=True)) as peer:
        error = await failure(session(place, peer.url))
        assert len(peer.heads) == 3
    assert error.code == "credentials"


@pytest.mark.parametrize(
    "answer",
    [
        SWITCH.replace(b"PTTH/1.0", b"websocket"),
        SWITCH.replace(b"Connection: Upgrade\r\n", b""),
        b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
        b"rubbish\r\n\r\n",
        b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n",
    ],
)
async def test_dial_with_an_answer_outside_the_protocol_fails(home: Path, place: Path, answer: bytes) -> None:
    """Only the very switch that was asked for makes a reversed connection."""
    async with stand_in(home, lambda _: answer) as peer:
        assert (await failure(session(place, peer.url))).code == "malformed"


async def test_dial_closed_without_an_answer_is_trouble(home: Path, place: Path) -> None:
    """A gateway that goes away in mid-dial is not a refusal."""
    async with stand_in(home, lambda _: b"") as peer:
        error = await failure(session(place, peer.url))
    assert (error.code, error.pace) == ("lost", TROUBLE)


async def test_dial_nobody_listens_is_trouble(place: Path) -> None:
    """A refused connection is told with its address."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else gets the port
        error = await failure(session(place, f"https://127.0.0.1:{sock.getsockname()[1]}"))
    assert (error.code, error.pace) == ("unreachable", TROUBLE)
    assert "Connection refused" in str(error)


async def test_dial_unknown_name_is_trouble(place: Path) -> None:
    """A name that does not resolve is told as that."""
    error = await failure(session(place, "https://gateway.invalid"))
    assert (error.code, error.pace) == ("unresolved", TROUBLE)


async def test_dial_server_of_another_home_is_not_trusted(home: Path, place: Path, tmp_path: Path) -> None:
    """A server that trust.pem does not vouch for sees no request and no credentials."""
    other = tmp_path / "other"
    assert run_cli(other, "init").exit_code == 0
    shutil.copy(other / "certs" / "root.pem", place / "trust.pem")
    async with stand_in(home, lambda _: SWITCH) as peer:
        error = await failure(session(place, peer.url))
        assert peer.heads == []
    assert (error.code, error.pace) == ("untrusted", REFUSAL)
    assert "trust.pem does not hold the root" in str(error)


async def test_dial_server_with_another_name_is_not_trusted(home: Path, place: Path) -> None:
    """The certificate must name the host that was dialled; 127.0.0.2 is this machine too, and not in it."""
    async with stand_in(home, lambda _: SWITCH, host="127.0.0.2") as peer:
        error = await failure(session(place, peer.url))
        assert peer.heads == []
    assert error.code == "untrusted"
    assert "does not name 127.0.0.2" in str(error)


async def test_dial_server_that_is_no_tls_is_told(place: Path) -> None:
    """A port with something else behind it."""

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await reader.read()
        writer.close()

    server = await asyncio.start_server(plain, "127.0.0.1", 0)
    async with server:
        error = await failure(session(place, f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}"))
    assert error.code == "tls"


async def test_dial_cancelled_leaves_no_connection(home: Path, place: Path) -> None:
    """Whoever stops in mid-dial leaves nothing open."""
    asked = asyncio.Event()

    def silent(head: bytes) -> bytes:
        asked.set()
        return b"HTTP/1.1 100 Continue\r\n\r\n"

    async with stand_in(home, silent) as peer:
        task = asyncio.create_task(dial_once(session(place, peer.url), no_take))
        await asyncio.wait_for(asked.wait(), 20)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task


async def test_dial_watches_the_connection_by_keepalive(home: Path, place: Path, taker: Taker) -> None:
    """The kernel asks whether the gateway is there, since the protocol has no ping."""
    async with stand_in(home, lambda _: SWITCH) as peer:
        await dial_once(session(place, peer.url), taker.take)
        assert taker.link is not None
        sock = taker.link.socket
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) == 30
        # Linux counts a peer that does not read as gone after this time, so it must exceed what back-pressure may take.
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) > LIMITS.content_timeout * 1000


def test_dial_errors_and_sessions_show_no_secret(place: Path) -> None:
    """Neither password nor key is in what may be logged."""
    shared = session(place, "https://127.0.0.1:1")
    password = (place / "password").read_text().strip()
    assert password not in repr(shared.digest)
    assert password not in repr(shared.bundle)
