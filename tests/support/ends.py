"""A handler of the worker's side behind a plain loopback listener: what a gateway sends, without gateway and TLS."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.timers import TimerWheel
from rhttp.worker.handler import LIMITS, Handler, answer_problem


class Owner:
    """Passes requests to the handler, as the agent does."""

    def __init__(self, handler: Handler) -> None:
        self.handler = handler
        self.ends: set[ServerEnd] = set()

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        self.ends.add(end)
        self.handler.handle(end, head)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        answer_problem(end, status, code, detail)

    def end_closed(self, end: ServerEnd) -> None:
        self.ends.discard(end)


class Peer:
    """The gateway's side of one connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    def send(self, data: bytes) -> None:
        self.writer.write(data)

    async def head(self) -> tuple[int, dict[str, str]]:
        """Status and fields (lower case) of the next answer."""
        block = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 20)
        lines = block.decode("latin-1").split("\r\n")
        fields = dict(line.lower().split(": ", 1) for line in lines[1:] if line)
        return int(lines[0].split(" ")[1]), fields

    async def content(self, fields: dict[str, str]) -> bytes:
        """The content that the head announced; `trailers` follow chunks."""
        if "content-length" in fields:
            return await asyncio.wait_for(self.reader.readexactly(int(fields["content-length"])), 20)
        if fields.get("transfer-encoding") != "chunked":
            return await asyncio.wait_for(self.reader.read(), 20)
        received = b""
        while size := int(await asyncio.wait_for(self.reader.readline(), 20), 16):
            received += (await asyncio.wait_for(self.reader.readexactly(size + 2), 20))[:-2]
        self.trailers = b""
        while (line := await asyncio.wait_for(self.reader.readline(), 20)) != b"\r\n":
            self.trailers += line
        return received

    async def ask(
        self, target: str = "/", *, method: str = "GET", fields: str = "", content: bytes | None = None
    ) -> tuple[int, dict[str, str], bytes]:
        """One exchange: status, fields, content."""
        if content is not None:
            fields += f"Content-Length: {len(content)}\r\n"
        self.send(f"{method} {target} HTTP/1.1\r\nHost: w1.render.test\r\n{fields}\r\n".encode() + (content or b""))
        status, got = await self.head()
        bodyless = method == "HEAD" or status in (204, 304)
        return status, got, b"" if bodyless else await self.content(got)


class Served:
    """A handler that listens; `connect` gives connections to it."""

    def __init__(self, handler: Handler, port: int, owner: Owner, wheel: TimerWheel) -> None:
        self.handler = handler
        self.port = port
        self.owner = owner
        self.wheel = wheel
        self._writers: list[asyncio.StreamWriter] = []

    async def connect(self) -> Peer:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self._writers.append(writer)
        return Peer(reader, writer)

    async def close(self) -> None:
        for writer in self._writers:
            writer.transport.abort()


@contextlib.asynccontextmanager
async def served(handler: Handler, limits: Http1Limits = LIMITS) -> AsyncIterator[Served]:
    """Start the handler behind a listener; stop both at the end."""
    loop = asyncio.get_running_loop()
    wheel = TimerWheel(loop.time())
    owner = Owner(handler)
    await handler.start()
    server = await loop.create_server(lambda: ServerEnd(owner, limits, wheel, is_patient=True), "127.0.0.1", 0)
    one = Served(handler, server.sockets[0].getsockname()[1], owner, wheel)
    try:
        yield one
    finally:
        server.close()
        await one.close()
        for end in tuple(owner.ends):
            end.abort()
        await handler.stop()
        await server.wait_closed()
