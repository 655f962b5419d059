"""Pools: the right slot, the right waiter, sums that add up, and a cost that does not grow with the fleet."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gateway.pools.least_busy import Label, Slot
from gateway.pools.slots import Pool, PoolEvent, describe

NAMES = ["w1", "w2", "w3", "w4"]
LABELS: dict[str, tuple[Label, ...]] = {
    "w1": (("gpu", "a"),),
    "w2": (("gpu", "a"), ("zone", "b")),
    "w3": (("zone", "b"),),
    "w4": (),
}
GPU: Label = ("gpu", "a")


class Waiting:
    """A request in the queue."""

    def __init__(self, worker: str | None = None) -> None:
        self.worker = worker
        self.label: Label | None = None
        self.is_ours = True
        self.slot: Slot | None = None

    def offered(self, slot: Slot) -> None:
        assert self.slot is None, "offered twice"
        assert slot.busy
        self.slot = slot


class PoolModel(RuleBasedStateMachine):
    """The pool beside the plainest model: lists that are searched from end to end."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = Pool("render", queue=5)
        self.idle: dict[str, list[Slot]] = {name: [] for name in NAMES}
        self.busy: dict[str, list[Slot]] = {name: [] for name in NAMES}
        self.order: list[str] = []
        """Workers in the order in which they came to their level."""
        self.queue: list[Waiting] = []
        self.links = 0

    # -- the model --

    def level(self, name: str) -> int | None:
        return len(self.busy[name]) if self.idle[name] else None

    def changing(self, name: str, change: Callable[[], None]) -> None:
        """Apply a change to one worker; when its level is another one then, it goes to the end of that level."""
        before = self.level(name)
        change()
        if self.level(name) != before or before is None:
            if name in self.order:
                self.order.remove(name)
            if self.level(name) is not None:
                self.order.append(name)

    def freed(self, slot: Slot) -> None:
        """A slot is free: whoever waits longest and may have it gets it; the pool must have said so."""
        name = slot.worker.name
        for waiter in self.queue:
            if waiter.worker in (None, name):
                self.queue.remove(waiter)
                assert waiter.slot is slot
                self.changing(name, lambda: self.busy[name].append(slot))
                return
        self.changing(name, lambda: self.idle[name].append(slot))

    def best(self, *, worker: str | None, label: Label | None, not_again: str | None) -> str | None:
        names = [name for name in self.order if name != not_again and (worker is None or name == worker)]
        wished = [name for name in names if label in LABELS[name]] if worker is None else []
        choice = wished or names
        return min(choice, key=lambda name: len(self.busy[name])) if choice else None

    # -- what can happen --

    @rule(name=st.sampled_from(NAMES))
    def add(self, name: str) -> None:
        self.links += 1
        slot = self.pool.add(name, f"link {self.links}", labels=LABELS[name], now=1000.0)
        self.freed(slot)

    @rule(
        worker=st.none() | st.sampled_from(NAMES),
        label=st.none() | st.sampled_from([GPU, ("zone", "b"), ("no", "such")]),
        not_again=st.none() | st.sampled_from(NAMES),
    )
    def lease(self, worker: str | None, label: Label | None, not_again: str | None) -> None:
        slot = self.pool.lease(worker=worker, label=label, not_again=not_again)
        name = self.best(worker=worker, label=label, not_again=not_again)
        if name is None:
            assert slot is None
            return
        assert slot is not None
        assert slot.worker.name == name, "the least busy, then the longest in its level"
        assert slot is self.idle[name][0], "the longest idle slot of the worker"
        self.changing(name, lambda: self.busy[name].append(self.idle[name].pop(0)))

    def slots(self, which: dict[str, list[Slot]]) -> list[Slot]:
        return [slot for name in NAMES for slot in which[name]]

    @precondition(lambda self: self.slots(self.busy))
    @rule(number=st.integers(0, 100))
    def release(self, number: int) -> None:
        busy = self.slots(self.busy)
        slot = busy[number % len(busy)]
        name = slot.worker.name
        self.pool.release(slot)
        if any(waiter.worker in (None, name) for waiter in self.queue):
            self.busy[name].remove(slot)  # handed on at once: the worker's level never changes
            before = list(self.order)
            self.freed(slot)
            assert self.order == before
        else:

            def back() -> None:
                self.busy[name].remove(slot)
                self.idle[name].append(slot)

            self.changing(name, back)

    @precondition(lambda self: self.slots(self.busy) + self.slots(self.idle))
    @rule(number=st.integers(0, 100))
    def remove(self, number: int) -> None:
        slots = self.slots(self.busy) + self.slots(self.idle)
        slot = slots[number % len(slots)]
        name = slot.worker.name
        for _ in range(2):  # the second time is ignored
            self.pool.remove(slot)
        self.pool.release(slot)
        which = self.busy if slot in self.busy[name] else self.idle
        self.changing(name, lambda: which[name].remove(slot))

    @rule(worker=st.none() | st.sampled_from(NAMES))
    def wait(self, worker: str | None) -> None:
        if (worker is None and self.order) or (worker is not None and self.idle[worker]):
            return  # a request waits only when there was nothing for it
        waiter = Waiting(worker)
        assert self.pool.wait(waiter) is (len(self.queue) < 5)
        if waiter in self.pool.queued:
            self.queue.append(waiter)
        else:
            assert len(self.queue) == 5

    @precondition(lambda self: self.queue)
    @rule(number=st.integers(0, 100))
    def give_up(self, number: int) -> None:
        waiter = self.queue.pop(number % len(self.queue))
        for _ in range(2):
            self.pool.give_up(waiter)
        assert waiter not in self.pool.queued

    # -- what always holds --

    @invariant()
    def sums_are_right(self) -> None:
        pool = self.pool
        idle, busy = self.slots(self.idle), self.slots(self.busy)
        assert (pool.free, pool.total, pool.waiting) == (len(idle), len(idle) + len(busy), len(self.queue))
        assert set(pool.workers) == {slot.worker.name for slot in idle + busy}
        for name, worker in pool.workers.items():
            assert worker.busy == len(self.busy[name])
            assert list(worker.idle) == self.idle[name]
            assert set(worker.slots) == {*self.idle[name], *self.busy[name]}
            assert len(worker.slots) == len(self.idle[name]) + len(self.busy[name])
        assert all(slot.busy for slot in busy)
        assert not any(slot.busy for slot in idle)

    @invariant()
    def nothing_is_kept_of_what_is_gone(self) -> None:
        pool = self.pool
        line = pool.queued
        assert len(line) == len(self.queue)
        assert len(line._any) <= 2 * len(self.queue) + 17
        named = [waiter for waiter in self.queue if waiter.worker is not None]
        assert sum(map(len, line._workers.values())) == len(named)
        assert (line.own, line.own_any) == (len(self.queue), len(self.queue) - len(named))
        assert set(pool._by_label) == {label for name in pool.workers for label in LABELS[name]}


