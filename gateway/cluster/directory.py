"""What the other data processes of this gateway hold, as far as they told; and what this one has to tell them.

It is a moment old: sums and limits that rest on it are exact when nothing changes, and a slot is always asked of
whoever has it. A process that is gone takes what it told with it.

Trust: pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import orjson

from gateway.cluster.frames import MeshError
from gateway.pools.least_busy import Label, Worker
from gateway.pools.remote_slots import Happened, Ordered, Started, Superseded
from gateway.pools.slots import Pool


class PeerState:
    """What one other process told."""

    __slots__ = ("held", "pools", "starts", "workers")

    def __init__(self) -> None:
        self.pools: dict[str, list[int]] = {}
        """By pool: slots in all, free ones, requests of its own that wait."""
        self.workers: dict[str, dict[str, tuple[Label, ...]]] = {}
        """By pool: its workers and their labels."""
        self.held: dict[str, int] = {}
        """Connections by identity."""
        self.starts: dict[str, dict[str, dict[str, float]]] = {}
        """By pool and worker: the instances that have a connection, and when each was first seen."""


class Learned:
    """What one batch of news said, or the end of a process."""

    __slots__ = ("happened", "ordered", "started", "superseded")

    def __init__(self) -> None:
        self.happened: list[Happened] = []
        self.started: list[Started] = []
        self.ordered: list[Ordered] = []
        self.superseded: list[Superseded] = []


class PeerDirectory:
    """All other processes that are there, by index."""

    def __init__(self) -> None:
        self.peers: dict[int, PeerState] = {}

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

    def freest(self, pool: str, worker: str | None = None) -> int | None:
        """The process with most free slots of the pool and the worker, as far as they told; None: there is none."""
        best = None
        most = 0
        for index, peer in self.peers.items():
            told = peer.pools.get(pool)
            if told is None or told[1] <= most:
                continue
            if worker is None or worker in peer.workers.get(pool, ()):
                best, most = index, told[1]
        return best

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

    def starts(self, pool: str, worker: str) -> dict[str, float]:
        """Instances of a worker that have a connection in other processes, and when each was first seen."""
        found: dict[str, float] = {}
        for peer in self.peers.values():
            for instance, since in peer.starts.get(pool, {}).get(worker, {}).items():
                found[instance] = min(since, found.get(instance, since))
        return found

    # ---- what is told ----

    def forget(self, index: int) -> Learned:
        """A process is gone; what its pools lose by that."""
        learned = Learned()
        self._lost(self.peers.pop(index, None), learned)
        return learned

    def learn(self, index: int, news: bytes) -> Learned:
        """Take in one batch of news.

        Raises:
            MeshError: it has another shape than `News` makes.
        """
        try:
            told = orjson.loads(news)
            learned = Learned()
            happened = learned.happened
            if told["whole"]:
                self._lost(self.peers.get(index), learned)
                self.peers[index] = PeerState()
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
            for pool, starts in told["starts"].items():
                for name, instances in starts.items():
                    for instance, since in instances.items():
                        at = None if since is None else float(since)
                        learned.started.append(_start(peer, pool, name, instance, at))
            for pool, name, current, seen in told["orders"]:
                times = {str(instance): float(since) for instance, since in seen.items()}
                learned.ordered.append(Ordered(str(pool), str(name), current and str(current), times))
            for pool, name, instance, since in told["served"]:
                learned.superseded.append(Superseded(str(pool), str(name), str(instance), float(since)))
        except (ValueError, TypeError, LookupError, AttributeError):
            raise MeshError("news of another shape") from None
        return learned

    @staticmethod
    def _lost(peer: PeerState | None, learned: Learned) -> None:
        if peer is None:
            return
        for pool, workers in peer.workers.items():
            learned.happened += [Happened(pool, "worker-left", name) for name in workers]
        learned.happened += [Happened(pool, "slots", None) for pool in peer.pools]
        for pool, starts in peer.starts.items():
            for name, instances in starts.items():
                learned.started += [Started(pool, name, instance, None) for instance in instances]


def _start(peer: PeerState, pool: str, worker: str, instance: str, since: float | None) -> Started:
    """Take in that an instance came, or left."""
    workers = peer.starts.setdefault(pool, {})
    if since is not None:
        workers.setdefault(worker, {})[instance] = since
    elif worker in workers:
        workers[worker].pop(instance, None)
        if not workers[worker]:
            del workers[worker]
    return Started(pool, worker, instance, since)


class News:
    """What changed here since it was last told.

    ``due`` is called when there is something to tell again: True for what others act on at once, False when nothing
    changed but how many slots are free, which busy pools do for every request. It may be called for both, in this
    order.
    """

    __slots__ = (
        "_directory",
        "_due",
        "_held",
        "_is_due",
        "_is_pressing",
        "_pools",
        "_served",
        "_starts",
        "_told",
        "_workers",
    )

    def __init__(self, directory: PeerDirectory, due: Callable[[bool], None]) -> None:
        self._directory = directory
        self._due = due
        self._is_due = False
        self._is_pressing = False
        self._pools: dict[str, Pool] = {}
        self._told: dict[str, tuple[int, int, int]] = {}
        """The sums that others heard last, by pool: as many as configurations have named since the start."""
        self._workers: dict[str, dict[str, tuple[Label, ...] | None]] = {}
        self._held: dict[str, int] = {}
        self._starts: dict[str, dict[str, dict[str, float | None]]] = {}
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

    def start_came(self, pool: str, worker: str, instance: str, since: float) -> None:
        """This start of the worker, first seen at ``since``, has its first connection here."""
        self._starts.setdefault(pool, {}).setdefault(worker, {})[instance] = since
        self._happened()

    def start_left(self, pool: str, worker: str, instance: str) -> None:
        """This start of the worker has no connection here any more."""
        self._starts.setdefault(pool, {}).setdefault(worker, {})[instance] = None
        self._happened()

    def starts_in_others(self, pool: str, worker: str) -> dict[str, float]:
        """Instances of a worker that have a connection in other processes."""
        return self._directory.starts(pool, worker)

    def is_in_others(self, pool: str, worker: str) -> bool:
        """Whether a worker has a connection in another process."""
        return self._directory.count(pool, worker) > 0

    def held(self, identity: str, count: int) -> None:
        """So many connections of an identity are here now."""
        self._held[identity] = count
        self._happened()

    def take(self) -> bytes:
        """All that is to be told, as the content of a NEWS message."""
        self._is_due = self._is_pressing = False
        sums = {name: _sums(pool) for name, pool in self._pools.items()}
        self._told.update(sums)
        news = orjson.dumps(
            {
                "whole": False,
                "pools": sums,
                "workers": self._workers,
                "held": self._held,
                "starts": self._starts,
                "orders": [],
                "served": self._served,
            }
        )
        self._pools = {}
        self._workers = {}
        self._held = {}
        self._starts = {}
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
            "starts": {
                pool.name: {worker.name: worker.instances for worker in pool.workers.values() if worker.instances}
                for pool in known
            },
            "orders": [(pool.name, *order) for pool in known for order in pool.starts.orders()],
            "served": [],
        }
    )


def _sums(pool: Pool) -> tuple[int, int, int]:
    return pool.total, pool.free, pool.waiting
