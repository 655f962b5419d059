"""The server end and heads that are none: one answer each, in its turn, and nothing is waited for that cannot come."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.serverends import GET, Owner, feed, make

from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import EMPTY_LINES

POST = b"POST /run HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n12345"
CHUNKS = b"POST /run HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
LIMITS = Http1Limits(request_line_bytes=100, head_bytes=500)
MALFORMED = {
    "request line": (b"BAD\r\n\r\n", 400),
    "method": (b"BREW /a HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "line too long": (b"GET /" + b"a" * 200 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
    "head too large": (GET[:-2] + b"X: " + b"a" * 600 + b"\r\n\r\n", 431),
    "version": (b"GET /a HTTP/2.0\r\nHost: x\r\n\r\n", 505),
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("is_pipelined", [False, True])
def test_server_end_answers_a_malformed_head_behind_a_good_request(name: str, *, is_pipelined: bool) -> None:
    """The answer before it leaves whole, then its own, and then the connection ends; however the bytes come."""
    data, status = MALFORMED[name]
    owner = Owner(answer=b"ok")
    end, link, _ = make(owner, LIMITS)
    if is_pipelined:
        end.data_received(POST + data)
    else:
        end.data_received(POST)
        end.data_received(data)
    first, second = bytes(link.sent).split(b"HTTP/1.1 ")[1:]
    assert first.startswith(b"200 ")
    assert first.endswith(b"\r\n\r\nok")
    assert second.startswith(b"%d " % status)
    assert b"Connection: close\r\n" in second
    assert owner.malformed == [(status, owner.malformed[0][1])]
    assert link.eof
    assert not link.aborted


def test_server_end_answers_a_malformed_head_after_the_answer_that_is_still_to_come() -> None:
    """What came behind a request waits for its turn, malformed or not."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(POST + b"BAD\r\n\r\n")
    assert not owner.malformed
    end.head(200, (), 2)
    end.content(b"ok")
    end.end([])
    assert bytes(link.sent).count(b"HTTP/1.1 200 ") == 1
    assert bytes(link.sent).count(b"HTTP/1.1 400 ") == 1
    assert not link.aborted


def test_server_end_answers_a_slow_second_head() -> None:
    """408 is for every request of a connection."""
    owner = Owner(answer=b"")
    end, link, wheel = make(owner, Http1Limits(head_timeout=10))
    end.data_received(GET + GET[:5])
    wheel.turn(111.0)
    assert owner.malformed == [(408, "request-timeout")]
    assert b"HTTP/1.1 408 " in link.sent


def test_server_end_has_given_nothing_of_an_answer_until_it_has() -> None:
    """What was true of the last answer is not true of the next."""
    owner = Owner(answer=b"ok")
    end, _, _ = make(owner)
    end.data_received(GET)
    assert end.uncommitted
    assert end.status is None


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
@pytest.mark.parametrize("lines", [1, EMPTY_LINES])
def test_server_end_skips_empty_lines_before_a_request(size: int, lines: int) -> None:
    """Some clients send a line end behind content; RFC 9112 section 2.2 has it skipped, before each request anew."""
    owner = Owner(answer=b"ok")
    end, link, _ = make(owner)
    for _ in range(3):
        feed(end, POST + b"\r\n" * lines, size)
    feed(end, GET, size)
    assert len(owner.heads) == 4
    assert bytes(link.sent).count(b"HTTP/1.1 200 ") == 4
    assert not owner.malformed


@pytest.mark.parametrize("size", [1, 1000])
def test_server_end_refuses_empty_lines_without_end(size: int) -> None:
    """One more than it skips is no client that means well."""
    owner = Owner(answer=b"ok")
    end, link, _ = make(owner)
    feed(end, b"\r\n" * (EMPTY_LINES + 1), size)
    assert owner.malformed == [(400, "bad-request")]
    assert link.eof


def test_server_end_that_got_empty_lines_only_is_idle_and_closes_as_if_none_had_come() -> None:
    """An empty line is no beginning of a request: it neither keeps a connection nor makes it one that is cut."""
    owner = Owner(answer=b"ok")
    end, link, wheel = make(owner, Http1Limits(keep_alive_timeout=30))
    end.data_received(GET)
    link.take()
    wheel.turn(120.0)
    end.data_received(b"\r\n")
    assert end.is_idle
    wheel.turn(131.0)
    assert link.eof
    assert link.take() == b""


LF = {
    "first line": b"GET /a HTTP/1.1\n",
    "whole head": b"GET /a HTTP/1.1\nHost: x\n\n",
    "second line": b"GET /a HTTP/1.1\r\nHost: x\n",
    "last line": b"GET /a HTTP/1.1\r\nHost: x\r\n\n",
    "alone": b"\n",
    "behind an empty line": b"\r\n\n",
    "chunk size": CHUNKS + b"5\n",
    "chunk extension": CHUNKS + b"5;a=b\n",
    "chunk": CHUNKS + b"1\r\na\n",
    "last chunk": CHUNKS + b"0\n",
    "no trailers": CHUNKS + b"0\r\n\n",
    "trailer": CHUNKS + b"0\r\nX: y\n",
    "second trailer": CHUNKS + b"0\r\nX: y\r\nY: z\n",
    "end of trailers": CHUNKS + b"0\r\nX: y\r\n\n",
}


