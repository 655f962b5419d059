"""Relay pools: the switch is the master's to grant, over real loopback sockets; from its 101 on, bytes."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator

import pytest
from support.bench import Answer
from support.relays import AGREED, Master, Rig, sent, switched

from rhttp.reversal.upgrade import PTTH_1_0


async def test_relay_asks_the_master_in_the_workers_name(rig: Rig, master: Master) -> None:
    """Who it is, and none of its credentials; the path is that of a gateway unless another is set."""
    rig.worker("X-A: 1", "Rhttp-Identity: worker/evil")
    head, _, writer = await master.asked()
    assert head.startswith(b"POST /-/reverse/far HTTP/1.1\r\n")
    assert b"\r\nHost: localhost\r\n" in head
    for line in (b"Upgrade: PTTH/1.0", b"Connection: Upgrade", b"Rhttp-Identity: worker/w1", b"x-a: 1"):
        assert head.count(b"\r\n" + line + b"\r\n") == 1
    assert b"evil" not in head
    writer.close()
    other = Rig(master.port, "/switch")
    other.worker()
    head, _, _ = await master.asked()
    assert head.startswith(b"POST /switch HTTP/1.1\r\n")
    other.bench.close()


async def test_relay_passes_bytes_both_ways(rig: Rig, master: Master) -> None:
    """After the 101 it reads nothing of what passes; the books show one relayed connection."""
    worker, reader, writer = await switched(rig, master)
    writer.write(b"GET / HTTP/1.1\r\n\r\n")
    await sent(worker.link, b"GET / HTTP/1.1\r\n\r\n")
    worker.link.owner.data_received(b"\x00anything")
    assert await asyncio.wait_for(reader.readexactly(9), 20) == b"\x00anything"
    process = rig.bench.process
    assert (process.counters.connections, process.registry.by_role()) == (1, {"worker": 1})
    told = rig.pool.describe()
    assert told["slots"] == {"total": 1, "free": None}
    assert told["workers"][0]["name"] == "w1"  # type: ignore[index]


async def test_relay_probes_both_sides(rig: Rig, master: Master) -> None:
    """A worker or master that vanishes without a word is noticed, though the gateway reads nothing of what passes."""
    worker, _, _ = await switched(rig, master)
    limits = rig.bench.process.generation.config.limits
    for link in (worker.link, worker.link.owner.other):
        sock = link.get_extra_info("socket")
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE) == 1
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE) <= limits.liveness_idle
        assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT) == limits.liveness_timeout * 1000


async def test_relay_passes_what_is_glued_to_the_101(rig: Rig, master: Master) -> None:
    """A master may speak first, and at once."""
    worker = rig.worker()
    _, _, writer = await master.asked()
    writer.write(AGREED + b"GET / HTTP/1.1\r\n\r\n")
    await sent(worker.link, PTTH_1_0.answer + b"GET / HTTP/1.1\r\n\r\n")


@pytest.mark.parametrize(
    ("answer", "status", "problem"),
    [
        (b"HTTP/1.1 101 X\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", 502, "master-invalid"),
        (b"HTTP/1.1 101 X\r\nUpgrade: PTTH/1.0\r\n\r\n", 502, "master-invalid"),
        (b"nonsense\r\n\r\n", 502, "master-invalid"),
        (None, 502, "master-lost"),
    ],
)
async def test_relay_of_a_master_that_does_not_agree_is_502(
    rig: Rig, master: Master, answer: bytes | None, status: int, problem: str
) -> None:
    """Its 101 must name the token that was asked for."""
    worker = rig.worker()
    _, _, writer = await master.asked()
    if answer is None:
        writer.close()
    else:
        writer.write(answer)
    got = await worker.answered()
    assert (got.status, got.problem) == (status, problem)
    assert worker.link.eof
    assert rig.pool.connections() == []
    assert [line["outcome"] for line in rig.bench.audit.of("request")] == ["failed"]


async def test_relay_passes_a_masters_final_answer_and_closes(rig: Rig, master: Master) -> None:
    """With its content, without its challenge."""
    worker = rig.worker()
    _, _, writer = await master.asked()
    writer.write(b"HTTP/1.1 403 No\r\nWWW-Authenticate: Basic\r\nX-A: 1\r\nContent-Length: 4\r\n\r\nnope")
    await worker.link.until(lambda: worker.link.sent.endswith(b"nope"))
    got = Answer(worker.link.take())
    assert (got.status, got.content, got.fields["x-a"], got.fields["connection"]) == (403, b"nope", "1", "close")
    assert "www-authenticate" not in got.fields
    await worker.link.until(lambda: worker.link.eof)


async def test_relay_without_a_master_is_502(unused_port: int) -> None:
    """Nobody listens there."""
    made = Rig(unused_port)
    worker = made.worker()
    got = await worker.answered()
    assert (got.status, got.problem) == (502, "master-unreachable")
    assert worker.link.eof
    made.bench.close()


@pytest.fixture
def unused_port() -> AsyncIterator[int]:  # type: ignore[misc]
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        yield sock.getsockname()[1]


async def test_relay_whose_worker_leaves_while_the_master_thinks(rig: Rig, master: Master) -> None:
    """The master's connection ends too, whenever the worker goes; nothing is left."""
    worker = rig.worker()
    _, reader, _ = await master.asked()
    worker.link.reset()
    assert await asyncio.wait_for(reader.read(), 20) == b""
    early = rig.worker()
    early.link.reset()  # before the connection to the master is there
    for _ in range(20):
        await asyncio.sleep(0)
    rig.check_over()


