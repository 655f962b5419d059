"""Server-sent events of a pool (WHATWG HTML, section 9.2): ``worker-joined``, ``worker-left``, ``slots``.

Slots change thousands of times a second in a busy pool, so ``slots`` tells the present sum a few times a second; joins
and leaves are all told. A reader that is too slow is cut, never waited for.

Trust: meets untrusted clients as readers.
"""

from __future__ import annotations

import asyncio
from typing import Final

import orjson

from gateway.admission.request_record import RequestRecord
from gateway.core.context import ProcessContext
from gateway.pools.hosted import HostedPool
from gateway.pools.slots import PoolEvent
from rhttp.ends import RequestEnd
from rhttp.message import OPEN, FieldBlock, Fields

_PACE: Final = 0.1
"""Seconds between two batches."""
_HEARTBEAT: Final = 15.0
_FIELDS: Final = FieldBlock(((b"Content-Type", b"text/event-stream"), (b"Cache-Control", b"no-store")))


class EventStream:
    """One reader of one pool. It is the request sink of its server end."""

    __slots__ = (
        "_end",
        "_hosted",
        "_pool",
        "_process",
        "_queue",
        "_slots_changed",
        "_timer",
        "bucket",
        "deadline",
        "record",
    )

    def __init__(self, process: ProcessContext, end: RequestEnd, record: RequestRecord, hosted: HostedPool) -> None:
        self._process = process
        self.record = record
        """The request that it answers: a reload asks again whether it may."""
        self._end = end
        self._hosted = hosted
        self._pool = hosted.pool
        self._queue: list[bytes] = []
        self._slots_changed = False
        self._timer: asyncio.TimerHandle | None = None
        self.deadline = 0.0
        self.bucket = 0.0
        process.streams.add(self)
        end.sink = self
        end.head(200, (_FIELDS, process.date, record.id_block), OPEN)
        end.content(self._slots())
        end.flush()
        self._pool.listeners.add(self._happened)
        process.wheel.set(self, _HEARTBEAT)

    @property
    def pool_name(self) -> str:
        """The pool that it tells about."""
        return self._pool.name

    def _slots(self) -> bytes:
        total, free = self._hosted.sums()
        data = orjson.dumps({"pool": self._pool.name, "total": total, "free": free})
        return b"event: slots\ndata: %b\n\n" % data

    def _happened(self, event: PoolEvent) -> None:
        if event.kind == "slots":
            self._slots_changed = True
        else:
            total, free = self._hosted.sums()
            data = orjson.dumps({"pool": self._pool.name, "worker": event.worker, "total": total, "free": free})
            self._queue.append(b"event: %b\ndata: %b\n\n" % (event.kind.encode("ascii"), data))
            self._slots_changed = True
            if len(self._queue) > self._process.generation.config.limits.event_queue:
                self._end.abort()
                return
        if self._timer is None:
            self._timer = self._process.loop.call_later(_PACE, self._send)

    def _send(self) -> None:
        self._timer = None
        if self._end.blocked:
            self._timer = self._process.loop.call_later(_PACE, self._send)
            return
        for event in self._queue:
            self._end.content(event)
        self._queue.clear()
        if self._slots_changed:
            self._slots_changed = False
            self._end.content(self._slots())
        self._end.flush()
        self._process.wheel.set(self, _HEARTBEAT)

    def deadline_passed(self) -> None:
        """Nothing happened for a while: a comment, so that a dead reader is noticed."""
        if not self._end.blocked:
            self._end.content(b":\n\n")
            self._end.flush()
        self._process.wheel.set(self, _HEARTBEAT)

    def close(self) -> None:
        """End the stream in order."""
        if self._forget():
            self._end.end([])

    def _forget(self) -> bool:
        if self._happened not in self._pool.listeners:
            return False
        self._pool.listeners.discard(self._happened)
        self._process.streams.discard(self)
        self._process.wheel.forget(self)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        return True

    # ---- RequestSink ----

    def request_content(self, data: bytes) -> None:
        """A reader has nothing to say."""

    def request_flush(self) -> None:
        """Nothing is kept back."""

    def request_end(self, trailers: Fields) -> None:
        """A reader has nothing to say."""

    def request_abort(self, detail: str) -> None:
        """The reader is gone."""
        self._forget()

    def request_half_closed(self) -> None:
        """Most likely the reader is gone, and nobody would notice for two heartbeats: its place is for another."""
        self.close()

    def response_blocked(self) -> None:
        """Events wait in the queue, which is bounded."""

    def response_unblocked(self) -> None:
        """The next batch goes out."""
