"""Slots of a hosted pool that are in other processes: whom to ask for one, and who gets it.

A request is served by a worker of this process when one is free. Else it is passed on at once to the process with most
free slots, which takes one of them or says that none is left. When no process has any as far as it told, or the request
is not one to be passed on so, the others are asked, those with most free slots first and all of them: a worker that has
just come is not in the news yet. When nobody has one and the request may wait,
it stands in the queue here and *wants* stand with the others: the first slot that comes free anywhere goes to whoever
waits longest here. An offered slot is reserved for a moment, and the request is passed on to the process that has it.

Trust: pure but for the connections that it is given.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from gateway.cluster.directory import News, PeerDirectory
from gateway.cluster.frames import Wish
from gateway.cluster.hop import HopEnd
from gateway.cluster.remote_process import RemoteProcess, Want
from gateway.exchange.exchange import Exchange
from gateway.pools.hosted import HostedPool
from gateway.pools.slots import Watcher

MAX_STANDING: Final = 8
"""Wants that stand with one process for requests that any worker may serve. Each is renewed as it is met."""


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
        if not_again is None and exchange.label is None and self._pass_on(exchange):
            return True
        if strict and exchange.label is not None:
            indexes = directory.labelled(self.name, exchange.label)
        else:
            indexes = directory.everyone(self.name, exchange.worker)
        if not indexes:
            return False
        search = self._searches[exchange] = _Search(self, exchange, indexes, not_again, strict)
        search.next()
        return True

    def _pass_on(self, exchange: Exchange) -> bool:
        """Pass the request on at once, to a process that has a free slot as far as it told; whether that was done.

        Not ahead of those who wait here, and not when it cannot be taken back: what it has to be for that, it knows.
        """
        if self._hosted.pool.queued or not exchange.may_be_passed():
            return False
        index = self._directory.freest(self.name, exchange.worker)
        remote = None if index is None else self.remotes.get(index)
        if remote is None:
            return False
        end = remote.hop_unreserved(exchange, self.name, self._hosted.addressees)
        if end is None:
            return False
        exchange.passed(end, self._hosted.authority, self._hosted.pool.queued.turn())
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
