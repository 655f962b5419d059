"""The lending side of a line: another process of this gateway uses the slot of a worker that is connected here.

Bytes pass in both directions unread. The worker's connection stays in this process's registry, so that it is cut here
when its certificate, user or permission ends; the process that borrowed it decides about the exchange.

Trust: meets bytes of untrusted workers; the other end is a process of this gateway.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from gateway.cluster.frames import (
    CANCEL,
    DATA,
    DROP,
    EOF,
    FREE,
    GONE,
    NONE,
    OFFER,
    RELEASE,
    WANT,
    FrameReader,
    MeshError,
    Wish,
    frame,
)
from gateway.pools.least_busy import Label, Slot
from rhttp.errors import Loss

if TYPE_CHECKING:
    from gateway.core.context import ProcessContext
    from gateway.pools.hosted import HostedPool, ReversedConnection


class Lender(asyncio.Protocol):
    """One line of another process; while it waits, a waiter of the pool."""

    __slots__ = (
        "_connection",
        "_hosted",
        "_process",
        "_reader",
        "_side",
        "_transport",
        "is_ours",
        "label",
        "waiting",
        "worker",
    )

    def __init__(self, process: ProcessContext, transport: asyncio.Transport, reader: FrameReader) -> None:
        self._process = process
        self._transport = transport
        self._reader = reader
        self._connection: ReversedConnection | None = None
        self._hosted: HostedPool | None = None
        self._side = _WorkerSide(self)
        self.worker: str | None = None
        self.label: Label | None = None
        self.waiting = False
        self.is_ours = False
        transport.set_write_buffer_limits(high=process.generation.config.limits.buffer_bytes)

    # ---- Waiter ----

    def offered(self, slot: Slot) -> None:
        """The wait is over."""
        if not self._lend(slot):
            self._say(NONE)

    # ---- the other process's side ----

    def data_received(self, data: bytes) -> None:
        """Frames."""
        self._reader.deliver(data, self.take, self._transport.abort)

    def take(self, kind: int, content: bytes) -> None:
        """One frame.

        Raises:
            MeshError: not one that belongs on a line.
        """
        connection = self._connection
        if kind == DATA:
            if connection is not None:
                connection.end.link.write(content)
        elif kind == WANT:
            if connection is not None or self.waiting:
                raise MeshError("a second wish on one line")
            self._wanted(Wish.from_bytes(content))
        elif kind == RELEASE:
            if connection is not None:
                connection.end.answered += 1
                self._give_back(connection)
        elif kind == CANCEL:
            self._stop_waiting()
            if connection is not None:
                self._give_back(connection)
            self._say(FREE)
        elif kind == DROP:
            if connection is not None:
                self._end(connection, content[1:].decode() or "aborted", in_order=content[:1] == b"\x01")
        else:
            raise MeshError(f"a frame of kind {kind} on a line")

    def _wanted(self, wish: Wish) -> None:
        process = self._process
        found = cast("Any", process.generation).pools.get(wish.pool)
        if found is None or found.mode != "hosted" or process.draining:
            self._say(NONE)
            return
        hosted = self._hosted = cast("HostedPool", found)
        self.worker = wish.worker
        self.label = wish.label
        while True:
            slot = hosted.pool.lease(worker=wish.worker, label=wish.label, not_again=wish.not_again, strict=wish.strict)
            if slot is None:
                break
            if self._lend(slot):
                return
        if not wish.waits or not hosted.pool.wait(self):
            self._say(NONE)

    def _lend(self, slot: Slot) -> bool:
        """Lend a leased slot; False when its connection has just ended."""
        connection = cast("ReversedConnection", slot.link)
        if connection.end.closed:
            connection.end.abort(Loss.NOT_SENT, "closed")
            return False
        self._connection = connection
        connection.lender = self
        self._process.exchanges += 1
        self._say(OFFER, slot.worker.name.encode("ascii"))
        connection.end.link.set_protocol(self._side)
        return True

    def _take_back(self, connection: ReversedConnection) -> None:
        self._connection = None
        connection.lender = None
        self._process.exchange_over()
        connection.end.link.set_protocol(connection.end)

    def _give_back(self, connection: ReversedConnection) -> None:
        """It is free again, unless the worker ended it meanwhile."""
        self._take_back(connection)
        if not connection.end.closed:
            connection.owner.client_idle(connection.end)

    def _end(self, connection: ReversedConnection, detail: str, *, in_order: bool) -> None:
        """The worker's connection is of no further use."""
        connection.ended = connection.ended or detail
        self._take_back(connection)
        if in_order:
            connection.end.close()
        else:
            connection.end.abort(Loss.ABORTED, detail)

    def _stop_waiting(self) -> None:
        if self.waiting and self._hosted is not None:
            self._hosted.pool.give_up(self)

    def _say(self, kind: int, content: bytes = b"") -> None:
        self._transport.write(frame(kind, content))

    def refuse(self) -> None:
        """The pool closes: it will not come to anything."""
        self._say(NONE)

    def connection_lost(self, exc: Exception | None) -> None:
        """The other process is gone or broke off: where the worker's exchange stands, nobody knows any more."""
        self._stop_waiting()
        connection = self._connection
        if connection is not None:
            self._end(connection, "the process that used it ended", in_order=False)

    def pause_writing(self) -> None:
        """The other process reads too slowly."""
        if self._connection is not None:
            self._connection.end.link.pause_reading()

    def resume_writing(self) -> None:
        """It caught up."""
        if self._connection is not None:
            self._connection.end.link.resume_reading()

    # ---- the worker's side ----

    def worker_data(self, data: bytes) -> None:
        """Bytes of the worker."""
        self._say(DATA, data)

    def worker_eof(self) -> None:
        """The worker sent its last byte."""
        if self._connection is not None:
            truncated = self._connection.end.link.get_extra_info("truncated")
            self._say(EOF, b"\x01" if truncated else b"\x00")

    def worker_lost(self, exc: Exception | None) -> None:
        """The worker's link is gone."""
        connection = self._connection
        if connection is not None:
            self.worker_gone("")
            connection.end.connection_lost(exc)

    def worker_gone(self, reason: str) -> None:
        """The worker's connection was ended, by us when there is a reason; it is no longer lent."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.lender = None
            self._process.exchange_over()
            self._say(GONE, reason.encode())
            self._transport.close()

    def worker_blocked(self, is_blocked: bool) -> None:
        """The worker reads too slowly, or caught up."""
        if self._transport.is_closing():
            return
        if is_blocked:
            self._transport.pause_reading()
        else:
            self._transport.resume_reading()


class _WorkerSide(asyncio.Protocol):
    """The owner of a worker's link while it is lent."""

    __slots__ = ("_lender",)

    def __init__(self, lender: Lender) -> None:
        self._lender = lender

    def data_received(self, data: bytes) -> None:
        self._lender.worker_data(data)

    def eof_received(self) -> bool:
        self._lender.worker_eof()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        self._lender.worker_lost(exc)

    def pause_writing(self) -> None:
        self._lender.worker_blocked(True)

    def resume_writing(self) -> None:
        self._lender.worker_blocked(False)
