"""Workers that lie, from outside: bytes that nobody asked for never become an answer."""

from __future__ import annotations

import pytest
from support.origins import read_head, response
from support.pooling import ANY, LIES, SURPLUS, SWITCH
from support.rig import Rig
from support.wire import Wire, request


@pytest.mark.parametrize("name", LIES)
def test_answer_outside_of_the_rules_is_502_and_drops_the_worker(rig: Rig, wire: Wire, name: str) -> None:
    """Whoever waits behind never sees a byte of it."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        worker.wire.send(LIES[name])
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-invalid")
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
        worker.wire.rest()
        assert worker.wire.ended is not None
        assert wire.ask("/-/health").status == 200


@pytest.mark.parametrize("lie", [b"x", response(b"unasked"), SWITCH, b"GET / HTTP/1.1\r\n\r\n"])
def test_bytes_without_a_question_drop_the_connection(rig: Rig, wire: Wire, lie: bytes) -> None:
    """Before the first request and between two."""
    with rig.worker("w1") as worker:
        worker.wire.send(lie)
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.serve()
        assert wire.answer().status == 200
        worker.wire.send(lie)
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
    assert wire.ask(f"{ANY}/x").status == 503
    assert rig.wait_line(event="reverse.closed")["reason"] == "surplus"


@pytest.mark.parametrize("name", SURPLUS)
def test_bytes_behind_a_workers_answer_leave_it_as_it_is_and_drop_the_worker(rig: Rig, wire: Wire, name: str) -> None:
    """The answer stands; nobody sees a byte of what follows it, and the audit log says why the connection ended."""
    seen = len([line for line in rig.audit() if line["event"] == "reverse.closed"])
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        worker.wire.send(SURPLUS[name])
        answer = wire.answer()
        assert answer.status == int(SURPLUS[name].split(b" ")[1])
        assert answer.content == (b"x" if answer.status == 200 else b"")
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
        worker.wire.rest()
    assert wire.ask(f"{ANY}/x").status == 503
    closed = [line for line in rig.audit() if line["event"] == "reverse.closed"][seen:]
    assert [line["reason"] for line in closed] == ["surplus"]


def test_worker_that_answers_before_it_has_read_is_served_but_not_reused(rig: Rig, wire: Wire) -> None:
    """Early answers are allowed; the rest of the content has nowhere to go."""
    with rig.worker("w1") as worker:
        wire.send(request(f"{ANY}/x", "POST", "Content-Length: 100000") + b"x" * 1000)
        read_head(worker.wire)
        worker.reply(b"no", "413 Content Too Large")
        answer = wire.answer()
        assert answer.status == 413
        wire.send(b"x" * 99_000)
        assert wire.ask("/-/health").status == 200
        rig.wait_pool(lambda pool: pool["slots"]["total"] == 0)
