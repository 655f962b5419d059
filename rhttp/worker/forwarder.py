"""Forwarding the requests of reversed connections to a local HTTP/1.1 server (I/O).

Connections to it are kept and used again; content streams both ways with back-pressure. Fields that belong to one
connection are stripped, a protocol is never switched, and what goes wrong is told as a problem (RFC 9457).

Trust: the gateway let the requests in. The server behind is ours, but its answers are held to the grammar.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
from typing import Final

from rhttp.ends import Link
from rhttp.errors import LocalProtocolError, Loss
from rhttp.http1.client import SURPLUS, ClientEnd
from rhttp.http1.fields import HOP_BY_HOP
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import IDEMPOTENT, FieldBlock, Fields, RequestHead, ResponseHead
from rhttp.timers import TimerWheel
from rhttp.worker.forward_target import ForwardTarget
from rhttp.worker.handler import LIMITS, answer_problem

log = logging.getLogger("rhttp.forwarder")

CONNECT_TIMEOUT: Final = 5.0
_IDLE_TIMEOUT: Final = 4.0
"""Seconds; Node and uvicorn close after 5, and whoever closes first loses no request to the other's close."""
_MAX_IDLE: Final = 64
_TICK: Final = 0.25
_LOG_EVERY: Final = 30.0
_VIA: Final = (b"via", b"1.1 rhttp-worker")
_REQUEST_DROPPED: Final = HOP_BY_HOP | {b"host", b"content-length", b"expect"}
_RESPONSE_DROPPED: Final = HOP_BY_HOP | {b"content-length"}
_FAILURES: Final = {
    Loss.NOT_SENT: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.SENT_NO_ANSWER: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.CUT: (502, "forward-lost", "The server behind the worker closed the connection"),
    Loss.INVALID: (502, "forward-invalid", "The answer of the server behind the worker is not valid"),
    Loss.DEADLINE: (504, "forward-deadline", "The server behind the worker did not answer in time"),
    Loss.ABORTED: (502, "forward-lost", "The request was not sent as it was announced"),
}


