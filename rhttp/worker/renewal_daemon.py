"""Bundles that are kept renewed by a program of its own (I/O): for clients and masters, which have no agent.

Trust: see `rhttp.worker.est_renewal`. What is told has no secrets.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, NoReturn

from rhttp.worker.bundle import Bundle, BundleInvalid, read_bundle
from rhttp.worker.bundle_watch import span
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.est_renewal import try_renewal
from rhttp.worker.renewal_schedule import RenewalSchedule

__all__ = ["keep_renewed"]

_LOOK: Final = 30.0
"""Seconds between two looks at a bundle, at most: the clock may be set, and others renew, too."""
_SOONEST: Final = 0.2


class _Keeper:
    """Keeps one bundle renewed."""

    def __init__(self, place: Path, gateway: str | None, chance: Callable[[], float]) -> None:
        self._place = place
        self._gateway = gateway
        self._schedule = RenewalSchedule(chance)
        self._fault = ""

    def beat(
        self,
        date: Callable[[], float],
        elapsed: Callable[[], float],
        tell: Callable[[Bundle], None],
        warn: Callable[[str], None],
    ) -> float:
        """Renew it when it is time; seconds until it is to be looked at again."""
        try:
            bundle = read_bundle(self._place, gateway=self._gateway)
        except BundleInvalid as error:
            if str(error) != self._fault:
                self._fault = str(error)
                warn(self._fault)
            return _LOOK
        self._fault = ""
        wait = self._schedule.wait(bundle, date=date(), elapsed=elapsed())
        if wait:
            return wait
        try:
            renewed = try_renewal(
                self._place, gateway=self._gateway, is_due=lambda found: found.serial == bundle.serial
            )
        except EnrolmentFailed as error:
            wait = self._schedule.failed(error, bundle, date=date(), elapsed=elapsed())
            if self._schedule.is_news(error) or error.is_passing:
                warn(f"{error}; next try in {span(wait)}")
            return wait
        if renewed is not None:
            tell(renewed)
        return 0.0


def keep_renewed(
    places: Sequence[Path],
    *,
    gateway: str | None,
    tell: Callable[[Bundle], None],
    warn: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
    date: Callable[[], float] = time.time,
    elapsed: Callable[[], float] = time.monotonic,
    chance: Callable[[], float] = random.random,
) -> NoReturn:
    """Renew each bundle when it is time for it, one after the other, for ever: until something is raised.

    Args:
        gateway: in place of what the bundles say.
        tell: is told what was renewed.
        warn: is told, in one line, what failed.
        sleep: waits so many seconds.
        date: epoch seconds.
        elapsed: seconds of a clock that nobody sets.
        chance: uniform in [0, 1).
    """
    keepers = [_Keeper(place, gateway, chance) for place in places]
    while True:
        waits = [keeper.beat(date, elapsed, tell, warn) for keeper in keepers]
        sleep(min(max(min(waits), _SOONEST), _LOOK))
