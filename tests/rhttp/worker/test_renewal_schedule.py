"""When a bundle is renewed, and when again."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rhttp.worker.bundle import Bundle, parse_gateway
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.renewal_schedule import RenewalSchedule

DAY = 86400.0
BUNDLE = Bundle(
    place=Path("w1"),
    gateway=parse_gateway("https://gw.internal"),
    role="worker",
    pool="render",
    name="w1",
    user=None,
    password=None,
    chain=b"",
    key=b"",
    trust=(),
    not_before=-300.0,
    expires=DAY,
    serial="1",
    stamp=(),
)
AWAY = EnrolmentFailed("unreachable", "nobody answers", is_passing=True)
REFUSED = EnrolmentFailed("forbidden", "no")


@given(chance=st.floats(0, 1, exclude_max=True), life=st.floats(60, 730 * DAY))
def test_schedule_renews_at_two_thirds_of_the_life_or_a_little_earlier(chance: float, life: float) -> None:
    """By chance up to a tenth of the life earlier, and never later: from a third on the end is spoken of."""
    bundle = dataclasses.replace(BUNDLE, expires=life)
    wait = RenewalSchedule(lambda: chance).wait(bundle, date=0.0, elapsed=5.0)
    assert life * (2 / 3 - 0.1) - 1e-3 <= wait <= life * 2 / 3 + 1e-3


def test_schedule_keeps_its_time_until_the_certificate_is_another() -> None:
    """Chance is asked once a certificate; a date that has passed is now."""
    chances = iter((0.0, 0.5))
    schedule = RenewalSchedule(lambda: next(chances))
    assert schedule.wait(BUNDLE, date=0.0, elapsed=0.0) == pytest.approx(DAY * 2 / 3)
    assert schedule.wait(BUNDLE, date=DAY / 3, elapsed=0.0) == pytest.approx(DAY / 3)
    assert schedule.wait(BUNDLE, date=DAY, elapsed=0.0) == 0.0
    after = dataclasses.replace(BUNDLE, serial="2", expires=2 * DAY)
    assert schedule.wait(after, date=DAY, elapsed=0.0) > 0


@given(
    chance=st.floats(0, 1, exclude_max=True),
    left=st.integers(-86400, 86400),
    failures=st.integers(1, 60),
    error=st.sampled_from([AWAY, REFUSED]),
)
def test_schedule_pauses_are_bounded_and_shorter_towards_the_end(
    chance: float, left: int, failures: int, error: EnrolmentFailed
) -> None:
    """Five minutes at most while nobody answers, an hour when the gateway said no; an eighth of what is left."""
    schedule = RenewalSchedule(lambda: chance)
    date = DAY - left
    schedule.wait(BUNDLE, date=date, elapsed=0.0)
    pauses = [schedule.failed(error, BUNDLE, date=date, elapsed=100.0) for _ in range(failures)]
    most, least = (300.0, 1.0) if error is AWAY else (3600.0, 10.0)
    ceiling = min(max(left / 8, least), most) if left > 0 or error is AWAY else most
    assert all(0.5 <= pause <= ceiling + 1e-6 for pause in pauses)
    if error is REFUSED:
        assert all(pause >= ceiling / 2 - 1e-6 for pause in pauses)
    if left <= 0:
        assert schedule.wait(BUNDLE, date=date, elapsed=100.0) == pytest.approx(pauses[-1])
        assert schedule.wait(BUNDLE, date=date, elapsed=100.0 + pauses[-1] + 1) == 0.0


@pytest.mark.parametrize(
    ("is_passing", "asked", "waited"),
    [(True, 120.0, 120.0), (True, 9e8, 300.0), (False, 600.0, 600.0), (False, 9e8, 3600.0)],
)
def test_schedule_waits_as_long_as_it_was_asked_to(is_passing: bool, asked: float, waited: float) -> None:
    """`Retry-After`, within bounds."""
    schedule = RenewalSchedule(lambda: 0.0)
    error = EnrolmentFailed("unavailable", "later", is_passing=is_passing, retry_after=asked)
    assert schedule.failed(error, BUNDLE, date=DAY - 60, elapsed=0.0) == waited


def test_schedule_calls_each_kind_of_trouble_news_once_a_certificate() -> None:
    """What was told is not told again, until the certificate is another."""
    schedule = RenewalSchedule(lambda: 0.0)
    schedule.wait(BUNDLE, date=0.0, elapsed=0.0)
    assert [schedule.is_news(error) for error in (AWAY, REFUSED, AWAY, REFUSED)] == [True, True, False, False]
    schedule.wait(dataclasses.replace(BUNDLE, serial="2"), date=0.0, elapsed=0.0)
    assert schedule.is_news(REFUSED)
