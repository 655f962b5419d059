"""Two data processes beside one: what each can do, and what it costs when they need each other."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rig.home import POOL, data_processes, gateway_status
from rig.processes import BenchFailed, Rig, Standing, cpu_by_process, cpu_since
from rig.shares import limited
from rig.stage import (
    CPU,
    MIDDLE,
    RELAY_PATH,
    REVERSE_PATH,
    SPEED,
    TAIL,
    Gateway,
    Options,
    Turn,
    another,
    bare_stage,
    new_report,
    take_turns,
)

SHARE = 0.25
WORKERS = 64
CONNECTIONS = 64
TRIES = 40
STAND_SECONDS = 3600.0


def processes(options: Options) -> list[dict[str, Any]]:
    """Authenticated requests, hosted and relayed dispatches of a gateway with two data processes and of one with one.

    Every data process is bound to a core of its own and gets a quarter of it (`shares`): it is the bottleneck, and the
    rig lives on the rest of both cores. `ratio_one` over 1.8 means that two processes do 1.8 times what one does.
    `cpu_us` is the processor time of one request, of all processes together: what two processes of any size spend.
    `share` is what the data processes used of a core, each on average: a quarter when the rig kept them busy.
    """
    settings = {"share_of_a_core": SHARE, "conns": CONNECTIONS, "workers": WORKERS, "cores": "a core each"}
    reports = []
    with bare_stage(options) as (rig, folder, origin), contextlib.ExitStack() as running:
        gateways = {
            name: running.enter_context(
                another(options, folder=folder, origin=origin, name=name, workers=256, processes=count, core=None)
            )
            for name, count in (("two", 2), ("one", 1))
        }
        data = {name: data_processes(gateway.home) for name, gateway in gateways.items()}
        for pids in data.values():
            running.enter_context(limited(pids, SHARE))
        kinds = {"requests": client_rounds, "hosted": hosted_rounds, "relayed": relayed_rounds}
        for kind, rounds in kinds.items():
            report = new_report(f"processes: {kind}", options, settings, ())
            with contextlib.ExitStack() as crowds:
                turns = {
                    name: measured(crowds.enter_context(rounds(rig, gateway, options.seconds)), gateway, data[name])
                    for name, gateway in gateways.items()
                }
                reports.append(report.finish(**take_turns(report, turns, options)))
    return reports


def measured(standing: Standing, gateway: Gateway, data: list[int]) -> Turn:
    """A turn of a standing rig, with the share of a core that each data process used."""

    def once(seconds: float) -> Mapping[str, float]:
        before = cpu_by_process(gateway.server.pid)
        counts = standing.round(seconds)
        after = cpu_by_process(gateway.server.pid)
        if not counts["done"]:
            raise BenchFailed(f"nothing was served: {gateway.server.complaint()}")
        shares = [(after.get(pid, 0.0) - before.get(pid, 0.0)) / counts["seconds"] for pid in data]
        return {
            "per_s": counts["per_second"],
            "cpu_us": cpu_since(gateway.server.pid, before) * 1e6 / counts["done"],
            "p50_us": counts["p50_us"],
            "p99_us": counts["p99_us"],
            "share": sum(shares) / len(shares),
        }

    return once


def client_rounds(rig: Rig, gateway: Gateway, seconds: float) -> contextlib.AbstractContextManager[Standing]:
    """Clients with keep-alive connections that stand for the whole time."""
    arguments = gateway.home.client.rig_arguments(gateway.server.port, "/jobs/bytes/16")
    arguments += ["--conns", str(CONNECTIONS), "--rounds"]
    return rig.standing("client", arguments, seconds=seconds, core=None)


@contextlib.contextmanager
def hosted_rounds(rig: Rig, gateway: Gateway, seconds: float) -> Iterator[Standing]:
    """Masters on the dispatch listener, and workers that the gateway keeps."""
    crowd = [*gateway.home.worker.rig_arguments(gateway.server.port, REVERSE_PATH), "--conns", str(WORKERS)]
    masters = dispatch_arguments(gateway, f"/-/pools/{POOL}/any/job", CONNECTIONS // 2)
    with (
        rig.standing("worker", crowd, seconds=STAND_SECONDS, core=None),
        rig.standing("client", masters, seconds=seconds, core=None) as standing,
    ):
        yield standing


@contextlib.contextmanager
def relayed_rounds(rig: Rig, gateway: Gateway, seconds: float) -> Iterator[Standing]:
    """A master with relayed workers."""
    crowd = [*gateway.home.relay_worker.rig_arguments(gateway.server.port, RELAY_PATH), "--conns", str(WORKERS)]
    master = ["--rounds", "--port", str(gateway.master), "--conns", str(WORKERS + 8)]
    with (
        rig.standing("master", master, seconds=seconds, core=None) as standing,
        rig.standing("worker", crowd, seconds=STAND_SECONDS, core=None),
    ):
        yield standing


def dispatch_arguments(gateway: Gateway, path: str, conns: int) -> list[str | Path]:
    """The rig's options to be a master on the dispatch listener, between whose rounds the connections stand."""
    port = ["--port", str(gateway.dispatch)]
    return ["--plain", *port, "--path", path, "--conns", str(conns), "--rounds"]


def cross(options: Options) -> dict[str, Any]:
    """A dispatch for a worker that another data process holds, beside one for a worker of the same process.

    One worker, one connection to the dispatch listener in each process, one request at a time: `p50_us` is the way of
    one dispatch and nothing else. `ratio` and `cpu_ratio` below 1 are what the way through another process costs.
    """
    with bare_stage(options) as (rig, folder, origin), contextlib.ExitStack() as running:
        gateway = running.enter_context(
            another(options, folder=folder, origin=origin, name="two", workers=256, processes=2)
        )
        report = new_report("cross", options, {"workers": 1, "conns": 1, "processes": 2}, ())
        crowd = [*gateway.home.worker.rig_arguments(gateway.server.port, REVERSE_PATH), "--conns", "1"]
        running.enter_context(rig.standing("worker", crowd, seconds=STAND_SECONDS))
        holder = next(number for number, count in enumerate(held(gateway, "worker")) if count)
        masters = masters_by_process(rig, gateway, running, options)
        data = data_processes(gateway.home)
        turns = {
            "crossing": measured(masters[1 - holder], gateway, data),
            "local": measured(masters[holder], gateway, data),
        }
        return report.finish(**take_turns(report, turns, options, ratios=(SPEED, CPU, MIDDLE, TAIL)))


def held(gateway: Gateway, kind: str) -> list[int]:
    """How many connections of a kind each data process holds, p0 first."""
    return [int(one.get("connections", {}).get(kind, 0)) for one in gateway_status(gateway.home)["processes"]]


def masters_by_process(
    rig: Rig, gateway: Gateway, running: contextlib.ExitStack, options: Options
) -> dict[int, Standing]:
    """A master with one connection in each data process: connections are made until the kernel has given each one.

    Raises:
        BenchFailed: one process got none in many tries.
    """
    found: dict[int, Standing] = {}
    arguments = dispatch_arguments(gateway, f"/-/pools/{POOL}/any/job", 1)
    for _ in range(TRIES):
        before = held(gateway, "master")
        standing = running.enter_context(rig.standing("client", arguments, seconds=options.seconds))
        grown = [
            number for number, (old, new) in enumerate(zip(before, held(gateway, "master"), strict=True)) if new > old
        ]
        if len(grown) == 1:
            found.setdefault(grown[0], standing)
        if len(found) == len(before):
            return found
    raise BenchFailed(f"{TRIES} connections to the dispatch listener all came to the same data process")
