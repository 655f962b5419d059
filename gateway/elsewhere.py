"""What the other data processes of this gateway hold, as far as they told; and what this one has to tell them.

It is a moment old: sums and limits that rest on it are exact when nothing changes, and a lease is always asked of
whoever has the slot. A process that is gone takes what it told with it.

Posture: pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import orjson

from gateway.levels import Label, Worker
from gateway.meshframes import MeshError
from gateway.pool import Pool


class Peer:
    """What one other process told."""

    __slots__ = ("held", "pools", "workers")

    def __init__(self) -> None:
        self.pools: dict[str, list[int]] = {}
        """By pool: slots in all, free ones, requests of its own that wait."""
        self.workers: dict[str, dict[str, tuple[Label, ...]]] = {}
        """By pool: its workers and their labels."""
        self.held: dict[str, int] = {}
        """Connections by identity."""


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
        """Second of `gateway.clock` at which the instance was first seen."""


class Elsewhere:
    """All other processes that are there, by index."""

    def __init__(self) -> None:
        self.peers: dict[int, Peer] = {}

    def held(self, identity: str) -> int:
        """Connections that an identity has in other processes."""
        count = 0
        for peer in self.peers.values():
            count += peer.held.get(identity, 0)
        return count

    def sums(self, pool: str) -> tuple[int, int, int]:
        """Slots in all, free ones, waiting requests, of a pool in other processes."""
        total = free = waiting = 0
        for peer in self.peers.values():
            told = peer.pools.get(pool)
            if told is not None:
                total += told[0]
                free += told[1]
                waiting += told[2]
        return total, free, waiting

    def count(self, pool: str, worker: str) -> int:
        """To how many other processes a worker is connected."""
        return sum(worker in peer.workers.get(pool, ()) for peer in self.peers.values())

    def places(self, pool: str, worker: str | None = None) -> list[int]:
        """Processes that have a slot of the pool (of the worker), as far as they told: most free ones first."""
        found: list[tuple[int, int]] = []
        for index, peer in self.peers.items():
            told = peer.pools.get(pool)
            if told is None or not told[0]:
                continue
            if worker is None or worker in peer.workers.get(pool, ()):
                found.append((-told[1], index))
        found.sort()
        return [index for _, index in found]

    def everyone(self, pool: str, worker: str | None = None) -> list[int]:
        """Whom to ask for a slot, in this order: those of `places`, then all others, since news is a moment old."""
        known = self.places(pool, worker)
        return known + [index for index in self.peers if index not in known]

    def labelled(self, pool: str, label: Label) -> list[int]:
        """Processes with a worker that has the label and, as far as they told, a free slot."""
        return [
            index
            for index in self.places(pool)
            if self.peers[index].pools[pool][1]
            and any(label in labels for labels in self.peers[index].workers.get(pool, {}).values())
        ]

    def adjust(self, index: int, pool: str, change: int) -> None:
        """A slot was taken from a process or went back: count it before the news of it comes."""
        peer = self.peers.get(index)
        told = peer.pools.get(pool) if peer is not None else None
        if told is not None:
            told[1] = max(0, min(told[0], told[1] + change))

    # ---- what is told ----

    def forget(self, index: int) -> list[Happened]:
        """A process is gone; what its pools lose by that."""
        peer = self.peers.pop(index, None)
        return self._lost(peer) if peer is not None else []

    def learn(self, index: int, news: bytes) -> tuple[list[Happened], list[Superseded]]:
        """Take in one batch of news.

        Raises:
            MeshError: it has another shape than `News` makes.
        """
        try:
            told = orjson.loads(news)
            happened: list[Happened] = []
            if told["whole"]:
                happened += self._lost(self.peers.get(index))
                self.peers[index] = Peer()
            peer = self.peers[index]
            for pool, sums in told["pools"].items():
                total, free, waiting = sums
                peer.pools[pool] = [int(total), int(free), int(waiting)]
                happened.append(Happened(pool, "slots", None))
            for pool, workers in told["workers"].items():
                known = peer.workers.setdefault(pool, {})
                for name, labels in workers.items():
                    if labels is None:
                        if known.pop(name, None) is not None:
                            happened.append(Happened(pool, "worker-left", name))
                    else:
                        if name not in known:
                            happened.append(Happened(pool, "worker-joined", name))
                        known[name] = tuple((str(key), str(value)) for key, value in labels)
            for identity, count in told["held"].items():
                if count:
                    peer.held[identity] = int(count)
                else:
                    peer.held.pop(identity, None)
            served = [Superseded(str(p), str(w), str(i), float(since)) for p, w, i, since in told["served"]]
        except (ValueError, TypeError, LookupError, AttributeError):
            raise MeshError("news of another shape") from None
        return happened, served

    @staticmethod
    def _lost(peer: Peer | None) -> list[Happened]:
        if peer is None:
            return []
        left = [Happened(pool, "worker-left", name) for pool, workers in peer.workers.items() for name in workers]
        return left + [Happened(pool, "slots", None) for pool in peer.pools]


class News:
    """What changed here since it was last told.

    ``due`` is called when there is something to tell again: True for what others act on at once, False when nothing
    changed but how many slots are free, which busy pools do for every request. It may be called for both, in this
    order.
    """

    __slots__ = ("_due", "_elsewhere", "_held", "_is_due", "_is_pressing", "_pools", "_served", "_told", "_workers")

    def __init__(self, elsewhere: Elsewhere, due: Callable[[bool], None]) -> None:
        self._elsewhere = elsewhere
        self._due = due
        self._is_due = False
        self._is_pressing = False
        self._pools: dict[str, Pool] = {}
        self._told: dict[str, tuple[int, int, int]] = {}
        """The sums that others heard last, by pool: as many as configurations have named since the start."""
        self._workers: dict[str, dict[str, tuple[Label, ...] | None]] = {}
        self._held: dict[str, int] = {}
        self._served: list[tuple[str, str, str, float]] = []

    def _happened(self) -> None:
        if not self._is_pressing:
            self._is_due = self._is_pressing = True
            self._due(True)

    def pool(self, pool: Pool) -> None:
        """Its sums are others now. It presses when a slot came or went for good, the first came free, or none is."""
        self._pools[pool.name] = pool
        if self._is_pressing:
            return
        total, free, waiting = self._told.get(pool.name, (-1, 0, 0))
        if pool.total != total or (pool.free == 0) != (free == 0) or pool.waiting != waiting:
            self._happened()
        elif not self._is_due:
            self._is_due = True
            self._due(False)

    def joined(self, pool: str, worker: Worker) -> None:
        """A worker has its first connection here."""
        self._workers.setdefault(pool, {})[worker.name] = worker.labels
        self._happened()

    def left(self, pool: str, worker: str) -> None:
        """A worker has no connection here any more."""
        self._workers.setdefault(pool, {})[worker] = None
        self._happened()

    def served(self, pool: str, worker: str, instance: str, since: float) -> None:
        """A connection of this start of the worker, first seen at ``since``, answered its first request."""
        self._served.append((pool, worker, instance, since))
        self._happened()

    def is_elsewhere(self, pool: str, worker: str) -> bool:
        """Whether a worker has a connection in another process."""
        return self._elsewhere.count(pool, worker) > 0

    def held(self, identity: str, count: int) -> None:
        """So many connections of an identity are here now."""
        self._held[identity] = count
        self._happened()

    def take(self) -> bytes:
        """All that is to be told, as the content of a NEWS frame."""
        self._is_due = self._is_pressing = False
        sums = {name: _sums(pool) for name, pool in self._pools.items()}
        self._told.update(sums)
        news = orjson.dumps(
            {
                "whole": False,
                "pools": sums,
                "workers": self._workers,
                "held": self._held,
                "served": self._served,
            }
        )
        self._pools = {}
        self._workers = {}
        self._held = {}
        self._served = []
        return news


def whole(pools: Iterable[Pool], held: dict[str, int]) -> bytes:
    """Everything, for a process that knows nothing yet."""
    known = list(pools)
    return orjson.dumps(
        {
            "whole": True,
            "pools": {pool.name: _sums(pool) for pool in known},
            "workers": {pool.name: {worker.name: worker.labels for worker in pool.workers.values()} for pool in known},
            "held": held,
            "served": [],
        }
    )


def _sums(pool: Pool) -> tuple[int, int, int]:
    return pool.total, pool.free, pool.waiting
