"""Models of what more workers and more connections cost, fitted to measurements; pure functions.

Memory is linear in workers. A dispatch costs a constant, or a constant and something for each doubling of the pool: the
fit tells which. Latency follows the load as in a queue with one server and requests that all need the same time: the
mean wait of M/D/1 (Pollaczek and Khinchine), times a factor for a percentile that is fitted.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """`y = a + b * x`, and how far the measurements lie from it."""

    a: float
    b: float
    residuals: tuple[float, ...]

    def at(self, x: float) -> float:
        """The model's value."""
        return self.a + self.b * x

    @property
    def worst(self) -> float:
        """The largest distance, without its sign."""
        return max(map(abs, self.residuals), default=0.0)


def fit_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """Least squares.

    Raises:
        ValueError: fewer than two different x.
    """
    if len(xs) != len(ys) or len(set(xs)) < 2:
        raise ValueError("a line needs two points with different x")
    middle_x, middle_y = statistics.fmean(xs), statistics.fmean(ys)
    spread = sum((x - middle_x) ** 2 for x in xs)
    b = sum((x - middle_x) * (y - middle_y) for x, y in zip(xs, ys, strict=True)) / spread
    a = middle_y - b * middle_x
    return Line(a=a, b=b, residuals=tuple(y - (a + b * x) for x, y in zip(xs, ys, strict=True)))


def fit_relative_line(xs: Sequence[float], ys: Sequence[float]) -> Line:
    """As `fit_line`, with each point weighted by 1/y²: sizes over four powers of ten then count alike.

    Raises:
        ValueError: fewer than two different x, or a y that is not positive.
    """
    if len(xs) != len(ys) or len(set(xs)) < 2 or min(ys) <= 0:
        raise ValueError("a line needs two points with different x, and positive y")
    weights = [1 / y**2 for y in ys]
    total = sum(weights)
    middle_x = sum(w * x for w, x in zip(weights, xs, strict=True)) / total
    middle_y = sum(w * y for w, y in zip(weights, ys, strict=True)) / total
    spread = sum(w * (x - middle_x) ** 2 for w, x in zip(weights, xs, strict=True))
    b = sum(w * (x - middle_x) * (y - middle_y) for w, x, y in zip(weights, xs, ys, strict=True)) / spread
    a = middle_y - b * middle_x
    return Line(a=a, b=b, residuals=tuple(y - (a + b * x) for x, y in zip(xs, ys, strict=True)))


def fit_doublings(sizes: Sequence[float], ys: Sequence[float]) -> Line:
    """`y = a + b * log2(size)`: b is what each doubling adds.

    Raises:
        ValueError: fewer than two different sizes.
    """
    return fit_line([math.log2(size) for size in sizes], ys)


@dataclass(frozen=True, slots=True, kw_only=True)
class Queue:
    """Latency at a utilisation: `base + factor * service * rho / (2 * (1 - rho))`, all times in microseconds."""

    service: float
    base: float
    factor: float
    residuals: tuple[float, ...]

    def at(self, utilisation: float) -> float:
        """The model's latency; infinite from a utilisation of 1 on."""
        if utilisation >= 1:
            return math.inf
        return self.base + self.factor * wait(self.service, utilisation)

    def utilisation_for(self, latency: float) -> float:
        """The largest utilisation at which the latency is not above this; 0 when it never is."""
        if latency <= self.base or self.factor <= 0:
            return 0.0
        ratio = (latency - self.base) / (self.factor * self.service)
        return 2 * ratio / (1 + 2 * ratio)


def wait(service: float, utilisation: float) -> float:
    """The mean wait in M/D/1: `service * rho / (2 * (1 - rho))`."""
    return service * utilisation / (2 * (1 - utilisation))


def fit_queue(utilisations: Sequence[float], latencies: Sequence[float], *, service: float) -> Queue:
    """The base and the factor that fit measured latencies best, each measurement weighted by its size.

    Raises:
        ValueError: fewer than two utilisations, or one outside 0 to 1.
    """
    if any(not 0 <= one < 1 for one in utilisations):
        raise ValueError("a utilisation is from 0 to 1, without 1")
    line = fit_relative_line([wait(service, one) for one in utilisations], latencies)
    # A factor below nothing would say that load makes it faster: then the load did not matter.
    factor = max(0.0, line.b)
    base = line.a if line.b > 0 else statistics.fmean(latencies)
    made = Queue(service=service, base=base, factor=factor, residuals=())
    residuals = tuple(y - made.at(x) for x, y in zip(utilisations, latencies, strict=True))
    return Queue(service=service, base=base, factor=factor, residuals=residuals)


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """What was measured with one process and two, and what a host is reckoned from; times in microseconds.

    `second` is what a second process adds, of what the first one does (1: as much again). `crossing` is what a dispatch
    costs that goes through another process, times a local one.
    """

    dispatch_us: float
    request_us: float
    admission_us: float
    second: float
    crossing: float
    memory: Line

    def capacity(self, processes: int) -> float:
        """How many times one process's work so many do, if each adds what the second one added."""
        return 1 + (processes - 1) * self.second


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """What one machine would hold at some utilisation."""

    processes: int
    workers: int
    memory_gib: float
    requests_per_s: float
    local_dispatches_per_s: float
    crossing_dispatches_per_s: float
    storm_s: float


def host(costs: Costs, *, cores: int, utilisation: float, workers_per_process: int) -> Host:
    """A host that runs one data process on each core but one.

    Memory (KiB in `costs`) is of the gateway alone, not the kernel's socket buffers. Dispatches are all local or all
    through another process: what really comes lies between. `storm_s`: all workers back after all were cut.
    """
    processes = max(1, cores - 1)
    capacity = costs.capacity(processes)
    workers = processes * workers_per_process
    rate = capacity * utilisation * 1e6
    return Host(
        processes=processes,
        workers=workers,
        memory_gib=(processes * costs.memory.a + workers * costs.memory.b) / (1 << 20),
        requests_per_s=rate / costs.request_us,
        local_dispatches_per_s=rate / costs.dispatch_us,
        crossing_dispatches_per_s=rate / (costs.dispatch_us * costs.crossing),
        storm_s=workers * costs.admission_us / 1e6 / capacity,
    )


def return_after_loss(costs: Costs, one: Host, *, hosts: int) -> float:
    """Seconds until the workers of a lost host are back, when the others of `hosts` take them; infinite without others.

    It is the time that admissions take when the others do nothing else; they serve less meanwhile.
    """
    if hosts < 2:
        return math.inf
    return one.workers * costs.admission_us / 1e6 / ((hosts - 1) * costs.capacity(one.processes))
