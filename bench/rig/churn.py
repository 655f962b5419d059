"""Ten thousand workers in a hundred pools, held by two data processes, while workers join and leave all the time."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Mapping
from typing import Any

from rig.home import gateway_status, identities_file
from rig.processes import Standing, cpu_by_process, cpu_since
from rig.report import median
from rig.stage import CROWD, MIDDLE, TAIL, Gateway, Options, Turn, another, bare_stage, new_report, take_turns

POOLS = 100
CHURN_PER_SECOND = 100
DISPATCHES_PER_SECOND = 1000
MASTERS_CONNECTIONS = 64
STAND_SECONDS = 3600.0
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
    settings = {
        "workers": options.workers,
        "pools": pools,
        "processes": 2,
        "churn_per_s": CHURN_PER_SECOND,
        "dispatches_per_s": DISPATCHES_PER_SECOND,
    }
    with bare_stage(options) as (rig, folder, origin), contextlib.ExitStack() as running:
        report = new_report("churn", options, settings, ())
        room = options.workers + CHURN_PER_SECOND
        gateway = running.enter_context(
            another(
                options, folder=folder, origin=origin, name="two", workers=room, processes=2, pools=pools, core=None
            )
        )
        identities = identities_file(gateway.home, pools)
        crowd = ["--port", str(gateway.server.port), "--ca", str(gateway.home.root), "--identities", str(identities)]
        crowd += ["--conns", str(options.workers), *CROWD, "--churn", str(CHURN_PER_SECOND)]
        workers = running.enter_context(rig.standing("worker", crowd, seconds=STAND_SECONDS, core=None))
        workers.process.send_signal(signal.SIGUSR2)  # quiet until a turn wants it
        masters = ["--plain", "--port", str(gateway.dispatch), "--path", "/-/pools/pool-{}/any/job"]
        masters += ["--paths", str(pools), "--conns", str(MASTERS_CONNECTIONS), "--rounds"]
        masters += ["--rate", str(DISPATCHES_PER_SECOND)]
        standing = running.enter_context(rig.standing("client", masters, seconds=options.seconds, core=None))
        turns = {
            "churn": dispatches(gateway, standing, workers, churning=True),
            "calm": dispatches(gateway, standing, workers, churning=False),
        }
        results = take_turns(report, turns, options, ratios=(MIDDLE, TAIL))
        held = [int(one["connections"].get("worker", 0)) for one in gateway_status(gateway.home)["processes"]]
        results |= {f"workers_in_p{number}": count for number, count in enumerate(held)}
        results["failed_in_all_rounds"] = sum(report.column("churn_failed")) + sum(report.column("calm_failed"))
        results["joins_per_s"] = median(report.column("churn_joins_per_s"))
        return report.finish(**results)


def dispatches(gateway: Gateway, standing: Standing, workers: Standing, *, churning: bool) -> Turn:
    """A turn of dispatches over all pools, while workers come and go or not."""

    def once(seconds: float) -> Mapping[str, float]:
        if churning:
            workers.process.send_signal(signal.SIGUSR2)
        workers.round(seconds, allow=REDIALED)
        before, retried = cpu_by_process(gateway.server.pid), counted(gateway, "retries")
        counts = standing.round(seconds, allow=frozenset({"status", "first_bad_status"}))
        spent = cpu_since(gateway.server.pid, before)
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
            "retried": counted(gateway, "retries") - retried,
            "gateway_cpu_percent": 100 * spent / counts["seconds"],
        }

    return once


def counted(gateway: Gateway, name: str) -> int:
    """One of the gateway's counters, over all processes."""
    return sum(int(one.get("counters", {}).get(name, 0)) for one in gateway_status(gateway.home)["processes"])
