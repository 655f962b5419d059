"""What polling costs: jobs that come to workers that poll, to polls that are held, and to reversed connections.

All workers are real connections through one gateway. The same jobs are then given to the model of `pollmodel`, whose
answer stands beside what was measured, and which goes on to ten times as many workers.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import resource
import statistics
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from rig import pollmodel as model
from rig.pollmaster import HOLD_SECONDS, JobQueue, Ledger, MasterEnd, now, sleep_until
from rig.pollmodel import Course, Job, Polling, begun_curve, summary
from rig.pollworkers import Crowd, Pollers, Reversed
from rig.processes import BenchFailed, cpu_seconds, free_port, tree
from rig.report import Report
from rig.testbed import Options, Target, Testbed, open_testbed

SEED = 7616
MODEL_SEEDS = range(5)  # the phases of real workers are one draw; the model's figures are means over several
JOBS_PER_WORKER = 0.025  # a second, in a stream
SERVICE = (2.0, 8.0)
BURST_PER_WORKER = 2
SIMULATED_WORKERS = 10_000
SIMULATED_SECONDS = 60.0
SWEEP = (0.02, 0.05, 0.1, 0.125, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SWEEP_SEEDS = range(3)
SWEEP_SETTLED, SWEEP_END = 60.0, 180.0
KEEPS_UP = 0.97  # above, the queue grows for as long as one looks
PATIENCE = 120.0
LOOK_SECONDS, SETTLE_SECONDS = 0.02, 3.0
DESCRIPTORS = 16_000
HIDDEN = ("p50_ms", "model_p50_ms", "p99_ms", "model_p99_ms")
RESULTS = ("mean_ms", "lost_per_job_s")
WAYS: Mapping[str, Polling | None] = {
    "reversed": None,
    "held": None,
    "eager_3s": Polling(interval=3.0, eager=True),
    "timer_3s": Polling(interval=3.0),
    "eager_30s": Polling(interval=30.0, eager=True),
    "timer_30s": Polling(interval=30.0),
}


class Batch(NamedTuple):
    """Crowds that are measured together: the first alone while idle, then all, each with its own jobs."""

    ways: tuple[str, ...]
    idle_seconds: float
    stream_seconds: float


# Pollers at 30 s are 33 requests a second: what is measured beside them is not disturbed by more than that.
BATCHES = (
    Batch(("reversed",), 5.0, 15.0),
    Batch(("timer_3s", "eager_3s"), 6.0, 15.0),
    Batch(("timer_30s", "eager_30s", "held"), 15.0, 30.0),
)


class Place(NamedTuple):
    """Where the crowds of one run meet."""

    on: Testbed
    target: Target
    master: int
    workers: int


class Seen(NamedTuple):
    """What was measured of one crowd: the courses of its jobs, and, of a batch's first, what idling cost.

    `idle` has requests and the gateway's processor time; `late` is by how much the bench itself was late, per load, in
    seconds: 99 of 100 of its timers did better.
    """

    stream: list[Course]
    burst: list[Course]
    idle: Mapping[str, float]
    late: Mapping[str, float]


def polling(options: Options) -> dict[str, Any]:
    """Waits and idle work lost of `--workers` real workers of each kind, the model's beside them, and 10,000 simulated.

    `wait` is from a job's arrival at the master to the worker's first byte of it. `lost` is ∫ min(idle workers, waiting
    jobs) dt, for each job. *eager* pollers ask again at once when a job is done, *timer* pollers at fixed ticks.
    """
    settings = {
        "workers": options.workers,
        "jobs_per_s": JOBS_PER_WORKER * options.workers,
        "service_s": f"{SERVICE[0]:g}-{SERVICE[1]:g}",
        "busy": JOBS_PER_WORKER * statistics.mean(SERVICE),
        "burst_jobs": BURST_PER_WORKER * options.workers,
        "hold_s": HOLD_SECONDS,
        "simulated": SIMULATED_WORKERS,
        "seed": SEED,
    }
    results: dict[str, float] = {}
    curves: dict[str, Any] = {}
    many = SIMULATED_WORKERS
    with place(options) as where:
        report = where.on.report("polling", settings)
        for batch in BATCHES:
            try:
                found = asyncio.run(measured(where, batch))
            except BenchFailed as error:
                raise BenchFailed(f"{error}; the gateway's log ends: {where.target.server.complaint()}") from error
            for way, seen in found.items():
                results |= {f"{way}_idle_{name}": value for name, value in seen.idle.items()}
                stream, burst = stream_jobs(options.workers, batch.stream_seconds), burst_jobs(options.workers)
                for load, jobs, real in (("stream", stream, seen.stream), ("burst", burst, seen.burst)):
                    results |= tell(report, way, load, options.workers, jobs, real=real, late=seen.late[load])
                modelled = model.simulate(burst, workers=options.workers, way=WAYS[way], seed=SEED)
                curves[way] = {"measured": begun_curve(seen.burst), "modelled": begun_curve(modelled)}
    for way in WAYS:
        results |= tell(report, way, "stream", many, stream_jobs(many, SIMULATED_SECONDS))
        results |= tell(report, way, "burst", many, burst_jobs(many))
    finished = report.finish(**results)
    return {**finished, "curves": curves, "sweep": sweep(options.workers)}


@contextlib.contextmanager
def place(options: Options) -> Iterator[Place]:
    """A home with one client for each crowd of pollers, and the gateway; gone afterwards."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, DESCRIPTORS), hard))
    master = free_port()
    clients = [client_name(way) for way in WAYS if way != "reversed"]
    with open_testbed(options, bare=True) as on:
        # Three crowds at a time, each with as many connections to the master, or a burst's on the dispatch listener.
        target = on.gateway(origin=master, workers=6 * options.workers, clients=clients)
        yield Place(on, target, master, options.workers)


