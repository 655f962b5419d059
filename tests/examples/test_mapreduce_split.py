"""Splitting: nothing is lost, nothing comes twice, lines stay whole."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mapreduce import split as module
from mapreduce.split import Lane, Unit, WorkerSlots, find_lanes, split
from mapreduce.texts import Text

ANYWHERE = (Lane(label=None, slots=1),)
LINES = st.lists(st.text(alphabet="ab \r\u2028", max_size=12), max_size=30).map("\n".join)
TEXTS = st.lists(LINES, min_size=1, max_size=6)


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let small texts be worth a unit."""
    monkeypatch.setattr(module, "MIN_UNIT", 1)


def texts(*contents: str) -> list[Text]:
    return [Text(name=f"t{index}", text=content) for index, content in enumerate(contents)]


def numbered(parts: tuple[Text, ...] | list[Text]) -> list[tuple[str, int, str]]:
    """Every line with its text's name and its number."""
    return [
        (part.name, number, line)
        for part in parts
        if part.text
        for number, line in enumerate(part.text.removesuffix("\n").split("\n"), part.line)
    ]


def joined(units: tuple[Unit, ...]) -> list[Text]:
    return [text for unit in units for text in unit.texts]


@given(TEXTS, st.integers(1, 40))
def test_split_keeps_every_line_once_in_order_with_its_number(contents: list[str], slots: int) -> None:
    """Whatever the texts and the number of slots: the units' lines are the texts' lines."""
    whole = texts(*contents)
    units = split(whole, ANYWHERE, slots=slots)
    assert numbered(joined(units)) == numbered(whole)


@given(TEXTS, st.integers(1, 40))
def test_split_never_makes_more_units_than_slots_nor_empty_ones(contents: list[str], slots: int) -> None:
    """Units are bounded, numbered from 0, and have text in them when there is any."""
    units = split(texts(*contents), ANYWHERE, slots=slots)
    assert 1 <= len(units) <= slots
    assert [unit.index for unit in units] == list(range(len(units)))
    if any(contents):
        assert all(any(text.text for text in unit.texts) for unit in units)


@pytest.mark.parametrize("slots", [1, 2, 3, 7, 50])
def test_split_of_even_lines_gives_one_equal_unit_for_each_slot(slots: int) -> None:
    """Many short lines are shared evenly."""
    units = split(texts(*["0123456\n" * 100] * 7), ANYWHERE, slots=slots)
    sizes = [sum(len(text.text) for text in unit.texts) for unit in units]
    assert len(units) == slots
    assert max(sizes) - min(sizes) <= 16


def test_split_of_one_endless_line_gives_one_unit() -> None:
    """A line is never cut, however long."""
    (unit,) = split(texts("x" * 100_000), ANYWHERE, slots=8)
    assert unit.texts == tuple(texts("x" * 100_000))


def test_split_cuts_no_unit_smaller_than_it_is_worth(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small job is not spread over a large pool."""
    monkeypatch.setattr(module, "MIN_UNIT", 1000)
    assert len(split(texts("word\n" * 500), ANYWHERE, slots=64)) == 3


def test_split_has_a_limit_of_units() -> None:
    """A huge pool makes no more units than the limit."""
    assert len(split(texts("word\n" * 5000), ANYWHERE, slots=5000, max_units=256)) == 256


def test_lanes_without_spread_are_one_lane_of_all_slots() -> None:
    """Labels play no part unless the order asks for it."""
    workers = [WorkerSlots(name="w1", free=2, labels={"rack": "a"})]
    assert find_lanes(workers, [], 2) == (Lane(label=None, slots=2),)


def test_lanes_without_free_slots_still_let_one_unit_wait() -> None:
    """No slot now is no reason to have no unit."""
    assert find_lanes([], [], 0) == (Lane(label=None, slots=1),)
    assert find_lanes([WorkerSlots(name="w1", free=0, labels={"rack": "a"})], ["rack"], 0) == (
        Lane(label=None, slots=1),
    )


def test_lanes_take_the_first_key_that_is_known_here() -> None:
    """Regions above, racks below: each tier uses the key that its own workers have."""
    workers = [
        WorkerSlots(name="w1", free=2, labels={"rack": "b"}),
        WorkerSlots(name="w2", free=1, labels={"rack": "a"}),
        WorkerSlots(name="w3", free=3, labels={"rack": "b"}),
        WorkerSlots(name="w4", free=4, labels={}),
    ]
    expected = (Lane(label="rack=a", slots=1), Lane(label="rack=b", slots=5), Lane(label=None, slots=4))
    assert find_lanes(workers, ["region", "rack"], 10) == expected


def test_units_go_to_lanes_in_proportion_and_as_neighbours() -> None:
    """Each rack gets a share like its free slots, in one piece of the texts."""
    lanes = (Lane(label="rack=a", slots=4), Lane(label="rack=b", slots=2))
    units = split(texts("word\n" * 600), lanes, slots=6)
    assert [unit.label for unit in units] == ["rack=a"] * 4 + ["rack=b"] * 2
    units = split(texts("word\n" * 600), lanes, slots=3)
    assert [unit.label for unit in units] == ["rack=a"] * 2 + ["rack=b"]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=8), st.integers(1, 60))
def test_units_always_have_the_label_of_a_lane_in_order(slots: list[int], wanted: int) -> None:
    """No unit falls off the end, and no lane is visited twice."""
    lanes = [Lane(label=f"k={index:02}", slots=count) for index, count in enumerate(slots)]
    labels = [unit.label or "" for unit in split(texts("word\n" * 200), lanes, slots=wanted)]
    assert labels == sorted(labels)
    assert set(labels) <= {lane.label for lane in lanes}
