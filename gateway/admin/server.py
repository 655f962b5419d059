"""The admin socket: HTTP/1.1 with JSON for the operator, on ``HOME/run/admin.sock``.

Who may ask is decided twice, before a byte is read: the folder lets only its owner in, and the kernel's word on the
peer (``SO_PEERCRED``) must be our own user or root. One request a connection; heads, content, connections and times
are bounded. The parser takes only what such a request needs: ``Transfer-Encoding`` and upgrades are refused.

Trust: trusted peer (it can ask for nothing that it could not do with a signal and the files), contents checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import socket
import struct
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson

from rhttp.places import Places, Stage

HEAD_MAX: Final = 8 * 1024
CONTENT_MAX: Final = 64 * 1024
READ_TIMEOUT: Final = 10.0
WRITE_TIMEOUT: Final = 10.0
LINGER: Final = 1.0
RETRY: Final = 0.25
"""Seconds until the next try when no descriptor was left."""

_REQUEST_LINE: Final = re.compile(rb"([A-Z]{1,16}) (/[!-~]{0,255}) HTTP/1\.[01]")
_FIELD: Final = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]{1,64}):[ \t]*([\t -~\x80-\xff]*?)[ \t]*")
_LENGTH: Final = re.compile(rb"[0-9]{1,9}")
_PEERCRED: Final = struct.Struct("3i")


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A request as it was read: the target as sent, the content as the JSON object that it was (empty: ``{}``)."""

    method: str
    target: str
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a JSON object."""

    status: int = 200
    body: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Head:
    method: str
    target: str
    length: int


Handler = Callable[[Mapping[str, object]], Awaitable[Answer]]
Routes = Mapping[str, Mapping[str, Handler]]
"""Handlers by path, then method."""


def refusal(status: HTTPStatus, message: str) -> Answer:
    """An answer that says what was wrong."""
    return Answer(status=status, body={"error": message})


def parse_head(head: bytes) -> _Head | Answer:
    """A head with its empty line cut off; an `Answer` when it is not one that is served here."""
    first, *lines = head.split(b"\r\n")
    line = _REQUEST_LINE.fullmatch(first)
    if line is None:
        return refusal(HTTPStatus.BAD_REQUEST, "not a request line")
    lengths: list[bytes] = []
    for text in lines:
        field = _FIELD.fullmatch(text)
        if field is None:
            return refusal(HTTPStatus.BAD_REQUEST, "not a field line")
        match field[1].lower():
            case b"content-length":
                lengths.append(field[2])
            case b"transfer-encoding" | b"upgrade":
                return refusal(HTTPStatus.NOT_IMPLEMENTED, "Transfer-Encoding and Upgrade are not served here")
            case b"origin" | b"sec-fetch-site":
                return refusal(HTTPStatus.FORBIDDEN, "no web page is an operator")
            case _:
                pass
    if len(lengths) > 1 or (lengths and _LENGTH.fullmatch(lengths[0]) is None):
        return refusal(HTTPStatus.BAD_REQUEST, "not one Content-Length")
    length = int(lengths[0]) if lengths else 0
    if length > CONTENT_MAX:
        return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"content is over {CONTENT_MAX} bytes")
    return _Head(method=line[1].decode("ascii"), target=line[2].decode("ascii"), length=length)


def parse_content(content: bytes) -> dict[str, object] | Answer:
    """The JSON object of a request; nothing counts as an empty one."""
    if not content:
        return {}
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        return refusal(HTTPStatus.BAD_REQUEST, "the content is not JSON")
    if not isinstance(value, dict):
        return refusal(HTTPStatus.BAD_REQUEST, "the content is not a JSON object")
    return value


def build_answer(answer: Answer) -> bytes:
    """The answer's bytes; the connection ends with it."""
    content = orjson.dumps(answer.body, option=orjson.OPT_APPEND_NEWLINE)
    head = (
        f"HTTP/1.1 {answer.status} {HTTPStatus(answer.status).phrase}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n"
        "Cache-Control: no-store\r\nConnection: close\r\n\r\n"
    )
    return head.encode("ascii") + content


def peer_uid(sock: socket.socket) -> int:
    """The user that connected to a unix socket, as the kernel saw it at that time (unix(7), ``SO_PEERCRED``)."""
    _pid, uid, _gid = _PEERCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEERCRED.size))
    return int(uid)


class _Visit:
    """One connection: it holds a place until it is over."""

    __slots__ = ("has_asked", "sock", "task")

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        self.has_asked = False
        self.task: asyncio.Task[None]

    def stage(self) -> Stage:
        if self.has_asked:
            return Stage.SERVED
        try:
            return Stage.SERVED if self.sock.recv(1, socket.MSG_PEEK) else Stage.LEAVING
        except OSError:
            return Stage.SILENT


