"""One other process of this gateway: the slots that are wanted of it, and the connections for requests passed on to it.

Trust: pure but for the connections that it is given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

from gateway.cluster.frames import CANCEL, WANT, Wish
from gateway.cluster.hop import HopEnd
from gateway.core.context import ProcessContext
from gateway.exchange.ends import Addressees
from gateway.exchange.exchange import Exchange
from rhttp.http1.client import ClientEnd

MAX_IDLE: Final = 64
"""Connections without a request that are kept to each process."""
ANSWER_WITHIN: Final = 2.0
"""Seconds in which a process says whether it has a slot; one that does not is stopped, and soon ended."""

_NONE_LEFT: Final = -1_000_000_000
"""A request without a reservation got no slot: none is free, until the process says otherwise."""


class Taker(Protocol):
    """Who wants a slot of another process."""

    def offered(self, want: Want, worker: str, /) -> None:
        """Here is one: `RemoteProcess.hop` or `Want.decline`."""

    def refused(self, want: Want, /) -> None:
        """There is none, or nobody to ask any more."""


class Want:
    """One slot wanted of one process."""

    __slots__ = ("bucket", "deadline", "is_over", "number", "remote", "taker", "wish")

    def __init__(self, remote: RemoteProcess, number: int, wish: Wish, taker: Taker) -> None:
        self.remote = remote
        self.number = number
        self.wish = wish
        self.taker = taker
        self.is_over = False
        """Answered or cancelled: the taker hears nothing more."""
        self.deadline = 0.0
        self.bucket = 0.0

    def cancel(self) -> None:
        """It is wanted no more."""
        if not self.is_over:
            self.remote.over(self)
            self.decline()

    def decline(self) -> None:
        """The slot that was offered, or is on its way, is of no use."""
        self.remote.say(CANCEL, self.number, b"")

    def refuse(self) -> None:
        """Tell the taker that there is none."""
        if not self.is_over:
            self.remote.over(self)
            self.taker.refused(self)

    def deadline_passed(self) -> None:
        """No answer: take it for a refusal."""
        if not self.is_over:
            self.decline()
            self.refuse()


class RemoteProcess:
    """What this process wants of one other, and its connections for requests that are passed on to it."""

    __slots__ = ("_adjust", "_connect", "_idle", "_is_up", "_number", "_open", "_process", "_wants", "break_off", "say")

    def __init__(
        self,
        process: ProcessContext,
        *,
        say: Callable[[int, int, bytes], None],
        connect: Callable[[HopEnd], bool],
        break_off: Callable[[], None],
        adjust: Callable[[str, int], None],
    ) -> None:
        """
        Args:
            process: ours.
            say: sends it a message (kind, number, content), while it is there.
            connect: gives an end a connection to it; False: there is none to be had.
            break_off: ends all talk with it, to begin anew.
            adjust: notes that its pool has so many more free slots.
        """
        self._process = process
        self.say = say
        self._connect = connect
        self.break_off = break_off
        self._adjust = adjust
        self._number = 0
        self._is_up = False
        self._wants: dict[int, Want] = {}
        self._idle: list[HopEnd] = []
        self._open: set[HopEnd] = set()

    # ---- wants ----

    def want(self, wish: Wish, taker: Taker) -> Want:
        """Ask for a slot; the taker is told later, never within this call."""
        self._number = self._number % 0xFFFFFFFF + 1
        want = Want(self, self._number, wish, taker)
        if not self._is_up:
            self._process.loop.call_soon(want.refuse)
            return want
        self._wants[want.number] = want
        if not wish.waits:
            self._process.wheel.set(want, ANSWER_WITHIN)
        self.say(WANT, want.number, wish.to_bytes())
        return want

    def over(self, want: Want) -> None:
        """It was answered, or is wanted no more."""
        want.is_over = True
        self._process.wheel.forget(want)
        self._wants.pop(want.number, None)

    def offered(self, number: int, worker: str) -> None:
        """A slot is reserved for us; when it is wanted no more, the process was told."""
        want = self._wants.get(number)
        if want is not None:
            self.over(want)
            if not want.wish.waits:
                self._adjust(want.wish.pool, -1)
            want.taker.offered(want, worker)

    def refused(self, number: int) -> None:
        """It has none."""
        want = self._wants.get(number)
        if want is not None:
            want.refuse()

    def joined(self) -> None:
        """It is there."""
        self._is_up = True

    def lost(self) -> None:
        """It is gone: it grants nothing more. Requests that it has been passed end with their connections."""
        self._is_up = False
        for want in tuple(self._wants.values()):
            want.refuse()

    # ---- connections for requests ----

    def hop(self, want: Want) -> HopEnd | None:
        """The client end for the slot that was offered; None: it cannot be reached, and what it offered is declined."""
        end = self._idle_end()
        if end is None:
            want.decline()
            self.break_off()
            return None
        end.reserve(want.number, self._process.generation.limits)
        end.pool = want.wish.pool
        return end

    def hop_unreserved(self, exchange: Exchange, pool: str, addressees: Addressees) -> HopEnd | None:
        """The client end for a request that takes any free slot of the pool; None: the process cannot be reached."""
        end = self._idle_end() if self._is_up else None
        if end is not None:
            self._adjust(pool, -1)
            end.pass_unreserved(exchange, addressees, self._process.generation.limits)
            end.pool = pool
        return end

    def _idle_end(self) -> HopEnd | None:
        """One that has no request, kept or made."""
        while self._idle:
            end = self._idle.pop()
            if not end.closed:  # else it is being told in this very turn
                return end
        end = HopEnd(self, self._process.generation.limits, self._process.wheel)
        if not self._connect(end):
            return None
        self._open.add(end)
        return end

    def unused(self, end: HopEnd) -> None:
        """Nobody has a use for the slot that the end was reserved for."""
        self.say(CANCEL, end.slot, b"")
        self._keep(end)

    def _keep(self, end: HopEnd) -> None:
        if len(self._idle) < MAX_IDLE:
            self._idle.append(end)
        else:
            end.close()

    def client_idle(self, end: ClientEnd) -> None:
        """An answer is complete: the slot is free where it is, and the connection for the next request."""
        assert isinstance(end, HopEnd)
        self._adjust(end.pool, _NONE_LEFT if end.was_refused else 1)
        self._keep(end)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """A connection is gone; a slot that was reserved for a request which never left goes back."""
        assert isinstance(end, HopEnd)
        self._open.discard(end)
        if end in self._idle:
            self._idle.remove(end)
        elif end.slot and not end.has_sent:
            self.say(CANCEL, end.slot, b"")

    def connections(self) -> int:
        """How many there are."""
        return len(self._open)

    def close(self) -> None:
        """End all connections."""
        for end in tuple(self._open):
            end.abort()
