"""Connections to a gateway through a proxy: what is asked of it, what it may answer, and that TLS goes through."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.homes import run_cli
from support.standin import SWITCH, stand_in, worker_home

from rhttp.reversal.upgrade import PTTH_1_0
from rhttp.timers import TimerWheel
from rhttp.tls.tls_link import TlsLink
from rhttp.worker.backoff import REFUSAL, TROUBLE
from rhttp.worker.bundle import GatewayAddress, load_bundle, parse_gateway
from rhttp.worker.connect import ConnectFailed, connect
from rhttp.worker.dial import DialFailed, Dialling, Session, dial
from rhttp.worker.handler import LIMITS
from rhttp.worker.proxies import VARIABLES

GATEWAY: GatewayAddress = parse_gateway("https://gateway.example:8443")


class ProxyPeer:
    """An HTTP proxy that answers CONNECT as told, and passes bytes to ``target`` when that is set."""

    def __init__(self, answer: bytes, target: int | None = None) -> None:
        self.answer = answer
        self.target = target
        self.heads: list[bytes] = []
        self.port = 0
        self._writers: list[asyncio.StreamWriter] = []
        self._tasks: set[asyncio.Task[None]] = set()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._writers.append(writer)
        self.heads.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(self.answer)
        if self.target is None:
            writer.close()
            return
        onward, back = await asyncio.open_connection("127.0.0.1", self.target)
        self._writers.append(back)
        with contextlib.suppress(OSError):
            await asyncio.gather(_pass(reader, back), _pass(onward, writer))

    async def end(self) -> None:
        """Leave nothing open."""
        for writer in self._writers:
            writer.transport.abort()
        await asyncio.gather(*self._tasks, return_exceptions=True)


async def _pass(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
    writer.close()


@contextlib.asynccontextmanager
async def proxied(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, target: int | None = None, login: str = ""
) -> AsyncIterator[ProxyPeer]:
    """A proxy that the environment names."""
    for name in (*VARIABLES, "no_proxy", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
    peer = ProxyPeer(answer, target)
    server = await asyncio.start_server(peer.serve, "127.0.0.1", 0)
    peer.port = server.sockets[0].getsockname()[1]
    monkeypatch.setenv("HTTPS_PROXY", f"http://{login}127.0.0.1:{peer.port}")
    try:
        yield peer
    finally:
        server.close()
        await peer.end()
        await server.wait_closed()


async def test_connect_asks_the_proxy_for_name_and_port(monkeypatch: pytest.MonkeyPatch) -> None:
    """CONNECT with the authority and its port; the gateway's name is the proxy's to resolve."""
    async with proxied(monkeypatch, b"HTTP/1.1 200 Connection established\r\n\r\n") as peer:
        (await connect(GATEWAY)).close()
    assert peer.heads == [b"CONNECT gateway.example:8443 HTTP/1.1\r\nHost: gateway.example:8443\r\n\r\n"]


async def test_connect_sends_credentials_to_the_proxy_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Basic, as RFC 7617 says."""
    async with proxied(monkeypatch, b"HTTP/1.0 200 OK\r\n\r\n", login="user:pass@") as peer:
        (await connect(GATEWAY)).close()
    assert b"\r\nProxy-Authorization: Basic dXNlcjpwYXNz\r\n" in peer.heads[0]


@pytest.mark.parametrize(
    ("answer", "word", "pace"),
    [
        (
            b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\n\r\n",
            "wants credentials",
            REFUSAL,
        ),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "403 Forbidden", REFUSAL),
        (b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n", "502 Bad Gateway", TROUBLE),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "bytes behind its answer", TROUBLE),
        (b"HTTP/1.1 200 OK\n\n", "does not speak HTTP/1.1", TROUBLE),
        (b"SSH-2.0-nothing\r\n\r\n", "does not speak HTTP/1.1", TROUBLE),
        (b"HTTP/1.1 200 OK\r\n", "closed the connection", TROUBLE),
        (b"", "closed the connection", TROUBLE),
        (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40_000, "more than 32768 bytes", TROUBLE),
    ],
)
async def test_connect_says_what_the_proxy_answered(
    monkeypatch: pytest.MonkeyPatch, answer: bytes, word: str, pace: object
) -> None:
    """Each refusal names the proxy and its variable, and is asked again as patiently as it deserves."""
    async with proxied(monkeypatch, answer) as peer:
        with pytest.raises(ConnectFailed) as caught:
            await connect(GATEWAY)
    assert caught.value.code == "proxy"
    assert caught.value.pace is pace
    assert word in str(caught.value)
    assert f"127.0.0.1:{peer.port} (HTTPS_PROXY)" in str(caught.value)


async def test_connect_to_a_proxy_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the proxy, not only the gateway."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        port = sock.getsockname()[1]
    monkeypatch.setenv("https_proxy", f"http://127.0.0.1:{port}")
    with pytest.raises(ConnectFailed, match=rf"cannot reach the proxy 127\.0\.0\.1:{port} \(https_proxy\)") as caught:
        await connect(GATEWAY)
    assert caught.value.code == "unreachable"


async def test_connect_refuses_a_proxy_that_it_cannot_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """It never dials around it."""
    monkeypatch.setenv("https_proxy", "socks5://127.0.0.1:1080")
    with pytest.raises(ConnectFailed, match="another kind") as caught:
        await connect(GATEWAY)
    assert caught.value.code == "proxy"
    assert caught.value.pace is REFUSAL


async def test_dial_switches_roles_through_a_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """TLS, with both certificates and the gateway's name, runs end to end through the proxy."""
    home = worker_home(tmp_path / "home")
    assert run_cli(home, "issue-server", "--san", "DNS:gateway.test.internal").exit_code == 0
    taken: asyncio.Future[TlsLink] = asyncio.get_running_loop().create_future()

    def take(link: TlsLink, surplus: bytes) -> None:
        link.set_protocol(asyncio.Protocol())
        taken.set_result(link)

    established = b"HTTP/1.1 200 Connection established\r\n\r\n"
    async with stand_in(home, lambda _: SWITCH) as gateway, proxied(monkeypatch, established, gateway.port) as peer:
        url = f"https://gateway.test.internal:{gateway.port}"
        session = Session(load_bundle(home / "bundles" / "w1", gateway=url))
        wheel = TimerWheel(asyncio.get_running_loop().time())
        dialling = Dialling(wheel=wheel, limits=LIMITS, variant=PTTH_1_0, instance="i1")
        await dial(session, dialling, take)
        assert peer.heads[0].startswith(f"CONNECT gateway.test.internal:{gateway.port} ".encode())
        assert gateway.connections == 1
        taken.result().abort()


async def test_dial_tells_of_the_proxy(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the agent tells its operator is the proxy's answer."""
    home = worker_home(tmp_path / "home")
    session = Session(load_bundle(home / "bundles" / "w1", gateway="https://gateway.example:8443"))
    dialling = Dialling(wheel=TimerWheel(0.0), limits=LIMITS, variant=PTTH_1_0, instance="i1")
    async with proxied(monkeypatch, b"HTTP/1.1 403 Forbidden\r\n\r\n"):
        with pytest.raises(DialFailed, match=r"does not connect us to https://gateway\.example:8443: 403") as caught:
            await dial(session, dialling, lambda link, surplus: None)
    assert (caught.value.code, caught.value.pace) == ("proxy", REFUSAL)
