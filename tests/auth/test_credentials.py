"""The verifier's view of users."""

from __future__ import annotations

from auth.credentials import DUMMY_HA1, Credentials, UserCredentials
from rhttp.digest.formula import HASHES, Algorithm


def user(name: str, *, enabled: bool = True, algorithm: str = "SHA-256") -> UserCredentials:
    return UserCredentials(name=name, enabled=enabled, ha1={algorithm: "ab" * 32})


def test_credentials_of_an_enabled_user_are_the_bytes_of_the_formula() -> None:
    """H(A1) comes as the bytes that are hashed, for the algorithm asked about only."""
    view = Credentials([user("alice")])
    assert view.ha1("alice", "SHA-256") == b"ab" * 32
    assert view.ha1("alice", "MD5") is None
    assert (view.is_known("alice"), view.is_disabled("alice")) == (True, False)


def test_credentials_of_a_disabled_user_are_withheld() -> None:
    """A disabled user is known as such and has no H(A1)."""
    view = Credentials([user("alice", enabled=False)])
    assert view.ha1("alice", "SHA-256") is None
    assert (view.is_known("alice"), view.is_disabled("alice")) == (True, True)


def test_credentials_of_nobody_are_none() -> None:
    """An unknown user has nothing; so has everyone in an empty view."""
    for view in (Credentials(), Credentials([user("bob")])):
        assert view.ha1("alice", "SHA-256") is None
        assert (view.is_known("alice"), view.is_disabled("alice")) == (False, False)


def test_credentials_of_an_unknown_algorithm_are_ignored() -> None:
    """A state written by a later version does not break this one."""
    assert Credentials([user("alice", algorithm="SHA-3")]).is_known("alice")


def test_credentials_do_not_follow_later_changes() -> None:
    """The view is of one moment: a caller's dictionary may change afterwards."""
    known = {"SHA-256": "ab" * 32}
    view = Credentials([UserCredentials(name="alice", enabled=True, ha1=known)])
    known["SHA-256"] = "cd" * 32
    assert view.ha1("alice", "SHA-256") == b"ab" * 32


def test_credentials_repr_shows_no_secret() -> None:
    """Only how many there are."""
    assert repr(Credentials([user("alice")])) == "<Credentials of 1 users>"


def test_dummy_has_the_length_of_a_real_value() -> None:
    """Whether a user exists must not show in the time of the hash: same length, same work."""
    assert {name: len(value) for name, value in DUMMY_HA1.items()} == {
        name: len(HASHES[name](b"").hexdigest()) for name in Algorithm
    }
