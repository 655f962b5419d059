"""The server end of an HTTP/1.1 connection: requests in, answers out (RFC 9112).

It keeps order (one exchange at a time; requests that come early wait in a bounded buffer), frames content both ways,
and closes so that the peer gets what was written (`rhttp.http1.closing`). It decides nothing: its owner does.

Trust: meets bytes of untrusted clients (gateway) and of the gateway (worker). I/O happens in the link it is given.
"""

from __future__ import annotations

import asyncio
from typing import Final, Protocol

from rhttp.ends import Link
from rhttp.errors import RemoteProtocolError
from rhttp.http1.answer import CLOSED, CONTENT, DETACHED, DISCARD, HEAD, LINGER, READ
from rhttp.http1.closing import ClosingSide
from rhttp.http1.content import LAST_CHUNK, ChunkedReader, LengthReader, last_chunk
from rhttp.http1.head import section_end, skip_empty_lines
from rhttp.http1.head_cache import HeadForm, read_request_head
from rhttp.http1.limits import Http1Limits
from rhttp.message import OPEN, Fields, RequestHead
from rhttp.timers import TimerWheel

EMPTY_LINES: Final = 4
"""Empty lines that are skipped before a request line (RFC 9112 section 2.2): some clients send one behind content."""


class ServerOwner(Protocol):
    """Decides what happens with the requests of one server end."""

    def request_received(self, end: ServerEnd, head: RequestHead, /) -> None:
        """A request head arrived; set the end's sink or answer at once."""

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str, /) -> None:
        """Bytes that are no request, or content that broke; answer with ``status``. The connection ends behind it.

        The end's `request` is the one whose content broke, or an empty one.
        """

    def end_closed(self, end: ServerEnd, /) -> None:
        """The connection is gone."""


