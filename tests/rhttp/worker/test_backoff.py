"""The pause before the next try."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhttp.worker.backoff import MAX_RETRY_AFTER, REFUSAL, TROUBLE, Pace, parse_retry_after, wait_before_retry

CHANCE = st.floats(0, 1, exclude_max=True)


@given(st.integers(0, 10**9), CHANCE, st.sampled_from([TROUBLE, REFUSAL]))
def test_wait_is_never_longer_than_the_last_ceiling(failures: int, chance: float, pace: Pace) -> None:
    """However long the trouble lasts, the next try comes within the cap."""
    assert 0 <= wait_before_retry(failures, pace, chance) <= pace.last


def test_ceiling_grows_from_the_first_to_the_last() -> None:
    """The pause begins short, grows with each failure and stops growing at the cap."""
    ceilings = [TROUBLE.ceiling(failures) for failures in range(1, 40)]
    assert ceilings[0] == 0.2
    assert ceilings[-1] == 30.0
    assert ceilings == sorted(ceilings)
    assert ceilings[3] > ceilings[2]


def test_wait_uses_the_whole_range_below_the_ceiling() -> None:
    """Full jitter: workers that failed together come back apart."""
    assert wait_before_retry(100, TROUBLE, 0.0) == 0.0
    assert wait_before_retry(100, TROUBLE, 0.5) == 15.0


@given(st.floats(allow_nan=False), CHANCE)
def test_retry_after_is_a_floor_within_bounds(asked: float, chance: float) -> None:
    """A gateway can hold a worker off, but not for ever."""
    wait = wait_before_retry(1, TROUBLE, chance, retry_after=asked)
    assert min(max(asked, 0.0), MAX_RETRY_AFTER) <= wait <= MAX_RETRY_AFTER + 0.2


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        (b"0", 0.0),
        (b"120", 120.0),
        (b"-1", None),
        (b"1.5", None),
        (b"", None),
        (b"9" * 10, None),
        (b"Fri, 31 Dec 1999 23:59:59 GMT", None),
    ],
)
def test_retry_after_takes_seconds_only(value: bytes, seconds: float | None) -> None:
    """A date needs a clock that is right, which a worker's may not be."""
    assert parse_retry_after(value) == seconds
