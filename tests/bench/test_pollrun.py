"""`bench/run polling`: real workers and the master of its crowds, and what is then written and drawn."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import sys
import xml.etree.ElementTree as ET
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig import polling  # noqa: E402
from rig.builds import find_command  # noqa: E402
from rig.pages import marks, write_page  # noqa: E402
from rig.plot import Axis, Panel, Series, svg  # noqa: E402
from rig.polling import Batch, Seen  # noqa: E402
from rig.pollingpage import polling_page  # noqa: E402
from rig.pollmaster import JobQueue, Ledger, MasterEnd  # noqa: E402
from rig.pollmodel import Course, Polling, summary  # noqa: E402
from rig.processes import BenchFailed  # noqa: E402
from rig.report import Report  # noqa: E402
from rig.testbed import Options  # noqa: E402

BEGIN, END = marks("polling")
SVG = "{http://www.w3.org/2000/svg}"


class Wire(asyncio.Transport):
    """A transport that keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: Any) -> None:
        self.written.append(bytes(data))


def asking(queue: JobQueue) -> tuple[MasterEnd, Wire]:
    """A connection that asks the queue for work."""
    end, wire = MasterEnd({"q": queue}, set()), Wire()
    end.connection_made(wire)
    end.data_received(b"GET /jobs/q/next HTTP/1.1\r\nHost: x\r\n")
    end.data_received(b"\r\n")
    return end, wire


async def test_queue_gives_the_oldest_job_to_who_asks_and_says_when_there_is_none() -> None:
    """A poll has one job, or none, and is answered at once."""
    queue = JobQueue()
    queue.put(b"0 1.5")
    queue.put(b"1 2.5")
    answers = [asking(queue)[1].written for _ in range(3)]
    assert [answer[0].split(b"\r\n\r\n")[1] for answer in answers] == [b"0 1.5", b"1 2.5", b""]
    assert answers[2] == [b"HTTP/1.1 204 No Content\r\n\r\n"]
    assert queue.asked == 3


async def test_queue_that_holds_answers_when_a_job_is_there_and_loses_none_to_the_dead() -> None:
    """A held poll gets the job as it arrives, the longest held first; one whose connection ended gets nothing."""
    queue = JobQueue(hold=60.0)
    (gone, lost), (_, first), (_, second) = asking(queue), asking(queue), asking(queue)
    gone.connection_lost(None)
    queue.put(b"0 1.0")
    assert (lost.written, second.written) == ([], [])
    assert first.written[0].endswith(b"\r\n\r\n0 1.0")
    queue.put(b"1 1.0")
    assert second.written[0].endswith(b"\r\n\r\n1 1.0")


async def test_queue_that_holds_lets_go_in_time() -> None:
    """No poll is held for longer than was said."""
    queue = JobQueue(hold=0.02)
    _, wire = asking(queue)
    async with asyncio.timeout(5):
        while not wire.written:
            await asyncio.sleep(0)
    assert wire.written == [b"HTTP/1.1 204 No Content\r\n\r\n"]


async def test_ledger_knows_a_job_that_was_given_twice() -> None:
    """A job that two workers had would make every figure wrong."""
    ledger = Ledger()
    number = ledger.arrived(2.0)
    assert not ledger.all_begun()
    ledger.begun(number, 5.0)
    assert (ledger.all_begun(), ledger.all_finished()) == (True, False)
    assert [(course.begun, course.finished) for course in ledger.courses()] == [(5.0, 7.0)]
    with pytest.raises(BenchFailed, match="two workers"):
        ledger.begun(number, 6.0)


