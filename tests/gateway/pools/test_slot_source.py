"""A worker's connection that takes several requests at a time: each of its slots is an end of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from support.bench import POOL, Bench, BenchLink, Requester, worker_peer
from support.links import FakeLink

from auth.policy import Context
from gateway.pools.hosted import HostedPool, ReversedConnection
from rhttp.errors import Loss
from rhttp.http1.client import ClientEnd

ANY = "/-/pools/render/any/x"
WAITS = "Prefer: wait=30"


class Two:
    """Two ends over one connection: what a version of HTTP with streams would be to a pool."""

    capacity = 2

    def __init__(self, owner: Any, limits: Any, wheel: Any, link: Any) -> None:
        self.owner, self.limits = owner, limits
        self.answered = 0
        self.last: str | None = None
        self.closed = False
        self.streams: list[ClientEnd] = []
        for _ in range(2):
            end = ClientEnd(self, limits, wheel)
            end.connection_made(FakeLink())  # type: ignore[arg-type]
            self.streams.append(end)

    def open(self) -> ClientEnd:
        return next(end for end in self.streams if end.sink is None)

    def client_idle(self, end: ClientEnd) -> None:
        self.answered += 1
        self.owner.client_idle(self)

    def client_closed(self, end: ClientEnd, detail: str) -> None:
        if not self.closed:
            self.abort(Loss.CUT, detail)

    def close(self, detail: str = "closed") -> None:
        assert all(end.sink is None for end in self.streams), "closed while it serves"
        self.closed = True
        self.owner.client_closed(self, detail)

    def abort(self, loss: Loss = Loss.ABORTED, detail: str = "aborted") -> None:
        self.closed = True
        for end in self.streams:
            end.abort(loss, detail)
        self.owner.client_closed(self, detail)

    def reply(self, number: int, content: bytes) -> None:
        """The worker answers one of the two."""
        head = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(content)
        self.streams[number].link.sent.clear()  # type: ignore[attr-defined]
        self.streams[number].data_received(head + content)


class Rig:
    """A pool in which one worker came with such a connection."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        process = bench.process
        self.hosted = HostedPool(process, bench.pool.config, "test.internal", dialects={"two/1": Two})
        process.generation.pools["render"] = self.hosted
        link = BenchLink("w1", bench)
        bench.links.append(link)
        self.hosted.host(
            worker_peer("w1", "render"),
            link,  # type: ignore[arg-type]
            protocol="two/1",
            instance=None,
            request_id="r",
            asked=Context("tls", "two/1", "SHA-256", now=process.epoch),
        )
        (self.connection,) = [live for live in process.registry if isinstance(live, ReversedConnection)]
        self.client: Two = self.connection.client  # type: ignore[assignment]

    def asks(self) -> Requester:
        asker = self.bench.requester()
        assert asker.ask(ANY, "GET", WAITS) is None
        return asker

    def served(self) -> list[bool]:
        """Which of the two have a request."""
        return [end.sink is not None for end in self.client.streams]


@pytest.fixture
async def rig() -> Iterator[Rig]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    bench = Bench(POOL)
    yield Rig(bench)
    bench.close()


def content_of(requester: Requester) -> bytes:
    answer = requester.answer()
    assert answer is not None
    assert answer.status == 200
    return bytes(answer.content)


def test_connection_has_as_many_slots_as_it_takes_requests(rig: Rig) -> None:
    """Both are served at once, the third waits for whichever answer comes first."""
    assert rig.hosted.sums() == (2, 2)
    first, second, third = rig.asks(), rig.asks(), rig.asks()
    assert rig.served() == [True, True]
    assert (rig.hosted.sums(), rig.hosted.pool.waiting) == ((2, 0), 1)
    rig.client.reply(1, b"two")
    assert content_of(second) == b"two"
    assert rig.hosted.pool.waiting == 0
    rig.client.reply(1, b"three")
    rig.client.reply(0, b"one")
    assert (content_of(third), content_of(first)) == (b"three", b"one")
    assert rig.hosted.sums() == (2, 2)


def test_connection_that_drains_closes_behind_its_last_answer(rig: Rig) -> None:
    """One answer gives its slot up, the other ends the connection."""
    first, second = rig.asks(), rig.asks()
    rig.connection.drain("drain")
    rig.client.reply(0, b"one")
    assert content_of(first) == b"one"
    assert not rig.client.closed
    assert rig.hosted.sums() == (1, 0)
    rig.client.reply(1, b"two")
    assert content_of(second) == b"two"
    assert rig.client.closed
    assert rig.hosted.sums() == (0, 0)
    assert [line["reason"] for line in rig.bench.audit.of("reverse.closed")] == ["drain"]


def test_connection_that_is_lost_ends_all_its_requests(rig: Rig) -> None:
    """Each requester is told, and no slot stays."""
    askers = [rig.asks(), rig.asks()]
    rig.connection.disconnect("revoked")
    for asker in askers:
        answer = asker.answer()
        assert answer is not None
        assert (answer.status, answer.problem) == (502, "worker-lost")
    assert rig.hosted.sums() == (0, 0)
    assert rig.bench.process.exchanges == 0
