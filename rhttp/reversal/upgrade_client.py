"""Asking a gateway to switch roles: one connection, a few requests, each awaited (I/O in the link it is given).

Trust: the peer is a verified gateway; its answers are held to the grammar and to limits all the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL

from rhttp.ends import Link
from rhttp.errors import Loss
from rhttp.http1.client import ClientEnd
from rhttp.http1.limits import Http1Limits
from rhttp.message import FieldBlock, Fields, ResponseHead, SharedFields
from rhttp.timers import TimerWheel
from rhttp.tls.context import openssl_reason
from rhttp.tls.tls_link import TlsLink

_MAX_CONTENT: Final = 4096
"""Bytes of a refusal that are looked at."""
_MAX_TEXT: Final = 200
_URN: Final = "urn:rhttp:problem:"


class UpgradeAnswer:
    """What came of one request."""

    def __init__(self) -> None:
        self.switched = False
        self.status = 0
        """0: no whole answer."""
        self.fields: SharedFields = ()
        self.problem = ""
        """What follows ``urn:rhttp:problem:`` in the type of a problem, made safe for a log line."""
        self.title = ""
        """Of a problem (RFC 9457), made safe for a log line."""
        self.request_id = ""
        self.detail = ""
        self.alert = ""
        """The TLS alert that ended the connection: in TLS 1.3 a refused certificate is told after the handshake."""
        self.is_malformed = False


class UpgradeClient:
    """A link on which we ask to switch roles, until we are let or told why not."""

    def __init__(
        self, link: TlsLink, limits: Http1Limits, wheel: TimerWheel, take: Callable[[TlsLink, bytes], None]
    ) -> None:
        self._link = link
        self._take = take
        self._end = ClientEnd(self, limits, wheel)
        self._watch = _Watch(self._end)
        self._asked = UpgradeAnswer()
        self._content = b""
        self._done: asyncio.Future[None] | None = None
        self._end.connection_made(link)  # type: ignore[arg-type]  # a Link
        link.set_protocol(self._watch)

    @property
    def is_open(self) -> bool:
        """Whether another request may be sent."""
        return not self._end.closed

    @property
    def has_switched(self) -> bool:
        """Whether the link changed hands."""
        return self._asked.switched

    def close(self) -> None:
        """Close the link, unless it changed hands."""
        if not self._asked.switched:
            self._link.close()

    async def send(
        self, method: bytes, target: bytes, authority: bytes, fields: SharedFields, token: bytes
    ) -> UpgradeAnswer:
        """Send one request and wait for its outcome; never raises for what the peer does."""
        self._asked = UpgradeAnswer()
        self._content = b""
        if self._end.closed:
            self._asked.detail = self._watch.ended or "closed"
            self._asked.alert = self._watch.alert
            return self._asked
        self._done = asyncio.get_running_loop().create_future()
        self._end.head(self, method, target, authority, (FieldBlock(fields),), 0, upgrade=token)
        self._end.flush()
        await self._done
        return self._asked

    def _finish(self) -> None:
        if self._done is not None and not self._done.done():
            self._done.set_result(None)

    # ---- ResponseSink ----

    def response_interim(self, head: ResponseHead) -> None:
        """1xx says nothing to us."""

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        """We are let: in this very turn the link changes hands, so that no byte is lost."""
        self._asked.switched = True
        self._asked.fields = head.fields
        self._take(self._link, surplus)
        self._finish()

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """Something else than 101."""
        self._asked.status = head.status
        self._asked.fields = head.fields

    def response_content(self, data: bytes) -> None:
        """The reason, maybe."""
        if len(self._content) < _MAX_CONTENT:
            self._content += data[:_MAX_CONTENT]

    def response_flush(self) -> None:
        """Nothing is kept back."""

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete."""
        try:
            problem = json.loads(self._content)
        except ValueError:
            problem = None
        if isinstance(problem, dict):
            self._asked.problem = _safe(problem.get("type")).removeprefix(_URN)
            self._asked.title = _safe(problem.get("title"))
            self._asked.request_id = _safe(problem.get("request_id"))
        self._finish()

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer."""
        self._asked.status = 0
        self._asked.detail = detail
        self._asked.alert = self._watch.alert
        self._asked.is_malformed = loss is Loss.INVALID
        self._finish()

    def request_blocked(self) -> None:
        """Nothing more to send anyway."""

    def request_unblocked(self) -> None:
        """Nothing more to send anyway."""

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """Another request may follow."""

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """Its sink was told."""


class _Watch(asyncio.Protocol):
    """Stands between the link and the client end, and remembers how the connection ended."""

    __slots__ = ("_end", "alert", "ended")

    def __init__(self, end: ClientEnd) -> None:
        self._end = end
        self.alert = ""
        self.ended = ""

    def data_received(self, data: bytes) -> None:
        """Passed on to the end."""
        self._end.data_received(data)

    def eof_received(self) -> bool | None:
        """Passed on to the end."""
        return self._end.eof_received()

    def pause_writing(self) -> None:
        """Passed on to the end."""
        self._end.pause_writing()

    def resume_writing(self) -> None:
        """Passed on to the end."""
        self._end.resume_writing()

    def connection_lost(self, exc: Exception | None) -> None:
        """Keep the alert's name, then tell the end of the loss."""
        self.ended = "the connection was lost"
        if isinstance(exc, SSL.Error) and "alert" in (words := openssl_reason(exc)):
            self.alert = words
        self._end.connection_lost(exc)


def _safe(text: Any) -> str:
    """Text of a peer for a log line: printable, one line, short."""
    if not isinstance(text, str):
        return ""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:_MAX_TEXT])
