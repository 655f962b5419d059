"""A server end on a fake link, and an owner that keeps what it is told."""

from __future__ import annotations

from support.links import FakeLink

from rhttp.http1.answer import Phase
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import Fields, RequestHead
from rhttp.timers import TimerWheel

GET = b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n"


class Owner:
    """Records requests; answers at once when told to, else when the test says so."""

    def __init__(self, *, answer: bytes | None = None) -> None:
        self.heads: list[RequestHead] = []
        self.content = bytearray()
        self.trailers: list[Fields] = []
        self.aborts: list[str] = []
        self.malformed: list[tuple[int, str]] = []
        self.half_closed = 0
        self.blocked: list[bool] = []
        self.closed = 0
        self.answer = answer

    def request_received(self, end: ServerEnd, head: RequestHead) -> None:
        self.heads.append(head)
        if self.answer is not None:
            end.head(200, (), len(self.answer))
            end.content(self.answer)
            end.end([])
        else:
            end.sink = self

    def request_malformed(self, end: ServerEnd, status: int, code: str, detail: str) -> None:
        self.malformed.append((status, code))
        end.last_request()
        end.head(status, (), 0)
        end.end([])

    def end_closed(self, end: ServerEnd) -> None:
        self.closed += 1

    def request_content(self, data: bytes) -> None:
        self.content += data

    def request_flush(self) -> None:
        pass

    def request_end(self, trailers: Fields) -> None:
        self.trailers.append(trailers)

    def request_abort(self, detail: str) -> None:
        self.aborts.append(detail)

    def request_half_closed(self) -> None:
        self.half_closed += 1

    def response_blocked(self) -> None:
        self.blocked.append(True)

    def response_unblocked(self) -> None:
        self.blocked.append(False)


def make(owner: Owner, limits: Http1Limits | None = None) -> tuple[ServerEnd, FakeLink, TimerWheel]:
    wheel = TimerWheel(100.0)
    end = ServerEnd(owner, limits or Http1Limits(), wheel)
    link = FakeLink()
    end.connection_made(link)  # type: ignore[arg-type]
    return end, link, wheel


def feed(end: ServerEnd, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        if end.phase < Phase.LINGER:
            end.data_received(data[at : at + size])
