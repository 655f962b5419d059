"""Which requests are sent a second time: those that nobody can have run twice, and no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bench import Bench, Worker

from rhttp.message import IDEMPOTENT

ANY = "/-/pools/render/any/job?x=1"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(limits="retained_content = 1000")
    yield made
    made.close()


def check_at_rest(bench: Bench, *, workers: int) -> None:
    """Nothing runs, nothing waits, every slot that is left is free."""
    pool = bench.pool.pool
    assert bench.process.exchanges == 0
    assert (pool.waiting, pool.total, pool.free) == (0, workers, workers)


METHODS = ["GET", "PUT", "DELETE", "HEAD", "POST", "PATCH"]


def lose(worker: Worker, how: str) -> None:
    """End a worker's connection in one of the ways that a client end tells apart."""
    if how == "sent":
        worker.reset()
    elif how == "cut head":
        worker.reply(b"HTTP/1.1 2")
        worker.reset()
    elif how == "cut content":
        worker.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
        worker.reset()
    elif how == "interim":
        worker.reply(b"HTTP/1.1 103 Early Hints\r\n\r\n")
        worker.reset()
    elif how == "invalid":
        worker.reply(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n")
    else:
        assert how == "deadline"
        worker.link.owner.deadline_passed()


LOSSES = {
    "sent": (502, "worker-lost"),
    "cut head": (502, "worker-lost"),
    "cut content": (0, ""),
    "interim": (502, "worker-lost"),
    "invalid": (502, "worker-invalid"),
    "deadline": (504, "deadline"),
}


@pytest.mark.parametrize("how", LOSSES)
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("size", [None, 1000, 1001])
def test_exchange_is_sent_once_more_only_when_that_is_safe(
    bench: Bench, method: str, how: str, size: int | None
) -> None:
    """Bytes handed over, no answer byte seen, method idempotent, content kept: once, on another worker. Else 502."""
    first, second, master = bench.worker("w1"), bench.worker("w2"), bench.requester()
    content = None if size is None else b"x" * size
    master.ask(ANY, method, content=content)
    sent = first.taken()
    assert sent
    assert second.taken() == b""
    lose(first, how)
    again = second.taken()
    safe = how == "sent" and method.encode() in IDEMPOTENT and size != 1001
    assert bench.process.counters.retries == safe
    if safe:
        assert again.replace(b"Host: w2", b"Host: w1") == sent
        second.reply(OK if method != "HEAD" else OK[:-4])
        answer = master.answer()
        assert answer is not None
        assert (answer.status, answer.fields["rhttp-worker"]) == (200, "w2")
        assert len(bench.audit.of("dispatch.sent")) == 2
        assert [line["worker"] for line in bench.audit.of("dispatch")] == ["w2"]
    else:
        assert again == b""
        status, problem = LOSSES[how]
        if how == "cut content" and method != "HEAD":
            assert master.link.aborted
        elif how != "cut content":
            data = master.link.take()
            assert b"HTTP/1.1 %d " % status in data
            if method != "HEAD":
                assert b"urn:rhttp:problem:%b" % problem.encode() in data
            (line,) = bench.audit.of("dispatch")
            assert (line["outcome"], line["worker"]) == ("failed", "w1")
    assert bench.process.exchanges == 0


def test_exchange_is_sent_a_second_time_only_once(bench: Bench) -> None:
    """Two lost workers are enough: the request may be what kills them."""
    workers = [bench.worker(f"w{number}") for number in range(1, 4)]
    master = bench.requester()
    master.ask(ANY)
    workers[0].reset()
    workers[1].reset()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (502, "worker-lost")
    assert workers[2].taken() == b""
    check_at_rest(bench, workers=1)


def test_exchange_is_not_retried_on_the_worker_that_lost_it(bench: Bench) -> None:
    """Another connection of the same worker is no other worker."""
    first, second, master = bench.worker("w1"), bench.worker("w1"), bench.requester()
    master.ask(ANY)
    first.reset()
    answer = master.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (502, "worker-lost")
    assert second.taken() == b""
    check_at_rest(bench, workers=1)


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_exchange_takes_the_next_slot_when_nothing_was_handed_over(bench: Bench, method: str) -> None:
    """A slot whose connection is closing is passed over, whatever the method, without counting as a try."""
    dead = [bench.worker("w1") for _ in range(5)]
    alive, master = bench.worker("w2"), bench.requester()
    for worker in dead:
        worker.link.abort()
    assert master.ask(ANY, method, content=b"x") is None
    assert b"Host: w2.render" in alive.taken()
    alive.reply()
    answer = master.answer()
    assert answer is not None
    assert answer.status == 200
    assert bench.process.counters.retries == 0


def test_exchange_passes_over_any_number_of_dying_slots(bench: Bench) -> None:
    """A network that fails resets thousands of connections in one turn: no recursion, one clear answer."""
    workers = [bench.worker(f"w{number}") for number in range(600)]
    for worker in workers:
        worker.link.abort()
    answer = bench.requester().ask(ANY)
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "no-slot")
    check_at_rest(bench, workers=0)
