"""What every challenge of the gateway must be."""

from __future__ import annotations

from support.wire import Answer


def is_challenge(answer: Answer, *, stale: bool = False) -> None:
    """One SHA-256 challenge without userhash, in a problem answer that says nothing else."""
    assert answer.status == 401
    assert answer.problem == "unauthenticated"
    assert set(answer.json) == {"type", "title", "status", "request_id"}
    (value,) = answer.challenges
    assert value.startswith("Digest ")
    assert value.count("algorithm=SHA-256") == 1
    assert value.count("nonce=") == 1
    assert 'realm="rhttp@test.internal"' in value
    assert 'qop="auth"' in value
    assert "userhash" not in value
    assert "MD5" not in value
    assert ("stale=true" in value) is stale, value
    assert answer["cache-control"] == "no-store"
