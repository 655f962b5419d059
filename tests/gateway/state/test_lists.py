"""Revocation lists on their way to the data processes."""

from __future__ import annotations

import json

import pytest

from gateway.state.lists import PublishedLists, ResponderKey, RevocationList

LISTS = PublishedLists(
    version=3,
    lists={
        "root": RevocationList(der=b"\x30\x00", number=7, this_update=1, next_update=2, tag="ab"),
        "client": RevocationList(
            der=bytes(range(256)), number=(1 << 63) - 1, this_update=3, next_update=4, tag="cd", revoked={"0a": [5, 1]}
        ),
    },
    responders={"client": ResponderKey(certificate=b"c", issuer=b"i", key=b"a secret")},
)


def test_lists_survive_their_wire_form() -> None:
    """What a process gets is what was signed, number and all."""
    assert PublishedLists.from_text(LISTS.to_text()) == LISTS


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "null",
        '{"version": 1}',
        '{"version": "x", "lists": {}, "responders": {}}',
        '{"version": 1, "lists": [], "responders": {}}',
    ]
    + [
        json.dumps({"version": 1, "lists": {"root": entry}, "responders": {}})
        for entry in ([], ["!", 1, 1, 1, "", {}], ["", "x", 1, 1, "", {}], ["", 1, 1, 1, "", 7])
    ],
)
def test_lists_of_another_form_are_refused(text: str) -> None:
    """Half a list is none."""
    with pytest.raises(ValueError, match="no revocation lists"):
        PublishedLists.from_text(text)


def test_lists_show_no_key() -> None:
    """What is logged by accident is public."""
    assert "a secret" not in repr(LISTS)
