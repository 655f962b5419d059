"""The client end of an HTTP/1.1 connection: one request at a time out, answers in (RFC 9112).

On a reversed connection this end is the side that accepted it; towards a master it is the side that dialled. Answers
are untrusted: conflicting lengths, a 101 that nobody asked for or interim answers without end are no answer and end the
connection. Bytes behind a complete answer do not touch it: it stands as if they had come later, they are never taken
for an answer to anything, and the connection takes no further request (RFC 9112 sections 6.3 and 9.2).

Trust: meets bytes of untrusted workers and masters. I/O happens in the link it is given.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from rhttp.ends import SURPLUS, Link, ResponseSink
from rhttp.errors import LocalProtocolError, Loss, RemoteProtocolError
from rhttp.http1.content import ChunkedReader, CloseReader, ContentReader, LengthReader
from rhttp.http1.head import Http1ResponseHead, bad_answer, section_end
from rhttp.http1.head_cache import read_response_head
from rhttp.http1.limits import Http1Limits
from rhttp.http1.request import RequestSide
from rhttp.message import Blocks, Fields, Length, response_has_content
from rhttp.timers import TimerWheel

_BEGINNING: Final = b"HTTP/1."


class ClientOwner(Protocol):
    """Keeps client ends: a pool of master connections, or a worker's slots."""

    def client_idle(self, end: ClientEnd, /) -> None:
        """An exchange is over and the connection can take another request."""

    def client_closed(self, end: ClientEnd, detail: str, /) -> None:
        """The connection is gone or no longer of use; told once."""


