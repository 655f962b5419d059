"""What the connections of a process share: unique names, entropy, the age of the state, and lines of the audit log."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from support.bench import POOL, Bench, client_peer

from gateway.core.context import RequestIds


@pytest.fixture
async def bench() -> Iterator[Bench]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Bench(POOL, limits="state_stale = 10.0")
    yield made
    made.close()


class Waiting:
    """Waits for its line to be in the log."""

    def __init__(self) -> None:
        self.heard: list[bool] = []

    def recorded(self, done: bool) -> None:
        self.heard.append(done)


@pytest.mark.parametrize("first", [0, 0xFF, 0xFFFF, 0xFF_FFFF, 0xFFFF_FFFE, 0x1_0000_0000])
def test_request_ids_count_up_without_repeating(first: int) -> None:
    """Eight random bytes of the process, then the number in hex: also past 32 bits."""
    ids = RequestIds()
    ids._count = first
    given = [ids.next() for _ in range(3)]
    assert len({one[:16] for one in given}) == 1
    assert [one[16:] for one in given] == [format(first + step, "08x") for step in (1, 2, 3)]


def test_request_ids_of_two_processes_differ() -> None:
    """Their prefixes are drawn at random."""
    assert RequestIds().next() != RequestIds().next()


def test_entropy_is_never_given_twice(bench: Bench) -> None:
    """Twelve bytes each, also where the supply is drawn anew."""
    given = [bench.process.entropy() for _ in range(400)]
    assert {len(one) for one in given} == {12}
    assert len(set(given)) == len(given)


@pytest.mark.parametrize(("age", "is_stale"), [(0.0, False), (10.0, False), (10.25, True), (-5.0, False)])
def test_state_is_stale_beyond_its_limit(bench: Bench, age: float, is_stale: bool) -> None:
    """At the limit it still holds."""
    process = bench.process
    process.elapsed = 1000.0
    process.state_at = process.elapsed - age
    assert process.state_is_stale() is is_stale


def test_time_of_day_follows_the_clock_as_it_is_set_now(bench: Bench) -> None:
    """What was a minute ago is shown a minute before now, whatever the clock said then."""
    process = bench.process
    process.epoch, process.elapsed = 2_000_000_000.0, 500.0
    assert process.time_of_day(440.0) == 1_999_999_940.0


@pytest.mark.parametrize(("when_full", "may"), [("refuse", False), ("continue", True)])
def test_line_that_cannot_be_written_counts_and_decides(when_full: str, may: bool) -> None:
    """By configuration what it tells of must not happen, or may."""
    loop = asyncio.new_event_loop()
    try:
        bench = Bench(POOL + f'[audit]\nwhen_full = "{when_full}"\n', loop=loop)
        process = bench.process
        assert process.record("request", {"outcome": "allowed"}) is True
        assert process.counters.audit_lost == 0
        bench.audit.full = True
        assert process.record("request", {"outcome": "allowed"}) is may
        assert process.counters.audit_lost == 1
        process.record_refusal("request", {"outcome": "refused"})
        assert process.counters.audit_lost == 2
        bench.close()
    finally:
        loop.close()


async def test_line_that_is_recorded_soon_is_told_within_the_turn(bench: Bench) -> None:
    """Now, or at the end of the turn when the log collects lines: before anything else that waits for it."""
    process, at_once, later = bench.process, Waiting(), Waiting()
    process.record_soon("dispatch.sent", {"outcome": "sent"}, at_once)
    assert at_once.heard == [True]
    bench.audit.waits = True
    process.record_soon("dispatch.sent", {"outcome": "sent"}, later)
    assert later.heard == []
    await asyncio.sleep(0)
    assert later.heard == [True]


def test_cut_and_closed_connections_are_told_with_who_they_were(bench: Bench) -> None:
    """The identity, the serial, the source; the reason; and how long a reversed connection lasted."""
    process, peer = bench.process, client_peer("alice")
    process.record_cut(peer, "tls", "revoked")
    process.record_closed(peer, "render", "r1", process.elapsed - 1.5, "drain")
    who = {"identity": "client/alice", "serial": "0a", "source": "192.0.2.1", "listener": "tls"}
    cut, closed = bench.audit.lines
    assert cut == {"event": "connection.cut", **who, "outcome": "cut", "reason": "revoked"}
    assert closed == {
        "event": "reverse.closed",
        "request_id": "r1",
        **who,
        "outcome": "closed",
        "reason": "drain",
        "target": "/-/reverse/render",
        "ms": 1500.0,
    }
    assert process.counters.cut == 1
