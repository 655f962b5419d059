"""The server end of HTTP/1.1: order, framing, limits, closing."""

from __future__ import annotations

import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serverends import GET, Owner, feed, make

from rhttp.errors import LocalProtocolError
from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import EMPTY_LINES, ServerEnd
from rhttp.message import OPEN, Length, RequestHead

POST = b"POST /up HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = (
    b"POST /up HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0\r\nX-Sum: 1\r\n\r\n"
)


@pytest.mark.parametrize("size", [1, 2, 7, 10_000])
def test_server_end_answers_pipelined_requests_in_order_however_bytes_are_cut(size: int) -> None:
    """Requests sent before their turn are answered one after the other, in order."""
    owner = Owner(answer=b"ok")
    end, link, _ = make(owner)
    feed(end, GET + POST + GET.replace(b"/a", b"/b"), size)
    assert [head.target for head in owner.heads] == [b"/a", b"/up", b"/b"]
    assert bytes(link.sent).count(b"HTTP/1.1 200 OK\r\n") == 3
    assert end.phase == Phase.HEAD


@given(cuts=st.lists(st.integers(1, 40), min_size=1, max_size=60))
def test_server_end_reads_chunks_the_same_however_bytes_are_cut(cuts: list[int]) -> None:
    """The same bytes in any pieces are the same content and trailers."""
    owner = Owner()
    end, _, _ = make(owner)
    at = 0
    for cut in [*cuts, len(CHUNKED)]:
        if at < len(CHUNKED):
            end.data_received(CHUNKED[at : at + cut])
        at += cut
    assert bytes(owner.content) == b"abcdefgh"
    assert owner.trailers == [[(b"x-sum", b"1")]]
    assert end.phase == Phase.READ


def test_server_end_keeps_pipelined_bytes_until_its_limit_and_then_stops_reading() -> None:
    """Bytes of requests that must wait are bounded; the link is read again when their turn comes."""
    owner = Owner()
    end, link, _ = make(owner, Http1Limits(pipelined_bytes=1000))
    end.data_received(GET)
    end.data_received(b"GET /" + b"b" * 2000 + b" HTTP/1.1\r\nHost: x\r\n\r\n")
    assert not link.reading
    end.head(200, (), 0)
    end.end([])
    assert link.reading
    assert len(owner.heads) == 2


