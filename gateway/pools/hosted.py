"""Hosted pools: reversed connections that the gateway keeps, and the requests it sends down them.

Trust: meets untrusted workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from auth.policy import Context
from gateway.config.values import PoolConfig
from gateway.core.context import ProcessContext
from gateway.core.peer import Peer
from gateway.exchange.ends import Addressees, ClientConnection, Speak
from gateway.exchange.exchange import Exchange
from gateway.pools.dialects import DIALECTS
from gateway.pools.least_busy import Slot
from gateway.pools.remote_slots import Happened, Ordered, RemoteSlots, Started, Superseded
from gateway.pools.slots import Pool, describe
from gateway.pools.tcp_keepalive import keep_alive
from rhttp.ends import Link, ResponseEnd
from rhttp.errors import Loss
from rhttp.http1.limits import Http1Limits


class ReversedConnection:
    """A worker's connection on which the gateway is the HTTP client. Registered, so that it can be cut.

    It is the source of the worker's slots, as many as the connection takes requests at a time.
    """

    __slots__ = ("asked", "client", "ended", "opened", "owner", "peer", "protocol", "request_id", "slots")

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
        self.client: ClientConnection
        self.slots: tuple[Slot, ...] = ()
        self.ended: str | None = None
        """Why it ended, when we ended it."""

    @property
    def is_busy(self) -> bool:
        """Whether it serves a request, or has a slot that is reserved for one."""
        return any(slot.busy and not slot.gone for slot in self.slots)

    def serving(self) -> Slot:
        """A slot whose request is under way: one is as good as another."""
        for slot in self.slots:
            if slot.serving:
                return slot
        raise LookupError("no request is under way")

    # ---- SlotSource ----

    def open(self) -> ResponseEnd:
        """An end for the request that a slot of it was leased for."""
        self.client.limits = self.owner.limits
        return self.client.open()

    # ---- ConnectionOwner ----

    def client_idle(self, connection: ClientConnection) -> None:
        """An answer is complete."""
        self.owner.client_idle(self)

    def client_closed(self, connection: ClientConnection, detail: str) -> None:
        """It is gone."""
        self.owner.client_closed(self, detail)

    # ---- Live ----

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
        dialects: Mapping[str, Speak] = DIALECTS,
    ) -> None:
        """
        Args:
            process: ours.
            config: the pool's.
            trust_domain: the last part of a worker's authority.
            join: gives what the pool has to do with other processes; None: there are none.
            dialects: who speaks with a worker, by the dialect in which it asked.
        """
        self._process = process
        self._dialects = dialects
        self.config = config
        self.pool = Pool(config.name, queue=config.queue)
        self._remote: RemoteSlots | None = None
        if join is not None:
            self._remote = join(self)
            self.pool.watcher = self._remote.watcher
            self.pool.on_handed = self._remote.changed
        self.authority = f"{config.name}.{trust_domain}".encode("ascii")
        """Of a request that goes to a worker which is not known yet."""
        self._suffix = b"." + self.authority
        self.addressees = Addressees(self._suffix)
        """Workers that other processes hold."""

    @property
    def limits(self) -> Http1Limits:
        """Those in force for the next request."""
        return self._process.generation.limits

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
        keep_alive(link, process.generation.config.limits)
        process.registry.add(connection)
        process.counters.reversed_opened += 1
        # Before it has a slot, which goes to whoever waits for one.
        client = connection.client = self._dialects[protocol](
            connection, process.generation.limits, process.wheel, link
        )
        while len(connection.slots) < client.capacity and not client.closed:  # it may hear that the worker leaves
            slot = self.pool.add(
                peer.name,
                connection,
                labels=peer.principal.labels,
                protocol=protocol,
                instance=instance,
                now=process.epoch,
                seen=process.precise(),  # by it processes tell a newer start of a worker from an older one
                suffix=self._suffix,
            )
            connection.slots = (*connection.slots, slot)
        if client.closed:  # by whoever waited for a slot
            self._remove_slots(connection)

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
            if self.is_usable(slot):
                exchange.offered(slot)
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
        elif not exchange.may_wait:
            exchange.unavailable(503, "no-slot", "no_slot")
        elif not self.pool.wait(exchange, others=remote.waiting() if remote is not None else 0, turn=exchange.turn):
            exchange.unavailable(503, "no-slot", "pool_gone" if self.pool.closed else "queue_full")
        elif remote is not None:
            remote.changed()

    def is_usable(self, slot: Slot) -> bool:
        """Whether a request can be sent down a leased slot; one whose connection has just ended is let go."""
        client = _source(slot).client
        if slot.gone or client.closed:
            client.abort(Loss.NOT_SENT, "closed")  # its end is being told in this very turn
            return False
        return True

    def granted_remote(self, exchange: Exchange, end: ResponseEnd, worker: str) -> None:
        """Send the exchange to another process, which has reserved a slot of the worker for it."""
        addressee = self.addressees.of(worker.encode("ascii"))
        exchange.granted(end, addressee.authority, addressee)

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
        self.pool.give_up(exchange)
        if self._remote is not None:
            self._remote.forget(exchange)

    # ---- what connections tell ----

    def client_idle(self, connection: ReversedConnection) -> None:
        """An answer is complete: a slot is free again, unless a newer start of the worker took its place."""
        slot = connection.serving()
        if connection.client.answered == 1:
            self._retire(self.pool.served(slot, self._process.elapsed))
        self.give_back(slot)

    def give_back(self, slot: Slot) -> None:
        """A leased slot has no request any more, and its connection can take another one."""
        slot.serving = False
        connection = _source(slot)
        if not slot.retired and not self._process.draining:
            self.pool.release(slot)
            return
        if connection.ended is None or not slot.retired:
            connection.ended = "superseded" if slot.retired else "drain"
        self.pool.remove(slot, self._process.elapsed)
        if not connection.is_busy:
            connection.client.close()

    def _retire(self, slots: Iterable[Slot]) -> None:
        for connection in {_source(slot): None for slot in slots}:
            if not connection.is_busy:
                connection.ended = "superseded"
                connection.client.close()

    def client_closed(self, connection: ReversedConnection, detail: str) -> None:
        """A worker's connection is gone."""
        process = self._process
        process.registry.remove(connection)
        self._remove_slots(connection)
        process.record_closed(
            connection.peer,
            self.config.name,
            connection.request_id,
            connection.opened,
            detail if connection.ended is None else connection.ended,
        )

    def _remove_slots(self, connection: ReversedConnection) -> None:
        for slot in connection.slots:
            self.pool.remove(slot, self._process.elapsed)

    # ---- the end of things ----

    def disconnect(self, connection: ReversedConnection, reason: str) -> None:
        """End a worker's connection now."""
        self._process.record_cut(connection.peer, "tls", reason)
        connection.ended = reason
        connection.client.abort(Loss.CUT, reason)

    def stop(self) -> None:
        """No new leases; whoever waits is told."""
        self.pool.closed = True
        for waiter in self.pool.give_up_all():
            waiter.pool_closed()

    def drain(self, connection: ReversedConnection, reason: str) -> None:
        """Close when idle, now or after the request that it serves."""
        slots = [slot for slot in connection.slots if not slot.gone]
        if not slots:
            return
        for slot in slots:
            slot.retired = True
        connection.ended = reason
        if not connection.is_busy:
            connection.client.close()

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


def _source(slot: Slot) -> ReversedConnection:
    connection = slot.source
    assert isinstance(connection, ReversedConnection)
    return connection
