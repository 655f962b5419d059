"""TLS handshakes on real sockets: who gets in, what the others are told, and that nobody resumes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from OpenSSL import SSL
from support.certs import Pair, forge
from support.tlspeers import (
    BlockingPeer,
    Side,
    alert_of,
    authority,
    dialling_context,
    joined,
    leaf,
    listening_context,
    plain_context,
)

from rhttp.timers import TimerWheel
from rhttp.tls.handshake import PresentedPath

VERSIONS = {SSL.TLS1_2_VERSION: "TLSv1.2", SSL.TLS1_3_VERSION: "TLSv1.3"}
both_versions = pytest.mark.parametrize("version", VERSIONS, ids=str)


@pytest.fixture(autouse=True)
async def nothing_surfaces() -> AsyncIterator[None]:
    """No exception reaches the event loop's handler: what one connection raises is nobody else's."""
    faults: list[dict[str, Any]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield
    assert faults == []


@contextlib.asynccontextmanager
async def accepting(context: SSL.Context, **options: Any) -> AsyncIterator[tuple[Side, socket.socket]]:
    """A link that accepts on loopback TCP, where closing too early costs the peer its alert; and the peer's socket."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname())
        theirs.settimeout(20)
        accepted, _ = listener.accept()
    side = Side(accepted, context, server=True, **options)
    try:
        yield side, theirs
    finally:
        theirs.close()
        side.link.abort()
        await asyncio.sleep(0)


async def refused(
    context: SSL.Context, client: SSL.Context, data: bytes = b"GET / HTTP/1.1\r\n\r\n"
) -> tuple[Any, str]:
    """How the handshake went for us, and the alert that the peer got while it was already sending."""
    async with accepting(context) as (side, theirs):
        peer = BlockingPeer(theirs, client)
        with pytest.raises(SSL.Error) as caught:
            await asyncio.to_thread(peer.talk, data)
        return await side.outcome(), alert_of(caught.value)


@both_versions
async def test_link_carries_bytes_both_ways(version: int) -> None:
    """Both versions, the peer's proof at hand, ALPN agreed."""
    async with joined(listening_context(version=version)) as (ours, theirs):
        assert (ours.link.version(), ours.link.protocol()) == (VERSIONS[version], b"http/1.1")
        assert ours.peer == "CN=w1"
        assert ours.link.handshake.peer is None  # it was told, and need not be kept
        theirs.link.write(b"question")
        await ours.owner.until(lambda: bytes(ours.owner.data) == b"question")
        ours.link.write(b"answer")
        await theirs.owner.until(lambda: bytes(theirs.owner.data) == b"answer")
    assert ours.owner.lost
    assert theirs.owner.lost


@both_versions
async def test_link_never_resumes_a_session(version: int) -> None:
    """A client that brings its session and ticket along is looked at again all the same."""
    looked: list[object] = []

    def verify(path: PresentedPath) -> object:
        looked.append(path)
        return "peer"

    context = listening_context(verify, version=version)
    client = plain_context(leaf("w1"), version=version)
    session = None
    for _ in range(3):
        async with accepting(context) as (side, theirs):
            peer = BlockingPeer(theirs, client)
            if session is not None:
                peer.connection.set_session(session)
            side.owner.on_data = lambda _data, link=side.link: link.write(b"answer")
            assert await asyncio.to_thread(peer.talk, b"question") == b"answer"
            session = peer.connection.get_session()
            assert session is not None
    assert len(looked) == 3


@pytest.mark.parametrize(("offered", "agreed"), [([b"h2", b"http/1.1"], b"http/1.1"), ([], b"")])
async def test_alpn_takes_what_both_speak_or_nothing(offered: list[bytes], agreed: bytes) -> None:
    """Many clients offer more; some offer nothing (RFC 7301)."""
    async with accepting(listening_context()) as (side, theirs):
        peer = BlockingPeer(theirs, plain_context(leaf("w1"), alpn=offered))
        await asyncio.to_thread(peer.shake)
        assert await side.outcome() is None
        assert side.link.protocol() == agreed


@both_versions
async def test_alpn_without_overlap_is_an_alert(version: int) -> None:
    """RFC 7301 section 3.2: no_application_protocol, and the peer gets it."""
    client = plain_context(leaf("w1"), version=version, alpn=[b"h2", b"spdy/1"])
    outcome, alert = await refused(listening_context(version=version), client)
    assert outcome == "alpn"
    assert "no application protocol" in alert


