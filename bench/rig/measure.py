"""The measurements. Each starts its own servers, alternates between them, and stops them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rig.apache import ADMISSION_PATH, start_apache
from rig.home import POOL, BenchHome, make_home, start_gateway
from rig.processes import BenchFailed, Rig, Server, cpu_seconds, pss_kib, tree
from rig.report import Report, median

JOB_PATH = "/jobs/small"
REVERSE_PATH = f"/-/reverse/{POOL}"
WARM_UP_SECONDS = 1.0
FIRST_WORKERS = 200
RAMP_PER_SECOND = 400


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """How much of everything: the command line of `bench/run`."""

    bench: Path
    command: Path
    rounds: int
    seconds: float
    conns: int
    reply: int
    workers: int
    apache: bool = True

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.seconds <= 0 or self.conns < 1 or self.workers < 1:
            raise BenchFailed("rounds, seconds, conns and workers must be positive")


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What stands while a measurement runs."""

    rig: Rig
    home: BenchHome
    gateway: Server
    apache: Server | None

    def servers(self) -> list[Server]:
        return [self.gateway, *([self.apache] if self.apache else [])]


@contextlib.contextmanager
def stage(options: Options, *, with_apache: bool) -> Iterator[Stage]:
    """A fresh home, the origin, the gateway and, when wanted, Apache; all gone afterwards."""
    rig = Rig(options.bench)
    with tempfile.TemporaryDirectory(prefix="rhttp-bench-") as name, contextlib.ExitStack() as running:
        folder = Path(name)
        folder.chmod(0o755)  # Apache's unprivileged user has to get through; the home inside is 0700
        origin = running.enter_context(rig.origin(reply=options.reply, folder=folder))
        home = make_home(options.command, folder / "home", origin=origin, workers=options.workers)
        gateway = start_gateway(home, folder=folder)
        running.callback(gateway.stop)
        apache = None
        if with_apache:
            apache = start_apache(home, origin=origin, folder=folder / "apache")
            running.callback(apache.stop)
        yield Stage(rig=rig, home=home, gateway=gateway, apache=apache)


def requests(options: Options) -> dict[str, Any]:
    """Small keep-alive requests through mutual TLS, Digest, a role rule and a proxy: ours against Apache's, in turn.

    `ratio` compares requests a second. `cpu_ratio` compares the processor time that the whole server spends on a
    request (over 1: Apache needs more): the same where nothing else runs, and still of use where something does.
    """
    settings = {"conns": options.conns, "seconds": options.seconds, "reply_bytes": options.reply}
    with stage(options, with_apache=options.apache) as on:
        report = Report("requests", options.command, settings)

        def once(server: Server, seconds: float) -> dict[str, Any]:
            arguments = [*on.home.client.rig_arguments(server.port, JOB_PATH), "--conns", str(options.conns)]
            before = cpu_seconds(server.pid)
            counts = on.rig.run("client", arguments, seconds=seconds)
            spent = cpu_seconds(server.pid) - before
            if not counts["done"]:
                raise BenchFailed(f"{server.name} answered nothing: {server.complaint()}")
            return {"per_s": counts["per_second"], "p99_us": counts["p99_us"], "cpu_us": spent * 1e6 / counts["done"]}

        for server in on.servers():
            once(server, WARM_UP_SECONDS)
        for number in range(1, options.rounds + 1):
            row: dict[str, Any] = {"round": number}
            for server in on.servers():
                row.update({f"{server.name}_{what}": value for what, value in once(server, options.seconds).items()})
            if on.apache:
                row["cpu_ratio"] = row["apache_cpu_us"] / row["gateway_cpu_us"]
                row["ratio"] = row["gateway_per_s"] / row["apache_per_s"]
            report.row(**row)
        results = {
            f"median_{server.name}_{what}": median(report.column(f"{server.name}_{what}"))
            for what in ("per_s", "cpu_us")
            for server in on.servers()
        }
        if on.apache:
            results["cpu_ratio"] = median(report.column("cpu_ratio"))
            results["ratio"] = median(report.column("ratio"))
        return report.finish(**results)


def admission(options: Options) -> dict[str, Any]:
    """Processor time of a server for one admission: a full handshake, a challenge, and a request that is granted.

    Ours ends in the 101 of a role switch; Apache, which knows none, sends a small file. The time is that of the whole
    process tree.
    """
    conns = min(options.conns, 16)
    settings = {"conns": conns, "seconds": options.seconds, "tls": "1.3 and 1.2 as negotiated, never resumed"}
    with stage(options, with_apache=options.apache) as on:
        report = Report("admission", options.command, settings)

        def once(server: Server, seconds: float) -> tuple[float, float]:
            """(CPU milliseconds an admission, admissions a second)"""
            if server is on.gateway:
                arguments = [*on.home.worker.rig_arguments(server.port, REVERSE_PATH), "--upgrade", "PTTH/1.0"]
            else:
                arguments = on.home.client.rig_arguments(server.port, ADMISSION_PATH)
            before = cpu_seconds(server.pid)
            counts = on.rig.run("connect", [*arguments, "--conns", str(conns)], seconds=seconds)
            spent = cpu_seconds(server.pid) - before
            if not counts["done"]:
                raise BenchFailed(f"{server.name} admitted nobody: {server.complaint()}")
            return spent * 1000 / counts["done"], counts["per_second"]

        for server in on.servers():
            once(server, WARM_UP_SECONDS)
        for number in range(1, options.rounds + 1):
            row: dict[str, Any] = {"round": number}
            for server in on.servers():
                row[f"{server.name}_ms"], row[f"{server.name}_per_s"] = once(server, options.seconds)
            if on.apache:
                row["ratio"] = row["gateway_ms"] / row["apache_ms"]
            report.row(**row)
        results = {f"median_{server.name}_ms": median(report.column(f"{server.name}_ms")) for server in on.servers()}
        if on.apache:
            results["ratio"] = median(report.column("ratio"))
        return report.finish(**results)


def idle(options: Options) -> dict[str, Any]:
    """Memory of one idle reversed connection: growth of the data process by N silent workers, divided by N."""
    settings = {"workers": options.workers, "ramp_per_s": RAMP_PER_SECOND}
    with stage(options, with_apache=False) as on:
        report = Report("idle", options.command, settings)

        def held(count: int) -> contextlib.AbstractContextManager[None]:
            arguments = [*on.home.worker.rig_arguments(on.gateway.port, REVERSE_PATH), "--conns", str(count)]
            # Twice the time that the ramp takes, and what a slow machine needs on top.
            seconds = 2 * count / RAMP_PER_SECOND + 60
            return on.rig.held([*arguments, "--ramp", str(RAMP_PER_SECOND)], seconds=seconds)

        # What is loaded and grown once must not be divided among the workers, and memory that a first crowd left behind
        # must not hide what a second one needs: so the first ones stay while the others come.
        with held(min(FIRST_WORKERS, options.workers)):
            data = data_process(on.gateway)
            before = pss_kib(data)
            with held(options.workers):
                full = pss_kib(data)
        kib = (full - before) / options.workers
        report.row(workers=options.workers, before_kib=before, full_kib=full, kib_per_worker=kib)
        return report.finish(kib_per_worker=kib)


def data_process(gateway: Server) -> int:
    """The process that holds the connections: the one of the gateway's processes with the most sockets open."""

    def sockets(pid: int) -> int:
        links = Path(f"/proc/{pid}/fd")
        return sum(str(link.readlink()).startswith("socket:") for link in links.iterdir())

    return max(tree(gateway.pid), key=sockets)
