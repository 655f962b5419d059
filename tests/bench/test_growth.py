"""Models of growth, the page about it, and which goals a run reached: figures that nobody writes by hand."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig.goals import GOALS, Goal, goal_rows  # noqa: E402
from rig.growthpage import BEGIN, END, write_growth_page  # noqa: E402
from rig.model import (  # noqa: E402
    Costs,
    Line,
    fit_doublings,
    fit_line,
    fit_queue,
    fit_relative_line,
    host,
    return_after_loss,
    wait,
)
from rig.processes import BenchFailed  # noqa: E402
from rig.results import results_text  # noqa: E402

VERSIONS = {"processor": "a processor", "kernel": "6", "python": "3.11", "build": "compiled"}
SIZES = (10.0, 100.0, 1000.0, 10000.0)


@given(
    a=st.floats(1, 1e6),
    b=st.floats(0.01, 1e3),
    xs=st.lists(st.integers(1, 10_000), min_size=2, max_size=6, unique=True),
)
def test_fit_line_of_points_on_a_line_is_that_line(a: float, b: float, xs: list[int]) -> None:
    """What grows by the model is recognised, whatever the sizes, and nothing is left over."""
    ys = [a + b * x for x in xs]
    for line in (fit_line(xs, ys), fit_relative_line(xs, ys)):
        assert line.b == pytest.approx(b, rel=1e-3)
        assert line.at(5) == pytest.approx(a + 5 * b, rel=1e-3)
        assert line.worst <= 1e-3 * max(ys)


def test_fit_doublings_says_what_each_doubling_adds() -> None:
    """Three microseconds more for each doubling of the pool are three."""
    line = fit_doublings([1, 2, 4, 8], [10, 13, 16, 19])
    assert (line.a, line.b) == (pytest.approx(10), pytest.approx(3))
    assert fit_doublings(SIZES, [40.0] * 4).b == pytest.approx(0)


@pytest.mark.parametrize("fit", [fit_line, fit_relative_line])
def test_fit_of_one_size_is_refused(fit: Any) -> None:
    """A line through one point is a guess."""
    with pytest.raises(ValueError, match="two points"):
        fit([5, 5], [1, 2])


def test_fit_queue_recognises_its_own_curve() -> None:
    """Latencies that follow the formula give back its numbers, and the load at which a bound is met."""
    loads = [0.1, 0.5, 0.8, 0.9]
    queue = fit_queue(loads, [300 + 4 * wait(50, one) for one in loads], service=50)
    assert (queue.base, queue.factor) == (pytest.approx(300), pytest.approx(4))
    assert max(map(abs, queue.residuals)) < 1e-6
    assert queue.at(0.5) == pytest.approx(400)
    assert queue.utilisation_for(400) == pytest.approx(0.5)
    assert queue.utilisation_for(200) == 0
    assert math.isinf(queue.at(1.0))


def test_fit_queue_of_latencies_that_fall_with_load_has_no_factor() -> None:
    """Noise that looks as if load made it faster is not a law."""
    queue = fit_queue([0.1, 0.9], [400, 300], service=50)
    assert queue.factor == 0
    assert queue.at(0.5) == pytest.approx(350)


def test_host_adds_for_each_process_what_the_second_one_added() -> None:
    """Nothing is assumed to be better than it was measured."""
    costs = Costs(
        dispatch_us=50,
        request_us=40,
        admission_us=1000,
        second=0.9,
        crossing=2.0,
        memory=Line(a=1024.0, b=32.0, residuals=()),
    )
    one = host(costs, cores=3, utilisation=0.5, workers_per_process=1000)
    assert (one.processes, one.workers) == (2, 2000)
    assert one.local_dispatches_per_s == pytest.approx(1.9 * 0.5 * 20_000)
    assert one.crossing_dispatches_per_s == pytest.approx(one.local_dispatches_per_s / 2)
    assert one.memory_gib * (1 << 20) == pytest.approx(2 * 1024 + 2000 * 32)
    assert one.storm_s == pytest.approx(2000 * 0.001 / 1.9)
    assert return_after_loss(costs, one, hosts=3) == pytest.approx(one.storm_s / 2)
    assert math.isinf(return_after_loss(costs, one, hosts=1))


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
        row(1000, utilisation=share, asked_per_s=share * 2e4, per_s=share * 2e4, p99_us=300 + 4 * wait(50, share))
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
    write_growth_page(docs, [*several, growth()], command="bench/run growth --page")
    text = (docs / "growth.md").read_text()
    assert text.startswith("# Before\n")
    assert text.endswith("After.\n")
    assert "4711" not in text
    assert "| 10,000 | 341.8 | 50.0 | 20,000 | 0.90, 3.00 | 0.30, 0.90 |" in text
    assert "48.8 MiB + 30.0 KiB for each" in text
    assert "50.0 µs + 0.00 µs for each doubling" in text
    assert "0.30 ms + 4.0 · 0.050 ms" in text  # the load that the process did not keep up with is not in the fit
    assert "each process adds 0.80" in text
    assert "63 processes, 630,000 workers" in text
    tree = ElementTree.fromstring((docs / "growth.svg").read_text())
    assert tree.tag.endswith("svg")


def test_growth_page_without_two_processes_reckons_no_host(docs: Path) -> None:
    """What was not measured is not assumed."""
    write_growth_page(docs, [growth()], command="bench/run growth --page")
    text = (docs / "growth.md").read_text()
    assert "was not reckoned" in text
    assert "64 cores" not in text


def test_growth_page_without_marks_or_measurement_is_refused(docs: Path) -> None:
    """Nothing is written where nobody asked for it."""
    with pytest.raises(BenchFailed, match="growth"):
        write_growth_page(docs, [report("cross")], command="x")
    (docs / "growth.md").write_text("# A page\n")
    with pytest.raises(BenchFailed, match="must have the lines"):
        write_growth_page(docs, [growth()], command="x")
    assert (docs / "growth.md").read_text() == "# A page\n"


@pytest.mark.parametrize(
    ("goal", "result", "verdict"),
    [
        (Goal(what="w", measurement="m", result="r", least=2.5), 2.5, "reached"),
        (Goal(what="w", measurement="m", result="r", least=2.5), 2.49, "**not reached**"),
        (Goal(what="w", measurement="m", result="r", least=1.0, above=True), 1.0, "**not reached**"),
        (Goal(what="w", measurement="m", result="r", most=2.0, below=True), 2.0, "**not reached**"),
        (Goal(what="w", measurement="m", result="r", most=2.0), 2.0, "reached"),
        (Goal(what="w", measurement="m", result="r", most=1.2, inverse=True), 0.8, "**not reached**"),
        (Goal(what="w", measurement="m", result="r", most=1.25, inverse=True), 0.8, "reached"),
        (Goal(what="w", measurement="other", result="r", most=1.0), 0.8, "not measured"),
        (Goal(what="w", measurement="m", result="r", most=1.0, settings={"workers": 10}), 0.8, "not measured"),
    ],
)
def test_goal_is_reached_only_by_what_was_measured(goal: Goal, result: float, verdict: str) -> None:
    """The verdict is computed, and nothing counts as reached that was not measured at that size."""
    assert [found[-1] for found in goal_rows([report("m", r=result)], [goal])] == [verdict]


def test_goal_rows_show_the_spread_of_the_rounds() -> None:
    """A median says little without its rounds; a ratio that is turned is turned in them too."""
    goal = Goal(what="w", measurement="m", result="r", most=1.2, inverse=True)
    rows = [{"r": 0.5}, {"r": 0.8}, {"r": 1.0}]
    assert goal_rows([report("m", rows=rows, r=0.8)], [goal])[0][3:5] == ("1.250", "1.000 to 2.000")


def test_goal_rows_leave_out_the_rows_of_peers() -> None:
    """What one worker of ours needs is not between what a peer's needs and that."""
    goal = Goal(what="w", measurement="m", result="r", most=40)
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
