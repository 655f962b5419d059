"""The writer of what people read: tables, the figures between the marks of a page, and `bench/RESULTS.md`.

Everything comes from the JSON of one run; nothing is written by hand.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rig.goals import goal_rows
from rig.peers import OURS
from rig.processes import BenchFailed
from rig.report import listed, shown

ReportData = Mapping[str, Any]
Figures = Callable[[ReportData, Sequence[ReportData]], tuple[list[str], str]]
SKIPPED = {"rounds", "seconds", "ramp_per_s", "tls"}
MACHINE = {"processor", "kernel"}


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table with an empty line behind it."""
    lines = [heading, ["---"] * len(heading), *rows]
    return [*(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines), ""]


def report_of(reports: Iterable[ReportData], name: str) -> ReportData | None:
    """The report of one measurement, if it was made."""
    return next((report for report in reports if report["measurement"] == name), None)


def write_page(page: Path, reports: Sequence[ReportData], *, of: str, made: Figures, command: str) -> None:
    """Put the figures of a measurement between the marks of its page, and the plots beside it, as `of`.svg.

    Raises:
        BenchFailed: it was not measured, or the page has not its marks once each, in their order.
    """
    begin, end = marks(of)
    report = report_of(reports, of)
    if report is None:
        raise BenchFailed(f"--page needs the measurement `{of}`")
    before, found, rest = page.read_text().partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end or begin in rest or end in after:
        raise BenchFailed(f"docs/{page.name} must have the lines {begin} and {end} once each")
    versions = {name: report["versions"].get(name, "?") for name in ("processor", "kernel", "python", "build")}
    where = (
        f"Measured by `{command}` on {report['at'][:10]}: {report['cores']} cores, {listed(versions)}; load averages "
        f"{loads(report)}."
    )
    lines, plots = made(report, reports)
    page.write_text(f"{before}{begin}\n\n" + "\n".join([where, "", *lines]).rstrip() + f"\n\n{end}{after}")
    (page.parent / f"{of}.svg").write_text(plots)


def marks(of: str) -> tuple[str, str]:
    """The lines that the figures of a measurement stand between."""
    return f"<!-- figures: written by bench/run {of} --page -->", "<!-- end of the figures -->"


def loads(report: ReportData) -> str:
    """The load averages."""
    before, after = (" ".join(f"{value:.2f}" for value in report[when]) for when in ("load_before", "load_after"))
    return f"{before} before, {after} after"


# ---- bench/RESULTS.md ----


def results_text(reports: Sequence[ReportData], *, command: str, failures: Sequence[str] = ()) -> str:
    """All reports of one run as Markdown, goals first; `failures` are measurements that could not be made.

    Ratios are medians over the rounds of one run, with the smallest and the largest round behind them.
    """
    missing = [f"* Not measured: {line}" for line in failures]
    if not reports:
        return "\n".join(["# Results", "", "Nothing was measured.", *missing]) + "\n"
    first, last = reports[0], reports[-1]
    took = sum(report.get("took_s", 0.0) for report in reports) / 60
    highest = max(report["load_after"][0] for report in reports)
    peers: dict[str, Mapping[str, str]] = {}
    builds: dict[str, Mapping[str, str]] = {}
    for report in reports:
        peers |= report["peers"]
        builds |= report.get("builds", {})
    ours = {"gateway": {"build": f"rhttp-pki {first['versions'].get('rhttp-pki', '?')}", **OURS}}
    lines = [
        "# Results",
        "",
        f"Written by `{command}`, from {first['at']} on; not by hand. How it is measured: [README.md](README.md).",
        "",
        f"* Machine: {first['cores']} cores, {first['versions']['processor']}, kernel {first['versions']['kernel']}",
        f"* Load average (1 min): {first['load_before'][0]:.2f} before, {last['load_after'][0]:.2f} after, at most "
        f"{highest:.2f} between; the bench's own load is in it",
        f"* Took {took:.0f} minutes",
        f"* Versions: {listed({name: one for name, one in first['versions'].items() if name not in MACHINE})}",
        *(f"* {name}: {listed(facts)}" for name, facts in builds.items() if name != "gateway"),
        *missing,
        "",
        "## Goals",
        "",
        *table(["goal", "size", "wanted", "measured", "rounds", ""], goal_rows(reports)),
        *table(
            ["server", "build", "Digest", "role rule"],
            [(name, one["build"], one["digest"], one["role_rule"]) for name, one in {**ours, **peers}.items()],
        ),
    ]
    for report in reports:
        lines += section(report)
    return "\n".join(lines).rstrip() + "\n"


def section(report: ReportData) -> list[str]:
    """One measurement: its settings, medians for each server, ratios with their spread, its own load averages."""
    settings = ", ".join(f"{name} {shown(value)}" for name, value in report["settings"].items() if name not in SKIPPED)
    lines = [f"## {report['measurement']}{f': {settings}' if settings else ''}", ""]
    results, rows, servers = report["results"], report["rows"], report.get("servers", [])
    columns = list(
        dict.fromkeys(
            name.removeprefix(f"{server}_")
            for server in servers
            for name in rows[0]
            if f"median_{name}" in results and name.startswith(f"{server}_")
        )
    )
    ratios = [name for name in results if "ratio_" in name]
    others = {name: value for name, value in results.items() if name not in ratios}
    if servers:
        others = {name: value for name, value in others.items() if not name.startswith("median_")}
        lines += table(
            ["median", *columns],
            [(name, *(cell(results.get(f"median_{name}_{column}")) for column in columns)) for name in servers],
        )
        lines += table(
            ["over 1 is in our favour", "median", "smallest", "largest", "rounds"],
            [
                (name, *map(cell, (results[name], min(found), max(found))), str(len(rows)))
                for name in ratios
                for found in [[row[name] for row in rows]]
            ],
        )
    if others:
        lines += table(
            ["besides" if servers else "result", "value"], [(name, cell(one)) for name, one in others.items()]
        )
    took = f" It took {report['took_s']:.0f} s." if "took_s" in report else ""
    return [*lines, f"Load averages: {loads(report)}.{took}", ""]


def cell(value: Any) -> str:
    """A table cell; empty where there is nothing."""
    return "" if value is None else shown(value)
