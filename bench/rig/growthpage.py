"""The figures of `docs/growth.md` and its plot, from what `bench/run growth` measured: none is written by hand."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.model import Costs, Line, Queue, fit_doublings, fit_queue, fit_relative_line, host, return_after_loss
from rig.plot import Axis, Panel, drawn
from rig.plot import Line as Drawn
from rig.processes import BenchFailed
from rig.results import report_of, table, with_figures

BEGIN, END = "<!-- figures: written by bench/run growth --page -->", "<!-- end of the figures -->"
PAGE, PLOT = "growth.md", "growth.svg"
INK, MODEL, SECOND = "#1f5fa8", "#c2571a", "#2f7d4f"
CORES, UTILISATION = 64, 0.6
KEPT_UP = 0.95
FLEETS = (1, 2, 4, 16)
WIDTH, HEIGHT = 470.0, 320.0

COLUMNS = ("processor time of one, µs", "a second", "rush p50, p99, ms", "calm p50, p99, ms")
Rows = Sequence[Mapping[str, float]]


def write_growth_page(docs: Path, reports: Sequence[Mapping[str, Any]], *, command: str) -> None:
    """Put the figures between the marks of the page, and the plot beside it.

    Raises:
        BenchFailed: growth was not measured, or the page has no marks.
    """
    growth = report_of(reports, "growth")
    if growth is None:
        raise BenchFailed("--page needs the measurement `growth`")
    fits = Fits(growth)
    page = docs / PAGE
    lines = [*measured(growth, command=command), *modelled(fits), *reckoned(fits, reports)]
    page.write_text(with_figures(page.read_text(), lines, begin=BEGIN, end=END, page=PAGE))
    (docs / PLOT).write_text(plot(growth, fits))


class Fits:
    """The models, fitted to the rows of one run."""

    def __init__(self, growth: Mapping[str, Any]) -> None:
        self.workers: Rows = growth["workers"]
        self.connections: Rows = growth["connections"]
        sizes = column(self.workers, "size")
        self.memory: Line = fit_relative_line(sizes, column(self.workers, "pss_kib"))
        self.dispatch: Line = fit_doublings(sizes, column(self.workers, "cpu_us"))
        self.request: Line = fit_doublings(column(self.connections, "size"), column(self.connections, "cpu_us"))
        # A load that the process could not keep up with says how long the queue had time to grow, and nothing else.
        self.load: Rows = [row for row in growth["load"] if row["per_s"] >= KEPT_UP * row["asked_per_s"]]
        self.utilisations = column(self.load, "utilisation")
        service = min(column(self.workers, "cpu_us"))
        self.p50: Queue = fit_queue(self.utilisations, column(self.load, "p50_us"), service=service)
        self.p99: Queue = fit_queue(self.utilisations, column(self.load, "p99_us"), service=service)


def column(rows: Rows, name: str) -> list[float]:
    """One column."""
    return [float(row[name]) for row in rows]


def measured(growth: Mapping[str, Any], *, command: str) -> list[str]:
    """What was measured: three tables."""
    versions = growth["versions"]
    loads = " and ".join(f"{growth[when][0]:.2f}" for when in ("load_before", "load_after"))
    return [
        f"Measured by `{command}` on {growth['at'][:10]}: {growth['cores']} cores, {versions['processor']}, kernel "
        f"{versions['kernel']}, Python {versions.get('python', '?')}, {versions.get('build', '?')} build; one data "
        f"process on one core; load averages (1 min) {loads} before and after. Medians of "
        f"{growth['settings']['rounds']} rounds of {growth['settings']['turn_seconds']:g} s.",
        "",
        f"![Memory, processor time and latency against size and load]({PLOT})",
        "",
        "**Dispatches against workers** in one pool, through `/-/pools/{pool}/any/`. *Rush*: 32 connections of masters "
        "without a pause; *calm*: 1,000 a second at random moments, or three tenths of the rush where that is less.",
        "",
        *table(
            ["workers", "memory, MiB", *COLUMNS],
            [(whole(r["size"]), f"{r['pss_kib'] / 1024:.1f}", *costs(r)) for r in growth["workers"]],
        ),
        "**Requests against connections** of authenticated clients (mutual TLS and Digest), to a master.",
        "",
        *table(
            ["connections", "more memory, MiB", *COLUMNS],
            [(whole(r["size"]), f"{r['pss_kib'] / 1024:.1f}", *costs(r)) for r in growth["connections"]],
        ),
        f"**Latency against load**: dispatches at random moments, {whole(growth['load'][0]['size'])} workers. "
        "Utilisation is the rate, divided by what the process did in the rush.",
        "",
        *table(
            ["utilisation", "a second", "p50, ms", "p99, ms"],
            [
                (
                    f"{r['utilisation']:.2f}",
                    whole(r["per_s"]),
                    *(f"{r[name] / 1000:.2f}" for name in ("p50_us", "p99_us")),
                )
                for r in growth["load"]
            ],
        ),
    ]


def costs(row: Mapping[str, float]) -> tuple[str, ...]:
    """The columns that dispatches and requests have in common."""
    latencies = [f"{row[f'{k}p50_us'] / 1000:.2f}, {row[f'{k}p99_us'] / 1000:.2f}" for k in ("", "calm_")]
    return (f"{row['cpu_us']:.1f}", whole(row["per_s"]), *latencies)


def whole(value: float) -> str:
    """A whole number."""
    return f"{value:,.0f}"


def modelled(fits: Fits) -> list[str]:
    """The models, each with how far the measurements lie from it."""
    doublings = "{a:.1f} µs + {b:.2f} µs for each doubling"
    rows = [
        (
            "memory against workers",
            f"{fits.memory.a / 1024:.1f} MiB + {fits.memory.b:.1f} KiB for each",
            residuals(fits.memory.residuals, 1 / 1024, "MiB"),
        ),
        (
            "processor time of a dispatch against workers",
            doublings.format(a=fits.dispatch.a, b=fits.dispatch.b),
            residuals(fits.dispatch.residuals, 1, "µs"),
        ),
        (
            "processor time of a request against connections",
            doublings.format(a=fits.request.a, b=fits.request.b),
            residuals(fits.request.residuals, 1, "µs"),
        ),
        *(
            (
                f"{name} of a dispatch against utilisation ρ",
                f"{queue.base / 1000:.2f} ms + {queue.factor:.1f} · {queue.service / 1000:.3f} ms · ρ / (2 (1 - ρ))",
                residuals(queue.residuals, 1 / 1000, "ms"),
            )
            for name, queue in (("p50", fits.p50), ("p99", fits.p99))
        ),
    ]
    return ["**The models**, fitted to these rows (least squares).", "", *table(["of", "model", "residuals"], rows)]


def residuals(values: Sequence[float], times: float, unit: str) -> str:
    """The distances of the measurements from the model, smallest size first."""
    return f"{', '.join(f'{value * times:+.2f}' for value in values)} {unit}"


def reckoned(fits: Fits, reports: Sequence[Mapping[str, Any]]) -> list[str]:
    """What a host with 64 cores and fleets of them would hold; empty without the measurements of two processes."""
    two, crossing = report_of(reports, "processes: hosted"), report_of(reports, "cross")
    requests = report_of(reports, "processes: requests")
    if two is None or requests is None or crossing is None:
        return ["What a host would hold was not reckoned: two processes were not measured in the same run."]
    slower = min(two["results"]["ratio_one"], requests["results"]["ratio_one"])
    reckoning = Costs(
        dispatch_us=fits.workers[-1]["cpu_us"],
        request_us=fits.connections[-1]["cpu_us"],
        admission_us=fits.workers[-1]["admission_us"],
        second=min(1.0, max(0.0, slower - 1)),
        crossing=max(1.0, 1 / crossing["results"]["cpu_ratio_local"]),
        memory=fits.memory,
    )
    each = int(fits.workers[-1]["size"])
    one = host(reckoning, cores=CORES, utilisation=UTILISATION, workers_per_process=each)
    rows = []
    for hosts in FLEETS:
        back = return_after_loss(reckoning, one, hosts=hosts)
        rows.append(
            (
                str(hosts),
                *map(whole, (hosts * one.workers, hosts * one.requests_per_s)),
                f"{whole(hosts * one.crossing_dispatches_per_s)} to {whole(hosts * one.local_dispatches_per_s)}",
                "nobody takes them" if math.isinf(back) else f"{back:.1f} s",
            )
        )
    return [
        f"**A host with {CORES} cores** and a fleet of them, reckoned, not measured. Assumed: one data process on each "
        f"core but one; {each:,} workers in each, as many as were measured; utilisation {UTILISATION:g}; "
        f"each process adds {reckoning.second:.2f} of what the first one does, as the second one did in this run (the "
        "smaller of requests and hosted dispatches); no core is slower because the others are busy; the largest sizes "
        "above cost what they cost there. Dispatches lie between all through another process (measured: "
        f"{reckoning.crossing:.2f} times the processor time of a local one) and all local. Nothing is shared between "
        "hosts: each has its own workers.",
        "",
        f"One host: {one.processes} processes, {one.workers:,} workers, {one.memory_gib:.1f} GiB for the gateway (the "
        f"kernel's socket buffers come on top), all workers back {one.storm_s:.1f} s after all were cut, a dispatch in "
        f"{fits.p50.at(UTILISATION) / 1000:.2f} ms (p50) and {fits.p99.at(UTILISATION) / 1000:.2f} ms (p99) by the "
        "model.",
        "",
        *table(
            ["hosts", "workers", "requests a second", "dispatches a second", "workers of a lost host are back after"],
            rows,
        ),
    ]


def plot(growth: Mapping[str, Any], fits: Fits) -> str:
    """Four plots in two rows: marks are measured, dashes are the models."""
    workers, connections = column(fits.workers, "size"), column(fits.connections, "size")
    memory = [value / 1024 for value in column(fits.workers, "pss_kib")]
    across, many = log_axis("workers in the pool", workers), spread(workers)
    load = fits.utilisations
    shares = [low / 50 for low in range(50) if low / 50 <= max(load)]
    panels = [
        panel("Memory of the process, MiB", across, workers, memory, [(x, fits.memory.at(x) / 1024) for x in many]),
        panel(
            "Processor time of one dispatch, µs",
            across,
            workers,
            column(fits.workers, "cpu_us"),
            [(x, fits.dispatch.at(math.log2(x))) for x in many],
        ),
        panel(
            "Processor time of one request, µs",
            log_axis("connections", connections),
            connections,
            column(fits.connections, "cpu_us"),
            [(x, fits.request.at(math.log2(x))) for x in spread(connections)],
        ),
        panel(
            "Latency of a dispatch, ms: p99 (blue), p50 (green)",
            linear_axis("utilisation of the process", [0.0, 1.0]),
            load,
            [row["p99_us"] / 1000 for row in fits.load],
            [(x, fits.p99.at(x) / 1000) for x in shares],
            also=[(x, row["p50_us"] / 1000) for x, row in zip(load, fits.load, strict=True)],
        ),
    ]
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDTH:.0f} {2 * HEIGHT:.0f}" role="img">',
        f'<rect width="{2 * WIDTH:.0f}" height="{2 * HEIGHT:.0f}" fill="#ffffff"/>',
    ]
    for number, one in enumerate(panels):
        place = f"{(number % 2) * WIDTH:.0f},{(number // 2) * HEIGHT:.0f}"
        parts += [f'<g transform="translate({place})">', *drawn(one, WIDTH, HEIGHT), "</g>"]
    return "\n".join([*parts, "</svg>"]) + "\n"


def panel(
    title: str,
    x: Axis,
    xs: Sequence[float],
    ys: Sequence[float],
    model: Sequence[tuple[float, float]],
    *,
    also: Sequence[tuple[float, float]] = (),
) -> Panel:
    """Measurements as marks, the model dashed."""
    values = [*ys, *(y for _, y in also), *(y for _, y in model)]
    lines = [Drawn(points=model, colour=MODEL, dashed=True)]
    lines.append(Drawn(points=list(zip(xs, ys, strict=True)), colour=INK, dots=True))
    if also:
        lines.append(Drawn(points=also, colour=SECOND, dots=True))
    return Panel(title=title, x=x, y=linear_axis("", values), lines=lines)


def spread(sizes: Sequence[float], count: int = 40) -> list[float]:
    """Sizes between the smallest and the largest, evenly on a logarithmic axis."""
    low, high = math.log10(min(sizes)), math.log10(max(sizes))
    return [10 ** (low + (high - low) * number / (count - 1)) for number in range(count)]


def log_axis(name: str, values: Sequence[float]) -> Axis:
    """Whole powers of ten around the values."""
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)
    return Axis(
        name=name,
        low=10.0**low,
        high=10.0**high,
        ticks=[(10.0**n, f"{10**n:,}") for n in range(low, high + 1)],
        log=True,
    )


def linear_axis(name: str, values: Sequence[float]) -> Axis:
    """From 0 to a round number above the values."""
    rough = max(*values, 1e-9) / 4
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(n * power for n in (1.0, 2.0, 2.5, 5.0, 10.0) if n * power >= rough * 0.999)
    count = math.ceil(max(values) / step - 1e-9)
    return Axis(
        name=name, low=0.0, high=step * max(1, count), ticks=[(step * n, f"{step * n:g}") for n in range(count + 1)]
    )
