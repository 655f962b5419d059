"""The gateway's own paths: what is there, for whom, and what never leaves for a route."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from support.bench import POOL, Answer, Bench, Requester, client_peer, master_peer, worker_peer
from support.policies import OPEN

from gateway.ingress.field_section import preferred_label, preferred_wait
from rhttp.http1.head import parse_request_head
from rhttp.message import SharedFields

CONFIG = (
    POOL
    + """
[pools.far]
mode = "relay"
master = "jobs"
[masters.jobs]
urls = ["http://127.0.0.1:1"]
[[routes]]
path = "/*"
master = "jobs"
"""
)
ANY = "/-/pools/render/any/x"


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(CONFIG, policy=OPEN)
    yield made
    made.close()


@pytest.fixture
def asker(bench: Bench) -> Requester:
    """A master with a certificate."""
    return bench.requester(master_peer())


def answered(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


def value_of(answer: Answer | None) -> Any:
    """The JSON of an answer, which must be 200."""
    assert answer is not None
    assert answer.status == 200
    return json.loads(answer.content)


@pytest.mark.parametrize(
    "target",
    [
        "/-",
        "/-/",
        "/-/nothing",
        "/-/pools/",
        "/-/pools//any/x",
        "/-/pools/render/",
        "/-/pools/render/any",
        "/-/pools/render/workers",
        "/-/pools/render/workers/w1",
        "/-/pools/render/workers//x",
        "/-/pools/render/events/x",
        "/-/health/x",
        "/-/reverse",
        "/-/reverse/",
    ],
)
def test_own_path_that_is_not_listed_is_404_and_never_routed(asker: Requester, target: str) -> None:
    """The route for everything does not get it; an empty name in it is no name."""
    assert answered(asker.ask(target)).status in (400, 404)


def test_health_is_told_to_whoever_has_a_certificate(bench: Bench) -> None:
    """Serving or draining, by GET and HEAD."""
    for peer in (client_peer(), worker_peer("w1"), master_peer(), None):
        assert value_of(bench.requester(peer).ask("/-/health")) == {"status": "serving"}
    asker = bench.requester(client_peer())
    head = answered(asker.ask("/-/health", "HEAD"))
    assert (head.status, head.content) == (200, b"")
    refused = answered(asker.ask("/-/health", "POST"))
    assert (refused.status, refused.fields["allow"]) == (405, "GET, HEAD")
    bench.process.draining = True
    draining = answered(asker.ask("/-/health"))
    assert (draining.status, json.loads(draining.content)) == (503, {"status": "draining"})


def test_switch_of_roles_is_not_offered_on_the_dispatch_listener(bench: Bench) -> None:
    """A worker has a certificate."""
    local = bench.requester()
    assert answered(local.ask("/-/reverse/render", "POST", "Upgrade: PTTH/1.0", "Connection: Upgrade")).status == 404


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [("/-/reverse/render", "elsewhere", 421), ("/-/reverse/render/x", "localhost", 404), ("/-/reverse/no", "a", 421)],
)
def test_switch_of_roles_that_is_refused_for_anything_closes(bench: Bench, target: str, host: str, status: int) -> None:
    """Whoever asked for it may have gone over to the other protocol already."""
    worker = bench.requester(worker_peer("w1"))
    worker.send(f"POST {target} HTTP/1.1\r\nHost: {host}\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n".encode())
    answer = answered(worker.answer())
    assert (answer.status, answer.fields["connection"]) == (status, "close")


def test_pools_are_summed_and_one_is_told_alone(bench: Bench, asker: Requester) -> None:
    """What is free in a relay pool only its master knows: it counts as none."""
    bench.worker("w1")
    bench.worker("w2")
    told = value_of(asker.ask("/-/pools"))
    assert told["slots"] == {"total": 2, "free": 2}
    assert sorted(pool["pool"] for pool in told["pools"]) == ["far", "render"]
    assert value_of(asker.ask("/-/pools/render"))["slots"] == {"total": 2, "free": 2}
    assert value_of(asker.ask("/-/pools/far"))["slots"]["free"] is None
    assert answered(asker.ask("/-/pools/nowhere")).status == 404
    assert answered(asker.ask("/-/pools", "DELETE")).status == 405


async def test_pools_that_policy_hides_are_not_told() -> None:
    """Policy is asked about each pool: what it denies is left out of the list, and if that is all, it is the answer."""
    hidden = OPEN + '@id("hidden") forbid (principal, action == Action::"inspect", resource == Pool::"far");'
    bench = Bench(CONFIG, policy=hidden)
    try:
        told = value_of(bench.requester().ask("/-/pools"))
        assert [pool["pool"] for pool in told["pools"]] == ["render"]
        assert answered(bench.requester().ask("/-/pools/far")).status == 403
    finally:
        bench.close()
    bench = Bench(CONFIG, policy=OPEN + '@id("hidden") forbid (principal, action == Action::"inspect", resource);')
    try:
        assert answered(bench.requester().ask("/-/pools")).status == 403
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/-/pools/far/any/x", "GET", 404),
        ("/-/pools/nowhere/any/x", "GET", 404),
        ("/-/pools/far/events", "GET", 404),
        ("/-/pools/nowhere/events", "GET", 404),
        ("/-/pools/render/events", "HEAD", 405),
        ("/-/pools/render/events", "POST", 405),
    ],
)
def test_own_path_of_a_pool_that_cannot_do_it_says_so(asker: Requester, target: str, method: str, status: int) -> None:
    """What is not there is 404, another method is 405 and names those that are."""
    answer = answered(asker.ask(target, method))
    assert answer.status == status
    assert ("allow" in answer.fields) is (status == 405)


def test_dispatch_passes_path_and_query_as_they_are(bench: Bench, asker: Requester) -> None:
    """The path begins at the slash behind ``any``; the query is the worker's affair, byte for byte."""
    worker = bench.worker()
    assert asker.ask("/-/pools/render/any/a/%7eb/?q=%7e%2f&r[]") is None
    assert worker.taken().startswith(b"GET /a/~b/?q=%7e%2f&r[] HTTP/1.1\r\n")
    worker.reply()
    assert answered(asker.answer()).status == 200
    assert asker.ask("/-/pools/render/workers/w1/?") is None
    assert worker.taken().startswith(b"GET /? HTTP/1.1\r\n")


