"""The data processes as one: started together or not at all, told things together, replaced when they end."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from support.fakegateway import COMMAND, FakeGateway, snapshot
from support.supervised import is_gone, until

from gateway.control.channel import ApplyState, Ask, Message, Question
from gateway.state.snapshot import StateSnapshot
from gateway.supervisor import fleet as fleets
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.launcher import Child


class Bench:
    """A fleet of the fake data plane, without a supervisor around it."""

    def __init__(self, place: Path, count: int, policy: str, ahead: list[Child]) -> None:
        self.gateway = FakeGateway(place, policy, processes=count)
        self.newest = self.gateway.loaded.snapshot
        self.log: list[str] = []
        self.due = asyncio.Event()
        self.lock = asyncio.Lock()
        self.fleet = Fleet(
            self.gateway.listeners,
            count,
            command=COMMAND,
            ahead=ahead,
            ledger=self.gateway.ledger,
            inputs=lambda stream: self.gateway.loaded.inputs(stream, snapshot=self.newest, nonce_key=b"n" * 32),
            state=lambda: (self.newest, 1.0),
            lock=self.lock,
            log=self.log.append,
            on_due=self.due.set,
            on_order=lambda _process, _order: None,
        )

    @property
    def pids(self) -> dict[str, int]:
        return {one.stream: one.pid for one in self.fleet.members}

    @property
    def is_served(self) -> bool:
        """Whether a process is a member and takes connections: it is a member a little earlier."""
        return any(one.serves for one in self.fleet.members)


@asynccontextmanager
async def bench(
    place: Path, count: int = 2, policy: str = "", ahead: list[Child] | None = None
) -> AsyncIterator[Bench]:
    made = Bench(place, count, policy, [] if ahead is None else ahead)
    try:
        yield made
    finally:
        async with asyncio.timeout(30):
            await made.fleet.stop()
        made.gateway.close()


def apply(state: StateSnapshot) -> Callable[[int], Message]:
    return lambda number: ApplyState(id=number, snapshot=state.to_bytes().decode())


def head(number: int) -> Message:
    return Ask(id=number, question=Question.AUDIT_HEAD)


async def test_fleet_starts_all_and_stops_all(tmp_path: Path) -> None:
    """In the order of their streams; none is left behind."""
    async with bench(tmp_path, 3) as made:
        assert await made.fleet.start() == ()
        pids = made.pids
        assert list(pids) == list(made.fleet.streams) == ["p0", "p1", "p2"]
        await made.fleet.stop()
        assert made.fleet.members == ()
        assert all(map(is_gone, pids.values()))


async def test_fleet_takes_processes_that_were_started_ahead(tmp_path: Path) -> None:
    """Those first; what it does not need stays the caller's."""
    ahead = [Child(COMMAND) for _ in range(2)]
    first, spare = ahead
    try:
        async with bench(tmp_path, 1, ahead=ahead) as made:
            assert await made.fleet.start() == ()
            assert made.pids == {"p0": first.pid}
            assert ahead == [spare]
    finally:
        spare.discard()


async def test_fleet_with_one_ahead_that_died_does_not_start_and_says_why(tmp_path: Path) -> None:
    """Nothing is served by half of a gateway."""
    dead = Child(COMMAND)
    os.kill(dead.pid, signal.SIGKILL)
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    async with bench(tmp_path, 2, ahead=[dead]) as made:
        ((path, message),) = await made.fleet.start()
        assert path == ""
        assert "did not start" in message
        assert made.fleet.members == ()


@pytest.mark.parametrize("policy", ["refuse", "crash-start"])
async def test_fleet_where_one_cannot_start_leaves_none(tmp_path: Path, policy: str) -> None:
    """Its problems are told, each once."""
    async with bench(tmp_path, 2, policy) as made:
        assert len(await made.fleet.start()) == 1
        assert made.fleet.members == ()


async def test_command_is_obeyed_by_all_and_who_does_not_answer_is_replaced(tmp_path: Path) -> None:
    """Every process has acted when it returns: the connections of a dead one are closed."""
    async with bench(tmp_path) as made:
        assert await made.fleet.start() == ()
        answers = await made.fleet.command(apply(snapshot(2, revoked=3)))
        assert {stream: done.cut for stream, done in answers.items()} == {"p0": 3, "p1": 3}
        stopped = made.pids["p1"]
        os.kill(stopped, signal.SIGSTOP)
        answers = await made.fleet.command(apply(snapshot(3)), within=0.3)
        assert list(answers) == ["p0"]
        assert is_gone(stopped)
        await until(lambda: len(made.fleet.members) == 2)
        assert made.fleet.restarts == {"p0": 0, "p1": 1}
        assert made.pids["p1"] != stopped


