"""State on its way: pushed once for each version, never called fresh when it could not be read."""

from __future__ import annotations

import asyncio
import time

import pytest
from support.fakegateway import FakeState, snapshot

from gateway.state.database import StateUnavailable
from gateway.state.snapshot import StateSnapshot
from gateway.state.watch import Pushed, StateUnreadable, StateWatch
from rhttp.clock import elapsed


class Processes:
    """Everyone that state is pushed to."""

    def __init__(self) -> None:
        self.state = FakeState()
        self.pushed: list[int] = []
        self.fresh: list[float] = []
        self.log: list[str] = []
        self.told = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()
        self.watch = StateWatch(
            self.state,
            self.state.load(),
            push=self.push,
            fresh=self.is_fresh,
            log=self.log.append,
            interval=0.005,
        )

    async def push(self, value: StateSnapshot) -> int:
        await self.gate.wait()
        self.pushed.append(value.version)
        return len(value.revoked)

    def is_fresh(self, at: float) -> None:
        self.fresh.append(at)
        self.told.set()


async def test_refresh_pushes_a_version_once_and_remembers_what_it_cut() -> None:
    """Asked twice, the answer is the same and nobody is cut twice."""
    processes = Processes()
    processes.state.now = snapshot(2, revoked=4)
    assert await processes.watch.refresh() == Pushed(version=2, cut=4)
    assert await processes.watch.refresh() == Pushed(version=2, cut=4)
    assert processes.pushed == [2]


async def test_refresh_beside_a_push_waits_for_it() -> None:
    """A command never hears "done" while the poll's push of its change is still under way."""
    processes = Processes()
    processes.gate.clear()
    processes.state.now = snapshot(2, revoked=1)
    first, second = (asyncio.create_task(processes.watch.refresh()) for _ in range(2))
    await asyncio.sleep(0.05)
    assert not first.done()
    assert not second.done()
    processes.gate.set()
    assert await first == await second == Pushed(version=2, cut=1)


async def test_refresh_waits_for_no_push_of_what_was_read_before() -> None:
    """A process that is slow to take up one revocation does not hold up the next one."""
    processes = Processes()
    processes.gate.clear()
    processes.state.now = snapshot(2, revoked=1)
    slow = asyncio.create_task(processes.watch.refresh())
    while processes.watch.snapshot.version != 2:
        await asyncio.sleep(0.005)
    processes.gate, held = asyncio.Event(), processes.gate
    processes.gate.set()
    processes.state.now = snapshot(3, revoked=2)
    assert await processes.watch.refresh() == Pushed(version=3, cut=2)
    assert not slow.done()
    held.set()
    assert await slow == Pushed(version=2, cut=1)


async def test_snapshots_are_numbered_in_the_order_in_which_they_were_read() -> None:
    """Also when a restored database goes back: what was read last is the newest."""
    processes = Processes()
    reads = [processes.watch.snapshot.read]
    for version in (5, 3, 3, 4):
        processes.state.now = snapshot(version)
        await processes.watch.refresh()
        reads.append(processes.watch.snapshot.read)
    assert reads == [0, 1, 2, 2, 3]


async def test_poll_waits_for_no_push() -> None:
    """What somebody else writes is pushed within a poll, whatever a process does with what came before."""
    processes = Processes()
    processes.gate.clear()
    running = asyncio.create_task(processes.watch.run())
    for version in (2, 3):
        processes.state.now = snapshot(version)
        async with asyncio.timeout(10):
            while processes.watch.snapshot.version != version:
                await asyncio.sleep(0.005)
    processes.gate.set()
    async with asyncio.timeout(10):
        while sorted(processes.pushed) != [2, 3]:  # each says which reading it is, so their order says nothing
            await asyncio.sleep(0.005)
    running.cancel()


async def test_refresh_to_an_older_version_is_pushed_too() -> None:
    """A restored backup is a change like any other."""
    processes = Processes()
    processes.state.now = snapshot(0)
    await processes.watch.refresh()
    assert processes.pushed == [0]


async def test_freshness_is_the_time_before_the_read() -> None:
    """What was written during the read may be missing from it, so the read's beginning counts."""
    processes = Processes()
    before = elapsed()
    load = processes.state.load

    def slow() -> StateSnapshot:
        time.sleep(0.05)
        return load()

    processes.state.load = slow  # type: ignore[method-assign]
    await processes.watch.refresh()
    assert before <= processes.fresh[-1] < before + 0.05


async def test_state_unreadable_is_told_once_and_never_called_fresh() -> None:
    """Nobody takes silence of the database for good news."""
    processes = Processes()
    processes.state.fault = StateUnavailable("the state database is missing")
    for _ in range(2):
        with pytest.raises(StateUnreadable):
            await processes.watch.refresh()
    assert processes.fresh == []
    assert not processes.watch.readable
    assert processes.log == [
        "the state cannot be read, so admissions end when it is stale: the state database is missing"
    ]
    processes.state.fault = None
    await processes.watch.refresh()
    assert processes.log[1:] == ["the state can be read again"]


async def test_state_fault_of_a_driver_is_not_quoted() -> None:
    """A driver's text may hold parameters or the password of the database's URL."""
    processes = Processes()
    processes.state.fault = RuntimeError("password=hunter2")
    with pytest.raises(StateUnreadable) as caught:
        await processes.watch.refresh()
    assert "hunter2" not in str(caught.value) + "".join(processes.log)


async def test_poll_tells_freshness_pushes_changes_and_survives_faults() -> None:
    """The poll goes on through everything that a database can do."""
    processes = Processes()
    running = asyncio.create_task(processes.watch.run())

    async def told() -> None:
        processes.told.clear()
        async with asyncio.timeout(10):
            await processes.told.wait()

    await told()
    assert processes.pushed == []
    processes.state.now = snapshot(2)
    while processes.pushed != [2]:
        await told()
    processes.state.fault = StateUnavailable("gone")
    async with asyncio.timeout(10):
        while processes.watch.readable:
            await asyncio.sleep(0.005)
    processes.state.fault = None
    processes.state.now = snapshot(3)
    while processes.pushed != [2, 3]:
        await told()
    running.cancel()
