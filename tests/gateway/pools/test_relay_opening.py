"""Relay pools at the moment of the switch: who is still there, what is still allowed, and what the log says of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.bench import PlaneBench, Requester, worker_peer
from support.relays import AGREED, OPEN, Master, Rig, relay_config, sent, switched

from rhttp.reversal.upgrade import PTTH_1_0


def opened_and_closed(rig: Rig) -> tuple[int, int]:
    """How often the log says that a relayed connection began, and that one ended."""
    audit = rig.bench.audit
    return len(audit.of("reverse.opened")), len(audit.of("reverse.closed"))


async def asked(rig: Rig, master: Master) -> tuple[Requester, asyncio.StreamReader, asyncio.StreamWriter]:
    """A worker whose master thinks about it."""
    worker = rig.worker()
    _, reader, writer = await master.asked()
    return worker, reader, writer


async def ended(reader: asyncio.StreamReader) -> None:
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""


@pytest.fixture
async def nothing_surfaces() -> AsyncIterator[None]:
    """No exception reaches the event loop's handler."""
    faults: list[dict[str, object]] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: faults.append(context))
    yield
    assert faults == []


@pytest.mark.usefixtures("nothing_surfaces")
async def test_relay_whose_worker_resets_in_the_turn_of_the_101_never_opened(rig: Rig, master: Master) -> None:
    """The link is gone and its end does not know yet: nothing is opened, counted or left behind."""
    worker, reader, writer = await asked(rig, master)
    worker.link.abort()
    writer.write(AGREED)
    await ended(reader)
    worker.link.settle()
    assert opened_and_closed(rig) == (0, 0)
    assert [line["reason"] for line in rig.bench.audit.of("request")] == ["worker gone"]
    rig.check_over()


@pytest.mark.usefixtures("nothing_surfaces")
async def test_relay_whose_worker_is_gone_when_the_101_is_sent_is_closed(rig: Rig, master: Master) -> None:
    """Its first write finds the reset: what the log says was opened, it says was closed."""
    worker, reader, writer = await asked(rig, master)
    worker.link.socket.fault = ConnectionResetError("reset by the test")
    writer.write(AGREED)
    await worker.link.until(lambda: bool(opened_and_closed(rig)[0]))
    worker.link.settle()
    await ended(reader)
    assert opened_and_closed(rig) == (1, 1)
    rig.check_over()


async def test_relay_does_not_open_before_a_slow_worker_has_read_what_came_before(rig: Rig, master: Master) -> None:
    """The master's 101 waits; it is not lost on a link that is full."""
    worker, _, writer = await asked(rig, master)
    worker.link.block()
    worker.link.real.write(b"x" * 100_000)
    assert worker.end.blocked
    writer.write(AGREED + b"y" * 1000)
    for _ in range(50):
        await asyncio.sleep(0)
    assert rig.pool.connections() == []
    worker.link.drain()
    worker.link.take()
    await sent(worker.link, PTTH_1_0.answer + b"y" * 1000)


async def test_relay_half_closed_and_slow_is_not_over(rig: Rig, master: Master) -> None:
    """A side that catches up has the other read on, and does not make it end a second time."""
    worker, reader, writer = await switched(rig, master)
    worker.link.finish()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    (relayed,) = rig.pool.connections()
    far = relayed._sides[1]
    far.pause_writing()
    far.resume_writing()
    worker.link.settle()
    writer.write(b"still here")
    await sent(worker.link, b"still here")
    assert rig.pool.connections() == [relayed]


@pytest.mark.parametrize(
    "policy",
    [
        '@id("no") forbid (principal, action == Action::"reverse", resource);\n' + OPEN,
        '@id("digest") permit (principal, action, resource) when { context has digest };',
    ],
)
async def test_relay_that_a_reload_forbids_while_the_master_thinks_does_not_open(
    master: Master, tmp_path: Path, policy: str
) -> None:
    """What was allowed when the worker asked may not be when the master agrees, minutes later."""
    config = relay_config(master.port)
    bench = await PlaneBench.start(tmp_path, config, policy=OPEN)
    worker = bench.requester(worker_peer("w1", "far"))
    assert worker.ask("/-/reverse/far", "POST", "Upgrade: PTTH/1.0", "Connection: Upgrade") is None
    _, reader, writer = await master.asked()
    assert await bench.reload(config, policy=policy) == []
    writer.write(AGREED)
    got = await worker.answered()
    assert got.status == 401, "nobody without credentials learns more"
    assert worker.link.eof
    await ended(reader)
    assert [line["reason"] for line in bench.audit.of("auth.refused")] == ["absent"]
    assert bench.audit.of("reverse.opened") == []
    assert [pool.connections() for pool in bench.process.generation.pools.values()] == [[]]
    bench.close()


async def test_relay_of_a_worker_that_expires_while_the_master_thinks_does_not_open(rig: Rig, master: Master) -> None:
    """Its certificate is looked at again, by the time of the 101."""
    worker, reader, writer = await asked(rig, master)
    rig.bench.process.epoch = 2e12
    rig.bench.process.state_at = rig.bench.process.elapsed
    writer.write(AGREED)
    got = await worker.answered()
    assert got.status == 403
    await ended(reader)
    assert [line["reason"] for line in rig.bench.audit.of("auth.refused")] == ["expired"]
    assert opened_and_closed(rig) == (0, 0)


async def test_relay_does_not_open_in_a_gateway_that_drains(rig: Rig, master: Master) -> None:
    """The worker comes back to whoever serves next."""
    worker, reader, writer = await asked(rig, master)
    rig.bench.process.draining = True
    writer.write(AGREED)
    got = await worker.answered()
    assert (got.status, got.problem) == (503, "draining")
    await ended(reader)
    assert opened_and_closed(rig) == (0, 0)
