"""Models of growth, the page about it, and which goals a run reached: figures that nobody writes by hand."""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig.goals import GOALS, Goal, goal_rows  # noqa: E402
from rig.growthpage import growth_page  # noqa: E402
from rig.model import fit, queueing  # noqa: E402
from rig.pages import marks, results_text, write_page  # noqa: E402
from rig.processes import BenchFailed  # noqa: E402

BEGIN, END = marks("growth")
VERSIONS = {"processor": "a processor", "kernel": "6", "python": "3.11", "build": "compiled"}
SIZES = (10.0, 100.0, 1000.0, 10000.0)


@given(
    a=st.floats(1, 1e6),
    b=st.floats(0.01, 1e3),
    xs=st.lists(st.integers(1, 10_000), min_size=3, max_size=6, unique=True),
    of=st.sampled_from([float, math.log2, math.sqrt]),
)
def test_fit_of_points_on_a_line_is_that_line(a: float, b: float, xs: list[int], of: Callable[[float], float]) -> None:
    """What grows by the model is recognised, whatever the sizes, and nothing is left over."""
    line = fit(xs, [a + b * of(x) for x in xs], of)
    assert line.holds
    assert line.worst < 1e-3
    assert line.at(5) == pytest.approx(a + b * of(5), rel=0.01)


def test_fit_of_one_size_is_refused() -> None:
    """A line through one point is a guess."""
    with pytest.raises(ValueError, match="two points"):
        fit([5, 5], [1, 2])


@pytest.mark.parametrize(("miss", "holds"), [(0.14, True), (0.16, False)])
def test_fit_holds_only_within_fifteen_percent_of_every_point(miss: float, holds: bool) -> None:
    """One point off the line is no law, however well the others lie."""
    ys = [100.0, 100.0 / (1 - miss), 100.0, 100.0]
    line = fit([1, 2, 3, 4], ys)
    flat = replace(line, a=100.0, b=0.0, misses=tuple((y - 100.0) / y for y in ys))
    assert flat.worst == pytest.approx(miss)
    assert flat.holds is holds


def test_queueing_is_half_a_service_time_at_half_load_and_infinite_at_all() -> None:
    """The formula of M/D/1."""
    assert [queueing(0.0), queueing(0.5)] == [0.0, 0.5]
    assert math.isinf(queueing(1.0))


def report(name: str, *, rows: list[dict[str, Any]] | None = None, **results: float) -> dict[str, Any]:
    """A report of one measurement."""
    return {
        "measurement": name,
        "at": "2026-11-24T08:00:00Z",
        "settings": {"rounds": 5, "turn_seconds": 0.6, "workers": 10000},
        "cores": 2,
        "load_before": [0.1, 0.2, 0.3],
        "load_after": [1.1, 0.2, 0.3],
        "versions": VERSIONS,
        "peers": {},
        "rows": rows or [],
        "results": results,
        "took_s": 12.0,
    }


def row(size: float, **changes: float) -> dict[str, float]:
    """One size, as `bench/run growth` measures it."""
    calm = {"calm_per_s": 1000, "calm_cpu_us": 60, "calm_p50_us": 300, "calm_p99_us": 900}
    return {"size": size, "per_s": 2e4, "cpu_us": 50, "p50_us": 900, "p99_us": 3000, **calm, **changes}


def growth() -> dict[str, Any]:
    """A run in which memory is linear and a dispatch costs the same in every pool."""
    loads = [
        row(
            1000,
            utilisation=share,
            asked_per_s=share * 2e4,
            per_s=share * 2e4,
            p50_us=100 + 500 * share,
            p99_us=300 + 200 * queueing(share),
        )
        for share in (0.2, 0.5, 0.9)
    ]
    overrun = row(1000, utilisation=0.95, asked_per_s=19e3, per_s=1e3, p99_us=1e6)
    return {
        **report("growth"),
        "workers": [row(size, pss_kib=50_000 + 30 * size, admission_us=1000) for size in SIZES],
        "connections": [row(size, pss_kib=28 * size) for size in (1.0, 100.0, 1000.0)],
        "load": [*loads, overrun],
    }


@pytest.fixture
def docs(tmp_path: Path) -> Path:
    """A page with marks."""
    (tmp_path / "growth.md").write_text(f"# Before\n\n{BEGIN}\n\nold 4711\n\n{END}\n\nAfter.\n")
    return tmp_path


def test_growth_page_has_measurements_models_and_the_host(docs: Path) -> None:
    """The figures go between the marks, everything else stays, and the plot is well-formed."""
    several = [
        report("processes: hosted", ratio_one=1.9),
        report("processes: requests", ratio_one=1.8),
        report("cross", cpu_ratio_local=0.5),
    ]
    write(docs, [*several, growth()])
    text = (docs / "growth.md").read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("After.\n")
    assert "4711" not in text
    assert "| 10,000 | 341.8 | 50.0 | 20,000 | 0.90, 3.00 | 0.30, 0.90 |" in text
    assert "48.8 MiB + 30.0 KiB for each" in text
    assert "50.0 µs + 0.00 µs for each doubling" in text
    assert "0.30 ms + 0.200 ms" in text  # the load that the process did not keep up with is not in the fit
    assert "each process adds 0.80" in text
    assert "63 processes, 630,000 workers, 21.0 GiB" in text
    assert "| 1 | 630,000 | 607,200 | 303,600 to 607,200 | nobody takes them |" in text
    assert "| 4 | 2,520,000 | 2,428,800 | 1,214,400 to 2,428,800 | 4.2 s |" in text
    tree = ElementTree.fromstring((docs / "growth.svg").read_text())
    assert tree.tag.endswith("svg")


