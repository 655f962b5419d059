"""Models of what growth costs, fitted to measurements; pure functions.

All have the form `y = a + b * g(x)`: memory is linear in workers; a dispatch or a request costs a constant and
something for each doubling; latency follows the load as in a queue with one server and jobs that all need the same
time (M/D/1,
Pollaczek and Khinchine), times a factor for a percentile.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

CLOSE = 0.15


@dataclass(frozen=True, slots=True, kw_only=True)
class Fit:
    """`y = a + b * of(x)`, and how far each measurement lies from it, of its own size."""

    a: float
    b: float
    of: Callable[[float], float]
    misses: tuple[float, ...]

    def at(self, x: float) -> float:
        """The model's value."""
        return self.a + self.b * self.of(x)

    @property
    def holds(self) -> bool:
        """Are there three measurements or more, and all within 15 % of the model? If not, there is no model."""
        return len(self.misses) > 2 and self.worst <= CLOSE

    @property
    def worst(self) -> float:
        """The largest distance, without its sign."""
        return max(map(abs, self.misses))


def fit(xs: Sequence[float], ys: Sequence[float], of: Callable[[float], float] = float) -> Fit:
    """Least squares of relative distances: sizes over four powers of ten then count alike.

    Raises:
        ValueError: fewer than two different x, or a y that is not positive.
    """
    if len(xs) != len(ys) or len(set(xs)) < 2 or min(ys) <= 0:
        raise ValueError("a line needs two points with different x, and positive y")
    points = [(1 / y**2, of(x), y) for x, y in zip(xs, ys, strict=True)]
    total = sum(weight for weight, _, _ in points)
    middle_x = sum(weight * x for weight, x, _ in points) / total
    middle_y = sum(weight * y for weight, _, y in points) / total
    spread = sum(weight * (x - middle_x) ** 2 for weight, x, _ in points)
    b = sum(weight * (x - middle_x) * (y - middle_y) for weight, x, y in points) / spread
    a = middle_y - b * middle_x
    return Fit(a=a, b=b, of=of, misses=tuple((y - a - b * x) / y for _, x, y in points))


def queueing(utilisation: float) -> float:
    """The mean wait in M/D/1, in service times; infinite from a utilisation of 1 on."""
    return utilisation / (2 * (1 - utilisation)) if utilisation < 1 else math.inf
