"""The figures of `docs/why.md` and its plot, from what `bench/run polling` measured: none is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from rig.plot import Axis, Legend, Line, Panel, svg
from rig.processes import BenchFailed
from rig.results import report_of, table, with_figures

BEGIN, END = "<!-- figures: written by bench/run polling --page -->", "<!-- end of the figures -->"
PAGE, PLOT = "why.md", "polling.svg"

NAMES: Mapping[str, str] = {
    "reversed": "reversed connections",
    "held": "held polls",
    "eager_3s": "eager pollers, 3 s",
    "timer_3s": "timer pollers, 3 s",
    "eager_30s": "eager pollers, 30 s",
    "timer_30s": "timer pollers, 30 s",
}
COLOURS: Mapping[str, str] = {
    "reversed": "#000000",
    "held": "#0a7d36",
    "eager_3s": "#1f77b4",
    "timer_3s": "#7b4fb5",
    "eager_30s": "#e07b00",
    "timer_30s": "#c62828",
}
IN_BURST = ("timer_30s", "eager_30s", "timer_3s", "eager_3s", "reversed")


def write_page(docs: Path, reports: Iterable[Mapping[str, Any]], *, command: str) -> None:
    """Put the figures between the marks of the page, and the plot beside it.

    Raises:
        BenchFailed: nothing was measured that belongs there, or the page has no marks.
    """
    report = report_of(reports, "polling")
    if report is None:
        raise BenchFailed("--page needs the measurement `polling`")
    page = docs / PAGE
    lines = figures(report, command=command)
    page.write_text(with_figures(page.read_text(), lines, begin=BEGIN, end=END, page=PAGE))
    (docs / PLOT).write_text(plot(report))


def figures(report: Mapping[str, Any], *, command: str) -> list[str]:
    """All tables, with what they are."""
    settings, results, rows = report["settings"], report["results"], report["rows"]
    workers, many = settings["workers"], settings["simulated"]
    real = {(row["way"], row["load"]): row for row in rows if row["workers"] == workers}
    larger = {(row["way"], row["load"]): row for row in rows if row["workers"] == many}
    loads = " ".join(f"{value:.2f}" for value in report["load_after"])
    late = max(row["bench_late_ms"] for row in real.values() if row["load"] == "stream")
    versions = report["versions"]
    return [
        f"Measured by `{command}` on {report['at'][:10]}: {report['cores']} cores, {versions['processor']}, kernel "
        f"{versions['kernel']}, Python {versions.get('python', '?')}, {versions.get('build', '?')} build; load "
        f"averages {loads} at the end. {workers:,} workers of each kind. In brackets what the model says of the same "
        f"jobs. In the streams 99 of 100 timers of the bench itself were less than {late:.1f} ms late: what else ran "
        "is in the short waits.",
        "",
        f"**While there is no work**, {workers:,} workers of each kind:",
        "",
        *table(
            ["", "requests a second", "processor time of the gateway in a second"],
            [
                (
                    NAMES[way],
                    f"{results[f'{way}_idle_requests_per_s']:,.1f}",
                    f"{results[f'{way}_idle_cpu_ms_per_s']:.1f} ms",
                )
                for way in NAMES
                if f"{way}_idle_requests_per_s" in results
            ],
        ),
        f"**A stream of jobs**, {settings['jobs_per_s']:g} a second on average, each {settings['service_s']} s of "
        "work: most workers are idle at any time.",
        "",
        *table(
            ["", "mean wait", "99 of 100 waited less than", "idle work lost with each job"],
            [
                (
                    NAMES[way],
                    both(row, "mean_ms", "model_mean"),
                    both(row, "p99_ms", "model_p99"),
                    both(row, "lost_per_job_s", "model_lost_per_job", factor=1),
                )
                for way, row in of(real, "stream")
            ],
        ),
        f"**A burst**: {settings['burst_jobs']:,} such jobs at one moment, two for each worker, while all are idle.",
        "",
        *table(
            [
                "",
                "mean wait",
                "half of the jobs had begun after",
                "the last began after",
                "idle work lost with each job",
            ],
            [
                (
                    NAMES[way],
                    both(row, "mean_ms", "model_mean"),
                    both(row, "p50_ms", "model_p50"),
                    both(row, "worst_ms", "model_worst"),
                    both(row, "lost_per_job_s", "model_lost_per_job", factor=1),
                )
                for way, row in of(real, "burst")
            ],
        ),
        f"**{many:,} workers, simulated**, with ten times as many jobs.",
        "",
        *table(
            ["", "stream: mean wait", "burst: mean wait", "the last began after", "idle work lost in the burst"],
            [
                (
                    NAMES[way],
                    span(larger[way, "stream"]["model_mean"] / 1000),
                    span(row["model_mean"] / 1000),
                    span(row["model_worst"] / 1000),
                    f"{results[f'{way}_burst_{many}_simulated_lost_worker_hours']:,.1f} worker-hours",
                )
                for way, row in of(larger, "burst")
            ],
        ),
        *arithmetic(results, many),
    ]


def arithmetic(results: Mapping[str, float], many: int) -> list[str]:
    """What the formulas say."""
    return [
        "**Reckoned** by the two formulas below:",
        "",
        *table(
            ["", "polls every 3 s", "polls every 30 s"],
            [
                *(
                    (
                        f"a lone job, {idle:,} of the pollers idle: mean wait",
                        *(span(results[f"reckoned_{t}s_{idle}_idle_wait_ms"] / 1000) for t in (3, 30)),
                    )
                    for idle in (1, 10, 100, 1000)
                ),
                *(
                    (
                        f"a full pool, timers, jobs of {service} s: capacity lost",
                        *(f"{results[f'reckoned_{t}s_timer_jobs_of_{service}s_lost_percent']:.1f} %" for t in (3, 30)),
                    )
                    for service in (60, 600)
                ),
                (
                    f"{many:,} idle pollers: requests a second",
                    *(f"{results[f'reckoned_{t}s_{many}_idle_requests_per_s']:,.0f}" for t in (3, 30)),
                ),
            ],
        ),
    ]


def of(rows: Mapping[tuple[str, str], Mapping[str, Any]], load: str) -> list[tuple[str, Mapping[str, Any]]]:
    """The rows of one load, in the order of the names."""
    return [(way, rows[way, load]) for way in NAMES if (way, load) in rows]


def both(row: Mapping[str, Any], measured: str, modelled: str, *, factor: float = 1000) -> str:
    """Measured, and modelled in brackets; `factor` of the row's unit are a second."""
    return f"{span(row[measured] / factor)} ({span(row[modelled] / factor)})"


