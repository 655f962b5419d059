"""Slots that are reserved here for requests of another process, and the requests that come, for them or for any slot.

A reservation is bounded: it ends with the connection of the process that asked for it, when that cancels it, or when no
request came in time. The worker's connection stays in this process's registry and in its pool, and is cut here when its
certificate, user or permission ends.

Trust: the other end is a process of this gateway. What workers send is met by `gateway.cluster.hop`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from gateway.cluster.frames import NONE, OFFER, MeshError, Wish
from gateway.cluster.hop import PassedEnd
from gateway.core.context import ProcessContext
from gateway.exchange.passed import PassedRequest, Unreserved, refuse_passed
from gateway.pools.hosted import HostedPool
from gateway.pools.least_busy import Label, Slot
from rhttp.errors import Loss
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead

RESERVED_FOR: Final = 5.0
"""Seconds for which a slot waits for its request."""
MAX_RESERVATIONS: Final = 65536
"""Slots that one process may want at a time; its queues hold fewer requests."""


class Reservation:
    """A slot that another process wants, and then has for a moment; while it waits, a waiter of the pool."""

    __slots__ = ("_hosted", "_table", "bucket", "deadline", "is_ours", "label", "number", "slot", "worker")

    def __init__(self, table: Reservations, number: int, hosted: HostedPool, wish: Wish) -> None:
        self._table = table
        self._hosted = hosted
        self.number = number
        self.slot: Slot | None = None
        self.worker = wish.worker
        self.label: Label | None = wish.label
        self.is_ours = False
        self.deadline = 0.0
        self.bucket = 0.0

    def offered(self, slot: Slot) -> None:
        """The wait is over."""
        if not self.hold(slot):
            self._table.refused(self)

    def hold(self, slot: Slot) -> bool:
        """Keep a leased slot for the request that is to come; False when its connection has just ended."""
        if not self.is_usable(slot):
            return False
        self.slot = slot
        self._table.reserved(self, slot.worker.name)
        return True

    def is_usable(self, slot: Slot) -> bool:
        """Whether a request can be sent down a slot of its pool."""
        return self._hosted.is_usable(slot)

    def pool_closed(self) -> None:
        """It will not come to anything."""
        self._table.refused(self)

    def stop_waiting(self) -> None:
        """Nobody wants it any more."""
        self._hosted.pool.give_up(self)

    def give_back(self) -> None:
        """No request came for the slot."""
        slot, self.slot = self.slot, None
        if slot is not None:
            self._hosted.give_back(slot)

    def deadline_passed(self) -> None:
        """The other process took too long."""
        self._table.cancel(self.number)


class Reservations:
    """What one other process wants of this one, by the numbers that it gave; they end with its connection."""

    __slots__ = ("_by_number", "_generation", "_hosted", "_known", "_process", "_say")

    def __init__(
        self,
        process: ProcessContext,
        hosted: Callable[[str], HostedPool | None],
        say: Callable[[int, int, bytes], None],
    ) -> None:
        """``hosted`` finds a pool by its name; ``say`` sends a message: kind, number, content."""
        self._process = process
        self._hosted = hosted
        self._say = say
        self._by_number: dict[int, Reservation] = {}
        self._known: dict[str, HostedPool] = {}
        self._generation = 0
        """The number of that whose pools are known."""

    def __len__(self) -> int:
        return len(self._by_number)

    def want(self, number: int, wish: Wish) -> None:
        """A slot is wanted: offer one, let it wait, or say that there is none.

        Raises:
            MeshError: the number is in use, or there are too many.
        """
        if number in self._by_number or len(self._by_number) >= MAX_RESERVATIONS:
            raise MeshError("a wish under a number that is in use, or one too many")
        hosted = self._pool(wish.pool)
        if hosted is None:
            self._say(NONE, number, b"")
            return
        one = self._by_number[number] = Reservation(self, number, hosted, wish)
        pool = hosted.pool
        while True:
            slot = pool.lease(worker=wish.worker, label=wish.label, not_again=wish.not_again, strict=wish.strict)
            if slot is None:
                break
            if one.hold(slot):
                return
        if not wish.waits or not pool.wait(one):
            self.refused(one)

    def _pool(self, name: str) -> HostedPool | None:
        process = self._process
        if process.draining:
            return None
        number = process.generation.number
        if number != self._generation:
            self._generation = number
            self._known = {}
        pool = self._known.get(name)
        if pool is None:
            pool = self._hosted(name)
            if pool is not None:
                self._known[name] = pool
        return pool

    def lease(self, wanted: Unreserved) -> Slot | None:
        """A free slot for a request that is here without a reservation; None: there is none, or it may not be sent.

        No waiting request is overtaken: a slot is free when nobody waits who may use it.
        """
        hosted = self._pool(wanted.pool) if self._process.may_send() else None
        slot = None
        while hosted is not None:
            slot = hosted.pool.lease(worker=wanted.worker)
            if slot is None or hosted.is_usable(slot):
                break
        return slot

    def reserved(self, one: Reservation, worker: str) -> None:
        """A slot is kept: tell, and wait for its request."""
        self._process.exchanges += 1
        self._process.wheel.set(one, RESERVED_FOR)
        self._say(OFFER, one.number, worker.encode("ascii"))

    def refused(self, one: Reservation) -> None:
        """There is none."""
        self._by_number.pop(one.number, None)
        self._say(NONE, one.number, b"")

    def cancel(self, number: int) -> None:
        """It is wanted no more; nothing happens when its request came before."""
        one = self._by_number.pop(number, None)
        if one is not None:
            one.stop_waiting()
            if one.slot is not None:
                self._end(one)
                one.give_back()

    def take(self, number: int) -> Reservation | None:
        """Its request is here, and has its slot from now on; None when it waited too long."""
        one = self._by_number.get(number)
        if one is None or one.slot is None:
            return None
        del self._by_number[number]
        self._end(one)
        return one

    def close(self) -> None:
        """The other process is gone."""
        for number in tuple(self._by_number):
            self.cancel(number)

    def _end(self, one: Reservation) -> None:
        self._process.wheel.forget(one)
        self._process.exchange_over()


class PassedConnection:
    """A connection over which another process passes requests on, one at a time: the owner of its server end."""

    __slots__ = ("_closed", "_process", "_reservations", "end", "index")

    def __init__(
        self,
        process: ProcessContext,
        index: int,
        reservations: Callable[[int], Reservations | None],
        closed: Callable[[PassedConnection], None],
    ) -> None:
        """``reservations`` gives those of the process ``index``, as long as that is there."""
        self._process = process
        self._reservations = reservations
        self._closed = closed
        self.index = index
        self.end = PassedEnd(self, process.generation.limits, process.wheel)

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        """Send the request down the slot that it names, or a free one, or say that it was not sent."""
        passed = self.end
        attested, fields = passed.attested, passed.passed
        assert attested is not None
        assert fields is not None
        reservations = self._reservations(self.index)
        wanted = attested.slot
        if isinstance(wanted, Unreserved):
            free = None if reservations is None else reservations.lease(wanted)
            if free is None:
                refuse_passed(passed, Loss.NOT_SENT, "no slot is free")
            else:
                passed.use(self._process.generation.limits)
                PassedRequest(self._process, passed, head, attested).send_recorded(free, fields, wanted)
            return
        one = None if reservations is None else reservations.take(wanted)
        slot = None if one is None else one.slot
        if one is None or slot is None:
            refuse_passed(passed, Loss.NOT_SENT, "the reservation is over")
        elif not one.is_usable(slot):
            refuse_passed(passed, Loss.NOT_SENT, "the worker is gone")
        else:
            passed.use(self._process.generation.limits)
            PassedRequest(self._process, passed, head, attested).send(slot.open(), fields)

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        """No process of ours sends such a thing: nothing more is read from this one's connection."""
        end.abort()

    def end_closed(self, end: ServerEnd) -> None:
        """The connection is gone."""
        self._closed(self)
