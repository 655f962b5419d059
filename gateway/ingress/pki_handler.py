"""The plain listener of ``[pki]``: revocation lists, and nothing else.

What it serves is public, and signed: who changes it on the way is found out by whoever reads it. So no identity is
asked, nor ``Host``, and any page may ask through somebody's browser.

Trust: meets whoever can reach the listener.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from gateway.config.limits import Limits
from gateway.core.context import ProcessContext
from gateway.core.counters import ListenerCounts
from gateway.ingress.handlers import attach
from gateway.ingress.list_document import LIST_NAMES, list_document
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Listener, by_source
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, FieldBlock, Length, RequestHead, one_field
from rhttp.tls.link import SocketLink

_LIST: Final = re.compile(rb"/-/pki/(%b)\.crl" % "|".join(LIST_NAMES).encode("ascii"))
_TEXT: Final = FieldBlock(((b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")))
_LIMITS: Final = Http1Limits(head_bytes=8192, request_line_bytes=4096, keep_alive_timeout=15.0, refused_content=0)


class PkiHandler:
    """Serves lists. It is the owner of its server ends."""

    def __init__(self, process: ProcessContext) -> None:
        self._process = process

    def serve(self, link: SocketLink, arrival: Arrival) -> ServerEnd:
        """One more connection, of nobody in particular."""
        end = ServerEnd(self, _LIMITS, self._process.wheel)
        attach(link, end)
        return end

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Answer a request."""
        process = self._process
        if process.draining or head.has_content:
            end.last_request()
        match = _LIST.fullmatch(head.target)
        if match is None:
            self._say(end, 404, b"not found\n")
        elif head.method not in (b"GET", b"HEAD"):
            self._say(end, 405, b"method not allowed\n", (one_field(b"Allow", b"GET, HEAD"),))
        elif (found := list_document(process, match[1].decode("ascii"), head.fields)) is None:
            self._say(end, 404, b"not found\n")
        else:
            self._answer(end, found.status, found.blocks, found.length, found.content)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No request."""
        self._say(end, status, code.encode("ascii") + b"\n")

    def end_closed(self, end: ServerEnd) -> None:
        """Its place is its link's to leave."""

    def _say(self, end: ServerEnd, status: int, text: bytes, extra: Blocks = ()) -> None:
        self._answer(end, status, (_TEXT, *extra), len(text), text)

    def _answer(self, end: ServerEnd, status: int, blocks: Blocks, length: Length, content: bytes) -> None:
        end.head(status, (*blocks, self._process.date), length)
        end.content(content)
        end.end([])


def pki_listener(process: ProcessContext, sock: socket.socket) -> Listener:
    """The listener for lists; see `PkiHandler`."""

    def bounds(limits: Limits) -> Bounds:
        return by_source(limits.pki_connections, limits.pki_connections)

    return Listener(
        purpose="pki",
        sockets=(sock,),
        handlers={HTTP1: PkiHandler(process)},
        bounds=bounds,
        counts=ListenerCounts(),
    )
