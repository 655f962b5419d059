"""How a server end closes: nobody who still sends loses the answer, and nobody is read from for ever."""

from __future__ import annotations

import pytest
from support.links import FakeLink
from support.serverends import GET, Owner, make

from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.timers import TimerWheel

LIMITS = Http1Limits(refused_content=1000, refused_timeout=5.0, linger=2.0, linger_time=30.0)


def refused(length: int, limits: Http1Limits = LIMITS) -> tuple[ServerEnd, FakeLink, TimerWheel, Owner]:
    """An upload whose first byte has come and that was answered 401."""
    owner = Owner()
    end, link, wheel = make(owner, limits)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\na" % length)
    end.head(401, (), 0)
    end.end([])
    return end, link, wheel, owner


def test_refused_upload_that_fits_is_read_to_its_end_and_the_connection_kept() -> None:
    """Bytes that come are progress: no time of the whole counts but the one in all."""
    end, link, wheel, owner = refused(8)
    for second in range(1, 7):
        wheel.turn(100.0 + 4 * second)
        assert end.phase == Phase.DISCARD
        end.data_received(b"a")
    end.data_received(b"a" + GET)
    assert not link.eof
    assert [head.target for head in owner.heads] == [b"/", b"/a"]


def test_refused_upload_that_is_too_large_is_shut_and_still_read() -> None:
    """The answer says close, our side is shut, and what the peer was sending is taken."""
    end, link, wheel, _ = refused(10_000)
    assert link.eof
    for second in range(1, 8):
        wheel.turn(100.0 + 4 * second)
        end.data_received(b"a" * 100)
        assert not link.aborted
    end.eof_received()
    assert link.closed
    assert not link.aborted


def test_refused_upload_that_never_ends_is_cut_when_its_time_is_over() -> None:
    """However steadily it comes; at its time and no tick later."""
    end, link, wheel, owner = refused(10_000)
    now = 100.0
    while now < 129.0:
        now += 1.0
        wheel.turn(now)
        end.data_received(b"a")
    assert not link.aborted
    for late in (129.5, 130.0, 130.5):
        wheel.turn(late)
        end.data_received(b"a")
    assert link.aborted
    assert owner.closed == 1


def test_refused_upload_of_the_allowed_size_is_shut_when_its_time_is_over() -> None:
    """A drop every few seconds does not keep a connection for an hour; a last moment is its own, and no more."""
    end, link, wheel, _ = refused(1000)
    now = 100.0
    while now < 131.0:
        assert not link.eof or now > 130.0
        now += 0.5
        wheel.turn(now)
        end.data_received(b"a")
    assert link.eof
    for _ in range(5):
        now += 0.5
        wheel.turn(now)
        end.data_received(b"a")
    assert link.aborted


@pytest.mark.parametrize("length", [10, 10_000])
def test_refused_upload_that_stops_is_given_up_after_the_gap(length: int) -> None:
    """Silence is no progress."""
    _, link, wheel, _ = refused(length)
    wheel.turn(104.9)
    assert not link.aborted
    assert link.eof is (length > 1000)
    wheel.turn(105.5)
    assert link.eof
    wheel.turn(108.0)
    assert link.aborted


def test_refused_upload_over_the_allowed_amount_is_shut_at_the_byte() -> None:
    """At its limit it is kept, one byte above it is not."""
    owner = Owner()
    end, link, _ = make(owner, LIMITS)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    end.head(401, (), 0)
    end.end([])
    end.data_received(b"3e3\r\n" + b"a" * 995)
    assert not link.eof
    end.data_received(b"\r")
    assert link.eof


def test_peer_that_holds_too_many_connections_gains_no_time_by_sending() -> None:
    """Who is told so is let go as before: a moment, whatever comes."""
    owner = Owner()
    end, link, wheel = make(owner, LIMITS)
    end.is_unwelcome = True
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10000\r\n\r\n")
    end.head(503, (), 0)
    end.end([])
    for late in (101.0, 102.0, 102.5):
        end.data_received(b"a")
        wheel.turn(late)
    assert link.aborted


def test_connection_that_was_kept_has_its_time_anew_at_the_next_refusal() -> None:
    """The time in all is one refusal's, not the connection's."""
    end, link, wheel, _ = refused(2)
    end.data_received(b"a")
    wheel.turn(140.0)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
    end.head(401, (), 0)
    end.end([])
    wheel.turn(144.0)
    end.data_received(b"a")
    wheel.turn(148.0)
    assert not link.eof
