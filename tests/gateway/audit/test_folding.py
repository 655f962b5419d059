"""Folding of refusals: how many lines a second, what the counts add up to, and the bound of the table."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.audit.folding import MAX_KINDS, RefusalFolder, fold_source


def refusal(source: str = "192.0.2.1:1000", reason: str = "bad_response") -> dict[str, object]:
    return {"source": source, "reason": reason, "outcome": "refused", "identity": "client/alice"}


def test_folder_ten_a_second_each_their_line() -> None:
    """Up to the limit every refusal is written at once, as it is."""
    folder = RefusalFolder(10)
    for _ in range(10):
        assert folder.refuse("auth.refused", refusal(), 5.5) == [("auth.refused", refusal())]
    assert folder.due(6.0) == []


def test_folder_above_ten_one_line_with_count() -> None:
    """The eleventh and later of one second come out as one line a second that says how many there were."""
    folder = RefusalFolder(10)
    written = [folder.refuse("auth.refused", refusal(f"192.0.2.1:{port}"), 5.5) for port in range(1000, 1025)]
    assert [len(entries) for entries in written] == [1] * 10 + [0] * 15
    assert folder.due(5.9) == []
    folded = {"source": "192.0.2.1", "reason": "bad_response", "outcome": "refused", "count": 15}
    assert folder.due(6.0) == [("auth.refused", folded)]
    assert folder.due(7.0) == []


def test_folder_next_second_late_tick_counted_line_first() -> None:
    """When nobody ticked, the first refusal of a new second brings the old count out before itself."""
    folder = RefusalFolder(1)
    folder.refuse("auth.refused", refusal(), 5.0)
    folder.refuse("auth.refused", refusal(), 5.1)
    entries = folder.refuse("auth.refused", refusal(), 6.2)
    assert [fields.get("count") for _, fields in entries] == [1, None]


def test_folder_other_reason_or_source_own_line() -> None:
    """Another reason, event or address is another kind."""
    folder = RefusalFolder(1)
    for event, fields in [
        ("auth.refused", refusal()),
        ("auth.refused", refusal(reason="absent")),
        ("policy.denied", refusal()),
        ("auth.refused", refusal(source="192.0.2.2:1000")),
    ]:
        assert folder.refuse(event, fields, 1.0) == [(event, fields)]


@given(st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from("xy"), st.integers(0, 3)), max_size=200))
def test_folder_any_order_counts_add_up(seen: list[tuple[str, str, int]]) -> None:
    """Lines written plus counts are exactly the refusals that there were."""
    folder = RefusalFolder(3)
    entries = []
    for source, reason, second in sorted(seen, key=lambda one: one[2]):
        entries += folder.refuse("auth.refused", refusal(source, reason), second)
    entries += folder.flush()
    total = sum(int(str(fields.get("count", 1))) for _, fields in entries)
    assert total == len(seen)


def test_folder_many_sources_bounded_and_counted() -> None:
    """More sources than the table holds share one entry for each reason; none is forgotten."""
    folder = RefusalFolder(10)
    count = MAX_KINDS + 500
    lines = sum(len(folder.refuse("tls.refused", refusal(f"h{number}"), 1.0)) for number in range(count))
    assert lines == MAX_KINDS + 10
    (event, fields), *others = folder.due(2.0)
    assert (event, fields["count"], others) == ("tls.refused", 490, [])
    assert "source" not in fields


def test_folder_many_reasons_bounded() -> None:
    """Even reasons that differ every time cannot make the table grow."""
    folder = RefusalFolder(1)
    for number in range(3 * MAX_KINDS):
        folder.refuse("tls.refused", refusal(f"h{number}", f"r{number}"), 1.0)
    assert len(folder._kinds) <= MAX_KINDS + 65


@pytest.mark.parametrize(
    ("source", "address"),
    [
        ("192.0.2.1:80", "192.0.2.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("[2001:db8::1]:80", "2001:db8::1"),
        ("2001:db8::1", "2001:db8::1"),
        ("unix", "unix"),
        ("", ""),
    ],
)
def test_fold_source_port_does_not_matter(source: str, address: str) -> None:
    """The port of a source does not make it another one."""
    assert fold_source(source) == address