def test_polling_measures_real_workers_of_each_kind(monkeypatch: pytest.MonkeyPatch) -> None:
    """All kinds of workers do all jobs through a real gateway, and who is not asked to wait does not."""
    if shutil.which("taskset") is None or (os.cpu_count() or 1) < 2:
        pytest.skip("the bench needs taskset and two cores")
    monkeypatch.setattr(polling, "SERVICE", (0.01, 0.05))
    monkeypatch.setattr(polling, "JOBS_PER_WORKER", 5.0)
    monkeypatch.setattr(polling, "SETTLE_SECONDS", 0.2)
    ways = {"reversed": None, "held": None, "timer": Polling(interval=0.5), "eager": Polling(interval=0.5, eager=True)}
    monkeypatch.setattr(polling, "WAYS", ways)
    command = find_command(BENCH.parent, interpreted=True)
    options = Options(bench=BENCH, commands={"gateway": command}, rounds=1, seconds=1.0, workers=6)
    with polling.place(options) as where:
        idle = asyncio.run(polling.measured(where, Batch(("timer", "eager", "held"), 1.0, 1.0)))
        quiet = asyncio.run(polling.measured(where, Batch(("reversed",), 0.2, 1.0)))
    jobs = len(polling.stream_jobs(6, 1.0))
    for seen in (*idle.values(), *quiet.values()):
        assert (len(seen.stream), len(seen.burst)) == (jobs, 12)
        assert all(0 <= course.wait < 10 for course in [*seen.stream, *seen.burst])
        assert set(seen.late) == {"stream", "burst"}
    assert 4 < idle["timer"].idle["requests_per_s"] < 20
    assert quiet["reversed"].idle["requests_per_s"] == 0
    # Six pollers have to come one after another; a connection is just used.
    means = {way: summary(seen.burst, workers=6)["mean_ms"] for way, seen in {**idle, **quiet}.items()}
    assert means["timer"] > 2 * means["reversed"]
    assert means["timer"] > 2 * means["held"]


