"""The door over a real socket: what a gateway, or something in its place, may answer."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapreduce import door as module
from mapreduce.api import Slots
from mapreduce.door import Door, Failure, Pool, Reply
from mapreduce.problems import GATEWAY, OURS
from mapreduce.sse import Event, EventParser, EventsInvalid

Asked = list[tuple[str, dict[str, str], bytes]]


@asynccontextmanager
async def gateway(place: Path, *answers: bytes) -> AsyncIterator[tuple[Door, Asked]]:
    """A door to a socket that gives these bytes, one after the other, and closes after each."""
    asked: Asked = []
    left = list(answers)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().split("\r\n")
        fields = {name.lower(): value for name, _, value in (line.partition(": ") for line in head[1:] if line)}
        content = await reader.readexactly(int(fields.get("content-length", "0")))
        asked.append((head[0], fields, content))
        writer.write(left.pop(0))
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    socket = place / "dispatch.sock"
    server = await asyncio.start_unix_server(serve, socket)
    try:
        async with Door(f"unix:{socket}", "text") as door:
            yield door, asked
    finally:
        server.close()
        await server.wait_closed()


def answer(status: int, body: object, *fields: str) -> bytes:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    lines = [f"HTTP/1.1 {status} x", f"Content-Length: {len(content)}", "Connection: close", *fields, "", ""]
    return "\r\n".join(lines).encode() + content


async def test_pool_is_read_with_its_workers(tmp_path: Path) -> None:
    """Slots, and what is free at each worker."""
    body = {
        "pool": "text",
        "slots": {"total": 5, "free": 3},
        "workers": [{"name": "w1", "slots": 4, "busy": 1, "labels": {"rack": "a"}, "protocol": "ptth/1.0"}],
    }
    async with gateway(tmp_path, answer(200, body)) as (door, asked):
        pool = await door.look()
    assert isinstance(pool, Pool)
    assert (pool.slots, pool.workers[0].free, pool.workers[0].labels) == (Slots(5, 3), 3, {"rack": "a"})
    assert asked[0][0] == "GET /-/pools/text HTTP/1.1"


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"slots": {"total": 1, "free": 2}, "workers": []},
        {"slots": {"total": "1", "free": 0}, "workers": []},
        {"slots": {"total": 1}, "workers": []},
        {"slots": {"total": 1, "free": 0}, "workers": [{"name": 1}]},
    ],
)
async def test_pool_that_makes_no_sense_is_no_pool(tmp_path: Path, body: object) -> None:
    """A wrong server at that address is a failure, not a crash."""
    async with gateway(tmp_path, answer(200, body)) as (door, _):
        failure = await door.look()
    assert isinstance(failure, Failure)
    assert failure.problem.type == OURS + "gateway-unreachable"


async def test_submit_says_how_long_it_waits_and_where_it_would_rather_go(tmp_path: Path) -> None:
    """Prefer and Rhttp-Prefer-Label are the gateway's own words."""
    async with gateway(tmp_path, *[answer(200, {"id": "a"}, "Rhttp-Worker: w7")] * 2) as (door, asked):
        reply = await door.submit(b"{}", "rack=a")
        await door.submit(b"{}", None)
    assert reply == Reply(status=200, worker="w7", value={"id": "a"})
    line, fields, content = asked[0]
    assert (line, content) == ("POST /-/pools/text/any/jobs HTTP/1.1", b"{}")
    assert (fields["prefer"], fields["rhttp-prefer-label"]) == ("wait=290", "rack=a")
    assert "rhttp-prefer-label" not in asked[1][1]


async def test_follow_up_goes_to_that_worker(tmp_path: Path) -> None:
    """The one that has the job, no other."""
    async with gateway(tmp_path, answer(202, {}, "Rhttp-Worker: w7")) as (door, asked):
        reply = await door.follow_up("w7", "j.1")
    assert isinstance(reply, Reply)
    assert asked[0][0] == "GET /-/pools/text/workers/w7/jobs/j.1 HTTP/1.1"


async def test_problem_comes_with_its_type_and_time(tmp_path: Path) -> None:
    """What the gateway says is what is judged."""
    body = {"type": GATEWAY + "no-slot", "title": "No worker slot became free", "status": 503, "request_id": "x"}
    async with gateway(tmp_path, answer(503, body, "Retry-After: 3")) as (door, _):
        failure = await door.submit(b"{}", None)
    assert isinstance(failure, Failure)
    assert (failure.problem.type, failure.problem.status, failure.retry_after) == (GATEWAY + "no-slot", 503, 3.0)


