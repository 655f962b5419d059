"""One connection of a peer: what is decided in which order, and what becomes of what goes wrong in it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest
from support.bench import Answer, Bench, Requester, client_peer, master_peer
from support.policies import OPEN

import gateway.http.routes
from rhttp.http1.answer import Phase

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:1"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[[routes]]
path = "/open/*"
master = "jobs"
name = "open"
allow_cross_site = true
[pools.render]
mode = "hosted"
"""
ANY = "/-/pools/render/any/x"
EVIL = "Origin: https://evil.example"


class Faults:
    """What the event loop was told went wrong."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.seen: list[BaseException] = []
        loop.set_exception_handler(lambda _, context: self.seen.append(context["exception"]))


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(CONFIG, policy=OPEN)
    yield made
    made.close()


@pytest.fixture
async def faults() -> Faults:
    return Faults(asyncio.get_running_loop())


def master(bench: Bench) -> Requester:
    """A master with a certificate."""
    return bench.requester(master_peer())


def answered(answer: Answer | None) -> Answer:
    assert answer is not None
    return answer


def answers(data: bytes) -> list[Answer]:
    """All answers in what was written."""
    return [Answer(b"HTTP/1.1 " + part) for part in data.split(b"HTTP/1.1 ")[1:]]


# ---- a fault in a decision ----


class Broken(Exception):  # noqa: N818
    """A fault of ours."""


def _raise(*_: Any, **__: Any) -> Any:
    raise Broken("nobody expected this")


class Raising:
    """Fails whatever is asked of it."""

    def __getattr__(self, name: str) -> Any:
        return _raise


# Compiled parts can be replaced by nothing but themselves; the engine is whatever answers like one.
PARTS = (
    ("engine",)
    if str(gateway.http.routes.__file__).endswith(".so")
    else ("engine", "routes", "verifier", "authorities")
)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("target", ["/jobs/x", "/-/pools"])
def test_fault_in_a_decision_denies_and_leaves_a_line(bench: Bench, faults: Faults, part: str, target: str) -> None:
    """Whoever asked gets 500 and nothing else, the log says what kind of fault it was, and the connection ends."""
    setattr(bench.process.generation, part, Raising())
    alice = bench.requester(client_peer())
    answer = answered(alice.ask(target, "GET", *(["Authorization: Digest x"] if part == "verifier" else [])))
    assert (answer.status, answer.problem) == (500, "internal")
    assert answer.fields["connection"] == "close"
    assert b"nobody" not in answer.content
    (line,) = bench.audit.of("request")
    assert (line["outcome"], line["status"], line["reason"]) == ("refused", 500, "fault: Broken")
    assert line["identity"] == "client/alice"
    assert alice.link.eof
    assert [type(fault) for fault in faults.seen] == [Broken]


def test_fault_in_a_decision_about_an_upload_denies_it(bench: Bench, faults: Faults) -> None:
    """No byte of content goes anywhere."""
    bench.process.generation.engine = Raising()
    alice = bench.requester(client_peer())
    assert answered(alice.ask("/jobs/x", "POST", content=b"12345")).status == 500
    assert len(bench.audit.of("request")) == 1
    assert len(faults.seen) == 1


def test_fault_behind_a_decision_ends_the_exchange_and_the_connection(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows how far it came: the link is cut and the exchange writes its line, without a status."""
    monkeypatch.setattr(type(bench.pool), "lease", _raise)
    asker = master(bench)
    with pytest.raises(Broken):
        asker.ask(ANY)
    asker.end.connection_lost(None)
    (line,) = bench.audit.of("dispatch")
    assert line["outcome"] == "aborted"
    assert "status" not in line
    assert not asker.link.sent


# ---- what is malformed ----


def test_malformed_request_behind_a_good_one_is_answered_in_its_turn(bench: Bench) -> None:
    """The good one's answer leaves whole, then the other's; the log has a line of each, with what the peer was told."""
    worker = bench.worker()
    asker = master(bench)
    asker.send(b"GET /-/pools/render/any/x HTTP/1.1\r\nHost: localhost\r\n\r\nBAD\r\n\r\n")
    assert not asker.link.sent
    worker.reply()
    first, second = answers(asker.link.take())
    assert (first.status, first.content) == (200, b"done")
    assert (second.status, second.problem) == (400, "bad-request")
    assert second.fields["connection"] == "close"
    assert [line["status"] for line in (*bench.audit.of("dispatch"), *bench.audit.of("request"))] == [200, 400]


