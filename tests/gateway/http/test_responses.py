"""Answers of the gateway's own: the line in the log first, and never of an answer that does not leave."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.bench import POOL, Bench, Requester, client_peer
from support.policies import OPEN

from gateway.admission.checks import Refusal
from gateway.admission.request_record import RequestRecord
from gateway.http import responses
from gateway.http.responses import answer_json, fail, refuse

MIB = 1 << 20


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(POOL, policy=OPEN)
    yield made
    made.close()


class Idle(Requester):
    """A requester whose request nobody has answered."""

    def __init__(self, bench: Bench, data: bytes = b"GET /x HTTP/1.1\r\nHost: localhost\r\n\r\n") -> None:
        super().__init__(bench, client_peer(), "tls")
        self.end.owner = self  # type: ignore[assignment]
        self._bench = bench
        self.record: RequestRecord
        self.send(data)

    def request_received(self, end: object, head: object) -> None:
        """In the place of the connection."""
        process = self._bench.process
        self.record = RequestRecord(head, self.connection.peer, "tls", "r1", process.generation)  # type: ignore[arg-type]

    def end_closed(self, end: object) -> None:
        """Nobody counts it."""


def test_refusal_is_in_the_log_before_it_leaves(bench: Bench) -> None:
    """With the reason, which the peer is not told."""
    peer = Idle(bench)
    refusal = Refusal(status=403, slug="forbidden", reason="for_a_reason", policy=("p",))
    refuse(bench.process, peer.end, peer.record, refusal)
    answer = peer.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (403, "forbidden")
    assert b"for_a_reason" not in answer.content
    assert bench.events() == ["audit request", "write alice"]
    (line,) = bench.audit.lines
    assert (line["status"], line["reason"], line["policy"]) == (403, "for_a_reason", ("p",))


def test_refusal_of_what_is_answered_already_claims_no_status(bench: Bench) -> None:
    """The answer that has begun is cut, and the log says nothing of one that never left."""
    peer = Idle(bench)
    peer.end.head(200, (), 10)
    peer.end.flush()
    peer.link.take()
    refuse(bench.process, peer.end, peer.record, Refusal(status=403, slug="forbidden", reason="late"))
    assert peer.link.aborted
    (line,) = bench.audit.lines
    assert line["reason"] == "late"
    assert "status" not in line


def test_problem_ends_in_a_newline_and_is_as_long_as_it_says(bench: Bench) -> None:
    """Who reads it in a terminal has the prompt on a line of its own."""
    peer = Idle(bench)
    fail(bench.process, peer.end, peer.record, 503, "no-slot")
    answer = peer.answer()
    assert answer is not None
    assert answer.content.endswith(b"}\n")
    assert int(answer.fields["content-length"]) == len(answer.content)
    assert answer.fields["retry-after"] == "1"


@pytest.mark.parametrize(("length", "closes"), [(MIB, False), (MIB + 1, True)])
def test_refusal_of_large_content_says_that_it_closes(bench: Bench, length: int, *, closes: bool) -> None:
    """At the limit the connection goes on, one byte above it does not."""
    peer = Idle(bench, b"POST /x HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % length)
    refuse(bench.process, peer.end, peer.record, Refusal(status=404, slug="not-found", reason="no_route"))
    answer = peer.answer()
    assert answer is not None
    assert (answer.fields.get("connection") == "close") is closes


def test_answer_of_ours_that_cannot_be_recorded_is_not_given(bench: Bench) -> None:
    """What nobody can prove does not happen."""
    peer = Idle(bench)
    bench.audit.full = True
    answer_json(bench.process, peer.end, peer.record, 200, {"secret": 1})
    answer = peer.answer()
    assert answer is not None
    assert (answer.status, answer.problem) == (503, "audit-unavailable")
    assert b"secret" not in answer.content
    assert bench.process.counters.audit_lost == 1


def test_every_problem_that_is_asked_again_later_says_when() -> None:
    """One field each, in seconds."""
    for block in responses._RETRY.values():
        ((name, value),) = block.fields
        assert name == b"Retry-After"
        assert value.isdigit()
