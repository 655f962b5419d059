"""Idle workers: what each costs in memory, and all of them in processor time and bytes while nothing happens."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.apache import ADMISSION_PATH
from rig.home import data_processes
from rig.processes import RIG_CORE, Server, Standing, cpu_seconds, pss_kib, tree
from rig.report import median
from rig.stage import CROWD, OURS, REVERSE_PATH, Options, Stage, new_report, stage

FIRST_WORKERS = 200
WITHOUT_THREADS = ("nginx", "haproxy", "envoy")
WINDOWS = 5
LONG_WINDOW, MANY_WORKERS = 7.0, 5000
SETTLE_SECONDS = 2.0


def idle(options: Options) -> dict[str, Any]:
    """Memory of one idle connection, and processor time and traffic of all of them while nothing happens.

    Memory is the growth of a server's processes by N silent connections, divided by N. Ours are admitted workers under
    the default liveness limits. The peers' are keep-alive connections after one answer; Apache, which may give each a
    thread, is left out. All crowds stay, then nobody does anything in five windows of 7 s (`--seconds` with fewer than
    5,000 workers): `cpu_percent` is of one core, for the whole process tree; `http_bytes` what our workers read and
    wrote inside TLS, `wire_bytes` its records.
    """
    peers = tuple(name for name in options.peers if name in WITHOUT_THREADS)
    window = LONG_WINDOW if options.workers >= MANY_WORKERS else options.seconds
    windows = f"{WINDOWS} of {window:g} s"
    settings = {"workers": options.workers, "windows": windows}
    with stage(options, peers=peers) as on, contextlib.ExitStack() as crowds:
        report = new_report("idle", options, settings, peers)
        standing: dict[str, Standing] = {}
        # What is loaded and grown once must not be divided among the workers, and memory that a first crowd left behind
        # must not hide what a second one needs: so the first ones stay while the others come.
        results: dict[str, float] = {}
        for name, server in on.servers().items():
            crowds.enter_context(held(on, name, server, min(FIRST_WORKERS, options.workers)))
            measured = data_processes(on.home) if name == OURS else tree(server.pid)
            before = sum(map(pss_kib, measured))
            standing[name] = crowds.enter_context(held(on, name, server, options.workers))
            full = sum(map(pss_kib, measured))
            kib = (full - before) / options.workers
            results["kib_per_worker" if name == OURS else f"{name}_kib_per_connection"] = kib
            report.row(server=name, workers=options.workers, before_kib=before, full_kib=full, kib_per_worker=kib)
        time.sleep(SETTLE_SECONDS)
        quiet = quiet_windows(on.servers(), standing[OURS], window)
        report.data["windows"] = quiet
        for column in quiet[0]:
            results[column] = median([one[column] for one in quiet])
        return report.finish(**results)


def held(on: Stage, name: str, server: Server, count: int) -> contextlib.AbstractContextManager[Standing]:
    """So many silent connections more at one server."""
    arguments: Sequence[str | Path]
    if name == OURS:
        arguments = on.home.worker.rig_arguments(server.port, REVERSE_PATH)
    else:
        arguments = [*on.home.client.rig_arguments(server.port, ADMISSION_PATH), "--upgrade", "none", "--method", "GET"]
    size = ["--conns", str(count), *CROWD]
    return on.rig.standing("idle", [*arguments, *size], seconds=3600, core=RIG_CORE)


def quiet_windows(servers: Mapping[str, Server], workers: Standing, seconds: float) -> list[dict[str, float]]:
    """Windows in which nobody does anything: what each server used, and what our workers saw, in each."""
    windows = []
    workers.round(seconds)
    for _ in range(WINDOWS):
        before = {name: cpu_seconds(server.pid) for name, server in servers.items()}
        began = time.monotonic()
        time.sleep(seconds)
        spent = {name: cpu_seconds(server.pid) - before[name] for name, server in servers.items()}
        took = time.monotonic() - began
        counts = workers.round(seconds)
        window = {f"{name}_cpu_percent": 100 * used / took for name, used in spent.items()}
        window["http_bytes"] = (counts["mb_in"] + counts["mb_out"]) * 1e6
        window["wire_bytes"] = float(counts["wire_in"] + counts["wire_out"])
        windows.append(window)
    return windows
