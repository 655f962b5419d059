"""What was to be reached, and whether one run reached it: computed from its reports, not judged by anybody."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rig.report import shown

ReportData = Mapping[str, Any]
OURS = "gateway"
COMPARE: Mapping[str, Callable[[float, float], bool]] = {
    "≥": operator.ge,
    ">": operator.gt,
    "≤": operator.le,
    "<": operator.lt,
}


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound (`≥ 2.5`) on one result of one measurement, at these settings; None: a setting that is not there.

    `inverse` turns a ratio in our favour into its counterpart (times what the other needs).
    """

    what: str
    wanted: str
    measurement: str
    result: str
    settings: Mapping[str, object] = field(default_factory=dict)
    inverse: bool = False

    def is_reached(self, value: float) -> bool:
        """Does this result satisfy it?"""
        sign, bound = self.wanted.split()
        return COMPARE[sign](value, float(bound))

    def matches(self, report: ReportData) -> bool:
        """Is this the measurement, at these settings, with this result?"""
        settings = {"key_type": "p256", **report["settings"]}
        return (
            report["measurement"] == self.measurement
            and self.result in report["results"]
            and all(settings.get(name) == value for name, value in self.settings.items())
        )

    def value(self, row: Mapping[str, Any]) -> float:
        """The result, turned if it is to be."""
        value = float(row[self.result])
        return (1 / value if value else 0.0) if self.inverse else value


ONE = {"conns": 1, "reply_bytes": 16, "body_bytes": 0, "paths": None}
SMALL = {**ONE, "conns": 32}
NEW = {**SMALL, "paths": 100_000}
MANY = {"workers": 10000}
PQ = {"key_type": "mldsa65"}
NO_WORSE = "≤ 1.05"  # rounds differ by 5 %
GOALS: Sequence[Goal] = (
    Goal("requests, of Apache's rate", "≥ 2.5", "requests", "ratio_apache", SMALL),
    Goal("requests of a plain `pip install .`, of Apache's rate", "≥ 2.7", "builds", "plain_ratio_apache"),
    Goal("requests for ever new paths, of Apache's rate", "≥ 2.8", "requests", "ratio_apache", NEW),
    Goal("requests, of Envoy's rate", "> 1", "requests", "ratio_envoy", SMALL),
    Goal("requests for ever new paths, of Envoy's rate", "> 1", "requests", "ratio_envoy", NEW),
    Goal("requests, of nginx's rate", "≥ 0.5", "requests", "ratio_nginx", SMALL),
    Goal("requests for ever new paths, of nginx's rate", "≥ 0.75", "requests", "ratio_nginx", NEW),
    Goal("one request at a time, of nginx's rate", "≥ 0.9", "requests", "ratio_nginx", ONE),
    Goal("requests for ever new paths, of the time before", "≤ 0.7", "requests", "cpu_ratio_before", NEW, True),
    Goal("bulk, of HAProxy's rate", "≥ 0.7", "bulk", "ratio_haproxy"),
    Goal("admission, of the time of HAProxy's handshake", "≤ 0.8", "admission", "cpu_ratio_haproxy", {}, True),
    Goal("admission with ML-DSA-65, times the time of one with P-256", "≤ 2.2", "admission", "cpu_ratio_mldsa65", PQ),
    Goal("storm, times HAProxy's bare handshakes", "≤ 1.2", "storm", "ratio_haproxy", MANY, True),
    Goal("KiB of an idle worker", "≤ 30", "idle", "kib_per_worker", {**MANY, "key_type": "p256"}),
    Goal("KiB of an idle worker, Ed25519", "≤ 28", "idle", "kib_per_worker", {**MANY, "key_type": "ed25519"}),
    Goal("% of a core for 10,000 idle workers", "< 2", "idle", "gateway_cpu_percent", MANY),
    Goal("bytes that idle workers exchange", "≤ 0", "idle", "http_bytes"),
    Goal("relayed, of HAProxy's rate", "≥ 0.9", "relayed", "ratio_haproxy"),
    *(
        Goal("relayed, p99 of HAProxy's", wanted, "relayed", "p99_ratio_haproxy", {"workers": workers}, True)
        for workers, wanted in ((32, NO_WORSE), (1000, NO_WORSE), (4000, "≤ 1"))
    ),
    *(
        Goal("hosted, of the rate of relayed", wanted, "hosted", "ratio_relayed", {"workers": workers})
        for workers, wanted in ((32, "≥ 0.7"), (1000, "≥ 0.6"), (10000, "≥ 0.6"))
    ),
    *(
        Goal(f"two processes, {kind}, times one", "≥ 1.8", f"processes: {kind}", "ratio_one")
        for kind in ("requests", "hosted", "relayed")
    ),
    Goal("a dispatch that crosses, of a local one's rate", "≥ 0.74", "cross", "ratio_local"),
    Goal("a dispatch that crosses, times what it took", NO_WORSE, "cross", "ratio_before_crossing", {}, True),
    Goal("a local dispatch, of the time before", NO_WORSE, "cross", "local_cpu_ratio_before_local", {}, True),
)


def goal_rows(reports: Sequence[ReportData], goals: Iterable[Goal] = GOALS) -> list[tuple[str, ...]]:
    """For each goal and size: what, size, wanted, measured, smallest and largest round, and the verdict."""
    found: list[tuple[str, ...]] = []
    for goal in goals:
        matching = [report for report in reports if goal.matches(report)]
        if not matching:
            found.append((goal.what, size(goal.settings), goal.wanted, "", "", "not measured"))
        for report in matching:
            value = goal.value(report["results"])
            # The rows of the rounds, or the windows of idle workers; rows that are a peer's alone are not ours.
            rows = [row for row in report["rows"] if row.get("server", OURS) == OURS] + report.get("windows", [])
            rounds = [goal.value(row) for row in rows if goal.result in row]
            spread = f"{shown(min(rounds))} to {shown(max(rounds))}" if rounds else ""
            verdict = "reached" if goal.is_reached(value) else "**not reached**"
            found.append((goal.what, size(report["settings"]), goal.wanted, shown(value), spread, verdict))
    return found


def size(settings: Mapping[str, Any]) -> str:
    """What tells two runs of one measurement apart."""
    return ", ".join(f"{settings[name]:,} {name}" for name in ("workers", "conns", "paths") if settings.get(name))
