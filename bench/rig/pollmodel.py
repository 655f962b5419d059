"""What becomes of jobs when workers ask for them, and when they do not have to: a simulation, pure and seeded.

A pool of workers, each for one job at a time; jobs are taken in the order of their arrival. Workers are either
*connected*, so that a waiting job begins as soon as a worker is free (a reversed connection, a held poll), or they
*poll*. Networks, processors and the time of an answer are not in the model: what it says is what waiting alone costs.
"""

from __future__ import annotations

import heapq
import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple


class Job(NamedTuple):
    """One job: when it arrives and how long a worker needs for it, in seconds."""

    arrival: float
    service: float


class Course(NamedTuple):
    """What became of one job: its arrival, the worker's first byte of it, and the end of the work, in seconds."""

    arrival: float
    begun: float
    finished: float

    @property
    def wait(self) -> float:
        return self.begun - self.arrival


@dataclass(frozen=True, slots=True, kw_only=True)
class Polling:
    """How a worker asks while it has no job: every `interval` seconds.

    With `eager` it asks at once when a job is done, and its interval begins anew with each answer. Otherwise a timer
    decides: it asks at fixed ticks, and after a job at the first tick that comes (a heartbeat, a cron job).
    """

    interval: float
    eager: bool = False

    def __post_init__(self) -> None:
        if not self.interval > 0:
            raise ValueError("an interval is more than nothing")

    def pause_after(self, service: float) -> float:
        """From the ask that brought a job to the next one. A timer's ask was a tick: the next is whole intervals on."""
        return service if self.eager else max(1, math.ceil(service / self.interval)) * self.interval


def stream(*, seed: int, rate: float, seconds: float, service: tuple[float, float]) -> list[Job]:
    """Poisson arrivals, `rate` a second on average, each job as long as is drawn evenly from `service`."""
    chance = random.Random(seed)
    jobs: list[Job] = []
    at = chance.expovariate(rate)
    while at < seconds:
        jobs.append(Job(at, chance.uniform(*service)))
        at += chance.expovariate(rate)
    return jobs


def burst(*, seed: int, jobs: int, service: tuple[float, float]) -> list[Job]:
    """`jobs` at the same moment: a task that was split, a stage that waited for the one before."""
    chance = random.Random(seed)
    return [Job(0.0, chance.uniform(*service)) for _ in range(jobs)]


def phases(*, seed: int, workers: int, interval: float) -> list[float]:
    """When each worker asks first: workers know nothing of one another, so anywhere in the interval."""
    chance = random.Random(seed)
    return [chance.uniform(0, interval) for _ in range(workers)]


def simulate(jobs: Sequence[Job], *, workers: int, way: Polling | None, seed: int) -> list[Course]:
    """The courses of all jobs, with `workers` that poll, or that are connected when `way` is None; all idle at 0."""
    first = [0.0] * workers if way is None else phases(seed=seed, workers=workers, interval=way.interval)
    return courses(jobs, way=way, first=first)


def courses(jobs: Sequence[Job], *, way: Polling | None, first: Sequence[float]) -> list[Course]:
    """A job begins when a worker asks and finds it, or, connected, when it is there and a worker is free.

    `first` has each worker's first time to ask, or to be free.
    """
    next_asks = list(first)
    heapq.heapify(next_asks)
    found: list[Course] = []
    for job in sorted(jobs):
        while way and next_asks[0] < job.arrival:  # nothing there: it asks again later
            heapq.heapreplace(next_asks, next_asks[0] + way.interval)
        begun = max(job.arrival, next_asks[0])
        found.append(Course(job.arrival, begun, begun + job.service))
        heapq.heapreplace(next_asks, begun + (way.pause_after(job.service) if way else job.service))
    return found


def idle_work_lost(found: Sequence[Course], *, workers: int) -> float:
    """Worker-seconds in which a worker was idle although a job was waiting: ∫ min(idle workers, waiting jobs) dt."""
    changes: list[tuple[float, int, int]] = []  # when, change of waiting jobs, change of idle workers
    for course in found:
        changes += [(course.arrival, 1, 0), (course.begun, -1, -1), (course.finished, 0, 1)]
    changes.sort()
    lost, before, waiting, idle = 0.0, 0.0, 0, workers
    for at, more_waiting, more_idle in changes:
        lost += max(0, min(waiting, idle)) * (at - before)
        waiting, idle, before = waiting + more_waiting, idle + more_idle, at
    return lost


def summary(found: Sequence[Course], *, workers: int) -> dict[str, float]:
    """Waits in milliseconds, and the idle work lost with each job in worker-seconds.

    Raises:
        ValueError: there were no jobs.
    """
    if not found:
        raise ValueError("no jobs, no summary")
    waits = sorted(course.wait * 1000 for course in found)
    return {
        "mean_ms": math.fsum(waits) / len(waits),
        "p50_ms": waits[len(waits) // 2],
        "p99_ms": waits[min(len(waits) - 1, len(waits) * 99 // 100)],
        "worst_ms": waits[-1],
        "lost_per_job_s": idle_work_lost(found, workers=workers) / len(waits),
    }


def begun_curve(found: Sequence[Course], *, points: int = 100) -> list[tuple[float, float]]:
    """Share of the jobs begun by when, as at most `points` + 1 pairs of seconds after the first arrival and share."""
    start = min(course.arrival for course in found)
    times = sorted(course.begun - start for course in found)
    wanted = {round(step * (len(times) - 1) / points) for step in range(points + 1)}
    return [(times[index], (index + 1) / len(times)) for index in sorted(wanted)]


def first_ask(interval: float, idle: int) -> float:
    """Seconds until the first of `idle` pollers asks, on average, when each asks anywhere in the interval.

    The first of k times drawn evenly from an interval lies at 1/(k+1) of it.
    """
    return interval / (idle + 1)


def lost_share(interval: float, service: float) -> float:
    """Share of a worker's time between a job's end and its next tick, for jobs longer than the interval, all in need.

    On average half an interval goes by after each job: (T/2) / (S + T/2). With jobs shorter than the interval it is
    worse: each takes one whole interval.
    """
    return (interval / 2) / (service + interval / 2)
