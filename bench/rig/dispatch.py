"""Measurements of reversed connections: work that goes down to workers, relayed and hosted, and how one is cut off."""

from __future__ import annotations

import contextlib
import statistics
import subprocess
import time
from pathlib import Path
from typing import Any

from rig.home import POOL, Bundle
from rig.processes import RIG_CORE, BenchFailed, Rig, Standing, pinned, told_line
from rig.testbed import (
    BEFORE,
    CPU,
    OURS,
    REVERSE_PATH,
    SPEED,
    TAIL,
    Options,
    Target,
    Testbed,
    Turn,
    counted,
    open_testbed,
    take_turns,
)

MOST_RELAYED = 4000
"""Workers that one process relays: each takes two of its descriptors."""
MASTERS_CONNECTIONS = 32


def standing_master(
    rig: Rig, *, port: int, conns: int, seconds: float, flying: int = 0, core: int | None = RIG_CORE
) -> contextlib.AbstractContextManager[Standing]:
    """A master on `port` for at most `conns` connections, whose rounds last `seconds`; ready on entry.

    `flying` requests are under way, each down the connection that is idle longest; 0: one on each connection.
    """
    arguments = ["--rounds", "--port", str(port), "--conns", str(conns), "--flying", str(flying)]
    return rig.standing("master", arguments, seconds=seconds, core=core)


def relayed_workers(
    on: Testbed, target: Target, count: int, *, flying: int = 0, core: int | None = RIG_CORE
) -> Standing:
    """A master whose `count` workers reached it through the target; they stay until the testbed ends."""
    master = standing_master(
        on.rig, port=target.master, conns=count + 8, seconds=on.options.seconds, flying=flying, core=core
    )
    standing = on.running.enter_context(master)
    on.running.enter_context(on.crowd(target, count, core=core, relayed=True))
    return standing


def relayed(options: Options) -> dict[str, Any]:
    """Dispatches through a relay: the rig's master keeps one request outstanding on each of N reversed connections.

    Ours admits with Digest and policy, reads the switch, then passes bytes. HAProxy ends mutual TLS under a rule and
    passes bytes from the first one on.
    """
    peers = tuple(name for name in options.peers if name == "haproxy")
    with open_testbed(options, peers=peers) as on:
        report = on.report("relayed", {"workers": options.workers, "depth": 1})
        turns = {
            name: counted(target, relayed_workers(on, target, options.workers).round)
            for name, target in on.targets.items()
        }
        return report.finish(**take_turns(report, turns, options, ratios=(SPEED, CPU, TAIL)))


def hosted(options: Options) -> dict[str, Any]:
    """Dispatches through `/-/pools/POOL/any/` to N workers that the gateway keeps, on the dispatch listener over TCP.

    `ratio_relayed` compares with dispatches that the same gateway relays to as many workers (4,000 at most), as many at
    a time and always to the one that is idle longest, as the pool has it. With N from small to large it is to be seen
    whether finding a free worker costs more in a large pool.
    """
    conns = min(MASTERS_CONNECTIONS, options.workers)
    beside = min(MOST_RELAYED, options.workers)
    settings = {"workers": options.workers, "conns": conns, "relayed_workers": beside}
    with open_testbed(options, workers=options.workers + beside) as on:
        report = on.report("hosted", settings)

        def dispatches(target: Target) -> Turn:
            on.running.enter_context(on.crowd(target, options.workers, core=RIG_CORE))
            masters = on.masters(target, conns, seconds=options.seconds, core=RIG_CORE)
            return counted(target, on.running.enter_context(masters).round)

        turns = {"hosted": dispatches(on.ours)}
        turns["relayed"] = counted(on.ours, relayed_workers(on, on.ours, beside, flying=conns).round)
        if BEFORE in on.targets:
            turns[BEFORE] = dispatches(on.targets[BEFORE])
        return report.finish(**take_turns(report, turns, options))


def revocation(options: Options) -> dict[str, Any]:
    """From the start of `rhttp-pki revoke NAME` to the close of that worker's idle connection, in milliseconds.

    `started` is how long the command takes to start and do nothing (`--help`), in the same round: what is left of
    `closed` is revoking and cutting. `returned` is when the command, which waits for the cut, has ended.
    """
    with open_testbed(options, bare=True) as on:
        target = on.gateway(OURS)
        report = on.report("revocation", {})
        names = [f"revoked-{number}" for number in range(1, options.rounds + 1)]
        target.home.order(*(("issue-worker", name, "--pool", POOL) for name in names))
        for number, name in enumerate(names, 1):
            report.row(hidden=(), round=number, **revoked_once(on, target, target.home.bundle(name)))
        columns = ("started_ms", "closed_ms", "returned_ms", "closed_after_start_ms")
        return report.finish(**{f"median_{name}": statistics.median(report.column(name)) for name in columns})


def revoked_once(on: Testbed, target: Target, bundle: Bundle) -> dict[str, float]:
    """Admit the worker, revoke it, and take the times."""
    home = target.home
    began = time.monotonic()
    quiet(home.command, "--help").wait(60)
    started = time.monotonic() - began
    arguments = [*bundle.rig_arguments(target.server.port, REVERSE_PATH), "--conns", "1"]
    with on.rig.standing("idle", arguments, seconds=120) as worker:
        began = time.monotonic()
        command = quiet(home.command, "revoke", bundle.name, "--home", str(home.folder))
        try:
            if told_line(worker.process, 30) != "closed":
                raise BenchFailed(f"the connection of {bundle.name} was not closed: {target.server.complaint()}")
            closed = time.monotonic() - began
            if command.wait(30):
                raise BenchFailed(f"rhttp-pki revoke {bundle.name} failed with status {command.returncode}")
            returned = time.monotonic() - began
        finally:
            if command.poll() is None:
                command.kill()
                command.wait()
    times = {"started": started, "closed": closed, "returned": returned, "closed_after_start": closed - started}
    return {f"{name}_ms": value * 1000 for name, value in times.items()}


def quiet(command: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of ours, on the rig core as everything that is not the server, its output thrown away."""
    nothing = subprocess.DEVNULL
    return subprocess.Popen(pinned(RIG_CORE, [command, *arguments]), stdin=nothing, stdout=nothing, stderr=nothing)
