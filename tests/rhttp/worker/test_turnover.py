"""Connections of a renewed certificate take the place of the old ones: no slot is missing, no request is lost."""

from __future__ import annotations

import asyncio
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support.agents import Echo, digest, running
from support.homes import run_cli
from support.standin import SWITCH, Switched, refusal, stand_in, worker_home

from rhttp.http1.answer import Phase
from rhttp.worker import agent as agent_module
from rhttp.worker import turnover as turnover_module
from rhttp.worker.bundle import load_bundle
from rhttp.worker.turnover import Turnover


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return worker_home(tmp_path / "home")


@pytest.fixture
def place(home: Path) -> Path:
    return home / "bundles" / "w1"


@pytest.fixture(autouse=True)
def is_quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits five seconds for an agent to look at its bundle, or long for connections that nobody uses."""
    monkeypatch.setattr(agent_module, "LOOK", 0.2)
    monkeypatch.setattr(turnover_module, "PATIENCE", 0.6)


@pytest.fixture
def is_patient(monkeypatch: pytest.MonkeyPatch, is_quick: None) -> None:
    """A connection that was let go waits for its last request, however slow the test is."""
    monkeypatch.setattr(turnover_module, "PATIENCE", 600.0)


async def renew(home: Path, place: Path) -> None:
    assert (await asyncio.to_thread(run_cli, home, "renew", place)).exit_code == 0


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not is_so():
            await asyncio.sleep(0.02)


@pytest.mark.usefixtures("is_patient")
async def test_new_connection_is_there_before_the_old_one_goes(home: Path, place: Path) -> None:
    """With one slot: the second comes while the first serves on; the first's next answer is its last."""
    async with stand_in(home, digest) as peer, running(place, peer.url) as (agent, told):
        old = await peer.next()
        await renew(home, place)
        new = await peer.next()
        head, content = await old.get("/old")
        assert (b"Connection: close" in head, content) == (True, b"/old")
        assert await old.ended() == b""
        assert (await new.get("/new"))[1] == b"/new"
        assert peer.serials[0] != peer.serials[-1] == int(agent.bundle.serial, 16)
        assert min(status.open for status in told.states if status.open) == 1
        await told.until(lambda status: status.open == 1)
        assert agent.status().served == 2


async def test_old_connection_that_nobody_uses_is_closed(home: Path, place: Path) -> None:
    """Without requests all old ones end too, a few at a time, and there are never fewer than slots."""
    async with stand_in(home, digest) as peer, running(place, peer.url, slots=4) as (agent, told):
        await asyncio.wait_for(agent.connected(), 20)
        old = [await peer.next() for _ in range(4)]
        told.states.clear()
        await renew(home, place)
        for gateway in old:
            assert await gateway.ended() == b""
        await until(lambda: agent.status().open == 4)
        assert {status.open for status in told.states} == {4, 5}
        assert len(set(peer.serials[-4:])) == 1


async def test_busy_connection_finishes_first_and_slots_bound_what_runs(home: Path, place: Path) -> None:
    """While the one slot is busy, a request on the new connection waits: two connections are not two requests."""
    echo = Echo()
    async with stand_in(home, digest) as peer, running(place, peer.url, echo) as (agent, _):
        old = await peer.next()
        held = asyncio.create_task(old.get("/hold"))
        await asyncio.wait_for(echo.holding.wait(), 20)
        await renew(home, place)
        new = await peer.next()
        await until(lambda: agent.status().open == 2)
        asked = asyncio.create_task(new.get("/new"))
        done, _ = await asyncio.wait([asked, held], timeout=0.6)
        assert (done, agent.status().served) == (set(), 1)
        echo.release()
        head, content = await held
        assert (b"Connection: close" in head, content) == (True, b"held")
        assert (await asked)[1] == b"/new"
        assert await old.ended() == b""


