"""`bench/RESULTS.md`: what one run's JSON says, as tables for people. Nothing in it is written by hand."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rig.goals import goal_rows
from rig.peers import OURS
from rig.processes import BenchFailed
from rig.report import shown

ReportData = Mapping[str, Any]
SKIPPED = {"rounds", "seconds", "ramp_per_s", "tls"}


def results_text(reports: Sequence[ReportData], *, command: str, failures: Sequence[str] = ()) -> str:
    """All reports of one run as Markdown, goals first; `failures` are measurements that could not be made.

    Ratios are medians over the rounds of one run, with the smallest and the largest round behind them.
    """
    missing = [f"* Not measured: {line}" for line in failures]
    if not reports:
        return "\n".join(["# Results", "", "Nothing was measured.", *missing]) + "\n"
    first = reports[0]
    lines = [
        "# Results",
        "",
        f"Written by `{command}`, from {first['at']} on; not by hand. How it is measured: [README.md](README.md).",
        "",
        *machine(reports),
        *([*missing, ""] if missing else []),
        "## Goals",
        "",
        *table(["goal", "size", "wanted", "measured", "rounds", ""], goal_rows(reports)),
        *peers_table(reports),
    ]
    for report in reports:
        lines += section(report)
    return "\n".join(lines).rstrip() + "\n"


def machine(reports: Sequence[ReportData]) -> list[str]:
    """Where it ran, on what, and how busy the machine was."""
    first, last = reports[0], reports[-1]
    took = sum(report.get("took_s", 0.0) for report in reports)
    loads = [f"{value:.2f}" for value in (first["load_before"][0], last["load_after"][0])]
    highest = max(report["load_after"][0] for report in reports)
    return [
        f"* Machine: {first['cores']} cores, {first['versions']['processor']}, kernel {first['versions']['kernel']}",
        f"* Load average (1 min): {loads[0]} before, {loads[1]} after, at most {highest:.2f} between; the bench's own "
        "load is in it",
        f"* Took {took / 60:.0f} minutes",
        "* Versions: "
        + ", ".join(f"{k} {v}" for k, v in first["versions"].items() if k not in {"processor", "kernel"}),
        "",
    ]


def peers_table(reports: Sequence[ReportData]) -> list[str]:
    """Which builds were measured, and what work each does."""
    known: dict[str, Mapping[str, str]] = {}
    for report in reports:
        known.update(report["peers"])
    ours = {"build": f"rhttp-pki {reports[0]['versions'].get('rhttp-pki', '?')}", **OURS}
    rows = [(name, facts["build"], facts["digest"], facts["role_rule"]) for name, facts in known.items()]
    return table(
        ["server", "build", "Digest", "role rule"],
        [("gateway", ours["build"], ours["digest"], ours["role_rule"]), *rows],
    )


def section(report: ReportData) -> list[str]:
    """One measurement: its settings, medians for each server, ratios with their spread, its own load averages."""
    settings = ", ".join(f"{k} {shown(v)}" for k, v in report["settings"].items() if k not in SKIPPED)
    lines = [f"## {report['measurement']}{f': {settings}' if settings else ''}", ""]
    results, rows = report["results"], report["rows"]
    ratios = [name for name in results if "ratio_" in name]
    names = list(dict.fromkeys(name.removeprefix("median_").split("_")[0] for name in results if "median_" in name))
    if ratios:
        columns = list(
            dict.fromkeys(
                name.removeprefix(f"median_{server}_")
                for server in names
                for name in results
                if name.startswith(f"median_{server}_")
            )
        )
        lines += table(
            ["median", *columns],
            [(server, *(cell(results.get(f"median_{server}_{column}")) for column in columns)) for server in names],
        )
        lines += table(
            ["over 1 is in our favour", "median", "smallest", "largest", "rounds"],
            [(name, cell(results[name]), *spread(rows, name), str(len(rows))) for name in ratios],
        )
        others = [name for name in results if name not in ratios and not name.startswith("median_")]
        if others:
            lines += table(["besides", "value"], [(name, cell(results[name])) for name in others])
    else:
        lines += table(["result", "value"], [(name, cell(value)) for name, value in results.items()])
    loads = [" ".join(f"{value:.2f}" for value in report[when]) for when in ("load_before", "load_after")]
    took = f" It took {report['took_s']:.0f} s." if "took_s" in report else ""
    return [*lines, f"Load averages: {loads[0]} before, {loads[1]} after.{took}", ""]


def spread(rows: Iterable[Mapping[str, Any]], name: str) -> tuple[str, str]:
    """The smallest and the largest of a column."""
    values = [row[name] for row in rows]
    return cell(min(values)), cell(max(values))


def report_of(reports: Iterable[ReportData], name: str) -> ReportData | None:
    """The report of one measurement, if it was made."""
    return next((report for report in reports if report["measurement"] == name), None)


def with_figures(text: str, lines: Sequence[str], *, begin: str, end: str, page: str) -> str:
    """The page `docs/{page}` with other figures between its marks.

    Raises:
        BenchFailed: the marks are not there, once each and in their order.
    """
    before, found, rest = text.partition(begin)
    _, found_end, after = rest.partition(end)
    if not found or not found_end or begin in rest or end in after:
        raise BenchFailed(f"docs/{page} must have the lines {begin} and {end} once each")
    return f"{before}{begin}\n\n" + "\n".join(lines).rstrip() + f"\n\n{end}{after}"


def cell(value: Any) -> str:
    """A table cell; empty where there is nothing."""
    return "" if value is None else shown(value)


def table(heading: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table with an empty line behind it."""
    lines = [heading, ["---"] * len(heading), *rows]
    return [*(f"| {' | '.join(text.replace('|', '/') for text in line)} |" for line in lines), ""]
