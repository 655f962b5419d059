"""The model of polling: what it says agrees with what can be reckoned by hand."""

from __future__ import annotations

import math
import statistics
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig import pollmodel as model  # noqa: E402
from rig.pollmodel import Course, Job, Polling  # noqa: E402

SERVICE = (2.0, 8.0)


def lone(interval: float, workers: int) -> float:
    """Mean wait of one job that comes to idle pollers, over many draws of their phases."""
    waits = []
    for seed in range(400):
        jobs = [Job(arrival=10 * interval, service=1.0)]
        waits.append(model.simulate(jobs, workers=workers, way=Polling(interval=interval), seed=seed)[0].wait)
    return statistics.mean(waits)


@pytest.mark.parametrize("workers", [1, 4, 19])
def test_polled_lone_job_waits_for_the_first_of_the_idle(workers: int) -> None:
    """With k idle pollers of random phases a lone job waits interval / (k + 1)."""
    expected = model.first_ask(30.0, workers)
    assert expected == 30.0 / (workers + 1)
    assert lone(30.0, workers) == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize("eager", [False, True])
def test_polled_burst_as_wide_as_the_pool_waits_half_the_interval(eager: bool) -> None:
    """Each worker has to ask once: T/2 on average, T for the last, and every wait is a worker that sat idle."""
    jobs = model.burst(seed=1, jobs=2000, service=(40.0, 40.0))
    told = model.summary(
        model.simulate(jobs, workers=2000, way=Polling(interval=30.0, eager=eager), seed=2), workers=2000
    )
    assert told["mean_ms"] == pytest.approx(15_000, rel=0.05)
    assert 29_500 < told["worst_ms"] <= 30_000
    assert told["lost_per_job_s"] * 1000 == pytest.approx(told["mean_ms"])


def test_polled_by_timer_loses_half_an_interval_with_each_long_job() -> None:
    """A pool that must be full works S out of S + T/2 with timers, and all of the time when it asks at once."""
    jobs = model.burst(seed=3, jobs=20_000, service=(5.0, 35.0))  # even over whole intervals: exactly T/2
    shares = {}
    for eager in (False, True):
        courses = model.simulate(jobs, workers=100, way=Polling(interval=3.0, eager=eager), seed=4)
        worked = math.fsum(job.service for job in jobs)
        shares[eager] = 1 - worked / (100 * max(course.finished for course in courses))
    assert shares[False] == pytest.approx(model.lost_share(3.0, 20.0), abs=0.01)
    assert shares[True] < 0.01


def test_polled_by_timer_gives_a_short_job_a_whole_interval() -> None:
    """Jobs shorter than the interval come one an interval, however short they are."""
    jobs = model.burst(seed=5, jobs=10, service=(0.5, 0.5))
    courses = model.courses(jobs, way=Polling(interval=30.0), first=[7.0])
    assert [course.begun for course in courses] == [7.0 + 30.0 * number for number in range(10)]
    assert Polling(interval=30.0).pause_after(60.0) == 60.0
    assert Polling(interval=30.0).pause_after(60.1) == 90.0


def test_polled_stream_waits_as_in_a_queue_when_asks_are_spare() -> None:
    """Jobs that come close together wait for one another: 1 / (k/T - rate)."""
    jobs = model.stream(seed=6, rate=20.0, seconds=2000.0, service=(0.01, 0.01))
    told = model.summary(model.simulate(jobs, workers=900, way=Polling(interval=30.0), seed=7), workers=900)
    assert told["mean_ms"] == pytest.approx(1000 / (900 / 30.0 - 20.0), rel=0.2)


def test_connected_jobs_begin_at_once_and_then_as_workers_come_free() -> None:
    """Nobody waits while a worker is idle, so no idle work is lost."""
    jobs = [Job(arrival=1.0, service=4.0), Job(arrival=2.0, service=1.0), Job(arrival=2.5, service=1.0)]
    courses = model.courses(jobs, way=None, first=[0.0, 0.0])
    assert [(course.begun, course.finished) for course in courses] == [(1.0, 5.0), (2.0, 3.0), (3.0, 4.0)]
    assert model.idle_work_lost(courses, workers=2) == 0.0


def test_idle_work_lost_counts_what_was_idle_and_what_was_waiting() -> None:
    """Two jobs wait 3 s while one worker is idle: 3 worker-seconds, not 6."""
    courses = [Course(arrival=0.0, begun=3.0, finished=4.0), Course(arrival=0.0, begun=4.0, finished=5.0)]
    assert model.idle_work_lost(courses, workers=1) == 3.0
    assert model.idle_work_lost(courses, workers=2) == 3.0 * 2 + 1.0
    told = model.summary(courses, workers=2)
    assert (told["mean_ms"], told["worst_ms"], told["lost_per_job_s"]) == (3500.0, 4000.0, 3.5)


def test_stream_has_its_rate_and_service_and_comes_again_with_its_seed() -> None:
    """The same seed is the same run; the draws have the stated means."""
    jobs = model.stream(seed=8, rate=50.0, seconds=100.0, service=SERVICE)
    assert jobs == model.stream(seed=8, rate=50.0, seconds=100.0, service=SERVICE)
    assert jobs != model.stream(seed=9, rate=50.0, seconds=100.0, service=SERVICE)
    assert len(jobs) == pytest.approx(5000, rel=0.05)
    assert statistics.mean(job.service for job in jobs) == pytest.approx(5.0, rel=0.05)
    assert all(2.0 <= job.service <= 8.0 and 0 <= job.arrival < 100.0 for job in jobs)


def test_begun_curve_goes_from_the_first_to_all() -> None:
    """The plot shows the first job and the last, and shares that only grow."""
    courses = [Course(arrival=5.0, begun=5.0 + number, finished=99.0) for number in range(1000)]
    curve = model.begun_curve(courses, points=50)
    assert curve[0] == (0.0, 0.001)
    assert curve[-1] == (999.0, 1.0)
    assert len(curve) == 51
    assert curve == sorted(curve)


def test_model_without_jobs_or_interval_is_refused() -> None:
    """Nothing measured is not a mean of zero, and an interval of nothing is no polling."""
    with pytest.raises(ValueError, match="no jobs"):
        model.summary([], workers=1)
    with pytest.raises(ValueError, match="interval"):
        Polling(interval=0.0)


@settings(max_examples=60, deadline=None)
@given(
    arrivals=st.lists(st.floats(0, 50), min_size=1, max_size=40),
    workers=st.integers(1, 8),
    interval=st.floats(0.1, 20),
    eager=st.booleans(),
    seed=st.integers(0, 1 << 32),
)
def test_polling_never_beats_connections_and_loses_no_job(
    arrivals: list[float], workers: int, interval: float, eager: bool, seed: int
) -> None:
    """Every job is done once, by a worker that has no other; none begins before it arrives, or earlier by polling."""
    jobs = [Job(arrival=arrival, service=1.5) for arrival in arrivals]
    polled = model.simulate(jobs, workers=workers, way=Polling(interval=interval, eager=eager), seed=seed)
    connected = model.simulate(jobs, workers=workers, way=None, seed=seed)
    assert sorted(course.arrival for course in polled) == sorted(arrivals)
    for asked, told in zip(polled, connected, strict=True):
        assert asked.begun >= told.begun - 1e-9 >= told.arrival - 2e-9
    for course in polled:
        together = [c for c in polled if c.begun <= course.begun < c.finished - 1e-9]
        assert len(together) <= workers
    assert model.idle_work_lost(connected, workers=workers) == pytest.approx(0.0, abs=1e-6)
