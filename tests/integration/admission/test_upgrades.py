"""Role switches that are refused, from outside: what is offered, what is kept, what is closed."""

from __future__ import annotations

import time

import pytest
from support.challenges import is_challenge
from support.origins import Origin
from support.rig import Rig, upgrade


def test_upgrade_without_credentials_is_kept_for_one_more_request(rig: Rig) -> None:
    """401 with the tokens on offer; with credentials the same connection switches."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        answer = wire.one()
        is_challenge(answer)
        assert answer["upgrade"] == "PTTH/1.0"
        assert "upgrade" in answer["connection"].lower()
        assert "close" not in answer["connection"].lower()
        digest = rig.digest("w1").challenged(answer)
        wire.send(upgrade("/-/reverse/render", digest.line("/-/reverse/render", "POST")))
        assert wire.one().status == 101


def test_upgrade_refused_twice_closes(rig: Rig) -> None:
    """One more request means one."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        assert wire.one().status == 401
        wire.send(upgrade("/-/reverse/render", "Authorization: Basic eDp5"))
        answer = wire.one()
        assert answer.status == 401
        assert "close" in answer.all("connection")
        assert wire.rest() == b""


def test_upgrade_refused_is_not_waited_for_longer_than_five_seconds(rig: Rig) -> None:
    """Some workers abandon the socket without closing it."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        assert wire.one().status == 401
        start = time.monotonic()
        assert wire.rest() == b""
        assert 4 < time.monotonic() - start < 6


REFUSED_UPGRADES = {
    "pool of another": ("w1", "/-/reverse/other", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "pool that is not": ("w1", "/-/reverse/nowhere", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "client": ("alice", "/-/reverse/render", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "master": ("m1", "/-/reverse/render", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "unknown token": ("w1", "/-/reverse/render", "websocket", 426, "upgrade-required", "request"),
    "old version": ("w1", "/-/reverse/render", "PTTH/0.9", 426, "upgrade-required", "request"),
}


@pytest.mark.parametrize("name", REFUSED_UPGRADES)
def test_every_other_refusal_of_an_upgrade_closes(rig: Rig, name: str) -> None:
    """With good credentials the answer is final."""
    who, target, token, status, slug, event = REFUSED_UPGRADES[name]
    with rig.connect(who) as wire:
        wire.send(upgrade(target, rig.authorized(who, target, "POST"), token=token))
        answer = wire.one()
        assert (answer.status, answer.problem) == (status, slug)
        assert any("close" in value for value in answer.all("connection"))
        assert wire.rest() == b""
        assert wire.ended == "notify"
        assert rig.line_of(answer)["event"] == event
        if status == 426:
            assert answer["upgrade"] == "PTTH/1.0"


def test_reverse_without_an_upgrade_is_426_and_names_the_token(rig: Rig) -> None:
    """Anyone who asks in plain HTTP is told what to ask for."""
    with rig.connect("w1") as wire:
        answer = rig.ask("w1", "/-/reverse/render", "POST", wire=wire)
        assert (answer.status, answer.problem) == (426, "upgrade-required")
        assert answer["upgrade"] == "PTTH/1.0"
        assert wire.rest() == b""


def test_tokens_are_on_offer_where_roles_switch_and_nowhere_else(rig: Rig) -> None:
    """A 401 names them to whoever asks at /-/reverse/, with an upgrade or without; a route has none to offer."""
    with rig.connect("w1") as wire:
        assert wire.ask("/-/reverse/render", "POST")["upgrade"] == "PTTH/1.0"
    with rig.connect("alice") as wire:
        answer = wire.ask("/jobs/x", "GET", "Upgrade: websocket", "Connection: Upgrade")
        assert answer.status == 401
        assert not answer.all("upgrade")


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "DELETE"])
def test_reverse_with_another_method_is_refused_and_closes(rig: Rig, method: str) -> None:
    """POST or GET, nothing else."""
    with rig.connect("w1") as wire:
        target = "/-/reverse/render"
        wire.send(upgrade(target, rig.authorized("w1", target, method), method=method))
        answer = wire.one(method)
        assert answer.status == 405
        assert answer["allow"] == "GET, POST"
        assert wire.rest() == b""


@pytest.mark.parametrize("lines", [("Content-Length: 3",), ("Transfer-Encoding: chunked",)])
def test_upgrade_with_content_is_refused_and_closes(rig: Rig, lines: tuple[str, ...]) -> None:
    """What would the content be: the request's or the reversed connection's?"""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render", *lines) + b"0\r\n\r\nGET /-/pools HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = wire.one()
        assert (answer.status, answer.problem) == (400, "bad-request")
        assert wire.rest() == b""


def test_upgrade_of_http_1_0_never_switches(rig: Rig) -> None:
    """HTTP/1.0 is served with close and never upgraded."""
    with rig.connect("w1") as wire:
        line = rig.authorized("w1", "/-/reverse/render", "POST")
        wire.send(upgrade("/-/reverse/render", line).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = wire.one()
        assert answer.status == 426
        assert wire.rest() == b""


def test_upgrade_on_a_route_is_served_as_a_plain_request(rig: Rig, origin: Origin) -> None:
    """A client cannot make a master switch: neither field nor token reaches it."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", "/jobs/x", "GET", "Upgrade: PTTH/1.0", "Connection: Upgrade", wire=wire)
        assert answer.status == 200
    assert b"ptth" not in origin.raw.lower()
    origin.clear()
