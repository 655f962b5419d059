"""Serving an ASGI 3 application on reversed connections (I/O: tasks).

One task a request; the number of connections bounds them. Content streams both ways: a request whose content the
application does not take stops being read, and ``send`` waits while the gateway does not read.

Trust: requests come from the gateway. The application is ours, but its mistakes must not break the connection's
framing, and its exceptions never reach a peer.
"""

from __future__ import annotations

import asyncio
import logging
import time
from email.utils import formatdate
from typing import Final

from rhttp.errors import LocalProtocolError
from rhttp.http1.answer import Phase
from rhttp.http1.server import ServerEnd
from rhttp.message import OPEN, Field, FieldBlock, Fields, Length, RequestHead
from rhttp.worker.asgi_messages import TRAILERS, Application, Message, build_fields, build_scope, build_trailers
from rhttp.worker.handler import answer_problem
from rhttp.worker.lifespan import Lifespan

log = logging.getLogger("rhttp.asgi")

_HIGH_WATER: Final = 65536
"""Bytes of content that wait for the application before we stop reading."""
_CANCEL_TIMEOUT: Final = 5.0
"""Seconds that cancelled requests have to end."""


class RequesterGone(ConnectionError):  # noqa: N818 - says what is the case, like every error of ours
    """Raised by ``send``: nobody waits for this answer any more (ASGI 2.4 asks for an `OSError`)."""


class AsgiHandler:
    """Serves requests with an ASGI application: a `rhttp.worker.handler.Handler`.

    >>> async def app(scope, receive, send):
    ...     await send({"type": "http.response.start", "status": 200, "headers": []})
    ...     await send({"type": "http.response.body", "body": b"hello"})
    >>> handler = AsgiHandler(app)
    """

    def __init__(self, app: Application) -> None:
        self.app = app
        self.lifespan = Lifespan(app)
        self._running: dict[asyncio.Task[None], _Cycle] = {}
        self._latest: dict[ServerEnd, asyncio.Task[None]] = {}
        self._orphans = 0
        self._date: Field = (b"date", b"")
        self._date_at: int | None = None

    @property
    def orphans(self) -> int:
        """Requests that the application still works on though nobody waits for them."""
        return self._orphans

    async def start(self) -> None:
        """Run the application's lifespan startup.

        Raises:
            LifespanFailed: the application says that it cannot start.
        """
        await self.lifespan.startup()

    async def stop(self) -> None:
        """Cancel what still runs, then run the lifespan shutdown."""
        tasks = set(self._running)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=_CANCEL_TIMEOUT)
        await self.lifespan.shutdown()

    def handle(self, end: ServerEnd, head: RequestHead) -> None:
        """Start a task for one request. It waits for the one before on this connection, which may still be busy after
        its answer, so that slots bound what runs.
        """
        cycle = _Cycle(self, end, head)
        end.sink = cycle
        before = self._latest.get(end)
        if before is not None and before.done():
            before = None
        task = asyncio.get_running_loop().create_task(cycle.run(before))
        self._running[task] = cycle
        self._latest[end] = task
        task.add_done_callback(self._done)

    def orphaned(self) -> None:
        """For cycles: the connection of one is gone."""
        self._orphans += 1

    def _done(self, task: asyncio.Task[None]) -> None:
        cycle = self._running.pop(task)
        if cycle.is_orphan:
            self._orphans -= 1
        if self._latest.get(cycle.end) is task:
            del self._latest[cycle.end]

    def date(self) -> Field:
        """The field ``Date``."""
        now = int(time.time())
        if now != self._date_at:
            self._date_at = now
            self._date = (b"date", formatdate(now, usegmt=True).encode("ascii"))
        return self._date


class _Stage:
    """What the application has to send next."""

    START, BODY, TRAILERS, OVER = range(4)


