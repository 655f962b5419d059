"""Two data processes beside one: what each can do, and what it costs when they need each other."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rig.dispatch import relayed_workers
from rig.processes import RIG_CORE, BenchFailed, Standing, cpu_by_process
from rig.shares import limited
from rig.testbed import (
    BEFORE,
    CPU,
    MIDDLE,
    OURS,
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

SHARE = 0.25
WORKERS = 64
CONNECTIONS = 64
TRIES = 40


def processes(options: Options) -> list[dict[str, Any]]:
    """Authenticated requests, hosted and relayed dispatches of a gateway with two data processes and of one with one.

    Every data process is bound to a core of its own and gets a quarter of it (`shares`): it is the bottleneck, and the
    rig lives on the rest of both cores. `ratio_one` over 1.8 means that two processes do 1.8 times what one does.
    `cpu_us` is the processor time of one request, of all processes together: what two processes of any size spend.
    `share` is what the data processes used of a core, each on average: a quarter when the rig kept them busy.
    """
    settings = {"share_of_a_core": SHARE, "conns": CONNECTIONS, "workers": WORKERS, "cores": "a core each"}
    reports = []
    with open_testbed(options, bare=True) as on:
        for name, count in (("two", 2), ("one", 1)):
            target = on.gateway(name, workers=256, processes=count, core=None)
            on.running.enter_context(limited(target.home.data_processes(), SHARE))
        for kind, rounds in {"requests": client_rounds, "hosted": hosted_rounds, "relayed": relayed_rounds}.items():
            report = on.report(f"processes: {kind}", settings)
            with on.for_now():
                turns = {name: with_shares(target, rounds(on, target)) for name, target in on.targets.items()}
                reports.append(report.finish(**take_turns(report, turns, options)))
    return reports


def with_shares(target: Target, standing: Standing) -> Turn:
    """A turn of a standing rig, with the share of a core that each data process used."""
    data = target.home.data_processes()
    turn = counted(target, standing.round)

    def once(seconds: float) -> Mapping[str, float]:
        before = cpu_by_process(target.server.pid)
        told = turn(seconds)
        after = cpu_by_process(target.server.pid)
        shares = [(after.get(pid, 0.0) - before.get(pid, 0.0)) / seconds for pid in data]
        return {**told, "share": sum(shares) / len(shares)}

    return once


def client_rounds(on: Testbed, target: Target) -> Standing:
    """Clients with keep-alive connections."""
    arguments = target.home.client.rig_arguments(target.server.port, "/jobs/bytes/16")
    arguments += ["--conns", str(CONNECTIONS), "--rounds"]
    return on.running.enter_context(on.rig.standing("client", arguments, seconds=on.options.seconds, core=None))


def hosted_rounds(on: Testbed, target: Target) -> Standing:
    """Masters on the dispatch listener, and workers that the gateway keeps."""
    on.running.enter_context(on.crowd(target, WORKERS, core=None))
    return on.running.enter_context(on.masters(target, CONNECTIONS // 2, seconds=on.options.seconds, core=None))


def relayed_rounds(on: Testbed, target: Target) -> Standing:
    """A master with relayed workers."""
    return relayed_workers(on, target, WORKERS, core=None)


def cross(options: Options) -> dict[str, Any]:
    """A dispatch for a worker that another data process holds, beside one for a worker of the same process.

    One worker, one connection to the dispatch listener in each process, one request at a time: `p50_us` is the way of
    one dispatch and nothing else. `ratio_local` and `cpu_ratio_local` below 1 are what the way through another process
    costs. With a build before, `ratio_before_crossing` and `local_ratio_before_local` compare both ways with its own,
    and `before_crossing_ratio_before_local` says what crossing cost there.
    """
    turns: dict[str, Turn] = {}
    pairs = [("crossing", "local")]
    with open_testbed(options, workers=256, processes=2) as on:
        for name, target in on.targets.items():
            on.running.enter_context(on.crowd(target, 1, core=RIG_CORE))
            holder = next(number for number, count in enumerate(target.home.counted("connections", "worker")) if count)
            masters = masters_by_process(on, target)
            prefix = "" if name == OURS else f"{name}_"
            turns[f"{prefix}crossing"] = counted(target, masters[1 - holder].round)
            turns[f"{prefix}local"] = counted(target, masters[holder].round)
        if BEFORE in on.targets:
            of_before = ("before_crossing", "before_local")
            pairs += [("crossing", of_before[0]), ("local", of_before[1]), of_before]
        report = on.report("cross", {"workers": 1, "conns": 1, "processes": 2})
        return report.finish(**take_turns(report, turns, options, ratios=(SPEED, CPU, MIDDLE, TAIL), pairs=pairs))


def masters_by_process(on: Testbed, target: Target) -> dict[int, Standing]:
    """A master with one connection in each data process: connections are made until the kernel has given each one.

    Raises:
        BenchFailed: one process got none in many tries.
    """
    found: dict[int, Standing] = {}
    for _ in range(TRIES):
        before = target.home.counted("connections", "master")
        standing = on.running.enter_context(on.masters(target, 1, seconds=on.options.seconds, core=RIG_CORE))
        now = target.home.counted("connections", "master")
        grown = [number for number, (old, new) in enumerate(zip(before, now, strict=True)) if new > old]
        if len(grown) == 1:
            found.setdefault(grown[0], standing)
        if len(found) == len(before):
            return found
    raise BenchFailed(f"{TRIES} connections to the dispatch listener all came to the same data process")
