"""A reconnect storm: all workers lose their connections at one moment and come again as fast as they can."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from typing import Any

from rig.peers import ADMISSION_PATH
from rig.processes import BenchFailed, Standing, cpu_by_process, cpu_seconds, cpu_since
from rig.testbed import REVERSE_PATH, Options, Target, Testbed, Turn, open_testbed, take_turns

DIALS = 256
BARE = "bare"
BARE_SHARE = 5
STORM_SECONDS = 120.0


def storm(options: Options) -> dict[str, Any]:
    """N workers are cut at once (reset, as when a router forgets them) and dial again, 256 under way at a time.

    `total_s` is from the cut until the last one is back: for ours with TLS, challenge, Digest, policy and 101, and with
    N dead connections to clear away. The bare handshakes beside it are N mutual-TLS handshakes of the same rig with
    HAProxy and nothing more, and a fifth as many with a second gateway of ours (`bare`). `cpu_us` is the server's
    processor time of one, `rig_cpu_us` the rig's, which spares itself the path of the server's certificate: where that
    is more, the rig was the slower end and `cpu_ratio` says more than `ratio`.

    `killed_total_s` is one storm more, in which the data process is killed (SIGKILL) and its successor, which the
    supervisor starts, has to be up first.
    """
    peers = tuple(name for name in options.peers if name == "haproxy")
    few = max(1, options.workers // BARE_SHARE)
    settings = {"workers": options.workers, "dials_under_way": min(DIALS, options.workers), "own_bare": few}
    with open_testbed(options, peers=peers) as on:
        on.gateway(BARE)
        report = on.report("storm", {**settings, "chain": options.chain})
        workers = {
            name: crowd(on, target, few if name == BARE else options.workers, bare=name in {BARE, *peers})
            for name, target in on.targets.items()
        }
        turns = {name: storms(on.targets[name], standing) for name, standing in workers.items()}
        results = take_turns(report, turns, options, warm_up=False)
        return report.finish(**results, **killed(on.ours, workers[on.ours.name]))


def crowd(on: Testbed, target: Target, count: int, *, bare: bool) -> Standing:
    """All of them, for the first time; `bare`: they shake hands and ask nothing."""
    bundle, path = (target.home.worker, REVERSE_PATH) if target.is_ours else (target.home.client, ADMISSION_PATH)
    arguments = bundle.rig_arguments(target.server.port, path)
    at = arguments.index("--ca")  # who does not look at the server's path has more time for handshakes
    arguments[at : at + 2] = ["--conns", str(count), "--dials", str(DIALS), "--rounds", *(["--bare"] if bare else [])]
    return on.running.enter_context(on.rig.standing("idle", arguments))


def storms(target: Target, standing: Standing) -> Turn:
    """A turn that cuts them and waits until all are back."""

    def once(_: float) -> Mapping[str, float]:
        before, rig_before = cpu_by_process(target.server.pid), cpu_seconds(standing.process.pid)
        counts = standing.round(STORM_SECONDS)
        return {
            "per_s": counts["conns"] / counts["ready_s"],
            "total_s": counts["ready_s"],
            "cpu_us": cpu_since(target.server.pid, before) * 1e6 / counts["conns"],
            "p50_ms": counts["p50_us"] / 1000,
            "p99_ms": counts["p99_us"] / 1000,
            "rig_cpu_us": (cpu_seconds(standing.process.pid) - rig_before) * 1e6 / counts["conns"],
        }

    return once


def killed(target: Target, workers: Standing) -> dict[str, float]:
    """One storm after the data process was killed: from SIGKILL until all workers are back with its successor."""
    victims = target.home.data_processes()
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    before = cpu_by_process(target.server.pid)
    counts = workers.round(STORM_SECONDS, allow=frozenset({"tcp", "tls", "io"}))
    if set(victims) & set(target.home.data_processes()):
        raise BenchFailed("a killed data process is said to be there still")
    spent = cpu_since(target.server.pid, before)
    return {"killed_total_s": counts["ready_s"], "killed_cpu_us": spent * 1e6 / counts["conns"]}