async def test_new_certificate_that_is_refused_leaves_the_old_connections(
    home: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A renewal that the gateway does not take costs no slot; it is told, and the next one is tried."""
    first = int(load_bundle(place).serial, 16)
    async with stand_in(home, digest) as peer:
        peer.answer = lambda head: digest(head) if peer.serials[-1] == first else refusal(b"403 Forbidden")
        with caplog.at_level(logging.WARNING, "rhttp"):
            async with running(place, peer.url, slots=2) as (agent, told):
                old = [await peer.next() for _ in range(2)]
                await renew(home, place)
                await told.until(lambda status: status.problem is not None)
                for gateway in old:
                    assert b"Connection: close" not in (await gateway.get())[0]
                assert agent.status().open == 2
                peer.answer = digest
                for gateway in old:
                    await ended(gateway)
                await told.until(lambda status: status.problem is None and status.open == 2)
    assert "may not serve the pool" in caplog.text


async def ended(gateway: Switched) -> None:
    """Wait for the end of a connection."""
    assert await gateway.ended() == b""


async def test_gateway_that_takes_no_more_has_the_old_ones_closed_first(home: Path, place: Path) -> None:
    """At the gateway's bound there is no room for one more: a quarter of the old ones makes room, without a word."""
    most, open_now = 4, 0
    crowded = refusal(b"503 Service Unavailable", body=b'{"type": "urn:rhttp:problem:overloaded"}')

    def answer(head: bytes) -> bytes:
        nonlocal open_now
        said = digest(head)
        if said != SWITCH:
            return said
        if open_now >= most:
            return crowded
        open_now += 1
        return SWITCH

    async with stand_in(home, answer) as peer, running(place, peer.url, slots=most) as (agent, told):
        await asyncio.wait_for(agent.connected(), 20)
        await renew(home, place)
        for _ in range(most):
            await ended(await peer.next())
            open_now -= 1
        new = {agent.bundle.serial}
        await until(lambda: {one.session.bundle.serial for one in agent._open} == new and len(agent._open) == most)
        assert [status.problem for status in told.states if status.problem] == []


async def test_bundle_that_does_not_fit_together_is_told_once(
    home: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """A key of another certificate: one line, the old ones stay in use, and what is mended is taken up."""
    assert run_cli(home, "issue-worker", "w2", "--pool", "render").exit_code == 0
    right = (place / "key.pem").read_bytes()
    with caplog.at_level(logging.INFO, "rhttp"):
        async with stand_in(home, digest) as peer, running(place, peer.url) as (agent, _):
            old = await peer.next()
            shutil.copy(home / "bundles" / "w2" / "key.pem", place / "key.pem")
            await until(lambda: "the old one stays in use" in caplog.text)
            for _ in range(3):
                agent._look()
            assert (await old.get())[1] == b"/"
            (place / "key.pem").write_bytes(right)
            await until(lambda: "the bundle changed; its certificate is now" in caplog.text)
    assert caplog.text.count("is not the key of") == 1


async def test_agent_that_fails_for_long_looks_at_its_bundle_meanwhile(home: Path, place: Path) -> None:
    """A worker that was refused and told to stay away for minutes dials at once when its bundle is renewed."""
    no = refusal(b"503 Service Unavailable", b"Retry-After: 300\r\n")
    async with stand_in(home, lambda _: no) as peer, running(place, peer.url) as (_, told):
        await told.until(lambda status: status.problem is not None)
        peer.answer = digest
        await renew(home, place)
        await told.until(lambda status: status.open == 1)


# ---- which go, and how many more there may be ----


class End:
    """The end of a connection, as far as a turnover knows it."""

    def __init__(self) -> None:
        self.phase = Phase.HEAD
        self.is_idle = True
        self.is_read = True

    def pause(self) -> None:
        self.is_read = False

    def resume(self) -> None:
        self.is_read = True


class Connection:
    """A reversed connection, as far as a turnover knows it."""

    def __init__(self, session: object, used: float = 0.0, *, busy: bool = False) -> None:
        self.session, self.used = session, used
        self.is_retired = False
        self.end = End()
        self.end.is_idle = not busy

    @property
    def is_busy(self) -> bool:
        return not self.end.is_idle

    def retire(self, now: float, patience: float) -> None:
        self.is_retired = True


OLD, NEW = object(), object()


def turnover(*there: Connection) -> Any:
    return Turnover(set(there))  # type: ignore[arg-type]


@pytest.mark.parametrize(("wanted", "spare"), [(0, 0), (1, 1), (3, 1), (4, 1), (8, 2), (64, 16)])
def test_spare_is_a_quarter_and_one_at_least(wanted: int, spare: int) -> None:
    """So many more are open while old ones are there, and none when all are new."""
    assert turnover(Connection(OLD), Connection(NEW)).spare(NEW, wanted) == spare
    assert turnover(Connection(NEW)).spare(NEW, wanted) == 0


def test_turn_lets_the_longest_idle_go_and_busy_ones_last() -> None:
    """As many as there are more than slots: first who is next to be used, at last who serves a request."""
    busy, late, early = Connection(OLD, 1.0, busy=True), Connection(OLD, 9.0), Connection(OLD, 5.0)
    there = [busy, late, early, Connection(NEW, 0.0)]
    turn = turnover(*there)
    for wanted, gone in ((4, set()), (3, {early}), (2, {early, late}), (1, {early, late, busy})):
        turn.turn(NEW, wanted, 10.0, is_calm=True)
        assert {one for one in there if one.is_retired} == gone


def test_turn_when_crowded_makes_room_a_quarter_at_a_time() -> None:
    """Only while nothing is dialled and none that was let go is still there; a new session tries again."""
    there = [Connection(OLD, float(number)) for number in range(8)]
    turn = turnover(*there)
    turn.crowd()
    assert turn.spare(NEW, 8) == 0
    turn.turn(NEW, 8, 0.0, is_calm=False)
    assert not any(one.is_retired for one in there)
    for _ in range(2):
        turn.turn(NEW, 8, 0.0, is_calm=True)
        assert [one.is_retired for one in there] == [True, True, *[False] * 6]
    turn.begin()
    assert turn.spare(NEW, 8) == 2


def test_bound_reads_from_idle_ones_while_there_is_a_slot() -> None:
    """At as many requests as slots the others wait unread; below it, and when all are new, everything is read."""
    busy, idle, new = Connection(OLD, busy=True), Connection(OLD), Connection(NEW)
    turn = turnover(busy, idle, new)
    turn.turn(NEW, 3, 0.0, is_calm=True)
    for wanted, is_read in ((2, True), (1, False), (2, True), (1, False)):
        turn.bound(wanted)
        assert (busy.end.is_read, idle.end.is_read, new.end.is_read) == (True, is_read, is_read)
    busy.session = idle.session = NEW
    turn.turn(NEW, 1, 0.0, is_calm=True)
    turn.bound(1)
    assert (idle.end.is_read, new.end.is_read) == (True, True)