TestPool = PoolModel.TestCase
TestPool.settings = settings(max_examples=100, stateful_step_count=50, deadline=None)


def filled(*names: str) -> tuple[Pool, dict[str, Slot]]:
    pool = Pool("render", queue=10)
    return pool, {name: pool.add(name, object(), now=0.0, labels=LABELS.get(name, ())) for name in names}


def test_pool_takes_the_least_busy_then_the_longest_idle_worker() -> None:
    """One example to read: load spreads, and who came back last is asked last."""
    pool, slots = filled("w1", "w2")
    pool.add("w1", object(), now=0.0)
    assert [slot.worker.name for _ in range(3) if (slot := pool.lease())] == ["w1", "w2", "w1"]
    assert pool.lease() is None
    pool.release(slots["w2"])
    pool.release(slots["w1"])
    assert pool.lease() is slots["w2"]  # idle with nothing to do; w1 still serves one


def test_pool_label_is_a_wish_only() -> None:
    """Who has it first; when none of them is free, anybody."""
    pool, slots = filled("w4", "w1")
    assert pool.lease(label=GPU) is slots["w1"]
    assert pool.lease(label=GPU) is slots["w4"]


def test_pool_never_leases_the_worker_that_was_just_lost() -> None:
    """A second try goes elsewhere or nowhere, also when a label or the very worker is asked for."""
    pool, _ = filled("w1")
    assert pool.lease(not_again="w1") is None
    assert pool.lease(not_again="w1", label=GPU) is None
    assert pool.lease(not_again="w1", worker="w1") is None
    assert pool.free == 1


def test_pool_hands_a_slot_to_the_longest_waiter_that_may_have_it() -> None:
    """First come first served, over those who want any worker and those who want this one."""
    pool = Pool("render", queue=10)
    waiters = [Waiting("w2"), Waiting(), Waiting("w1"), Waiting()]
    for waiter in waiters:
        assert pool.wait(waiter)
    slot = pool.add("w1", object(), now=0.0)
    assert waiters[1].slot is slot
    pool.release(slot)
    assert waiters[2].slot is slot
    pool.release(slot)
    assert waiters[3].slot is slot
    assert waiters[0] in pool.queued
    assert pool.waiting == 1


def test_pool_queue_is_bounded_and_gives_places_back() -> None:
    """At the bound nobody more may wait; who gives up makes room, and nothing of them is kept."""
    pool = Pool("render", queue=3)
    waiting = [Waiting(), Waiting("w1"), Waiting()]
    assert all(pool.wait(waiter) for waiter in waiting)
    assert not pool.wait(Waiting())
    assert not pool.wait(Waiting("w1"))
    for _ in range(1000):
        pool.give_up(waiting.pop(0))
        waiting.append(Waiting())
        assert pool.wait(waiting[-1])
    assert len(pool.queued._any) + len(pool.queued._workers) <= 3