def test_dispatch_is_refused_while_the_gateway_drains(bench: Bench, asker: Requester) -> None:
    """Nothing new is leased; the line says why."""
    worker = bench.worker()
    bench.process.draining = True
    assert answered(asker.ask(ANY)).problem == "draining"
    assert not worker.taken()
    assert bench.audit.lines[-1]["reason"] == "draining"


async def test_event_streams_have_a_number() -> None:
    """At it they are served, one more is told so."""
    bench = Bench(CONFIG, policy=OPEN, limits="event_streams = 2")
    try:
        for status in (200, 200, 503):
            reader = bench.requester()
            reader.send(b"GET /-/pools/render/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            assert answered(reader.answer()).status == status
        assert bench.audit.lines[-1]["reason"] == "event_streams"
    finally:
        bench.close()


def fields(*lines: str) -> SharedFields:
    """The field lines of a request."""
    return parse_request_head("\r\n".join(["GET / HTTP/1.1", "Host: x", *lines, "", ""]).encode("latin-1")).fields


@pytest.mark.parametrize(
    ("lines", "seconds"),
    [
        ([], 0),
        (["Prefer: wait=5"], 5),
        (["Prefer: WAIT = 5"], 5),
        (['Prefer: wait="5"'], 5),
        (["Prefer: respond-async, wait=5"], 5),
        (["Prefer: respond-async", "Prefer: wait=7;x=y"], 7),
        (["Prefer: wait=5, wait=9"], 5),
        (["Prefer: wait=-1"], 0),
        (["Prefer: wait=1.5"], 0),
        (["Prefer: wait="], 0),
        (["Prefer: waits=5"], 0),
        (["Prefer: wait=1234567890"], 0),
    ],
)
def test_wait_that_is_preferred_is_read_by_rfc_7240(lines: list[str], seconds: int) -> None:
    """Whole seconds; the first one counts, what is malformed is no wish."""
    assert preferred_wait(fields(*lines)) == seconds


@pytest.mark.parametrize(
    ("line", "label"),
    [
        ("gpu=a100", ("gpu", "a100")),
        (" gpu = a100 ", ("gpu", "a100")),
        ("gpu=", ("gpu", "")),
        ("gpu=a=b", ("gpu", "a=b")),
        ("gpu", None),
        ("=a100", None),
        ("k" * 63 + "=v", ("k" * 63, "v")),
        ("k" * 64 + "=v", None),
        ("k=" + "v" * 255, ("k", "v" * 255)),
        ("k=" + "v" * 256, None),
    ],
)
def test_label_that_is_preferred_is_one_pair_or_no_wish(line: str, label: object) -> None:
    """At its limits it is read, one character above it is not."""
    assert preferred_label(fields(f"Rhttp-Prefer-Label: {line}")) == label
