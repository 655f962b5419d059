"""What an agent says of its certificate's end, and when."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import pytest
from support.standin import worker_home

from rhttp.worker.bundle import Bundle, load_bundle
from rhttp.worker.bundle_watch import BundleWatch, span

HOUR = 3600.0


@pytest.fixture
def place(tmp_path: Path) -> Path:
    return worker_home(tmp_path / "home") / "bundles" / "w1"


def told(watch: BundleWatch, caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines of one look."""
    caplog.clear()
    watch.look()
    return [record.getMessage() for record in caplog.records]


def test_watch_speaks_of_the_end_from_a_third_of_the_life_on(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Nothing before; then a line whenever half of what was left has gone, with the mend; behind the end, each hour."""
    bundle = load_bundle(place)
    assert bundle.lifetime == 24 * HOUR
    now = bundle.expires - 8 * HOUR - 1
    watch = BundleWatch(place, clock=lambda: now)
    watch.read()
    lines = []
    with caplog.at_level(logging.WARNING, "rhttp"):
        assert told(watch, caplog) == []
        while now < bundle.expires + 2.5 * HOUR:
            now += 10
            lines += [(bundle.expires - now, line) for line in told(watch, caplog)]
    before, behind = [left for left, _ in lines if left > 0], [left for left, _ in lines if left <= 0]
    assert all(8 * HOUR / 2**turn - 20 * (turn + 1) < left <= 8 * HOUR / 2**turn for turn, left in enumerate(before))
    assert len(before) == 9
    assert behind == [behind[0], behind[0] - HOUR, behind[0] - 2 * HOUR]
    assert "w1 expires in 7 h 59 min, at " in lines[0][1]
    assert "rhttp-pki renew" in lines[0][1]
    assert "expired at" in lines[-1][1]


def test_watch_of_a_renewed_bundle_is_silent_again(place: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A certificate with another end has its own third."""
    bundle = load_bundle(place)
    now = bundle.expires - HOUR
    watch = BundleWatch(place, clock=lambda: now)
    watch.read()
    with caplog.at_level(logging.WARNING, "rhttp"):
        assert len(told(watch, caplog)) == 1
        watch.session.bundle = dataclasses.replace(bundle, expires=bundle.expires + 24 * HOUR)
        assert told(watch, caplog) == []


@pytest.mark.parametrize(
    ("before", "life", "lifetime"), [(300, 60, 60), (300, 86400, 86400), (0, 60, 10), (0, 900, 600)]
)
def test_bundle_lifetime_leaves_the_time_before_its_issuance_out(
    place: Path, before: float, life: float, lifetime: float
) -> None:
    """Five minutes that our CAs put before a certificate are no part of its life; of a foreign one some is left."""
    bundle: Bundle = dataclasses.replace(load_bundle(place), not_before=1000.0 - before, expires=1000.0 + life)
    assert bundle.lifetime == lifetime


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.5, "0 s"),
        (59, "59 s"),
        (60, "1 min"),
        (3599, "59 min"),
        (3600, "1 h 0 min"),
        (86400, "1 d 0 h"),
        (9e5, "10 d 10 h"),
    ],
)
def test_span_is_for_people(seconds: float, text: str) -> None:
    """Two units at most."""
    assert span(seconds) == text