def write(docs: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write the figures into the page."""
    write_page(docs / "growth.md", reports, of="growth", made=growth_page, command="bench/run growth --page")


def test_growth_page_draws_no_line_that_misses_its_points(docs: Path) -> None:
    """Points that lie on no line stand alone, and one sentence says so."""
    plots = []
    for factor in (1.0, 2.0):
        run = growth()
        run["connections"][1]["cpu_us"] *= factor
        write(docs, [run])
        plots.append((docs / "growth.svg").read_text().count("stroke-dasharray"))
    text = (docs / "growth.md").read_text()
    assert plots[1] == plots[0] - 1
    assert "| processor time of a request against connections |" not in text
    assert "processor time of a request against connections (misses a point by" in text


def test_growth_page_without_two_processes_reckons_no_host(docs: Path) -> None:
    """What was not measured is not assumed."""
    write(docs, [growth()])
    text = (docs / "growth.md").read_text()
    assert "was not reckoned" in text
    assert "64 cores" not in text


def test_growth_page_without_marks_or_measurement_is_refused(docs: Path) -> None:
    """Nothing is written where nobody asked for it."""
    with pytest.raises(BenchFailed, match="growth"):
        write(docs, [report("cross")])
    (docs / "growth.md").write_text("# A page\n")
    with pytest.raises(BenchFailed, match="must have the lines"):
        write(docs, [growth()])
    assert (docs / "growth.md").read_text() == "# A page\n"


@pytest.mark.parametrize(
    ("goal", "result", "verdict"),
    [
        (Goal("w", "≥ 2.5", "m", "r"), 2.5, "reached"),
        (Goal("w", "≥ 2.5", "m", "r"), 2.49, "**not reached**"),
        (Goal("w", "> 1.0", "m", "r"), 1.0, "**not reached**"),
        (Goal("w", "< 2.0", "m", "r"), 2.0, "**not reached**"),
        (Goal("w", "≤ 2.0", "m", "r"), 2.0, "reached"),
        (Goal("w", "≤ 1.2", "m", "r", inverse=True), 0.8, "**not reached**"),
        (Goal("w", "≤ 1.25", "m", "r", inverse=True), 0.8, "reached"),
        (Goal("w", "≤ 1.0", "other", "r"), 0.8, "not measured"),
        (Goal("w", "≤ 1.0", "m", "r", {"workers": 10}), 0.8, "not measured"),
        (Goal("w", "≤ 1.0", "m", "r", {"workers": None}), 0.8, "not measured"),
        (Goal("w", "≤ 1.0", "m", "r", {"paths": None}), 0.8, "reached"),
    ],
)
def test_goal_is_reached_only_by_what_was_measured(goal: Goal, result: float, verdict: str) -> None:
    """The verdict is computed, and nothing counts as reached that was not measured at that size."""
    assert [found[-1] for found in goal_rows([report("m", r=result)], [goal])] == [verdict]


def test_goal_rows_show_the_spread_of_the_rounds() -> None:
    """A median says little without its rounds; a ratio that is turned is turned in them too."""
    goal = Goal("w", "≤ 1.2", "m", "r", inverse=True)
    rows = [{"r": 0.5}, {"r": 0.8}, {"r": 1.0}]
    assert goal_rows([report("m", rows=rows, r=0.8)], [goal])[0][3:5] == ("1.250", "1.000 to 2.000")


def test_goal_rows_leave_out_the_rows_of_peers() -> None:
    """What one worker of ours needs is not between what a peer's needs and that."""
    goal = Goal("w", "≤ 40", "m", "r")
    rows: list[dict[str, Any]] = [{"server": "gateway", "r": 36.0}, {"server": "nginx", "r": 26.0}]
    assert goal_rows([report("m", rows=rows, r=36.0)], [goal])[0][4] == "36.0 to 36.0"


def test_results_text_has_goals_failures_and_time() -> None:
    """The page says which goals were reached, what could not be measured, and why."""
    reports = [report("processes: hosted", rows=[{"ratio_one": 1.85}], ratio_one=1.85)]
    text = results_text(reports, command="bench/run all", failures=["storm: the rig ended"])
    assert "| two processes, hosted, times one | 10,000 workers | ≥ 1.8 | 1.850 | 1.850 to 1.850 | reached |" in text
    assert "Not measured: storm: the rig ended" in text
    assert "It took 12 s." in text
    assert text.count("not measured |") == len(GOALS) - 1