class Forwarder:
    """Sends every request on to one local server: a `rhttp.worker.handler.Handler`.

    >>> handler = Forwarder("http://127.0.0.1:8000")       # or "http://[::1]:8000/prefix", "unix:/run/app.sock"

    Args:
        url: where to; see `rhttp.worker.forward_target.ForwardTarget.parse`.
        keep_host: send on the ``Host`` that came (``{worker}.{pool}.{trust-domain}``) in place of the server's own.

    Raises:
        ValueError: the URL has another form.
    """

    def __init__(self, url: str, *, keep_host: bool = False, limits: Http1Limits = LIMITS) -> None:
        self.target = ForwardTarget.parse(url)
        self.keep_host = keep_host
        self._limits = limits
        self._wheel: TimerWheel
        self._loop: asyncio.AbstractEventLoop
        self._ticker: asyncio.TimerHandle | None = None
        self._idle: list[ClientEnd] = []
        self._ends: set[ClientEnd] = set()
        self._dials: set[asyncio.Task[None]] = set()
        self._logged_at = -_LOG_EVERY

    @property
    def orphans(self) -> int:
        """None: a request whose connection is gone is dropped at once."""
        return 0

    async def start(self) -> None:
        """Nothing is dialled before the first request."""
        self._loop = asyncio.get_running_loop()
        self._wheel = TimerWheel(self._loop.time(), tick=_TICK)

    async def stop(self) -> None:
        """Close what is open."""
        for task in tuple(self._dials):
            task.cancel()
        await asyncio.gather(*self._dials, return_exceptions=True)
        for end in tuple(self._ends):
            end.abort()
        if self._ticker is not None:
            self._ticker.cancel()
            self._ticker = None

    def handle(self, end: ServerEnd, head: RequestHead) -> None:
        """Forward one request."""
        target = self.target.request_target(head.target)
        if target is None:
            answer_problem(end, 400, "target-invalid", "The request target is not acceptable")
            return
        end.sink = forwarding = _Forwarding(self, end, head, target)
        self.lease(forwarding)

    # ---- connections ----

    def lease(self, forwarding: _Forwarding, *, fresh: bool = False) -> None:
        """Give it an idle connection, the one used last; without one, or when it is to be fresh, dial."""
        while self._idle and not fresh:
            client = self._idle.pop()
            if not client.closed:
                forwarding.granted(client)
                return
        task = self._loop.create_task(self._dial(forwarding))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, forwarding: _Forwarding) -> None:
        self._wheel.turn(self._loop.time())
        client = ClientEnd(self, self._limits, self._wheel)
        target = self.target
        try:
            async with asyncio.timeout(CONNECT_TIMEOUT):
                if target.unix is not None:
                    transport, _ = await self._loop.create_unix_connection(lambda: client, target.unix)
                else:
                    transport, _ = await self._loop.create_connection(lambda: client, target.host, target.port)
        except (OSError, TimeoutError) as error:
            self._warn("cannot reach %s: %s", target, getattr(error, "strerror", None) or type(error).__name__)
            forwarding.unreachable()
            return
        if target.unix is None and (sock := transport.get_extra_info("socket")) is not None:
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._ends.add(client)
        self._beat()
        if forwarding.is_over:
            self.client_idle(client)
        else:
            forwarding.granted(client)

    def _beat(self) -> None:
        if self._ticker is None and self._ends:
            self._ticker = self._loop.call_later(_TICK, self._tick)

    def _tick(self) -> None:
        self._ticker = None
        self._wheel.turn(self._loop.time())
        self._beat()

    def _warn(self, text: str, *values: object) -> None:
        """One line for many alike."""
        now = self._loop.time()
        if now - self._logged_at >= _LOG_EVERY:
            self._logged_at = now
            log.warning(text, *values)

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """A connection can take another request."""
        if len(self._idle) >= _MAX_IDLE:
            end.close()
            return
        self._idle.append(end)
        end.rest(_IDLE_TIMEOUT)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """A connection is gone."""
        self._ends.discard(end)
        if detail == SURPLUS:
            self._warn("%s sent more than the answers that it announced", self.target)
        with contextlib.suppress(ValueError):
            self._idle.remove(end)


