"""The client end and peers that take or give slowly: what ends a request is a time without progress."""

from __future__ import annotations

import pytest
from support.links import FakeLink

from rhttp.ends import Link
from rhttp.errors import Loss
from rhttp.http1.client import ClientEnd
from rhttp.http1.limits import Http1Limits
from rhttp.message import Fields, ResponseHead
from rhttp.timers import TimerWheel

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
LIMITS = Http1Limits(content_timeout=10, answer_timeout=100)


class Sink:
    """Keeps what the end of a request was, and whether it is asked to wait."""

    def __init__(self) -> None:
        self.lost: Loss | None = None
        self.status = 0
        self.is_done = False
        self.is_blocked = False

    def response_interim(self, head: ResponseHead) -> None:
        pass

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        raise AssertionError("nothing asks for it")

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        self.status = head.status

    def response_content(self, data: bytes) -> None:
        pass

    def response_flush(self) -> None:
        pass

    def response_end(self, trailers: Fields) -> None:
        self.is_done = True

    def response_abort(self, loss: Loss, detail: str) -> None:
        self.lost = loss

    def request_blocked(self) -> None:
        self.is_blocked = True

    def request_unblocked(self) -> None:
        self.is_blocked = False


class Rig:
    """A pool's client end; as a pool does, it lets idle ones rest for `rest` seconds (0: for ever)."""

    def __init__(self, rest: float = 5.0) -> None:
        self.rest = rest
        self.wheel = TimerWheel(100.0)
        self.link = FakeLink(wheel=self.wheel, high_water=1000)
        self.end = ClientEnd(self, LIMITS, self.wheel)
        self.end.connection_made(self.link)  # type: ignore[arg-type]
        self.link.set_protocol(self.end)
        self.idle = 0

    def client_idle(self, end: ClientEnd) -> None:
        self.idle += 1
        if self.rest:
            end.rest(self.rest)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        pass

    def ask(self, length: int) -> Sink:
        sink = Sink()
        self.end.head(sink, b"PUT", b"/", b"x", (), length)
        self.end.flush()
        return sink

    def give(self, size: int) -> None:
        self.end.content(b"x" * size)
        self.end.flush()

    def wait(self, seconds: float) -> None:
        self.wheel.turn(self.wheel.now + seconds)
        self.link.settle()


@pytest.fixture
def rig() -> Rig:
    return Rig()


def serve_one(rig: Rig) -> None:
    sink = rig.ask(0)
    rig.link.receive(OK)
    assert sink.is_done


def test_reused_end_forgets_how_long_it_could_rest(rig: Rig) -> None:
    """An upload is not idle: a pool's time for idle connections does not run on in it."""
    serve_one(rig)
    rig.wait(4.0)
    sink = rig.ask(40)
    for _ in range(40):
        rig.wait(4.0)  # far more than the rest and `content_timeout` together; the requester's end watches it
        rig.give(1)
    rig.end.end([])
    assert sink.lost is None
    rig.link.receive(OK)
    assert sink.is_done


def test_end_that_rests_too_long_closes(rig: Rig) -> None:
    """In order, and not before its time."""
    serve_one(rig)
    rig.wait(4.5)
    assert not rig.end.closed
    rig.wait(1.0)
    assert rig.end.closed


def test_peer_that_takes_a_request_slowly_is_not_cut(rig: Rig) -> None:
    """Whatever it takes in `content_timeout` is progress, also when it never catches up."""
    rig.link.block()
    sink = rig.ask(3000)
    rig.give(3000)
    rig.end.end([])
    assert sink.is_blocked
    for _ in range(20):
        rig.link.drain(100)
        rig.wait(9.0)
    assert sink.lost is None
    rig.link.drain()
    assert not sink.is_blocked
    rig.link.receive(OK)
    assert sink.is_done


@pytest.mark.parametrize("is_whole", [False, True])
def test_peer_that_takes_nothing_more_of_a_request_is_cut(rig: Rig, is_whole: bool) -> None:
    """After `content_timeout` without progress, whether all of it was given or not."""
    rig.link.block()
    sink = rig.ask(3000)
    rig.give(3000 if is_whole else 2000)
    if is_whole:
        rig.end.end([])
    rig.link.drain(100)
    rig.wait(10.5)
    assert sink.lost is None
    rig.wait(10.5)
    assert sink.lost is Loss.DEADLINE


def test_upload_goes_on_while_the_answer_that_has_begun_rests(rig: Rig) -> None:
    """Either direction is progress: an echo waits for what it is to say."""
    sink = rig.ask(100)
    rig.link.receive(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nx")
    for _ in range(20):
        rig.give(5)
        rig.wait(9.0)
    assert sink.lost is None
    rig.end.end([])
    rig.wait(10.5)
    rig.wait(10.5)
    assert sink.lost is Loss.DEADLINE, "now nothing moves"


def test_answer_is_waited_for_again_after_a_pause_before_it(rig: Rig) -> None:
    """A requester that was slow to take an interim answer does not make the final one wait for ever."""
    sink = rig.ask(0)
    rig.end.pause()
    rig.wait(1000.0)
    assert sink.lost is None, "the requester is the slow side, and its end has a deadline"
    rig.end.resume()
    rig.wait(99.0)
    assert sink.lost is None
    rig.wait(2.0)
    assert sink.lost is Loss.DEADLINE


def test_next_request_hears_that_the_link_is_still_full(rig: Rig) -> None:
    """A peer that answers early and reads late: the rest of one request blocks the next, under a deadline."""
    rig.rest = 0.0
    rig.link.block()
    rig.ask(1500)
    rig.give(1500)
    rig.end.end([])
    rig.link.drain(100)  # it answers when it has read the head
    rig.link.receive(OK)
    assert rig.idle == 1
    assert rig.end.deadline, "idle, and full: not for ever"
    sink = rig.ask(10)
    assert sink.is_blocked
    rig.link.drain()
    assert not sink.is_blocked
    assert not rig.end.deadline, "the requester's content is awaited, and its end has the deadline"


def test_idle_end_whose_peer_takes_nothing_closes() -> None:
    """Also where idle ones may rest for ever, as reversed connections do."""
    rig = Rig(rest=0.0)
    rig.link.block()
    rig.ask(1500)
    rig.give(1500)
    rig.end.end([])
    rig.link.drain(100)  # it answers when it has read the head
    rig.link.receive(OK)
    for _ in range(2):
        assert not rig.end.closed
        rig.wait(10.5)
    assert rig.end.closed


def test_end_that_catches_up_while_idle_rests_from_then_on(rig: Rig) -> None:
    """The pool's deadline comes back; it is not lost to the resume."""
    rig.link.block()
    rig.ask(1500)
    rig.give(1500)
    rig.end.end([])
    rig.link.drain(100)  # it answers when it has read the head
    rig.link.receive(OK)
    rig.link.drain()
    rig.wait(4.5)
    assert not rig.end.closed
    rig.wait(1.0)
    assert rig.end.closed
