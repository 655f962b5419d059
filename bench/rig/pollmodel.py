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


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One job: when it arrives and how long a worker needs for it, in seconds."""

    arrival: float
    service: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
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


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """Waits of all jobs in seconds, and the idle work lost with each, in worker-seconds."""

    jobs: int
    mean: float
    p50: float
    p99: float
    worst: float
    lost_per_job: float


def stream(*, seed: int, rate: float, seconds: float, service: tuple[float, float]) -> list[Job]:
    """Poisson arrivals, `rate` a second on average, each job as long as is drawn evenly from `service`."""
    chance = random.Random(seed)
    jobs: list[Job] = []
    at = chance.expovariate(rate)
    while at < seconds:
        jobs.append(Job(arrival=at, service=chance.uniform(*service)))
        at += chance.expovariate(rate)
    return jobs


def burst(*, seed: int, jobs: int, service: tuple[float, float]) -> list[Job]:
    """`jobs` at the same moment: a task that was split, a stage that waited for the one before."""
    chance = random.Random(seed)
    return [Job(arrival=0.0, service=chance.uniform(*service)) for _ in range(jobs)]


def phases(*, seed: int, workers: int, interval: float) -> list[float]:
    """When each worker asks first: workers know nothing of one another, so anywhere in the interval."""
    chance = random.Random(seed)
    return [chance.uniform(0, interval) for _ in range(workers)]


def connected(jobs: Sequence[Job], *, workers: int) -> list[Course]:
    """A job begins when it is there and a worker is free, whichever comes last."""
    free = [0.0] * workers
    courses = []
    for job in sorted(jobs, key=lambda job: job.arrival):
        begun = max(job.arrival, free[0])
        finished = begun + job.service
        heapq.heapreplace(free, finished)
        courses.append(Course(arrival=job.arrival, begun=begun, finished=finished))
    return courses


def polled(jobs: Sequence[Job], *, way: Polling, first: Sequence[float]) -> list[Course]:
    """A job begins when a worker asks and finds it; one job an answer. `first` has each worker's first time to ask."""
    asks = list(first)
    heapq.heapify(asks)
    courses: list[Course] = []
    for job in sorted(jobs, key=lambda job: job.arrival):
        while asks[0] < job.arrival:  # nothing there: it asks again later
            heapq.heapreplace(asks, asks[0] + way.interval)
        begun = asks[0]
        courses.append(Course(arrival=job.arrival, begun=begun, finished=begun + job.service))
        heapq.heapreplace(asks, begun + pause_after(job.service, way))
    return courses


def pause_after(service: float, way: Polling) -> float:
    """From the ask that brought a job to the next one. A timer's ask was a tick, so the next is whole intervals on."""
    return service if way.eager else max(1, math.ceil(service / way.interval)) * way.interval


def simulate(jobs: Sequence[Job], *, workers: int, way: Polling | None, seed: int) -> list[Course]:
    """The courses of all jobs, with `workers` that poll, or that are connected when `way` is None; all idle at 0."""
    if way is None:
        return connected(jobs, workers=workers)
    return polled(jobs, way=way, first=phases(seed=seed, workers=workers, interval=way.interval))


def idle_work_lost(courses: Sequence[Course], *, workers: int) -> float:
    """Worker-seconds in which a worker was idle although a job was waiting: ∫ min(idle workers, waiting jobs) dt."""
    changes: list[tuple[float, int, int]] = []  # when, change of waiting jobs, change of idle workers
    for course in courses:
        changes += [(course.arrival, 1, 0), (course.begun, -1, -1), (course.finished, 0, 1)]
    changes.sort()
    lost, before, waiting, idle = 0.0, 0.0, 0, workers
    for at, more_waiting, more_idle in changes:
        lost += max(0, min(waiting, idle)) * (at - before)
        waiting, idle, before = waiting + more_waiting, idle + more_idle, at
    return lost


def summary(courses: Sequence[Course], *, workers: int) -> Summary:
    """What the courses come to.

    Raises:
        ValueError: there were no jobs.
    """
    if not courses:
        raise ValueError("no jobs, no summary")
    waits = sorted(course.wait for course in courses)
    return Summary(
        jobs=len(waits),
        mean=math.fsum(waits) / len(waits),
        p50=waits[len(waits) // 2],
        p99=waits[min(len(waits) - 1, len(waits) * 99 // 100)],
        worst=waits[-1],
        lost_per_job=idle_work_lost(courses, workers=workers) / len(waits),
    )


def begun_curve(courses: Sequence[Course], *, points: int = 100) -> list[tuple[float, float]]:
    """Share of the jobs begun by when, as at most `points` + 1 pairs of seconds after the first arrival and share."""
    start = min(course.arrival for course in courses)
    times = sorted(course.begun - start for course in courses)
    wanted = {round(step * (len(times) - 1) / points) for step in range(points + 1)}
    return [(times[index], (index + 1) / len(times)) for index in sorted(wanted)]


def first_ask(interval: float, idle: int) -> float:
    """Seconds until the first of `idle` pollers asks, on average, when each asks anywhere in the interval.

    The first of k times drawn evenly from an interval lies at 1/(k+1) of it.
    """
    return interval / (idle + 1)


def behind_others(interval: float, idle: float, rate: float) -> float:
    """Mean wait when jobs come at `rate` a second and `idle` pollers take one each: as in a queue M/M/1.

    Asks come at idle/interval a second, each serves one job, and jobs that come close together wait for one another;
    infinite when fewer asks than jobs come.
    """
    spare = idle / interval - rate
    return 1 / spare if spare > 0 else math.inf


def lost_share(interval: float, service: float) -> float:
    """Share of a worker's time between a job's end and its next tick, for jobs longer than the interval, all in need.

    On average half an interval goes by after each job: (T/2) / (S + T/2). With jobs shorter than the interval it is
    worse: each takes one whole interval.
    """
    return (interval / 2) / (service + interval / 2)