class ServerEnd(ClosingSide):
    """One connection on which we are the HTTP server.

    The owner gets each head through ``request_received``, sets `sink` when it wants the content, and answers with
    `head`, `content`, `end`. Everything that was kept back leaves with `flush` or `end`. A patient end waits for
    requests for ever, as a reversed connection does; others close when none comes.
    """

    __slots__ = (
        "_consuming",
        "_form",
        "_is_patient",
        "_scanned",
        "_skipped",
        "owner",
    )
    __deletable__ = ["owner"]  # noqa: RUF012 - by this mypyc knows that `detach` deletes it

    def __init__(self, owner: ServerOwner, limits: Http1Limits, wheel: TimerWheel, *, is_patient: bool = False) -> None:
        super().__init__(limits, wheel)
        self.owner = owner
        self._scanned = 0
        self._skipped = 0
        self._consuming = False
        self._form: HeadForm | None = None  # of the last head
        self._is_patient = is_patient

    # ---- the link's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The link is up (asyncio calls it; for a TLS link, its handshake is done)."""
        self.link = transport  # type: ignore[assignment]  # asyncio transports and TlsLink are Links
        if not self._is_patient:
            self._wheel.set(self, self.limits.head_timeout)

    def data_received(self, data: bytes) -> None:
        """Bytes from the peer."""
        if self.phase >= LINGER:
            if self.phase == LINGER:
                self._still_sending()
            return
        if self._buffer:
            data, self._buffer = self._buffer + data, b""
        self._consume(data)

    def _consume(self, data: bytes) -> None:
        self._consuming = True
        try:
            while data and self.phase < LINGER:
                phase = self.phase
                if phase == READ or (phase == HEAD and self._blocked):  # who takes no answers asks nothing more
                    self._keep(data)
                    break
                data = self._take_head(data) if phase == HEAD else self._take_content(data)
        except RemoteProtocolError as error:
            self._malformed(error)
        finally:
            self._consuming = False
        if self.sink is not None:
            self.sink.request_flush()
        if self._eof:
            self._after_eof()

    def _keep(self, data: bytes) -> None:
        self._buffer = data
        if len(data) > self.limits.pipelined_bytes:
            self.pause()

    def _take_head(self, data: bytes) -> bytes:
        if data[0] < 0x21:
            at = skip_empty_lines(data, EMPTY_LINES - self._skipped)
            self._skipped += at // 2
            data = data[at:]
            if data in (b"", b"\r"):
                self._buffer = data
                return b""
        limits = self.limits
        size, form = len(data), self._form
        if form is not None and not self._scanned and size <= limits.head_bytes:
            head = form.read(data, max_fields=limits.fields, max_line=limits.request_line_bytes)
            if head is not None:  # so ``data`` is one whole head
                return self._take_request(head, data, size)
        end = section_end(data, self._scanned)
        if end < 0:
            if size > limits.request_line_bytes and data.find(b"\n", 0, limits.request_line_bytes + 2) < 0:
                raise RemoteProtocolError(414, "uri-too-long", "request line too long")
            if size > limits.head_bytes:
                raise RemoteProtocolError(431, "fields-too-large", "head too large")
            if not self._scanned:
                self._wheel.set(self, limits.head_timeout)
            self._scanned = max(size - 3, 1)
            self._buffer = data
            return b""
        self._scanned = 0
        if end > limits.head_bytes:
            raise RemoteProtocolError(431, "fields-too-large", "head too large")
        return self._take_request(self.read_head(data if end == size else data[:end]), data, end)

    def _take_request(self, head: RequestHead, data: bytes, end: int) -> bytes:
        """Give the request to the owner; the bytes behind its head, from ``end``, that are still to be read."""
        self._skipped = 0
        limits = self.limits
        size = len(data)
        if self._eof and end == size:
            self.is_last = True  # it is the last one, and its answer says so
        self.request = head
        length = head.length
        if length is OPEN:
            self._reader = ChunkedReader(max_trailers=limits.trailer_bytes, max_fields=limits.fields)
        elif isinstance(length, int) and length:
            self._reader = LengthReader(length)
        else:
            self.phase = READ
            self.deadline = 0.0
            if head.upgrade is None:
                self.owner.request_received(self, head)
                return b"" if end == size else data[end:]
            # Whoever takes the link over must see what came behind the head.
            self._buffer = data[end:]
            self.owner.request_received(self, head)
            if self.phase >= LINGER:
                return b""
            rest, self._buffer = self._buffer, b""
            return rest
        self.phase = CONTENT
        self._continued = head.expect is None
        self._wheel.set(self, limits.content_timeout)
        self.owner.request_received(self, head)
        return b"" if end == size else data[end:]

    def read_head(self, block: bytes) -> RequestHead:
        """One whole head, parsed; another way for an end whose peer is known to send heads of a certain kind."""
        limits = self.limits
        head, self._form = read_request_head(block, max_fields=limits.fields, max_line=limits.request_line_bytes)
        return head

    def _take_content(self, data: bytes) -> bytes:
        reader = self._reader
        assert reader is not None
        content, ended, surplus = reader.feed(data)
        if self._eof and ended and not surplus:
            self.is_last = True
        if self.phase == DISCARD:
            if ended:
                self._reader = None
                self._next()
                return surplus
            self._left = (self._left or 0) - len(data)
            if self._left < 0:
                self.shutdown()
            else:
                self._still_sending()
            return surplus
        self._wheel.set(self, self.limits.content_timeout)
        sink = self.sink
        if content and sink is not None:
            sink.request_content(content)
        if ended and self.phase == CONTENT:
            self._reader = None
            self.phase = READ
            if not self._blocked:  # else the deadline is that of a peer that reads too slowly
                self.deadline = 0.0
            if sink is not None:
                sink.request_end(reader.trailers)
        elif ended and self.phase == DISCARD:  # the sink answered while it took the last content
            self._reader = None
            self._next()
        return surplus

    def _malformed(self, error: RemoteProtocolError) -> None:
        """A head or content that cannot be framed: nothing behind it can be trusted."""
        self._buffer = b""
        self.deadline = 0.0
        if self.phase in (CONTENT, READ):
            sink, self.sink = self.sink, None
            answered = not self.uncommitted
            self.phase = READ
            if not answered:
                self.told = error.status
            if sink is not None:
                sink.request_abort(error.detail)
            if answered:
                if self.phase < LINGER:
                    self.abort()
                return
            if self.phase >= LINGER:  # the sink has closed it
                return
            self.status = None
            self._out.clear()
        elif self.phase == DISCARD:
            self.shutdown()
            return
        else:
            self.request = RequestHead()  # there is none, and its answer is one to GET
        self.phase = READ
        self.is_last = True
        self.owner.request_malformed(self, error.status, error.code, error.detail)

    def eof_received(self) -> bool:
        """The peer sent its last byte; it may still read (half-close). Requests that are here have their turn."""
        self._eof = True
        phase = self.phase
        if not self._buffer and not self._consuming:
            self.is_last = True
        if phase in (HEAD, CONTENT):
            if not self._consuming:
                self._after_eof()
        elif phase == READ:
            if self.sink is not None:
                self.sink.request_half_closed()
        elif phase == DISCARD:
            self.shutdown()
        elif phase == LINGER and not self.link.get_write_buffer_size():
            self.link.close()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """The link is gone."""
        if self.phase == DETACHED:
            return
        already = self.phase == CLOSED
        self.phase = CLOSED
        self._wheel.forget(self)
        self._buffer = b""
        self._reader = None
        self._lost("connection lost")
        if not already:
            self.owner.end_closed(self)

    def _tell_closed(self) -> None:
        self.owner.end_closed(self)

    def pause_writing(self) -> None:
        """The peer reads too slowly."""
        self._blocked = True
        self._waiting = self.link.get_write_buffer_size()
        if self.sink is not None:
            self.sink.response_blocked()
        if self.phase < CLOSED:
            self._wheel.set(self, self.limits.content_timeout)

    def resume_writing(self) -> None:
        """The peer caught up."""
        self._blocked = False
        if self.phase == READ:
            self.deadline = 0.0
        if self.sink is not None:
            self.sink.response_unblocked()
        elif self.phase == HEAD:
            self._await_request()

    def deadline_passed(self) -> None:
        """A head, content or reader too slow, an idle connection, or a linger that is over."""
        phase = self.phase
        if phase == HEAD and self._buffer and not self._blocked:
            self._malformed(RemoteProtocolError(408, "request-timeout", "head too slow"))
        elif phase == DISCARD:
            self._discarded_enough()
        elif phase == HEAD and not self._blocked:
            self.shutdown()
        elif phase == CONTENT and not self._blocked:
            if self._paused:  # we are the slow side; the exchange has its own deadline
                self._wheel.set(self, self.limits.content_timeout)
            else:
                self._malformed(RemoteProtocolError(408, "request-timeout", "content too slow"))
        elif phase == LINGER:
            self._linger_over()
        elif self._blocked and self._makes_progress():
            self._wheel.set(self, self.limits.content_timeout)
        else:
            self._lost("the peer stopped reading")
            self.abort()

    @property
    def is_idle(self) -> bool:
        """Whether it waits for a request and not a byte of one has come: then closing it loses nothing here."""
        return self.phase == HEAD and not self._buffer

    # ---- the exchange's side, with what `AnswerSide` offers ----

    def end(self, trailers: Fields) -> None:
        """The answer is complete. Closes the connection when it must; otherwise the next request has its turn."""
        if self._left and not self._bodyless:
            self.abort()
            return
        if self._chunking:
            self._out.append(last_chunk(trailers) if trailers else LAST_CHUNK)
        self.flush()
        self.sink = None
        self.request_over()

    def request_over(self) -> None:
        """Go on after a complete answer: the next request, the rest of this one's content, or the end."""
        if self.phase == READ:
            self._next()
        elif self.phase == CONTENT:
            self.discard()

    def _next(self) -> None:
        # What was said of the last answer is not true of the next: neither is given yet.
        self.request = None
        self.status = None
        self._has_begun = False
        self._until = 0.0
        if self.is_last or (self._eof and not self._buffer and not self._consuming):
            self.shutdown()
            return
        self.phase = HEAD
        if not self._blocked:
            self._await_request()

    def _await_request(self) -> None:
        """The next request has its turn; it may be here already."""
        if self._is_patient:
            self.deadline = 0.0
        else:
            self._wheel.set(self, self.limits.keep_alive_timeout)
        if self._paused:
            self.resume()
        if self._buffer and not self._consuming:
            data, self._buffer = self._buffer, b""
            self._consume(data)

    def expect_within(self, seconds: float) -> None:
        """Close when no further request begins in this time; for a peer that was given one more chance."""
        if self.phase == HEAD:
            self._wheel.set(self, seconds)

    def pause(self) -> None:
        """Stop reading: whoever takes the content is slower."""
        if not self._paused and self.phase < LINGER:
            self._paused = True
            self.link.pause_reading()

    def resume(self) -> None:
        """Read again."""
        if self._paused and self.phase < CLOSED:
            self._paused = False
            if self.phase == CONTENT:
                self._wheel.set(self, self.limits.content_timeout)
            self.link.resume_reading()

    def detach(self) -> tuple[Link, bytes]:
        """Give the link away after a role switch; answer it with the bytes that came too early."""
        link, surplus = self.link, self._buffer
        self.flush()
        self.phase = DETACHED
        self._wheel.forget(self)
        self.sink = None
        self.request = None
        self._buffer = b""
        # An owner knows its end too: the two, and the last request, would stay until the collector comes for them.
        del self.owner
        return link, surplus