async def test_process_that_owes_two_answers_is_killed_once_with_the_reason(tmp_path: Path) -> None:
    """Whoever waits for another answer of it says nothing: that its socket closed is no reason."""
    async with bench(tmp_path) as made:
        assert await made.fleet.start() == ()
        os.kill(made.pids["p1"], signal.SIGSTOP)
        await asyncio.gather(
            made.fleet.command(apply(snapshot(2)), within=0.3), made.fleet.command(apply(snapshot(3)), within=20)
        )
        assert ["no answer" in line for line in made.log if "is killed" in line] == [True]


async def test_question_kills_nobody_for_silence(tmp_path: Path) -> None:
    """Who asks is told by those that answer in time."""
    async with bench(tmp_path) as made:
        assert await made.fleet.start() == ()
        stopped = made.pids["p0"]
        os.kill(stopped, signal.SIGSTOP)
        assert list(await made.fleet.ask(Question.STATUS, within=0.3)) == ["p1"]
        assert made.pids["p0"] == stopped
        os.kill(stopped, signal.SIGCONT)
        assert list(await made.fleet.ask(Question.STATUS, within=20)) == ["p0", "p1"]


async def test_hearing_waits_for_a_slow_one_no_longer_than_its_patience(tmp_path: Path) -> None:
    """It owes the answer of before: it is asked nothing new, and when it answers all are heard again."""
    async with bench(tmp_path) as made:
        assert await made.fleet.start() == ()
        stopped = made.pids["p0"]
        os.kill(stopped, signal.SIGSTOP)
        for _ in range(3):
            assert list(await made.fleet.collect(head, patience=0.1, within=30)) == ["p1"]
        os.kill(stopped, signal.SIGCONT)
        async with asyncio.timeout(20):
            while "p0" not in await made.fleet.collect(head, patience=0.1, within=30):
                pass
        assert made.pids["p0"] == stopped


async def test_process_that_ends_is_replaced_ever_more_slowly(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It keeps its stream; each end is told with its cause and the pause."""
    monkeypatch.setattr(fleets, "BACKOFF_FIRST", 0.01)
    async with bench(tmp_path, 1) as made:
        assert await made.fleet.start() == ()
        for count in (1, 2):
            os.kill(made.pids["p0"], signal.SIGKILL)
            await until(lambda count=count: made.fleet.restarts["p0"] == count and made.is_served)
        ends = [line for line in made.log if "ended by signal 9" in line]
        assert [line.rsplit("starts in ", 1)[1] for line in ends] == ["0.01 s", "0.02 s"]


async def test_process_that_is_replaced_has_the_newest_state_before_it_serves(tmp_path: Path) -> None:
    """Whatever was pushed while it was down."""
    async with bench(tmp_path, 1) as made:
        assert await made.fleet.start() == ()
        old = made.pids["p0"]
        made.newest = snapshot(7)
        os.kill(old, signal.SIGKILL)
        await until(lambda: any(one.pid != old and one.serves for one in made.fleet.members))
        answers = await made.fleet.ask(Question.STATUS, within=20)
        assert answers["p0"].value["started_with"] == 7


async def test_change_without_a_process_is_refused(tmp_path: Path) -> None:
    """A reload is taken up by all, and nobody is not all."""
    async with bench(tmp_path, 1) as made:
        ((_, message),) = await made.fleet.reconfigure(made.gateway.loaded.inputs)  # type: ignore[arg-type]
        assert "no data process runs" in message


async def test_fleet_that_was_released_replaces_nobody(tmp_path: Path) -> None:
    """At the end a process that ends stays ended."""
    async with bench(tmp_path, 1) as made:
        assert await made.fleet.start() == ()
        (process,) = made.fleet.members
        made.fleet.release()
        made.fleet.kill()
        async with asyncio.timeout(20):
            assert await process.ended() == -signal.SIGKILL
        assert made.fleet.restarts == {"p0": 0}
