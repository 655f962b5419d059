"""The admin socket: HTTP/1.1 with JSON for the operator, on ``HOME/run/admin.sock``.

Who may ask is decided twice, before a byte is read: the folder lets only its owner in, and the kernel's word on the
peer (``SO_PEERCRED``) must be our own user or root. One request a connection; heads, content, connections and times
are bounded. Content comes with ``Content-Length``; ``Transfer-Encoding`` and upgrades are refused.

Trust: trusted peer (it can ask for nothing that it could not do with a signal and the files), contents checked.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final

import orjson

from rhttp.http1.answer import LINGER, READ
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import FieldBlock, Fields, RequestHead
from rhttp.places import Places, Stage
from rhttp.timers import TimerWheel
from rhttp.tls.plain import PlainLink, peer_uid

CONTENT_MAX: Final = 64 * 1024
LIMITS: Final = Http1Limits(
    head_bytes=8 * 1024,
    request_line_bytes=512,
    head_timeout=10.0,
    content_timeout=10.0,
    refused_content=0,
    linger=10.0,
)
RETRY: Final = 0.25
"""Seconds until the next try when no descriptor was left."""

_FIELDS: Final = FieldBlock(((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")))


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A status and a JSON object."""

    status: int = 200
    body: Mapping[str, object]


Handler = Callable[[Mapping[str, object]], Awaitable[Answer]]
Routes = Mapping[str, Mapping[str, Handler]]
"""Handlers by path, then method."""


def refusal(status: HTTPStatus, message: str) -> Answer:
    """An answer that says what was wrong."""
    return Answer(status=status, body={"error": message})


def check_head(head: RequestHead) -> Answer | None:
    """What is wrong with a request whose framing is right; None: nothing."""
    for name, _ in head.fields:
        if name in (b"transfer-encoding", b"upgrade"):
            return refusal(HTTPStatus.NOT_IMPLEMENTED, "Transfer-Encoding and Upgrade are not served here")
        if name in (b"origin", b"sec-fetch-site"):
            return refusal(HTTPStatus.FORBIDDEN, "no web page is an operator")
    if head.expect is not None and head.expect != (b"100-continue",):
        return refusal(HTTPStatus.EXPECTATION_FAILED, "no expectation is met but 100-continue")
    if isinstance(head.length, int) and head.length > CONTENT_MAX:
        return refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, f"content is over {CONTENT_MAX} bytes")
    return None


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


