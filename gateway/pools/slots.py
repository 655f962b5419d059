"""Pools: which worker's slot takes the next request, and who waits for one.

A *slot* is the ability of one worker to take one request now; over HTTP/1.1 it is one idle reversed connection. The
choice costs the same whatever the number of workers: see `gateway.pools.least_busy`.

Trust: pure. Time comes as an argument.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Protocol

from gateway.pools.least_busy import Label, Levels, Slot, SlotSource, Worker
from gateway.pools.queue import Waiter, WaitQueue
from gateway.pools.starts import Starts


class Watcher(Protocol):
    """Is told what other processes of the gateway must know."""

    def pool(self, pool: Pool, /) -> None:
        """Its sums changed."""

    def joined(self, pool: str, worker: Worker, /) -> None:
        """A worker has its first connection."""

    def left(self, pool: str, worker: str, /) -> None:
        """A worker has no connection any more."""

    def start_came(self, pool: str, worker: str, instance: str, since: float, /) -> None:
        """A start of a worker, first seen at ``since``, has its first connection."""

    def start_left(self, pool: str, worker: str, instance: str, /) -> None:
        """A start of a worker has no connection any more."""

    def served(self, pool: str, worker: str, instance: str, since: float, /) -> None:
        """A start of a worker, first seen at ``since``, has served."""

    def starts_in_others(self, pool: str, worker: str, /) -> Mapping[str, float]:
        """Starts of a worker that have a connection in other processes, and when each was first seen."""

    def is_in_others(self, pool: str, worker: str, /) -> bool:
        """Whether the worker has a connection in another process."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolEvent:
    """What happened in a pool: ``worker-joined``, ``worker-left`` or ``slots``."""

    kind: str
    worker: str | None
    total: int
    free: int