@pytest.mark.parametrize("side", ["worker", "master"])
async def test_relay_ends_with_either_side(rig: Rig, master: Master, side: str) -> None:
    """Closed once, told once."""
    worker, reader, writer = await switched(rig, master)
    if side == "worker":
        worker.link.reset()
        assert await asyncio.wait_for(reader.read(), 20) == b""
    else:
        linger = struct.pack("ii", 1, 0)  # a reset, not an end in order
        writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        writer.transport.abort()
        await worker.link.until(lambda: worker.link.closed)
    assert [line["reason"] for line in rig.bench.audit.of("reverse.closed")] == ["closed"]
    rig.check_over()


async def test_relay_passes_a_half_close_and_then_the_other(rig: Rig, master: Master) -> None:
    """One side may finish first; bytes of the other still pass."""
    worker, reader, writer = await switched(rig, master)
    assert worker.link.owner.eof_received() is True
    assert await asyncio.wait_for(reader.read(), 20) == b""
    writer.write(b"still here")
    await sent(worker.link, b"still here")
    writer.close()
    await worker.link.until(lambda: worker.link.closed)
    rig.check_over()


async def test_relay_is_cut_for_a_reason(rig: Rig, master: Master) -> None:
    """Revocation holds for relayed connections as for hosted ones; so does a drain."""
    worker, reader, _ = await switched(rig, master)
    assert rig.bench.process.registry.cut_where(lambda peer: "revoked" if peer.name == "w1" else None) == 1
    assert worker.link.aborted
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    assert [line["reason"] for line in rig.bench.audit.of("connection.cut")] == ["revoked"]
    assert [line["reason"] for line in rig.bench.audit.of("reverse.closed")] == ["revoked"]
    rig.check_over()


async def test_relay_slows_the_master_for_a_slow_worker(rig: Rig, master: Master) -> None:
    """And goes on when the worker does; nothing is lost in between."""
    worker, _, writer = await switched(rig, master)
    worker.link.owner.pause_writing()
    writer.write(b"x" * 100_000)
    for _ in range(50):
        await asyncio.sleep(0)
    before = len(worker.link.sent)
    assert before == 0
    worker.link.owner.resume_writing()
    await worker.link.until(lambda: len(worker.link.sent) == 100_000)


async def test_relay_that_cannot_be_audited_does_not_happen(rig: Rig, master: Master) -> None:
    """No line, no switch; the master's connection ends."""
    rig.bench.audit.fails_on = "reverse.opened"
    worker = rig.worker()
    _, reader, writer = await master.asked()
    writer.write(AGREED)
    got = await worker.answered()
    assert (got.status, got.problem) == (503, "audit-unavailable")
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    assert rig.pool.connections() == []


async def test_relay_has_a_line_before_the_master_is_asked(rig: Rig, master: Master) -> None:
    """The master may do something about a worker that comes: `request.sent`, like any unsafe request."""
    await switched(rig, master)
    sent_line, opened = rig.bench.audit.lines
    assert (sent_line["event"], opened["event"]) == ("request.sent", "reverse.opened")
    assert (sent_line["outcome"], sent_line["target"]) == ("sent", "/-/reverse/far")
    assert sent_line["request_id"] == opened["request_id"]


@pytest.mark.parametrize("known", [False, True])
async def test_relay_that_cannot_be_said_is_not_asked_for(rig: Rig, master: Master, known: bool) -> None:
    """No line, no request to the master: not even a connection once the log is known to take none."""
    rig.bench.audit.fails_on = "request.sent"
    if known:
        rig.bench.process.record("request.sent", {"outcome": "sent"})
    worker = rig.worker()
    got = await worker.answered()
    assert (got.status, got.problem) == (503, "audit-unavailable")
    assert got.fields["retry-after"]
    if not known:
        reader, _ = await master.arrived()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 20) == b""
    assert master.is_alone()
    assert [line["reason"] for line in rig.bench.audit.of("request")] == ["audit"]


async def test_relay_withholds_a_masters_refusal_that_cannot_be_recorded(rig: Rig, master: Master) -> None:
    """Its answer has no line; the master was asked, so nothing invites to ask again."""
    rig.bench.audit.fails_on = "request"
    worker = rig.worker()
    _, _, writer = await master.asked()
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno")
    got = await worker.answered()
    assert (got.status, got.problem) == (500, "answer-withheld")
    assert "retry-after" not in got.fields
    assert not got.content.endswith(b"no")


async def test_relay_tells_of_bytes_behind_a_masters_answer(rig: Rig, master: Master) -> None:
    """The answer passes as it is; the audit log names the master."""
    worker = rig.worker()
    _, _, writer = await master.asked()
    writer.write(b"HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno, never")
    got = await worker.answered()
    assert (got.status, got.content) == (403, b"no")
    (line,) = rig.bench.audit.of("connection.cut")
    assert (line["reason"], line["detail"]) == ("surplus", {"name": "tier"})
    assert line["request_id"] == rig.bench.audit.of("request")[0]["request_id"]


async def test_relay_with_bytes_before_the_switch_is_cut(rig: Rig, master: Master) -> None:
    """What a worker sends before the 101 is smuggled or a fault; the counts stay right."""
    worker = rig.worker()
    worker.send(b"HTTP/1.1 200 OK\r\n\r\n")
    _, reader, writer = await master.asked()
    writer.write(AGREED)
    await worker.link.until(lambda: worker.link.aborted)
    assert worker.link.take() == b""
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 20) == b""
    rig.check_over()
