"""Digest from outside: every wrong credential is the same 401, and only the log knows why."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from support.challenges import is_challenge
from support.rig import Rig
from support.wire import Wire, tls_context


def test_request_without_credentials_is_challenged_on_a_kept_connection(rig: Rig) -> None:
    """A first challenge: 401, one SHA-256 challenge, and the same connection serves the answer to it."""
    with rig.connect("alice") as wire:
        answer = wire.ask("/jobs/x?secret=1")
        is_challenge(answer)
        assert "upgrade" not in dict(answer.fields)
        line = rig.line_of(answer, "auth.refused")
        assert line["reason"] == "absent"
        assert line["identity"] == "client/alice"
        assert line["target"] == "/jobs/x"
        digest = rig.digest("alice").challenged(answer)
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools")).status == 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({"password": "guess"}, "bad_response"),
    "wrong response": ({"response": "0" * 64}, "bad_response"),
    "other user, its password": ({"username": "bob"}, "user_mismatch"),
    "unknown user": ({"username": "nobody"}, "user_mismatch"),
    "wrong uri": ({"uri": "/jobs/other"}, "uri"),
    "uri without query": ({"uri": "/jobs"}, "uri"),
    "wrong method": ({"method": "PUT"}, "bad_response"),
    "MD5": ({"algorithm": "MD5"}, "algorithm"),
    "SHA-512-256": ({"algorithm": "SHA-512-256"}, "algorithm"),
    "wrong realm": ({"realm": "rhttp@elsewhere"}, "realm"),
    "auth-int": ({"qop": "auth-int"}, "qop"),
    "forged nonce": ({"nonce": base64.b64encode(b"x" * 40).decode()}, "nonce_forged"),
    "empty nonce": ({"nonce": ""}, "nonce_forged"),
    "nc of zero": ({"nc": "00000000"}, "malformed"),
    "nc too short": ({"nc": "1"}, "malformed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_credentials_are_the_same_401_with_their_reason_in_the_log(rig: Rig, name: str) -> None:
    """The peer learns nothing from the kind of its mistake; the operator does."""
    replaced, reason = WRONG[name]
    wire, digest = rig.login("alice")
    with wire:
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x", **replaced))
        is_challenge(answer, stale=reason == "nonce_forged")
        line = rig.line_of(answer)
        assert (line["event"], line["reason"], line["outcome"]) == ("auth.refused", reason, "refused")
        assert "policy" not in line
        good = digest.challenged(answer)
        assert wire.ask("/-/pools", "GET", good.line("/-/pools")).status == 200


SCHEMES = {
    "Basic": ("Basic YWxpY2U6c2VjcmV0", "scheme"),
    "Bearer": ("Bearer abc", "scheme"),
    "empty": ("", "scheme"),
    "a scheme alone": ("Digest", "malformed"),
    "junk": ("Digest ,,,=", "malformed"),
    "long": ("Digest " + "a" * 7000, "malformed"),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("target", ["/jobs/x", "/open/x", "/-/health"])
def test_authorization_of_another_scheme_or_form_is_401_even_where_none_is_needed(
    rig: Rig, name: str, target: str
) -> None:
    """Present but wrong is always 401, and policy is not asked: not even for what is open to everyone."""
    value, reason = SCHEMES[name]
    with rig.connect("alice") as wire:
        answer = wire.ask(target, "GET", f"Authorization: {value}")
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == reason


def test_two_authorization_fields_are_401(rig: Rig) -> None:
    """One of them would be enough for one reader, the other for another."""
    wire, digest = rig.login("alice")
    with wire:
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x"), digest.line("/jobs/x"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "malformed"


@pytest.mark.usefixtures("reaches")
def test_replayed_nonce_count_is_refused_as_stale(rig: Rig) -> None:
    """The same credentials twice: the second time is a replay, on the same connection or another."""
    wire, digest = rig.login("alice")
    with wire, rig.connect("alice") as other:
        line = digest.line("/jobs/x")
        assert wire.ask("/jobs/x", "GET", line).status == 200
        for place in (wire, other):
            answer = place.ask("/jobs/x", "GET", line)
            is_challenge(answer, stale=True)
            assert rig.line_of(answer)["reason"] == "replayed_nc"
        assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x")).status == 200


@pytest.mark.usefixtures("reaches")
def test_nonce_counts_in_any_order_are_taken_once_each(rig: Rig) -> None:
    """Connections share a nonce, so counts arrive out of order."""
    wire, digest = rig.login("alice")
    with wire:
        for nc in (5, 3, 9, 1, 1024):
            assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{nc:08x}")).status == 200
        for nc in (5, 3, 9, 1, 1024):
            assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{nc:08x}")).status == 401
        assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{3000:08x}")).status == 200
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{2:08x}"))
        is_challenge(answer, stale=True)
        assert rig.line_of(answer)["reason"] == "nc_too_old"


def test_refused_guess_does_not_burn_the_count_of_its_owner(rig: Rig) -> None:
    """Counts are spent only after the response verified."""
    wire, digest = rig.login("alice")
    with wire:
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools", nc="00000001", password="guess")).status == 401
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools", nc="00000001")).status == 200


def test_nonce_of_another_certificate_is_worthless(rig: Rig) -> None:
    """Even for the same user: the nonce is bound to the certificate that fetched it."""
    rig.run("issue-client", "alice", "--out", rig.home.parent / "alice2", "--no-user")
    wire, digest = rig.login("alice")
    with wire, Wire(rig.tcp(), tls_context(rig.home.parent / "alice2")) as other:
        answer = other.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer, stale=True)
        assert rig.line_of(answer)["reason"] == "nonce_forged"


def test_user_of_another_certificate_is_a_mismatch_though_the_password_is_right(rig: Rig) -> None:
    """Bob's password does not help with alice's certificate."""
    with rig.connect("alice") as wire:
        digest = rig.digest("bob").challenged(wire.ask("/-/pools"))
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "user_mismatch"


def test_disabled_and_removed_users_are_refused(rig: Rig) -> None:
    """With the right password, over a new connection."""
    rig.run("user", "disable", "carol")
    wire, digest = rig.login("carol")
    with wire:
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "user_disabled"
    rig.run("user", "remove", "carol")
    wire, digest = rig.login("carol")
    with wire:
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "unknown_user"


def test_master_on_tls_needs_digest_like_everyone(rig: Rig) -> None:
    """Its certificate alone dispatches nothing."""
    wire, digest = rig.login("m1")
    with wire:
        is_challenge(wire.ask("/-/pools/render/any/x"))
        answer = wire.ask("/-/pools/render/any/x", "GET", digest.line("/-/pools/render/any/x"))
        assert (answer.status, answer.problem) == (503, "no-slot")


def test_no_secret_reaches_the_log(rig: Rig) -> None:
    """After all of the above: no password, nonce, Authorization value or query."""
    text = "".join(path.read_text() for path in (rig.home / "audit").glob("*.jsonl"))
    for name in ("alice", "bob", "w1", "m1"):
        assert rig.digest(name).password not in text
    assert "response=" not in text
    assert "secret=1" not in text
