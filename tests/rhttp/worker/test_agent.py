"""The agent against a stand-in gateway: it keeps its slots connected whatever happens, and lets go in order."""

from __future__ import annotations

import asyncio
import logging
import os
from pathlib import Path
from typing import Any

import pytest
from support.agents import Echo, digest, running
from support.standin import SWITCH, StandIn, Switched, challenge, refusal, stand_in, worker_home

from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.worker.agent import Agent
from rhttp.worker.bundle import BundleInvalid
from rhttp.worker.handler import answer_problem
from rhttp.worker.slots import Slots


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return worker_home(tmp_path / "home")


@pytest.fixture
def place(home: Path) -> Path:
    return home / "bundles" / "w1"


async def test_agent_opens_one_connection_a_slot_after_one_challenge(home: Path, place: Path) -> None:
    """Four slots: four connections, one 401 for all of them, counters of one nonce."""
    async with stand_in(home, digest) as peer, running(place, peer.url, slots=4) as (agent, _):
        await asyncio.wait_for(agent.connected(), 20)
        assert agent.status().open == 4
        assert [b"Authorization" in head for head in peer.heads].count(False) == 1
        assert {head.split(b"nc=")[1][:8] for head in peer.heads[1:]} == {b"%08x" % n for n in range(1, 5)}
        assert len({head.split(b"Rhttp-Instance: ")[1].split(b"\r\n")[0] for head in peer.heads}) == 1


async def test_agent_serves_requests_one_after_another(home: Path, place: Path) -> None:
    """A reversed connection serves any number of requests and waits between them."""
    async with stand_in(home, digest) as peer, running(place, peer.url) as (agent, _):
        gateway = await peer.next()
        for target in ("/a", "/b"):
            assert (await gateway.get(target))[1] == target.encode()
        assert agent.status().served == 2


async def test_agent_replaces_a_connection_that_the_gateway_closes(home: Path, place: Path) -> None:
    """Close it, and another comes; it served, so this is no failure."""
    async with stand_in(home, digest) as peer, running(place, peer.url) as (agent, _):
        first = await peer.next()
        await first.get()
        first.close()
        await (await peer.next()).get()
        assert agent.status().problem is None


async def test_agent_told_that_a_request_is_the_last_answers_and_comes_back(home: Path, place: Path) -> None:
    """`Connection: close` on a request: its answer, the end of the connection, another one."""
    async with stand_in(home, digest) as peer, running(place, peer.url):
        first = await peer.next()
        head, content = await first.get("/last", "Connection: close\r\n")
        assert b"Connection: close" in head
        assert content == b"/last"
        assert await first.ended() == b""
        assert (await (await peer.next()).get())[1] == b"/"


async def test_agent_outlives_its_gateway(home: Path, place: Path) -> None:
    """The gateway goes and comes back on the same port: so do all slots, with a stale nonce renewed."""
    async with stand_in(home, digest) as peer, running(place, peer.url, slots=3) as (agent, told):
        await asyncio.wait_for(agent.connected(), 20)
        await peer.stop()
        down = await told.until(lambda status: "Connection refused" in str(status.problem))
        assert down.open == 0
        peer.heads.clear()

        def restarted(head: bytes) -> bytes:
            return SWITCH if b'nonce="second"' in head else challenge(b"second", stale=True)

        peer.answer = restarted
        await peer.start(home, peer.port)
        up = await told.until(lambda status: status.open == 3)
        assert up.wanted == 3
        await told.until(lambda status: status.problem is None)


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (refusal(b"403 Forbidden"), "w1 may not serve the pool render"),
        (refusal(b"404 Not Found"), "there is no pool render"),
        (challenge(), "does not take the password"),
        (refusal(b"409 Conflict", body=b'{"type": "urn:rhttp:problem:superseded"}'), "is superseded"),
        (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: other\r\nConnection: Upgrade\r\n\r\n", "not HTTP/1.1"),
        (b"", "closed the connection"),
    ],
)
async def test_agent_refused_says_so_and_gets_in_later(
    home: Path, place: Path, caplog: pytest.LogCaptureFixture, answer: bytes, words: str
) -> None:
    """No answer of a gateway is final."""
    async with stand_in(home, lambda _: answer) as peer:
        with caplog.at_level(logging.WARNING, "rhttp"):
            async with running(place, peer.url, slots=2) as (agent, told):
                await told.until(lambda status: status.problem is not None)
                assert words in str(agent.status().problem)
                assert words in caplog.text
                peer.answer = digest
                await told.until(lambda status: status.open == 2)
    password = (place / "password").read_text().strip()
    assert password not in caplog.text


async def test_agent_in_trouble_dials_once_at_a_time(home: Path, place: Path) -> None:
    """Eight slots that are refused are one question, not eight."""
    no = refusal(b"403 Forbidden")
    async with stand_in(home, lambda _: no) as peer, running(place, peer.url, slots=8, chance=lambda: 1.0) as (_, told):
        await told.until(lambda status: status.problem is not None)
        assert peer.connections == 1