class AdminServer:
    """Serves routes on a listening unix socket until closed.

    With every place taken the connections that have not asked anything yet go, the oldest first; when all have asked,
    the others wait in the kernel's queue.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        log: Callable[[str], None],
        uid_of: Callable[[socket.socket], int] = peer_uid,
        most: Callable[[], int] = lambda: 32,
    ) -> None:
        """``most`` connections at once; ``uid_of`` is there for tests, which cannot become another user."""
        self._routes = routes
        self._log = log
        self._uid_of = uid_of
        self._most = most
        self._places = Places(lambda visit: visit.stage())
        self._tasks: set[asyncio.Task[None]] = set()
        self._listening: socket.socket | None = None
        self._is_watched = False

    async def start(self, sock: socket.socket) -> None:
        """Serve on the socket, which is bound and listening."""
        sock.setblocking(False)
        self._listening = sock
        self._watch(True)

    async def close(self, grace: float = WRITE_TIMEOUT) -> None:
        """Take no more; let answers under way leave for ``grace`` seconds, then cut them."""
        self._watch(False)
        self._listening = None
        if self._tasks:
            _done, late = await asyncio.wait(self._tasks, timeout=grace)
            for task in late:
                task.cancel()

    def _watch(self, wanted: bool) -> None:
        if self._listening is not None and wanted != self._is_watched:
            self._is_watched = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self._listening.fileno(), self._accept)
            else:
                loop.remove_reader(self._listening.fileno())

    def _accept(self) -> None:
        listening = self._listening
        loop = asyncio.get_running_loop()
        while listening is not None:
            if not self._has_room(loop.time()):
                self._watch(False)  # until one is over
                return
            try:
                sock, _ = listening.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError:  # out of descriptors
                self._watch(False)
                loop.call_later(RETRY, self._watch, True)
                return
            sock.setblocking(False)
            visit = _Visit(sock)
            self._places.take(visit, "", loop.time())
            visit.task = loop.create_task(self._visited(visit))
            self._tasks.add(visit.task)
            visit.task.add_done_callback(lambda task, visit=visit: self._left(task, visit))  # type: ignore[misc]

    def _has_room(self, now: float) -> bool:
        most = self._most()
        if len(self._places) >= most:
            for visit in self._places.dispensable(1, most, now):
                self._places.leave(visit)
                visit.task.cancel()
        return len(self._places) < most

    async def _visited(self, visit: _Visit) -> None:
        writer: asyncio.StreamWriter | None = None
        try:
            reader, writer = await asyncio.open_unix_connection(sock=visit.sock, limit=HEAD_MAX)
            await self._serve(visit, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the peer went away, or dawdled
        finally:
            if writer is not None:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    def _left(self, task: asyncio.Task[None], visit: _Visit) -> None:
        """A visit is over, also one that never began."""
        visit.sock.close()
        self._places.leave(visit)
        self._tasks.discard(task)
        self._watch(True)

    async def _serve(self, visit: _Visit, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        read = False
        uid = self._uid_of(writer.get_extra_info("socket"))
        if uid not in (os.geteuid(), 0):
            self._log(f"the admin socket was refused to uid {uid}")
            answer: Answer = refusal(HTTPStatus.FORBIDDEN, "only the owner of the home and root may ask")
        else:
            async with asyncio.timeout(READ_TIMEOUT):
                request = await self._read(reader)
            visit.has_asked = True
            read = isinstance(request, Request)
            answer = await self._answer(request) if isinstance(request, Request) else request
        writer.write(build_answer(answer))
        async with asyncio.timeout(WRITE_TIMEOUT):
            await writer.drain()
        if not read:
            await self._discard(reader, writer)

    async def _discard(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Drop what is still coming: closing over unread bytes resets the connection, and the peer loses the answer."""
        writer.write_eof()
        async with asyncio.timeout(LINGER):
            for _ in range(2 * CONTENT_MAX // HEAD_MAX):
                if not await reader.read(HEAD_MAX):
                    return

    async def _read(self, reader: asyncio.StreamReader) -> Request | Answer:
        block = await self._read_head(reader)
        if isinstance(block, Answer):
            return block
        head = parse_head(block)
        if isinstance(head, Answer):
            return head
        body = parse_content(await reader.readexactly(head.length))
        if isinstance(body, Answer):
            return body
        return Request(method=head.method, target=head.target, body=body)

    async def _read_head(self, reader: asyncio.StreamReader) -> bytes | Answer:
        """A head without its empty line. Line by line: behind one that ends in LF alone CRLF might never come."""
        block = b""
        while len(block) <= HEAD_MAX:
            try:
                line = await reader.readuntil(b"\n")
            except asyncio.LimitOverrunError:
                break
            if line[-2:] != b"\r\n":
                return refusal(HTTPStatus.BAD_REQUEST, "a line ends in LF alone")
            if line == b"\r\n":
                return block[:-2]
            block += line
        return refusal(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, f"the head is over {HEAD_MAX} bytes")

    async def _answer(self, request: Request) -> Answer:
        methods = self._routes.get(request.target)
        if methods is None:
            return refusal(HTTPStatus.NOT_FOUND, f"nothing is at {request.target}")
        handler = methods.get(request.method)
        if handler is None:
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{request.target} takes {', '.join(sorted(methods))}")
        try:
            return await handler(request.body)
        except Exception as error:
            self._log(f"{request.method} {request.target} failed: {type(error).__name__}: {error}")
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "it failed inside; see the gateway's log")