@pytest.fixture
def report(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mapping[str, Any]:
    """What a run of the measurement says, with courses that nobody measured."""
    monkeypatch.setattr(polling, "SIMULATED_WORKERS", 50)
    monkeypatch.setattr(polling, "SWEEP", (0.1, 0.95))
    monkeypatch.setattr(polling, "SWEEP_END", 70.0)
    (tmp_path / "rhttp-pki").write_text("#!/nowhere/python\n")

    commands = {"gateway": tmp_path / "rhttp-pki"}
    nowhere = SimpleNamespace(on=SimpleNamespace(report=lambda title, settings: Report(title, commands, settings, {})))

    async def invented(where: object, batch: Batch) -> dict[str, Seen]:
        courses = [Course(arrival=0.0, begun=0.25, finished=3.0), Course(arrival=1.0, begun=1.75, finished=4.0)]
        late = {"stream": 0.004, "burst": 0.001}
        idle = {"requests_per_s": 333.0, "cpu_ms_per_s": 21.5}
        return {way: Seen(courses, courses, idle if way == batch.ways[0] else {}, late) for way in batch.ways}

    monkeypatch.setattr(polling, "place", lambda options: contextlib.nullcontext(nowhere))
    monkeypatch.setattr(polling, "measured", invented)
    told = polling.polling(Options(bench=BENCH, commands=commands, rounds=1, seconds=1.0, workers=20))
    found: Mapping[str, Any] = json.loads(json.dumps(told))
    return found


def test_polling_report_has_measured_and_modelled_side_by_side(report: Mapping[str, Any]) -> None:
    """Each crowd has a row for each load, with the model's figure beside it, and simulated rows say so."""
    measured = [row for row in report["rows"] if row["workers"] == 20]
    assert len(measured) == 2 * len(polling.WAYS)
    assert {row["mean_ms"] for row in measured} == {500.0}
    assert all(row["model_mean_ms"] == 0 for row in measured if (row["way"], row["load"]) == ("reversed", "stream"))
    simulated = [row for row in report["rows"] if row["workers"] == 50]
    assert len(simulated) == len(measured)
    assert {row["mean_ms"] for row in simulated} == {"-"}
    results = report["results"]
    assert results["timer_3s_idle_requests_per_s"] == 333.0
    assert results["timer_3s_burst_mean_ms"] == 500.0
    assert results["timer_30s_burst_50_simulated_lost_per_job_s"] > 0


def test_page_gets_its_figures_between_its_marks_and_nowhere_else(report: Mapping[str, Any], tmp_path: Path) -> None:
    """The words stay as they are, old figures go, and a second run changes nothing."""
    page = tmp_path / "why.md"
    page.write_text(f"# Why\n\nBefore.\n\n{BEGIN}\n\nold 99\n\n{END}\n\nAfter.\n")
    write(page, [{"measurement": "idle"}, report])
    text = page.read_text()
    assert text.startswith("# Why\n\nBefore.\n")
    assert text.endswith("\n\nAfter.\n")
    assert "old 99" not in text
    assert "Measured by `bench/run polling --page`" in text
    assert "| timer pollers, 3 s | 333.0 | 21.5 ms |" in text
    assert "less than 4.0 ms late" in text
    assert "| reversed connections | 500 ms (0) | 750 ms (0) |" in text
    assert "| a lone job, 1 of the pollers idle: mean wait | 1.5 s | 15.0 s |" in text
    write(page, [report])
    assert page.read_text() == text
    drawing = ET.fromstring((tmp_path / "polling.svg").read_text())
    assert len(drawing.findall(f".//{SVG}circle")) == len(polling.WAYS)


def write(page: Path, reports: Sequence[Mapping[str, Any]]) -> None:
    """Write the figures into a page."""
    write_page(page, reports, of="polling", made=polling_page, command="bench/run polling --page")


@pytest.mark.parametrize("text", ["no marks", BEGIN, f"{END} {BEGIN}", 2 * BEGIN + END])
def test_page_without_its_marks_is_refused(report: Mapping[str, Any], tmp_path: Path, text: str) -> None:
    """Figures are never put in a place that nobody chose."""
    page = tmp_path / "why.md"
    page.write_text(text)
    with pytest.raises(BenchFailed, match="must have the lines"):
        write(page, [report])
    assert page.read_text() == text


def test_page_of_another_measurement_is_refused(tmp_path: Path) -> None:
    """There is nothing to write when polling was not measured."""
    with pytest.raises(BenchFailed, match="needs the measurement"):
        write(tmp_path / "why.md", [])


@pytest.mark.parametrize(("of", "name"), [("polling", "why.md"), ("growth", "growth.md")])
def test_page_in_docs_has_its_marks_and_its_plot(of: str, name: str) -> None:
    """The page that we keep can be written anew, and no figure outside the marks is somebody's memory."""
    docs = BENCH.parent / "docs"
    text = (docs / name).read_text(encoding="utf-8")
    begin, end = marks(of)
    before, _, rest = text.partition(begin)
    figures, found, after = rest.partition(end)
    assert found
    assert " ms" not in before + after
    assert f"]({of}.svg)" in figures + after
    ET.fromstring((docs / f"{of}.svg").read_text(encoding="utf-8"))


@pytest.mark.parametrize(("log", "value", "share"), [(False, 25.0, 0.25), (True, 10.0, 0.5), (True, 0.0, 0.0)])
def test_axis_places_values_and_keeps_what_lies_outside(log: bool, value: float, share: float) -> None:
    """A point is where its value is; one beyond the end is on the end."""
    axis = Axis("x", 1.0 if log else 0.0, 100.0, log)
    assert axis.share(value) == pytest.approx(share)
    assert axis.share(1000.0) == 1.0


@pytest.mark.parametrize(
    ("values", "log", "ticks"),
    [
        ([7.0, 31.0], False, [0, 10, 20, 30, 40]),
        ([0.9], False, [0, 0.25, 0.5, 0.75, 1.0]),
        ([3.0, 900.0], True, [1, 10, 100, 1000]),
    ],
)
def test_axis_of_values_has_round_ticks_around_them(values: list[float], log: bool, ticks: list[float]) -> None:
    """Whoever reads a plot can tell a value without a ruler."""
    assert Axis.of("x", values, log=log).ticks() == pytest.approx(ticks)


def test_svg_is_well_formed_whatever_it_is_told() -> None:
    """Names with signs of XML in them do no harm; lines and legend are all there."""
    axis = Axis("a < b & c", 0, 2)
    series = [Series(points=[(0, 0), (1, 1), (2, 1)], colour="#123456", steps=steps) for steps in (False, True)]
    drawing = ET.fromstring(svg([Panel("<&>", axis, axis, series)], [("&", "#123456", False)]))
    drawn = [line.attrib["points"].split() for line in drawing.iter(f"{SVG}polyline")]
    coloured = [line for line in drawing.iter(f"{SVG}polyline") if line.attrib["stroke"] == "#123456"]
    assert len(coloured) == 3
    assert max(map(len, drawn)) == 5  # by steps: each point and the corner before it
    assert "<&>" in [text.text for text in drawing.iter(f"{SVG}text")]
