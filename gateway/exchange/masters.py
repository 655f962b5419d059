"""Connections to masters: pooled, bounded, and dialled when there is none to spare.

Trust: meets masters, whose answers are untrusted bytes.
"""

from __future__ import annotations

import asyncio
import socket
from typing import Final

from gateway.config.values import MasterConfig, MasterUrl
from gateway.core.context import ProcessContext
from gateway.exchange.ends import ClientConnection, ConnectionOwner, Speak
from gateway.exchange.exchange import Exchange
from rhttp.ends import SURPLUS
from rhttp.tls.plain import dial

_SPARE: Final = 1.0
"""Seconds that an idle connection is kept beyond `[limits] master_idle_connections`."""
_SHUNNED: Final = 1.0
"""Seconds for which a URL that refused a connection comes last."""


class _Target:
    """One URL of a master: the owner of the connections to it."""

    __slots__ = ("_pool", "idle", "open", "shunned_until", "url")

    def __init__(self, pool: MasterPool, url: MasterUrl) -> None:
        self._pool = pool
        self.url = url
        self.idle: list[ClientConnection] = []
        self.open = 0
        self.shunned_until = 0.0

    def client_idle(self, connection: ClientConnection) -> None:
        """A connection can take another request."""
        self._pool.client_idle(connection, self)

    def client_closed(self, connection: ClientConnection, detail: str) -> None:
        """A connection is gone."""
        self.open -= 1
        if connection in self.idle:
            self.idle.remove(connection)
        self._pool.client_closed(connection, self, detail)


class MasterPool:
    """One master: connections to its URLs, taken in turn; the last one used is used next, so idle ones die out."""

    def __init__(self, process: ProcessContext, config: MasterConfig, speak: Speak) -> None:
        """``speak`` makes the client's side of a connection to it."""
        self._process = process
        self._speak = speak
        self.config = config
        self._host = config.host.encode("ascii") if config.host is not None else None
        self._targets = [_Target(self, url) for url in config.urls]
        self._turn = 0
        self._waiting: dict[Exchange, None] = {}
        """In the order in which they came; at most `[limits] master_connections`."""
        self._dialled_for: set[Exchange] = set()
        """Those for which a connection is under way."""
        self._dialling: set[asyncio.Task[None]] = set()
        self._closed = False

    # ---- Inbound ----

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Give the exchange an idle connection, or dial one for it."""
        for target in self._targets:
            while target.idle:
                connection = target.idle.pop()
                if not connection.closed:
                    self._grant(exchange, connection, target)
                    return
        chosen = self._choose()
        if chosen is None:
            if len(self._waiting) >= self._process.generation.config.limits.master_connections:
                exchange.unavailable(503, "overloaded", "master_connections")
                return
            self._waiting[exchange] = None
            self._process.wheel.set(exchange, self._process.generation.config.limits.master_connect_timeout)
            return
        chosen.open += 1
        self._dialled_for.add(exchange)
        task = self._process.loop.create_task(self._dial(exchange, chosen))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    def _grant(self, exchange: Exchange, connection: ClientConnection, target: _Target) -> None:
        connection.limits = self._process.generation.limits
        authority = self._host or exchange.record.head.authority or target.url.authority
        exchange.granted(connection.open(), authority, None)

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits; a connection that is being dialled for it serves another."""
        self._waiting.pop(exchange, None)
        self._dialled_for.discard(exchange)

    def _choose(self) -> _Target | None:
        """The next URL in turn that has room; one that has just failed only when all have. None: wait for room."""
        now = self._process.wheel.now
        limit = self._process.generation.config.limits.master_connections
        count = len(self._targets)
        fallback = None
        is_worth_waiting = False
        for step in range(count):
            target = self._targets[(self._turn + step) % count]
            if target.shunned_until > now:
                if target.open < limit:
                    fallback = fallback or target
            elif target.open >= limit:
                is_worth_waiting = True
            else:
                self._turn = (self._turn + step + 1) % count
                return target
        return None if is_worth_waiting else fallback

    async def _dial(self, exchange: Exchange, target: _Target) -> None:
        process = self._process
        limits = process.generation.config.limits
        try:
            async with asyncio.timeout(limits.master_connect_timeout):
                sock = await dial(process.loop, target.url.host, target.url.port)
        except (OSError, TimeoutError):
            target.open -= 1
            target.shunned_until = process.wheel.now + _SHUNNED
            if exchange in self._dialled_for:
                self._dialled_for.discard(exchange)
                if any(other.shunned_until <= process.wheel.now for other in self._targets):
                    self.lease(exchange)
                else:
                    exchange.unavailable(502, "master-unreachable", "master_unreachable")
            self._next()
            return
        connection = self._connect(sock, target)
        if exchange in self._dialled_for:
            self._dialled_for.discard(exchange)
            self._grant(exchange, connection, target)
        else:
            self.client_idle(connection, target)

    def _connect(self, sock: socket.socket, owner: ConnectionOwner) -> ClientConnection:
        process = self._process
        return self._speak(owner, process.generation.limits, process.wheel, process.open_plain(sock))

    # ---- what its targets tell ----

    def client_idle(self, connection: ClientConnection, target: _Target) -> None:
        """A connection can take another request: whoever waits, or the idle ones."""
        if self._waiting:
            self._grant(self._take_waiting(), connection, target)
            return
        limits = self._process.generation.config.limits
        if self._closed or not limits.master_idle_connections:
            connection.close()
            return
        is_spare = len(target.idle) >= limits.master_idle_connections
        target.idle.append(connection)
        # Many requests that end together are most likely followed by as many: what is over the limit stays a moment.
        connection.rest(_SPARE if is_spare else limits.master_idle_timeout)

    def client_closed(self, connection: ClientConnection, target: _Target, detail: str) -> None:
        """A connection is gone: there is room for another."""
        if detail == SURPLUS:
            self._process.record_surplus(self.config.name, target.url.authority.decode("ascii"), connection.last)
        self._next()

    def _next(self) -> None:
        """Dial for whoever waits longest, if there is room now."""
        if self._waiting:
            self._process.loop.call_soon(self._lease_next)

    def _lease_next(self) -> None:
        if self._waiting:
            self.lease(self._take_waiting())

    def _take_waiting(self) -> Exchange:
        exchange = next(iter(self._waiting))
        del self._waiting[exchange]
        return exchange

    def close(self) -> None:
        """A newer configuration took over: idle connections close, busy ones when they are done."""
        self._closed = True
        for target in self._targets:
            for connection in tuple(target.idle):
                connection.close()

    def status(self) -> dict[str, object]:
        """Connections by URL."""
        return {str(t.url): {"open": t.open, "idle": len(t.idle)} for t in self._targets}

    async def dial_apart(self, owner: ConnectionOwner) -> ClientConnection | None:
        """A connection that is ``owner``'s alone, for a role switch; None: nobody answers."""
        process = self._process
        limits = process.generation.config.limits
        for _ in self._targets:
            target = self._choose()
            if target is None:
                return None
            try:
                async with asyncio.timeout(limits.master_connect_timeout):
                    sock = await dial(process.loop, target.url.host, target.url.port)
            except (OSError, TimeoutError):
                target.shunned_until = process.wheel.now + _SHUNNED
                continue
            return self._connect(sock, owner)
        return None

    def host_for(self, host: bytes | None) -> bytes:
        """``Host`` towards this master: the configured one, else the requester's, else the first URL's."""
        return self._host or host or self._targets[0].url.authority
