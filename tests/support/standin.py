"""A gateway's stand-in for tests of the worker's side: real TLS with a real home's certificates, answers as told.

`worker_home` gives a home with a worker's bundle; `StandIn` listens with that home's server certificate, demands a
client certificate, hands each request head to a function and keeps the connections that it answered with 101.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import shutil
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable
from pathlib import Path

from support.homes import run_cli
from support.runhomes import copy_home, set_key

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
REALM = "rhttp@test.internal"


def challenge(nonce: bytes = b"n0nce", *, stale: bool = False, close: bool = False) -> bytes:
    """A 401 with one Digest challenge."""
    return (
        b"HTTP/1.1 401 Unauthorized\r\n"
        b'WWW-Authenticate: Digest realm="%b", qop="auth", algorithm=SHA-256, nonce="%b"%b\r\n'
        b"%bContent-Length: 0\r\n\r\n"
        % (REALM.encode(), nonce, b", stale=true" if stale else b"", b"Connection: close\r\n" if close else b"")
    )


def refusal(status: bytes, fields: bytes = b"", body: bytes = b"") -> bytes:
    """Any other answer."""
    return b"HTTP/1.1 %b\r\n%bConnection: close\r\nContent-Length: %d\r\n\r\n%b" % (status, fields, len(body), body)


@functools.cache
def _template() -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory(prefix="rhttp-worker-")
    place = copy_home(Path(folder.name) / "home")
    set_key(place, "listen", '"127.0.0.1:8443"')  # for the bundle; the tests give the port that it really is
    assert run_cli(place, "issue-worker", "w1", "--pool", "render").exit_code == 0
    set_key(place, "listen", '"127.0.0.1:0"')
    return folder, place


def worker_home(place: Path) -> Path:
    """A copy of a home with the bundle ``bundles/w1`` of a worker in the pool render."""
    shutil.copytree(_template()[1], place, symlinks=True)
    return place


class Switched:
    """A connection on which the stand-in asks and the worker answers."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    async def get(self, target: str = "/", fields: str = "") -> tuple[bytes, bytes]:
        """Send a request without content; the answer's head and content (by Content-Length)."""
        self.writer.write(f"GET {target} HTTP/1.1\r\nHost: w1.render.test.internal\r\n{fields}\r\n".encode())
        return await self.answer()

    async def answer(self) -> tuple[bytes, bytes]:
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        length = next(
            int(line.split(b":")[1]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")
        )
        return head, await asyncio.wait_for(self.reader.readexactly(length), 20)

    async def ended(self) -> bytes:
        """Wait until the worker closes; what it sent before."""
        return await asyncio.wait_for(self.reader.read(), 20)

    def close(self) -> None:
        self.writer.close()


class StandIn:
    """Answers each request head by `answer`; ``heads`` keeps them, ``switched`` the connections that changed roles."""

    def __init__(self, answer: Callable[[bytes], bytes], host: str = "127.0.0.1") -> None:
        self.answer = answer
        self.host = host
        self.port = 0
        self.heads: list[bytes] = []
        self.connections = 0
        self.serials: list[int] = []
        self.switched: asyncio.Queue[Switched] = asyncio.Queue()
        self._open: list[asyncio.StreamWriter] = []
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"https://{self.host}:{self.port}"

    async def accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._open.append(writer)
        certificate = writer.get_extra_info("peercert")
        self.serials.append(int(certificate["serialNumber"], 16))
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError, ssl.SSLError):
            while True:
                head = await reader.readuntil(b"\r\n\r\n")
                self.heads.append(head)
                answer = self.answer(head)
                writer.write(answer)
                if answer.startswith(b"HTTP/1.1 101"):
                    self.switched.put_nowait(Switched(reader, writer))
                    return
                if not answer or b"Connection: close" in answer:
                    writer.close()
                    return

    async def next(self) -> Switched:
        """The next connection that changed roles."""
        return await asyncio.wait_for(self.switched.get(), 20)

    async def start(self, home: Path, port: int = 0) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(home / "certs" / "server.pem", home / "keys" / "server.key")
        context.load_verify_locations(home / "certs" / "root.pem")
        context.load_verify_locations(home / "certs" / "worker-ca.pem")
        context.verify_mode = ssl.CERT_REQUIRED
        context.set_alpn_protocols(["http/1.1"])
        self._server = await asyncio.start_server(self.accept, self.host, port, ssl=context)
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Listen no more and cut everything."""
        if self._server is not None:
            self._server.close()
            for writer in self._open:
                writer.transport.abort()
            self._open.clear()
            await self._server.wait_closed()
            self._server = None


@contextlib.asynccontextmanager
async def stand_in(home: Path, answer: Callable[[bytes], bytes], host: str = "127.0.0.1") -> AsyncIterator[StandIn]:
    """A running stand-in."""
    peer = StandIn(answer, host)
    await peer.start(home)
    try:
        yield peer
    finally:
        await peer.stop()
