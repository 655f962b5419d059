"""A hosted pool: the worker's connections that it keeps, who gets their slots, and how they end."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from support.bench import POOL, Bench, Requester

from gateway.pools.hosted import ReversedConnection

ANY = "/-/pools/render/any/x"
WAITS = "Prefer: wait=30"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(POOL)
    yield made
    made.close()


def status_of(requester: Requester) -> tuple[int, str]:
    """The answer that is there, and its problem."""
    answer = requester.answer()
    assert answer is not None
    return answer.status, "" if answer.status < 400 else answer.problem


def reasons(bench: Bench) -> list[str]:
    return [line["reason"] for line in bench.audit.of("reverse.closed")]


# ---- a worker comes ----


def test_hosted_connection_is_counted_and_free(bench: Bench) -> None:
    """In the registry under its identity, in the pool as a slot, in the metrics."""
    worker = bench.worker("w1", labels=(("gpu", "a100"),), instance="i1")
    process, hosted = bench.process, bench.pool
    assert process.registry.held("worker/w1") == process.counters.reversed_opened == 1
    assert list(process.registry) == [worker.reversed]
    assert hosted.sums() == (1, 1)
    (told,) = hosted.describe()["workers"]  # type: ignore[misc]
    assert (told["name"], told["labels"], told["instance"]) == ("w1", {"gpu": "a100"}, "i1")


def test_request_that_waits_gets_the_slot_of_whoever_comes(bench: Bench) -> None:
    """In the order in which they came, save that one wants another worker."""
    named, first, second = bench.requester(), bench.requester(), bench.requester()
    assert named.ask("/-/pools/render/workers/w2/x", "GET", WAITS) is None
    assert first.ask(ANY, "GET", WAITS) is None
    assert second.ask(ANY, "GET", WAITS) is None
    one, two = bench.worker("w1"), bench.worker("w2")
    one.reply()
    assert status_of(first) == (200, "")
    two.reply()
    assert status_of(named) == (200, "")
    one.reply()
    assert status_of(second) == (200, "")
    assert bench.process.exchanges == bench.pool.pool.waiting == 0


def test_worker_that_whoever_waited_for_it_ends_at_once_leaves_no_slot(bench: Bench) -> None:
    """The line that must come before the request cannot be written, so its connection ends as it is made."""
    asker = bench.requester()
    assert asker.ask(ANY, "GET", WAITS) is None
    bench.audit.fails_on = "dispatch.sent"
    worker = bench.worker("w1")
    assert status_of(asker) == (503, "audit-unavailable")
    assert worker.link.is_closing()
    assert bench.pool.sums() == (0, 0)
    assert bench.process.registry.held("worker/w1") == 0


# ---- who gets a slot ----


def test_request_without_a_slot_is_told_at_once_unless_it_waits(bench: Bench) -> None:
    """No worker, no worker of that name, and a queue that is full: 503 each, with its reason in the log."""
    asker = bench.requester()
    for target in (ANY, "/-/pools/render/workers/w9/x"):
        answer = asker.ask(target)
        assert answer is not None
        assert (answer.status, answer.problem, answer.fields["retry-after"]) == (503, "no-slot", "1")
    waiting = [bench.requester() for _ in range(3)]  # the pool's queue
    assert [one.ask(ANY, "GET", WAITS) for one in waiting] == [None] * 3
    answer = asker.ask(ANY, "GET", WAITS)
    assert answer is not None
    assert answer.problem == "no-slot"
    assert [line["reason"] for line in bench.audit.of("dispatch")] == ["no_slot", "no_slot", "queue_full"]


def test_slot_whose_connection_has_just_ended_is_passed_over(bench: Bench) -> None:
    """Its end was not told yet: the request goes to the next one, and that is no second try."""
    ended, worker = bench.worker("w1"), bench.worker("w2")
    ended.link.abort()
    assert (ended.end.closed, bench.pool.sums()) == (True, (2, 2))
    asker = bench.requester()
    assert asker.ask(ANY) is None
    assert worker.taken()
    worker.reply()
    assert status_of(asker) == (200, "")
    assert bench.process.counters.retries == 0


def test_request_is_sent_to_the_worker_by_its_name(bench: Bench) -> None:
    """``Host`` is the worker's, in its pool, in the trust domain."""
    worker, asker = bench.worker("w1"), bench.requester()
    assert asker.ask(ANY) is None
    assert b"\r\nHost: w1.render.test.internal\r\n" in worker.taken()
    worker.reply()
    answer = asker.answer()
    assert answer is not None
    assert answer.fields["rhttp-worker"] == "w1"


def test_requester_that_leaves_the_queue_takes_its_place_with_it(bench: Bench) -> None:
    """The slot goes to the next one."""
    gone, waits = bench.requester(), bench.requester()
    assert gone.ask(ANY, "GET", WAITS) is None
    assert waits.ask(ANY, "GET", WAITS) is None
    gone.end.connection_lost(None)
    assert bench.pool.pool.waiting == 1
    bench.worker().reply()
    assert status_of(waits) == (200, "")


