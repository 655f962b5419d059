"""Enrolment tokens: what each allows, and every reason for which one is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pki.enrolment import (
    ID_ENTROPY,
    MAX_USES,
    EnrolmentToken,
    TokenReason,
    TokenRefused,
    Wanted,
    build_token_id,
    judge_use,
    judge_wanted,
    parse_prefix,
    parse_token_id,
)
from pki.errors import NameInvalid, PkiError
from pki.names import Role

ID = build_token_id(b"12345678")
TOKEN = EnrolmentToken(id=ID, role=Role.WORKER, pool="render", created_at=1000, expires_at=4600)
W1 = Wanted(role=Role.WORKER, name="w1")


@pytest.mark.parametrize(
    ("token", "wanted", "reason"),
    [
        (None, W1, TokenReason.UNKNOWN),
        (replace(TOKEN, revoked_at=1001), W1, TokenReason.REVOKED),
        (TOKEN, replace(W1, role=Role.CLIENT), TokenReason.WRONG_ROLE),
        (TOKEN, replace(W1, role=Role.SERVER), TokenReason.WRONG_ROLE),
        (TOKEN, replace(W1, pool="other"), TokenReason.WRONG_POOL),
        (TOKEN, replace(W1, pool="render"), None),
        (TOKEN, W1, None),
        (replace(TOKEN, name="w1"), W1, None),
        (replace(TOKEN, name="w2"), W1, TokenReason.WRONG_NAME),
        (replace(TOKEN, name="w"), W1, TokenReason.WRONG_NAME),
        (replace(TOKEN, name_prefix="w"), W1, None),
        (replace(TOKEN, name_prefix="w1"), W1, TokenReason.WRONG_NAME),
        (replace(TOKEN, name_prefix="x"), W1, TokenReason.WRONG_NAME),
        (replace(TOKEN, name_prefix="gpu-"), replace(W1, name="gpu-1"), None),
        # Asked of a token that has ended, too: a use of before may be asked for again.
        (replace(TOKEN, used=1), W1, None),
        (replace(TOKEN, expires_at=1001), W1, None),
    ],
)
def test_judge_wanted_gives_each_reason(
    token: EnrolmentToken | None, wanted: Wanted, reason: TokenReason | None
) -> None:
    """Role, pool and name are the token's; a revoked token is good for nothing."""
    assert judge_wanted(token, wanted) is reason


@pytest.mark.parametrize(
    ("token", "at", "held", "reason"),
    [
        (TOKEN, 4599, False, None),
        (TOKEN, 4600, False, TokenReason.EXPIRED),
        (replace(TOKEN, uses=2, used=1), 1001, False, None),
        (replace(TOKEN, uses=2, used=2), 1001, False, TokenReason.USED_UP),
        (replace(TOKEN, revoked_at=1001), 1001, False, TokenReason.REVOKED),
        (replace(TOKEN, revoked_at=1001, used=1), 9999, True, TokenReason.REVOKED),
        (replace(TOKEN, used=1), 9999, True, TokenReason.USED_UP),
        (TOKEN, 1001, True, TokenReason.NAME_HELD),
        (replace(TOKEN, name_prefix="w"), 1001, True, TokenReason.NAME_HELD),
        (replace(TOKEN, name="w1"), 1001, True, None),
    ],
)
def test_judge_use_gives_each_reason(token: EnrolmentToken, at: int, held: bool, reason: TokenReason | None) -> None:
    """The last second and the last use are good, what comes after is not; nobody's name is taken over."""
    assert judge_use(token, W1, at, held=held) is reason


@given(
    uses=st.integers(1, MAX_USES),
    used=st.integers(0, MAX_USES),
    at=st.integers(0, 10_000),
    revoked=st.booleans(),
)
def test_state_agrees_with_what_is_refused(uses: int, used: int, at: int, revoked: bool) -> None:
    """What a listing calls live is what gets a use, whatever the numbers."""
    token = replace(TOKEN, uses=uses, used=used, revoked_at=7 if revoked else None)
    assert (token.state(at) == "live") == (judge_use(token, W1, at, held=False) is None)
    assert (token.state(at) == "live") == (used < uses and at < 4600 and not revoked)


@pytest.mark.parametrize(
    "values",
    [
        {"id": "w1"},
        {"role": Role.SERVER, "pool": None},
        {"role": Role.CLIENT},
        {"pool": None},
        {"pool": "Render"},
        {"name": "W1"},
        {"name_prefix": "-w"},
        {"name": "w1", "name_prefix": "w"},
        {"uses": 0},
        {"uses": MAX_USES + 1},
    ],
)
def test_token_that_says_nothing_sensible_is_not_made(values: dict[str, object]) -> None:
    """What breaks a rule exists nowhere, neither read from a database nor made."""
    with pytest.raises(NameInvalid):
        replace(TOKEN, **values)  # type: ignore[arg-type]


@pytest.mark.parametrize("values", [{"name": "W1"}, {"name": ""}, {"pool": "a/b"}])
def test_wanted_with_a_broken_name_is_not_made(values: dict[str, str]) -> None:
    """Names of strangers keep to the grammar before anybody compares them."""
    with pytest.raises(NameInvalid):
        replace(W1, **values)


def test_refused_says_its_reason_and_is_an_error_of_the_package() -> None:
    """Whoever catches it finds the reason for the audit log."""
    error = TokenRefused(TokenReason.USED_UP)
    assert isinstance(error, PkiError)
    assert (error.reason, str(error)) == (TokenReason.USED_UP, "the enrolment token is refused: used_up")


@given(st.binary(min_size=ID_ENTROPY, max_size=ID_ENTROPY))
def test_token_id_reads_back_and_is_no_name(entropy: bytes) -> None:
    """An id names a token and never a user or certificate."""
    made = build_token_id(entropy)
    assert parse_token_id(made) == made
    with pytest.raises(NameInvalid):
        Wanted(role=Role.WORKER, name=made)


@pytest.mark.parametrize("size", [ID_ENTROPY - 1, ID_ENTROPY + 1])
def test_token_id_of_another_entropy_is_refused(size: int) -> None:
    """No id is ever guessable by mistake."""
    with pytest.raises(ValueError, match="8 bytes"):
        build_token_id(b"x" * size)


@pytest.mark.parametrize("text", ["", "et_", ID.upper(), f"{ID}.secret", f"{ID}\n", "et_123", "et_" + "g" * 16])
def test_parse_token_id_of_anything_else_quotes_nothing(text: str) -> None:
    """A whole token in the place of its id is refused without being repeated."""
    with pytest.raises(NameInvalid) as caught:
        parse_token_id(text)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "good"),
    [
        ("w", True),
        ("w-", True),
        ("a" * 62, True),
        ("a" * 63, False),
        ("", False),
        ("-w", False),
        ("W", False),
        ("w.", False),
        ("w\n", False),
    ],
)
def test_parse_prefix_takes_what_a_name_may_begin_with(text: str, good: bool) -> None:
    """At least one character more has room behind it."""
    if good:
        assert parse_prefix(text) == text
    else:
        with pytest.raises(NameInvalid):
            parse_prefix(text)
