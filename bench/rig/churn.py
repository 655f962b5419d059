"""Ten thousand workers in a hundred pools, held by two data processes, while workers join and leave all the time."""

from __future__ import annotations

import signal
import statistics
from collections.abc import Mapping
from typing import Any

from rig.home import pool_name
from rig.processes import Standing, cpu_by_process, cpu_since
from rig.testbed import CROWD, MIDDLE, TAIL, Options, Target, Turn, open_testbed, take_turns

POOLS = 100
CHURN_PER_SECOND = 100
DISPATCHES_PER_SECOND = 1000
MASTERS_CONNECTIONS = 64
REDIALED = frozenset({"io"})


def churn(options: Options) -> dict[str, Any]:
    """Latency of dispatches over all pools while 100 workers a second leave and as many join, and while none does.

    N workers in 100 pools, whose workers share a certificate for each pool (the name in it decides about the pool);
    two data processes hold them, wherever the kernel put their connections. 1,000 dispatches a second come at random
    moments, each to the next pool, on 64 connections to the dispatch listener; latency counts from the moment when a
    dispatch was due. `failed` are those that had no good answer, `retried` those that the gateway sent once more,
    because the worker had left; `redialed` are workers whose connection was closed before they were admitted.
    """
    pools = min(POOLS, options.workers)
    rates = {"churn_per_s": CHURN_PER_SECOND, "dispatches_per_s": DISPATCHES_PER_SECOND}
    with open_testbed(options, bare=True) as on:
        target = on.gateway(workers=options.workers + CHURN_PER_SECOND, processes=2, pools=pools, core=None)
        report = on.report("churn", {"workers": options.workers, "pools": pools, "processes": 2, **rates})
        names = [pool_name(number) for number in range(pools)]
        identities = target.home.identities_file(
            {f"worker-{name}": (("issue-worker", "--pool", name), f"/-/reverse/{name}") for name in names}
        )
        crowd = ["--port", str(target.server.port), "--ca", str(target.home.certificate("root"))]
        crowd += ["--identities", str(identities), "--conns", str(options.workers), *CROWD]
        crowd += ["--churn", str(CHURN_PER_SECOND)]
        workers = on.running.enter_context(on.rig.standing("worker", crowd, core=None))
        workers.process.send_signal(signal.SIGUSR2)  # quiet until a turn wants it
        paced = ("--paths", str(pools), "--rate", str(DISPATCHES_PER_SECOND))
        masters = on.masters(
            target, MASTERS_CONNECTIONS, *paced, seconds=options.seconds, path="/-/pools/pool-{}/any/job", core=None
        )
        standing = on.running.enter_context(masters)
        turns = {
            "churn": dispatches(target, standing, workers, churning=True),
            "calm": dispatches(target, standing, workers, churning=False),
        }
        results = take_turns(report, turns, options, ratios=(MIDDLE, TAIL))
        held = target.home.counted("connections", "worker")
        results |= {f"workers_in_p{number}": count for number, count in enumerate(held)}
        results["failed_in_all_rounds"] = sum(report.column("churn_failed")) + sum(report.column("calm_failed"))
        results["joins_per_s"] = statistics.median(report.column("churn_joins_per_s"))
        return report.finish(**results)


def dispatches(target: Target, standing: Standing, workers: Standing, *, churning: bool) -> Turn:
    """A turn of dispatches over all pools, while workers come and go or not."""

    def retries() -> int:
        return sum(target.home.counted("counters", "retries"))

    def once(seconds: float) -> Mapping[str, float]:
        if churning:
            workers.process.send_signal(signal.SIGUSR2)
        workers.round(seconds, allow=REDIALED)
        before, retried = cpu_by_process(target.server.pid), retries()
        counts = standing.round(seconds, allow=frozenset({"status", "first_bad_status"}))
        spent = cpu_since(target.server.pid, before)
        moved = workers.round(seconds, allow=REDIALED)
        if churning:
            workers.process.send_signal(signal.SIGUSR2)
        return {
            "p50_us": counts["p50_us"],
            "p99_us": counts["p99_us"],
            "per_s": counts["per_second"],
            "joins_per_s": moved["left"] / moved["seconds"],
            "failed": counts["errors"]["status"],
            "redialed": moved["errors"]["io"],
            "retried": retries() - retried,
            "gateway_cpu_percent": 100 * spent / counts["seconds"],
        }

    return once
