"""The client end of HTTP/1.1: answers are untrusted, and a lost one is told apart from one that may have run."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.links import FakeLink

from rhttp.ends import Link
from rhttp.errors import LocalProtocolError, Loss
from rhttp.http1.client import ClientEnd
from rhttp.http1.limits import Http1Limits
from rhttp.message import NOTHING, OPEN, Fields, Length, ResponseHead
from rhttp.timers import TimerWheel

ASK = b"GET / HTTP/1.1\r\nHost: x\r\n"
PUSH = ASK.replace(b"GET", b"POST")


class Sink:
    """Records one answer."""

    def __init__(self) -> None:
        self.status = 0
        self.fields: Fields = []
        self.interim: list[int] = []
        self.content = bytearray()
        self.trailers: Fields | None = None
        self.lost: tuple[Loss, str] | None = None
        self.switched: bytes | None = None
        self.blocked: list[bool] = []

    def response_interim(self, head: ResponseHead) -> None:
        self.interim.append(head.status)

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        self.switched = surplus

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        self.status = head.status
        self.fields = head.fields

    def response_content(self, data: bytes) -> None:
        self.content += data

    def response_flush(self) -> None: ...

    def response_end(self, trailers: Fields) -> None:
        assert self.lost is None
        self.trailers = trailers

    def response_abort(self, loss: Loss, detail: str) -> None:
        assert self.trailers is None
        self.lost = (loss, detail)

    def request_blocked(self) -> None:
        self.blocked.append(True)

    def request_unblocked(self) -> None:
        self.blocked.append(False)


class Owner:
    """Counts what a pool would be told."""

    def __init__(self) -> None:
        self.idle = 0
        self.closed: list[str] = []

    def client_idle(self, end: ClientEnd) -> None:
        self.idle += 1

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        self.closed.append(detail)


class Rig:
    """A client end on a fake link with one request sent."""

    def __init__(
        self,
        *,
        method: bytes = b"GET",
        length: Length = NOTHING,
        upgrade: bytes | None = None,
        limits: Http1Limits | None = None,
    ) -> None:
        self.owner = Owner()
        self.wheel = TimerWheel(100.0)
        self.end = ClientEnd(self.owner, limits or Http1Limits(), self.wheel)
        self.link = FakeLink()
        self.end.connection_made(self.link)  # type: ignore[arg-type]
        self.sink = Sink()
        self.end.head(self.sink, method, b"/", b"x", (), length, upgrade=upgrade)
        self.end.flush()

    def feed(self, data: bytes, size: int = 1 << 20) -> None:
        for at in range(0, len(data), size):
            self.end.data_received(data[at : at + size])


OK = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nX-A: b\r\n\r\nhello"
OK_CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\nX-T: 1\r\n\r\n"


@given(
    data=st.sampled_from([OK, OK_CHUNKED, b"HTTP/1.1 103 Early Hints\r\nLink: a\r\n\r\n" + OK]), size=st.integers(1, 80)
)
def test_client_end_reads_an_answer_the_same_however_bytes_are_cut(data: bytes, size: int) -> None:
    """The same bytes in any pieces are the same answer, and the connection can be used again."""
    rig = Rig()
    rig.feed(data, size)
    assert (rig.sink.status, bytes(rig.sink.content)) == (200, b"hello")
    assert rig.sink.trailers is not None
    assert rig.owner.idle == 1
    assert not rig.end.closed


def test_client_end_reads_until_the_connection_ends_when_no_length_is_given() -> None:
    """Content without a length ends with the connection, which is then of no further use."""
    rig = Rig()
    rig.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    assert rig.sink.trailers is None
    rig.end.eof_received()
    assert bytes(rig.sink.content) == b"hello"
    assert rig.sink.trailers == []
    assert rig.owner.idle == 0
    assert rig.owner.closed


def test_client_end_counts_content_until_close_as_cut_when_tls_was_not_ended() -> None:
    """A bare FIN under TLS can be forged by anyone on the way."""
    rig = Rig()
    rig.link.truncated = True
    rig.feed(b"HTTP/1.1 200 OK\r\n\r\nhello")
    rig.end.eof_received()
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is Loss.CUT


@pytest.mark.parametrize(
    "data",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n",
        b"HTTP/1.1 099 Low\r\n\r\n",
        b"HTTP/1.1 999 High\r\n\r\n",
        b"HTTP/2.0 200 OK\r\n\r\n",
        b"ICY 200 OK\r\n\r\n",
        b"HTTP/1.1 100 Continue\r\nContent-Length: 5\r\n\r\n",
        b"hello\r\n\r\n",
        # Not even the end of a line is there: what begins in another way is no answer, and may never end.
        b"SSH-2.0-x",
        b"HTTP/2.0 2",
        b"\r\nHTTP/1.1 200 OK\r\n",
        # Lines that end in LF alone, each without the empty line that somebody might wait for.
        b"HTTP/1.1 200 OK\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\n",
        b"HTTP/1.1 200 OK\r\nX-A: b\r\n\n",
        b"HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
        b"HTTP/1.1 200 OK\nX-A: b\n\nhello\r\n\r\n",
        b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX-T: 1\r\n\n",
    ],
)
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_client_end_drops_the_connection_on_an_invalid_answer(data: bytes, size: int) -> None:
    """What is no valid answer ends the connection and says so at once, not when the time for the answer is over."""
    rig = Rig()
    rig.feed(data, size)
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is Loss.INVALID
    assert rig.link.aborted
    assert len(rig.owner.closed) == 1


@pytest.mark.parametrize(("answers", "refused"), [(3, False), (4, True)])
def test_client_end_takes_only_so_many_interim_answers(answers: int, refused: bool) -> None:
    """At the limit they pass, one more ends the connection; the next request begins to count anew."""
    rig = Rig(limits=Http1Limits(interim_answers=3))
    for _ in range(2):
        rig.feed(b"HTTP/1.1 102 Processing\r\n\r\n" * answers)
        if refused:
            break
        rig.feed(OK)
        rig.end.head(rig.sink, b"GET", b"/", b"x", (), NOTHING)
        rig.end.flush()
    assert rig.link.aborted is refused
    assert len(rig.sink.interim) == (3 if refused else 6)
    if refused:
        assert rig.sink.lost == (Loss.INVALID, "too many interim answers")


@pytest.mark.parametrize("extra", [0, 1])
@pytest.mark.parametrize("size", [1 << 20, 1])
def test_client_end_takes_only_so_many_bytes_of_interim_answers(extra: int, size: int) -> None:
    """At the limit they pass, one byte more ends the connection, however they are cut."""
    interim = b"HTTP/1.1 103 Early Hints\r\nLink: " + b"a" * 64 + b"\r\n\r\n"
    rig = Rig(limits=Http1Limits(interim_bytes=2 * len(interim) - extra))
    rig.feed(interim * 2 + OK, size)
    assert rig.link.aborted is bool(extra)
    assert rig.sink.status == (0 if extra else 200)


WHOLE = [
    (b"GET", OK),
    (b"GET", OK_CHUNKED),
    (b"GET", b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n"),
    (b"GET", b"HTTP/1.1 103 Early Hints\r\n\r\n" + OK),
    (b"GET", b"HTTP/1.1 204 No Content\r\n\r\n"),
    (b"GET", b"HTTP/1.1 204 No Content\r\nTransfer-Encoding: chunked\r\n\r\n"),
    (b"GET", b'HTTP/1.1 304 Not Modified\r\nETag: "x"\r\nContent-Length: 5\r\n\r\n'),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n"),
    (b"HEAD", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
]
BEHIND = [b"\r\n", b"\n", b"hello", b"0\r\n\r\n", b"\0", OK, b"HTTP/1.1 100 Continue\r\n\r\n", b"x" * 3000]


@given(
    whole=st.sampled_from(WHOLE),
    behind=st.one_of(st.sampled_from(BEHIND), st.binary(min_size=1, max_size=50)),
    cuts=st.lists(st.integers(0, 200), max_size=8),
)
def test_client_end_delivers_an_answer_whatever_stands_behind_it_and_however_it_is_cut(
    whole: tuple[bytes, bytes], behind: bytes, cuts: list[int]
) -> None:
    """All cuts give one outcome: the answer stands, and the connection ends with one word to its owner."""
    method, data = whole
    alone = Rig(method=method)
    alone.feed(data)
    rig = Rig(method=method)
    at = 0
    for cut in [*sorted({c for c in cuts if c < len(data) + len(behind)}), len(data) + len(behind)]:
        rig.feed((data + behind)[at:cut])
        at = cut
    assert alone.owner.closed == []
    assert alone.sink.trailers is not None
    assert (rig.sink.status, rig.sink.content, rig.sink.trailers, rig.sink.interim, rig.sink.lost) == (
        alone.sink.status,
        alone.sink.content,
        alone.sink.trailers,
        alone.sink.interim,
        None,
    )
    assert rig.owner.closed == ["surplus"]
    assert rig.end.closed
    with pytest.raises(LocalProtocolError):
        rig.end.head(Sink(), b"GET", b"/", b"x", (), NOTHING)


@pytest.mark.parametrize("fields", [b"Connection: close\r\n", b""])
@pytest.mark.parametrize("cut", [0, 1, 5])
def test_client_end_that_closes_anyway_does_not_look_behind_the_answer(fields: bytes, cut: int) -> None:
    """Whether such bytes are read at all depends on the moment, so nothing is said of them."""
    rig = Rig(length=NOTHING if fields else 10)  # an answer before the request's end is the last one, too
    data = b"HTTP/1.1 200 OK\r\n" + fields + b"Content-Length: 0\r\n\r\nhello"
    rig.feed(data[: len(data) - cut])
    rig.feed(data[len(data) - cut :])
    assert (rig.sink.status, rig.sink.lost) == (200, None)
    assert rig.owner.closed == ["closed"]


def test_client_end_closes_on_a_peer_that_speaks_before_any_request() -> None:
    """Bytes before the first request are surplus as well."""
    owner, wheel = Owner(), TimerWheel(100.0)
    end, link = ClientEnd(owner, Http1Limits(), wheel), FakeLink()
    end.connection_made(link)  # type: ignore[arg-type]
    end.data_received(OK)
    assert owner.closed == ["surplus"]
    assert link.is_closing()


@pytest.mark.parametrize("flushed", [True, False])
def test_client_end_takes_no_answer_to_a_request_that_has_not_left(flushed: bool) -> None:
    """What a peer sent before the request came answers nothing; another connection may have the request."""
    rig = Rig()
    rig.feed(OK)
    sink = Sink()
    rig.end.head(sink, b"GET", b"/", b"x", (), NOTHING)
    if flushed:
        rig.end.flush()
        rig.link.waiting = len(ASK) + 2
    rig.feed(OK)
    assert sink.lost == (Loss.NOT_SENT, "surplus")
    assert rig.owner.closed == ["surplus"]
    assert (sink.status, rig.link.aborted) == (0, True)


def test_client_end_takes_an_answer_to_a_request_that_left_in_part() -> None:
    """A peer may refuse early, while we still send."""
    rig = Rig(method=b"POST", length=100_000)
    rig.end.content(b"x" * 100_000)
    rig.end.flush()
    rig.link.waiting = 50_000
    rig.feed(OK)
    assert (rig.sink.status, rig.sink.lost) == (200, None)


def test_client_end_takes_the_switch_that_it_asked_for_with_what_is_glued_to_it() -> None:
    """101 hands the link over, with the bytes behind it."""
    rig = Rig(upgrade=b"PTTH/1.0", length=0)
    rig.feed(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: ptth/1.0\r\n\r\nGET / HTTP/1.1\r\n")
    assert rig.sink.switched == b"GET / HTTP/1.1\r\n"
    assert not rig.link.aborted


@pytest.mark.parametrize("fields", [b"Upgrade: websocket\r\nConnection: Upgrade\r\n", b"Upgrade: PTTH/1.0\r\n", b""])
def test_client_end_refuses_a_switch_to_something_else(fields: bytes) -> None:
    """101 must name the token that was asked for."""
    rig = Rig(upgrade=b"PTTH/1.0", length=0)
    rig.feed(b"HTTP/1.1 101 Switching Protocols\r\n" + fields + b"\r\n")
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is Loss.INVALID


@pytest.mark.parametrize(
    ("data", "loss"),
    [
        (b"", Loss.SENT_NO_ANSWER),
        (b"HTTP/1.1 2", Loss.CUT),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc", Loss.CUT),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n", Loss.CUT),
    ],
)
@pytest.mark.parametrize("how", ["eof", "lost"])
def test_client_end_tells_no_answer_from_a_cut_one(data: bytes, loss: Loss, how: str) -> None:
    """Whether a byte of an answer came decides about a second try."""
    rig = Rig()
    if data:
        rig.feed(data)
    if how == "eof":
        rig.end.eof_received()
    else:
        rig.end.connection_lost(None)
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is loss
    assert len(rig.owner.closed) == 1


def test_client_end_says_not_sent_when_nothing_was_handed_over() -> None:
    """A request that was kept back can be sent elsewhere, whatever its method."""
    rig = Rig()
    rig.feed(OK)
    sink = Sink()
    rig.end.head(sink, b"POST", b"/", b"x", (), 3)
    rig.end.connection_lost(None)
    assert sink.lost is not None
    assert sink.lost[0] is Loss.NOT_SENT


def test_client_end_is_not_used_again_after_an_early_answer() -> None:
    """The rest of the request would be read as the next one."""
    rig = Rig(length=10)
    rig.feed(OK)
    assert rig.sink.trailers == []
    assert rig.owner.idle == 0
    assert rig.owner.closed


def test_client_end_is_not_used_again_after_connection_close() -> None:
    """A peer that says close is believed."""
    rig = Rig()
    rig.feed(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
    assert rig.sink.trailers == []
    assert rig.owner.idle == 0
    assert rig.link.closed


@pytest.mark.parametrize(("method", "status"), [(b"HEAD", 200), (b"GET", 204), (b"GET", 304)])
def test_client_end_expects_no_content_where_there_is_none(method: bytes, status: int) -> None:
    """A Content-Length in an answer to HEAD announces nothing."""
    rig = Rig(method=method)
    rig.feed(b"HTTP/1.1 %d X\r\nContent-Length: 5\r\n\r\n" % status)
    assert rig.sink.trailers == []
    assert rig.owner.idle == 1


def test_client_end_gives_up_an_answer_that_does_not_come() -> None:
    """The time for the answer begins with the request's last byte."""
    rig = Rig(limits=Http1Limits(answer_timeout=10))
    rig.wheel.turn(109.0)
    assert rig.sink.lost is None
    rig.wheel.turn(111.0)
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is Loss.DEADLINE
    assert rig.link.aborted


