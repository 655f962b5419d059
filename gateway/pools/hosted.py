"""Hosted pools: reversed connections that the gateway keeps, and the requests it sends down them.

Trust: meets untrusted workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from auth.policy import Context
from gateway.config.values import PoolConfig
from gateway.core.context import ProcessContext
from gateway.core.peer import Peer
from gateway.exchange.exchange import Exchange
from gateway.pools.least_busy import Slot
from gateway.pools.remote_slots import Happened, Ordered, RemoteSlots, Started, Superseded
from gateway.pools.slots import Pool, describe
from gateway.pools.tcp_keepalive import keep_alive
from rhttp.ends import Link
from rhttp.errors import Loss
from rhttp.http1.client import ClientEnd


class ReversedConnection:
    """A worker's connection on which the gateway is the HTTP client. Registered, so that it can be cut."""

    __slots__ = ("asked", "end", "ended", "opened", "owner", "peer", "protocol", "request_id", "slot")

    def __init__(
        self, pool: HostedPool, peer: Peer, protocol: str, request_id: str, opened: float, asked: Context
    ) -> None:
        self.owner = pool
        self.peer = peer
        self.protocol = protocol
        self.request_id = request_id
        self.opened = opened
        """In seconds of `rhttp.clock`."""
        self.asked = asked
        """The circumstances under which it was admitted; a reload asks again."""
        self.end: ClientEnd
        self.slot: Slot | None = None
        self.ended = ""
        """Why it ended, when we ended it."""

    def disconnect(self, reason: str) -> None:
        """Close now; a request that it serves is lost, and the requester told so."""
        self.owner.disconnect(self, reason)

    @property
    def pool_name(self) -> str:
        """The pool that it serves."""
        return self.owner.config.name

    def drain(self, reason: str) -> None:
        """Close when it is idle."""
        self.owner.drain(self, reason)


