"""When a bundle is renewed over EST: at two thirds of its certificate's life, with jitter, and again when that failed.

Trust: pure; times and chance are arguments.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from rhttp.worker.backoff import Pace, wait_before_retry
from rhttp.worker.bundle import Bundle
from rhttp.worker.enrolment_failure import EnrolmentFailed

SHORT: Final = 3
"""From a third of its life on a certificate is to have been renewed; then its end is spoken of, too."""
_SPREAD: Final = 0.1
"""The part of the life by which a renewal comes earlier, by chance: a fleet that enrolled at once is not to come at
once."""
_TRIES: Final = 8
"""A pause after a failure is at most this part of what is left, so that the tries get closer towards the end."""
_SOONEST: Final = 0.5
_TROUBLE: Final = (1.0, 300.0)
"""Seconds: the least and the most that the longest pause is, when nobody answers."""
_REFUSAL: Final = (10.0, 3600.0)
"""The same, when the gateway said no: that changes when somebody changes something."""


class RenewalSchedule:
    """Of one bundle. Its certificates come and go; each has its own time."""

    def __init__(self, chance: Callable[[], float]) -> None:
        """`chance` is uniform in [0, 1)."""
        self._chance = chance
        self._serial = ""
        self._due = 0.0
        self._failures = 0
        self._retry_at = 0.0
        self._told: set[str] = set()

    def wait(self, bundle: Bundle, *, date: float, elapsed: float) -> float:
        """Seconds until it is to be renewed; zero: now. `date` is in epoch seconds, `elapsed` in those of a clock that
        nobody sets."""
        if bundle.serial != self._serial:
            self._serial = bundle.serial
            self._due = bundle.expires - bundle.lifetime * (1 / SHORT + _SPREAD * self._chance())
            self._failures, self._retry_at = 0, elapsed
            self._told.clear()
        return max(self._due - date, self._retry_at - elapsed, 0.0)

    def failed(self, error: EnrolmentFailed, bundle: Bundle, *, date: float, elapsed: float) -> float:
        """A renewal failed; seconds until the next try."""
        self._failures += 1
        part = max(bundle.expires - date, 0.0) / _TRIES
        if error.is_passing:
            least, most = _TROUBLE
            pace = Pace(first=least, last=min(max(part, least), most))
            pause = wait_before_retry(self._failures, pace, self._chance(), retry_after=error.retry_after)
        else:
            least, most = _REFUSAL
            ceiling = min(max(part, least), most) if part else most
            pause = max(ceiling * (1 + self._chance()) / 2, min(error.retry_after or 0.0, most))
        pause = max(pause, _SOONEST)
        self._retry_at = elapsed + pause
        return pause

    def is_news(self, error: EnrolmentFailed) -> bool:
        """Whether nothing of the kind was told of the present certificate; from now on it was."""
        is_news = error.code not in self._told
        self._told.add(error.code)
        return is_news