def test_client_end_gives_up_an_answer_that_stalls_but_not_while_we_do_not_read() -> None:
    """A stalled answer is cut; one that waits for its reader is not."""
    rig = Rig(limits=Http1Limits(content_timeout=10))
    rig.feed(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nabc")
    rig.end.pause()
    rig.wheel.turn(150.0)
    assert rig.sink.lost is None
    rig.end.resume()
    rig.wheel.turn(161.0)
    assert rig.sink.lost is not None
    assert rig.sink.lost[0] is Loss.DEADLINE


def test_client_end_frames_content_of_a_known_length_and_in_chunks() -> None:
    """Announced lengths are kept; unknown ones are chunked with trailers."""
    rig = Rig(method=b"POST", length=5)
    rig.end.content(b"hello")
    rig.end.end([])
    assert rig.link.take() == PUSH + b"Content-Length: 5\r\n\r\nhello"
    rig = Rig(method=b"POST", length=OPEN)
    rig.end.content(b"hello")
    rig.end.end([(b"x-t", b"1")])
    assert rig.link.take() == PUSH + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nx-t: 1\r\n\r\n"


def test_client_end_refuses_more_content_than_announced_and_cuts_less() -> None:
    """The peer never gets a request whose length lies."""
    rig = Rig(method=b"POST", length=3)
    with pytest.raises(LocalProtocolError):
        rig.end.content(b"hello")
    rig = Rig(method=b"POST", length=3)
    rig.end.content(b"h")
    rig.end.end([])
    assert rig.link.aborted


def test_client_end_refuses_a_second_request_before_the_answer() -> None:
    """One request in flight."""
    rig = Rig()
    with pytest.raises(LocalProtocolError):
        rig.end.head(Sink(), b"GET", b"/", b"x", (), NOTHING)
