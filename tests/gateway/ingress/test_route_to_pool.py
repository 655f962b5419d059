"""A route that leads to a hosted pool: a client's request goes straight to a worker, decided as a request."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from support.bench import POOL, Answer, Bench, client_peer, sink_of
from support.policies import OPEN

ROUTES = (
    POOL
    + """
[masters.jobs]
urls = ["http://127.0.0.1:1"]
[[routes]]
path = "/render/*"
pool = "render"
strip_prefix = true
allow_empty_segments = true
allow_encoded_slash = true
[[routes]]
path = "/whole/*"
pool = "render"
[[routes]]
path = "/jobs/*"
master = "jobs"
strip_prefix = true
"""
)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(ROUTES, policy=OPEN)
    yield made
    made.close()


def answered(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


@pytest.mark.parametrize(
    ("target", "forwarded"),
    [
        ("/render/", b"/"),
        ("/render/a/%7eb?q=%7e", b"/a/~b?q=%7e"),
        ("/render/render/x", b"/render/x"),
        ("/render/-x", b"/-x"),
        ("/whole/a?q", b"/whole/a?q"),
    ],
)
async def test_route_to_a_pool_forwards_the_path_with_or_without_its_prefix(
    bench: Bench, target: str, forwarded: bytes
) -> None:
    """In normal form, the query byte for byte."""
    worker = bench.worker()
    assert bench.requester(client_peer()).ask(target) is None
    assert worker.taken().startswith(b"GET %b HTTP/1.1\r\n" % forwarded)


@pytest.mark.parametrize(
    ("target", "status", "reason"),
    [
        ("/render//x", 400, "target_empty_segment"),
        ("/render/%2Fx", 400, "target_empty_segment"),
        ("/render/-/health", 404, "reserved_behind_prefix"),
        ("/render/-", 404, "reserved_behind_prefix"),
        ("/render/-%2Fhealth", 404, "reserved_behind_prefix"),
        ("/jobs/-/pools/render/any/x", 404, "reserved_behind_prefix"),
    ],
)
async def test_path_that_means_something_else_without_its_prefix_is_refused(
    bench: Bench, target: str, status: int, reason: str
) -> None:
    """An authority to some, or an own path of the gateway that may stand behind the route."""
    worker = bench.worker()
    assert answered(bench.requester(client_peer()).ask(target)).status == status
    assert bench.audit.lines[-1]["reason"] == reason
    assert not worker.taken()


async def test_route_to_a_pool_sets_fields_as_routes_and_tells_the_worker_as_dispatches(bench: Bench) -> None:
    """Who asks, for the worker; who answered, for the client; where it went, for the log."""
    worker = bench.worker()
    asker = bench.requester(client_peer())
    assert asker.ask("/render/x", "GET", "Authorization-Info: a", "X-Forwarded-For: 1", "Rhttp-Identity: me") is None
    request = worker.taken()
    assert b"\r\nHost: w1.render." in request
    assert b"\r\nRhttp-Identity: client/alice\r\n" in request
    assert b"X-Forwarded-For" not in request
    worker.reply(b'HTTP/1.1 200 OK\r\nWWW-Authenticate: Basic realm="w"\r\nContent-Length: 0\r\n\r\n')
    answer = answered(asker.answer())
    assert (answer.status, answer.fields["rhttp-worker"]) == (200, "w1")
    assert "www-authenticate" not in answer.fields
    sent, done = bench.audit.lines[-2:]
    assert (sent["event"], done["event"]) == ("dispatch.sent", "dispatch")
    for line in (sent, done):
        assert (line["target"], line["pool"], line["worker"]) == ("/render/x", "render", "w1")
        assert (line["identity"], line["listener"]) == ("client/alice", "tls")
    assert bench.process.counters.dispatches == 1


async def test_own_path_of_a_pool_tells_it_by_its_target_alone(bench: Bench) -> None:
    """A dispatch's line is what it was."""
    worker = bench.worker()
    asker = bench.requester()
    assert asker.ask("/-/pools/render/any/x") is None
    worker.reply()
    assert "pool" not in bench.audit.lines[-1]


async def test_worker_that_asks_for_credentials_over_a_route_is_502(bench: Bench) -> None:
    """The client could not give them: its own are for this gateway."""
    worker = bench.worker()
    asker = bench.requester(client_peer())
    assert asker.ask("/render/x") is None
    worker.reply(b'HTTP/1.1 401 No\r\nWWW-Authenticate: Basic realm="w"\r\nContent-Length: 0\r\n\r\n')
    assert answered(asker.answer()).problem == "master-asked-credentials"
    assert bench.audit.lines[-1]["pool"] == "render"


