"""The plain listener of ``[pki]``: revocation lists, OCSP if that is enabled, and nothing else.

What it serves is public, and signed: who changes it on the way is found out by whoever reads it. So no identity is
asked, nor ``Host``, and any page may ask through somebody's browser.

Trust: meets whoever can reach the listener.
"""

from __future__ import annotations

import re
import socket
from typing import Final

from gateway.config.limits import Limits
from gateway.core.context import ProcessContext, StatusService
from gateway.core.counters import ListenerCounts
from gateway.http.upload import Upload
from gateway.ingress.handlers import attach
from gateway.ingress.list_document import LIST_NAMES, list_document
from gateway.ingress.listener import HTTP1, Arrival, Bounds, Listener, by_source
from gateway.ingress.ocsp_message import OCSP, OCSP_GET, is_ocsp, ocsp_answer, request_in
from gateway.ingress.outcomes import Raw
from pki.ocsp_codec import MAX_REQUEST
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import Blocks, FieldBlock, RequestHead, one_field
from rhttp.tls.link import SocketLink

_LIST: Final = re.compile(rb"/-/pki/(%b)\.crl" % "|".join(LIST_NAMES).encode("ascii"))
_TEXT: Final = FieldBlock(((b"Content-Type", b"text/plain; charset=utf-8"), (b"Cache-Control", b"no-store")))
_LIMITS: Final = Http1Limits(head_bytes=8192, request_line_bytes=4096, keep_alive_timeout=15.0, refused_content=0)


class PkiHandler:
    """Serves lists and OCSP. It is the owner of its server ends."""

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
        if process.draining:
            end.last_request()
        target, is_read = head.target, head.method in (b"GET", b"HEAD")
        match = _LIST.fullmatch(target)
        if process.ocsp is not None and (target == OCSP or (is_read and target.startswith(OCSP_GET))):
            self._ocsp(end, head, process.ocsp)
        elif match is None:
            self._refuse(end, head, 404, b"not found\n")
        elif not is_read:
            self._refuse(end, head, 405, b"method not allowed\n", (one_field(b"Allow", b"GET, HEAD"),))
        elif (found := list_document(process, match[1].decode("ascii"), head.fields)) is None:
            self._refuse(end, head, 404, b"not found\n")
        else:
            if head.has_content:
                end.last_request()
            self._answer(end, found)

    def _ocsp(self, end: ServerEnd, head: RequestHead, service: StatusService) -> None:
        if head.method in (b"GET", b"HEAD") and head.target != OCSP and not head.has_content:
            self._answer(end, ocsp_answer(service.answer(request_in(head.target))))
        elif head.method != b"POST":
            self._refuse(end, head, 405, b"method not allowed\n", (one_field(b"Allow", b"POST"),))
        elif not is_ocsp(head.fields):
            self._refuse(end, head, 415, b"not application/ocsp-request\n")
        else:

            def asked(content: bytes | None) -> None:
                if content is None:
                    self._refuse(end, head, 413, b"too large\n")
                else:
                    self._answer(end, ocsp_answer((service.answer(content)[0], 0)))

            Upload(MAX_REQUEST, asked).begin(end, head)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No request."""
        end.last_request()
        text = code.encode("ascii") + b"\n"
        self._answer(end, Raw(status, (_TEXT,), len(text), text))

    def end_closed(self, end: ServerEnd) -> None:
        """Its place is its link's to leave."""

    def _refuse(self, end: ServerEnd, head: RequestHead, status: int, text: bytes, extra: Blocks = ()) -> None:
        if head.has_content:
            end.last_request()
        self._answer(end, Raw(status, (_TEXT, *extra), len(text), text))

    def _answer(self, end: ServerEnd, raw: Raw) -> None:
        end.head(raw.status, (*raw.blocks, self._process.date), raw.length)
        end.content(raw.content)
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
