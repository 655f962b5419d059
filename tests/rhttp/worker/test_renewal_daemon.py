"""Bundles that are kept renewed: by a clock that runs as fast as the test."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.enrolments import order
from support.estserver import EstServer, est_server, problem
from support.homes import leaf_of

from pki.issue import serial_hex
from rhttp.worker import renewal_schedule
from rhttp.worker.bundle import Bundle
from rhttp.worker.enrolment import enroll
from rhttp.worker.renewal_daemon import keep_renewed


class Over(Exception):  # noqa: N818 - says what is the case
    """The test has seen enough."""


class Days:
    """A clock that goes on when somebody sleeps; ends the daemon when `is_over` says so."""

    def __init__(self) -> None:
        self.passed = 0.0
        self.told: list[str] = []
        self.warned: list[str] = []
        self.pauses: list[float] = []
        self.is_over: Any = lambda: False

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.passed += seconds
        self.pauses.append(seconds)
        if self.is_over():
            raise Over
        assert len(self.pauses) < 2000, (self.told, self.warned)

    def tell(self, bundle: Bundle) -> None:
        self.told.append(bundle.serial)

    def run(self, *places: Path) -> None:
        with pytest.raises(Over):
            keep_renewed(
                places,
                gateway=None,
                tell=self.tell,
                warn=self.warned.append,
                sleep=self.sleep,
                date=lambda: time.time() + self.passed,
                elapsed=lambda: self.passed,
                chance=lambda: 0.5,
            )


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


def serial(place: Path) -> str:
    return serial_hex(leaf_of(place).serial_number)


def test_daemon_renews_each_bundle_when_it_is_due(server: EstServer, tmp_path: Path) -> None:
    """Clients too; nothing before, and nobody waits longer than it must."""
    places = [enroll(order(server, tmp_path, role=role, out=tmp_path / role)).place for role in ("worker", "client")]
    before = [serial(place) for place in places]
    days = Days()
    # What is renewed is due again at once by this clock, which is ahead: the one may be so twice before the other.
    days.is_over = lambda: not set(before) & {serial(place) for place in places}
    days.run(*places)
    after = [serial(place) for place in places]
    assert set(after) <= set(days.told)
    assert days.warned == []
    assert 3600 * (2 / 3 - 0.1) - 60 <= days.passed <= 3600 * 2 / 3
    assert max(days.pauses) <= 30


def test_daemon_asks_a_gateway_that_is_away_until_it_is_back(server: EstServer, tmp_path: Path) -> None:
    """With pauses, each failure in a line of its own; then it goes on."""
    place = enroll(order(server, tmp_path)).place
    server.replies["simplereenroll"] = [problem(503)] * 5
    days = Days()
    days.is_over = lambda: len(days.told) == 1
    days.run(place)
    assert days.told == [serial(place)]
    assert len(days.warned) == 5
    assert all("cannot issue at the moment" in line and "next try in" in line for line in days.warned)


def test_daemon_tells_a_refusal_once(server: EstServer, tmp_path: Path) -> None:
    """A gateway that renews nothing is asked now and then, and is no news."""
    place = enroll(order(server, tmp_path)).place
    server.replies["simplereenroll"] = [problem(404)] * 4
    days = Days()
    days.is_over = lambda: len(days.told) == 1
    days.run(place)
    (line,) = days.warned
    assert "it renews nothing" in line


def test_daemon_goes_on_beside_a_bundle_that_is_broken(
    server: EstServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told once, and the other bundle is renewed."""
    monkeypatch.setattr(renewal_schedule, "SHORT", 1)  # due at once
    good = enroll(order(server, tmp_path, out=tmp_path / "good")).place
    days = Days()
    days.is_over = lambda: len(days.told) >= 3
    days.run(tmp_path / "none", good)
    (line,) = days.warned
    assert line.startswith(f"{tmp_path / 'none'} is no directory")
    assert days.told[-1] == serial(good)