@pytest.mark.parametrize("tells", [True, False])
async def test_agent_back_with_all_slots_says_so_once(
    home: Path, place: Path, caplog: pytest.LogCaptureFixture, tells: bool
) -> None:
    """One line for the trouble and one for its end, not one for each connection; none when its user is told anyway."""
    options: dict[str, Any] = {} if tells else {"on_status": None}
    async with stand_in(home, lambda _: refusal(b"503 Service Unavailable")) as peer:
        with caplog.at_level(logging.INFO, "rhttp"):
            async with running(place, peer.url, slots=4, **options) as (agent, _):
                while agent.status().problem is None:
                    await asyncio.sleep(0.01)
                peer.answer = digest
                async with asyncio.timeout(20):
                    await agent.connected()
    again = [record.getMessage() for record in caplog.records if "connected again" in record.getMessage()]
    assert again == ([] if tells else [f"4 slots connected again to {peer.url}"])
    assert sum("503" in record.getMessage() for record in caplog.records) == 1


async def test_agent_honours_retry_after(home: Path, place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A gateway that names a time is not asked before it."""
    answer = refusal(b"503 Service Unavailable", b"Retry-After: 100\r\n")
    with caplog.at_level(logging.WARNING, "rhttp"):
        async with stand_in(home, lambda _: answer) as peer, running(place, peer.url, chance=lambda: 0.5) as (_, told):
            await told.until(lambda status: status.problem is not None)
    assert "next try in 100.1 s" in caplog.text


async def test_agent_accepted_and_dropped_at_once_slows_down(home: Path, place: Path) -> None:
    """A 101 followed by a close is a failure too: no dialling as fast as the network allows."""
    async with stand_in(home, digest) as peer, running(place, peer.url) as (_, told):
        (await peer.next()).close()
        trouble = await told.until(lambda status: status.problem is not None)
        assert "right after the switch" in str(trouble.problem)
        assert (await (await peer.next()).get())[1] == b"/"


async def test_agent_follows_its_slots_up_and_down(home: Path, place: Path) -> None:
    """A `Slots` object is followed at once; idle connections close."""
    slots = Slots(1)
    async with stand_in(home, digest) as peer, running(place, peer.url, slots=slots) as (_, told):
        await told.until(lambda status: status.open == 1)
        slots.set(5)
        await told.until(lambda status: status.open == 5)
        slots.set(2)
        await told.until(lambda status: status.open == 2)
        slots.set(0)
        await told.until(lambda status: status.open == 0)
        ended = [await (await peer.next()).ended() for _ in range(5)]
        assert ended == [b""] * 5
        slots.set(1)
        await told.until(lambda status: status.open == 1)


async def test_agent_asks_a_callable_for_its_slots(home: Path, place: Path) -> None:
    """What the callable says is followed within a moment; one that fails leaves things as they are."""
    wanted: list[int] = [0]

    def slots() -> int:
        return wanted[0]

    async with stand_in(home, digest) as peer, running(place, peer.url, slots=slots) as (agent, told):
        assert agent.status().open == 0
        wanted[0] = 3
        await told.until(lambda status: status.open == 3)
        wanted.clear()  # now it raises
        assert (await (await peer.next()).get())[1] == b"/"
        wanted.append(1)
        await told.until(lambda status: status.open == 1)


async def test_agent_with_fewer_slots_lets_the_busy_one_finish(home: Path, place: Path) -> None:
    """A busy connection is not cut: its answer says that it is the last."""
    slots, echo = Slots(1), Echo()
    async with stand_in(home, digest) as peer, running(place, peer.url, echo, slots=slots):
        gateway = await peer.next()
        pending = asyncio.create_task(gateway.get("/hold"))
        await asyncio.wait_for(echo.holding.wait(), 20)
        slots.set(0)
        echo.release()
        head, content = await pending
        assert b"Connection: close" in head
        assert content == b"held"
        assert await gateway.ended() == b""


async def test_agent_lets_a_connection_go_that_was_just_used_without_losing_a_request(home: Path, place: Path) -> None:
    """A request that meets the end of its slot is answered, and told that it was the last."""
    slots = Slots(1)
    async with stand_in(home, digest) as peer, running(place, peer.url, slots=slots):
        gateway = await peer.next()
        await gateway.get("/a")
        slots.set(0)
        head, content = await gateway.get("/b")
        assert b"Connection: close" in head
        assert content == b"/b"
        assert await gateway.ended() == b""


async def test_agent_counts_orphans_as_slots(home: Path, place: Path) -> None:
    """Work that goes on without its connection takes up a slot, so that slots bound what runs."""
    echo = Echo()
    async with stand_in(home, digest) as peer, running(place, peer.url, echo, slots=2) as (_, told):
        await told.until(lambda status: status.open == 2)
        echo.orphans = 1
        await told.until(lambda status: status.open == 1)
        echo.orphans = 0
        await told.until(lambda status: status.open == 2)
        assert peer.connections == 3


async def test_agent_stopping_lets_requests_finish(home: Path, place: Path) -> None:
    """Idle connections close at once, the busy one after its answer, then stop returns."""
    echo = Echo()
    async with stand_in(home, digest) as peer, running(place, peer.url, echo, slots=2) as (agent, _):
        busy, idle = await peer.next(), await peer.next()
        pending = asyncio.create_task(busy.get("/hold"))
        await asyncio.wait_for(echo.holding.wait(), 20)
        stopping = asyncio.create_task(agent.stop())
        assert await idle.ended() == b""
        assert agent.status().draining
        assert not stopping.done()
        echo.release()
        head, _ = await pending
        assert b"Connection: close" in head
        await asyncio.wait_for(stopping, 20)
        assert agent.status().open == 0


async def test_agent_stopping_cuts_what_outlasts_its_drain(home: Path, place: Path) -> None:
    """A request that never ends does not keep the agent."""
    echo = Echo()
    async with stand_in(home, digest) as peer, running(place, peer.url, echo, drain_timeout=0.1) as (agent, _):
        gateway = await peer.next()
        pending = asyncio.create_task(gateway.get("/hold"))
        await asyncio.wait_for(echo.holding.wait(), 20)
        await asyncio.wait_for(agent.stop(), 20)
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await pending


async def test_agent_stopped_has_no_timer_and_no_task(home: Path, place: Path) -> None:
    """Nothing of it is left in the loop, also when it stops in the middle of trouble."""
    before = asyncio.all_tasks()
    async with stand_in(home, lambda _: refusal(b"403 Forbidden")) as peer:
        async with running(place, peer.url) as (agent, told):
            await told.until(lambda status: status.problem is not None)
        assert agent.status().dialling == 0
    assert {task for task in asyncio.all_tasks() - before if "accept" not in repr(task)} == set()


async def test_agent_keeps_its_bundle_when_the_new_one_is_broken(
    home: Path, place: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Half of a renewal is no reason to stop; it is told, and the next connection uses what was read before."""
    with caplog.at_level(logging.WARNING, "rhttp"):
        async with stand_in(home, digest) as peer, running(place, peer.url):
            first = await peer.next()
            await first.get()
            (place / "new").write_bytes(b"rubbish")
            os.replace(place / "new", place / "cert.pem")
            first.close()
            assert (await (await peer.next()).get())[1] == b"/"
    assert "cannot be used, the old one stays in use" in caplog.text


async def test_agent_with_a_bad_bundle_does_not_start(place: Path) -> None:
    """What is wrong from the beginning is told at once."""
    (place / "cert.pem").unlink()
    with pytest.raises(BundleInvalid, match=r"cert\.pem is missing"):
        await Agent(Echo(), place).start()


async def test_agent_whose_handler_fails_answers_and_goes_on(home: Path, place: Path) -> None:
    """A bug in a handler is a 500 for one request, without its words."""
    async with stand_in(home, digest) as peer, running(place, peer.url):
        gateway = await peer.next()
        head, content = await gateway.get("/fault")
        assert head.startswith(b"HTTP/1.1 500 ")
        assert b"a bug" not in content
        assert (await gateway.get("/next"))[1] == b"/next"


async def test_agent_asked_with_rubbish_says_so_and_closes(home: Path, place: Path) -> None:
    """Bytes that are no request: 400, the end of that connection, another one."""
    async with stand_in(home, digest) as peer, running(place, peer.url):
        gateway: Switched = await peer.next()
        gateway.writer.write(b"rubbish\r\n\r\n")
        head, _ = await gateway.answer()
        assert head.startswith(b"HTTP/1.1 400 ")
        assert await gateway.ended() == b""
        assert (await (await peer.next()).get())[1] == b"/"


async def test_answer_problem_after_the_answer_began_cuts_the_connection(home: Path, place: Path) -> None:
    """Nobody mistakes a broken answer for a whole one."""

    class Half(Echo):
        def handle(self, end: ServerEnd, head: RequestHead) -> None:
            end.head(200, (), 10)
            end.content(b"half")
            end.flush()
            answer_problem(end, 500, "internal", "The worker failed")

    async with stand_in(home, digest) as peer, running(place, peer.url, Half()):
        gateway = await peer.next()
        with pytest.raises((asyncio.IncompleteReadError, ConnectionError)):
            await gateway.get()


def test_stand_in_is_what_the_tests_say() -> None:
    """The stand-in's own 101 is the gateway's, byte for byte."""
    from rhttp.reversal.upgrade import PTTH_1_0

    assert PTTH_1_0.answer == SWITCH
    assert StandIn(digest).answer(b"") == challenge()
