"""Measurements of clients and of connections. Each starts its own servers, alternates between them, and stops them."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rig.apache import ADMISSION_PATH
from rig.home import NONCES_PER_IDENTITY
from rig.processes import BenchFailed, Server, cpu_seconds, pss_kib, tree
from rig.stage import (
    CPU,
    OURS,
    RAMP_PER_SECOND,
    REVERSE_PATH,
    SPEED,
    Options,
    Ratio,
    Stage,
    Turn,
    new_report,
    stage,
    take_turns,
)

FIRST_WORKERS = 200
MEBI = 1 << 20
WITHOUT_THREADS = ("nginx", "haproxy", "envoy")


def requests(options: Options) -> dict[str, Any]:
    """Keep-alive requests through mutual TLS, a role rule and a proxy, with Digest where the server has it.

    `ratio_X` compares requests a second with peer X. `cpu_ratio_X` compares the processor time that the whole server
    spends on a request (over 1: the peer needs more): the same where nothing else runs, and still of use where
    something does.
    """
    settings = {
        "conns": options.conns,
        "reply_bytes": options.reply,
        "body_bytes": options.body,
        "nonces_per_identity": NONCES_PER_IDENTITY,
    }
    with stage(options, peers=options.peers) as on:
        report = new_report("requests", options, settings, options.peers)
        turns = {name: exchanges(on, server, options) for name, server in on.servers().items()}
        return report.finish(**take_turns(report, turns, options))


def bulk(options: Options) -> dict[str, Any]:
    """Answers of 1 MiB: megabytes a second, and processor time of a megabyte."""
    with stage(options, peers=options.peers) as on:
        conns = min(options.conns, 8)
        report = new_report("bulk", options, {"conns": conns, "reply_bytes": MEBI}, options.peers)

        def turn(server: Server) -> Turn:
            once = exchanges(on, server, options, conns=conns, reply=MEBI, body=0)

            def in_megabytes(seconds: float) -> Mapping[str, float]:
                told = once(seconds)
                megabytes = MEBI / 1e6
                return {"mb_per_s": told["per_s"] * megabytes, "cpu_us_per_mb": told["cpu_us"] / megabytes}

            return in_megabytes

        ratios = (Ratio(name="ratio", of="mb_per_s"), Ratio(name="cpu_ratio", of="cpu_us_per_mb", less_is_better=True))
        turns = {name: turn(server) for name, server in on.servers().items()}
        return report.finish(**take_turns(report, turns, options, ratios=ratios))


def exchanges(
    on: Stage,
    server: Server,
    options: Options,
    *,
    conns: int | None = None,
    reply: int | None = None,
    body: int | None = None,
) -> Turn:
    """A turn of clients at one server, over keep-alive connections."""
    size = options.reply if reply is None else reply
    content = options.body if body is None else body
    arguments = [
        *on.home.client.rig_arguments(server.port, f"/jobs/bytes/{size}"),
        *("--conns", str(options.conns if conns is None else conns), "--settle"),
        *(("--method", "POST", "--body", str(content)) if content else ()),
    ]

    def once(seconds: float) -> Mapping[str, float]:
        # The rig reads the processor time: between its first and its last counted answer, handshakes not in it.
        family = [word for pid in tree(server.pid) for word in ("--pid", str(pid))]
        counts = on.rig.run("client", [*arguments, *family], seconds=seconds)
        if not counts["done"]:
            raise BenchFailed(f"{server.name} answered nothing: {server.complaint()}")
        return {
            "per_s": counts["per_second"],
            "cpu_us": counts["server_cpu_s"] * 1e6 / counts["done"],
            "p50_us": counts["p50_us"],
            "p99_us": counts["p99_us"],
        }

    return once


def admission(options: Options) -> dict[str, Any]:
    """Processor time of a server for one admission: a full handshake, a challenge, and a request that is granted.

    Ours ends in the 101 of a role switch; the peers, which know none, send a small file or text, and only Apache asks
    for Digest: the others' figure is the handshake with a rule and one answer. The time is that of the whole process
    tree.
    """
    conns = min(options.conns, 16)
    settings = {"conns": conns, "tls": "1.3 and 1.2 as negotiated, never resumed"}
    with stage(options, peers=options.peers) as on:
        report = new_report("admission", options, settings, options.peers)

        def turn(server: Server) -> Turn:
            if server is on.gateway:
                arguments = [*on.home.worker.rig_arguments(server.port, REVERSE_PATH), "--upgrade", "PTTH/1.0"]
            else:
                arguments = on.home.client.rig_arguments(server.port, ADMISSION_PATH)

            def once(seconds: float) -> Mapping[str, float]:
                before = cpu_seconds(server.pid)
                counts = on.rig.run("connect", [*arguments, "--conns", str(conns)], seconds=seconds)
                spent = cpu_seconds(server.pid) - before
                if not counts["done"]:
                    raise BenchFailed(f"{server.name} admitted nobody: {server.complaint()}")
                return {"cpu_us": spent * 1e6 / counts["done"], "per_s": counts["per_second"]}

            return once

        turns = {name: turn(server) for name, server in on.servers().items()}
        return report.finish(**take_turns(report, turns, options, ratios=(CPU, SPEED)))


def idle(options: Options) -> dict[str, Any]:
    """Memory of one idle connection: growth of a server's processes by N silent ones, divided by N.

    Ours are admitted workers. The peers' are keep-alive connections after one answer; Apache, which may give each a
    thread, is left out.
    """
    peers = tuple(name for name in options.peers if name in WITHOUT_THREADS)
    with stage(options, peers=peers) as on:
        report = new_report("idle", options, {"workers": options.workers, "ramp_per_s": RAMP_PER_SECOND}, peers)
        results: dict[str, float] = {}

        def held(name: str, server: Server, count: int) -> contextlib.AbstractContextManager[object]:
            if name == OURS:
                arguments = on.home.worker.rig_arguments(server.port, REVERSE_PATH)
            else:
                arguments = [*on.home.client.rig_arguments(server.port, ADMISSION_PATH), "--upgrade", "none"]
                arguments += ["--method", "GET"]
            # Twice the time that the ramp takes, and what a slow machine needs on top.
            seconds = 2 * count / RAMP_PER_SECOND + 60
            return on.rig.held([*arguments, "--conns", str(count), "--ramp", str(RAMP_PER_SECOND)], seconds=seconds)

        # What is loaded and grown once must not be divided among the workers, and memory that a first crowd left behind
        # must not hide what a second one needs: so the first ones stay while the others come.
        for name, server in on.servers().items():
            with held(name, server, min(FIRST_WORKERS, options.workers)):
                measured = [data_process(server)] if name == OURS else tree(server.pid)
                before = sum(map(pss_kib, measured))
                with held(name, server, options.workers):
                    full = sum(map(pss_kib, measured))
            kib = (full - before) / options.workers
            report.row(server=name, workers=options.workers, before_kib=before, full_kib=full, kib_per_worker=kib)
            results["kib_per_worker" if name == OURS else f"{name}_kib_per_connection"] = kib
        return report.finish(**results)


def data_process(gateway: Server) -> int:
    """The process that holds the connections: the one of the gateway's processes with the most sockets open."""

    def sockets(pid: int) -> int:
        links = Path(f"/proc/{pid}/fd")
        return sum(str(link.readlink()).startswith("socket:") for link in links.iterdir())

    return max(tree(gateway.pid), key=sockets)
