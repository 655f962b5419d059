"""Server-sent events of a pool: everything that matters, at a pace, and never more than a reader can take."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator

import pytest
from support.bench import Bench, Requester

from gateway.ingress.event_stream import EventStream

TARGET = "/-/pools/render/events"


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(limits="event_queue = 5\nevent_streams = 2")
    yield made
    for stream in tuple(made.process.streams):
        stream.close()
    made.close()


class Reader:
    """A requester that reads events."""

    def __init__(self, bench: Bench) -> None:
        self.requester: Requester = bench.requester()
        self.first = self.requester.ask(TARGET)
        assert self.first is not None
        self._events = self._parse(self.first.content)

    @staticmethod
    def _parse(chunks: bytes) -> list[tuple[str, dict[str, object]]]:
        data = b""
        while chunks:
            size, _, chunks = chunks.partition(b"\r\n")
            length = int(size, 16)
            data += chunks[:length]
            chunks = chunks[length + 2 :]
        events = []
        for block in data.decode().split("\n\n"):
            lines = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if lines:
                events.append((lines["event"], json.loads(lines["data"])))
        return events

    def now(self) -> list[tuple[str, dict[str, object]]]:
        """The events since the last look."""
        found, self._events = self._events, []
        return found + self._parse(self.requester.link.take())

    async def next(self) -> list[tuple[str, dict[str, object]]]:
        """The events of the next batch."""
        await self.requester.link.until(lambda: bool(self.requester.link.sent) or self.requester.link.is_closing())
        return self.now()


def stream_of(reader: Reader) -> EventStream:
    sink = reader.requester.end.sink
    assert isinstance(sink, EventStream)
    return sink


async def test_events_begin_with_the_present_sum(bench: Bench) -> None:
    """A reader knows where it stands before anything happens; the line is in the log by then."""
    bench.worker()
    reader = Reader(bench)
    assert reader.first is not None
    assert reader.first.status == 200
    assert reader.first.fields["content-type"] == "text/event-stream"
    assert reader.first.fields["cache-control"] == "no-store"
    assert reader.now() == [("slots", {"pool": "render", "total": 1, "free": 1})]
    assert [line["outcome"] for line in bench.audit.of("request")] == ["allowed"]


async def test_events_tell_every_join_and_leave_in_order(bench: Bench) -> None:
    """With the sums of their moment, then the present sum."""
    reader = Reader(bench)
    reader.now()
    first, _ = bench.worker("w1"), bench.worker("w2")
    first.reset()
    events = await reader.next()
    assert [(kind, values.get("worker")) for kind, values in events] == [
        ("worker-joined", "w1"),
        ("worker-joined", "w2"),
        ("worker-left", "w1"),
        ("slots", None),
    ]
    assert events[-1][1] == {"pool": "render", "total": 1, "free": 1}


async def test_events_fold_many_changes_of_slots_into_one(bench: Bench) -> None:
    """A busy pool changes thousands of times a second; a reader hears the sum a few times."""
    worker = bench.worker()
    reader, master = Reader(bench), bench.requester()
    reader.now()
    for _ in range(100):
        master.ask("/-/pools/render/any/x")
        worker.reply()
    master.ask("/-/pools/render/any/x")
    assert await reader.next() == [("slots", {"pool": "render", "total": 1, "free": 0})]


async def test_events_keep_an_idle_stream_alive_with_a_comment(bench: Bench) -> None:
    """So that a dead reader is noticed; comments are no events."""
    reader = Reader(bench)
    reader.now()
    bench.turn(15.5)
    assert reader.requester.link.take() == b"3\r\n:\n\n\r\n"
    bench.turn(15.5)
    assert reader.requester.link.take() == b"3\r\n:\n\n\r\n"


async def test_events_for_a_slow_reader_wait_within_their_limit(bench: Bench) -> None:
    """As many as allowed are kept and told later; one more, and the reader is cut."""
    reader = Reader(bench)
    reader.now()
    reader.requester.end.pause_writing()
    for number in range(5):
        bench.worker(f"w{number}")
    assert not reader.requester.link.aborted
    bench.turn(15.5)
    assert reader.now() == []
    reader.requester.end.resume_writing()
    assert len(await reader.next()) == 6
    reader.requester.end.pause_writing()
    for number in range(5, 11):
        bench.worker(f"w{number}")
    assert reader.requester.link.aborted
    assert bench.process.streams == set()
    assert bench.pool.pool.listeners == set()


@pytest.mark.parametrize("how", ["lost", "aborted", "closed"])
async def test_events_leave_nothing_behind(bench: Bench, how: str) -> None:
    """However it ends: no listener, no timer, no entry in the wheel."""
    reader = Reader(bench)
    bench.worker()
    stream = stream_of(reader)
    if how == "lost":
        reader.requester.link.reset()
    elif how == "aborted":
        reader.requester.connection.disconnect("revoked")
    else:
        stream.close()
        stream.close()
        assert reader.requester.link.sent.endswith(b"0\r\n\r\n")
    assert bench.process.streams == set()
    assert bench.pool.pool.listeners == set()
    before = len(reader.requester.link.sent)
    bench.worker("w2")
    bench.turn(20.0)
    await asyncio.sleep(0.11)
    assert len(reader.requester.link.sent) == before


async def test_events_end_for_a_reader_that_half_closes(bench: Bench) -> None:
    """Most likely it is gone: its place is for another."""
    reader = Reader(bench)
    reader.now()
    reader.requester.end.eof_received()
    assert reader.requester.link.sent == b"0\r\n\r\n"
    assert bench.process.streams == set()


async def test_event_streams_are_limited(bench: Bench) -> None:
    """As many as allowed; the next is 503 until one ends."""
    first, _second = Reader(bench), Reader(bench)
    refused = bench.requester().ask(TARGET)
    assert refused is not None
    assert (refused.status, refused.problem) == (503, "overloaded")
    stream_of(first).close()
    third = Reader(bench)
    assert third.first is not None
    assert third.first.status == 200


@pytest.mark.parametrize(("method", "status"), [("HEAD", 405), ("POST", 405), ("GET", 200)])
async def test_events_are_read_with_get_only(bench: Bench, method: str, status: int) -> None:
    """A stream has no head of its own to look at."""
    answer = bench.requester().ask(TARGET, method)
    assert answer is not None
    assert answer.status == status