def span(seconds: float) -> str:
    """A time with as many digits as it deserves: below a second in ms."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    thousandths = seconds * 1000
    return "0" if thousandths == 0 else f"{thousandths:.1f} ms" if thousandths < 10 else f"{thousandths:.0f} ms"


def plot(report: Mapping[str, Any]) -> str:
    """The burst as it was measured and modelled; the stream's mean wait by how busy the pool is, modelled."""
    shares = [(share / 4, f"{25 * share} %") for share in range(5)]
    curves, settings = report["curves"], report["settings"]
    workers = settings["workers"]
    burst = Panel(
        title=f"A burst: two jobs for each of {workers:,} idle workers",
        x=Axis(name="seconds after the jobs were there", low=0, high=60, ticks=[(s, str(s)) for s in range(0, 61, 10)]),
        y=Axis(name="jobs begun", low=0, high=1, ticks=shares),
        lines=[
            Line(points=curves[way][by], colour=COLOURS[way], dashed=by == "modelled", steps=by == "measured")
            for by in ("measured", "modelled")
            for way in IN_BURST
        ],
    )
    waits = ((0.0001, "0.1 ms"), (0.001, "1 ms"), (0.01, "10 ms"), (0.1, "100 ms"), (1.0, "1 s"), (10.0, "10 s"))
    stream = Panel(
        title=f"A stream to {workers:,} workers (dots: measured)",
        x=Axis(name="busy workers", low=0, high=1, ticks=shares),
        y=Axis(name="mean wait", low=0.0001, high=20, ticks=waits, log=True),
        lines=[
            *(Line(points=points, colour=COLOURS[way], dashed=True) for way, points in report["sweep"].items()),
            *(
                Line(points=[(settings["busy"], row["mean_ms"] / 1000)], colour=COLOURS[row["way"]], dots=True)
                for row in report["rows"]
                if row["load"] == "stream" and row["workers"] == workers
            ),
        ],
    )
    legend = [Legend(name=name, colour=COLOURS[way]) for way, name in NAMES.items()]
    return svg([burst, stream], [*legend, Legend(name="model", colour="#555555", dashed=True)])
