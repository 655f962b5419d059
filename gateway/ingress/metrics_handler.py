"""The metrics listener: ``GET /metrics`` and nothing else.

Trust: meets whoever can reach the listener, and web pages through the browsers of those who can.
"""

from __future__ import annotations

import socket
from collections.abc import Callable
from typing import Final

from gateway.config.address import is_loopback
from gateway.config.limits import Limits
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.http.hosts import HostMatcher, is_address
from gateway.ingress.handlers import attach
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Listener, by_source
from gateway.ingress.serving import serving_of
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, FieldBlock, RequestHead, one_field
from rhttp.tls.link import SocketLink

_TEXT: Final = FieldBlock(((b"Content-Type", b"text/plain; version=0.0.4; charset=utf-8"),))
_LOOPBACK: Final = ("localhost", "127.0.0.1", "::1")


class MetricsHandler:
    """Serves scrapes. It is the owner of its server ends.

    No identity is asked, since it listens on loopback unless told otherwise; so it makes sure that no web page asks
    through somebody's browser: ``Host`` must be ours, and a request with ``Origin`` or ``Sec-Fetch-Site`` is 403.
    """

    def __init__(self, process: ProcessContext, scrape: Callable[[ServerEnd, Callable[[bytes], None]], None]) -> None:
        """``scrape`` calls back with the text, now or when the other processes were asked; not if the end is gone."""
        self._process = process
        self._scrape = scrape

    def serve(self, link: SocketLink, arrival: Arrival) -> ServerEnd:
        """One more connection, of nobody in particular."""
        end = ServerEnd(self, Http1Limits(head_bytes=8192, keep_alive_timeout=120.0), self._process.wheel)
        attach(link, end)
        return end

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Answer a scrape."""
        if self._process.draining:
            end.last_request()
        path = head.target.partition(b"?")[0]
        refusal = self._refusal(head)
        if refusal is not None:
            self._answer(end, *refusal)
        elif path != b"/metrics":
            self._answer(end, 404, b"not found\n")
        elif head.method not in (b"GET", b"HEAD"):
            self._answer(end, 405, b"method not allowed\n", (one_field(b"Allow", b"GET, HEAD"),))
        else:
            self._scrape(end, lambda text: self._answer(end, 200, text))

    def _refusal(self, head: RequestHead) -> tuple[int, bytes] | None:
        """Why a web page gets nothing: it may name us by a name of its own, or ask as another site."""
        if head.authority is not None:
            covered = self._covers(head.authority)
            if covered is None:
                return 400, b"bad request: Host is no authority\n"
            if not covered:
                return 421, b"misdirected: Host is not this listener\n"
        if any(field[0] in (b"origin", b"sec-fetch-site") for field in head.fields):
            return 403, b"forbidden: no web page reads this\n"
        return None

    def _covers(self, authority: bytes) -> bool | None:
        generation = serving_of(self._process.generation)
        listen = generation.config.metrics.listen
        if listen is None or is_loopback(listen.host):
            return HostMatcher([*_LOOPBACK, *([] if listen is None else [listen.host])]).covers(authority)
        known = generation.authorities.covers(authority)
        return is_address(authority) if known is False else known  # a bare address is no name that a page could have

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No request."""
        self._answer(end, status, code.encode("ascii") + b"\n")

    def end_closed(self, end: ServerEnd) -> None:
        """Its place is its link's to leave."""

    @staticmethod
    def _answer(end: ServerEnd, status: int, body: bytes, extra: Blocks = ()) -> None:
        end.head(status, (_TEXT, *extra), len(body))
        end.content(body)
        end.end([])


def metrics_listener(
    process: ProcessContext,
    sock: socket.socket,
    scrape: Callable[[ServerEnd, Callable[[bytes], None]], None],
) -> Listener:
    """The listener for scrapes; see `MetricsHandler`."""

    def bounds(limits: Limits) -> Bounds:
        return by_source(limits.metrics_connections, limits.metrics_connections)

    return Listener(
        purpose="metrics",
        sockets=(sock,),
        handlers={HTTP1: MetricsHandler(process, scrape)},
        bounds=bounds,
        counts=ListenerCounts(),
    )
