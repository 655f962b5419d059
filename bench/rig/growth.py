"""The cost of growth: dispatches against workers, requests against connections, latency against load; one process."""

from __future__ import annotations

import contextlib
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from rig.processes import RIG_CORE, Standing, cpu_by_process, cpu_since, pss_kib
from rig.report import Report
from rig.testbed import DIALS, Options, Target, Testbed, counted, open_testbed

WORKERS = (10, 100, 1000, 3000, 10000)
CONNECTIONS = (1, 10, 100, 1000, 5000)
LOADS = (0.15, 0.3, 0.5, 0.7, 0.8, 0.9)
LOAD_AT = 1000
BUSY, CALM_PER_SECOND, CALM_SHARE = 32, 1000, 0.3
FEWEST_EACH = 4
CLIENTS = 8
LEAST_PER_SECOND = 10_000
TURN_SECONDS = 0.6
SHOWN = ("per_s", "cpu_us", "p50_us", "p99_us")
Row = dict[str, float]
StandingRig = contextlib.AbstractContextManager[Standing]


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
    with open_testbed(options, bare=True) as on:
        report = on.report("growth", settings)
        place = Place(on, on.gateway(workers=max(*workers, *connections)), report, seconds)
        found: dict[str, list[Row]] = {"workers": [], "connections": [], "load": []}
        with on.for_now():
            for size, old in zip(workers, (0, *workers), strict=False):
                found["workers"].append(place.with_workers(size, size - old))
                if size == min(LOAD_AT, max(workers)):
                    capacity = found["workers"][-1]["per_s"]
                    found["load"] = [place.with_load(size, capacity, share) for share in LOADS]
        home = place.target.home
        clients = home.identities_file(
            {f"client-{number}": (("issue-client",), "/jobs/bytes/16") for number in range(CLIENTS)}
        )
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

    def __init__(self, on: Testbed, target: Target, report: Report, seconds: float) -> None:
        self.target = target
        self._on = on
        self._report = report
        self._rounds = on.options.rounds
        self._seconds = seconds
        self._data = target.home.data_processes()

    def with_workers(self, size: int, more: int) -> Row:
        """`more` workers come, so that there are `size`; then dispatches."""
        before = cpu_by_process(self.target.server.pid)
        self._on.running.enter_context(self._on.crowd(self.target, more, core=RIG_CORE))
        admission = cpu_since(self.target.server.pid, before) * 1e6 / more
        memory = self._memory()
        conns = min(BUSY, size)
        found = self._measured("workers", size, lambda *extra: self._masters(conns, *extra))
        return {**found, "pss_kib": memory, "admission_us": admission}

    def with_load(self, size: int, capacity: float, share: float) -> Row:
        """Dispatches at a share of what the process can do."""
        with self._masters(2 * BUSY, "--rate", str(capacity * share)) as standing:
            found = medians([self._round(standing) for _ in range(self._rounds)])
        self._report.row(what="load", size=size, share=share, hidden=(), **found)
        return {"size": size, "utilisation": share, "asked_per_s": share * capacity, **found}

    def with_connections(self, size: int, clients: Path) -> Row:
        """Requests over `size` keep-alive connections."""
        before = self._memory()
        # In a rush of thousands each has to have its turn several times before a round says anything.
        seconds = max(self._seconds, FEWEST_EACH * size / LEAST_PER_SECOND)
        memory: list[float] = []

        @contextlib.contextmanager
        def standing(*extra: str) -> Iterator[Standing]:
            arguments = ["--port", str(self.target.server.port), "--ca", str(self.target.home.certificate("root"))]
            arguments += ["--identities", str(clients), "--conns", str(size), "--dials", str(DIALS), "--rounds"]
            with self._on.rig.standing("client", [*arguments, *extra], seconds=seconds) as made:
                memory.append(self._memory())
                yield made

        found = self._measured("connections", size, standing)
        return {**found, "pss_kib": memory[-1] - before}

    def _masters(self, conns: int, *extra: str) -> StandingRig:
        return self._on.masters(self.target, conns, *extra, seconds=self._seconds, core=RIG_CORE)

    def _measured(self, what: str, size: int, standing: Callable[..., StandingRig]) -> Row:
        """Rounds without a pause and calm ones in turn, on connections of their own: at once where they are few."""
        with contextlib.ExitStack() as both:
            busy = both.enter_context(standing())
            rate = min(CALM_PER_SECOND, CALM_SHARE * self._round(busy)["per_s"])
            calm = both.enter_context(standing("--rate", str(max(1.0, rate))))
            rows = []
            for _ in range(self._rounds):
                row = self._round(busy)
                rows.append(row | {f"calm_{name}": value for name, value in self._round(calm).items()})
        found = medians(rows)
        self._report.row(what=what, size=size, share=1.0, hidden=(), **{name: found[name] for name in SHOWN})
        return {"size": size, **found}

    def _round(self, standing: Standing) -> Row:
        return dict(counted(self.target, standing.round)(self._seconds))

    def _memory(self) -> float:
        return float(sum(map(pss_kib, self._data)))


def medians(rows: list[Row]) -> Row:
    """The middle value of each column."""
    return {name: statistics.median(row[name] for row in rows) for name in rows[0]}
