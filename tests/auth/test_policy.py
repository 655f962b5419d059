"""Policy values: the folding rule as a whole truth table, and the forms that addresses and times take."""

from __future__ import annotations

import ipaddress
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from auth.policy import Allowed, Context, Denied, DenyReason, QueryInvalid, fold, minute_text, source_text

VERDICTS = ("Allow", "Deny", "NoDecision", "", "allow", "ALLOW", "Permit")
# (has reasons, has failures) -> answer, for the two verdicts that mean something.
TABLE = {
    ("Allow", True, False): Allowed(("p1", "p2")),
    ("Allow", True, True): Denied(DenyReason.EVALUATION_ERROR, ("f1",)),
    ("Allow", False, False): Denied(DenyReason.UNNAMED_ALLOW),
    ("Allow", False, True): Denied(DenyReason.EVALUATION_ERROR, ("f1",)),
    ("Deny", True, False): Denied(DenyReason.FORBIDDEN, ("p1", "p2")),
    ("Deny", True, True): Denied(DenyReason.FORBIDDEN, ("p1", "p2")),
    ("Deny", False, False): Denied(DenyReason.NOT_PERMITTED),
    ("Deny", False, True): Denied(DenyReason.EVALUATION_ERROR, ("f1",)),
}


@pytest.mark.parametrize(("verdict", "named", "failing"), list(product(VERDICTS, (True, False), (True, False))))
def test_fold_every_verdict_gives_the_answer_of_the_table(verdict: str, named: bool, failing: bool) -> None:
    """Allowed takes the exact word Allow, a named policy and no failure; everything else is a no with its reason."""
    answer = fold(verdict, ["p2", "p1"] if named else [], ["f1"] if failing else [])
    otherwise = Denied(DenyReason.NO_DECISION, ("f1",) if failing else ())
    assert TABLE.get((verdict, named, failing), otherwise) == answer


names = st.lists(st.sampled_from(["", "p", "q"]), max_size=3)


@given(st.sampled_from(VERDICTS) | st.text(), names, names)
def test_fold_allows_only_when_nothing_speaks_against_it(verdict: str, reasons: list[str], failed: list[str]) -> None:
    """For any input at all: Allowed exactly if the verdict is Allow, something is named and nothing failed."""
    allowed = isinstance(fold(verdict, reasons, failed), Allowed)
    assert (verdict == "Allow" and any(reasons) and not failed) == allowed


@pytest.mark.parametrize(
    ("given_source", "expected"),
    [
        ("192.0.2.7", "192.0.2.7"),
        ("::ffff:192.0.2.7", "192.0.2.7"),
        ("::FFFF:c000:207", "192.0.2.7"),
        ("fe80::1%eth0", "fe80::1"),
        ("::ffff:192.0.2.7%eth0", "192.0.2.7"),
        ("2001:DB8::0:1", "2001:db8::1"),
        ("::1", "::1"),
    ],
)
def test_source_text_takes_the_form_that_cedar_reads(given_source: str, expected: str) -> None:
    """Zones go, IPv4 that is mapped into IPv6 comes out as IPv4, the rest is written canonically."""
    assert expected == source_text(given_source)


@pytest.mark.parametrize("garbage", ["", "localhost", "192.0.2.7:80", "192.0.2.0/24", "%eth0", "1.2.3", "::ffff:1.2.3"])
def test_source_text_of_no_address_is_refused(garbage: str) -> None:
    """What is no address has no form, and is not guessed at."""
    with pytest.raises(QueryInvalid):
        source_text(garbage)


@given(st.ip_addresses())
def test_source_text_never_leaves_a_mapped_address(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> None:
    """The form of any address is an address that is not mapped and has no zone."""
    again = ipaddress.ip_address(source_text(str(address)))
    assert not (isinstance(again, ipaddress.IPv6Address) and (again.ipv4_mapped or again.scope_id))


@pytest.mark.parametrize(
    ("now", "expected"),
    [
        (0.0, "1970-01-01T00:00:00Z"),
        (59.999999, "1970-01-01T00:00:00Z"),
        (60.0, "1970-01-01T00:01:00Z"),
        (-1.0, "1969-12-31T23:59:00Z"),
        (1_700_000_000.123456, "2023-11-14T22:13:00Z"),
        (-62_135_596_800.0, "0001-01-01T00:00:00Z"),
    ],
)
def test_minute_text_cuts_to_the_minute(now: float, expected: str) -> None:
    """Seconds and microseconds are gone, the year has four digits, the zone is Z."""
    assert expected == minute_text(now)


@pytest.mark.parametrize("now", [float("nan"), float("inf"), float("-inf"), 1e300, -1e12])
def test_minute_text_of_no_time_is_refused(now: float) -> None:
    """A number that is no time of the calendar is refused, not clipped."""
    with pytest.raises(QueryInvalid):
        minute_text(now)


def test_context_leaves_out_all_but_two_by_default() -> None:
    """Only the listener and the protocol must be said; everything else is absent until given."""
    assert Context("tls", "http/1.1")[2:] == (None,) * 8
