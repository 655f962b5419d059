"""What a hosted pool has to do with its like in other processes, whoever those are.

Trust: pure.
"""

from __future__ import annotations

from typing import Protocol

from gateway.exchange.exchange import Exchange
from gateway.pools.slots import Watcher


class RemoteSlots(Protocol):
    """The slots of a pool that other processes hold, and the requests that wait there."""

    watcher: Watcher
    """Is told what the others must know of the pool's part here."""

    def search(self, exchange: Exchange, not_again: str | None, *, strict: bool = False) -> bool:
        """Ask the others for a slot; False when there is none to ask.

        ``strict``: only of a worker with the label. `HostedPool.granted_remote` follows, or `HostedPool.no_remote_slot`
        when nobody had one.
        """

    def forget(self, exchange: Exchange) -> None:
        """The request is over or gave up."""

    def changed(self) -> None:
        """The queue, or what the others have, is another now: slots are wanted for those who wait, and no more."""

    def waiting(self) -> int:
        """Requests that wait in other processes."""

    def slots(self) -> tuple[int, int]:
        """Slots in other processes, and how many of them are free."""

    def processes_with(self, worker: str) -> int:
        """In how many other processes the worker has a connection."""


class Happened:
    """One thing that news told, for whoever looks at a pool."""

    __slots__ = ("kind", "pool", "worker")

    def __init__(self, pool: str, kind: str, worker: str | None) -> None:
        self.pool = pool
        self.kind = kind
        """``worker-joined``, ``worker-left``: the first or last connection of a worker in that process; ``slots``."""
        self.worker = worker


class Superseded:
    """A newer start of a worker was seen serving: slots of older ones retire."""

    __slots__ = ("instance", "pool", "since", "worker")

    def __init__(self, pool: str, worker: str, instance: str, since: float) -> None:
        self.pool = pool
        self.worker = worker
        self.instance = instance
        self.since = since
        """Second of `rhttp.clock` at which the instance was first seen."""


class Started:
    """A start of a worker has its first connection in another process, or has lost its last one there."""

    __slots__ = ("instance", "pool", "since", "worker")

    def __init__(self, pool: str, worker: str, instance: str, since: float | None) -> None:
        self.pool = pool
        self.worker = worker
        self.instance = instance
        self.since = since
        """Second of `rhttp.clock` at which it was first seen; None: it left."""


class Ordered:
    """What another process remembers of a worker's starts; see `gateway.pools.starts`."""

    __slots__ = ("current", "pool", "seen", "worker")

    def __init__(self, pool: str, worker: str, current: str | None, seen: dict[str, float]) -> None:
        self.pool = pool
        self.worker = worker
        self.current = current
        self.seen = seen
