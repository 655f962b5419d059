"""Waiting for a slot from outside: order, bounds, content that is held back."""

from __future__ import annotations

import threading
import time

import pytest
from support.pooling import ANY
from support.rig import Rig
from support.wire import Wire, request


def test_request_without_a_wait_is_refused_at_once(rig: Rig, wire: Wire) -> None:
    """503 with Retry-After, on a connection that goes on."""
    for _ in range(2):
        answer = wire.ask(f"{ANY}/x", "POST", content=b"x")
        assert (answer.status, answer.problem, answer["retry-after"]) == (503, "no-slot", "1")
        assert rig.line_of(answer, "dispatch")["outcome"] == "failed"


@pytest.mark.parametrize("prefer", ["wait=10", "respond-async, wait=10", 'wait="10"', "Wait = 10", "wait=10; foo"])
def test_request_that_waits_gets_the_next_worker(rig: Rig, wire: Wire, prefer: str) -> None:
    """In every form of RFC 7240."""
    wire.send(request(f"{ANY}/x", "POST", f"Prefer: {prefer}", content=b"job"))
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    with rig.worker("w1") as worker:
        assert worker.serve().content == b"job"
        assert wire.answer().status == 200
    assert rig.pool()["waiting"] == 0


def test_wait_that_is_over_is_503(rig: Rig, wire: Wire) -> None:
    """After as long as it was willing to wait."""
    start = time.monotonic()
    answer = wire.ask(f"{ANY}/x", "GET", "Prefer: wait=1")
    assert (answer.status, answer.problem) == (503, "no-slot")
    assert 0.7 < time.monotonic() - start < 2.5
    assert rig.line_of(answer, "dispatch")["reason"] == "wait_over"


def test_waiting_requests_are_served_in_their_order(rig: Rig) -> None:
    """First come, first served; who left is passed over."""
    wires = []
    for number in range(5):
        wire = rig.dispatch()
        wire.send(request(f"{ANY}/{number}", "GET", "Prefer: wait=20"))
        rig.wait_pool(lambda pool, want=number + 1: pool["waiting"] == want)  # type: ignore[misc]
        wires.append(wire)
    wires[1].close()
    wires[3].reset()
    rig.wait_pool(lambda pool: pool["waiting"] == 3)
    with rig.worker("w1") as worker:
        assert [worker.serve().target for _ in range(3)] == ["/0", "/2", "/4"]
        for number in (0, 2, 4):
            assert wires[number].answer().status == 200
            wires[number].close()


def test_queue_has_an_end(rig: Rig) -> None:
    """Beyond it: 503 at once."""
    with rig.dispatch() as one, rig.dispatch() as two, rig.dispatch() as three:
        for number, wire in enumerate((one, two)):
            wire.send(request("/-/pools/tiny/any/x", "GET", "Prefer: wait=20"))
            rig.wait_pool(lambda pool, want=number + 1: pool["waiting"] == want, "tiny")  # type: ignore[misc]
        start = time.monotonic()
        answer = three.ask("/-/pools/tiny/any/x", "GET", "Prefer: wait=20")
        assert (answer.status, answer.problem) == (503, "no-slot")
        assert time.monotonic() - start < 1
        assert rig.line_of(answer, "dispatch")["reason"] == "queue_full"
        with rig.worker("t1", "tiny") as worker:
            worker.serve()
            worker.serve()
            assert one.answer().status == two.answer().status == 200


def test_content_of_a_waiting_request_is_kept_up_to_a_bound_and_arrives_whole(rig: Rig, wire: Wire) -> None:
    """The rest stays with its sender until a slot is there."""
    size = 24 << 20
    content = bytes(range(256)) * (size // 256)
    sender = threading.Thread(target=lambda: wire.send(request(f"{ANY}/x", "POST", "Prefer: wait=30", content=content)))
    sender.start()
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    sender.join(0.5)
    assert sender.is_alive()
    with rig.worker("w1") as worker:
        taken = worker.request()
        assert taken.content == content
        worker.reply()
        sender.join(60)
        assert wire.answer().status == 200


def test_waiting_expectation_gets_100_when_a_slot_is_there(rig: Rig, wire: Wire) -> None:
    """Not before."""
    wire.send(request(f"{ANY}/x", "POST", "Prefer: wait=20", "Expect: 100-continue", "Content-Length: 3"))
    rig.wait_pool(lambda pool: pool["waiting"] == 1)
    assert wire.is_quiet()
    with rig.worker("w1") as worker:
        assert wire.one().status == 100
        wire.send(b"job")
        assert worker.serve().content == b"job"
        assert wire.one().status == 200
