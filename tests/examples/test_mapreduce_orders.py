"""Orders: what is taken, what is refused, and that an order for a part reads back as it was written."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapreduce.orders import encode_order, parse_order
from mapreduce.problems import Refused
from mapreduce.texts import Text

GOOD: dict[str, Any] = {"kind": "wordcount", "texts": [{"name": "a", "text": "x y"}]}


def parse(value: object) -> Any:
    return parse_order(json.dumps(value).encode(), "application/json", "")


def test_order_in_json_is_read() -> None:
    """All members, with the values they have when they are left out."""
    order = parse({**GOOD, "id": "job-1", "spread": ["region", "rack"]})
    assert (order.id, order.kind.name, order.spread) == ("job-1", "wordcount", ("region", "rack"))
    assert order.texts == (Text(name="a", text="x y", line=1),)
    assert parse(GOOD).id is None


def test_order_as_plain_text_is_read_with_its_query() -> None:
    """A file can be sent as it is."""
    query = "kind=grep&pattern=a%26b&ignore_case=true&limit=5&name=notes.txt&id=j1&spread=region,rack"
    order = parse_order("é a&b\n".encode(), "text/plain; charset=UTF-8", query)
    assert (order.id, order.kind.name, order.spread) == ("j1", "grep", ("region", "rack"))
    assert order.given == {"pattern": "a&b", "ignore_case": True, "limit": 5}
    assert order.texts == (Text(name="notes.txt", text="é a&b\n", line=1),)


@given(st.text(min_size=1, max_size=30).filter(lambda t: t.isprintable()), st.text(max_size=50), st.integers(1, 1000))
def test_order_for_a_part_reads_back(name: str, text: str, line: int) -> None:
    """What a master sends is what a worker reads."""
    order = parse({"kind": "grep", "options": {"pattern": "x"}, "texts": [{"name": "a", "text": ""}], "spread": ["r"]})
    part = Text(name=name, text=text, line=line)
    read = parse_order(encode_order(order, id="j.1", texts=[part]), "application/json", "")
    assert (read.id, read.options, read.spread, read.texts) == ("j.1", order.options, ("r",), (part,))


@pytest.mark.parametrize(
    "value",
    [
        [],
        {},
        {**GOOD, "kind": "shell"},
        {**GOOD, "kind": None},
        {**GOOD, "more": 1},
        {**GOOD, "options": {"x": 1}},
        {**GOOD, "options": []},
        {**GOOD, "texts": []},
        {**GOOD, "texts": {}},
        {**GOOD, "texts": ["x"]},
        {**GOOD, "texts": [{"name": "a"}]},
        {**GOOD, "texts": [{"text": "a"}]},
        {**GOOD, "texts": [{"name": "", "text": "a"}]},
        {**GOOD, "texts": [{"name": "n" * 1025, "text": "a"}]},
        {**GOOD, "texts": [{"name": "a", "text": 1}]},
        {**GOOD, "texts": [{"name": "a", "text": "a", "line": 0}]},
        {**GOOD, "texts": [{"name": "a", "text": "a", "line": True}]},
        {**GOOD, "texts": [{"name": "a", "text": "a", "more": 1}]},
        {**GOOD, "texts": [{"name": "a", "text": "\ud800"}]},
        {**GOOD, "id": ""},
        {**GOOD, "id": 5},
        {**GOOD, "id": "a/b"},
        {**GOOD, "id": "x" * 129},
        {**GOOD, "spread": "rack"},
        {**GOOD, "spread": ["a=b"]},
        {**GOOD, "spread": ["a"] * 9},
    ],
)
def test_order_that_is_wrong_in_one_place_is_refused(value: object) -> None:
    """Nothing unknown and nothing half right gets to a worker."""
    with pytest.raises(Refused) as caught:
        parse(value)
    assert caught.value.problem.status == 422
    assert caught.value.problem.detail


@pytest.mark.parametrize(
    ("content", "media", "query", "status"),
    [
        (b"{", "application/json", "", 422),
        (b"\xff", "application/json", "", 422),
        (b"[" * 100_000, "application/json", "", 422),
        (b"1" * 5000, "application/json", "", 422),
        (json.dumps(GOOD).encode(), "application/json", "kind=grep", 422),
        (json.dumps(GOOD).encode(), "", "", 415),
        (json.dumps(GOOD).encode(), "application/x-www-form-urlencoded", "", 415),
        (b"x", "text/plain", "", 422),
        (b"x", "text/plain", "kind=grep", 422),
        (b"x", "text/plain", "kind=wordcount&kind=grep", 422),
        (b"x", "text/plain", "kind=wordcount&" + "a=1&" * 70, 422),
        (b"x", "text/plain", "kind", 422),
        (b"\xff", "text/plain", "kind=wordcount", 422),
        (b"x", "text/plain; charset=latin-1", "kind=wordcount", 415),
    ],
)
def test_content_that_is_no_order_is_refused(content: bytes, media: str, query: str, status: int) -> None:
    """Bytes of any kind get a clear answer."""
    with pytest.raises(Refused) as caught:
        parse_order(content, media, query)
    assert caught.value.problem.status == status


@given(st.binary(max_size=200), st.sampled_from(["application/json", "text/plain"]), st.text(max_size=40))
def test_any_bytes_are_an_order_or_refused(content: bytes, media: str, query: str) -> None:
    """Nothing else comes out of the parser."""
    with contextlib.suppress(Refused):
        parse_order(content, media, query)
