"""How an HTTP/1.1 server end closes: so that the peer gets what was written, and within bounds (RFC 9112 section 9.6).

After our last byte our side is shut; what still comes is read and dropped, since a close over unread bytes is a reset,
and a reset takes the answer with it. Bytes that come are progress: who is still sending a refused upload has not seen
the refusal yet. Three bounds hold: a gap without a byte, the time in all, and, while the connection may be kept, the
amount of content.

Trust: meets bytes of untrusted clients, and drops them. I/O happens in the link that it is given.
"""

from __future__ import annotations

from rhttp.http1.answer import CLOSED, CONTENT, DISCARD, HEAD, LINGER, AnswerSide
from rhttp.http1.content import ContentReader
from rhttp.http1.limits import Http1Limits
from rhttp.message import NOTHING
from rhttp.timers import TimerWheel


class ClosingSide(AnswerSide):
    """What a server end does when nothing further is served on it."""

    __slots__ = (
        "_buffer",
        "_eof",
        "_paused",
        "_reader",
        "_until",
        "_wheel",
        "bucket",
        "deadline",
        "is_unwelcome",
        "limits",
    )

    def __init__(self, limits: Http1Limits, wheel: TimerWheel) -> None:
        super().__init__()
        self.limits = limits
        self.deadline = 0.0
        self.bucket = 0.0
        self.is_unwelcome = False
        """Bytes that still come are no progress: the peer holds more connections than it may."""
        self._wheel = wheel
        self._buffer = b""
        self._reader: ContentReader | None = None
        self._paused = False
        self._eof = False
        self._until = 0.0
        """When nothing more is read, whatever comes; 0.0 until something is refused or over."""

    def deadline_passed(self) -> None:
        """A time is over; for the end that has a request in mind too."""
        raise NotImplementedError

    def _tell_closed(self) -> None:
        """The owner is to be told that the connection is gone."""
        raise NotImplementedError

    def _lost(self, detail: str) -> None:
        sink, self.sink = self.sink, None
        if sink is not None:
            sink.request_abort(detail)

    def _after_eof(self) -> None:
        """Nothing more will come: what is not whole now never will be. Answers to what came before it still leave."""
        if self.phase == HEAD and not self._blocked:
            self.shutdown()
        elif self.phase == CONTENT:
            is_cut = not self.uncommitted
            self._lost("the peer ended the connection in mid-content")
            self._out.clear()
            if is_cut:
                self.abort()
            else:
                self.shutdown()

    def discard(self) -> None:
        """The answer is complete and the request's content is not: drop the rest, and keep the connection if it ends.

        Content that is announced as more than that, or that we did not ask for (RFC 9110 section 10.1.1), ends it.
        """
        limits = self.limits
        self.phase = DISCARD
        self._left = limits.refused_content
        self._until = self._wheel.now + limits.linger_time
        self._wheel.set(self, limits.refused_timeout)
        length = self.request.length if self.request is not None else NOTHING
        if self._paused:
            self._paused = False
            self.link.resume_reading()
        if (isinstance(length, int) and length > limits.refused_content) or not self._continued:
            self.shutdown()

    def _still_sending(self) -> None:
        """More of what is dropped has come: wait for the next of it, but not for ever."""
        left = self._until - self._wheel.now
        if left > 0 and not self.is_unwelcome:
            self._wheel.set(self, min(self.limits.refused_timeout, left))

    def shutdown(self) -> None:
        """Send what is left, say that no more comes, read and drop while more comes, close."""
        phase = self.phase
        if phase >= LINGER:
            return
        limits = self.limits
        self.flush()
        self.phase = LINGER
        self._buffer = b""
        self._reader = None
        if self._paused:
            self._paused = False
            self.link.resume_reading()
        self.link.write_eof()
        if not self._until:
            self._until = self._wheel.now + limits.linger_time
        self._left = 0
        self._wheel.set(self, limits.linger)
        if phase in (CONTENT, DISCARD):
            self._still_sending()
        if self._eof and not self.link.get_write_buffer_size():
            self.link.close()

    def _discarded_enough(self) -> None:
        """The rest of the content took too long: whoever was silent meanwhile has no more than a last moment."""
        self._until = self._wheel.now
        self.shutdown()

    def _linger_over(self) -> None:
        """A gap was too long, or the time is up; who still takes what was written is given more."""
        waiting = self.link.get_write_buffer_size()
        if waiting != self._left:
            self._left = waiting
            self._wheel.set(self, self.limits.linger)
        else:
            self._lost("the peer stopped reading")
            self.abort()

    def abort(self) -> None:
        """Close now, so that the peer sees that the answer is not whole."""
        if self.phase < CLOSED:
            self.phase = CLOSED
            self._wheel.forget(self)
            self.link.abort()
            self._out.clear()
            self._lost("aborted")
            self._tell_closed()