def client_name(way: str) -> str:
    """The client that a crowd of pollers is, which also names its desk."""
    return f"{way.replace('_', '-')}-poller"


async def measured(where: Place, batch: Batch) -> dict[str, Seen]:
    """One batch: the first crowd idle, all with a stream of jobs, then all with a burst."""
    queues = {client_name(way): JobQueue(hold=HOLD_SECONDS if way == "held" else 0.0) for way in batch.ways}
    ends: set[MasterEnd] = set()
    loop = asyncio.get_running_loop()
    master = await loop.create_server(lambda: MasterEnd(queues, ends), "127.0.0.1", where.master)
    crowds = {way: crowd(where, way, queues) for way in batch.ways}
    late: dict[str, float] = {}
    try:
        for each in crowds.values():
            await each.connect()
        gc.collect()
        gc.freeze()  # or every collection walks thousands of connections, in the middle of what is timed
        first, *others = crowds.values()
        first.start()
        idle = await idling(where, queues[client_name(batch.ways[0])], first, batch.idle_seconds)
        for each in others:
            each.start()
        await asyncio.sleep(SETTLE_SECONDS if others else 0)  # held polls, which all begin now, have to be there
        jobs = stream_jobs(where.workers, batch.stream_seconds)
        async with lateness(late, "stream"):
            streams = await asyncio.gather(*(served(each, jobs) for each in crowds.values()))
        for each in crowds.values():
            await each.until(each.ledger.all_finished, seconds=PATIENCE, what="the last work of a stream")
            await each.expect(BURST_PER_WORKER * where.workers)
        async with lateness(late, "burst"):
            bursts = await asyncio.gather(*(served(each, burst_jobs(where.workers)) for each in crowds.values()))
    finally:
        gc.unfreeze()
        for each in crowds.values():
            await each.close()
        master.close()
        for end in ends:
            end.cut()
        await asyncio.sleep(0)  # in the loop's next turn they are gone
    return {
        way: Seen(stream, burst, idle if way == batch.ways[0] else {}, late)
        for way, stream, burst in zip(crowds, streams, bursts, strict=True)
    }


