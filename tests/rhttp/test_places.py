"""Who goes when places are short, by a table of guests; and that the books always agree."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhttp.places import HURRY, KNOWN, PATIENCE, Places, Stage, network_of, source_of

A, B, C = "192.0.2.1", "192.0.2.2", "192.0.2.3"


@dataclass(eq=False)
class Guest:
    """Somebody who has come so far."""

    name: str
    stage: Stage


def places(*guests: tuple[Guest, str, float]) -> Places:
    made = Places(lambda guest: guest.stage)
    for guest, source, since in guests:
        made.take(guest, source, since)
    return made


def names(found: list[Guest]) -> str:
    return " ".join(guest.name for guest in found)


def guests(text: str) -> list[Guest]:
    """``a:SILENT b:OWING`` as guests."""
    return [Guest(name, Stage[stage]) for name, stage in (word.split(":") for word in text.split())]


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
    table = places(*((guest, A, float(n)) for n, guest in enumerate(guests(text))))
    assert names(table.dispensable(10, 10, 100.0)) == order
    assert names(table.dispensable(1, 10, 100.0)) == order[:1]


@pytest.mark.parametrize(("share", "patience"), [(1, PATIENCE), (0, HURRY)])
def test_places_of_who_owes_a_step_are_kept_for_a_moment(share: int, patience: float) -> None:
    """Round trips take time; less of it where the source holds more than its share."""
    table = places((Guest("a", Stage.OWING), A, 10.0))
    assert table.dispensable(1, share, 10.0 + patience - 0.1) == []
    assert names(table.dispensable(1, share, 10.0 + patience)) == "a"


def test_places_of_a_greedy_source_go_before_those_of_others() -> None:
    """However old and silent the others are."""
    old = Guest("old", Stage.SILENT)
    greedy = [Guest(f"g{n}", Stage.BEGUN) for n in range(3)]
    table = places((old, A, 0.0), *((guest, B, 5.0 + n) for n, guest in enumerate(greedy)))
    assert names(table.dispensable(4, 2, 100.0)) == "g0 g1 g2 old"
    assert names(table.dispensable(4, 3, 100.0)) == "old g0 g1 g2"


def test_places_of_known_sources_are_the_last_among_equals() -> None:
    """A certificate that was seen from there is worth a place; it does not excuse holding more than a share."""
    known, new = Guest("known", Stage.SILENT), Guest("new", Stage.SILENT)
    table = places((known, A, 0.0), (new, B, 9.0))
    table.know(known)
    assert table.is_known(A)
    assert not table.is_known(B)
    assert names(table.dispensable(2, 1, 100.0)) == "new known"
    again = Guest("again", Stage.SILENT)
    table.take(again, A, 10.0)
    assert names(table.dispensable(3, 1, 100.0)) == "known again new"


@pytest.mark.parametrize("count", [2, 3])
def test_places_beyond_a_share_cost_the_source_its_own(count: int) -> None:
    """At its share a source loses nothing, at one more its least."""
    table = places(*((Guest(f"g{n}", Stage.SILENT), A, float(n)) for n in range(count)))
    table.take(Guest("other", Stage.LEAVING), B, 0.0)
    found = table.dispensable_of(A, 2, 100.0)
    assert (found.name if found else None) == (None if count == 2 else "g0")
    assert table.dispensable_of(C, 0, 100.0) is None


def test_places_beyond_a_share_are_kept_by_who_is_served() -> None:
    """A crowd behind one address is no attack as long as it makes progress."""
    table = places(*((Guest(f"g{n}", Stage.SERVED), A, float(n)) for n in range(5)))
    assert table.dispensable_of(A, 2, 100.0) is None


@pytest.mark.parametrize("extra", [0, 1])
def test_places_remember_a_bounded_number_of_sources(extra: int) -> None:
    """The one that was not seen for longest is forgotten."""
    table = Places(lambda guest: guest.stage)
    for number in range(KNOWN + extra):
        guest = Guest("g", Stage.SILENT)
        table.take(guest, f"s{number}", 0.0)
        table.know(guest)
        table.leave(guest)
    assert table.is_known("s0") == (not extra)
    assert table.is_known(f"s{KNOWN + extra - 1}")
    assert len(table) == 0


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(Stage), st.booleans()), max_size=40), st.integers(0, 4)
)
def test_places_agree_with_a_plain_model(steps: list[tuple[str, Stage, bool]], share: int) -> None:
    """Whoever comes and goes: counts by source hold, nobody is named twice, and nobody who is served."""
    table, here = Places(lambda guest: guest.stage), list[tuple[Guest, str]]()
    for source, stage, comes in steps:
        if comes or not here:
            guest = Guest("g", stage)
            here.append((guest, source))
            table.take(guest, source, float(len(here)))
        else:
            table.leave(here.pop(0)[0])
    assert len(table) == len(here)
    for source in "abc":
        assert table.held_by(source) == sum(where == source for _, where in here)
    found = table.dispensable(100, share, 1000.0)
    assert len(set(map(id, found))) == len(found) == sum(guest.stage < Stage.SERVED for guest, _ in here)
    for guest, _ in here:
        assert guest in table
        table.leave(guest)
        table.leave(guest)
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
