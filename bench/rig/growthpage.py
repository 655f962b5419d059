"""The figures and plots of `docs/growth.md`: what `bench/run growth` measured, and the models that hold."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rig.model import CLOSE, Fit, fit, queueing
from rig.pages import ReportData, report_of, table
from rig.plot import Axis, Panel, Series, svg

BLUE, ORANGE = "#1f5fa8", "#c2571a"
CORES, UTILISATION, KEPT_UP, FLEETS = 64, 0.6, 0.95, (1, 2, 4, 16)
DOUBLING = "{a:.1f} µs + {b:.2f} µs for each doubling"
QUEUE = "{a:.2f} ms + {b:.3f} ms · ρ / (2 (1 - ρ))"


@dataclass(frozen=True, slots=True)
class Model:
    """What is plotted: a column of rows, in a unit, and the function and the formula of the line that is tried."""

    name: str
    title: str
    rows: str
    column: str
    unit: float
    of: Callable[[float], float]
    formula: str

    def points(self, growth: ReportData) -> list[tuple[float, float]]:
        """What was measured."""
        rows: Sequence[Mapping[str, Any]] = growth[self.rows]
        if self.rows != "load":
            return [(row["size"], row[self.column] / self.unit) for row in rows]
        # A load that the process could not keep up with says how long the queue had time to grow, and nothing else.
        kept_up = [row for row in rows if row["per_s"] >= KEPT_UP * row["asked_per_s"]]
        return [(row["utilisation"], row[self.column] / self.unit) for row in kept_up]

    def fit(self, growth: ReportData) -> Fit:
        """The line."""
        points = self.points(growth)
        return fit([x for x, _ in points], [y for _, y in points], self.of)

    def panel(self, growth: ReportData) -> Panel:
        """Measurements as dots; the line dashed, where it holds."""
        points, line = self.points(growth), self.fit(growth)
        xs = [x for x, _ in points]
        series = [Series(points=points, colour=BLUE, dots=True)]
        if line.holds:
            between = xs if self.rows == "load" else spread(xs)
            series.insert(0, Series(points=[(x, line.at(x)) for x in between], colour=ORANGE, dashed=True))
        across = {"workers": "workers in the pool", "connections": "connections", "load": "utilisation"}[self.rows]
        x = Axis(across, 0, 1) if self.rows == "load" else Axis.of(across, xs, log=True)
        return Panel(self.title, x, Axis.of("", [y for one in series for _, y in one.points]), series)


MODELS = (
    Model(
        "memory against workers",
        "Memory of the process, MiB",
        "workers",
        "pss_kib",
        1024,
        float,
        "{a:.1f} MiB + {kib:.1f} KiB for each",
    ),
    Model(
        "processor time of a dispatch against workers",
        "Processor time of one dispatch, µs",
        "workers",
        "cpu_us",
        1,
        math.log2,
        DOUBLING,
    ),
    Model(
        "processor time of a request against connections",
        "Processor time of one request, µs",
        "connections",
        "cpu_us",
        1,
        math.log2,
        DOUBLING,
    ),
    *(
        Model(
            f"{name} of a dispatch against utilisation ρ",
            f"Latency of a dispatch, {name}, ms",
            "load",
            f"{name}_us",
            1000,
            queueing,
            QUEUE,
        )
        for name in ("p50", "p99")
    ),
)


def growth_page(growth: ReportData, reports: Sequence[ReportData]) -> tuple[list[str], str]:
    """Tables, the models that hold and what a host would hold; and the plots."""
    lines = [*growth_tables(growth), *model_lines(growth), *reckoned(growth, reports)]
    return lines, svg([model.panel(growth) for model in MODELS])


def spread(sizes: Sequence[float], count: int = 40) -> list[float]:
    """Sizes between the smallest and the largest, evenly on a logarithmic axis."""
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    return [10 ** (low + (high - low) * number / (count - 1)) for number in range(count)]


def whole(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def growth_tables(growth: ReportData) -> list[str]:
    """What was measured."""
    heading = ["processor time of one, µs", "a second", "rush p50, p99, ms", "calm p50, p99, ms"]

    def rows(of: str) -> list[tuple[str, ...]]:
        return [
            (
                *(whole(r["size"]), f"{r['pss_kib'] / 1024:.1f}", f"{r['cpu_us']:.1f}", whole(r["per_s"])),
                *(f"{r[f'{k}p50_us'] / 1000:.2f}, {r[f'{k}p99_us'] / 1000:.2f}" for k in ("", "calm_")),
            )
            for r in growth[of]
        ]

    settings = growth["settings"]
    return [
        f"One data process on one core. Medians of {settings['rounds']} rounds of {settings['turn_seconds']:g} s.",
        "",
        "![Memory, processor time and latency against size and load](growth.svg)",
        "",
        "**Dispatches against workers** in one pool, through `/-/pools/{pool}/any/`. *Rush*: 32 connections of masters "
        "without a pause; *calm*: 1,000 a second at random moments, or three tenths of the rush where that is less.",
        "",
        *table(["workers", "memory, MiB", *heading], rows("workers")),
        "**Requests against connections** of authenticated clients (mutual TLS and Digest), to a master.",
        "",
        *table(["connections", "more memory, MiB", *heading], rows("connections")),
        f"**Latency against load**: dispatches at random moments, {whole(growth['load'][0]['size'])} workers. "
        "Utilisation is the rate, divided by what the process did in the rush.",
        "",
        *table(
            ["utilisation", "a second", "p50, ms", "p99, ms"],
            [
                (f"{r['utilisation']:.2f}", whole(r["per_s"]), *(f"{r[k] / 1000:.2f}" for k in ("p50_us", "p99_us")))
                for r in growth["load"]
            ],
        ),
    ]


def model_lines(growth: ReportData) -> list[str]:
    """The models that hold, each with how far the measurements lie from it, and which do not."""
    rule = f"every measurement within {CLOSE:.0%} of it"
    fits = [(model, model.fit(growth)) for model in MODELS]
    held = [
        (
            model.name,
            model.formula.format(a=line.a, b=line.b, kib=line.b * 1024),
            ", ".join(f"{miss:+.0%}" for miss in line.misses),
        )
        for model, line in fits
        if line.holds
    ]
    missed = [f"{model.name} (misses a point by {line.worst:.0%})" for model, line in fits if not line.holds]
    lines = [f"**The models** that hold ({rule}; least squares of relative distances).", ""] if held else []
    lines += table(["of", "model", "distances, smallest size first"], held) if held else []
    if missed:
        lines += [f"No line holds ({rule}), so the points stand alone, for: {'; '.join(missed)}.", ""]
    return lines


def reckoned(growth: ReportData, reports: Sequence[ReportData]) -> list[str]:
    """What a host with 64 cores and fleets of them would hold, if two processes were measured."""
    needed = [report_of(reports, name) for name in ("processes: hosted", "processes: requests", "cross")]
    if any(one is None for one in needed):
        return ["What a host would hold was not reckoned: two processes were not measured in the same run."]
    hosted, requests, crossing = (one["results"] for one in needed if one is not None)
    largest = growth["workers"][-1]
    each, processes = int(largest["size"]), CORES - 1
    second = min(1.0, max(0.0, min(hosted["ratio_one"], requests["ratio_one"]) - 1))
    crosses = max(1.0, 1 / crossing["cpu_ratio_local"])
    capacity = 1 + (processes - 1) * second  # times what one process does
    rate = capacity * UTILISATION * 1e6
    asked, local = rate / growth["connections"][-1]["cpu_us"], rate / largest["cpu_us"]
    back = processes * each * largest["admission_us"] / 1e6 / capacity
    rows = [
        (
            *(str(hosts), whole(hosts * processes * each), whole(hosts * asked)),
            f"{whole(hosts * local / crosses)} to {whole(hosts * local)}",
            f"{back / (hosts - 1):.1f} s" if hosts > 1 else "nobody takes them",
        )
        for hosts in FLEETS
    ]
    return [
        f"**A host with {CORES} cores** and a fleet of them, reckoned, not measured. Assumed: one data process on each "
        f"core but one; {each:,} workers in each, as many as were measured; utilisation {UTILISATION:g}; "
        f"each process adds {second:.2f} of what the first one does, as the second one did in this run (the "
        "smaller of requests and hosted dispatches); no core is slower because the others are busy; the largest sizes "
        "above cost what they cost there. Dispatches lie between all through another process (measured: "
        f"{crosses:.2f} times the processor time of a local one) and all local. Nothing is shared between "
        "hosts: each has its own workers.",
        "",
        f"One host: {processes} processes, {processes * each:,} workers, "
        f"{processes * largest['pss_kib'] / (1 << 20):.1f} GiB for the gateway (the kernel's socket buffers come on "
        f"top), all workers back {back:.1f} s after all were cut.",
        "",
        *table(
            ["hosts", "workers", "requests a second", "dispatches a second", "workers of a lost host are back after"],
            rows,
        ),
    ]