class _Cycle:
    """One request and its answer: the sink of a server end on one side, ``receive`` and ``send`` on the other."""

    __slots__ = (
        "_content",
        "_ended",
        "_event",
        "_expects",
        "_fields",
        "_handler",
        "_has_trailers",
        "_head",
        "_is_gone",
        "_is_told",
        "_length",
        "_size",
        "_stage",
        "_status",
        "end",
        "is_orphan",
    )

    def __init__(self, handler: AsgiHandler, end: ServerEnd, head: RequestHead) -> None:
        self._handler = handler
        self.end = end
        self._head = head
        self._content: list[bytes] = []
        self._size = 0
        self._ended = not head.has_content
        self._expects = head.expect is not None and not self._ended
        self._is_told = False
        """The application got the last piece of content."""
        self._is_gone = False
        self.is_orphan = False
        """Its connection was lost while it ran."""
        self._event: asyncio.Event | None = None
        self._stage = _Stage.START
        self._status = 0
        self._fields = FieldBlock(())
        self._length: Length = OPEN
        self._has_trailers = False

    async def run(self, before: asyncio.Task[None] | None) -> None:
        """Call the application; see that there is an answer, whatever it does."""
        if before is not None:
            await asyncio.wait((before,))
        handler, head = self._handler, self._head
        try:
            scope = build_scope(head, handler.lifespan.state)
        except ValueError:
            self._stage = _Stage.OVER
            answer_problem(self.end, 400, "target-invalid", "The request target is not acceptable")
            return
        try:
            await handler.app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            self._fail()
            raise
        except Exception as error:
            if not (self._is_gone and isinstance(error, OSError)):
                # The method only: a target may carry secrets of whoever asked.
                log.exception("the application failed in a %s request", scope["method"])
            self._fail()
            return
        if self._stage != _Stage.OVER and not self._is_gone:
            log.error("the application returned without a whole answer to a %s request", scope["method"])
            self._fail()

    def _fail(self) -> None:
        if self._is_gone or self._stage == _Stage.OVER:
            return
        self._stage = _Stage.OVER
        answer_problem(self.end, 500, "internal", "The worker failed")

    # ---- the application's side ----

    async def receive(self) -> Message:
        """``http.request`` with what has come so far, or ``http.disconnect``."""
        end = self.end
        if self._expects and self._is_live:
            self._expects = False
            end.interim(100)
        while True:
            if not self._is_live:
                return {"type": "http.disconnect"}
            if self._content or (self._ended and not self._is_told):
                break
            await self._wait()
        content = self._content
        data = content[0] if len(content) == 1 else b"".join(content)
        content.clear()
        self._size = 0
        self._is_told = self._ended
        if not self._ended:
            end.resume()
        return {"type": "http.request", "body": data, "more_body": not self._ended}

    @property
    def _is_live(self) -> bool:
        return not self._is_gone and self._stage != _Stage.OVER

    async def send(self, message: Message) -> None:
        """Take one message of the answer; waits while the gateway reads too slowly.

        Raises:
            RequesterGone: nobody waits for the answer any more.
            RuntimeError, ValueError: a message out of turn, or one that cannot stand in an answer.
        """
        if self._is_gone:
            raise RequesterGone
        kind = message["type"]
        stage = self._stage
        if stage == _Stage.BODY and kind == "http.response.body":
            self._send_body(message)
        elif stage == _Stage.START and kind == "http.response.start":
            self._send_start(message)
            return
        elif stage == _Stage.TRAILERS and kind == TRAILERS:
            if not message.get("more_trailers", False):
                self._finish(build_trailers(message.get("headers", ())))
            return
        else:
            raise RuntimeError(f"ASGI message {kind!r} out of turn")
        while self.end.blocked and self._is_live:
            await self._wait()
        if self._is_gone:
            raise RequesterGone

    def _send_start(self, message: Message) -> None:
        status = message["status"]
        if not isinstance(status, int) or not 200 <= status <= 599:
            raise ValueError("the status of an answer is a number from 200 to 599")
        fields, length, close = build_fields(message.get("headers", ()), self._handler.date())
        if close:
            self.end.last_request()
        self._status, self._fields, self._length = int(status), FieldBlock(fields), length
        self._has_trailers = bool(message.get("trailers", False))
        self._stage = _Stage.BODY

    def _send_body(self, message: Message) -> None:
        end = self.end
        body = bytes(message.get("body", b""))
        more = message.get("more_body", False)
        try:
            if end.status is None:
                length = self._length
                # HEAD may be answered by the code of GET or with nothing; only the former tells a length.
                if length is OPEN and not more and not self._has_trailers and (body or self._head.method != b"HEAD"):
                    length = len(body)
                end.head(self._status, (self._fields,), length)
            end.content(body)
        except LocalProtocolError as error:
            end.abort()
            raise RuntimeError(error.detail) from None
        if more:
            end.flush()
        elif self._has_trailers:
            self._stage = _Stage.TRAILERS
        else:
            self._finish([])

    def _finish(self, trailers: Fields) -> None:
        self._stage = _Stage.OVER
        self._wake()
        self.end.end(trailers)  # the next request may begin in here
        if self.end.phase == Phase.CLOSED and isinstance(self._length, int) and self._length:
            log.error("the application sent less content than it announced")

    async def _wait(self) -> None:
        event = self._event
        if event is None:
            event = self._event = asyncio.Event()
        event.clear()
        await event.wait()

    def _wake(self) -> None:
        if self._event is not None:
            self._event.set()

    # ---- RequestSink ----

    def request_content(self, data: bytes) -> None:
        """Content for the application; when it is slow we stop reading."""
        self._content.append(data)
        self._size += len(data)
        if self._size > _HIGH_WATER:
            self.end.pause()

    def request_flush(self) -> None:
        """The batch is over: now is the time to wake the application."""
        if self._content:
            self._wake()

    def request_end(self, trailers: Fields) -> None:
        """The content is complete. ASGI has no request trailers; they are dropped."""
        self._ended = True
        self._wake()

    def request_half_closed(self) -> None:
        """The gateway sent its last byte: it gave this request up, so the application is told."""
        self.end.abort()

    def request_abort(self, detail: str) -> None:
        """Nobody waits for the answer any more."""
        if self._stage == _Stage.OVER:
            return
        self._is_gone = self.is_orphan = True
        self._content.clear()
        self._handler.orphaned()
        self._wake()

    def response_blocked(self) -> None:
        """``send`` looks at the end itself."""

    def response_unblocked(self) -> None:
        """The gateway reads again."""
        self._wake()