@pytest.mark.parametrize(
    ("given", "kind", "status"),
    [
        (answer(500, b"<html>"), "about:blank", 500),
        (answer(404, {"type": 5, "status": 200}), "about:blank", 404),
        (answer(200, b"[]"), GATEWAY + "worker-invalid", 502),
        (answer(200, b"{"), GATEWAY + "worker-invalid", 502),
        (answer(200, b"\xff"), GATEWAY + "worker-invalid", 502),
        (answer(204, b""), GATEWAY + "worker-invalid", 502),
        (answer(200, b'{"a": "' + b"x" * 2000 + b'"}'), GATEWAY + "worker-invalid", 502),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{", GATEWAY + "worker-lost", 502),
        (b"nonsense\r\n\r\n", GATEWAY + "worker-lost", 502),
        (b"", GATEWAY + "worker-lost", 502),
    ],
)
async def test_any_other_answer_is_a_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, given: bytes, kind: str, status: int
) -> None:
    """Too large, cut off, no JSON, no HTTP: a problem each, never an exception."""
    monkeypatch.setattr(module, "MAX_ANSWER", 1000)
    async with gateway(tmp_path, given) as (door, _):
        failure = await door.submit(b"{}", None)
    assert isinstance(failure, Failure)
    assert (failure.problem.type, failure.problem.status) == (kind, status)


async def test_no_gateway_is_a_failure(tmp_path: Path) -> None:
    """Nothing listens there."""
    async with Door(f"unix:{tmp_path}/none.sock", "text") as door:
        failure = await door.submit(b"{}", None)
        assert isinstance(failure, Failure)
        assert failure.problem.type == OURS + "gateway-unreachable"
        with pytest.raises(OSError, match="ConnectError"):
            await anext(door.events())


async def test_events_are_slots_until_the_stream_ends(tmp_path: Path) -> None:
    """Joins and leaves are passed over; slots are what counts."""
    stream = (
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n"
        b'event: slots\ndata: {"pool":"text","total":2,"free":1}\n\n: beat\n\n'
        b'event: worker-joined\ndata: {"worker":"w1"}\n\nevent: slots\ndata: {"total":3,"free":3}\n\n'
    )
    async with gateway(tmp_path, stream) as (door, asked):
        assert [slots async for slots in door.events()] == [Slots(2, 1), Slots(3, 3)]
    assert asked[0][0] == "GET /-/pools/text/events HTTP/1.1"


@pytest.mark.parametrize(
    "given",
    [
        answer(403, {}),
        b"HTTP/1.1 200 OK\r\n\r\nevent: slots\ndata: {}\n\n",
        b"HTTP/1.1 200 OK\r\n\r\nevent: slots\ndata: [\n\n",
        b"HTTP/1.1 200 OK\r\n\r\nevent: slots\ndata: \xff\n\n",
        b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 70_000,
    ],
)
async def test_stream_that_makes_no_sense_ends(tmp_path: Path, given: bytes) -> None:
    """One kind of error for everything, so that the follower begins anew."""
    async with gateway(tmp_path, given) as (door, _):
        with pytest.raises(OSError, match=r"\w"):
            await anext(door.events())


@given(st.lists(st.integers(1, 20), max_size=20))
def test_events_are_the_same_however_the_bytes_are_cut(cuts: list[int]) -> None:
    """Packets have no meaning."""
    stream = "event: slots\r\ndata: {é}\r\n\r\n: beat\n\nid: 5\ndata: a\ndata:b\n\nevent: half".encode()
    parser, at = EventParser(), 0
    found: list[Event] = []
    for size in [*cuts, len(stream)]:
        found += parser.feed(stream[at : at + size])
        at += size
    assert found == [Event("slots", "{é}"), Event("message", "a\nb")]


def test_event_without_an_end_is_refused_at_the_limit() -> None:
    """What waits for its end is bounded."""
    parser = EventParser()
    assert list(parser.feed(b"x" * 65536)) == []
    with pytest.raises(EventsInvalid):
        list(parser.feed(b"x"))
