"""The cost of growth: dispatches against workers, requests against connections, latency against load; one process."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rig.home import POOL, client_identities_file, data_processes
from rig.processes import Rig, Standing, cpu_by_process, cpu_since, pss_kib
from rig.report import Report, median
from rig.stage import CROWD, DIALS, REVERSE_PATH, Gateway, Options, another, bare_stage, new_report

WORKERS = (10, 100, 1000, 3000, 10000)
CONNECTIONS = (1, 10, 100, 1000, 5000)
LOADS = (0.15, 0.3, 0.5, 0.7, 0.8, 0.9)
LOAD_AT = 1000
BUSY, CALM_PER_SECOND, CALM_SHARE = 32, 1000, 0.3
FEWEST_EACH = 4
CLIENTS = 8
LEAST_PER_SECOND = 10_000
TURN_SECONDS = 0.6
STAND_SECONDS = 3600.0
JOB = f"/-/pools/{POOL}/any/job"


def growth(options: Options) -> dict[str, Any]:
    """What one data process does and needs with more and more of everything; medians of the rounds at each size.

    Workers: a pool grows; at each size masters ask on 32 connections without a pause (`per_s`, `cpu_us`, and latencies
    in that rush), and 1,000 times a second at random moments, or three tenths of the rush where that is less (`calm_*`:
    what a dispatch takes when it need not queue).
    Connections: the same for authenticated requests over more and more keep-alive connections of eight clients. Load:
    dispatches at random moments at several shares of what the process can do, in a pool of 1,000.
    """
    seconds = min(TURN_SECONDS, options.seconds)
    workers = tuple(size for size in WORKERS if size <= options.workers) or (options.workers,)
    connections = tuple(size for size in CONNECTIONS if size <= options.workers)
    settings = {"turn_seconds": seconds, "workers": max(workers), "connections": max(connections)}
    with bare_stage(options) as (rig, folder, origin):
        report = new_report("growth", options, settings, ())
        found: dict[str, list[dict[str, float]]] = {"workers": [], "connections": [], "load": []}
        room = max(*workers, *connections)
        with another(options, folder=folder, origin=origin, name="one", workers=room) as gateway:
            place = Place(rig=rig, gateway=gateway, report=report, rounds=options.rounds, seconds=seconds)
            load_at = min(LOAD_AT, max(workers))
            with contextlib.ExitStack() as crowds:
                for size, old in zip(workers, (0, *workers), strict=False):
                    found["workers"].append(place.with_workers(size, size - old, crowds))
                    if size == load_at:
                        capacity = found["workers"][-1]["per_s"]
                        found["load"] = [place.with_load(size, capacity, share) for share in LOADS]
            clients = client_identities_file(gateway.home, CLIENTS, "/jobs/bytes/16")
            for size in connections:
                found["connections"].append(place.with_connections(size, clients))
        report.data.update(found)
        smallest, largest = found["workers"][0], found["workers"][-1]
        return report.finish(
            kib_per_worker=(largest["pss_kib"] - smallest["pss_kib"]) / max(1, largest["size"] - smallest["size"]),
            cpu_us_smallest_pool=smallest["cpu_us"],
            cpu_us_largest_pool=largest["cpu_us"],
            calm_p99_us_smallest_pool=smallest["calm_p99_us"],
            calm_p99_us_largest_pool=largest["calm_p99_us"],
        )


class Place:
    """One gateway with one data process, and how each size is measured there."""

    def __init__(self, *, rig: Rig, gateway: Gateway, report: Report, rounds: int, seconds: float) -> None:
        self._rig = rig
        self._gateway = gateway
        self._report = report
        self._rounds = rounds
        self._seconds = seconds
        self._data = data_processes(gateway.home)

    def with_workers(self, size: int, more: int, crowds: contextlib.ExitStack) -> dict[str, float]:
        """`more` workers come, so that there are `size`; then dispatches."""
        arguments = [*self._gateway.home.worker.rig_arguments(self._gateway.server.port, REVERSE_PATH), *CROWD]
        before = cpu_by_process(self._gateway.server.pid)
        crowd = self._rig.standing("worker", [*arguments, "--conns", str(more)], seconds=STAND_SECONDS)
        crowds.enter_context(crowd)
        admission = cpu_since(self._gateway.server.pid, before) * 1e6 / more
        memory = self._memory()
        conns = min(BUSY, size)
        found = self._measured("workers", size, lambda *extra: self._masters(conns, *extra))
        return {**found, "pss_kib": memory, "admission_us": admission}

    def with_load(self, size: int, capacity: float, share: float) -> dict[str, float]:
        """Dispatches at a share of what the process can do."""
        with self._masters(2 * BUSY, "--rate", str(capacity * share)) as standing:
            rows = [self._round(standing) for _ in range(self._rounds)]
        found = {name: median([row[name] for row in rows]) for name in rows[0]}
        self._report.row(hidden=(), what="load", size=size, share=share, **found)
        return {"size": size, "utilisation": share, "asked_per_s": share * capacity, **found}

    def with_connections(self, size: int, clients: Path) -> dict[str, float]:
        """Requests over `size` keep-alive connections."""
        before = self._memory()
        # In a rush of thousands each has to have its turn several times before a round says anything.
        seconds = max(self._seconds, FEWEST_EACH * size / LEAST_PER_SECOND)
        memory: list[float] = []

        @contextlib.contextmanager
        def standing(*extra: str) -> Iterator[Standing]:
            port = ["--port", str(self._gateway.server.port), "--ca", str(self._gateway.home.root)]
            arguments = [*port, "--identities", str(clients), "--conns", str(size), "--dials", str(DIALS), "--rounds"]
            with self._rig.standing("client", [*arguments, *extra], seconds=seconds) as made:
                memory.append(self._memory())
                yield made

        found = self._measured("connections", size, standing)
        return {**found, "pss_kib": memory[-1] - before}

    def _masters(self, conns: int, *extra: str) -> contextlib.AbstractContextManager[Standing]:
        port = ["--plain", "--port", str(self._gateway.dispatch), "--path", JOB]
        arguments = [*port, "--conns", str(conns), "--rounds", *extra]
        return self._rig.standing("client", arguments, seconds=self._seconds)

    def _measured(
        self, what: str, size: int, standing: Callable[..., contextlib.AbstractContextManager[Standing]]
    ) -> dict[str, float]:
        """Rounds without a pause and calm ones in turn, on connections of their own: at once where they are few."""
        with contextlib.ExitStack() as both:
            busy = both.enter_context(standing())
            rate = min(CALM_PER_SECOND, CALM_SHARE * self._round(busy)["per_s"])
            calm = both.enter_context(standing("--rate", str(max(1.0, rate))))
            rows = []
            for _ in range(self._rounds):
                row = self._round(busy)
                row |= {f"calm_{name}": value for name, value in self._round(calm).items()}
                rows.append(row)
        found = {name: median([row[name] for row in rows]) for name in rows[0]}
        self._report.row(hidden=(), what=what, size=size, share=1.0, **{k: v for k, v in found.items() if k in SHOWN})
        return {"size": size, **found}

    def _round(self, standing: Standing) -> dict[str, float]:
        before = cpu_by_process(self._gateway.server.pid)
        counts = standing.round(self._seconds)
        spent = cpu_since(self._gateway.server.pid, before)
        return {
            "per_s": counts["per_second"],
            "cpu_us": spent * 1e6 / max(1, counts["done"]),
            "p50_us": counts["p50_us"],
            "p99_us": counts["p99_us"],
        }

    def _memory(self) -> float:
        return float(sum(map(pss_kib, self._data)))


SHOWN: Sequence[str] = ("per_s", "cpu_us", "p50_us", "p99_us")
