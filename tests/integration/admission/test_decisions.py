"""Policy, routes and pools from outside: 403 and 404 in their order, and roles that keep to their own."""

from __future__ import annotations

import pytest
from support.challenges import is_challenge
from support.rig import Rig


def test_policy_that_denies_is_403_for_credentials_that_are_right(rig: Rig) -> None:
    """Who you are is known, what you may is not this. The connection is kept."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", "/closed/x", wire=wire)
        assert (answer.status, answer.problem) == (403, "forbidden")
        assert not answer.challenges
        line = rig.line_of(answer)
        assert (line["event"], line["policy"]) == ("policy.denied", ["closed"])
        assert wire.ask("/-/health").status == 200


def test_policy_denial_without_credentials_is_a_challenge(rig: Rig) -> None:
    """Nobody learns what is forbidden before they said who they are."""
    with rig.connect("alice") as wire:
        is_challenge(wire.ask("/closed/x"))


@pytest.mark.usefixtures("reaches")
def test_policy_that_asks_for_no_digest_lets_the_certificate_do(rig: Rig) -> None:
    """Absent credentials: policy is asked, and what it allows proceeds."""
    with rig.connect("alice") as wire:
        answer = wire.ask("/open/x")
        assert answer.status == 200
        assert rig.line_of(answer)["policy"] == ["open"]


def test_unknown_route_and_pool_say_404_only_to_whom_policy_would_allow(rig: Rig) -> None:
    """Undecided policy first, then 404."""
    with rig.connect("alice") as wire:
        for target in ("/nowhere", "/", "/jobs", "/-/pools/nowhere"):
            is_challenge(wire.ask(target))
            answer = rig.ask("alice", target, wire=wire)
            assert (answer.status, answer.problem) == (404, "not-found"), target
            assert rig.line_of(answer)["outcome"] == "refused"
        assert wire.ask("/-/health").status == 200
    with rig.connect("w1") as wire:
        answer = rig.ask("w1", "/nowhere", wire=wire)
        assert (answer.status, answer.problem) == (403, "forbidden")


@pytest.mark.parametrize(
    "target", ["/-", "/-/", "/-/x", "/-/pools/", "/-/pools/render/", "/-/pools/render/any", "/-/reverse"]
)
def test_unlisted_paths_of_our_own_are_404_and_never_routed(rig: Rig, target: str) -> None:
    """Everything under /-/ is the gateway's."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", target, wire=wire)
        assert (answer.status, answer.problem) == (404, "not-found")


ROLES = [
    ("w1", "GET", "/jobs/x"),
    ("w1", "GET", "/-/pools"),
    ("w1", "GET", "/-/pools/render/any/x"),
    ("m1", "GET", "/jobs/x"),
    ("alice", "GET", "/-/pools/render/any/x"),
    ("alice", "GET", "/-/pools/render/workers/w1/x"),
]


@pytest.mark.parametrize(("name", "method", "target"), ROLES)
def test_role_may_do_only_what_is_its_own(rig: Rig, name: str, method: str, target: str) -> None:
    """A worker requests nothing, a client dispatches nothing, a master requests no routes."""
    answer = rig.ask(name, target, method)
    assert (answer.status, answer.problem) == (403, "forbidden")
    assert rig.line_of(answer)["event"] == "policy.denied"
