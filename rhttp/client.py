"""The client end of an HTTP/1.1 connection: one request at a time out, answers in (RFC 9112).

On a reversed connection this end is the side that accepted it; towards a master it is the side that dialled. Answers
are untrusted: surplus bytes, an answer without a question, conflicting lengths or a 101 that nobody asked for end the
connection.

Posture: meets bytes of untrusted workers and masters. I/O happens in the link it is given.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from rhttp.content import LAST_CHUNK, ChunkedReader, CloseReader, ContentReader, LengthReader, chunk, last_chunk
from rhttp.ends import Link, ResponseSink
from rhttp.errors import LocalProtocolError, Loss, RemoteProtocolError
from rhttp.fields import Fields
from rhttp.head import ResponseHead, response_has_content
from rhttp.headmemo import read_response_head
from rhttp.limits import Http1Limits
from rhttp.timers import TimerWheel


class ClientOwner(Protocol):
    """Keeps client ends: a pool of master connections, or a worker's slots."""

    def client_idle(self, end: ClientEnd, /) -> None:
        """An exchange is over and the connection can take another request."""

    def client_closed(self, end: ClientEnd, detail: str, /) -> None:
        """The connection is gone or no longer of use; told once."""


class ClientEnd(asyncio.Protocol):
    """One connection on which we are the HTTP client."""

    __slots__ = (
        "_blocked",
        "_buffer",
        "_chunking",
        "_closed",
        "_eof",
        "_given",
        "_head_seen",
        "_left",
        "_method",
        "_out",
        "_paused",
        "_reader",
        "_reusable",
        "_sent_whole",
        "_upgrading",
        "_wheel",
        "answered",
        "bucket",
        "deadline",
        "limits",
        "link",
        "owner",
        "sink",
        "tag",
    )

    def __init__(self, owner: ClientOwner, limits: Http1Limits, wheel: TimerWheel, tag: object = None) -> None:
        self.owner = owner
        self.tag = tag
        """The owner's own note on this connection."""
        self.link: Link
        self.sink: ResponseSink | None = None
        self.deadline = 0.0
        self.bucket = 0.0
        self.answered = 0
        """Answers completed on this connection."""
        self.limits = limits
        self._wheel = wheel
        self._buffer = b""
        self._reader: ContentReader | None = None
        self._method = b""
        self._out: list[bytes] = []
        self._left: int | None = 0
        self._chunking = False
        self._given = 0  # bytes of the request that the link has
        self._sent_whole = True
        self._head_seen = False
        self._reusable = True
        self._upgrading: bytes | None = None
        self._paused = False
        self._blocked = False
        self._eof = False
        self._closed = False

    # ---- the exchange's side ----

    @property
    def closed(self) -> bool:
        """Whether no further request can be sent."""
        return self._closed or self.link.is_closing()

    @property
    def blocked(self) -> bool:
        """Whether the peer reads too slowly for more content now."""
        return self._blocked

    def head(
        self, sink: ResponseSink, method: bytes, block: bytes, length: int | None, *, upgrade: bytes | None = None
    ) -> None:
        """Begin a request.

        Args:
            sink: takes the answer.
            method: the method, which decides whether the answer can have content.
            block: request line and field lines, serialized, without ``Content-Length`` and ``Transfer-Encoding``.
            length: content's length; None for chunks; -1 for a request that announces no content at all.
            upgrade: the token asked for; only then is a 101 an answer.
        """
        if self.sink is not None or self._closed:
            raise LocalProtocolError("a request on a connection that is busy or closed")
        self.sink = sink
        self._method = method
        self._upgrading = upgrade
        self._head_seen = False
        self._given = 0
        self._chunking = False
        self._left = 0
        if length is None:
            self._left = None
            self._chunking = True
            self._sent_whole = False
            self._out.append(block + b"Transfer-Encoding: chunked\r\n\r\n")
        elif length < 0:
            self._sent_whole = True
            self._out.append(block + b"\r\n")
        else:
            self._left = length
            self._sent_whole = not length
            self._out.append(b"%bContent-Length: %d\r\n\r\n" % (block, length))
        if self._sent_whole:
            self._wheel.set(self, self.limits.answer_timeout)

    def content(self, data: bytes) -> None:
        """Give content; it leaves with the next `flush` or `end`."""
        if not data:
            return
        if self._left is not None:
            self._left -= len(data)
            if self._left < 0:
                raise LocalProtocolError("more content than was announced")
        self._out.append(chunk(data) if self._chunking else data)

    def end(self, trailers: Fields) -> None:
        """The request's content is complete."""
        if self._sent_whole:
            return
        if self._left:
            self.abort(Loss.ABORTED, "less content than was announced")
            return
        if self._chunking:
            self._out.append(last_chunk(trailers) if trailers else LAST_CHUNK)
        self._sent_whole = True
        self._wheel.set(self, self.limits.answer_timeout)
        self.flush()

    def flush(self) -> None:
        """Send what was kept back."""
        out = self._out
        if out and not self._closed:
            data = out[0] if len(out) == 1 else b"".join(out)
            out.clear()
            self._given += len(data)
            self.link.write(data)

    def pause(self) -> None:
        """Stop reading: whoever takes the answer is slower."""
        if not self._paused and not self._closed:
            self._paused = True
            self.deadline = 0.0
            self.link.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and not self._closed:
            self._paused = False
            if self._reader is not None:
                self._wheel.set(self, self.limits.content_timeout)
            self.link.resume_reading()

    def abort(self, loss: Loss = Loss.ABORTED, detail: str = "aborted") -> None:
        """Close now; a sink that still waits is told ``loss``."""
        if self._closed:
            return
        self._closed = True
        self._wheel.forget(self)
        self._buffer = b""
        self._out.clear()
        self.link.abort()
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.response_abort(loss, detail)
        self.owner.client_closed(self, detail)

    def release(self) -> None:
        """Forget the sink without telling it, and close: the exchange lost interest."""
        self.sink = None
        self.abort()

    def close(self) -> None:
        """Close an idle connection in order; a peer that does not take what was written is cut a moment later."""
        if not self._closed:
            self._closed = True
            self._wheel.set(self, self.limits.linger)
            self.link.close()
            self.owner.client_closed(self, "closed")

    # ---- the link's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The link is up."""
        self.link = transport  # type: ignore[assignment]  # asyncio transports and TlsLink are Links

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self._closed:
            return
        if self.sink is None:
            self.abort(Loss.INVALID, "bytes without a question")
            return
        if not self._head_seen and self.link.get_write_buffer_size() >= self._given:
            # The request has not left: these bytes were sent before it came and answer nothing.
            self.abort(Loss.NOT_SENT, "bytes without a question")
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
            if surplus:
                raise RemoteProtocolError(502, "bad-request", "bytes behind the answer")
            if content:
                sink.response_content(content)
            if ended and not self._closed:
                self._finish(reader.trailers)
            return

    def _take_head(self, data: bytes) -> bytes | None:
        """Take one head; answer the bytes behind it that are still to be read, None when there are none."""
        end = data.find(b"\r\n\r\n")
        if end < 0:
            if len(data) > self.limits.head_bytes:
                raise RemoteProtocolError(502, "bad-request", "head too large")
            self._head_seen = True
            self._buffer = data
            return None
        end += 4
        if end > self.limits.head_bytes:
            raise RemoteProtocolError(502, "bad-request", "head too large")
        head = read_response_head(data if end == len(data) else data[:end], max_fields=self.limits.fields)
        rest = data[end:]
        self._head_seen = True
        sink = self.sink
        assert sink is not None
        status = head.status
        if status < 200:
            if status == 101:
                self._switch(head, rest)
                return None
            sink.response_interim(head)
            return rest
        has_content = response_has_content(self._method, status)
        if head.close or not self._sent_whole:
            self._reusable = False
        if has_content and head.chunked:
            self._reader = ChunkedReader(max_trailers=self.limits.trailer_bytes, max_fields=self.limits.fields)
        elif has_content and head.content_length is None:
            self._reader = CloseReader()
            self._reusable = False
        else:
            length = head.content_length if has_content and head.content_length is not None else 0
            if len(rest) > length:
                raise RemoteProtocolError(502, "bad-request", "bytes behind the answer")
            if len(rest) == length:
                # All of it came in one read, as most answers do.
                sink.response_head(head, has_content)
                if not self._closed:
                    if rest:
                        sink.response_content(rest)
                    self._finish([])
                return None
            self._reader = LengthReader(length)
        self._wheel.set(self, self.limits.content_timeout)
        sink.response_head(head, True)
        return None if self._closed else rest

    def _switch(self, head: ResponseHead, surplus: bytes) -> None:
        if self._upgrading is None:
            raise RemoteProtocolError(502, "bad-request", "a 101 that nobody asked for")
        named = [value.lower() for value in head.upgrade or ()]
        if named != [self._upgrading.lower()] or b"upgrade" not in head.connection:
            raise RemoteProtocolError(502, "bad-request", "a 101 that names another protocol")
        sink, self.sink = self.sink, None
        self._closed = True  # as an end; the link lives on in other hands
        self._wheel.forget(self)
        assert sink is not None
        sink.response_switched(head, surplus)

    def _finish(self, trailers: Fields) -> None:
        self._reader = None
        self.deadline = 0.0
        sink, self.sink = self.sink, None
        self.answered += 1
        reusable = self._reusable and self._sent_whole and not self._eof and not self.link.is_closing()
        if reusable and self._paused:
            self._paused = False
            self.link.resume_reading()
        if sink is not None:
            sink.response_end(trailers)
        if self._closed:
            return
        if reusable:
            self.owner.client_idle(self)
        else:
            self.close()

    def eof_received(self) -> bool:
        """The peer sent its last byte: the end of an answer without a length, a fault in every other one."""
        self._eof = True
        if self._closed:
            return False
        if isinstance(self._reader, CloseReader) and self.sink is not None:
            if self.link.get_extra_info("truncated"):
                self.abort(Loss.CUT, "the peer ended TLS without close_notify")
            else:
                self._finish([])
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
        self._blocked = True
        self._wheel.set(self, self.limits.content_timeout)
        if self.sink is not None:
            self.sink.request_blocked()

    def resume_writing(self) -> None:
        """The peer caught up."""
        self._blocked = False
        if self.sink is None:
            self.deadline = 0.0
        else:
            self._wheel.set(self, self.limits.answer_timeout if self._sent_whole else self.limits.content_timeout)
            if not self._sent_whole and self._reader is None:
                self.deadline = 0.0  # now the requester is the slow side, and its end has the deadline
            self.sink.request_unblocked()

    def deadline_passed(self) -> None:
        """No answer, no progress of one, a peer that stopped reading, or an idle connection that nobody needs."""
        if self._closed:
            self.link.abort()
        elif self.sink is None:
            self.close()
        else:
            self.abort(Loss.DEADLINE, "no progress in time")
