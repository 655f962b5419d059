"""Slots of a hosted pool that are in other processes: whom to ask for one, and who gets it.

A request is served by a worker of this process when one is free; else the others are asked, those with most free slots
first and all of them: a worker that has just come is not in the news yet. When nobody has one and the request may wait,
it stands in the queue here and *wants* stand with the others: the first slot that comes free anywhere goes to whoever
waits longest here. An offered slot is reserved for a moment, and the request is passed on to the process that has it.

Trust: pure but for the connections that it is given.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Final, Protocol

from gateway.cluster.directory import News, PeerDirectory
from gateway.cluster.frames import CANCEL, WANT, Wish
from gateway.cluster.hop import HopEnd
from gateway.core.context import ProcessContext
from gateway.exchange.exchange import Exchange
from gateway.pools.hosted import HostedPool
from gateway.pools.slots import Watcher
from rhttp.http1.client import ClientEnd

MAX_STANDING: Final = 8
"""Wants that stand with one process for requests that any worker may serve. Each is renewed as it is met."""
MAX_IDLE: Final = 64
"""Connections without a request that are kept to each process."""
ANSWER_WITHIN: Final = 2.0
"""Seconds in which a process says whether it has a slot; one that does not is stopped, and soon ended."""


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
        limits = self._process.generation.limits
        end: HopEnd | None = None
        while self._idle and end is None:
            end = self._idle.pop()
            if end.closed:  # it is being told in this very turn
                end = None
        if end is None:
            end = HopEnd(self, limits, self._process.wheel)
            if not self._connect(end):
                want.decline()
                self.break_off()
                return None
            self._open.add(end)
        end.reserve(want.number, limits)
        end.pool = want.wish.pool
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
        self._adjust(end.pool, 1)
        self._keep(end)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """A connection is gone; a slot that was reserved for a request which never left goes back."""
        assert isinstance(end, HopEnd)
        self._open.discard(end)
        if end in self._idle:
            self._idle.remove(end)
        elif not end.has_sent:
            self.say(CANCEL, end.slot, b"")

    def connections(self) -> int:
        """How many there are."""
        return len(self._open)

    def close(self) -> None:
        """End all connections."""
        for end in tuple(self._open):
            end.abort()


class _Search:
    """One request that asks process after process, none of which lets it wait. It is the taker of its wants."""

    __slots__ = ("_exchange", "_indexes", "_not_again", "_pool", "_strict", "_want")

    def __init__(
        self, pool: RemotePool, exchange: Exchange, indexes: list[int], not_again: str | None, strict: bool
    ) -> None:
        self._pool = pool
        self._exchange = exchange
        self._indexes = indexes
        self._not_again = not_again
        self._strict = strict
        self._want: Want | None = None

    def next(self) -> None:
        """Ask the next process, or say that nobody has a slot."""
        exchange = self._exchange
        while self._indexes:
            remote = self._pool.remotes.get(self._indexes.pop(0))
            if remote is not None:
                self._want = remote.want(self._pool.wish(exchange, self._not_again, self._strict), self)
                return
        self._pool.searched(exchange, self._not_again, self._strict)

    def cancel(self) -> None:
        """It is over."""
        if self._want is not None:
            self._want.cancel()

    def offered(self, want: Want, worker: str) -> None:
        """Here is one."""
        end = want.remote.hop(want)
        if end is None:
            self.next()
        else:
            self._pool.found(self._exchange, end, worker)

    def refused(self, want: Want) -> None:
        """Not there."""
        self.next()


class RemotePool:
    """What one hosted pool has to do with its like in other processes; see `gateway.pools.remote_slots.RemoteSlots`."""

    def __init__(
        self, hosted: HostedPool, directory: PeerDirectory, remotes: Mapping[int, RemoteProcess], news: News
    ) -> None:
        self._hosted = hosted
        self._directory = directory
        self.remotes = remotes
        self.watcher: Watcher = news
        self.name = hosted.pool.name
        self._any = Wish(self.name)
        self._first = Wish(self.name, waits=True)
        """The first that comes free."""
        self._searches: dict[Exchange, _Search] = {}
        self._standing: dict[int, list[Want]] = {}
        self._named: dict[Exchange, list[Want]] = {}

    # ---- facts ----

    def waiting(self) -> int:
        """Requests of other processes that wait."""
        return self._directory.sums(self.name)[2]

    def slots(self) -> tuple[int, int]:
        """Slots in other processes, and how many of them are free."""
        total, free, _waiting = self._directory.sums(self.name)
        return total, free

    def processes_with(self, worker: str) -> int:
        """In how many other processes the worker has a connection."""
        return self._directory.count(self.name, worker)

    # ---- for one request ----

    def wish(self, exchange: Exchange, not_again: str | None, strict: bool) -> Wish:
        """What an exchange wants."""
        worker, label = exchange.worker, exchange.label
        if worker is None and label is None and not_again is None:
            return self._any
        return Wish(self.name, worker=worker, label=label, strict=strict, not_again=not_again)

    def search(self, exchange: Exchange, not_again: str | None, *, strict: bool = False) -> bool:
        """Ask the other processes for a slot; False when there is none to ask."""
        directory = self._directory
        if strict and exchange.label is not None:
            indexes = directory.labelled(self.name, exchange.label)
        else:
            indexes = directory.everyone(self.name, exchange.worker)
        if not indexes:
            return False
        search = self._searches[exchange] = _Search(self, exchange, indexes, not_again, strict)
        search.next()
        return True

    def found(self, exchange: Exchange, end: HopEnd, worker: str) -> None:
        """A search is over: pass the request on."""
        self._searches.pop(exchange, None)
        self._hosted.granted_remote(exchange, end, worker)

    def searched(self, exchange: Exchange, not_again: str | None, strict: bool) -> None:
        """Nobody has a slot now."""
        self._searches.pop(exchange, None)
        self._hosted.no_remote_slot(exchange, not_again, strict=strict)

    def forget(self, exchange: Exchange) -> None:
        """The request is over or gave up."""
        search = self._searches.pop(exchange, None)
        if search is not None:
            search.cancel()
        self.changed()

    # ---- for those that wait ----

    def changed(self) -> None:
        """The queue or what the others have is another now: as many wants as there are use for, and no more."""
        queue = self._hosted.pool.queued
        if not queue and not self._standing and not self._named:
            return
        directory = self._directory
        wanted = min(queue.own_any, MAX_STANDING)
        with_slots = directory.places(self.name) if wanted else ()
        for index in self.remotes:
            self._set(index, wanted if index in with_slots else 0)
        for exchange in [other for other in self._named if other not in queue]:
            for want in self._named.pop(exchange):
                want.cancel()
        for waiter in queue.own_named():
            if isinstance(waiter, Exchange) and waiter not in self._named:
                indexes = directory.places(self.name, waiter.worker)
                if indexes:
                    wish = Wish(self.name, worker=waiter.worker, waits=True)
                    self._named[waiter] = [self.remotes[index].want(wish, self) for index in indexes]

    def _set(self, index: int, wanted: int) -> None:
        wants = [want for want in self._standing.get(index, ()) if not want.is_over]
        while len(wants) > wanted:
            wants.pop().cancel()
        while len(wants) < wanted:
            wants.append(self.remotes[index].want(self._first, self))
        if wants:
            self._standing[index] = wants
        else:
            self._standing.pop(index, None)

    def offered(self, want: Want, worker: str) -> None:
        """A slot came free in another process: it goes to whoever waits longest and may use it."""
        end = want.remote.hop(want)
        if end is not None:
            waiter = self._hosted.pool.next_waiter(worker, own=True)
            if isinstance(waiter, Exchange):
                self._hosted.granted_remote(waiter, end, worker)
            else:
                want.remote.unused(end)
        self.changed()

    def refused(self, want: Want) -> None:
        """It lets nobody wait: the pool is gone there, or the process. Its next news is another occasion."""
        for exchange in [other for other, wants in self._named.items() if all(want.is_over for want in wants)]:
            del self._named[exchange]
