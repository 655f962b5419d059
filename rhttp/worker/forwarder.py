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

from rhttp.ends import SURPLUS
from rhttp.http1.client import ClientEnd
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.timers import TimerWheel
from rhttp.worker.forward_target import ForwardTarget
from rhttp.worker.forwarding import Forwarding
from rhttp.worker.handler import LIMITS, answer_problem

log = logging.getLogger("rhttp.forwarder")

CONNECT_TIMEOUT: Final = 5.0
_IDLE_TIMEOUT: Final = 4.0
"""Seconds; Node and uvicorn close after 5, and whoever closes first loses no request to the other's close."""
_MAX_IDLE: Final = 64
_TICK: Final = 0.25
_LOG_EVERY: Final = 30.0
_RETAINED: Final = 65536
"""Bytes of a request's content that are kept for a second try, and until there is a connection."""


class Forwarder:
    """Sends every request on to one local server: a `rhttp.worker.handler.Handler`.

    >>> handler = Forwarder("http://127.0.0.1:8000")       # or "http://[::1]:8000/prefix", "unix:/run/app.sock"

    Args:
        url: where to; see `rhttp.worker.forward_target.ForwardTarget.parse`.
        keep_host: send on the ``Host`` that came (``{worker}.{pool}.{trust-domain}``) in place of the server's own.

    Raises:
        ValueError: the URL has another form.
    """

    def __init__(self, url: str, *, keep_host: bool = False) -> None:
        self.target = ForwardTarget.parse(url)
        self.keep_host = keep_host
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
        ours = self.target.authority
        authority = (head.authority or ours) if self.keep_host else ours
        self.lease(Forwarding(self, end, head, target, authority, retained=_RETAINED))

    # ---- connections ----

    def lease(self, forwarding: Forwarding, *, fresh: bool = False) -> None:
        """Give it an idle connection, the one used last; without one, or when it is to be fresh, dial."""
        while self._idle and not fresh:
            client = self._idle.pop()
            if not client.closed:
                forwarding.granted(client)
                return
        task = self._loop.create_task(self._dial(forwarding))
        self._dials.add(task)
        task.add_done_callback(self._dials.discard)

    async def _dial(self, forwarding: Forwarding) -> None:
        self._wheel.turn(self._loop.time())
        client = ClientEnd(self, LIMITS, self._wheel)
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
        if forwarding.over:
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
