"""A data process alone at its control socket: when it obeys, and when it ends rather than go on."""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from support.fakegateway import COMMAND, FakeState, make_loaded, snapshot
from support.supervised import is_gone

from gateway.control.channel import (
    ApplyState,
    Ask,
    Commit,
    ControlChannel,
    ControlError,
    Done,
    Drain,
    Hello,
    Message,
    Prepare,
    Question,
    Rollback,
    Start,
)
from gateway.control.descriptors import Inherited
from gateway.supervisor.launcher import Child


class Alone:
    """The supervisor's end of one data process."""

    def __init__(self) -> None:
        self.seen: list[Message] = []
        self.hello = asyncio.Event()
        self.closed = asyncio.Event()
        self.process: Child
        self.channel: ControlChannel

    def take(self, message: Message) -> None:
        self.seen.append(message)
        self.hello.set()

    async def call(self, make: Callable[[int], Message]) -> Done:
        return await self.channel.call(make, within=20)

    async def ended(self) -> int:
        async with asyncio.timeout(20):
            await self.closed.wait()
            return await self.process.wait()

    async def prepare(self, place: Path, policy: str = "") -> Done:
        loaded = make_loaded(place, FakeState(), policy)
        wire = loaded.inputs("p0", snapshot=loaded.snapshot, nonce_key=b"n" * 32).to_wire()
        return await self.call(lambda number: Prepare(id=number, inputs=wire))


@asynccontextmanager
async def alone() -> AsyncIterator[Alone]:
    """A data process that said hello."""
    made = Alone()
    ours, theirs = socket.socketpair()
    made.process = Child(COMMAND)
    made.process.inherit(Inherited(control=theirs.fileno()))
    theirs.close()
    made.channel = await ControlChannel.open(ours, on_message=made.take, on_close=made.closed.set)
    try:
        async with asyncio.timeout(30):
            await made.hello.wait()
        yield made
    finally:
        made.channel.close()
        made.process.kill()
        await made.process.wait()
        await made.closed.wait()


async def test_process_says_hello_with_its_pid() -> None:
    """The supervisor knows that it is talking to the process that it started."""
    async with alone() as one:
        assert one.seen == [Hello(pid=one.process.pid)]


async def test_process_without_its_supervisor_ends_at_once() -> None:
    """A closed control socket needs no further word."""
    async with alone() as one:
        one.channel.close()
        assert await one.ended() == 0


async def test_process_prepares_commits_and_answers(tmp_path: Path) -> None:
    """The order of a start, as the supervisor drives it."""
    async with alone() as one:
        assert (await one.prepare(tmp_path)).problems == ()
        await one.call(lambda number: Commit(id=number))
        await one.call(lambda number: Start(id=number))
        applied = await one.call(lambda number: ApplyState(id=number, snapshot=snapshot(2, 3).to_bytes().decode()))
        assert applied.cut == 3
        status = await one.call(lambda number: Ask(id=number, question=Question.STATUS))
        assert status.value["states"] == [2]


async def test_process_applies_state_while_it_prepares(tmp_path: Path) -> None:
    """A revocation waits for no configuration; what was prepared with an older state does not bring that back."""
    async with alone() as one:
        await one.prepare(tmp_path)
        await one.call(lambda number: Commit(id=number))
        await one.call(lambda number: Start(id=number))
        (tmp_path / "hold").touch()
        preparing = asyncio.create_task(one.prepare(tmp_path, "hold-prepare"))
        async with asyncio.timeout(30):
            while not (tmp_path / "held").exists():
                await asyncio.sleep(0.01)
        newer = replace(snapshot(2, 3), read=1).to_bytes().decode()
        assert (await one.call(lambda number: ApplyState(id=number, snapshot=newer))).cut == 3
        assert not preparing.done()
        (tmp_path / "hold").unlink()
        assert (await preparing).problems == ()
        await one.call(lambda number: Commit(id=number))
        status = await one.call(lambda number: Ask(id=number, question=Question.STATUS))
        assert (status.value["commits"], status.value["states"], status.value["snapshot"]) == (2, [2], 2)


async def test_process_with_unusable_material_answers_a_problem(tmp_path: Path) -> None:
    """A material that is none refuses the reload and ends nothing."""
    async with alone() as one:
        done = await one.call(lambda number: Prepare(id=number, inputs={"config_text": "x"}))
        assert "cannot be used" in done.problems[0][1]
        assert (await one.prepare(tmp_path)).problems == ()


async def test_process_whose_prepare_fails_lives_on(tmp_path: Path) -> None:
    """What runs is untouched by what could not be prepared."""
    async with alone() as one:
        assert "RuntimeError" in (await one.prepare(tmp_path, "crash-prepare")).problems[0][1]
        assert (await one.prepare(tmp_path)).problems == ()
        await one.call(lambda number: Rollback(id=number))


async def test_process_asked_too_early_says_that_it_cannot_tell() -> None:
    """A question that cannot be answered ends nobody's connection."""
    async with alone() as one:
        done = await one.call(lambda number: Ask(id=number, question=Question.STATUS))
        assert "cannot be told" in done.problems[0][1]


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda number: Commit(id=number), id="commit of nothing"),
        pytest.param(lambda number: Start(id=number), id="start of nothing"),
        pytest.param(lambda number: ApplyState(id=number, snapshot="{}"), id="snapshot that is none"),
        pytest.param(lambda number: Drain(id=number, timeout=0.0), id="drain of nothing"),
        pytest.param(lambda number: Hello(pid=1), id="word of a process"),
    ],
)
async def test_process_that_cannot_obey_ends(make: Callable[[int], Message]) -> None:
    """A process that did not do what keeps it safe closes everything by ending."""
    async with alone() as one:
        with pytest.raises(ControlError):
            await one.call(make)
        assert await one.ended() == 70


async def test_process_drained_ends_with_0(tmp_path: Path) -> None:
    """After a drain the closing of the control socket is the expected end."""
    async with alone() as one:
        await one.prepare(tmp_path)
        await one.call(lambda number: Commit(id=number))
        await one.call(lambda number: Start(id=number))
        await one.call(lambda number: Drain(id=number, timeout=1.0))
        assert not is_gone(one.process.pid)
        one.channel.close()
        assert await one.ended() == 0


def test_process_started_by_hand_says_who_starts_it() -> None:
    """Who runs the module learns what to run instead."""
    result = subprocess.run(
        [sys.executable, "-P", "-m", "gateway.dataplane.main"], capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 2
    assert "rhttp-pki gateway" in result.stderr
