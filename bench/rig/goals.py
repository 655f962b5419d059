"""What was to be reached, and whether one run reached it: computed from its reports, not judged by anybody."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rig.report import shown

ReportData = Mapping[str, Any]
OURS = "gateway"
NOISE = 0.95


@dataclass(frozen=True, slots=True, kw_only=True)
class Goal:
    """A bound on one result of one measurement, at the settings given (none: at every size that was measured).

    `least` or `most`; `inverse` turns a ratio in our favour into its counterpart (times what the peer needs).
    """

    what: str
    measurement: str
    result: str
    least: float | None = None
    most: float | None = None
    below: bool = False
    above: bool = False
    inverse: bool = False
    settings: Mapping[str, object] = field(default_factory=dict)

    def wanted(self) -> str:
        """`≥ 2.5`, `< 2`."""
        if self.least is not None:
            return f"{'>' if self.above else '≥'} {self.least:g}"
        return f"{'<' if self.below else '≤'} {self.most:g}"

    def is_reached(self, value: float) -> bool:
        """Does this result satisfy it?"""
        if self.least is not None:
            return value > self.least if self.above else value >= self.least
        assert self.most is not None
        return value < self.most if self.below else value <= self.most


SMALL = {"conns": 32, "reply_bytes": 16, "body_bytes": 0}
GOALS: Sequence[Goal] = (
    Goal(what="requests, of Apache's rate", measurement="requests", result="ratio_apache", least=2.5, settings=SMALL),
    Goal(
        what="requests, of Envoy's rate",
        measurement="requests",
        result="ratio_envoy",
        least=1.0,
        above=True,
        settings=SMALL,
    ),
    Goal(what="requests, of nginx's rate", measurement="requests", result="ratio_nginx", least=0.5, settings=SMALL),
    Goal(what="bulk, of HAProxy's rate", measurement="bulk", result="ratio_haproxy", least=0.7),
    Goal(
        what="admission, of the processor time of HAProxy's mTLS handshake",
        measurement="admission",
        result="cpu_ratio_haproxy",
        most=1.0,
        inverse=True,
    ),
    Goal(
        what="storm of 10,000 workers, times HAProxy's bare handshakes",
        measurement="storm",
        result="ratio_haproxy",
        most=1.2,
        inverse=True,
        settings={"workers": 10000},
    ),
    Goal(
        what="KiB of one of 10,000 idle workers",
        measurement="idle",
        result="kib_per_worker",
        most=28.0,
        settings={"workers": 10000},
    ),
    Goal(
        what="% of a core for 10,000 idle workers",
        measurement="idle",
        result="gateway_cpu_percent",
        most=2.0,
        below=True,
        settings={"workers": 10000},
    ),
    Goal(what="bytes that idle workers exchange", measurement="idle", result="http_bytes", most=0.0),
    Goal(what="relayed, of HAProxy's rate", measurement="relayed", result="ratio_haproxy", least=0.9),
    Goal(
        what="relayed, HAProxy's p99 over ours (no worse; rounds differ by 5 %)",
        measurement="relayed",
        result="p99_ratio_haproxy",
        least=NOISE,
    ),
    Goal(what="hosted, of the rate of relayed", measurement="hosted", result="ratio_relayed", least=0.6),
    *(
        Goal(what=f"two processes, {kind}, times one", measurement=f"processes: {kind}", result="ratio_one", least=1.8)
        for kind in ("requests", "hosted", "relayed")
    ),
)


def goal_rows(reports: Sequence[ReportData], goals: Iterable[Goal] = GOALS) -> list[tuple[str, ...]]:
    """For each goal and size: what, size, wanted, measured, smallest and largest round, and the verdict."""
    found: list[tuple[str, ...]] = []
    for goal in goals:
        matching = [report for report in reports if matches(goal, report)]
        if not matching:
            found.append((goal.what, "", goal.wanted(), "", "", "not measured"))
        for report in matching:
            value = turned(goal)(float(report["results"][goal.result]))
            rounds = [turned(goal)(float(row[goal.result])) for row in rounds_of(report) if goal.result in row]
            spread = f"{shown(min(rounds))} to {shown(max(rounds))}" if rounds else ""
            verdict = "reached" if goal.is_reached(value) else "**not reached**"
            found.append((goal.what, size(report), goal.wanted(), shown(value), spread, verdict))
    return found


def matches(goal: Goal, report: ReportData) -> bool:
    """Is this the measurement, at these settings, with this result?"""
    settings = report["settings"]
    return (
        report["measurement"] == goal.measurement
        and goal.result in report["results"]
        and all(settings.get(name) == value for name, value in goal.settings.items())
    )


def rounds_of(report: ReportData) -> list[Mapping[str, Any]]:
    """The rows of the rounds, or the windows of idle workers; rows that are a peer's alone are not ours."""
    rows = [row for row in report["rows"] if row.get("server", OURS) == OURS]
    return [*rows, *report.get("windows", ())]


def turned(goal: Goal) -> Callable[[float], float]:
    """A ratio in our favour, or its inverse."""
    return (lambda value: 1 / value if value else 0.0) if goal.inverse else (lambda value: value)


def size(report: ReportData) -> str:
    """What tells two runs of one measurement apart."""
    settings = report["settings"]
    return ", ".join(f"{settings[name]:,} {name}" for name in ("workers", "conns", "paths") if name in settings)
