"""Slots of a hosted pool that are in other processes: whom to ask for one, and who gets it.

A request is served by a worker of this process when one is free; else the others are asked, those with most free slots
first and all of them: a worker that has just come is not in the news yet. When nobody has one and the request may wait,
it stands in the queue here and *wants* stand with the others: the first slot that comes free anywhere goes to whoever
waits longest here.

Trust: pure but for the lines that it is given.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from gateway.cluster.frames import Wish
from gateway.cluster.lines import Line, Want
from gateway.exchange.exchange import Exchange
from rhttp.http1.client import ClientEnd

if TYPE_CHECKING:
    from gateway.cluster.peers import Mesh
    from gateway.pools.hosted import HostedPool

MAX_STANDING: Final = 8
"""Wants that stand with one process for requests that any worker may serve. Each is renewed as it is met."""


class _Search:
    """One request that asks process after process, none of which lets it wait. It is the taker of its wants."""

    __slots__ = ("_borrower", "_exchange", "_not_again", "_places", "_strict", "_want")

    def __init__(
        self, borrower: Borrower, exchange: Exchange, places: list[int], not_again: str | None, strict: bool
    ) -> None:
        self._borrower = borrower
        self._exchange = exchange
        self._places = places
        self._not_again = not_again
        self._strict = strict
        self._want: Want | None = None

    def next(self) -> None:
        exchange = self._exchange
        while self._places:
            lines = self._borrower.mesh.lines.get(self._places.pop(0))
            if lines is not None:
                wish = Wish(
                    self._borrower.name,
                    worker=exchange.worker,
                    label=exchange.label,
                    strict=self._strict,
                    not_again=self._not_again,
                )
                self._want = lines.want(wish, self)
                return
        self._borrower.searched(exchange, self._not_again, self._strict)

    def cancel(self) -> None:
        if self._want is not None:
            self._want.cancel()

    def offered(self, want: Want, line: Line, worker: str) -> None:
        self._borrower.found(self._exchange)
        self._borrower.grant(self._exchange, line, worker)

    def refused(self, want: Want) -> None:
        self.next()


class Borrower:
    """What one hosted pool has to do with its like in other processes; the owner of the client ends of lent slots."""

    def __init__(self, hosted: HostedPool, mesh: Mesh) -> None:
        self._hosted = hosted
        self.mesh = mesh
        self.name = hosted.pool.name
        self._searches: dict[Exchange, _Search] = {}
        self._standing: dict[int, list[Want]] = {}
        self._named: dict[Exchange, list[Want]] = {}

    # ---- facts ----

    def waiting_elsewhere(self) -> int:
        """Requests of other processes that wait."""
        return self.mesh.elsewhere.sums(self.name)[2]

    def slots_elsewhere(self) -> tuple[int, int]:
        """Slots in other processes, and how many of them are free."""
        total, free, _waiting = self.mesh.elsewhere.sums(self.name)
        return total, free

    def processes_with(self, worker: str) -> int:
        """In how many other processes the worker has a connection."""
        return self.mesh.elsewhere.count(self.name, worker)

    # ---- for one request ----

    def search(self, exchange: Exchange, not_again: str | None, *, strict: bool = False) -> bool:
        """Ask the other processes for a slot; False when there is none to ask.

        ``strict``: only a worker with the label. `HostedPool.not_elsewhere` follows when nobody had one.
        """
        elsewhere = self.mesh.elsewhere
        if strict and exchange.label is not None:
            places = elsewhere.labelled(self.name, exchange.label)
        else:
            places = elsewhere.everyone(self.name, exchange.worker)
        if not places:
            return False
        search = self._searches[exchange] = _Search(self, exchange, places, not_again, strict)
        search.next()
        return True

    def found(self, exchange: Exchange) -> None:
        """A search is over."""
        self._searches.pop(exchange, None)

    def searched(self, exchange: Exchange, not_again: str | None, strict: bool) -> None:
        """Nobody has a slot now."""
        self.found(exchange)
        self._hosted.not_elsewhere(exchange, not_again, strict=strict)

    def forget(self, exchange: Exchange) -> None:
        """The request is over or gave up."""
        search = self._searches.pop(exchange, None)
        if search is not None:
            search.cancel()
        self.changed()

    def grant(self, exchange: Exchange, line: Line, worker: str) -> None:
        """Send the request over the line to the worker."""
        self._hosted.grant_lent(exchange, line.lend(self), worker)

    # ---- for those that wait ----

    def changed(self) -> None:
        """The queue or what the others have is another now: as many wants as there are use for, and no more."""
        line = self._hosted.pool.line
        if not line and not self._standing and not self._named:
            return
        elsewhere = self.mesh.elsewhere
        wanted = min(line.own_any, MAX_STANDING)
        with_slots = elsewhere.places(self.name) if wanted else ()
        for index in self.mesh.lines:
            self._set(index, wanted if index in with_slots else 0)
        for exchange in [other for other in self._named if not other.waiting]:
            self._cancel(self._named.pop(exchange))
        for waiter in line.own_named():
            if isinstance(waiter, Exchange) and waiter not in self._named:
                places = elsewhere.places(self.name, waiter.worker)
                if places:
                    wish = Wish(self.name, worker=waiter.worker, waits=True)
                    self._named[waiter] = [self.mesh.lines[index].want(wish, self) for index in places]

    def _set(self, index: int, wanted: int) -> None:
        wants = [want for want in self._standing.get(index, ()) if not want.is_over]
        while len(wants) > wanted:
            wants.pop().cancel()
        while len(wants) < wanted:
            wants.append(self.mesh.lines[index].want(Wish(self.name, waits=True), self))
        if wants:
            self._standing[index] = wants
        else:
            self._standing.pop(index, None)

    @staticmethod
    def _cancel(wants: Iterable[Want]) -> None:
        for want in wants:
            want.cancel()

    def offered(self, want: Want, line: Line, worker: str) -> None:
        """A slot came free in another process: it goes to whoever waits longest and may use it."""
        waiter = self._hosted.pool.next_waiter(worker, own=True)
        if isinstance(waiter, Exchange):
            self.grant(waiter, line, worker)
        else:
            line.cancel()
        self.changed()

    def refused(self, want: Want) -> None:
        """It lets nobody wait: the pool is gone there, or the process. Its next news is another occasion."""
        for exchange in [other for other, wants in self._named.items() if all(want.is_over for want in wants)]:
            del self._named[exchange]

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """An answer is complete: the slot goes back to where it is."""
        line = end.tag
        assert isinstance(line, Line)
        line.release()

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """The worker's connection is of no further use."""
        line = end.tag
        assert isinstance(line, Line)
        line.because(detail)
