"""Measurements of clients and of admissions. Each starts its own servers, alternates between them, and stops them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rig.apache import ADMISSION_PATH
from rig.home import NONCES_PER_IDENTITY
from rig.processes import BenchFailed, Server, cpu_seconds, tree
from rig.stage import (
    CPU,
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

MEBI = 1 << 20


def requests(options: Options) -> dict[str, Any]:
    """Keep-alive requests through mutual TLS, a role rule and a proxy, with Digest where the server has it.

    `ratio_X` compares requests a second with peer X. `cpu_ratio_X` compares the processor time that the whole server
    spends on a request (over 1: the peer needs more): the same where nothing else runs, and still of use where
    something does. With several `paths` the requests ask for one after the other, all below the same route.
    """
    settings = {
        "conns": options.conns,
        "reply_bytes": options.reply,
        "body_bytes": options.body,
        **({"paths": options.paths} if options.paths > 1 else {}),
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
        *on.home.client.rig_arguments(server.port, f"/jobs/{'{}/' if options.paths > 1 else ''}bytes/{size}"),
        *(("--paths", str(options.paths)) if options.paths > 1 else ()),
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
