"""Kinds of jobs: what they count, and that cutting the texts changes nothing."""

from __future__ import annotations

import json
from typing import Any, TypeVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapreduce import split as split_module
from mapreduce.grep import GREP
from mapreduce.kinds import KINDS, Kind, register
from mapreduce.problems import Refused
from mapreduce.split import Lane, split
from mapreduce.texts import Text
from mapreduce.wordcount import WORDCOUNT

O = TypeVar("O")  # noqa: E741 - options
R = TypeVar("R")

CONTENTS = st.lists(
    st.text(alphabet="aAbBΣσßİ_1 .\n\r\t\u0301", max_size=60),
    min_size=1,
    max_size=4,
)


def texts(*contents: str) -> list[Text]:
    return [Text(name=f"t{index}", text=content) for index, content in enumerate(contents)]


def parts(contents: list[str], slots: int) -> list[tuple[Text, ...]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "MIN_UNIT", 1)
        return [unit.texts for unit in split(texts(*contents), [Lane(label=None, slots=1)], slots=slots)]


def through_json(kind: Kind[O, R], result: R) -> R:
    """A result after the way over the wire."""
    return kind.read(json.loads(json.dumps(kind.show(result, None))))


@given(CONTENTS, st.integers(1, 12))
def test_wordcount_is_the_same_however_the_texts_are_cut(contents: list[str], slots: int) -> None:
    """Units, sent over the wire and merged, give what one count over everything gives."""
    whole = WORDCOUNT.work(texts(*contents), None)
    merged = WORDCOUNT.merge([through_json(WORDCOUNT, WORDCOUNT.work(p, None)) for p in parts(contents, slots)], None)
    assert WORDCOUNT.show(merged, None) == WORDCOUNT.show(whole, None)


@given(CONTENTS, st.integers(1, 12), st.sampled_from(["a", "ab", "σ", "ss", " "]), st.booleans(), st.integers(1, 4))
def test_grep_is_the_same_however_the_texts_are_cut(
    contents: list[str], slots: int, pattern: str, ignore_case: bool, limit: int
) -> None:
    """The same lines with the same numbers, and the same first ones when there are too many to show."""
    options = GREP.options({"pattern": pattern, "ignore_case": ignore_case, "limit": limit})
    whole = GREP.work(texts(*contents), options)
    merged = GREP.merge([through_json(GREP, GREP.work(p, options)) for p in parts(contents, slots)], options)
    assert GREP.show(merged, None) == GREP.show(whole, None)


def test_wordcount_shows_the_most_frequent_first_and_whole_sums() -> None:
    """A short list still comes with the total of all words."""
    counts = WORDCOUNT.work(texts("b a b", "c B_1 a\nb"), None)
    assert WORDCOUNT.show(counts, 2) == {"total": 7, "distinct": 4, "words": {"b": 3, "a": 2}}


def test_grep_takes_the_pattern_literally() -> None:
    """What is special in regular expressions is not special here."""
    found = GREP.work(texts("a.c\nabc\n(a.c)+\n"), GREP.options({"pattern": "a.c"}))
    assert [(match.line, match.text) for match in found.found] == [(1, "a.c"), (3, "(a.c)+")]


def test_grep_counts_all_lines_and_shows_up_to_the_limit() -> None:
    """The limit bounds the answer, not the count."""
    found = GREP.work(texts("x\n" * 50, "x\n" * 50), GREP.options({"pattern": "x", "limit": 60}))
    assert (found.total, len(found.found), found.found[-1].name, found.found[-1].line) == (100, 60, "t1", 10)


def test_grep_shows_only_the_beginning_of_a_long_line() -> None:
    """One line cannot make an answer of any size."""
    (match,) = GREP.work(texts("x" * 9000), GREP.options({"pattern": "x"})).found
    assert len(match.text) == 500


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pattern": ""},
        {"pattern": "a\nb"},
        {"pattern": "x" * 1001},
        {"pattern": 1},
        {"pattern": "x", "ignore_case": 1},
        {"pattern": "x", "limit": 0},
        {"pattern": "x", "limit": 10_001},
        {"pattern": "x", "limit": True},
        {"pattern": "x", "regex": True},
    ],
)
def test_grep_refuses_options(options: dict[str, object]) -> None:
    """Options are checked before any worker sees them."""
    with pytest.raises(Refused) as caught:
        GREP.options(options)
    assert caught.value.problem.status == 422


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (WORDCOUNT, {}),
        (WORDCOUNT, {"words": []}),
        (WORDCOUNT, {"words": {"a": 0}}),
        (WORDCOUNT, {"words": {"a": -1}}),
        (WORDCOUNT, {"words": {"a": True}}),
        (WORDCOUNT, {"words": {"a": 1.0}}),
        (WORDCOUNT, {"words": {"a": 1 << 60}}),
        (WORDCOUNT, {"words": {"a b": 1}}),
        (GREP, {"total": 0}),
        (GREP, {"total": -1, "lines": []}),
        (GREP, {"total": 0, "lines": [{"name": "a", "line": 1, "text": "x"}]}),
        (GREP, {"total": 1, "lines": ["x"]}),
        (GREP, {"total": 1, "lines": [{"name": "a", "line": 0, "text": "x"}]}),
        (GREP, {"total": 1, "lines": [{"name": "a", "line": 1, "text": "x" * 501}]}),
        (GREP, {"total": 1 << 60, "lines": []}),
    ],
)
def test_result_that_makes_no_sense_is_not_read(kind: Kind[Any, Any], value: dict[str, object]) -> None:
    """Answers of workers are looked at before they are merged."""
    with pytest.raises(ValueError, match=r"\w"):
        kind.read(value)


def test_register_refuses_a_name_that_is_taken() -> None:
    """Two kinds under one name would be a matter of luck."""
    assert {"wordcount", "grep"} <= KINDS.keys()
    with pytest.raises(ValueError, match="wordcount"):
        register(WORDCOUNT)