# ---- how a connection ends ----


def test_idle_connection_that_is_lost_takes_its_slot_with_it(bench: Bench) -> None:
    """One line says so; registry and pool forget it."""
    worker = bench.worker()
    worker.reset()
    assert (bench.pool.sums(), bench.process.registry.count) == ((0, 0), 0)
    assert reasons(bench) == ["connection lost"]


@pytest.mark.parametrize("is_busy", [False, True])
def test_cut_connection_ends_at_once(bench: Bench, is_busy: bool) -> None:
    """Its requester is told that the request may have run; the log has the cut and the end, both with the reason."""
    worker, asker = bench.worker(), bench.requester()
    if is_busy:
        assert asker.ask(ANY, "POST", content=b"x") is None
    worker.reversed.disconnect("revoked")
    assert worker.link.aborted
    assert bench.pool.sums() == (0, 0)
    if is_busy:
        assert status_of(asker) == (502, "worker-lost")
    assert [line["reason"] for line in bench.audit.of("connection.cut")] == ["revoked"]
    assert reasons(bench) == ["revoked"]


def test_drained_connection_ends_when_it_is_idle(bench: Bench) -> None:
    """A busy one behind its answer, and takes nothing else meanwhile; drained twice it is drained once."""
    busy, idle, asker, waits = bench.worker("w1"), bench.worker("w2"), bench.requester(), bench.requester()
    assert asker.ask("/-/pools/render/workers/w1/x") is None
    for worker in (busy, idle):
        worker.reversed.drain("policy")
    assert (busy.link.closed, idle.link.closed) == (False, True)
    assert waits.ask(ANY, "GET", WAITS) is None
    busy.reply()
    assert status_of(asker) == (200, "")
    assert busy.link.closed
    busy.reversed.drain("policy")
    assert waits.answer() is None
    assert reasons(bench) == ["policy", "policy"]


def test_connection_that_is_idle_while_the_gateway_drains_closes(bench: Bench) -> None:
    """It served what it had."""
    worker, asker = bench.worker(), bench.requester()
    assert asker.ask(ANY) is None
    bench.process.draining = True
    worker.reply()
    assert status_of(asker) == (200, "")
    assert worker.link.closed
    assert reasons(bench) == ["drain"]


@pytest.mark.parametrize(("drains", "problem"), [(True, "draining"), (False, "no-slot")])
def test_stopped_pool_tells_whoever_waits_and_leases_nothing(bench: Bench, drains: bool, problem: str) -> None:
    """Requests that run go on. Only a gateway that ends says so: a pool ends with a reload, too."""
    worker, runs, waits, late = bench.worker(), bench.requester(), bench.requester(), bench.requester()
    assert runs.ask(ANY) is None
    assert waits.ask(ANY, "GET", WAITS) is None
    bench.process.draining = drains
    bench.pool.stop()
    assert status_of(waits) == (503, problem)
    worker.reply()
    assert status_of(runs) == (200, "")
    answer = late.ask(ANY, "GET", WAITS)
    assert answer is not None
    assert answer.problem == problem


def test_pool_goes_on_under_another_configuration(bench: Bench) -> None:
    """Connections and those that wait stay; the queue has its new bound."""
    waits, late = bench.requester(), bench.requester()
    assert waits.ask(ANY, "GET", WAITS) is None
    bench.pool.adopt(replace(bench.pool.config, queue=1))
    answer = late.ask(ANY, "GET", WAITS)
    assert answer is not None
    assert answer.problem == "no-slot"
    bench.worker().reply()
    assert status_of(waits) == (200, "")


# ---- starts of one worker ----


def test_newer_start_retires_the_connections_of_the_older_one(bench: Bench) -> None:
    """Once it served: idle ones close, busy ones behind their answer; ones without a name stay."""
    busy, idle, nameless = (
        bench.worker("w1", instance="a"),
        bench.worker("w1", instance="a"),
        bench.worker("w1"),
    )
    asker = bench.requester()
    assert asker.ask(ANY) is None
    assert busy.taken()
    newer = bench.worker("w1", instance="b")
    owner = bench.pool
    assert owner.newer_start("w1", "a") is None
    for worker in (idle, nameless, newer):
        other = bench.requester()
        assert other.ask(ANY) is None
        assert worker.taken()
        worker.reply()
    assert (idle.link.closed, busy.link.closed, nameless.link.closed, newer.link.closed) == (True, False, False, False)
    assert owner.newer_start("w1", "a") == "b"
    busy.reply()
    assert status_of(asker) == (200, "")
    assert busy.link.closed
    assert reasons(bench) == ["superseded", "superseded"]
    assert owner.sums() == (2, 2)


def test_connection_knows_its_pool_and_ends_through_it(bench: Bench) -> None:
    """What the registry and a reload ask of it."""
    connection = bench.worker().reversed
    assert isinstance(connection, ReversedConnection)
    assert (connection.pool_name, connection.peer.identity, connection.ended) == ("render", "worker/w1", None)
