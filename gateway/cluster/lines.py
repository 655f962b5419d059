"""The borrowing side of a line: a connection to another process of this gateway, which lends one slot at a time.

While a slot is lent, a line is the `rhttp.ends.Link` of an ordinary client end: what is written goes to the worker and
what the worker sends comes back, and the process that holds the worker's connection reads none of it. So there is one
implementation of the exchange, of retries and of the audit lines, wherever the worker is.

Trust: meets bytes of untrusted workers, by way of a process of this gateway.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any, Final, Protocol, cast

import orjson

from gateway.cluster.frames import (
    CANCEL,
    DATA,
    DROP,
    EOF,
    FREE,
    GONE,
    HELLO,
    NONE,
    OFFER,
    RELEASE,
    WANT,
    FrameReader,
    MeshError,
    Wish,
    frame,
)
from gateway.core.context import ProcessContext
from rhttp.errors import Loss
from rhttp.http1.client import ClientEnd, ClientOwner

MAX_IDLE: Final = 64
"""Free lines that are kept for each process."""
ANSWER_WITHIN: Final = 2.0
"""Seconds in which a process says whether it has a slot; one that does not is stopped, and soon ended."""
_PIECE: Final = 1 << 20

_IDLE: Final = 0
_WANTING: Final = 1
_LENT: Final = 2
_CANCELLING: Final = 3
_CLOSED: Final = 4


class Taker(Protocol):
    """Who wants a slot of another process."""

    def offered(self, want: Want, line: Line, worker: str, /) -> None:
        """Here is one: `Line.lend` it or `Line.cancel`."""

    def refused(self, want: Want, /) -> None:
        """There is none, or nobody to ask any more."""


class Want:
    """One slot wanted of one process."""

    __slots__ = ("_lines", "bucket", "deadline", "is_over", "line", "taker", "wish")

    def __init__(self, lines: Lines, wish: Wish, taker: Taker) -> None:
        self._lines = lines
        self.wish = wish
        self.taker = taker
        self.line: Line | None = None
        self.is_over = False
        """Answered or cancelled: the taker hears nothing more."""
        self.deadline = 0.0
        self.bucket = 0.0

    @property
    def index(self) -> int:
        """The process that is asked."""
        return self._lines.index

    def cancel(self) -> None:
        """It is wanted no more."""
        if not self.is_over:
            self.is_over = True
            self._lines.process.wheel.forget(self)
            if self.line is not None:
                self.line.cancel()

    def deadline_passed(self) -> None:
        """No answer: take it for a refusal, and the line for broken."""
        line = self.line
        self.refuse()
        if line is not None:
            line.break_off()

    def refuse(self) -> None:
        """Tell the taker that there is none."""
        if not self.is_over:
            self.is_over = True
            self._lines.process.wheel.forget(self)
            self.taker.refused(self)


class Line(asyncio.Protocol):
    """One line."""

    __slots__ = (
        "_detail",
        "_end",
        "_is_blocked",
        "_lines",
        "_pool",
        "_reader",
        "_state",
        "_transport",
        "_truncated",
        "_want",
    )

    def __init__(self, lines: Lines) -> None:
        self._lines = lines
        self._transport: asyncio.Transport
        self._reader = FrameReader()
        self._state = _IDLE
        self._want: Want | None = None
        self._end: ClientEnd | None = None
        self._pool = ""
        self._detail = "aborted"
        self._truncated = False
        self._is_blocked = False
        """The other process reads too slowly."""

    # ---- borrowing ----

    def want(self, want: Want) -> None:
        """Ask for a slot; the line is free."""
        self._want = want
        want.line = self
        self._state = _WANTING
        self._pool = want.wish.pool
        self._transport.write(frame(WANT, want.wish.to_bytes()))

    def cancel(self) -> None:
        """The slot is wanted no more, or of no use; nothing was sent to its worker."""
        if self._state in (_WANTING, _LENT):
            self._want = None
            self._state = _CANCELLING
            self._transport.write(frame(CANCEL))

    def lend(self, owner: ClientOwner) -> ClientEnd:
        """The client end of the slot that was offered. Its owner calls `release` when it is idle."""
        process = self._lines.process
        end = self._end
        if end is None:
            end = self._end = ClientEnd(owner, process.generation.limits, process.wheel, self)
            end.connection_made(self)  # type: ignore[arg-type]  # a Link
            if self._is_blocked:
                end.pause_writing()
        end.owner = owner
        end.limits = process.generation.limits
        return end

    def release(self) -> None:
        """The answer is complete and the worker can take another request."""
        if self._state == _LENT:
            self._transport.write(frame(RELEASE))
            self._lines.given_back(self._pool)
            self._set_free()

    def because(self, detail: str) -> None:
        """Why the worker's connection is of no further use; told when the line closes."""
        self._detail = detail

    def break_off(self) -> None:
        """The other process does not answer."""
        if self._state != _CLOSED:
            self._transport.abort()

    def _set_free(self) -> None:
        self._state = _IDLE
        self._want = None
        self._lines.free(self)

    # ---- Link ----

    def write(self, data: bytes) -> None:
        """Send to the worker."""
        if self._state == _LENT:
            if len(data) <= _PIECE:
                self._transport.write(frame(DATA, data))
            else:
                for at in range(0, len(data), _PIECE):
                    self._transport.write(frame(DATA, data[at : at + _PIECE]))

    def write_eof(self) -> None:
        """Nothing: a slot that is to be used again is never half closed."""

    def pause_reading(self) -> None:
        """Stop delivering bytes."""
        if self._state != _CLOSED and not self._transport.is_closing():
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Deliver bytes again."""
        if self._state != _CLOSED and not self._transport.is_closing():
            self._transport.resume_reading()

    def is_closing(self) -> bool:
        """Whether the slot is gone."""
        return self._state != _LENT

    def get_write_buffer_size(self) -> int:
        """Bytes that the other process has not taken yet."""
        return self._transport.get_write_buffer_size()

    def close(self) -> None:
        """The worker's connection is to close in order, once it has what was written."""
        self._drop_soon(True)

    def abort(self) -> None:
        """The worker's connection is to close now."""
        self._drop_soon(False)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``truncated``: whether the worker ended TLS without close_notify."""
        return self._truncated if name == "truncated" else default

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Not of a lent slot: it is never switched."""
        raise NotImplementedError

    def _drop_soon(self, in_order: bool) -> None:
        if self._state != _CLOSED:
            self._state = _CLOSED
            # In a moment: the end tells its owner why, and that is to go with it.
            self._lines.process.loop.call_soon(self._drop, in_order)

    def _drop(self, in_order: bool) -> None:
        self._transport.write(frame(DROP, (b"\x01" if in_order else b"\x00") + self._detail.encode()))
        self._transport.close()

    # ---- the other process's side ----

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The line is up."""
        self._transport = cast("asyncio.Transport", transport)
        self._transport.set_write_buffer_limits(high=self._lines.process.generation.config.limits.buffer_bytes)
        self._transport.write(frame(HELLO, orjson.dumps({"index": self._lines.own_index, "kind": "line"})))

    def data_received(self, data: bytes) -> None:
        """Frames."""
        self._reader.deliver(data, self._take, self._transport.abort)

    def _take(self, kind: int, content: bytes) -> None:
        state = self._state
        if kind == DATA:
            if state == _LENT and self._end is not None:
                self._end.data_received(content)
        elif kind == OFFER:
            if state == _WANTING:
                self._offered(content.decode())
        elif kind == NONE:
            if state == _WANTING:
                want = self._want
                self._set_free()
                if want is not None:
                    want.refuse()
        elif kind == FREE:
            if state == _CANCELLING:
                self._set_free()
        elif kind == EOF:
            self._truncated = content == b"\x01"
            if state == _LENT and self._end is not None and not self._end.eof_received():
                self.abort()
        elif kind == GONE:
            if state == _LENT and self._end is not None and content:
                self._end.abort(Loss.CUT, content.decode())
            self._transport.close()
        else:
            raise MeshError(f"a frame of kind {kind} on a line")

    def _offered(self, worker: str) -> None:
        want = self._want
        self._want = None
        self._state = _LENT
        if want is None or want.is_over:
            self.cancel()
            return
        want.is_over = True
        self._lines.process.wheel.forget(want)
        self._lines.lent(self._pool, waited=want.wish.waits)
        want.taker.offered(want, self, worker)

    def connection_lost(self, exc: Exception | None) -> None:
        """The line is gone, and what was lent or wanted over it."""
        state, self._state = self._state, _CLOSED
        self._lines.lost(self)
        want, self._want = self._want, None
        if want is not None:
            want.refuse()
        if state in (_LENT, _CLOSED) and self._end is not None:
            self._end.connection_lost(exc)

    # An end keeps the line's state while nothing is lent: what a dispatch left in the line blocks the next one too.

    def pause_writing(self) -> None:
        """The other process, or the worker behind it, reads too slowly."""
        self._is_blocked = True
        if self._end is not None:
            self._end.pause_writing()

    def resume_writing(self) -> None:
        """It caught up."""
        self._is_blocked = False
        if self._end is not None:
            self._end.resume_writing()


class Lines:
    """The lines to one other process."""

    __slots__ = ("_adjust", "_dialling", "_idle", "_open", "_path", "index", "own_index", "process")

    def __init__(
        self, process: ProcessContext, *, index: int, own_index: int, path: str, adjust: Callable[[int, str, int], None]
    ) -> None:
        self.process = process
        self.index = index
        self.own_index = own_index
        self._path = path
        self._adjust = adjust
        self._idle: list[Line] = []
        self._open: set[Line] = set()
        self._dialling: set[asyncio.Task[None]] = set()

    def want(self, wish: Wish, taker: Taker) -> Want:
        """Ask for a slot; the taker is told later, never within this call."""
        want = Want(self, wish, taker)
        if not wish.waits:
            self.process.wheel.set(want, ANSWER_WITHIN)
        if self._idle:
            self._idle.pop().want(want)
        else:
            task = self.process.loop.create_task(self._dial(want))
            self._dialling.add(task)
            task.add_done_callback(self._dialling.discard)
        return want

    async def _dial(self, want: Want) -> None:
        line = Line(self)
        try:
            await self.process.loop.create_unix_connection(lambda: line, self._path)
        except OSError:
            want.refuse()
            return
        self._open.add(line)
        if want.is_over:
            self.free(line)
        else:
            line.want(want)

    def lent(self, pool: str, *, waited: bool) -> None:
        """A slot was offered: unless it was waited for, one free slot less there."""
        if not waited:
            self._adjust(self.index, pool, -1)

    def given_back(self, pool: str) -> None:
        """A slot went back."""
        self._adjust(self.index, pool, 1)

    def free(self, line: Line) -> None:
        """The line can be used again."""
        if len(self._idle) < MAX_IDLE:
            self._idle.append(line)
        else:
            line.break_off()

    def lost(self, line: Line) -> None:
        """The line is closed."""
        self._open.discard(line)
        if line in self._idle:
            self._idle.remove(line)

    def close(self) -> None:
        """End all lines."""
        for line in tuple(self._open):
            line.break_off()
