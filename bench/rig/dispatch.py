"""Measurements of reversed connections: work that goes down to workers, relayed and hosted, and how one is cut off."""

from __future__ import annotations

import contextlib
import subprocess
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rig.home import Bundle, issue_worker
from rig.processes import RIG_CORE, BenchFailed, Rig, Server, Standing, cpu_seconds, pinned, told_line
from rig.report import median
from rig.stage import (
    CPU,
    CROWD,
    OURS,
    RELAY_PATH,
    REVERSE_PATH,
    SPEED,
    TAIL,
    Options,
    Stage,
    Turn,
    new_report,
    stage,
    take_turns,
)

HELD_SECONDS = 900.0
MOST_RELAYED = 4000
"""Workers that one process relays: each takes two of its descriptors."""
MASTERS_CONNECTIONS = 32


@contextlib.contextmanager
def standing_master(rig: Rig, *, port: int, conns: int, seconds: float, flying: int = 0) -> Iterator[Standing]:
    """A master on `port` for at most `conns` connections, whose rounds last `seconds`; ready on entry.

    `flying` requests are under way, each down the connection that is idle longest; 0: one on each connection.
    """
    arguments = ["--rounds", "--port", str(port), "--conns", str(conns), "--flying", str(flying)]
    with rig.standing("master", arguments, seconds=seconds) as master:
        yield master


@contextlib.contextmanager
def relayed_workers(on: Stage, server: Server, count: int, *, seconds: float, flying: int = 0) -> Iterator[Turn]:
    """`count` workers that reached their master through `server`; the block gets the turn that measures them."""
    ours = server is on.gateway
    port = on.masters[OURS if ours else "haproxy"]
    arguments = on.home.relay_worker.rig_arguments(server.relay_port, RELAY_PATH)
    crowd = [*arguments, "--conns", str(count), *CROWD]
    with (
        standing_master(on.rig, port=port, conns=count + 8, seconds=seconds, flying=flying) as master,
        on.rig.held(crowd, seconds=HELD_SECONDS, mode="worker"),
    ):

        def once(_: float) -> Mapping[str, float]:
            before = cpu_seconds(server.pid)
            counts = master.round(seconds)
            spent = cpu_seconds(server.pid) - before
            if not counts["done"]:
                raise BenchFailed(f"nothing came through {server.name}: {server.complaint()}")
            return told(counts, spent)

        yield once


def told(counts: Mapping[str, Any], spent: float) -> dict[str, float]:
    """The columns of one turn."""
    return {
        "per_s": counts["per_second"],
        "cpu_us": spent * 1e6 / counts["done"],
        "p50_us": counts["p50_us"],
        "p99_us": counts["p99_us"],
    }


def relayed(options: Options) -> dict[str, Any]:
    """Dispatches through a relay: the rig's master keeps one request outstanding on each of N reversed connections.

    Ours admits with Digest and policy, reads the switch, then passes bytes. HAProxy ends mutual TLS under a rule and
    passes bytes from the first one on.
    """
    peers = tuple(name for name in options.peers if name == "haproxy")
    with stage(options, peers=peers) as on, contextlib.ExitStack() as crowds:
        report = new_report("relayed", options, {"workers": options.workers, "depth": 1}, peers)
        turns = {
            name: crowds.enter_context(relayed_workers(on, server, options.workers, seconds=options.seconds))
            for name, server in on.servers().items()
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
    with stage(options, peers=(), workers=options.workers + beside) as on:
        report = new_report("hosted", options, settings, ())
        arguments = ["--plain", "--port", str(on.dispatch), "--path", "/-/pools/bench/any/job", "--conns", str(conns)]
        crowd = [*on.home.worker.rig_arguments(on.gateway.port, REVERSE_PATH), "--conns", str(options.workers)]

        def once(seconds: float) -> Mapping[str, float]:
            before = cpu_seconds(on.gateway.pid)
            counts = on.rig.run("client", arguments, seconds=seconds)
            spent = cpu_seconds(on.gateway.pid) - before
            if not counts["done"]:
                raise BenchFailed(f"nothing was dispatched: {on.gateway.complaint()}")
            return told(counts, spent)

        with (
            on.rig.held([*crowd, *CROWD], seconds=HELD_SECONDS, mode="worker"),
            relayed_workers(on, on.gateway, beside, seconds=options.seconds, flying=conns) as beside_them,
        ):
            return report.finish(**take_turns(report, {"hosted": once, "relayed": beside_them}, options))


def revocation(options: Options) -> dict[str, Any]:
    """From the start of `rhttp-pki revoke NAME` to the close of that worker's idle connection, in milliseconds.

    `started` is how long the command takes to start and do nothing (`--help`), in the same round: what is left of
    `closed` is revoking and cutting. `returned` is when the command, which waits for the cut, has ended.
    """
    with stage(options, peers=()) as on:
        report = new_report("revocation", options, {}, ())
        home = on.home.folder
        for number in range(1, options.rounds + 1):
            bundle = issue_worker(on.home.command, home, f"revoked-{number}")
            row: dict[str, Any] = {"round": number, **revoked_once(on, bundle)}
            report.row(**row)
        columns = ("started_ms", "closed_ms", "returned_ms", "closed_after_start_ms")
        return report.finish(**{f"median_{name}": median(report.column(name)) for name in columns})


def revoked_once(on: Stage, bundle: Bundle) -> dict[str, float]:
    """Admit the worker, revoke it, and take the times."""
    began = time.monotonic()
    quiet(on.home.command, "--help").wait(60)
    started = time.monotonic() - began
    arguments = [*bundle.rig_arguments(on.gateway.port, REVERSE_PATH), "--conns", "1"]
    with on.rig.held(arguments, seconds=120) as worker:
        began = time.monotonic()
        command = quiet(on.home.command, "revoke", bundle.name, "--home", str(on.home.folder))
        try:
            if told_line(worker, 30) != "closed":
                raise BenchFailed(f"the connection of {bundle.name} was not closed: {on.gateway.complaint()}")
            closed = time.monotonic() - began
            if command.wait(30):
                raise BenchFailed(f"rhttp-pki revoke {bundle.name} failed with status {command.returncode}")
            returned = time.monotonic() - began
        finally:
            if command.poll() is None:
                command.kill()
                command.wait()
    return {
        "started_ms": started * 1000,
        "closed_ms": closed * 1000,
        "returned_ms": returned * 1000,
        "closed_after_start_ms": (closed - started) * 1000,
    }


def quiet(command: Path, *arguments: str) -> subprocess.Popen[bytes]:
    """A command of ours, on the rig core as everything that is not the server, its output thrown away."""
    return subprocess.Popen(
        pinned(RIG_CORE, [command, *arguments]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
