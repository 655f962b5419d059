"""Hosted pools: reversed connections that the gateway keeps, and the requests it sends down them.

Posture: meets untrusted workers.
"""

from __future__ import annotations

from collections.abc import Iterable

from auth.policy import Context
from gateway.configvalues import PoolConfig
from gateway.exchange import Exchange
from gateway.identity import Peer
from gateway.liveness import keep_alive
from gateway.pool import Pool, Slot, describe
from gateway.services import Services
from rhttp.client import ClientEnd
from rhttp.ends import Link
from rhttp.errors import Loss


class ReversedConnection:
    """A worker's connection on which the gateway is the HTTP client. Registered, so that it can be cut."""

    __slots__ = ("_pool", "asked", "end", "ended", "opened", "peer", "protocol", "request_id", "slot")

    def __init__(
        self, pool: HostedPool, peer: Peer, protocol: str, request_id: str, opened: float, asked: Context
    ) -> None:
        self._pool = pool
        self.peer = peer
        self.protocol = protocol
        self.request_id = request_id
        self.opened = opened
        self.asked = asked
        """The circumstances under which it was admitted; a reload asks again."""
        self.end: ClientEnd
        self.slot: Slot | None = None
        self.ended = ""
        """Why it ended, when we ended it."""

    def cut(self, reason: str) -> None:
        """Close now; a request that it serves is lost, and the requester told so."""
        self._pool.cut(self, reason)

    @property
    def pool_name(self) -> str:
        """The pool that it serves."""
        return self._pool.config.name

    def drain(self, reason: str) -> None:
        """Close when it is idle."""
        self._pool.drain(self, reason)


class HostedPool:
    """One hosted pool: its slots, its queue, and the ends behind them."""

    mode = "hosted"

    def __init__(self, services: Services, config: PoolConfig, trust_domain: str) -> None:
        self._services = services
        self.config = config
        self.pool = Pool(config.name, queue=config.queue)
        self._suffix = f".{config.name}.{trust_domain}".encode("ascii")

    def adopt(self, config: PoolConfig) -> None:
        """Go on under a new configuration; connections and the queue stay."""
        self.config = config
        self.pool.queue = config.queue

    # ---- role switch ----

    def host(
        self, peer: Peer, link: Link, *, protocol: str, instance: str | None, request_id: str, asked: Context
    ) -> None:
        """Take over a worker's link: from here on we ask and it answers."""
        services = self._services
        connection = ReversedConnection(self, peer, protocol, request_id, services.epoch, asked)
        end = ClientEnd(self, services.generation.limits, services.wheel, connection)
        connection.end = end
        end.connection_made(link)  # type: ignore[arg-type]  # a Link
        link.set_protocol(end)
        keep_alive(link, services.generation.config.limits)
        services.registry.add(connection)
        services.counters.reversed_opened += 1
        connection.slot = self.pool.add(
            peer.name,
            connection,
            labels=peer.principal.labels,
            protocol=protocol,
            instance=instance,
            now=services.epoch,
        )

    # ---- Inbound ----

    def lease(self, exchange: Exchange, *, not_again: str | None = None) -> None:
        """Give the exchange a slot, let it wait, or tell it that there is none."""
        while (slot := self.pool.lease(worker=exchange.worker, label=exchange.label, not_again=not_again)) is not None:
            if self._grant(exchange, slot):
                return
        if not_again is not None:
            exchange.unavailable(502, "worker-lost", "no_other_worker")
        elif not exchange.deadline:
            exchange.unavailable(503, "no-slot", "no_slot")
        elif not self.pool.wait(exchange):
            exchange.unavailable(503, "no-slot", "queue_full")

    def take(self, exchange: Exchange, slot: Slot) -> None:
        """Send the exchange, which waited, down the slot's connection, or look for another slot."""
        if not self._grant(exchange, slot):
            self.lease(exchange)

    def _grant(self, exchange: Exchange, slot: Slot) -> bool:
        connection = slot.link
        assert isinstance(connection, ReversedConnection)
        if connection.end.closed:
            # Its end is being told in this very turn; the next slot, without counting a try.
            connection.end.abort(Loss.NOT_SENT, "closed")
            return False
        name = slot.worker.name
        connection.end.limits = self._services.generation.limits
        exchange.granted(connection.end, name.encode("ascii") + self._suffix, name)
        return True

    def forget(self, exchange: Exchange) -> None:
        """The exchange no longer waits."""
        self.pool.give_up(exchange)

    # ---- ClientOwner ----

    def client_idle(self, end: ClientEnd) -> None:
        """An answer is complete: the slot is free again, unless a newer start of the worker took its place."""
        connection = end.tag
        assert isinstance(connection, ReversedConnection)
        slot = connection.slot
        assert slot is not None
        if end.answered == 1:
            self._retire(self.pool.served(slot))
        if slot.retired:
            connection.ended = connection.ended or "superseded"
            end.close()
        elif self._services.draining:
            connection.ended = "drain"
            end.close()
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
        services = self._services
        services.registry.remove(connection)
        services.counters.connections -= 1
        if connection.slot is not None:
            self.pool.remove(connection.slot)
        services.record_closed(
            connection.peer,
            self.config.name,
            connection.request_id,
            connection.opened,
            connection.ended or detail,
        )

    # ---- the end of things ----

    def cut(self, connection: ReversedConnection, reason: str) -> None:
        """End a worker's connection now."""
        self._services.record_cut(connection.peer, "tls", reason)
        connection.ended = reason
        connection.end.abort(Loss.CUT, reason)

    def stop(self) -> None:
        """No new leases; whoever waits is told."""
        self.pool.closed = True
        for waiter in self.pool.give_up_all():
            assert isinstance(waiter, Exchange)
            waiter.unavailable(503, "draining", "draining")

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
        """Slots in all, and how many are free."""
        return self.pool.total, self.pool.free

    def describe(self) -> dict[str, object]:
        """The pool as ``GET /-/pools/{pool}`` shows it."""
        return describe(self.pool, self.mode)
