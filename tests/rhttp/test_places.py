"""Who goes when places are short, by a table of holders; and that the books always agree."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhttp.places import HURRY, KNOWN, PATIENCE, Places, Stage, network_of, source_of

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@dataclass(eq=False)
class Holder:
    """Somebody who has come so far."""

    name: str
    stage: Stage


def places(*holders: tuple[Holder, str, float]) -> Places:
    made = Places(lambda holder: holder.stage)
    for holder, source, since in holders:
        made.take(holder, source, since)
    return made


def names(found: list[Holder]) -> str:
    return " ".join(holder.name for holder in found)


def holders(text: str) -> list[Holder]:
    """``a:SILENT b:OWING`` as holders."""
    return [Holder(name, Stage[stage]) for name, stage in (word.split(":") for word in text.split())]


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("a:SILENT b:SILENT c:SILENT", "a b c"),
        ("a:BEGUN b:SILENT c:LEAVING", "c b a"),
        ("a:OWING b:IDLE c:BEGUN", "c b a"),
        ("a:SERVED b:SERVED c:SILENT", "c"),
        ("a:SERVED b:SERVED c:SERVED", ""),
    ],
)
def test_places_of_the_most_silent_and_oldest_go_first(text: str, order: str) -> None:
    """Whoever has shown least goes; who is being served never."""
    table = places(*((holder, A, float(n)) for n, holder in enumerate(holders(text))))
    assert names(table.dispensable(10, 10, 100.0)) == order
    assert names(table.dispensable(1, 10, 100.0)) == order[:1]


@pytest.mark.parametrize(("share", "patience"), [(1, PATIENCE), (0, HURRY)])
def test_places_of_who_owes_a_step_are_kept_for_a_moment(share: int, patience: float) -> None:
    """Round trips take time; less of it where the source holds more than its share."""
    table = places((Holder("a", Stage.OWING), A, 10.0))
    assert table.dispensable(1, share, 10.0 + patience - 0.1) == []
    assert names(table.dispensable(1, share, 10.0 + patience)) == "a"


def test_places_of_a_greedy_source_go_before_those_of_others() -> None:
    """However old and silent the others are."""
    old = Holder("old", Stage.SILENT)
    greedy = [Holder(f"g{n}", Stage.BEGUN) for n in range(3)]
    table = places((old, A, 0.0), *((holder, B, 5.0 + n) for n, holder in enumerate(greedy)))
    assert names(table.dispensable(4, 2, 100.0)) == "g0 g1 g2 old"
    assert names(table.dispensable(4, 3, 100.0)) == "old g0 g1 g2"


def test_places_of_known_sources_are_the_last_among_equals() -> None:
    """A certificate that was seen from there is worth a place; it does not excuse holding more than a share."""
    known, new = Holder("known", Stage.SILENT), Holder("new", Stage.SILENT)
    table = places((known, A, 0.0), (new, B, 9.0))
    table.know(known)
    assert names(table.dispensable(2, 1, 100.0)) == "new known"
    again = Holder("again", Stage.SILENT)
    table.take(again, A, 10.0)
    assert names(table.dispensable(3, 1, 100.0)) == "known again new"


@pytest.mark.parametrize("count", [2, 3])
def test_places_beyond_a_share_cost_the_source_its_own(count: int) -> None:
    """At its share a source loses nothing, at one more its least."""
    table = places(*((Holder(f"g{n}", Stage.SILENT), A, float(n)) for n in range(count)))
    table.take(Holder("other", Stage.LEAVING), B, 0.0)
    found = table.dispensable_of(A, 2, 100.0)
    assert (found.name if found else None) == (None if count == 2 else "g0")
    assert table.dispensable_of(C, 0, 100.0) is None


def test_places_beyond_a_share_are_kept_by_who_is_served() -> None:
    """A crowd behind one address is no attack as long as it makes progress."""
    table = places(*((Holder(f"g{n}", Stage.SERVED), A, float(n)) for n in range(5)))
    assert table.dispensable_of(A, 2, 100.0) is None


@pytest.mark.parametrize("extra", [0, 1])
def test_places_remember_a_bounded_number_of_sources(extra: int) -> None:
    """The one that was not seen for longest is forgotten."""
    table = Places(lambda holder: holder.stage)
    for number in range(KNOWN + extra):
        holder = Holder("g", Stage.SILENT)
        table.take(holder, f"s{number}", 0.0)
        table.know(holder)
        table.leave(holder)
    assert len(table) == 0
    for since, (name, source) in enumerate((("first", "s0"), ("last", f"s{KNOWN + extra - 1}"), ("other", "x"))):
        table.take(Holder(name, Stage.SILENT), source, float(since))
    assert names(table.dispensable(3, 1, 100.0)) == ("first other last" if extra else "other first last")


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Stage), st.booleans()), max_size=40), st.integers(0, 4)
)
def test_places_agree_with_a_plain_model(steps: list[tuple[str, Stage, bool]], share: int) -> None:
    """Whoever comes and goes: counts by source hold, nobody is named twice, and nobody who is served."""
    table, here = Places(lambda holder: holder.stage), list[tuple[Holder, str]]()
    for source, stage, comes in steps:
        if comes or not here:
            holder = Holder("g", stage)
            here.append((holder, source))
            table.take(holder, source, float(len(here)))
        else:
            table.leave(here.pop(0)[0])
    assert len(table) == len(here)
    for source in "abc":
        held = [holder for holder, where in here if where == source]
        assert table.dispensable_of(source, len(held), 1000.0) is None
        can_give = any(holder.stage < Stage.SERVED for holder in held)
        assert (table.dispensable_of(source, len(held) - 1, 1000.0) is not None) == can_give
    found = table.dispensable(100, share, 1000.0)
    assert len(set(map(id, found))) == len(found) == sum(holder.stage < Stage.SERVED for holder, _ in here)
    for holder, _ in here:
        assert holder in table
        table.leave(holder)
        table.leave(holder)
    assert len(table) == 0


@pytest.mark.parametrize(
    ("host", "source", "network"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6", "20010db800010002::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::", "20010db800010002::/64"),
        ("2001:db8:1:3::6", "2001:db8:1:3::6", "20010db800010003::/64"),
        ("fe80::1%eth0", "fe80::1", "fe80000000000000::/64"),
        ("::1", "::1", "0::/64"),
    ],
)
def test_source_and_network_of_an_address(host: str, source: str, network: str) -> None:
    """The log has the whole address; a subscriber's 64 bits count as one."""
    assert source_of(host) == source
    assert network_of(source) == network
