"""A revocation list as an answer: for how long, and to whom it is sent."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.core.context import ProcessContext
from gateway.ingress.list_document import list_document
from gateway.state.lists import PublishedLists, RevocationList
from rhttp.message import SharedFields

BEGIN, END = 1_700_000_000, 1_700_086_400
ONE = RevocationList(der=b"the list", number=7, this_update=BEGIN, next_update=END, tag="ab12")
LISTS = PublishedLists(version=1, lists={"client": ONE})


def answer(*asked: tuple[bytes, bytes], at: float = BEGIN + 400.7, name: str = "client") -> Any:
    process = cast(ProcessContext, SimpleNamespace(lists=LISTS, epoch=at))
    return list_document(process, name, cast(SharedFields, asked))


@pytest.mark.parametrize(("at", "age"), [(BEGIN, 86400), (BEGIN + 400.7, 86000), (END - 1, 1), (END - 0.5, 1)])
def test_list_may_be_kept_until_its_end(at: float, age: int) -> None:
    """Caches are told the seconds that are left."""
    found = answer(at=at)
    assert (found.status, found.content, found.length) == (200, b"the list", 8)
    fields = dict(found.blocks[0].fields)
    assert fields[b"Cache-Control"] == b"public, max-age=%d" % age
    assert (fields[b"ETag"], fields[b"Last-Modified"]) == (b'"ab12"', b"Tue, 14 Nov 2023 22:13:20 GMT")


@pytest.mark.parametrize("at", [END, END + 1])
def test_list_that_is_over_is_not_served(at: float) -> None:
    """Nobody could use it, and no cache is to keep the answer."""
    found = answer((b"if-none-match", b'"ab12"'), at=at)
    assert (found.status, found.content) == (503, b"")
    assert (b"Cache-Control", b"no-store") in [field for block in found.blocks for field in block.fields]


def test_list_that_there_is_not_is_nothing() -> None:
    """Whoever asks makes a 404 of it."""
    assert answer(name="worker") is None


@pytest.mark.parametrize(
    ("asked", "status"),
    [
        ([(b"if-none-match", b'"ab12"')], 304),
        ([(b"if-none-match", b'W/"ab12"')], 304),
        ([(b"if-none-match", b' "x" , "ab12"')], 304),
        ([(b"if-none-match", b'"x"'), (b"if-none-match", b'"ab12"')], 304),
        ([(b"if-none-match", b"*")], 304),
        ([(b"if-none-match", b"ab12")], 200),
        ([(b"if-none-match", b"")], 200),
        ([(b"if-none-match", b'"x",' * 31 + b'"ab12"')], 304),
        ([(b"if-none-match", b'"x",' * 32 + b'"ab12"')], 200),
        ([(b"if-modified-since", b"Tue, 14 Nov 2023 22:13:20 GMT")], 304),
        ([(b"if-modified-since", b"Tue, 14 Nov 2023 22:13:19 GMT")], 200),
        ([(b"if-modified-since", b"Tue, 14 Nov 2023 22:13:20 GMT")] * 2, 200),
        ([(b"if-modified-since", b"\xff")], 200),
        ([(b"if-modified-since", b"Tue, 99 Nov 2023 22:13:20 GMT")], 200),
        ([(b"if-none-match", b'"x"'), (b"if-modified-since", b"Tue, 14 Nov 2023 22:13:20 GMT")], 200),
    ],
)
def test_list_is_sent_unless_the_peer_surely_has_it(asked: list[tuple[bytes, bytes]], status: int) -> None:
    """A tag decides before a date; what cannot be read counts as not given."""
    found = answer(*asked)
    assert (found.status, found.content) == (status, b"the list" if status == 200 else b"")


@given(
    st.lists(st.tuples(st.sampled_from([b"if-none-match", b"if-modified-since"]), st.binary(max_size=60)), max_size=4)
)
def test_list_is_answered_whatever_the_conditions_say(asked: list[tuple[bytes, bytes]]) -> None:
    """Any bytes are an answer, and never an error."""
    assert answer(*asked).status in (200, 304)