class HostedPool:
    """One hosted pool: its slots, its queue, and the ends behind them."""

    mode = "hosted"

    def __init__(
        self,
        process: ProcessContext,
        config: PoolConfig,
        trust_domain: str,
        join: Callable[[HostedPool], RemoteSlots] | None = None,
    ) -> None:
        """``join`` gives what the pool has to do with other processes; None: there are none."""
        self._process = process
        self.config = config
        self.pool = Pool(config.name, queue=config.queue)
        self._remote: RemoteSlots | None = None
        if join is not None:
            self._remote = join(self)
            self.pool.watcher = self._remote.watcher
        self._suffix = f".{config.name}.{trust_domain}".encode("ascii")

    def adopt(self, config: PoolConfig) -> None:
        """Go on under a new configuration; connections and the queue stay."""
        self.config = config
        self.pool.queue = config.queue

    # ---- role switch ----

    def newer_start(self, worker: str, instance: str) -> str | None:
        """The start of a worker that superseded this one, which has to stay away while that is there; None: welcome."""
        return self.pool.starts.newer(worker, instance, self._process.elapsed)

    def host(
        self, peer: Peer, link: Link, *, protocol: str, instance: str | None, request_id: str, asked: Context
    ) -> None:
        """Take over a worker's link: from here on we ask and it answers."""
        process = self._process
        connection = ReversedConnection(self, peer, protocol, request_id, process.elapsed, asked)
        end = ClientEnd(self, process.generation.limits, process.wheel, connection)
        connection.end = end
        end.connection_made(link)  # type: ignore[arg-type]  # a Link
        keep_alive(link, process.generation.config.limits)
        process.registry.add(connection)
        process.counters.reversed_opened += 1
        # Before it has a slot, which may be lent at once, and then the link has another owner.
        link.set_protocol(end)
        if end.closed:
            return  # it heard that the worker is on its way out
        connection.slot = self.pool.add(
            peer.name,
            connection,
            labels=peer.principal.labels,
            protocol=protocol,
            instance=instance,
            now=process.epoch,
            seen=process.precise(),  # by it processes tell a newer start of a worker from an older one
        )
        if link.is_closing():  # by whoever waited for the slot
            self.pool.remove(connection.slot, process.elapsed)

    # ---- Inbound ----

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Give the exchange a slot, let it wait, or tell it that there is none."""
        remote = self._remote
        if (
            remote is not None
            and exchange.label is not None
            and exchange.worker is None
            # Its wish first, wherever that is; then any worker.
            and (self._lease_here(exchange, not_again, strict=True) or remote.search(exchange, not_again, strict=True))
        ):
            return
        self._lease_anywhere(exchange, not_again)

    def _lease_anywhere(self, exchange: Exchange, not_again: str | None) -> None:
        if self._lease_here(exchange, not_again):
            return
        if self._remote is None or not self._remote.search(exchange, not_again):
            self._nothing(exchange, not_again)

    def _lease_here(self, exchange: Exchange, not_again: str | None, *, strict: bool = False) -> bool:
        while True:
            slot = self.pool.lease(worker=exchange.worker, label=exchange.label, not_again=not_again, strict=strict)
            if slot is None:
                return False
            if self._grant(exchange, slot):
                return True

    def no_remote_slot(self, exchange: Exchange, not_again: str | None, *, strict: bool) -> None:
        """No other process had a slot for it; ``strict``: of a worker with its label."""
        if strict:
            self._lease_anywhere(exchange, not_again)
        elif not self._lease_here(exchange, not_again):  # one may have come free meanwhile
            self._nothing(exchange, not_again)

    def _nothing(self, exchange: Exchange, not_again: str | None) -> None:
        remote = self._remote
        if not_again is not None:
            exchange.unavailable(502, "worker-lost", "no_other_worker")
        elif not exchange.deadline:
            exchange.unavailable(503, "no-slot", "no_slot")
        elif not self.pool.wait(exchange, others=remote.waiting() if remote is not None else 0):
            exchange.unavailable(503, "no-slot", "queue_full")
        elif remote is not None:
            remote.changed()

    def take(self, exchange: Exchange, slot: Slot) -> None:
        """Send the exchange, which waited, down the slot's connection, or look for another slot."""
        if not self._grant(exchange, slot):
            self.lease(exchange)
        if self._remote is not None:
            self._remote.changed()

    def _grant(self, exchange: Exchange, slot: Slot) -> bool:
        if not self.is_usable(slot):
            return False  # the next slot, without counting a try
        connection = slot.link
        assert isinstance(connection, ReversedConnection)
        name = slot.worker.name
        connection.end.limits = self._process.generation.limits
        exchange.granted(connection.end, name.encode("ascii") + self._suffix, name)
        return True

    def is_usable(self, slot: Slot) -> bool:
        """Whether a request can be sent down a leased slot; one whose connection has just ended is let go."""
        connection = slot.link
        assert isinstance(connection, ReversedConnection)
        if slot.gone or connection.end.closed:
            connection.end.abort(Loss.NOT_SENT, "closed")  # its end is being told in this very turn
            return False
        return True

    def granted_remote(self, exchange: Exchange, end: ClientEnd, worker: str) -> None:
        """Send the exchange to another process, which has reserved a slot of the worker for it."""
        exchange.granted(end, worker.encode("ascii") + self._suffix, worker)

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
        self.pool.give_up(exchange)
        if self._remote is not None:
            self._remote.forget(exchange)

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """An answer is complete: the slot is free again, unless a newer start of the worker took its place."""
        connection = end.tag
        assert isinstance(connection, ReversedConnection)
        slot = connection.slot
        assert slot is not None
        if end.answered == 1:
            self._retire(self.pool.served(slot, self._process.elapsed))
        self.give_back(slot)

    def give_back(self, slot: Slot) -> None:
        """A leased slot has no request any more, and its connection can take another one."""
        connection = slot.link
        assert isinstance(connection, ReversedConnection)
        if slot.retired:
            connection.ended = connection.ended or "superseded"
            connection.end.close()
        elif self._process.draining:
            connection.ended = "drain"
            connection.end.close()
        else:
            self.pool.release(slot)

    def _retire(self, slots: Iterable[Slot]) -> None:
        for slot in slots:
            if not slot.busy:
                connection = slot.link
                assert isinstance(connection, ReversedConnection)
                connection.ended = "superseded"
                connection.end.close()

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        """A worker's connection is gone."""
        connection = end.tag
        assert isinstance(connection, ReversedConnection)
        process = self._process
        process.registry.remove(connection)
        if connection.slot is not None:
            self.pool.remove(connection.slot, process.elapsed)
        process.record_closed(
            connection.peer,
            self.config.name,
            connection.request_id,
            connection.opened,
            connection.ended or detail,
        )

    # ---- the end of things ----

    def disconnect(self, connection: ReversedConnection, reason: str) -> None:
        """End a worker's connection now."""
        self._process.record_cut(connection.peer, "tls", reason)
        connection.ended = reason
        connection.end.abort(Loss.CUT, reason)

    def stop(self) -> None:
        """No new leases; whoever waits is told."""
        self.pool.closed = True
        for waiter in self.pool.give_up_all():
            waiter.pool_closed()

    def drain(self, connection: ReversedConnection, reason: str) -> None:
        """Close when idle, now or after the request that it serves."""
        slot = connection.slot
        if slot is None or slot.gone:
            return
        slot.retired = True
        connection.ended = reason
        if not slot.busy:
            connection.end.close()

    def connections(self) -> list[ReversedConnection]:
        """All reversed connections of the pool."""
        return [
            slot.link
            for worker in self.pool.workers.values()
            for slot in worker.slots
            if isinstance(slot.link, ReversedConnection)
        ]

    def slots(self) -> tuple[int, int | None]:
        """Slots of this process, and how many of them are free."""
        return self.pool.total, self.pool.free

    def sums(self) -> tuple[int, int]:
        """Slots in all processes, and how many of them are free."""
        pool = self.pool
        if self._remote is None:
            return pool.total, pool.free
        total, free = self._remote.slots()
        return pool.total + total, pool.free + free

    # ---- what other processes tell ----

    def happened(self, what: Happened) -> None:
        """Something changed in another process's part of this pool."""
        assert self._remote is not None
        kind, worker = what.kind, what.worker
        if worker is not None:
            others = self._remote.processes_with(worker)
            if worker in self.pool.workers or others != (kind == "worker-joined"):
                kind = "slots"  # it was, or still is, here or in a third process
        self.pool.tell(kind, worker)
        self._remote.changed()

    def superseded(self, what: Superseded) -> None:
        """A newer start of a worker serves in another process."""
        self._retire(self.pool.superseded(what.worker, what.instance, what.since, self._process.elapsed))

    def started(self, what: Started) -> None:
        """A start of a worker came to another process, or left it."""
        self.pool.started(what.worker, what.instance, what.since, self._process.elapsed)

    def ordered(self, what: Ordered) -> None:
        """What another process remembers of a worker's starts."""
        self.pool.ordered(what.worker, what.current, what.seen, self._process.elapsed)

    def describe(self) -> dict[str, object]:
        """The pool as ``GET /-/pools/{pool}`` shows it."""
        return describe(self.pool, self.mode)