def test_pool_closed_leases_nothing_and_lets_nobody_wait() -> None:
    """For a drain: whoever waited is named, a slot that comes back stays free."""
    pool, slots = filled("w1")
    assert pool.lease() is slots["w1"]
    waiters = [Waiting(), Waiting("w1")]
    for waiter in waiters:
        pool.wait(waiter)
    pool.closed = True
    assert pool.give_up_all() == waiters
    assert pool.waiting == 0
    pool.release(slots["w1"])
    assert pool.lease() is None
    assert not pool.wait(Waiting())
    assert [waiter.slot for waiter in waiters] == [None, None]


# ---- instances ----


def of_instance(pool: Pool, instance: str | None, name: str = "w1") -> Slot:
    return pool.add(name, object(), now=0.0, instance=instance)


def test_newer_instance_supersedes_once_it_was_seen_serving() -> None:
    """Not at its arrival: a new start that cannot serve must not take the old one down."""
    pool = Pool("render", queue=10)
    old = [of_instance(pool, "a"), of_instance(pool, "a")]
    other = of_instance(pool, "a", "w2")
    new = of_instance(pool, "b")
    assert not any(slot.retired for slot in old)
    assert sorted(map(id, pool.served(new))) == sorted(map(id, old))
    assert all(slot.retired for slot in old)
    assert not other.retired
    assert not new.retired
    assert pool.served(new) == []


@pytest.mark.parametrize(("first", "second"), [(None, "b"), ("a", None), ("a", "a"), (None, None)])
def test_instances_that_do_not_name_themselves_never_supersede(first: str | None, second: str | None) -> None:
    """Nor are they superseded; nor does an instance supersede itself."""
    pool = Pool("render", queue=10)
    of_instance(pool, first)
    assert pool.served(of_instance(pool, second)) == []


def test_older_instance_never_supersedes_a_newer_one() -> None:
    """Its late answers change nothing."""
    pool = Pool("render", queue=10)
    old, new = of_instance(pool, "a"), of_instance(pool, "b")
    assert pool.served(old) == []
    assert not new.retired


def test_slot_that_is_retired_gets_no_waiter() -> None:
    """It serves what it has and nothing new, though somebody waits."""
    pool = Pool("render", queue=10)
    old = of_instance(pool, "a")
    assert pool.lease() is old
    waiter = Waiting()
    pool.wait(waiter)
    old.retired = True
    pool.release(old)
    assert waiter.slot is None


def test_instances_are_forgotten_with_their_last_slot() -> None:
    """A thousand starts of one worker leave nothing behind."""
    pool = Pool("render", queue=10)
    stays = of_instance(pool, "stays")
    for number in range(1000):
        pool.remove(of_instance(pool, f"i{number}"))
    assert list(stays.worker.instances) == ["stays"]


# ---- telling ----


def test_pool_tells_its_listeners_what_happened() -> None:
    """Joins, leaves and sums, in order; a listener may leave while it is told."""
    pool = Pool("render", queue=10)
    told: list[PoolEvent] = []
    pool.listeners.add(told.append)
    slot = pool.add("w1", object(), now=0.0)
    assert pool.lease() is slot
    pool.release(slot)
    pool.remove(slot)
    kinds = [(event.kind, event.worker) for event in told]
    assert kinds[0] == ("worker-joined", "w1")
    assert kinds[-1] == ("worker-left", "w1")
    assert set(kinds[1:-1]) == {("slots", "w1")}
    assert (told[-1].total, told[-1].free) == (0, 0)
    pool.listeners.clear()

    def leave(event: PoolEvent) -> None:
        pool.listeners.discard(leave)

    pool.listeners.add(leave)
    pool.add("w2", object(), now=0.0)
    assert not pool.listeners


def test_pool_describes_itself_as_documented() -> None:
    """The shape of ``GET /-/pools/{pool}``."""
    pool = Pool("render", queue=10)
    slot = pool.add("w1", object(), labels=[GPU], protocol="ptth/1.0", instance="i1", now=1_767_225_600.1234)
    pool.add("w1", object(), now=0.0)
    assert pool.lease() is slot
    pool.wait(Waiting("w2"))
    assert describe(pool, "hosted") == {
        "pool": "render",
        "mode": "hosted",
        "slots": {"total": 2, "free": 1},
        "waiting": 1,
        "workers": [
            {
                "name": "w1",
                "protocol": "ptth/1.0",
                "slots": 2,
                "busy": 1,
                "since": "2026-01-01T00:00:00.123Z",
                "labels": {"gpu": "a"},
                "instance": "i1",
            }
        ],
    }
