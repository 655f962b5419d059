"""The role switch of hosted pools from outside: its bytes, its record, and what comes too early."""

from __future__ import annotations

import pytest
from support.pooling import SWITCH, slots
from support.rig import Rig, upgrade, wait_for


@pytest.mark.parametrize("method", ["POST", "GET"])
def test_switch_is_answered_with_exactly_three_lines(rig: Rig, method: str) -> None:
    """npm workers compare bytes."""
    with rig.worker("w1", method=method) as worker:
        assert worker.switched.raw == SWITCH
        assert worker.wire.is_quiet()
        assert slots(rig) == (1, 1)


@pytest.mark.parametrize("token", ["ptth/1.0", "websocket, PTTH/1.0", "PTTH/1.0, h2c", " PTTH/1.0"])
def test_token_is_found_in_lists_and_in_any_case(rig: Rig, token: str) -> None:
    """The answer is the same bytes."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST"), "Content-Length: 0", token=token))
        assert wire.one().raw == SWITCH


def test_reversed_connection_is_on_record_from_switch_to_close(rig: Rig) -> None:
    """Opened with identity and policy, closed with a reason, one request id."""
    seen = len(rig.audit())
    with rig.worker("w1"):
        opened = rig.wait_line(event="reverse.opened")
        assert opened["identity"] == "worker/w1"
        assert opened["outcome"] == "allowed"
        assert opened["policy"] == ["workers-reverse-into-own-pool"]
        assert opened["target"] == "/-/reverse/render"
        assert opened["status"] == 101
    closed = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "reverse.closed"], bool)[0]
    assert closed["request_id"] == opened["request_id"]
    assert closed["reason"]


@pytest.mark.parametrize("early", [b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", b"x", b"GET / HTTP/1.1\r\n\r\n"])
def test_bytes_before_the_switch_close_it(rig: Rig, early: bytes) -> None:
    """RFC 9931: smuggled, or from a peer that does not know what it asked for. No 101, no slot, a line that says so."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST")) + early)
        assert b"101" not in wire.rest()
    line = rig.wait_line(reason="bytes before the switch")
    opened = [x["event"] for x in rig.lines_of(line["request_id"])]
    assert opened in (["request"], ["reverse.opened", "reverse.closed"]), opened
    assert slots(rig) == (0, 0)


@pytest.mark.parametrize("instance", ["a b", "x" * 65, '"q"', ""])
def test_malformed_instance_is_refused(rig: Rig, instance: str) -> None:
    """It would be the name that supersedes others."""
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w1", target, "POST"), f"Rhttp-Instance: {instance}"))
        assert wire.one().status == 400
        assert wire.rest() == b""