class RefusalError(Exception):
    """What a verifier raises."""

    reason = "revoked"


class CodedError(Exception):
    """An error of ours."""

    code = "server_name"


def raising(error: BaseException) -> Callable[[PresentedPath], object]:
    def verify(path: PresentedPath) -> object:
        raise error

    return verify


@both_versions
@pytest.mark.parametrize(
    ("error", "reason"), [(RefusalError(), "revoked"), (CodedError(), "server_name"), (KeyError("secret"), "internal")]
)
async def test_peer_refused_by_verify_gets_an_alert_though_it_sends(
    version: int, error: Exception, reason: str
) -> None:
    """Whatever the verifier raises is a refusal with its slug and no more; the alert survives the peer's early data."""
    client = plain_context(leaf("w1"), version=version)
    for _ in range(5):
        outcome, alert = await refused(listening_context(raising(error), version=version), client, b"x" * 5000)
        assert outcome == reason
        assert "alert" in alert


@both_versions
async def test_peer_without_certificate_gets_an_alert(version: int) -> None:
    """RFC 8446 section 4.4.2.4: certificate_required; TLS 1.2 says handshake_failure."""
    outcome, alert = await refused(listening_context(version=version), plain_context(None, version=version))
    assert outcome is not None
    assert "certificate required" in alert or "handshake failure" in alert


async def test_peer_of_another_authority_or_time_gets_an_alert() -> None:
    """OpenSSL's own refusals name their error number and send the right alert; our verifier is not asked."""
    asked: list[object] = []

    def verify(path: PresentedPath) -> object:
        asked.append(path)
        return "peer"

    stranger: Pair = forge("stranger")
    outcome, alert = await refused(listening_context(verify), plain_context(stranger))
    assert outcome is not None
    assert outcome.startswith("openssl_")
    assert "unknown ca" in alert
    outcome, alert = await refused(listening_context(verify), plain_context(leaf("late", expired=True)))
    assert outcome == "openssl_10"
    assert "expired" in alert
    assert asked == []


@both_versions
async def test_path_is_told_by_digests_leaf_first_and_outlives_the_handshake(version: int) -> None:
    """Leaf and anchor; its certificates can be read at any time, since it keeps what it points to."""
    kept: list[PresentedPath] = []

    def keep(path: PresentedPath) -> object:
        kept.append(path)
        return "peer"

    who = leaf("w1")
    wanted = [who.certificate, authority().certificate]
    async with accepting(listening_context(keep, version=version)) as (side, theirs):
        await asyncio.to_thread(BlockingPeer(theirs, plain_context(who, version=version)).shake)
        assert await side.outcome() is None
        side.link.abort()
    (path,) = kept
    assert path.fingerprints == [certificate.fingerprint(hashes.SHA256()) for certificate in wanted]
    found: list[x509.Certificate] = path.certificates()
    assert found == path.certificates() == wanted


def test_connection_without_a_handshake_of_ours_is_refused() -> None:
    """Nobody would take what its verification finds out."""
    server = SSL.Connection(listening_context(), None)
    server.set_accept_state()
    client = SSL.Connection(plain_context(leaf("w1"), version=SSL.TLS1_2_VERSION), None)
    client.set_connect_state()

    def step(end: SSL.Connection, other: SSL.Connection) -> None:
        with contextlib.suppress(SSL.WantReadError):
            end.do_handshake()
        other.bio_write(end.bio_read(65536))

    for end, other in ((client, server), (server, client), (client, server)):
        step(end, other)
    with pytest.raises(SSL.Error, match="certificate verify failed"):
        step(server, client)


async def test_verify_that_raises_touches_no_other_connection() -> None:
    """A fault in one handshake is that connection's alone, whatever runs beside it."""

    def verify(path: PresentedPath) -> object:
        name = path.certificates()[0].subject.rfc4514_string()
        if name == "CN=bad":
            raise RuntimeError("bug")
        return name

    context = listening_context(verify)
    async with contextlib.AsyncExitStack() as stack:
        sides = []
        for number in range(12):
            side, theirs = await stack.enter_async_context(accepting(context))
            who = leaf("bad" if number % 2 else "good")
            dialled = Side(theirs, dialling_context(who), server=False)
            stack.callback(dialled.link.abort)
            sides.append((side, dialled))
        outcomes = [await side.outcome() for side, _ in sides]
        assert outcomes == [None, "internal"] * 6
        for side, dialled in sides[::2]:
            dialled.link.write(b"hello")
            await side.owner.until(lambda owner=side.owner: bytes(owner.data) == b"hello")