async def test_route_to_a_pool_asks_policy_for_the_request_and_not_for_a_dispatch() -> None:
    """By the name of the route, which is the pool's unless it has one."""
    policy = OPEN + '@id("no") forbid (principal, action == Action::"request", resource == Route::"render");'
    bench = Bench(ROUTES, policy=policy)
    try:
        bench.worker()
        assert answered(bench.requester(client_peer()).ask("/render/x")).status == 401
        assert bench.requester().ask("/-/pools/render/any/x") is None
    finally:
        bench.close()
    bench = Bench(ROUTES, policy=OPEN + '@id("no") forbid (principal, action == Action::"dispatch", resource);')
    try:
        bench.worker()
        assert bench.requester(client_peer()).ask("/render/x") is None
        assert answered(bench.requester().ask("/-/pools/render/any/x")).status == 403
    finally:
        bench.close()


async def test_route_to_a_pool_without_a_free_slot_waits_as_long_as_its_client_would(bench: Bench) -> None:
    """503 at once without `Prefer: wait`; with it the next slot that comes, of a worker with the label if there is."""
    asker = bench.requester(client_peer())
    refused = answered(asker.ask("/render/x"))
    assert (refused.problem, refused.fields["retry-after"]) == ("no-slot", "1")
    assert (bench.audit.lines[-1]["pool"], bench.audit.lines[-1]["reason"]) == ("render", "no_slot")
    assert asker.ask("/render/x", "GET", "Prefer: wait=5") is None
    worker = bench.worker()
    assert worker.taken().startswith(b"GET /x HTTP/1.1\r\n")
    worker.reply()
    assert answered(asker.answer()).status == 200
    labelled = bench.worker("w2", labels=(("gpu", "a100"),))
    assert asker.ask("/render/x", "GET", "Rhttp-Prefer-Label: gpu=a100") is None
    assert labelled.taken()


async def test_client_of_a_route_to_a_pool_that_goes_away_waits_no_more(bench: Bench) -> None:
    """Its place in the queue is another's."""
    asker = bench.requester(client_peer())
    assert asker.ask("/render/x", "GET", "Prefer: wait=5") is None
    assert bench.pool.pool.waiting == 1
    asker.link.reset()
    assert bench.pool.pool.waiting == 0
    assert bench.audit.lines[-1]["outcome"] == "aborted"


async def test_lost_worker_of_a_route_to_a_pool_is_followed_by_another_once(bench: Bench) -> None:
    """As for a dispatch: an idempotent request, no byte of the answer seen; a second loss is the answer."""
    first, second = bench.worker("w1"), bench.worker("w2")
    asker = bench.requester(client_peer())
    assert asker.ask("/render/x") is None
    taken = first if first.link.sent else second
    other = second if taken is first else first
    taken.reset()
    assert other.taken().startswith(b"GET /x HTTP/1.1\r\n")
    other.reset()
    assert answered(asker.answer()).problem == "worker-lost"


async def test_worker_that_is_cut_ends_its_request_over_a_route(bench: Bench) -> None:
    """Revoked in mid-answer: the client's answer ends, too."""
    worker = bench.worker()
    asker = bench.requester(client_peer())
    assert asker.ask("/render/x", "POST", content=b"x") is None
    worker.reversed.disconnect("revoked")
    assert answered(asker.answer()).problem == "worker-lost"


async def test_drain_refuses_a_request_over_a_route_to_a_pool(bench: Bench) -> None:
    """No new leases."""
    worker = bench.worker()
    bench.process.draining = True
    assert answered(bench.requester(client_peer()).ask("/render/x")).problem == "draining"
    assert not worker.taken()


async def test_repeated_request_over_a_route_to_a_pool_has_its_pool_in_the_log(bench: Bench) -> None:
    """Known or new, the lines tell the same."""
    worker = bench.worker()
    asker = bench.requester(client_peer())
    for _ in range(3):
        assert asker.ask("/render/x") is None
        assert sink_of(asker).worker is None
        worker.reply()
        assert answered(asker.answer()).status == 200
    assert {line.get("pool") for line in bench.audit.lines if line["event"].startswith("dispatch")} == {"render"}