def test_request_that_breaks_off_in_its_content_has_one_line_with_its_status(bench: Bench) -> None:
    """The exchange that ends by it says what the peer is told."""
    bench.worker()
    asker = master(bench)
    asker.send(b"POST /-/pools/render/any/x HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    (answer,) = answers(asker.link.take())
    assert answer.status == 400
    (line,) = bench.audit.of("dispatch")
    assert (line["outcome"], line["status"]) == ("aborted", 400)
    assert not bench.audit.of("request")


# ---- pages of other sites ----


@pytest.mark.parametrize("line", [EVIL, "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"])
@pytest.mark.parametrize("target", [ANY, "/-/pools", "/-/health", "/-/nothing", "/jobs/x"])
def test_unsafe_request_from_another_site_is_refused_everywhere(bench: Bench, line: str, target: str) -> None:
    """On our own paths as over routes; no worker sees it."""
    worker = bench.worker()
    asker = master(bench)
    answer = answered(asker.ask(target, "POST", line))
    assert (answer.status, answer.problem) == (403, "cross-site")
    assert not worker.taken()
    (logged,) = bench.audit.of("request")
    assert logged["reason"] == ("cross_site_origin" if line.startswith("Origin") else "cross_site_fetch")


@pytest.mark.parametrize(
    ("target", "method", "line"),
    [
        (ANY, "GET", EVIL),
        (ANY, "POST", "Origin: https://localhost"),
        (ANY, "POST", "Sec-Fetch-Site: same-origin"),
        (ANY, "POST", "Sec-Fetch-Site: none"),
    ],
)
def test_request_that_changes_nothing_or_is_of_no_other_site_goes_on(
    bench: Bench, target: str, method: str, line: str
) -> None:
    """Safe methods, our own pages, and what a user asks for without a page."""
    worker = bench.worker()
    assert master(bench).ask(target, method, line) is None
    assert worker.taken().startswith(method.encode() + b" /x ")


def test_route_that_allows_cross_site_requests_takes_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """That one only: the route says so, nobody else."""
    leased: list[object] = []
    monkeypatch.setattr(type(bench.process.generation.masters["jobs"]), "lease", lambda *_, **__: leased.append(1))
    assert bench.requester(client_peer()).ask("/open/x", "POST", EVIL) is None
    assert leased == [1]


def test_master_on_the_unix_socket_may_tell_its_requesters_origin(bench: Bench) -> None:
    """No page reaches a unix socket: what is said there is somebody else's, passed on."""
    worker = bench.worker()
    assert bench.requester().ask(ANY, "POST", EVIL) is None
    assert worker.taken().startswith(b"POST /x ")


# ---- offers, limits ----


def test_upgrade_that_is_offered_for_something_else_changes_nothing(bench: Bench) -> None:
    """Content or not: the request is served, and a refusal does not end the connection."""
    worker = bench.worker()
    asker = master(bench)
    offer = ("Upgrade: h2c", "HTTP2-Settings: AAMAAABk", "Connection: Upgrade, HTTP2-Settings")
    assert asker.ask(ANY, "POST", *offer, content=b"abc") is None
    taken = worker.taken().lower()
    assert taken.endswith(b"abc")
    assert b"upgrade" not in taken
    assert b"http2-settings" not in taken
    worker.reply()
    assert answered(asker.answer()).status == 200
    assert "connection" not in answered(asker.ask("/nowhere", "GET", *offer)).fields
    assert asker.end.phase == Phase.HEAD


def test_switch_of_roles_with_content_is_refused_before_anything_is_asked(bench: Bench) -> None:
    """What stands behind its head could be read as the other protocol."""
    asker = bench.requester(client_peer())
    answer = answered(asker.ask("/-/reverse/render", "POST", "Upgrade: PTTH/1.0", "Connection: Upgrade", content=b"x"))
    assert (answer.status, answer.fields["connection"]) == (400, "close")


def test_connection_over_its_identitys_limit_is_told_so_and_gains_no_time(bench: Bench) -> None:
    """Whatever it asks for; bytes that it goes on sending are no progress."""
    alice = bench.requester(client_peer())
    alice.connection.is_over_limit = True
    answer = answered(alice.ask("/-/health"))
    assert (answer.status, answer.problem) == (503, "overloaded")
    assert alice.link.eof
    assert alice.end.is_unwelcome
