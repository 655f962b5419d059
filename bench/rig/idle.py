"""Idle workers: what each costs in memory, and all of them in processor time and bytes while nothing happens."""

from __future__ import annotations

import statistics
import time
from typing import Any

from rig.peers import ADMISSION_PATH
from rig.processes import Standing, cpu_seconds, pss_kib, tree
from rig.testbed import CROWD, OURS, REVERSE_PATH, Options, Target, Testbed, open_testbed

FIRST_WORKERS = 200
WITHOUT_THREADS = ("nginx", "haproxy", "envoy")
WINDOWS = 5
LONG_WINDOW, MANY_WORKERS = 7.0, 5000
SETTLE_SECONDS = 2.0


def idle(options: Options) -> dict[str, Any]:
    """Memory of one idle connection, and processor time and traffic of all of them while nothing happens.

    Memory is the growth of a server's processes by N silent connections, divided by N. Ours are admitted workers under
    the default liveness limits; their keys are of `key_type`, and they present themselves as `chain` says. The peers'
    are keep-alive connections of clients after one answer; Apache, which may give each a thread, is left out. All
    crowds stay, then nobody does anything in five windows of 7 s (`--seconds` with fewer than 5,000 workers):
    `cpu_percent` is of one core, for the whole process tree; `http_bytes` what our workers read and wrote inside TLS,
    `wire_bytes` its records.
    """
    peers = tuple(name for name in options.peers if name in WITHOUT_THREADS)
    window = LONG_WINDOW if options.workers >= MANY_WORKERS else options.seconds
    settings = {"workers": options.workers, "key_type": options.key_type, "chain": options.chain}
    with open_testbed(options, peers=peers) as on:
        report = on.report("idle", {**settings, "windows": f"{WINDOWS} of {window:g} s"})
        standing: dict[str, Standing] = {}
        # What is loaded and grown once must not be divided among the workers, and memory that a first crowd left behind
        # must not hide what a second one needs: so the first ones stay while the others come.
        results: dict[str, float] = {}
        for name, target in on.targets.items():
            silent(on, target, min(FIRST_WORKERS, options.workers))
            measured = target.home.data_processes() if target.is_ours else tree(target.server.pid)
            before = sum(map(pss_kib, measured))
            standing[name] = silent(on, target, options.workers)
            full = sum(map(pss_kib, measured))
            kib = (full - before) / options.workers
            column = "kib_per_worker" if target.is_ours else "kib_per_connection"
            results[column if name == OURS else f"{name}_{column}"] = kib
            report.row(server=name, workers=options.workers, before_kib=before, full_kib=full, kib_per_worker=kib)
        time.sleep(SETTLE_SECONDS)
        report.data["windows"] = quiet_windows(on, standing[OURS], window)
        for column in report.data["windows"][0]:
            results[column] = statistics.median(one[column] for one in report.data["windows"])
        return report.finish(**results)


def silent(on: Testbed, target: Target, count: int) -> Standing:
    """So many silent connections more at one server."""
    if target.is_ours:
        arguments = target.home.worker.rig_arguments(target.server.port, REVERSE_PATH)
    else:
        arguments = target.home.client.rig_arguments(target.server.port, ADMISSION_PATH)
        arguments += ["--upgrade", "none", "--method", "GET"]
    return on.running.enter_context(on.rig.standing("idle", [*arguments, "--conns", str(count), *CROWD]))


def quiet_windows(on: Testbed, workers: Standing, seconds: float) -> list[dict[str, float]]:
    """Windows in which nobody does anything: what each server used, and what our workers saw, in each."""
    windows = []
    workers.round(seconds)
    for _ in range(WINDOWS):
        before = {name: cpu_seconds(target.server.pid) for name, target in on.targets.items()}
        began = time.monotonic()
        time.sleep(seconds)
        spent = {name: cpu_seconds(target.server.pid) - before[name] for name, target in on.targets.items()}
        took = time.monotonic() - began
        counts = workers.round(seconds)
        window = {f"{name}_cpu_percent": 100 * used / took for name, used in spent.items()}
        window["http_bytes"] = (counts["mb_in"] + counts["mb_out"]) * 1e6
        window["wire_bytes"] = float(counts["wire_in"] + counts["wire_out"])
        windows.append(window)
    return windows
