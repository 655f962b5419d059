"""Event streams of pools from outside."""

from __future__ import annotations

import json
from typing import Any

from support.pooling import ANY
from support.rig import Rig
from support.wire import Wire, request


def next_event(wire: Wire) -> tuple[str, dict[str, Any]]:
    """One event of a stream in chunks, whose borders are events' borders or not."""
    if not hasattr(wire, "stream"):
        wire.stream = b""  # type: ignore[attr-defined]
    stream: bytes = wire.stream  # type: ignore[attr-defined]
    while b"\n\n" not in stream:
        size = int(wire.until(b"\r\n"), 16)
        assert size, "the stream ended"
        stream += wire.read(size)
        assert wire.read(2) == b"\r\n"
    event, _, wire.stream = stream.partition(b"\n\n")  # type: ignore[attr-defined]
    lines = dict(line.split(": ", 1) for line in event.decode().split("\n"))
    return lines["event"], json.loads(lines["data"])


def test_events_tell_of_workers_and_slots(rig: Rig, wire: Wire) -> None:
    """The sum at once, then joins, leaves and changes."""
    wire.send(request("/-/pools/render/events"))
    head = wire.until(b"\r\n\r\n").lower()
    assert b"content-type: text/event-stream" in head
    assert next_event(wire) == ("slots", {"pool": "render", "total": 0, "free": 0})
    with rig.worker("w1") as worker:
        kind, data = next_event(wire)
        assert (kind, data["worker"]) == ("worker-joined", "w1")
        assert next_event(wire) == ("slots", {"pool": "render", "total": 1, "free": 1})
        with rig.dispatch() as one:
            one.send(request(f"{ANY}/x"))
            worker.request()
            assert next_event(wire)[1]["free"] == 0
            worker.reply()
            assert one.answer().status == 200
            assert next_event(wire)[1]["free"] == 1
    kind, data = next_event(wire)
    assert (kind, data["worker"]) == ("worker-left", "w1")
    assert next_event(wire) == ("slots", {"pool": "render", "total": 0, "free": 0})
    wire.close()


def test_events_are_for_those_who_may_inspect(rig: Rig) -> None:
    """A client with Digest may, a worker may not, and there are none of an unknown pool."""
    with rig.connect("alice") as wire:
        wire.send(request("/-/pools/render/events", "GET", rig.authorized("alice", "/-/pools/render/events")))
        assert wire.until(b"\r\n\r\n").startswith(b"HTTP/1.1 200")
        wire.half_close()
    assert rig.ask("w1", "/-/pools/render/events").status == 403
    with rig.dispatch() as wire:
        assert wire.ask("/-/pools/nowhere/events").status == 404
        assert wire.ask("/-/pools/render/events", "POST").status == 405
