"""Which names and passwords are taken."""

from __future__ import annotations

import string

import pytest

from auth.errors import PasswordRefused, UserNameInvalid
from auth.passwords import GENERATED_ENTROPY, PASSWORD_BYTES, build_password, normalise_password, parse_user_name


@pytest.mark.parametrize("name", ["a", "0", "w-1", "a" * 63, "a--b"])
def test_parse_user_name_of_a_name_is_taken(name: str) -> None:
    """What a certificate may be called, a user may."""
    assert parse_user_name(name) == name


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a_b", "a.b", "a:b", "a b", "a\n", "ä", "a" * 64])
def test_parse_user_name_of_anything_else_raises(name: str) -> None:
    """A name that no certificate can have would be a user that can never sign in."""
    with pytest.raises(UserNameInvalid):
        parse_user_name(name)


@pytest.mark.parametrize(
    ("given", "taken"),
    [
        ("pw", "pw"),
        (" pw ", " pw "),
        ("pa\u0308ss", "päss"),
        ("a" * PASSWORD_BYTES, "a" * PASSWORD_BYTES),
        ("😀", "😀"),
    ],
)
def test_normalise_password_good_gives_nfc(given: str, taken: str) -> None:
    """Anything that can be typed is taken, spaces too, in NFC."""
    assert normalise_password(given) == taken


@pytest.mark.parametrize(
    "given",
    [
        "",
        "a" * (PASSWORD_BYTES + 1),
        "ä" * (PASSWORD_BYTES // 2 + 1),
        "a\x00",
        "a\n",
        "\t",
        "\x7f",
        "\x85",
        "\u2028",
        "\ud800",
    ],
)
def test_normalise_password_bad_raises_without_showing_it(given: str) -> None:
    """Empty, too long, or with what files and prompts cut at: refused, and never quoted."""
    with pytest.raises(PasswordRefused) as caught:
        normalise_password(given)
    assert not given or given not in str(caught.value)


def test_build_password_is_32_characters_that_need_no_quoting() -> None:
    """192 bits as URL-safe characters; another number of bytes is a bug."""
    made = build_password(bytes(range(GENERATED_ENTROPY)))
    assert len(made) == 32
    assert set(made) <= set(string.ascii_letters + string.digits + "-_")
    assert made != build_password(bytes(GENERATED_ENTROPY))
    with pytest.raises(ValueError, match="24 bytes"):
        build_password(b"short")