class Pool:
    """The slots of one hosted pool and the requests that wait for one."""

    def __init__(self, name: str, *, queue: int) -> None:
        self.name = name
        self.queue = queue
        self.workers: dict[str, Worker] = {}
        self.total = 0
        self.free = 0
        self.closed = False
        """No new leases (draining)."""
        self.listeners: set[Callable[[PoolEvent], None]] = set()
        self.watcher: Watcher | None = None
        self.on_handed: Callable[[], None] | None = None
        """Called when a slot that came free went to whoever waited."""
        self._levels = Levels()
        self._by_label: dict[Label, Levels] = {}
        self._label_users: dict[Label, int] = {}
        self.starts = Starts()
        """Which start of a worker is the newest."""
        self.queued = WaitQueue()
        """Who waits for a slot."""

    @property
    def waiting(self) -> int:
        """Requests of this process that wait for a slot."""
        return self.queued.own

    # ---- workers come and go ----

    def add(
        self,
        name: str,
        source: SlotSource,
        *,
        now: float,
        labels: Iterable[Label] = (),
        protocol: str = "ptth/1.0",
        instance: str | None = None,
        seen: float = 0.0,
        suffix: bytes = b"",
    ) -> Slot:
        """A reversed connection was opened; its slot is free and may be leased before this returns.

        Args:
            now: the time of day, to be shown.
            suffix: what follows the worker's name in its authority.
            seen: by a clock that all processes share and nobody sets: starts of a worker are told apart by it.
        """
        worker = self.workers.get(name)
        joined = worker is None
        if worker is None:
            worker = self.workers[name] = Worker(name, tuple(labels), protocol, now, suffix)
            for label in worker.labels:
                self._label_users[label] = self._label_users.get(label, 0) + 1
                self._by_label.setdefault(label, Levels())
        slot = Slot(worker, source, instance)
        if instance is not None and instance not in worker.instances:
            worker.instances[instance] = self.starts.came(name, instance, seen, self._present(name), seen)
            if self.watcher is not None:
                self.watcher.start_came(self.name, name, instance, worker.instances[instance])
        worker.slots.append(slot)
        self.total += 1
        if joined and self.watcher is not None:
            self.watcher.joined(self.name, worker)
        self._emit("worker-joined" if joined and not self._is_in_others(name) else "slots", name)
        self._make_free(slot)
        return slot

    def remove(self, slot: Slot, now: float = 0.0) -> None:
        """The connection is gone, whether it was leased or not. ``now``: by the clock that nobody sets."""
        if slot.gone:
            return
        slot.gone = True
        worker = slot.worker
        worker.slots.remove(slot)
        self.total -= 1
        if slot.busy:
            worker.busy -= 1
        else:
            worker.idle.remove(slot)
            self.free -= 1
        if slot.instance is not None and all(other.instance != slot.instance for other in worker.slots):
            del worker.instances[slot.instance]
            if self.watcher is not None:
                self.watcher.start_left(self.name, worker.name, slot.instance)
            self.starts.left(worker.name, slot.instance, self._present(worker.name), now)
        if worker.slots:
            self._replace(worker)
            self._emit("slots", worker.name)
            return
        self._take_out(worker)
        del self.workers[worker.name]
        for label in worker.labels:
            self._label_users[label] -= 1
            if not self._label_users[label]:
                del self._label_users[label], self._by_label[label]
        if self.watcher is not None:
            self.watcher.left(self.name, worker.name)
        self._emit("slots" if self._is_in_others(worker.name) else "worker-left", worker.name)

    # ---- starts of one worker ----

    def served(self, slot: Slot, now: float = 0.0) -> list[Slot]:
        """The slot's connection was seen serving: answer the slots of older instances, now retired.

        The caller closes those that are idle; busy ones are to be closed when they come back.
        """
        worker = slot.worker
        if slot.instance is None or slot.retired:
            return []
        since = worker.instances[slot.instance]
        if self.watcher is not None:
            self.watcher.served(self.name, worker.name, slot.instance, since)
        return self.superseded(worker.name, slot.instance, since, now)

    def superseded(self, name: str, instance: str, since: float, now: float) -> list[Slot]:
        """A worker's start, first seen at ``since``, serves: answer the slots of those before it, now retired."""
        starts = self.starts
        starts.served(name, instance, since, self._present(name), now)
        worker = self.workers.get(name)
        if worker is None or not starts:
            return []
        retired = [
            other
            for other in worker.slots
            if other.instance is not None and not other.retired and starts.is_older(name, other.instance)
        ]
        for other in retired:
            other.retired = True
        return retired

    def started(self, name: str, instance: str, since: float | None, now: float) -> None:
        """A start of a worker has its first connection in another process; None: its last one there is gone."""
        if since is None:
            self.starts.left(name, instance, self._present(name), now)
            return
        since = self.starts.came(name, instance, since, self._present(name), now)
        worker = self.workers.get(name)
        if worker is not None and instance in worker.instances:
            worker.instances[instance] = min(since, worker.instances[instance])

    def ordered(self, name: str, current: str | None, seen: Mapping[str, float], now: float) -> None:
        """What another process remembers of a worker's starts."""
        self.starts.learn(name, current, seen, self._present(name), now)

    def _present(self, name: str) -> Mapping[str, float]:
        """The instances of a worker that have a connection, and when each was first seen."""
        worker = self.workers.get(name)
        here = worker.instances if worker is not None else {}
        remote = self.watcher.starts_in_others(self.name, name) if self.watcher is not None else {}
        if not remote:
            return here
        both = dict(remote)
        for instance, since in here.items():
            both[instance] = min(since, both.get(instance, since))
        return both

    # ---- leases ----

    def lease(
        self,
        *,
        worker: str | None = None,
        label: Label | None = None,
        not_again: str | None = None,
        strict: bool = False,
    ) -> Slot | None:
        """Take a free slot, or None. A label is a wish: without a free worker that has it, any other will do, unless
        ``strict``."""
        if self.closed:
            return None
        chosen: Worker | None
        if worker is not None:
            chosen = self.workers.get(worker) if worker != not_again else None
        else:
            preferred = self._by_label.get(label) if label is not None else None
            chosen = preferred.first(not_again) if preferred is not None else None
            if chosen is None and not strict:
                chosen = self._levels.first(not_again)
        if chosen is None or not chosen.idle:
            return None
        slot = chosen.idle.pop(0)
        slot.busy = True
        chosen.busy += 1
        self.free -= 1
        self._replace(chosen)
        self._emit("slots", chosen.name)
        return slot

    def release(self, slot: Slot) -> None:
        """The request is over and the connection can take another; waiting requests come first."""
        if slot.gone or not slot.busy:
            return
        slot.busy = False
        slot.worker.busy -= 1
        self._emit("slots", slot.worker.name)
        self._make_free(slot)

    def wait(self, waiter: Waiter, *, others: int = 0, turn: int = 0) -> bool:
        """Let a request wait for a slot; False when the queue is full or the pool is closed.

        ``others``: how many wait in other processes; the queue is bounded for all together. ``turn``: see `WaitQueue`.
        """
        if self.closed or (waiter.is_ours and self.waiting + others >= self.queue):
            return False
        self.queued.add(waiter, turn)
        self._queue_changed()
        return True

    def give_up(self, waiter: Waiter) -> None:
        """Take a request out of the queue: its time is up or its client is gone."""
        if self.queued.remove(waiter):
            self._queue_changed()

    def give_up_all(self) -> list[Waiter]:
        """Empty the queue, for a drain; answer who waited."""
        waiters = self.queued.remove_all()
        self._queue_changed()
        return waiters

    def next_waiter(self, worker: str, *, own: bool = False) -> Waiter | None:
        """Take out of the queue whoever waits longest and may use a slot of this worker.

        ``own``: only a request of this process.
        """
        if not self.queued:
            return None
        waiter = self.queued.take_own(worker) if own else self.queued.take(worker)
        if waiter is not None:
            self._queue_changed()
        return waiter

    def snapshot(self) -> dict[str, object]:
        """The slots as ``GET /-/pools/{pool}`` shows them, without the list of workers."""
        return {"total": self.total, "free": self.free}

    # ---- inside ----

    def _make_free(self, slot: Slot) -> None:
        worker = slot.worker
        waiter = None if slot.retired or self.closed else self.next_waiter(worker.name)
        if waiter is not None:
            slot.busy = True
            worker.busy += 1
            self._replace(worker)
            waiter.offered(slot)
            if self.on_handed is not None:
                self.on_handed()
            return
        worker.idle.append(slot)
        self.free += 1
        self._replace(worker)
        self._emit("slots", worker.name)

    def _is_in_others(self, worker: str) -> bool:
        return self.watcher is not None and self.watcher.is_in_others(self.name, worker)

    def _queue_changed(self) -> None:
        if self.watcher is not None:
            self.watcher.pool(self)

    def _replace(self, worker: Worker) -> None:
        """Put a worker where its number of requests belongs, or nowhere when no slot of it is free."""
        level = worker.busy if worker.idle else None
        if level == worker.level:
            return
        self._take_out(worker)
        worker.level = level
        if level is not None:
            self._levels.add(worker.place, level)
            for at, label in enumerate(worker.labels):  # not zip(): that is an object more for every dispatch
                self._by_label[label].add(worker.label_places[at], level)

    def _take_out(self, worker: Worker) -> None:
        if worker.level is not None:
            Levels.discard(worker.place)
            for place in worker.label_places:
                Levels.discard(place)
            worker.level = None

    def _emit(self, kind: str, worker: str | None) -> None:
        if self.watcher is not None:
            self.watcher.pool(self)
        self.tell(kind, worker)

    def tell(self, kind: str, worker: str | None) -> None:
        """Tell the listeners of this process what happened, here or in another one."""
        if self.listeners:
            event = PoolEvent(kind=kind, worker=worker, total=self.total, free=self.free)
            for listener in tuple(self.listeners):
                listener(event)


def describe(pool: Pool, mode: str) -> dict[str, object]:
    """One pool as ``GET /-/pools/{pool}`` answers it."""
    return {
        "pool": pool.name,
        "mode": mode,
        "slots": pool.snapshot(),
        "waiting": pool.waiting,
        "workers": [
            {
                "name": worker.name,
                "protocol": worker.protocol,
                "slots": len(worker.slots),
                "busy": worker.busy,
                "since": stamp(worker.since),
                "labels": dict(worker.labels),
                "instance": max(worker.instances, key=worker.instances.__getitem__, default=None),
            }
            for worker in pool.workers.values()
        ],
    }


def stamp(epoch: float) -> str:
    """RFC 3339, UTC, milliseconds."""
    return datetime.fromtimestamp(epoch, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
