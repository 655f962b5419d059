"""The figures and plots of `docs/why.md`: what `bench/run polling` measured and modelled."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rig.pages import ReportData, table
from rig.plot import Axis, Panel, Series, svg
from rig.pollmodel import first_ask, lost_share

INTERVALS = (3, 30)
NAMES: Mapping[str, tuple[str, str]] = {
    "reversed": ("reversed connections", "#000000"),
    "held": ("held polls", "#0a7d36"),
    "eager_3s": ("eager pollers, 3 s", "#1f77b4"),
    "timer_3s": ("timer pollers, 3 s", "#7b4fb5"),
    "eager_30s": ("eager pollers, 30 s", "#e07b00"),
    "timer_30s": ("timer pollers, 30 s", "#c62828"),
}


def polling_page(report: ReportData, _: Sequence[ReportData]) -> tuple[list[str], str]:
    """All tables, with what they are; plots of the burst, and of the stream's wait by how busy the pool is."""
    settings, results = report["settings"], report["results"]
    workers, many = settings["workers"], settings["simulated"]
    rows = {(row["way"], row["load"], row["workers"]): row for row in report["rows"]}

    def told(load: str, at: int, *columns: tuple[str, float]) -> list[tuple[str, ...]]:
        """A row for each way: measured, and modelled in brackets; so many of the column's unit are a second."""

        def cells(row: Mapping[str, Any]) -> list[str]:
            pairs = [(row[k] / unit, row[f"model_{k}"] / unit) for k, unit in columns]
            return [f"{span(real)} ({span(modelled)})" for real, modelled in pairs]

        return [(name, *cells(row)) for way, (name, _) in NAMES.items() if (row := rows.get((way, load, at)))]

    mean, lost = ("mean_ms", 1000.0), ("lost_per_job_s", 1.0)
    late = max(row["bench_late_ms"] for (_, load, at), row in rows.items() if load == "stream" and at == workers)
    lines = [
        f"{workers:,} workers of each kind. In brackets what the model says of the same jobs. In the streams 99 of 100 "
        f"timers of the bench itself were less than {late:.1f} ms late: what else ran is in the short waits.",
        "",
        f"**While there is no work**, {workers:,} workers of each kind:",
        "",
        *table(
            ["", "requests a second", "processor time of the gateway in a second"],
            [
                (name, f"{results[f'{way}_idle_requests_per_s']:,.1f}", f"{results[f'{way}_idle_cpu_ms_per_s']:.1f} ms")
                for way, (name, _) in NAMES.items()
                if f"{way}_idle_requests_per_s" in results
            ],
        ),
        f"**A stream of jobs**, {settings['jobs_per_s']:g} a second on average, each {settings['service_s']} s of "
        "work: most workers are idle at any time.",
        "",
        *table(
            ["", "mean wait", "99 of 100 waited less than", "idle work lost with each job"],
            told("stream", workers, mean, ("p99_ms", 1000), lost),
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
            told("burst", workers, mean, ("p50_ms", 1000), ("worst_ms", 1000), lost),
        ),
        f"**{many:,} workers, simulated**, with ten times as many jobs.",
        "",
        *table(
            ["", "stream: mean wait", "burst: mean wait", "the last began after", "idle work lost in the burst"],
            [
                (
                    name,
                    span(rows[way, "stream", many]["model_mean_ms"] / 1000),
                    span(row["model_mean_ms"] / 1000),
                    span(row["model_worst_ms"] / 1000),
                    f"{row['model_lost_per_job_s'] * row['jobs'] / 3600:,.1f} worker-hours",
                )
                for way, (name, _) in NAMES.items()
                if (row := rows.get((way, "burst", many)))
            ],
        ),
        "**Reckoned** by the two formulas below:",
        "",
        *table(["", *(f"polls every {t} s" for t in INTERVALS)], arithmetic(many)),
    ]
    return lines, polling_plot(report)


def arithmetic(many: int) -> list[tuple[str, ...]]:
    """What the formulas say. Jobs are longer than any interval, or the second one does not hold."""
    return [
        *(
            (f"a lone job, {idle:,} of the pollers idle: mean wait", *(span(first_ask(t, idle)) for t in INTERVALS))
            for idle in (1, 10, 100, 1000)
        ),
        *(
            (
                f"a full pool, timers, jobs of {service} s: capacity lost",
                *(f"{100 * lost_share(t, service):.1f} %" for t in INTERVALS),
            )
            for service in (60, 600)
        ),
        (f"{many:,} idle pollers: requests a second", *(f"{many / t:,.0f}" for t in INTERVALS)),
    ]


def span(seconds: float) -> str:
    """A time with as many digits as it deserves: below a second in ms."""
    if seconds >= 1:
        return f"{seconds:.1f} s"
    thousandths = seconds * 1000
    return "0" if thousandths == 0 else f"{thousandths:.1f} ms" if thousandths < 10 else f"{thousandths:.0f} ms"


def polling_plot(report: ReportData) -> str:
    """Lines are measured, dashes and curves of the right panel modelled, dots measured."""
    curves, settings = report["curves"], report["settings"]
    workers = settings["workers"]
    begun = [
        Series(
            points=[(at, 100 * share) for at, share in curves[way][by]],
            colour=NAMES[way][1],
            dashed=by == "modelled",
            steps=by == "measured",
        )
        for by in ("measured", "modelled")
        for way in NAMES
        if way in curves and way != "held"
    ]
    waits = [
        *(
            Series(points=[(100 * x, 1000 * y) for x, y in points], colour=NAMES[way][1], dashed=True)
            for way, points in report["sweep"].items()
        ),
        *(
            Series(points=[(100 * settings["busy"], row["mean_ms"])], colour=NAMES[row["way"]][1], dots=True)
            for row in report["rows"]
            if row["load"] == "stream" and row["workers"] == workers
        ),
    ]
    burst = f"A burst: two jobs for each of {workers:,} idle workers"
    stream = f"A stream to {workers:,} workers (dots: measured)"
    busy, wait = Axis("busy workers, %", 0, 100), Axis("mean wait, ms", 0.1, 20000, log=True)
    return svg(
        [
            Panel(
                burst, Axis("seconds after the jobs were there", 0, 60, every=10), Axis("jobs begun, %", 0, 100), begun
            ),
            Panel(stream, busy, wait, waits),
        ],
        [*((name, colour, False) for name, colour in NAMES.values()), ("model", "#555555", True)],
    )