@pytest.mark.parametrize(
    ("host", "outcome"), [("localhost", None), ("LOCALHOST.", None), ("other.example", "server_name")]
)
async def test_dialling_link_checks_the_server_name(host: str, outcome: str | None) -> None:
    """Inside the handshake: no byte of a request goes to another server."""
    async with accepting(listening_context()) as (_side, theirs):
        dialled = Side(theirs, dialling_context(leaf("w1"), host=host), server=False)
        try:
            assert await dialled.outcome() == outcome
        finally:
            dialled.link.abort()


async def test_dialling_link_refuses_a_server_of_another_authority() -> None:
    """The path must lead to the anchor that was given."""
    stranger: Pair = forge("localhost")
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.use_certificate(stranger.certificate)
    context.use_privatekey(stranger.key)  # type: ignore[arg-type]
    left, right = socket.socketpair()
    dialled = Side(left, dialling_context(leaf("w1")), server=False)
    right.settimeout(20)
    server = SSL.Connection(context, right)
    server.set_accept_state()
    right.setblocking(True)
    with contextlib.suppress(SSL.Error):
        await asyncio.to_thread(server.do_handshake)
    outcome = await dialled.outcome()
    assert outcome is not None
    assert outcome.startswith("openssl_")
    right.close()
    dialled.link.abort()


async def test_handshake_that_takes_too_long_ends() -> None:
    """One outcome, the socket closed, nothing left in the wheel."""
    wheel = TimerWheel(100.0)
    async with accepting(listening_context(), wheel=wheel, timeout=10.0) as (side, theirs):
        theirs.sendall(b"\x16\x03\x01")
        wheel.turn(109.0)
        assert side.outcomes == []
        wheel.turn(110.5)
        assert await side.outcome() == "timeout"
        assert side.link.socket.fileno() == -1
        assert len(wheel) == 0


async def test_peer_that_hangs_up_in_the_handshake_is_closed_at_once() -> None:
    """Nothing to linger for."""
    wheel = TimerWheel(100.0)
    async with accepting(listening_context(), wheel=wheel) as (side, theirs):
        theirs.close()
        assert await side.outcome() is not None
        wheel.turn(103.0)
        assert side.link.socket.fileno() == -1
        assert len(wheel) == 0


async def test_peer_that_speaks_no_tls_is_refused_and_lingered_for_two_seconds() -> None:
    """It may read the alert; then the socket is closed whatever it does."""
    wheel = TimerWheel(100.0)
    async with accepting(listening_context(), wheel=wheel) as (side, theirs):
        theirs.sendall(b"no tls at all, and long enough for a record header\r\n" * 10)
        assert await side.outcome() is not None
        theirs.sendall(b"more" * 1000)
        assert side.link.is_closing()
        assert side.link.socket.fileno() != -1
        wheel.turn(102.5)
        assert side.link.socket.fileno() == -1
        assert len(wheel) == 0


@pytest.mark.parametrize(
    "first", [b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"G", b"M-SEARCH * HTTP/1.1\r\n", b"CONNECT x:1 H"]
)
async def test_peer_that_speaks_http_in_the_clear_is_told_so_in_the_clear(first: bytes) -> None:
    """It can read no alert; it gets a whole answer, and then the connection ends."""
    async with accepting(listening_context()) as (side, theirs):
        theirs.sendall(first)
        assert await side.outcome() == "plain_http"
        told = await asyncio.to_thread(theirs.recv, 4096)
        head, _, body = told.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
        assert b"Connection: close" in head
        assert b"Content-Length: %d\r\n" % len(body) in head
        assert b"https" in body
        assert await asyncio.to_thread(theirs.recv, 1) == b""


async def test_failed_handshake_closes_when_the_peer_does() -> None:
    """The linger ends with the peer's own end."""
    async with accepting(listening_context()) as (side, theirs):
        theirs.sendall(b"no tls at all, and long enough for a record header\r\n")
        assert await side.outcome() is not None
        theirs.shutdown(socket.SHUT_WR)
        async with asyncio.timeout(20):
            while side.link.socket.fileno() != -1:
                await asyncio.sleep(0)
