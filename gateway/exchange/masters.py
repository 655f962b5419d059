"""Connections to masters: pooled, bounded, and dialled when there is none to spare.

Trust: meets masters, whose answers are untrusted bytes.
"""

from __future__ import annotations

import asyncio
from typing import Final

from gateway.config.values import MasterConfig, MasterUrl
from gateway.core.context import ProcessContext
from gateway.exchange.exchange import Exchange
from rhttp.http1.client import SURPLUS, ClientEnd
from rhttp.tls.plain import PlainLink, dial

_SPARE: Final = 1.0
"""Seconds that an idle connection is kept beyond `[limits] master_idle_connections`."""
_SHUNNED: Final = 1.0
"""Seconds for which a URL that refused a connection comes last."""


class _Target:
    """One URL of a master."""

    __slots__ = ("idle", "open", "shunned_until", "url")

    def __init__(self, url: MasterUrl) -> None:
        self.url = url
        self.idle: list[ClientEnd] = []
        self.open = 0
        self.shunned_until = 0.0


class MasterPool:
    """One master: connections to its URLs, taken in turn; the last one used is used next, so idle ones die out."""

    def __init__(self, process: ProcessContext, config: MasterConfig) -> None:
        self._process = process
        self.config = config
        self._host = config.host.encode("ascii") if config.host is not None else None
        self._targets = [_Target(url) for url in config.urls]
        self._turn = 0
        self._waiting: dict[Exchange, None] = {}
        """In the order in which they came; at most `[limits] master_connections`."""
        self._dialling: set[asyncio.Task[None]] = set()
        self._closed = False

    # ---- Inbound ----

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Give the exchange an idle connection, or dial one for it."""
        for target in self._targets:
            while target.idle:
                end = target.idle.pop()
                if not end.closed:
                    self._grant(exchange, end, target)
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
        exchange.waiting = True
        task = self._process.loop.create_task(self._dial(exchange, chosen))
        self._dialling.add(task)
        task.add_done_callback(self._dialling.discard)

    def _grant(self, exchange: Exchange, end: ClientEnd, target: _Target) -> None:
        exchange.waiting = False
        end.limits = self._process.generation.limits
        exchange.granted(end, self._host or exchange.record.head.authority or target.url.authority, None)

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits; a connection that is being dialled for it serves another."""
        exchange.waiting = False
        self._waiting.pop(exchange, None)

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
        end = ClientEnd(self, process.generation.limits, process.wheel, target)
        try:
            async with asyncio.timeout(limits.master_connect_timeout):
                sock = await dial(process.loop, target.url.host, target.url.port)
        except (OSError, TimeoutError):
            target.open -= 1
            target.shunned_until = process.wheel.now + _SHUNNED
            if exchange.waiting:
                exchange.waiting = False
                if any(other.shunned_until <= process.wheel.now for other in self._targets):
                    self.lease(exchange)
                else:
                    exchange.unavailable(502, "master-unreachable", "master_unreachable")
            self._next()
            return
        process.plain_link(sock, end)
        if exchange.waiting and not exchange.over:
            self._grant(exchange, end, target)
        else:
            self.client_idle(end)

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """A connection can take another request: whoever waits, or the idle ones."""
        target = end.tag
        assert isinstance(target, _Target)
        if self._waiting:
            self._grant(self._take_waiting(), end, target)
            return
        limits = self._process.generation.config.limits
        if self._closed or not limits.master_idle_connections:
            end.close()
            return
        is_spare = len(target.idle) >= limits.master_idle_connections
        target.idle.append(end)
        # Many requests that end together are most likely followed by as many: what is over the limit stays a moment.
        end.rest(_SPARE if is_spare else limits.master_idle_timeout)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """A connection is gone: there is room for another."""
        target = end.tag
        assert isinstance(target, _Target)
        target.open -= 1
        if end in target.idle:
            target.idle.remove(end)
        if detail == SURPLUS:
            self._process.record_surplus(self.config.name, target.url.authority.decode("ascii"), end.last)
        self._next()

    def _next(self) -> None:
        """Dial for whoever waits longest, if there is room now."""
        if self._waiting:
            self._process.loop.call_soon(self._lease_again, self._take_waiting())

    def _take_waiting(self) -> Exchange:
        exchange = next(iter(self._waiting))
        del self._waiting[exchange]
        return exchange

    def _lease_again(self, exchange: Exchange) -> None:
        if not exchange.over:
            self.lease(exchange)

    def close(self) -> None:
        """A newer configuration took over: idle connections close, busy ones when they are done."""
        self._closed = True
        for target in self._targets:
            for end in tuple(target.idle):
                end.close()

    def status(self) -> dict[str, object]:
        """Connections by URL."""
        return {str(t.url): {"open": t.open, "idle": len(t.idle)} for t in self._targets}

    async def dial_raw(self, end: asyncio.Protocol) -> PlainLink | None:
        """A connection of its own for a role switch, which never comes back to the pool; None: nobody answers."""
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
            return process.plain_link(sock, end)
        return None

    def host_for(self, host: bytes | None) -> bytes:
        """``Host`` towards this master: the configured one, else the requester's, else the first URL's."""
        return self._host or host or self._targets[0].url.authority
