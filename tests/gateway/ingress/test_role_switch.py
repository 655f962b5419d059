"""The role switch: what a worker must ask for, what it gets, and what follows on its connection."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bench import POOL, Answer, Bench, Requester, worker_peer

from rhttp.http1.client import ClientEnd
from rhttp.reversal.upgrade import PTTH_1_0

OPEN = '@id("open") permit (principal, action, resource);'
UPGRADE = ("Upgrade: PTTH/1.0", "Connection: Upgrade")
TARGET = "/-/reverse/render"
ASK = b"%b /-/reverse/render HTTP/1.1\r\nHost: localhost\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
ANY = "/-/pools/render/any/x"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(POOL, policy=OPEN)
    yield made
    made.close()


@pytest.fixture
async def strict() -> Iterator[Bench]:  # type: ignore[misc]  # the default policy: workers need Digest
    made = Bench(POOL)
    yield made
    made.close()


def switch(
    bench: Bench, *lines: str, name: str = "w1", method: str = "POST", target: str = TARGET
) -> tuple[Requester, Answer]:
    """A worker that asks to switch, and what it got."""
    worker = bench.requester(worker_peer(name))
    answer = worker.ask(target, method, *lines)
    assert answer is not None
    return worker, answer


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_worker_switches_roles_and_serves(bench: Bench, method: str) -> None:
    """The 101 that peers compare byte by byte; the same connection, counted once, now takes requests."""
    worker = bench.requester(worker_peer("w1"))
    worker.send(ASK % method.encode())
    assert worker.link.take() == PTTH_1_0.answer
    assert isinstance(worker.link.owner, ClientEnd)
    process = bench.process
    assert (process.counters.connections, process.registry.count, process.counters.reversed_opened) == (1, 1, 1)
    assert bench.events()[:2] == ["audit reverse.opened", "write w1"]
    (line,) = bench.audit.of("reverse.opened")
    assert (line["identity"], line["target"], line["status"]) == ("worker/w1", TARGET, 101)
    master = bench.requester()
    assert master.ask(ANY) is None
    assert worker.link.take().startswith(b"GET /x HTTP/1.1\r\nHost: w1.render.test.internal\r\n")
    worker.link.owner.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    answer = master.answer()
    assert answer is not None
    assert answer.status == 204
    worker.link.reset()
    assert process.counters.connections == process.registry.count == 1
    assert [line["reason"] for line in bench.audit.of("reverse.closed")] == ["connection lost"]


def test_worker_that_cannot_be_audited_does_not_switch(bench: Bench) -> None:
    """No line, no worker."""
    bench.audit.fails_on = "reverse.opened"
    worker, answer = switch(bench, *UPGRADE)
    assert (answer.status, answer.problem) == (503, "audit-unavailable")
    assert bench.pool.pool.total == 0
    assert worker.link.eof


def test_worker_that_sends_before_the_switch_is_cut(bench: Bench) -> None:
    """RFC 9931: bytes before the 101 are smuggled or a fault; the counts stay right."""
    worker = bench.requester(worker_peer("w1"))
    worker.send(ASK % b"POST" + b"HTTP/1.1 200")
    assert worker.link.aborted
    assert worker.link.take() == b""
    assert bench.pool.pool.total == 0
    assert (bench.process.counters.connections, bench.process.registry.count) == (0, 0)


@pytest.mark.parametrize(
    ("method", "lines", "status", "problem"),
    [
        ("POST", [], 426, "upgrade-required"),
        ("POST", ["Upgrade: PTTH/1.0"], 426, "upgrade-required"),
        ("POST", ["Upgrade: websocket", "Connection: Upgrade"], 426, "upgrade-required"),
        ("PUT", [*UPGRADE], 405, "method-not-allowed"),
        ("POST", [*UPGRADE, "Rhttp-Instance: a b"], 400, "bad-request"),
        ("POST", [*UPGRADE, "Rhttp-Instance: " + "a" * 65], 400, "bad-request"),
        ("POST", [*UPGRADE, "Rhttp-Instance: a", "Rhttp-Instance: a"], 400, "bad-request"),
        ("POST", [*UPGRADE, "Rhttp-Instance: "], 400, "bad-request"),
        ("POST", [*UPGRADE, "Content-Length: 2"], 400, "bad-request"),
        ("POST", [*UPGRADE, "Transfer-Encoding: chunked"], 400, "bad-request"),
    ],
)
def test_worker_that_asks_wrongly_is_told_and_closed(
    bench: Bench, method: str, lines: list[str], status: int, problem: str
) -> None:
    """Every refusal of an upgrade closes; 426 offers what there is."""
    worker, answer = switch(bench, *lines, method=method)
    assert (answer.status, answer.problem) == (status, problem)
    assert worker.end.is_last
    has_content = any(line.startswith(("Content-Length", "Transfer-Encoding")) for line in lines)
    assert worker.link.eof is not has_content  # content that was announced is dropped first
    if status == 426:
        assert answer.fields["upgrade"] == "PTTH/1.0"
    assert bench.pool.pool.total == 0


def test_worker_of_an_unknown_pool_is_told_so(bench: Bench) -> None:
    """Policy allowed it, and there is no such pool."""
    worker, answer = switch(bench, *UPGRADE, target="/-/reverse/nope")
    assert (answer.status, answer.problem) == (404, "not-found")
    assert worker.link.eof


def test_worker_while_draining_is_sent_away(bench: Bench) -> None:
    """503, come back later."""
    bench.process.draining = True
    worker, answer = switch(bench, *UPGRADE)
    assert (answer.status, answer.problem) == (503, "draining")
    assert worker.link.eof


def test_worker_without_credentials_gets_one_more_request_in_a_short_time(strict: Bench) -> None:
    """The first 401 keeps the connection and offers the token; the second closes, and so does waiting."""
    worker, answer = switch(strict, *UPGRADE)
    assert answer.status == 401
    assert answer.fields["upgrade"] == "PTTH/1.0"
    assert not worker.link.eof
    second = worker.ask(TARGET, "POST", *UPGRADE)
    assert second is not None
    assert second.status == 401
    assert worker.link.eof
    idle, answer = switch(strict, *UPGRADE, name="w2")
    assert answer.status == 401
    strict.turn(4.0)
    assert not idle.link.eof
    strict.turn(1.5)
    assert idle.link.eof


def test_newer_start_of_a_worker_takes_over_when_it_serves(bench: Bench) -> None:
    """`Rhttp-Instance`: idle connections of the older start close at once, busy ones behind their answer."""
    old = [switch(bench, *UPGRADE, "Rhttp-Instance: a")[0] for _ in range(2)]
    masters = [bench.requester() for _ in range(2)]
    assert masters[0].ask(ANY) is None
    new = bench.requester(worker_peer("w1"))
    new.ask(TARGET, "POST", *UPGRADE, "Rhttp-Instance: b")
    busy, idle = (old[0], old[1]) if old[0].link.sent else (old[1], old[0])
    for master in masters[1:]:
        assert master.ask(ANY) is None  # the other old one
        assert idle.link.sent
    third = bench.requester()
    assert third.ask(ANY) is None
    assert new.link.sent
    idle.link.owner.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert not idle.link.closed
    new.link.owner.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert idle.link.closed
    assert not busy.link.closed
    busy.link.owner.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert busy.link.closed
    assert not new.link.closed
    assert [line["reason"] for line in bench.audit.of("reverse.closed")] == ["superseded", "superseded"]
    assert (bench.pool.pool.total, bench.pool.pool.free) == (1, 1)


def test_older_start_of_a_worker_is_refused_while_the_newer_one_is_there(bench: Bench) -> None:
    """It is told so, and when to ask again; the log names both; it may come back when the newer one is gone."""
    old, _ = switch(bench, *UPGRADE, "Rhttp-Instance: a")
    new, _ = switch(bench, *UPGRADE, "Rhttp-Instance: b")
    masters = [bench.requester() for _ in range(2)]
    assert [master.ask(ANY) for master in masters] == [None, None]
    for one in (old, new):
        one.link.owner.data_received(b"HTTP/1.1 204 No Content\r\n\r\n")
    assert old.link.closed
    old.link.owner.connection_lost(None)
    for _ in range(3):
        again, answer = switch(bench, *UPGRADE, "Rhttp-Instance: a")
        assert (answer.status, answer.problem, answer.fields["retry-after"]) == (409, "superseded", "30")
        assert again.link.eof
    line = bench.audit.of("request")[-1]
    assert (line["outcome"], line["reason"], line["status"]) == ("refused", "superseded", 409)
    assert line["detail"] == {"instance": "a", "newer": "b"}
    opened = [line["detail"] for line in bench.audit.of("reverse.opened")]
    assert opened == [{"instance": "a"}, {"instance": "b"}]
    assert (bench.pool.pool.total, bench.pool.pool.free) == (1, 1)
    new.link.owner.connection_lost(None)
    _again, answer = switch(bench, *UPGRADE, "Rhttp-Instance: a")
    assert answer.status == 409
    bench.process.elapsed += 31.0
    bench.process.state_at = bench.process.elapsed
    _again, answer = switch(bench, *UPGRADE, "Rhttp-Instance: a")
    assert answer.status == 101


# ---- how a master asks for a slot ----


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        (["Prefer: wait=5"], 5),
        (["Prefer: respond-async, WAIT = 5 ; x=y"], 5),
        (['Prefer: wait="5"'], 5),
        (["Prefer: a", "Prefer: wait=5"], 5),
        (["Prefer: wait=999999999"], 60),
        (["Prefer: wait=0"], 0),
        (["Prefer: wait=-1"], 0),
        (["Prefer: wait=5s"], 0),
        (["Prefer: wait=9999999999"], 0),
        (["Prefer: waiting=5"], 0),
        ([], 0),
    ],
)
def test_master_says_how_long_it_is_willing_to_wait(bench: Bench, lines: list[str], seconds: int) -> None:
    """RFC 7240 section 4.3, up to our limit; what is malformed is no wish."""
    master = bench.requester()
    answer = master.ask(ANY, "GET", *lines)
    assert (answer is not None) == (seconds == 0)
    if seconds:
        bench.turn(seconds - 0.5)
        assert master.answer() is None
        bench.turn(1.0)
        answer = master.answer()
        assert answer is not None
        assert answer.problem == "no-slot"


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("gpu=a", "w2"),
        (" gpu = a ", "w2"),
        ("gpu=b", "w1"),
        ("nonsense", "w1"),
        ("=", "w1"),
        ("gpu=" + "a" * 300, "w1"),
    ],
)
def test_master_may_wish_for_a_label(bench: Bench, line: str, name: str) -> None:
    """Honoured when it can be; anybody otherwise."""
    bench.worker("w1")
    bench.worker("w2", labels=(("gpu", "a"),))
    bench.requester().ask(ANY, "GET", f"Rhttp-Prefer-Label: {line}")
    (sent,) = bench.audit.of("dispatch.sent")
    assert sent["worker"] == name
