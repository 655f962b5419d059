"""The mesh: what the data processes of one gateway tell each other, and the lines over which they lend slots.

Each process listens on a unix socket of its own in the home's `run` folder and dials every other. Over the connection
that it dialled it hears that process's news and asks it questions; when the connection is lost, all that was heard over
it is forgotten, and it is dialled again: the socket is the supervisor's, so the call waits there for the successor.

Trust: the peers are processes of this gateway, on sockets that only its user can open; their user id is checked, and
what they send for shape.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, cast

import orjson

from gateway.cluster.directory import Elsewhere, Learned, News
from gateway.cluster.frames import ANSWER, ASK, HELLO, NEWS, FrameReader, MeshError, frame
from gateway.cluster.lend import Lender
from gateway.cluster.lines import Lines
from gateway.control.descriptors import mesh_path
from gateway.core.context import ProcessContext

PACE: Final = 0.005
"""Seconds between two batches of news, when there is much."""
SLOW_PACE: Final = 0.05
"""The same when nothing happened but that other numbers of slots are free, neither none before nor none now."""
REDIAL: Final = 0.05
JOIN_WITHIN: Final = 3.0
"""Seconds for which a process waits for the others before it serves; one that does not come is told of when it does."""
MAX_BEHIND: Final = 32 * 1024 * 1024
"""Bytes of news that a process may be behind with before it has to begin anew."""
_NUMBER: Final = struct.Struct(">I")
_CREDENTIALS: Final = struct.Struct("3i")


class Mesh:
    """One process's part in it."""

    def __init__(
        self,
        process: ProcessContext,
        *,
        index: int,
        processes: int,
        run: Path,
        whole: Callable[[], bytes],
        tell: Callable[[str], object],
        learned: Callable[[Learned], None],
        on_peer: Callable[[int, bool], None],
    ) -> None:
        """``whole`` gives all of this process's news, ``tell`` answers a question with a JSON value.

        ``learned`` hears what the others' news say, ``on_peer`` who is there and who is gone.
        """
        self.process = process
        self.index = index
        self.whole = whole
        self.tell = tell
        self.elsewhere = Elsewhere()
        self.news = News(self.elsewhere, self._news_due)
        self._learned = learned
        self._on_peer = on_peer
        self._paths = {other: str(mesh_path(run, other)) for other in range(processes) if other != index}
        self.lines = {
            other: Lines(process, index=other, own_index=index, path=path, adjust=self.elsewhere.adjust)
            for other, path in self._paths.items()
        }
        self._links: dict[int, _Link] = {}
        self._dialling: set[asyncio.Task[None]] = set()
        self._asking: set[asyncio.Task[None]] = set()
        self._subscribers: set[_Incoming] = set()
        self._incoming: set[_Incoming] = set()
        self._told_at = 0.0
        self._telling: asyncio.Handle | None = None
        self._server: asyncio.Server | None = None
        self._all_here = asyncio.Event()
        self._closed = False

    async def start(self, sock: socket.socket) -> None:
        """Listen and dial."""
        self._server = await self.process.loop.create_unix_server(lambda: _Incoming(self), sock=sock)
        for index in self._paths:
            self._dial(index)

    async def complete(self) -> None:
        """Wait until all others were heard, so that this process can tell of the whole gateway; not for ever."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(JOIN_WITHIN):
                await self._all_here.wait()

    def close(self) -> None:
        """End all connections."""
        self._closed = True
        if self._telling is not None:
            self._telling.cancel()
        if self._server is not None:
            self._server.close()
        for task in self._dialling:
            task.cancel()
        for link in tuple(self._links.values()):
            link.close()
        for incoming in tuple(self._incoming):
            incoming.close()
        for lines in self.lines.values():
            lines.close()

    def missing(self) -> list[int]:
        """The processes that are not there."""
        return [index for index in self._paths if not self.is_up(index)]

    def is_up(self, index: int) -> bool:
        """Whether a process is there."""
        return index in self.elsewhere.peers

    # ---- telling ----

    def _news_due(self, is_pressing: bool) -> None:
        loop = self.process.loop
        if self._telling is not None:
            self._telling.cancel()
        wait = self._told_at + (PACE if is_pressing else SLOW_PACE) - loop.time()
        if wait > 0:
            self._telling = loop.call_later(wait, self._tell_news)
        else:
            self._telling = loop.call_soon(self._tell_news)

    def _tell_news(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            self._telling = None
        self._told_at = self.process.loop.time()
        news = frame(NEWS, self.news.take())
        for subscriber in tuple(self._subscribers):
            subscriber.send_news(news)

    def subscribe(self, incoming: _Incoming) -> None:
        """A process listens from now on."""
        self._tell_news()  # what is due now is in the whole as well, and must not come after it
        self._subscribers.add(incoming)
        incoming.send_news(frame(NEWS, self.whole()))

    def joined(self, incoming: _Incoming) -> None:
        """A connection was accepted."""
        self._incoming.add(incoming)

    def left(self, incoming: _Incoming) -> None:
        """It is gone."""
        self._incoming.discard(incoming)
        self._subscribers.discard(incoming)

    # ---- hearing ----

    def _dial(self, index: int, after: float = 0.0) -> None:
        if not self._closed:
            task = self.process.loop.create_task(self._connect(index, after))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)

    async def _connect(self, index: int, after: float) -> None:
        await asyncio.sleep(after)
        link = _Link(self, index)
        try:
            await self.process.loop.create_unix_connection(lambda: link, self._paths[index])
        except OSError:
            self._dial(index, REDIAL * 4)
            return
        self._links[index] = link

    def heard(self, index: int, news: bytes) -> None:
        """News of a process.

        Raises:
            MeshError: they have another shape.
        """
        was_up = self.is_up(index)
        learned = self.elsewhere.learn(index, news)
        if not was_up:
            self._on_peer(index, True)
            if not self.missing():
                self._all_here.set()
        self._learned(learned)

    def lost(self, index: int) -> None:
        """The connection to a process is gone."""
        self._links.pop(index, None)
        if self._closed:
            return
        learned = self.elsewhere.forget(index)
        self._on_peer(index, False)
        self._learned(learned)
        self._dial(index, REDIAL)

    def gather(self, question: str, *, within: float, then: Callable[[dict[int, Any]], None]) -> None:
        """Ask all others at once, and call back with the answers of those that gave one in time."""

        async def ask() -> None:
            then(await self._ask(question, within))

        task = self.process.loop.create_task(ask())
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask(self, question: str, within: float) -> dict[int, Any]:
        links = {index: link for index, link in self._links.items() if self.is_up(index)}
        waiting = {index: link.ask(question) for index, link in links.items()}
        if waiting:
            await asyncio.wait(waiting.values(), timeout=within)
        answers: dict[int, Any] = {}
        for index, future in waiting.items():
            if future.done() and not future.cancelled():
                answers[index] = future.result()
            else:
                future.cancel()
        return answers


class _Link(asyncio.Protocol):
    """The connection that we dialled to another process."""

    def __init__(self, mesh: Mesh, index: int) -> None:
        self._mesh = mesh
        self._index = index
        self._reader = FrameReader()
        self._transport: asyncio.Transport | None = None
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._transport.write(frame(HELLO, orjson.dumps({"index": self._mesh.index, "kind": "news"})))

    def data_received(self, data: bytes) -> None:
        self._reader.deliver(data, self._take, self.close)

    def _take(self, kind: int, content: bytes) -> None:
        if kind == NEWS:
            self._mesh.heard(self._index, content)
        elif kind == ANSWER:
            self._answered(content)
        else:
            raise MeshError(f"a frame of kind {kind} beside news")

    def _answered(self, content: bytes) -> None:
        try:
            number, answer = _NUMBER.unpack_from(content)[0], orjson.loads(content[_NUMBER.size :])
        except (struct.error, orjson.JSONDecodeError):
            raise MeshError("an answer of another shape") from None
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def ask(self, question: str) -> asyncio.Future[Any]:
        """The answer, or a future that is cancelled when the process is gone."""
        future: asyncio.Future[Any] = self._mesh.process.loop.create_future()
        self._asked += 1
        number = self._asked & 0xFFFFFFFF
        self._waiting[number] = future
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        if self._transport is None:
            future.cancel()
        else:
            self._transport.write(frame(ASK, _NUMBER.pack(number) + question.encode()))
        return future

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        for future in tuple(self._waiting.values()):
            future.cancel()
        self._mesh.lost(self._index)

    def close(self) -> None:
        """End it."""
        if self._transport is not None:
            self._transport.abort()


class _Incoming(asyncio.Protocol):
    """A connection of another process, which says first what it is for; a line goes on as a `Lender`."""

    def __init__(self, mesh: Mesh) -> None:
        self._mesh = mesh
        self._reader = FrameReader()
        self._transport: asyncio.Transport
        self._is_news = False
        self._lender: Lender | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        self._mesh.joined(self)
        sock = transport.get_extra_info("socket")
        _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
        if uid not in (0, os.geteuid()):
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        lender = self._lender
        if lender is not None:
            lender.data_received(data)
        else:
            self._reader.deliver(data, self._take, self._transport.abort)

    def _take(self, kind: int, content: bytes) -> None:
        if self._lender is not None:
            self._lender.take(kind, content)
        elif self._is_news:
            self._asked(kind, content)
        else:
            self._greeted(kind, content)

    def _greeted(self, kind: int, content: bytes) -> None:
        try:
            purpose = orjson.loads(content)["kind"] if kind == HELLO else ""
        except (orjson.JSONDecodeError, LookupError, TypeError):
            purpose = ""
        if purpose == "line":
            self._lender = Lender(self._mesh.process, self._transport, self._reader)
        elif purpose == "news":
            self._is_news = True
            self._mesh.subscribe(self)
        else:
            raise MeshError("not a greeting")

    def _asked(self, kind: int, content: bytes) -> None:
        if kind != ASK or len(content) < _NUMBER.size:
            raise MeshError(f"a frame of kind {kind} where a question is expected")
        answer = self._mesh.tell(content[_NUMBER.size :].decode(errors="replace"))
        self._transport.write(frame(ANSWER, content[: _NUMBER.size] + orjson.dumps(answer)))

    def send_news(self, news: bytes) -> None:
        """Tell it; one that does not listen has to begin anew."""
        self._transport.write(news)
        if self._transport.get_write_buffer_size() > MAX_BEHIND:
            self._transport.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._mesh.left(self)
        if self._lender is not None:
            self._lender.connection_lost(exc)

    def pause_writing(self) -> None:
        if self._lender is not None:
            self._lender.pause_writing()

    def resume_writing(self) -> None:
        if self._lender is not None:
            self._lender.resume_writing()

    def close(self) -> None:
        """End it."""
        self._transport.abort()