class _Forwarding:
    """One request under way: the sink of the gateway's side and of the local server's."""

    __slots__ = (
        "_client",
        "_end",
        "_ended",
        "_expects",
        "_forwarder",
        "_head",
        "_is_reused",
        "_kept",
        "_target",
        "_trailers",
        "is_over",
    )

    def __init__(self, forwarder: Forwarder, end: ServerEnd, head: RequestHead, target: bytes) -> None:
        self._forwarder = forwarder
        self._end = end
        self._head = head
        self._target = target
        self._client: ClientEnd | None = None
        self._ended = not head.has_content
        self._expects = head.expect is not None
        self._is_reused = False
        self._kept: list[bytes] | None = []
        """What came with the head, in the same read. None: more went on, so the request cannot be sent once more."""
        self._trailers: Fields = []
        self.is_over = False
        if head.has_content:
            end.pause()  # until there is somebody to give it to

    def granted(self, client: ClientEnd) -> None:
        """A connection: send the head, and let the content come."""
        head = self._head
        self._client = client
        self._is_reused = client.is_reused
        named = head.connection
        fields = [f for f in head.all_fields if f[0] not in _REQUEST_DROPPED and f[0] not in named]
        fields.append(_VIA)
        ours = self._forwarder.target.authority
        authority = (head.authority or ours) if self._forwarder.keep_host else ours
        client.head(self, head.method, self._target, authority, (FieldBlock(tuple(fields)),), head.length)
        for data in self._kept or ():
            client.content(data)
        if self._ended:
            client.end(self._trailers)
            client.flush()
            return
        client.flush()
        if self._expects:
            self._expects = False
            self._end.interim(100)
        if not client.blocked:
            self._end.resume()

    def unreachable(self) -> None:
        """Nobody answers there."""
        if not self.is_over:
            self.is_over = True
            answer_problem(self._end, 502, "forward-unreachable", "The server behind the worker cannot be reached")

    # ---- RequestSink ----

    def request_content(self, data: bytes) -> None:
        """Content from the gateway."""
        client = self._client
        if client is None:
            if self._kept is not None:
                self._kept.append(data)
            return
        self._kept = None
        try:
            client.content(data)
        except LocalProtocolError:
            client.abort(Loss.ABORTED, "more content than was announced")

    def request_flush(self) -> None:
        """The batch is over."""
        if self._client is not None:
            self._client.flush()

    def request_end(self, trailers: Fields) -> None:
        """The content is complete."""
        self._ended = True
        self._trailers = [f for f in trailers if f[0] not in HOP_BY_HOP]
        if self._client is not None:
            self._client.end(self._trailers)

    def request_half_closed(self) -> None:
        """The gateway sent its last byte: it gave this request up."""
        self._end.abort()

    def request_abort(self, detail: str) -> None:
        """Nobody waits for the answer any more."""
        self.is_over = True
        client, self._client = self._client, None
        if client is not None:
            client.release()

    def response_blocked(self) -> None:
        """The gateway reads too slowly."""
        if self._client is not None:
            self._client.pause()

    def response_unblocked(self) -> None:
        """The gateway caught up."""
        if self._client is not None:
            self._client.resume()

    # ---- ResponseSink ----

    def response_interim(self, head: ResponseHead) -> None:
        """1xx: passed on, except 100, which is ours to send."""
        if head.status != 100:
            self._end.interim(head.status, (_response_fields(head),))

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        """Cannot happen: no request asks to switch."""
        raise LocalProtocolError("a forwarder does not switch protocols")

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The final answer begins."""
        self._end.head(head.status, (_response_fields(head),), head.length, reason=head.reason or None)
        if self._end.blocked and self._client is not None:
            self._client.pause()

    def response_content(self, data: bytes) -> None:
        """Content of the answer."""
        if not self.is_over:
            self._end.content(data)

    def response_flush(self) -> None:
        """The batch is over."""
        if not self.is_over:
            self._end.flush()

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete."""
        self._client = None
        if not self.is_over:
            self.is_over = True
            self._end.end([f for f in trailers if f[0] not in HOP_BY_HOP])

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer: once more when a kept connection was closed under it, else say so."""
        self._client = None
        if self.is_over:
            return
        if self._may_try_again(loss):
            self._forwarder.lease(self, fresh=True)
            return
        self.is_over = True
        status, slug, title = _FAILURES[loss]
        log.debug("no answer from the server behind: %s", detail)
        answer_problem(self._end, status, slug, title)

    def _may_try_again(self, loss: Loss) -> bool:
        """Only when the server closed a kept connection, and nothing can happen twice (RFC 9112 section 9.3.1)."""
        if not self._is_reused or self._kept is None or self._end.status is not None:
            return False
        return loss is Loss.NOT_SENT or (loss is Loss.SENT_NO_ANSWER and self._head.method in IDEMPOTENT)

    def request_blocked(self) -> None:
        """The local server reads too slowly."""
        self._end.pause()

    def request_unblocked(self) -> None:
        """It caught up."""
        self._end.resume()


def _response_fields(head: ResponseHead) -> FieldBlock:
    """The fields that go back; made once for answers that are alike."""
    block = head.forwarded.get("forwarder")
    if block is None:
        named = head.connection
        fields = [f for f in head.fields if f[0] not in _RESPONSE_DROPPED and f[0] not in named]
        block = head.forwarded["forwarder"] = FieldBlock(tuple(fields))
    return block
