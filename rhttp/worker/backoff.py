"""How long to wait before the next try: exponential, capped, fully jittered: a fleet must not come back at once.

Trust: pure; chance is an argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

MAX_RETRY_AFTER: Final = 300.0
"""Seconds; the most that a gateway can hold a worker off with ``Retry-After``."""
_GROWTH: Final = 1.5
"""With full jitter the ceiling is then about as long as the trouble has lasted: back soon after a short restart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pace:
    """The first ceiling, in seconds, and the last; each failure makes it half as long again."""

    first: float
    last: float

    def ceiling(self, failures: int) -> float:
        """The longest wait after so many failures in a row (at least one)."""
        return min(self.last, self.first * _GROWTH ** min(max(failures, 1) - 1, 32))


TROUBLE: Final = Pace(first=0.2, last=30.0)
"""Nobody answers, or the connection breaks: mostly over soon."""
REFUSAL: Final = Pace(first=2.0, last=60.0)
"""The gateway said no: that changes when somebody changes something."""


def wait_before_retry(failures: int, pace: Pace, chance: float, *, retry_after: float | None = None) -> float:
    """Seconds to wait after ``failures`` failures in a row; ``chance`` is uniform in [0, 1).

    Full jitter: anything from nothing to the ceiling. With ``retry_after`` at least that long (`MAX_RETRY_AFTER` at
    most), the jitter on top.
    """
    jitter = pace.ceiling(failures) * chance
    if retry_after is None:
        return jitter
    return min(max(retry_after, 0.0), MAX_RETRY_AFTER) + jitter


def parse_retry_after(value: bytes) -> float | None:
    """The seconds in a ``Retry-After`` value (RFC 9110 section 10.2.3); None for a date, which needs a right clock."""
    return float(value) if value.isdigit() and len(value) <= 9 else None