class _Connection:
    """One connection and its one request: owns its server end, takes the content, and is the tally of its link."""

    __slots__ = ("_content", "_handler", "_name", "_server", "end", "is_open", "link", "task")

    def __init__(self, server: AdminServer, sock: socket.socket) -> None:
        self._server = server
        self._content = b""
        self._name = ""
        self._handler: Handler
        self.task: asyncio.Task[Answer] | None = None
        self.is_open = True
        self.end = ServerEnd(self, LIMITS, server.wheel)
        self.link = PlainLink(asyncio.get_running_loop(), sock, wheel=server.wheel, tally=self)
        self.link.set_protocol(self.end)
        self.end.connection_made(self.link)  # type: ignore[arg-type]  # a Link

    def stage(self) -> Stage:
        link = self.link
        if self.task is not None or link.get_write_buffer_size() or link.has_unread():
            return Stage.SERVED
        if self.end.phase >= LINGER:
            return Stage.LEAVING
        return Stage.SILENT if self.end.is_idle else Stage.BEGUN

    def answer(self, answer: Answer) -> None:
        """Answer, and close when the peer has it; nothing when the peer is gone."""
        end = self.end
        if end.phase < LINGER:
            content = orjson.dumps(answer.body, option=orjson.OPT_APPEND_NEWLINE)
            end.last_request()
            end.head(answer.status, (_FIELDS,), len(content))
            end.content(content)
            end.end([])

    def refuse_unread(self, answer: Answer) -> None:
        """Answer before a byte is read."""
        self.end.request = RequestHead()
        self.end.phase = READ
        self.answer(answer)

    # ---- the owner of the end ----

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        found = check_head(head) or self._server.find(head)
        if isinstance(found, Answer):
            self.answer(found)
            return
        self._handler = found
        self._name = f"{head.method.decode()} {head.target.decode()}"
        if head.expect is not None:
            end.interim(100)
        if head.has_content:
            end.sink = self
        else:
            self.request_end([])

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        self.answer(refusal(HTTPStatus(status), detail))

    def end_closed(self, end: ServerEnd) -> None:
        """What was asked for is done all the same."""

    # ---- the sink of the content ----

    def request_content(self, data: bytes) -> None:
        self._content += data

    def request_end(self, trailers: Fields) -> None:
        body = parse_content(self._content)
        if isinstance(body, Answer):
            self.answer(body)
            return
        self.task = asyncio.get_running_loop().create_task(self._server.act(self._name, self._handler, body))
        self.task.add_done_callback(self._acted)

    def request_abort(self, detail: str) -> None:
        """Half a request is not acted upon."""

    def request_flush(self) -> None: ...

    request_half_closed = response_blocked = response_unblocked = request_flush

    def _acted(self, task: asyncio.Task[Answer]) -> None:
        self.task = None
        if not task.cancelled():
            self.answer(task.result())
        if not self.is_open:
            self._server.left(self)

    # ---- the tally of the link ----

    def opened(self) -> None: ...

    def closed(self) -> None:
        """The link is gone; the place is held until what was asked for is done, too."""
        self.is_open = False
        if self.task is None:
            self._server.left(self)


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
        self._places = Places(lambda connection: connection.stage())
        self.wheel = TimerWheel(0.0)
        self._turner: asyncio.TimerHandle | None = None
        self._all_left = asyncio.Event()
        self._listening: socket.socket | None = None
        self._is_watched = False

    async def start(self, sock: socket.socket) -> None:
        """Serve on the socket, which is bound and listening."""
        sock.setblocking(False)
        self._listening = sock
        self._watch(True)

    async def close(self, grace: float = 10.0) -> None:
        """Take no more; let requests under way be answered for ``grace`` seconds, then cut them."""
        self._watch(False)
        self._listening = None
        connections: list[_Connection] = self._places.holders()
        tasks = {connection.task for connection in connections if connection.task is not None}
        if tasks:
            _done, late = await asyncio.wait(tasks, timeout=grace)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late)
        for connection in connections:
            connection.link.close()
        self._all_left.clear()
        if len(self._places):
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(grace):
                    await self._all_left.wait()
        for connection in self._places.holders():
            connection.link.abort()

    def _watch(self, wanted: bool) -> None:
        if self._listening is not None and wanted != self._is_watched:
            self._is_watched = wanted
            loop = asyncio.get_running_loop()
            if wanted:
                loop.add_reader(self._listening.fileno(), self._accept)
            else:
                loop.remove_reader(self._listening.fileno())

    def _turn(self) -> None:
        """Deadlines are looked at as long as anybody is here."""
        loop = asyncio.get_running_loop()
        self._turner = loop.call_later(self.wheel.tick, self._turn) if len(self._places) else None
        self.wheel.turn(loop.time())

    def _accept(self) -> None:
        """Somebody waits: take one, if there is room or somebody gives way."""
        assert self._listening is not None
        loop = asyncio.get_running_loop()
        if not self._has_room(loop.time()):
            self._watch(False)  # until one is over
            return
        try:
            sock, _ = self._listening.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return
        except OSError:  # out of descriptors
            self._watch(False)
            loop.call_later(RETRY, self._watch, True)
            return
        sock.setblocking(False)
        self.wheel.turn(loop.time())  # deadlines count from its last turn
        connection = _Connection(self, sock)
        self._places.take(connection, "", loop.time())
        self._turner = self._turner or loop.call_later(self.wheel.tick, self._turn)
        uid = self._uid_of(sock)
        if uid not in (os.geteuid(), 0):
            self._log(f"the admin socket was refused to uid {uid}")
            connection.refuse_unread(refusal(HTTPStatus.FORBIDDEN, "only the owner of the home and root may ask"))

    def _has_room(self, now: float) -> bool:
        most = self._most()
        if len(self._places) >= most:
            for connection in self._places.dispensable(1, most, now):
                connection.link.abort()
        return len(self._places) < most

    def left(self, connection: _Connection) -> None:
        """A connection is over."""
        self._places.leave(connection)
        if not len(self._places):
            self._all_left.set()
        self._watch(True)

    def find(self, head: RequestHead) -> Handler | Answer:
        """Who answers a request."""
        target, method = head.target.decode("ascii", "replace"), head.method.decode()
        methods = self._routes.get(target)
        if methods is None:
            return refusal(HTTPStatus.NOT_FOUND, f"nothing is at {target}")
        if method not in methods:
            return refusal(HTTPStatus.METHOD_NOT_ALLOWED, f"{target} takes {', '.join(sorted(methods))}")
        return methods[method]

    async def act(self, name: str, handler: Handler, body: Mapping[str, object]) -> Answer:
        """Do what was asked; a fault is told in the log, not to the peer."""
        try:
            return await handler(body)
        except Exception as error:
            self._log(f"{name} failed: {type(error).__name__}: {error}")
            return refusal(HTTPStatus.INTERNAL_SERVER_ERROR, "it failed inside; see the gateway's log")