@pytest.mark.parametrize(
    ("limits", "data", "status"),
    [
        (Http1Limits(request_line_bytes=100), b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (Http1Limits(request_line_bytes=100), b"GET /" + b"a" * 200, 414),
        (Http1Limits(head_bytes=500), GET[:-2] + b"X: " + b"a" * 600, 431),
        (Http1Limits(head_bytes=500), GET[:-2] + b"X: " + b"a" * 600 + b"\r\n\r\n", 431),
        (Http1Limits(fields=3), GET[:-2] + b"A: 1\r\nB: 2\r\nC: 3\r\n\r\n", 431),
        (Http1Limits(), b"\r\n" * (EMPTY_LINES + 1) + GET, 400),
        (Http1Limits(), b"\n", 400),
        (Http1Limits(), b"GET / HTTP/1.1\r\n\r\n", 400),
        (Http1Limits(), b"GET / HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (Http1Limits(), b"BREW / HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    ],
)
def test_server_end_answers_a_malformed_head_and_closes(limits: Http1Limits, data: bytes, status: int) -> None:
    """What cannot be framed gets its status, and nothing behind it is read."""
    for size in (1, len(data)):
        owner = Owner(answer=b"")
        end, link, _ = make(owner, limits)
        feed(end, data, size)
        assert owner.malformed
        assert owner.malformed[0][0] == status
        assert link.eof
        assert b"Connection: close\r\n" in link.sent
        sent = bytes(link.sent)
        end.data_received(GET)
        assert bytes(link.sent) == sent
        assert owner.heads == []


def test_server_end_aborts_the_exchange_when_content_breaks_its_framing() -> None:
    """Malformed chunks end the request with 400 and the connection with it."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n")
    assert owner.aborts
    assert owner.malformed == [(400, "bad-request")]
    assert link.eof


def test_server_end_cuts_the_connection_when_content_breaks_after_the_answer_began() -> None:
    """An answer that has left cannot be replaced: the peer must see that it is not whole."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n")
    end.head(200, (), OPEN)
    end.flush()
    end.data_received(b"zz\r\n")
    assert link.aborted
    assert owner.malformed == []


def test_server_end_reads_and_drops_the_content_of_an_answered_request() -> None:
    """An early answer keeps the connection when the rest of the content is small."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345")
    end.head(403, (), 0)
    end.end([])
    end.data_received(b"67890" + GET)
    assert [head.target for head in owner.heads] == [b"/", b"/a"]
    assert not link.eof


def test_server_end_stops_dropping_at_its_limit_but_lingers() -> None:
    """A refused request with endless content is answered, shut down, and closed a moment later."""
    owner = Owner()
    end, link, wheel = make(owner, Http1Limits(refused_content=1000, linger=2.0))
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n")
    end.head(403, (), 0)
    end.end([])
    for _ in range(3):
        end.data_received(b"200\r\n" + b"a" * 512 + b"\r\n")
    assert link.eof
    wheel.turn(104.0)
    assert not link.aborted
    wheel.turn(106.0)
    assert link.aborted


def test_server_end_closes_after_an_answer_in_place_of_100_continue() -> None:
    """Whether content follows a refused expectation cannot be known, so the connection ends."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    end.head(401, (), 0)
    end.end([])
    assert b"Connection: close\r\n" in link.sent
    assert link.eof


def test_server_end_keeps_the_connection_after_100_continue() -> None:
    """Once content was asked for, it is read and the connection goes on."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n")
    end.interim(100)
    assert link.take() == b"HTTP/1.1 100 Continue\r\n\r\n"
    end.data_received(b"hello")
    end.head(200, (), 0)
    end.end([])
    assert not link.eof
    assert end.phase == Phase.HEAD


@pytest.mark.parametrize(
    ("method", "status", "length", "body"),
    [(b"HEAD", 200, 12, b""), (b"GET", 204, OPEN, b""), (b"GET", 304, 7, b""), (b"GET", 200, 3, b"abc")],
)
def test_server_end_sends_no_content_where_there_is_none(
    method: bytes, status: int, length: Length, body: bytes
) -> None:
    """HEAD, 204 and 304 have no content; a length is announced where it may be."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET.replace(b"GET", method))
    end.head(status, (), length)
    end.content(b"abc")
    end.end([])
    head, _, content = bytes(link.sent).partition(b"\r\n\r\n")
    assert content == body
    assert (b"Content-Length: %d" % length in head) if isinstance(length, int) else (b"Content-Length" not in head)
    assert b"Transfer-Encoding" not in head
    assert end.phase == Phase.HEAD


def test_server_end_ends_unknown_lengths_by_closing_for_http_1_0() -> None:
    """HTTP/1.0 knows no chunks."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"GET / HTTP/1.0\r\n\r\n")
    end.head(200, (), OPEN)
    end.content(b"abc")
    end.end([])
    assert bytes(link.sent).endswith(b"\r\n\r\nabc")
    assert b"chunked" not in link.sent
    assert link.eof


def test_server_end_aborts_when_less_content_came_than_was_announced() -> None:
    """A short answer must not look whole."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET)
    end.head(200, (), 10)
    end.content(b"abc")
    end.end([])
    assert link.aborted


def test_server_end_refuses_more_content_than_was_announced() -> None:
    """More content than announced is a bug of ours and never sent."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET)
    end.head(200, (), 2)
    with pytest.raises(LocalProtocolError):
        end.content(b"abc")
    assert b"abc" not in link.sent


def test_server_end_replaces_an_answer_that_has_not_left() -> None:
    """Until it is flushed, an answer can be taken back."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET)
    end.head(200, (), 3)
    assert end.uncommitted
    end.head(502, (), 0)
    end.end([])
    assert bytes(link.sent).startswith(b"HTTP/1.1 502 ")
    assert b"200" not in link.sent


def test_server_end_refuses_a_second_answer() -> None:
    """One question, one answer."""
    owner = Owner()
    end, _, _ = make(owner)
    end.data_received(GET)
    end.head(200, (), 3)
    end.flush()
    assert not end.uncommitted
    with pytest.raises(LocalProtocolError):
        end.head(502, (), 0)


def test_server_end_tells_a_half_close_and_still_answers() -> None:
    """A peer that shut its side after the request still gets its answer, then the connection ends."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET)
    assert end.eof_received() is True
    assert owner.half_closed == 1
    end.head(200, (), 2)
    end.content(b"ok")
    end.end([])
    assert b"Connection: close\r\n" in link.sent
    assert link.closed


def test_server_end_counts_a_cut_upload_as_aborted() -> None:
    """The end of the connection in mid-content is no end of the content."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
    end.eof_received()
    assert owner.aborts
    assert owner.trailers == []
    assert link.closed
    end.connection_lost(None)
    assert owner.closed == 1


def test_server_end_cuts_an_answer_that_a_cut_upload_had_begun() -> None:
    """Whoever was told a part of an answer sees by the end of the connection that it is not whole."""
    end, link, _ = make(Owner())
    end.data_received(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n123")
    end.head(200, (), OPEN)
    end.flush()
    end.eof_received()
    assert link.aborted


def test_server_end_answers_a_slow_head_with_408() -> None:
    """A head dribbled for longer than its limit is answered and closed."""
    owner = Owner()
    end, link, wheel = make(owner, Http1Limits(head_timeout=10))
    end.data_received(GET[:5])
    wheel.turn(105.0)
    end.data_received(GET[5:7])
    assert not owner.malformed
    wheel.turn(111.0)
    assert owner.malformed == [(408, "request-timeout")]
    assert link.eof


def test_server_end_closes_an_idle_connection_without_a_word() -> None:
    """Keep-alive ends after its time."""
    owner = Owner(answer=b"ok")
    end, link, wheel = make(owner, Http1Limits(keep_alive_timeout=30))
    end.data_received(GET)
    link.take()
    wheel.turn(125.0)
    assert not link.eof
    wheel.turn(131.0)
    assert link.eof
    assert link.take() == b""


def test_server_end_gives_up_a_peer_that_does_not_read() -> None:
    """Back-pressure without progress ends the connection and the exchange."""
    owner = Owner()
    end, link, wheel = make(owner, Http1Limits(content_timeout=60))
    end.data_received(GET)
    end.head(200, (), OPEN)
    end.flush()
    end.pause_writing()
    assert owner.blocked == [True]
    wheel.turn(162.0)
    assert link.aborted
    assert owner.aborts


def test_server_end_detaches_with_the_bytes_that_came_too_early() -> None:
    """Whoever takes over a switched link sees what came behind the request."""

    class Switching(Owner):
        early = b""

        def request_received(self, end: ServerEnd, head: RequestHead) -> None:
            self.early = end.detach()[1]

    owner = Switching()
    end, link, _ = make(owner)
    end.data_received(b"POST /r HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: PTTH/1.0\r\n\r\nextra")
    assert owner.early == b"extra"
    end.connection_lost(None)
    assert owner.closed == 0
    assert not link.closed


def test_server_end_that_gave_its_link_away_is_gone_at_once_with_its_owner_and_request() -> None:
    """A hosted connection keeps nothing of the request that opened it, and the collector has nothing to do."""

    class Switching(Owner):
        end: ServerEnd

        def request_received(self, end: ServerEnd, head: RequestHead) -> None:
            self.heads.append(head)
            end.detach()

    owner = Switching()
    owner.end, _, _ = make(owner)
    seen = weakref.ref(owner)
    gc.disable()
    try:
        owner.end.data_received(GET)
        assert len(owner.heads) == 1
        del owner
        assert seen() is None
    finally:
        gc.enable()


def test_server_end_tells_its_owner_once_that_it_is_gone() -> None:
    """Abort and the link's own end together count once."""
    owner = Owner()
    end, _, _ = make(owner)
    end.data_received(GET)
    end.abort()
    end.connection_lost(None)
    assert owner.closed == 1
    assert len(owner.aborts) == 1