class ClientEnd(RequestSide):
    """One connection on which we are the HTTP client."""

    __slots__ = (
        "_buffer",
        "_eof",
        "_head_seen",
        "_interim_bytes",
        "_interims",
        "_known",
        "_method",
        "_paused",
        "_reader",
        "_rest",
        "_reusable",
        "_upgrading",
        "_wheel",
        "bucket",
        "deadline",
        "limits",
        "owner",
    )

    def __init__(self, owner: ClientOwner, limits: Http1Limits, wheel: TimerWheel) -> None:
        super().__init__()
        self.owner = owner
        self.deadline = self.bucket = 0.0
        self.limits = limits
        self._wheel = wheel
        self._buffer = b""
        self._known: Http1ResponseHead | None = None  # the last head, if it may come again
        self._reader: ContentReader | None = None
        self._method = b""
        self._rest: float | None = None  # seconds without a request; None: for ever
        self._head_seen = False
        self._interims = self._interim_bytes = 0
        self._reusable = True
        self._upgrading: bytes | None = None
        self._paused = False
        self._eof = False

    # ---- the exchange's side ----

    @property
    def closed(self) -> bool:
        """Whether no further request can be sent."""
        return self._closed or self.link.is_closing()

    def open(self) -> ClientEnd:
        """The end for a request; an HTTP/1.1 connection is its only one."""
        return self

    def head(
        self,
        sink: ResponseSink,
        method: bytes,
        target: bytes,
        authority: bytes,
        blocks: Blocks,
        length: Length,
        *,
        upgrade: bytes | None = None,
    ) -> None:
        """Begin a request; see `rhttp.ends.ResponseEnd.head`."""
        if self.sink is not None or self._closed:
            raise LocalProtocolError("a request on a connection that is busy or closed")
        self.sink = sink
        self._method = method
        self._upgrading = upgrade
        self._head_seen = False
        self._interims = self._interim_bytes = 0
        self._begin(method, target, authority, blocks, length, upgrade)
        if self._sent_whole and not self._blocked:
            self._wheel.set(self, self.limits.answer_timeout)
        else:
            self._watch()
            if self._blocked:  # by what an earlier request left in the link
                sink.request_blocked()

    def end(self, trailers: Fields) -> None:
        """The request's content is complete."""
        if self._sent_whole:
            return
        if self._left:
            self.abort(Loss.ABORTED, "less content than was announced")
            return
        self._finish_content(trailers)
        self._watch()
        self.flush()

    def pause(self) -> None:
        """Stop reading: whoever takes the answer is slower."""
        if not self._paused and not self._closed:
            self._paused = True
            self._watch()
            self.link.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self._closed:
            self._paused = False
            self._watch()
            self.link.resume_reading()

    def rest(self, seconds: float) -> None:
        """Close when no request comes in this time; for an owner that keeps idle ends, each time that one is idle."""
        self._rest = seconds
        self._watch()

    def _watch(self) -> None:
        """Set the deadline of the present state. Where it has none, somebody else's ends the wait.

        Idle, it is `rest`; while the peer takes nothing, `content_timeout`. An answer that nobody takes and content
        that has not come wait for the requester, whose end has a deadline for it.
        """
        limits = self.limits
        seconds: float | None
        if self._blocked or (self.sink is not None and self._reader is not None and not self._paused):
            seconds = limits.content_timeout
        elif self.sink is None:
            seconds = self._rest
        else:
            seconds = limits.answer_timeout if self._sent_whole and not self._paused else None
        self.deadline = 0.0
        if seconds is not None:
            self._wheel.set(self, seconds)

    def abort(self, loss: Loss = Loss.ABORTED, detail: str = "aborted") -> None:
        """Close now; a sink that still waits is told ``loss``."""
        if self._closed:
            return
        self._closed = True
        self._wheel.forget(self)
        self._buffer = b""
        self._out = None
        self.link.abort()
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.response_abort(loss, detail)
        self.owner.client_closed(self, detail)

    def release(self) -> None:
        """Forget the sink without telling it, and close: the exchange lost interest."""
        self.sink = None
        self.abort()

    def close(self, detail: str = "closed") -> None:
        """Close an idle connection in order; a peer that does not take what was written is cut a moment later."""
        if not self._closed:
            self._closed = True
            self._wheel.set(self, self.limits.linger)
            self.link.close()
            self.owner.client_closed(self, detail)

    # ---- the link's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The link is up."""
        self.link = transport  # type: ignore[assignment]  # asyncio transports and TlsLink are Links

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._closed:
            return
        if self.sink is None:
            self.close(SURPLUS)
            return
        if not self._head_seen and self.link.get_write_buffer_size() >= self._given:
            # The request has not left: these bytes were sent before it came and answer nothing.
            self.abort(Loss.NOT_SENT, SURPLUS)
            return
        if self._buffer:
            data = self._buffer + data
            self._buffer = b""
        try:
            self._consume(data)
        except RemoteProtocolError as error:
            self.abort(Loss.INVALID, error.detail)
            return
        if self.sink is not None:
            self.sink.response_flush()

    def _consume(self, data: bytes) -> None:
        while data:
            reader = self._reader
            if reader is None:
                rest = self._take_head(data)
                if rest is None:
                    return
                data = rest
                continue
            content, ended, surplus = reader.feed(data)
            self._wheel.set(self, self.limits.content_timeout)
            sink = self.sink
            if sink is None:
                return
            if content:
                sink.response_content(content)
            if ended and not self._closed:
                self._finish(reader.trailers, bool(surplus))
            return

    def _take_head(self, data: bytes) -> bytes | None:
        """Take one head; answer the bytes behind it that are still to be read, None when there are none."""
        head = self._known
        if head is not None and data.startswith(head.block) and len(head.fields) <= self.limits.fields:
            end = len(head.block)  # the same bytes mean the same, and end as they did
        else:
            end = section_end(data)
            if end < 0:
                if len(data) > self.limits.head_bytes:
                    raise bad_answer("head too large")
                if not data.startswith(_BEGINNING[: len(data)]):
                    raise bad_answer("not an answer of HTTP/1")  # and may never end
                self._head_seen = True
                self._buffer = data
                return None
            head = read_response_head(data if end == len(data) else data[:end], max_fields=self.limits.fields)
            self._known = head if head.block else None
        if end > self.limits.head_bytes:
            raise bad_answer("head too large")
        rest = data[end:]
        self._head_seen = True
        sink = self.sink
        assert sink is not None
        status = head.status
        if status < 200:
            if status == 101:
                self._switch(head, rest)
                return None
            self._count_interim(end)
            sink.response_interim(head)
            return rest
        has_content = response_has_content(self._method, status)
        if head.close or not self._sent_whole:
            self._reusable = False
        if has_content and head.chunked:
            self._reader = ChunkedReader(max_trailers=self.limits.trailer_bytes, max_fields=self.limits.fields)
        elif has_content and not isinstance(head.length, int):
            self._reader = CloseReader()
            self._reusable = False
        else:
            length = head.length if has_content and isinstance(head.length, int) else 0
            if len(rest) >= length:
                # All of it came in one read, as most answers do.
                sink.response_head(head, has_content)
                if not self._closed:
                    if length:
                        sink.response_content(rest[:length])
                    self._finish([], len(rest) > length)
                return None
            self._reader = LengthReader(length)
        self._wheel.set(self, self.limits.content_timeout)
        sink.response_head(head, True)
        return None if self._closed else rest

    def _count_interim(self, size: int) -> None:
        """They are passed on at once, also to a requester that does not read, so one request may have only so many."""
        self._interims += 1
        self._interim_bytes += size
        if self._interims > self.limits.interim_answers or self._interim_bytes > self.limits.interim_bytes:
            raise bad_answer("too many interim answers")

    def _switch(self, head: Http1ResponseHead, surplus: bytes) -> None:
        if self._upgrading is None:
            raise bad_answer("a 101 that nobody asked for")
        named = [value.lower() for value in head.upgrade or ()]
        if named != [self._upgrading.lower()] or b"upgrade" not in head.connection:
            raise bad_answer("a 101 that names another protocol")
        sink, self.sink = self.sink, None
        self._closed = True  # as an end; the link lives on in other hands
        self._wheel.forget(self)
        assert sink is not None
        sink.response_switched(head, self.link, surplus)

    def _finish(self, trailers: Fields, has_surplus: bool) -> None:
        self._reader = None
        self.deadline = 0.0
        sink, self.sink = self.sink, None
        self.answered += 1
        reusable = self._reusable and self._sent_whole and not self._eof and not self.link.is_closing()
        if self._blocked:
            self._watch()
        if reusable and self._paused:
            self._paused = False
            self.link.resume_reading()
        if sink is not None:
            sink.response_end(trailers)
        if self._closed:
            return
        if not reusable:
            self.close()
        elif has_surplus:
            self.close(SURPLUS)
        else:
            self.owner.client_idle(self)

    def eof_received(self) -> bool:
        """The peer sent its last byte: the end of an answer without a length, a fault in every other one."""
        self._eof = True
        if self._closed:
            return False
        if isinstance(self._reader, CloseReader) and self.sink is not None:
            if self.link.get_extra_info("truncated"):
                self.abort(Loss.CUT, "the peer ended TLS without close_notify")
            else:
                self._finish([], False)
        elif self.sink is not None:
            self.abort(self._loss(), "the peer closed the connection")
        else:
            self.close()
        return False

    def _loss(self) -> Loss:
        if self._head_seen:
            return Loss.CUT
        return Loss.SENT_NO_ANSWER if self._given else Loss.NOT_SENT

    def connection_lost(self, exc: Exception | None) -> None:
        """The link is gone."""
        self._wheel.forget(self)
        if self._closed:
            return
        self.abort(self._loss(), "connection lost")

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        if self._closed:
            return
        self._blocked = True
        self._taken = self._given - self.link.get_write_buffer_size()
        self._watch()
        if self.sink is not None:
            self.sink.request_blocked()

    def resume_writing(self) -> None:
        """The peer caught up."""
        if self._closed:
            return
        self._blocked = False
        self._watch()
        if self.sink is not None:
            self.sink.request_unblocked()

    def deadline_passed(self) -> None:
        """No answer, no progress of one, a peer that stopped reading, or an idle connection that nobody needs."""
        if self._closed:
            self.link.abort()
        elif self._makes_progress():
            self._wheel.set(self, self.limits.content_timeout)
        elif self.sink is None:
            self.close()
        else:
            self.abort(Loss.DEADLINE, "no progress in time")


def speak_http1(owner: ClientOwner, limits: Http1Limits, wheel: TimerWheel, link: Link) -> ClientEnd:
    """The client's side of HTTP/1.1 on a link that is up and has no owner; it hears of the link from now on."""
    end = ClientEnd(owner, limits, wheel)
    end.link = link
    link.set_protocol(end)
    return end