@contextlib.asynccontextmanager
async def lateness(found: dict[str, float], load: str) -> AsyncIterator[None]:
    """How late timers of this process are while the block runs: what else runs on its core is in what it measures."""
    late = [0.0]

    async def watch() -> None:
        while True:
            due = now() + LOOK_SECONDS
            await sleep_until(due)
            late.append(now() - due)

    task = asyncio.get_running_loop().create_task(watch())
    try:
        yield
    finally:
        task.cancel()
        found[load] = sorted(late)[len(late) * 99 // 100]


def crowd(where: Place, way: str, queues: Mapping[str, JobQueue]) -> Crowd:
    """The workers of one kind, not yet connected."""
    home, port, name = where.target.home, where.target.server.port, client_name(way)
    if way == "reversed":
        return Reversed(home.worker, dispatch=where.target.dispatch, workers=where.workers, port=port)
    return Pollers(home.bundle(name), queues[name], WAYS[way], workers=where.workers, port=port, seed=SEED)


async def idling(where: Place, queue: JobQueue, waiting: Crowd, seconds: float) -> dict[str, float]:
    """What an idle crowd asks of the gateway, measured for so long."""
    started, asked, cpu = now(), queue.asked, running_seconds(where.target.server.pid)
    await waiting.until(lambda: now() >= started + seconds, seconds=seconds + 5, what="idling")
    passed = now() - started
    spent = running_seconds(where.target.server.pid) - cpu
    return {"requests_per_s": (queue.asked - asked) / passed, "cpu_ms_per_s": spent * 1000 / passed}


def running_seconds(pid: int) -> float:
    """Processor time of the process and its descendants, in seconds, to the nanosecond where the kernel tells it.

    Idle pollers at 30 s need a few milliseconds a second: ticks of 10 ms are too coarse for them.
    """
    try:
        threads = [thread for member in tree(pid) for thread in Path(f"/proc/{member}/task").iterdir()]
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return cpu_seconds(pid)


async def served(crowd: Crowd, jobs: Sequence[Job]) -> list[Course]:
    """Let the jobs arrive in their time; their courses, when all have begun.

    Raises:
        BenchFailed: not all began within two minutes after the last arrived, or a connection failed.
    """
    crowd.ledger = Ledger()
    start = now()
    for job in jobs:
        await sleep_until(start + job.arrival)
        crowd.submit(job.service)
    await crowd.until(crowd.ledger.all_begun, seconds=PATIENCE, what="the beginning of all jobs")
    return crowd.ledger.courses()


def stream_jobs(workers: int, seconds: float) -> list[Job]:
    """The jobs of a stream, the same ones in every run."""
    return model.stream(seed=SEED, rate=JOBS_PER_WORKER * workers, seconds=seconds, service=SERVICE)


def burst_jobs(workers: int) -> list[Job]:
    """The jobs of a burst, the same ones in every run."""
    return model.burst(seed=SEED, jobs=BURST_PER_WORKER * workers, service=SERVICE)


def tell(
    report: Report,
    way: str,
    load: str,
    workers: int,
    jobs: Sequence[Job],
    *,
    real: Sequence[Course] = (),
    late: float | None = None,
) -> dict[str, float]:
    """A row of these jobs, measured and modelled side by side (`-` where nothing was measured), and its results.

    The model's figures are means over several draws of the phases.
    """
    seeds = MODEL_SEEDS if WAYS[way] else MODEL_SEEDS[:1]
    drawn = [summary(model.simulate(jobs, workers=workers, way=WAYS[way], seed=one), workers=workers) for one in seeds]
    measured = summary(real, workers=workers) if real else {}
    told = {f"model_{name}": statistics.mean(one[name] for one in drawn) for name in drawn[0]}
    cells: dict[str, Any] = {"way": way, "load": load, "workers": workers, "jobs": len(jobs)}
    cells |= {name: measured.get(name, "-") for name in drawn[0]} | told
    report.row(hidden=HIDDEN, **cells, bench_late_ms="-" if late is None else late * 1000)
    figures = measured or {f"{workers}_simulated_{name}": told[f"model_{name}"] for name in drawn[0]}
    return {f"{way}_{load}_{name}": value for name, value in figures.items() if name.endswith(RESULTS)}


def sweep(workers: int) -> dict[str, list[tuple[float, float]]]:
    """Simulated mean waits in seconds of each kind of poller by how busy the pool is, as far as it keeps up."""
    found: dict[str, list[tuple[float, float]]] = {}
    for name, way in WAYS.items():
        if way is None:
            continue
        found[name] = []
        for busy in SWEEP:
            rate = busy * workers / statistics.mean(SERVICE)
            settled: list[float] = []
            for seed in SWEEP_SEEDS:
                jobs = model.stream(seed=seed, rate=rate, seconds=SWEEP_END, service=SERVICE)
                courses = model.simulate(jobs, workers=workers, way=way, seed=seed)
                settled += [course.wait for course in courses if course.arrival >= SWEEP_SETTLED]
            if rate * statistics.fmean(way.pause_after(job.service) for job in jobs) > KEEPS_UP * workers:
                break
            found[name].append((busy, statistics.fmean(settled)))
    return found
