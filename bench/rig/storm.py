"""A reconnect storm: all workers lose their connections at one moment and come again as fast as they can."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.apache import ADMISSION_PATH
from rig.home import data_processes
from rig.processes import BenchFailed, Rig, Server, Standing, cpu_by_process, cpu_seconds, cpu_since
from rig.stage import OURS, REVERSE_PATH, Options, Stage, Turn, another, new_report, stage, take_turns

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
    with stage(options, peers=peers) as on, contextlib.ExitStack() as running:
        report = new_report("storm", options, settings, peers)
        second = running.enter_context(
            another(options, folder=on.folder, origin=on.origin, name=BARE, workers=options.workers)
        )
        ours = trusting(on.home.worker.rig_arguments(on.gateway.port, REVERSE_PATH))
        own = trusting(second.home.worker.rig_arguments(second.server.port, REVERSE_PATH))
        workers = running.enter_context(crowd(on.rig, ours, options.workers))
        turns = {
            OURS: storms(on.gateway, workers),
            BARE: storms(second.server, running.enter_context(crowd(on.rig, [*own, "--bare"], few))),
        }
        for name, server in on.peers.items():
            arguments = [*trusting(on.home.client.rig_arguments(server.port, ADMISSION_PATH)), "--bare"]
            turns[name] = storms(server, running.enter_context(crowd(on.rig, arguments, options.workers)))
        results = take_turns(report, turns, options, warm_up=False)
        return report.finish(**results, **killed(on, workers))


def trusting(arguments: list[str | Path]) -> list[str | Path]:
    """Without the root certificate: who does not look at the server's path has more time for handshakes."""
    at = arguments.index("--ca")
    return [*arguments[:at], *arguments[at + 2 :]]


def crowd(rig: Rig, arguments: Sequence[str | Path], count: int) -> contextlib.AbstractContextManager[Standing]:
    """All of them, for the first time."""
    size = ["--conns", str(count), "--dials", str(DIALS), "--rounds"]
    return rig.standing("idle", [*arguments, *size], seconds=3600)


def storms(server: Server, standing: Standing) -> Turn:
    """A turn that cuts them and waits until all are back."""

    def once(_: float) -> Mapping[str, float]:
        before, rig_before = cpu_by_process(server.pid), cpu_seconds(standing.process.pid)
        counts = standing.round(STORM_SECONDS)
        return {
            "per_s": counts["conns"] / counts["ready_s"],
            "total_s": counts["ready_s"],
            "cpu_us": cpu_since(server.pid, before) * 1e6 / counts["conns"],
            "p50_ms": counts["p50_us"] / 1000,
            "p99_ms": counts["p99_us"] / 1000,
            "rig_cpu_us": (cpu_seconds(standing.process.pid) - rig_before) * 1e6 / counts["conns"],
        }

    return once


def killed(on: Stage, workers: Standing) -> dict[str, float]:
    """One storm after the data process was killed: from SIGKILL until all workers are back with its successor."""
    victims = data_processes(on.home)
    for pid in victims:
        os.kill(pid, signal.SIGKILL)
    before = cpu_by_process(on.gateway.pid)
    counts = workers.round(STORM_SECONDS, allow=frozenset({"tcp", "tls", "io"}))
    if set(victims) & set(data_processes(on.home)):
        raise BenchFailed("a killed data process is said to be there still")
    spent = cpu_since(on.gateway.pid, before)
    return {"killed_total_s": counts["ready_s"], "killed_cpu_us": spent * 1e6 / counts["conns"]}
