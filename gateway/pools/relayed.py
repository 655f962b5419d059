"""A relayed connection: a worker's link joined to a master's, bytes passing both ways with back-pressure.

Trust: meets untrusted workers and masters; it reads nothing of what passes.
"""

from __future__ import annotations

import asyncio
from typing import Protocol

from auth.policy import Context
from gateway.core.peer import Peer
from rhttp.ends import Link


class RelayedOwner(Protocol):
    """Keeps relayed connections: a pool."""

    @property
    def name(self) -> str:
        """Its name."""

    def record_cut(self, relayed: Relayed, reason: str, /) -> None:
        """Audit that we ended it."""

    def limit_half(self, relayed: Relayed, /) -> None:
        """Give a half-closed connection a time to end in."""

    def forget(self, relayed: Relayed, /) -> bool:
        """Take a connection off the books; False when it was off already."""


class _Side(asyncio.Protocol):
    """One side of a relayed connection: bytes go to the other side, with back-pressure."""

    __slots__ = ("_relayed", "is_blocked", "link", "other")

    def __init__(self, relayed: Relayed, link: Link, other: Link) -> None:
        self._relayed = relayed
        self.link = link
        self.other = other
        self.is_blocked = False

    def data_received(self, data: bytes) -> None:
        """Bytes pass."""
        self.other.write(data)

    def eof_received(self) -> bool:
        """No more comes from this side; the other may still send."""
        return self._relayed.half_closed(self)

    def pause_writing(self) -> None:
        """This side reads too slowly: stop the other."""
        self.is_blocked = True
        self.other.pause_reading()

    def resume_writing(self) -> None:
        """This side caught up."""
        self.is_blocked = False
        self.other.resume_reading()

    def connection_lost(self, exc: Exception | None) -> None:
        """This side is gone, and with it the other."""
        self._relayed.lost()


class Relayed:
    """A worker's connection joined to a master's. Registered, so that it can be cut."""

    __slots__ = (
        "_half",
        "_owner",
        "_sides",
        "asked",
        "bucket",
        "deadline",
        "ended",
        "opened",
        "peer",
        "protocol",
        "request_id",
    )

    def __init__(
        self,
        owner: RelayedOwner,
        peer: Peer,
        protocol: str,
        request_id: str,
        opened: float,
        asked: Context,
        worker: Link,
        master: Link,
    ) -> None:
        self._owner = owner
        self.peer = peer
        self.protocol = protocol
        self.request_id = request_id
        self.opened = opened
        """In seconds of `rhttp.clock`."""
        self.asked = asked
        """The circumstances under which it was admitted; a reload asks again."""
        self.ended: str | None = None
        """Why, when we ended it."""
        self._half: _Side | None = None
        self.deadline = 0.0
        self.bucket = 0.0
        self._sides = (_Side(self, worker, master), _Side(self, master, worker))

    def join(self, surplus: bytes) -> None:
        """Let bytes pass; ``surplus`` came glued behind the master's 101."""
        for side in self._sides:
            side.link.set_protocol(side)
        for side in self._sides:
            if side.is_blocked:  # it said so before the other was ours to stop
                side.other.pause_reading()
        worker = self._sides[0].link
        if surplus and not worker.is_closing():
            worker.write(surplus)

    def half_closed(self, side: _Side) -> bool:
        """One side sent its last byte; when both did, the connection is over."""
        if self._half is None:
            self._half = side
            side.other.write_eof()
            self._owner.limit_half(self)
            return True
        self.lost()
        return False

    def lost(self) -> None:
        """Either side is gone."""
        if self._owner.forget(self):
            for side in self._sides:
                side.link.close()

    @property
    def pool_name(self) -> str:
        """The pool that it serves."""
        return self._owner.name

    def drain(self, reason: str) -> None:
        """Close both sides now: only the master knows whether it is idle."""
        self.disconnect(reason)

    def deadline_passed(self) -> None:
        """Half of a connection is of no use in either role for long."""
        self.ended = "half closed"
        self.lost()

    def disconnect(self, reason: str) -> None:
        """Close both sides now."""
        self._owner.record_cut(self, reason)
        self.abort(reason)

    def abort(self, reason: str) -> None:
        """Close both sides now, for a reason that the log of its end will give."""
        self.ended = reason
        if self._owner.forget(self):
            for side in self._sides:
                side.link.abort()