@pytest.mark.parametrize("name", LF)
@pytest.mark.parametrize("size", [1, 1000])
def test_server_end_refuses_a_line_that_ends_in_lf_alone_at_once(name: str, size: int) -> None:
    """Whoever waits for CRLF would wait for ever; two parsers could disagree about what was said."""
    owner = Owner()
    end, link, _ = make(owner)
    feed(end, LF[name], size)
    assert owner.malformed == [(400, "bad-request")]
    assert b"HTTP/1.1 400 " in link.sent
    assert link.eof


@given(cut=st.integers(0, len(POST) - 6), size=st.integers(1, 60))
def test_server_end_waits_for_nothing_that_a_bare_line_end_keeps_from_coming(cut: int, size: int) -> None:
    """A bare LF put anywhere into a head is refused with the byte itself, or with the end of the head."""
    owner = Owner()
    end, _, _ = make(owner)
    feed(end, POST[:cut] + b"\n" + POST[cut:], size)
    is_line_end = POST[cut - 1 : cut] == b"\r" if cut else False
    assert owner.malformed or (is_line_end and end.phase in (Phase.READ, Phase.HEAD))


@pytest.mark.parametrize(
    ("line", "is_good"),
    [
        (b"1;a", True),
        (b"1;a=b", True),
        (b'1;a="b c\\" d"', True),
        (b'1 ; a = "" ; b', True),
        (b"1;a=b;c=d", True),
        (b"1;", False),
        (b"1;=b", False),
        (b"1;a=", False),
        (b"1;a b", False),
        (b"1;a=b c", False),
        (b'1;a="b', False),
        (b'1;a="b"c', False),
        (b'1;a=b"c"', False),
        (b"1;a=(b)", False),
        (b"1;\xff", False),
        (b"1;a;", False),
        (b"1 ", False),
    ],
)
def test_server_end_refuses_chunk_extensions_outside_of_the_grammar(line: bytes, *, is_good: bool) -> None:
    """RFC 9112 section 7.1.1: a name, a token or a quoted string; somebody may read anything else otherwise."""
    owner = Owner()
    end, _, _ = make(owner)
    end.data_received(CHUNKS + line + b"\r\na\r\n0\r\n\r\n")
    assert bytes(owner.content) == (b"a" if is_good else b"")
    assert owner.malformed == ([] if is_good else [(400, "bad-request")])


def test_server_end_says_to_the_sink_what_a_broken_request_is_answered_with() -> None:
    """Whoever keeps the books of the request can put the status into them."""

    class Books(Owner):
        def request_abort(self, detail: str) -> None:
            self.aborts.append(str(end.told))

    owner = Books()
    end, _, _ = make(owner)
    end.data_received(CHUNKS + b"zz\r\n")
    assert owner.aborts == ["400"]
    other = Books()
    end, _, _ = make(other)
    end.data_received(CHUNKS)
    end.connection_lost(None)
    assert other.aborts == ["None"]


@pytest.mark.parametrize("first", [GET, POST])
@pytest.mark.parametrize("cut", [None, "glued"])
def test_server_end_serves_what_came_before_the_peers_end(first: bytes, cut: str | None) -> None:
    """Requests that were sent ahead have their turn after a FIN (RFC 9112 section 9.3.2); the last answer closes."""
    owner = Owner()
    end, link, _ = make(owner)
    if cut is None:
        end.data_received(first)
        end.data_received(GET + POST)
    else:
        end.data_received(first + GET + POST)
    end.eof_received()
    for _ in range(3):
        assert not link.eof
        end.head(200, (), 2)
        end.content(b"ok")
        end.end([])
    answers = bytes(link.sent).split(b"HTTP/1.1 200 ")[1:]
    assert [b"Connection: close\r\n" in answer for answer in answers] == [False, False, True]
    assert link.eof
    assert not link.aborted


@pytest.mark.parametrize("rest", [GET[:20], POST[:-2]], ids=["head", "content"])
def test_server_end_does_not_wait_for_what_cannot_come_after_the_peers_end(rest: bytes) -> None:
    """A request that was sent ahead and is not whole never will be: the connection ends after the answer before it."""
    owner = Owner()
    end, link, _ = make(owner)
    end.data_received(GET + rest)
    end.eof_received()
    end.head(200, (), 2)
    end.content(b"ok")
    end.end([])
    assert bytes(link.sent).count(b"HTTP/1.1 200 ") == 1
    assert link.eof or link.aborted
