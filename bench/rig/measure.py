"""Measurements of clients and of admissions."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from rig.builds import command_interpreted, command_plain, interpreter
from rig.home import NONCES_PER_IDENTITY
from rig.peers import ADMISSION_PATH
from rig.processes import RIG_CORE, BenchFailed, counts_of, pinned
from rig.testbed import (
    CPU,
    OURS,
    REVERSE_PATH,
    SPEED,
    Options,
    Ratio,
    Target,
    Testbed,
    Turn,
    counted,
    open_testbed,
    take_turns,
)

MEBI = 1 << 20
MEBI_IN_MB = MEBI / 1e6
PLAIN, INTERPRETED = "plain", "interpreted"


def requests(options: Options) -> dict[str, Any]:
    """Keep-alive requests through mutual TLS, a role rule and a proxy, with Digest where the server has it.

    `ratio_X` compares requests a second with X, a peer or our build before. `cpu_ratio_X` compares the processor time
    that the whole server spends on a request (over 1: the other needs more): the same where nothing else runs, and
    still of use where something does. With several `paths` the requests ask for one after the other, all below the same
    route.
    """
    settings = {
        "conns": options.conns,
        "reply_bytes": options.reply,
        "body_bytes": options.body,
        **({"paths": options.paths} if options.paths > 1 else {}),
        "nonces_per_identity": NONCES_PER_IDENTITY,
    }
    with open_testbed(options, peers=options.peers) as on:
        report = on.report("requests", settings)
        turns = {name: exchanges(on, target) for name, target in on.targets.items()}
        return report.finish(**take_turns(report, turns, options))


def builds(options: Options) -> dict[str, Any]:
    """The small requests through builds of ours and through Apache.

    They are the build that is measured elsewhere, what a plain `pip install .` gives, and the interpreted one.
    `ratio_apache` is of the first, `plain_ratio_apache` and `interpreted_ratio_apache` of the others.
    """
    root = options.bench.parent
    commands = {
        OURS: options.commands[OURS],
        PLAIN: command_plain(root, options.build),
        INTERPRETED: command_interpreted(root),
    }
    peers = tuple(name for name in options.peers if name == "apache")
    with open_testbed(replace(options, commands=commands), peers=peers) as on:
        settings = {"conns": options.conns, "reply_bytes": options.reply, "body_bytes": options.body}
        report = on.report("builds", settings)
        turns = {name: exchanges(on, target) for name, target in on.targets.items()}
        pairs = [(name, peer) for name in commands for peer in peers] + [(OURS, PLAIN), (OURS, INTERPRETED)]
        return report.finish(**take_turns(report, turns, options, pairs=pairs))


def ahead(options: Options) -> list[dict[str, Any]]:
    """Small requests over a route through gateways that differ in `[audit] ahead`: GET, then POST of 16 bytes.

    `ratio_X` compares the default's requests a second with those of the value X, `cpu_ratio_X` its processor time of a
    request. GET has a line ahead with "all" alone, POST with "all" and with the default.
    """
    reports = []
    with open_testbed(options, bare=True) as on:
        for value in ("unsafe", "all", "none"):
            on.gateway(value, ahead=value)
        for method, body in (("GET", 0), ("POST", 16)):
            settings = {"method": method, "conns": options.conns, "reply_bytes": options.reply, "body_bytes": body}
            report = on.report("ahead", settings)
            with on.for_now():
                turns = {value: exchanges(on, target, body=body) for value, target in on.targets.items()}
                reports.append(report.finish(**take_turns(report, turns, options)))
    return reports


def bulk(options: Options) -> dict[str, Any]:
    """Answers of 1 MiB: megabytes a second, and processor time of a megabyte."""
    with open_testbed(options, peers=options.peers) as on:
        conns = min(options.conns, 8)
        report = on.report("bulk", {"conns": conns, "reply_bytes": MEBI})

        def turn(target: Target) -> Turn:
            once = exchanges(on, target, conns=conns, reply=MEBI, body=0)

            def in_megabytes(seconds: float) -> Mapping[str, float]:
                told = once(seconds)
                return {"mb_per_s": told["per_s"] * MEBI_IN_MB, "cpu_us_per_mb": told["cpu_us"] / MEBI_IN_MB}

            return in_megabytes

        ratios = (Ratio(name="ratio", of="mb_per_s"), Ratio(name="cpu_ratio", of="cpu_us_per_mb", less_is_better=True))
        turns = {name: turn(target) for name, target in on.targets.items()}
        return report.finish(**take_turns(report, turns, options, ratios=ratios))


def exchanges(
    on: Testbed, target: Target, *, conns: int | None = None, reply: int | None = None, body: int | None = None
) -> Turn:
    """A turn of clients at one server, over keep-alive connections that stand until the testbed ends."""
    options = on.options
    size = options.reply if reply is None else reply
    content = options.body if body is None else body
    path = f"/jobs/{'{}/' if options.paths > 1 else ''}bytes/{size}"
    arguments = [*target.home.client.rig_arguments(target.server.port, path), "--rounds"]
    arguments += ["--conns", str(conns or options.conns), "--paths", str(options.paths if options.paths > 1 else 0)]
    arguments += ["--method", "POST", "--body", str(content)] if content else []
    standing = on.running.enter_context(on.rig.standing("client", arguments, seconds=options.seconds))
    return counted(target, standing.round)


def admission(options: Options) -> dict[str, Any]:
    """Processor time of a server for one admission: a full handshake, a challenge, and a request that is granted.

    Ours ends in the 101 of a role switch; the peers, which know none, send a small file or text, and only Apache asks
    for Digest: the others' figure is the handshake with a rule and one answer. The time is that of the whole process
    tree. With a type of key that the C rig's OpenSSL need not know it is `post_quantum_admission`.
    """
    if options.key_type.startswith("mldsa"):
        return post_quantum_admission(options)
    conns = min(options.conns, 16)
    settings = {"conns": conns, "chain": options.chain, "tls": "1.3 and 1.2 as negotiated, never resumed"}
    with open_testbed(options, peers=options.peers) as on:
        report = on.report("admission", settings)

        def turn(target: Target) -> Turn:
            if target.is_ours:
                arguments = [
                    *target.home.worker.rig_arguments(target.server.port, REVERSE_PATH),
                    "--upgrade",
                    "PTTH/1.0",
                ]
            else:
                arguments = target.home.client.rig_arguments(target.server.port, ADMISSION_PATH)
            arguments += ["--conns", str(conns)]
            return counted(target, lambda seconds: on.rig.run("connect", arguments, seconds=seconds))

        turns = {name: turn(target) for name, target in on.targets.items()}
        return report.finish(**take_turns(report, turns, options, ratios=(CPU, SPEED)))


def post_quantum_admission(options: Options) -> dict[str, Any]:
    """The same with ML-DSA throughout a home (root, issuing CAs, the gateway, the worker), beside a home of P-256.

    Both are ours, and met by one connection after another of a rig in Python, with the OpenSSL of the build.
    `cpu_ratio_mldsa65` is how many times the processor time of the P-256 one an admission takes.
    """
    kind = options.key_type
    settings = {"key_type": kind, "tls": "1.3, never resumed", "rig": "one connection at a time, in Python"}
    with open_testbed(options, bare=True) as on:
        report = on.report("admission", settings)
        targets = {
            OURS: on.gateway(key_type="p256", home_key_type="p256"),
            kind: on.gateway(kind, key_type=kind, home_key_type=kind),
        }
        turns = {name: counted(target, _admitted(options, target)) for name, target in targets.items()}
        return report.finish(**take_turns(report, turns, options, ratios=(CPU, SPEED)))


def _admitted(options: Options, target: Target) -> Callable[[float], dict[str, Any]]:
    worker = target.home.worker

    def once(seconds: float) -> dict[str, Any]:
        script: list[str | Path] = [interpreter(target.home.command), "-P", options.bench / "rig" / "admitted.py"]
        command = pinned(RIG_CORE, [*script, worker.folder, str(target.server.port), REVERSE_PATH, str(seconds)])
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + 60, check=False)
        if not done.stdout:
            raise BenchFailed(f"the rig said nothing: {done.stderr.decode(errors='replace').strip()}")
        return counts_of("admitted", done.stdout)

    return once
