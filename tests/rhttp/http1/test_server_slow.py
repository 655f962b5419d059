"""The server end and peers that read slowly or not at all: bounded memory, and nothing lost for those that do read."""

from __future__ import annotations

import pytest
from support.links import FakeLink

from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import RequestHead
from rhttp.timers import TimerWheel

GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"


class Owner:
    """Answers everything at once; writing blocks the link when `block_after` answers are out."""

    def __init__(self, block_after: int = 1 << 30) -> None:
        self.answers = 0
        self.closed = 0
        self._block_after = block_after

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        self.answers += 1
        if self.answers == self._block_after:
            end.pause_writing()
        end.head(200, (), 2)
        end.content(b"ok")
        end.end([])

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        raise AssertionError("nothing here is malformed")

    def end_closed(self, end: ServerEnd) -> None:
        self.closed += 1


def make(owner: Owner, **limits: float) -> tuple[ServerEnd, FakeLink, TimerWheel]:
    wheel = TimerWheel(100.0)
    end = ServerEnd(owner, Http1Limits(**limits), wheel)  # type: ignore[arg-type]
    link = FakeLink()
    end.connection_made(link)  # type: ignore[arg-type]
    return end, link, wheel


def test_server_end_asks_nothing_more_of_a_peer_that_takes_no_answers() -> None:
    """Requests that are sent and never read for would fill memory with their answers."""
    owner = Owner(block_after=10)
    end, link, _ = make(owner, pipelined_bytes=10_000)
    sent = 0
    while link.reading:
        end.data_received(GET * 50)
        sent += 50
        assert sent < 100_000, "read without end"
    assert owner.answers == 10
    end.resume_writing()
    assert owner.answers == sent
    assert link.reading
    assert link.sent.count(b"HTTP/1.1 200 OK\r\n") == sent


def test_server_end_blocked_in_mid_head_reads_it_whole_later() -> None:
    """A head that came in pieces around the stop is the same head."""
    owner = Owner(block_after=1)
    end, _, _ = make(owner)
    end.data_received(GET + GET[:10])
    end.data_received(GET[10:] + GET[:5])
    assert owner.answers == 1
    end.resume_writing()
    assert owner.answers == 2
    end.data_received(GET[5:])
    assert owner.answers == 3
    assert end.phase == Phase.HEAD


def test_server_end_gives_up_a_peer_that_reads_no_answer_between_requests() -> None:
    """Blocked and idle is not idle: without progress it is cut, however long keep-alive is."""
    owner = Owner(block_after=1)
    end, link, wheel = make(owner, content_timeout=60, keep_alive_timeout=3600)
    end.data_received(GET)
    wheel.turn(159.0)
    assert not link.aborted
    wheel.turn(161.0)
    assert link.aborted
    assert owner.closed == 1


def test_server_end_blocked_between_requests_is_not_idle_too_long() -> None:
    """Keep-alive begins when the peer has caught up."""
    owner = Owner(block_after=1)
    end, link, wheel = make(owner, content_timeout=60, keep_alive_timeout=10)
    end.data_received(GET)
    wheel.turn(115.0)
    assert not link.eof
    end.resume_writing()
    wheel.turn(124.0)
    assert not link.eof
    wheel.turn(126.0)
    assert link.eof


@pytest.mark.parametrize("half_closed", [False, True])
def test_server_end_lingers_for_a_peer_that_still_takes_its_answer(half_closed: bool) -> None:
    """The linger is for after our last byte: a slow reader gets the end of an answer that closes."""
    owner = Owner()
    end, link, wheel = make(owner, linger=2)
    link.waiting = 60_000
    end.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    if half_closed:
        end.eof_received()
    assert link.eof
    now = 100.0
    for waiting in (40_000, 20_000, 1, 0):
        link.waiting = waiting
        now += 2.5
        wheel.turn(now)
        assert not link.aborted
        assert not link.closed
    wheel.turn(now + 2.5)
    assert link.aborted


def test_server_end_does_not_linger_for_a_peer_that_takes_nothing() -> None:
    """No byte in the time of a linger: it is gone."""
    owner = Owner()
    end, link, wheel = make(owner, linger=2)
    link.waiting = 60_000
    end.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    wheel.turn(102.5)
    assert not link.aborted
    wheel.turn(105.0)
    assert link.aborted
    assert owner.closed == 1


def test_server_end_closes_at_once_when_both_sides_are_done() -> None:
    """Everything was taken and the peer has ended its side: nothing to wait for."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert not link.closed
    end.eof_received()
    assert link.closed
    assert not link.aborted


def test_server_end_bears_with_a_peer_that_reads_slowly() -> None:
    """`content_timeout` is without progress: whoever takes a little each time gets all of a large answer."""
    wheel = TimerWheel(100.0)
    end = ServerEnd(Large(), Http1Limits(content_timeout=10), wheel)
    link = FakeLink(wheel=wheel, high_water=1000)
    end.connection_made(link)  # type: ignore[arg-type]
    link.set_protocol(end)
    link.block()
    link.receive(GET)
    for _ in range(30):
        link.drain(100)
        wheel.turn(wheel.now + 9)
    assert not link.is_closing()
    wheel.turn(wheel.now + 10.5)
    wheel.turn(wheel.now + 10.5)
    assert link.is_closing(), "and who takes nothing is cut"


class Large(Owner):
    """Answers with 10,000 bytes."""

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        end.head(200, (), 10_000)
        end.content(b"x" * 10_000)
        end.end([])
