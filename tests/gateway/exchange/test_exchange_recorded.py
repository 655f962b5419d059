"""Exchanges whose audit lines are written at the end of a turn: nothing leaves before, whatever happens meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bench import Bench

ANY = "/-/pools/render/any/job"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench()
    made.audit.waits = True
    yield made
    made.audit.flush()
    made.close()


def check_at_rest(bench: Bench, *, workers: int) -> None:
    """Nothing runs, nothing waits, every slot that is left is free."""
    pool = bench.pool.pool
    assert bench.process.exchanges == 0
    assert (pool.waiting, pool.total, pool.free) == (0, workers, workers)


def test_exchange_before_the_turn_is_over_sends_nothing(bench: Bench) -> None:
    """The request goes to the worker behind `dispatch.sent`, the answer to the requester behind `dispatch`."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    assert bench.events() == []
    bench.audit.flush()
    assert bench.events() == ["audit dispatch.sent", "write w1"]
    worker.reply()
    assert bench.events() == ["audit dispatch.sent", "write w1"]
    assert bench.process.exchanges == 1
    bench.audit.flush()
    assert bench.events()[2:] == ["audit dispatch", "write local"]
    check_at_rest(bench, workers=1)


def test_exchange_with_a_next_request_behind_it_keeps_the_order(bench: Bench) -> None:
    """A request that came early is served when the answer before it has left."""
    worker, master = bench.worker(), bench.requester()
    head = f"GET {ANY} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode()
    master.send(head * 2)
    bench.audit.flush()
    worker.reply()
    bench.audit.flush()
    worker.reply()
    bench.audit.flush()
    assert bench.events() == ["audit dispatch.sent", "write w1", "audit dispatch", "write local"] * 2
    check_at_rest(bench, workers=1)


@pytest.mark.parametrize("content", [None, b"hello"])
@pytest.mark.parametrize("event", ["dispatch.sent", "dispatch"])
def test_exchange_that_cannot_be_audited_at_the_end_of_the_turn_is_answered_so(
    bench: Bench, event: str, content: bytes | None
) -> None:
    """503 in place of a request that would have left without its line; 500 in place of an answer that would."""
    worker, master = bench.worker(), bench.requester()
    bench.audit.fails_on = event
    master.ask(ANY, "POST", content=content)
    bench.audit.flush()
    if event == "dispatch":
        worker.taken()
        worker.reply()
        bench.audit.flush()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (
        (500, "answer-withheld") if event == "dispatch" else (503, "audit-unavailable")
    )
    assert ("retry-after" in answer.fields) is (event == "dispatch.sent")
    assert worker.taken() == b""
    check_at_rest(bench, workers=1 if event == "dispatch" else 0)


@pytest.mark.parametrize("framing", ["Content-Length: 10", "Transfer-Encoding: chunked"])
def test_exchange_with_content_sends_none_of_it_before_the_turn_is_over(bench: Bench, framing: str) -> None:
    """Head and content that came in one turn leave together behind the line; what comes later follows."""
    worker, master = bench.worker(), bench.requester()
    pieces = [b"hello", b"world"] if "Length" in framing else [b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n"]
    master.send(f"POST {ANY} HTTP/1.1\r\nHost: localhost\r\n{framing}\r\n\r\n".encode() + pieces[0])
    assert bench.events() == []
    bench.audit.flush()
    assert bench.events() == ["audit dispatch.sent", "write w1"]
    assert worker.taken().endswith(pieces[0])
    master.send(pieces[1])
    assert worker.taken() == pieces[1]
    worker.reply()
    bench.audit.flush()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    check_at_rest(bench, workers=1)


def test_exchange_whose_content_ends_before_the_turn_is_over_sends_it_whole(bench: Bench) -> None:
    """Several reads in one turn are one request and one write, trailers included."""
    worker, master = bench.worker(), bench.requester()
    master.send(f"POST {ANY} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n".encode())
    master.send(b"5\r\nhello\r\n")
    master.send(b"0\r\nX-T: 1\r\n\r\n")
    bench.audit.flush()
    assert bench.events() == ["audit dispatch.sent", "write w1"]
    assert worker.taken().endswith(b"5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n")
    worker.reply()
    bench.audit.flush()
    check_at_rest(bench, workers=1)


def test_exchange_that_came_to_another_end_in_one_turn_waits_for_its_line_too(bench: Bench) -> None:
    """The line of the first end being written does not let the request leave by the second."""
    first, second, master = bench.worker("w1"), bench.worker("w2"), bench.requester()
    master.ask(ANY, "POST", content=b"hello")
    first.end.connection_lost(None)
    exchange = second.end.sink
    exchange.recorded(True)  # as when the lines of one turn need two writes
    assert second.taken() == b""
    exchange.recorded(False)
    assert second.taken() == b""
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "audit-unavailable")
    check_at_rest(bench, workers=0)


def test_exchange_whose_requester_goes_before_the_turn_is_over_ends_quietly(bench: Bench) -> None:
    """Its answer has its line; there is nobody to give it to, and the worker is free."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    bench.audit.flush()
    worker.reply()
    master.link.reset()
    bench.audit.flush()
    assert bench.events()[-1] == "audit dispatch"
    check_at_rest(bench, workers=1)


def test_exchange_whose_requester_goes_before_the_request_left_takes_it_back(bench: Bench) -> None:
    """The worker gets no byte of it; its connection is given up, as one with a request under way always is."""
    worker, master = bench.worker(), bench.requester()
    master.ask(ANY)
    master.link.reset()
    bench.audit.flush()
    assert worker.taken() == b""
    check_at_rest(bench, workers=0)


@pytest.mark.parametrize("how", ["lost", "bytes"])
def test_exchange_whose_worker_goes_before_the_request_left_finds_another(bench: Bench, how: str) -> None:
    """Nothing was sent, so another worker may have it, whatever the method; bytes without a question end a worker."""
    first, second, master = bench.worker("w1"), bench.worker("w2"), bench.requester()
    master.ask(ANY, "POST")
    if how == "lost":
        first.link.reset()
    else:
        first.reply()
    bench.audit.flush()
    assert first.taken() == b""
    assert second.taken().startswith(b"POST /job ")
    second.reply()
    bench.audit.flush()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.fields["rhttp-worker"]) == (200, "w2")
    check_at_rest(bench, workers=1)
