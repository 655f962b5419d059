"""The bench's comparison: who is compared with whom, in which turn, and what is then written about it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import ssl
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig.builds import command_before, find_command  # noqa: E402
from rig.dispatch import standing_master  # noqa: E402
from rig.pages import results_text  # noqa: E402
from rig.peers import ADMISSION_PATH, PEERS, chosen_peers  # noqa: E402
from rig.plan import MEASUREMENTS, steps  # noqa: E402
from rig.processes import BenchFailed, Rig, free_port, told_line  # noqa: E402
from rig.programs import debian_program  # noqa: E402
from rig.report import Report  # noqa: E402
from rig.testbed import CPU, SPEED, Options, Turn, open_testbed, take_turns  # noqa: E402

LONG = {"polling", "processes", "churn", "growth", "ahead", "builds"}
FACTS = {"slow": {"build": "slow/1.0", "digest": "MD5", "role_rule": "a name"}}


def options(folder: Path, **changes: int) -> Options:
    """Two short rounds."""
    values = {"rounds": 3, "conns": 4, "reply": 16, "workers": 8, **changes}
    return Options(bench=BENCH, commands={"gateway": folder / "rhttp-pki"}, seconds=0.2, **values)


@pytest.fixture
def report(tmp_path: Path) -> Report:
    """A report of a server that is installed nowhere."""
    (tmp_path / "rhttp-pki").write_text("#!/nowhere/python\n")
    return Report("requests", {"gateway": tmp_path / "rhttp-pki"}, {"conns": 4}, FACTS)


def turns(order: list[str]) -> dict[str, Turn]:
    """Two servers, the first twice as fast and twice as cheap; each writes down that it had its turn."""

    def turn(name: str, per_s: float, cpu_us: float) -> Turn:
        def once(_: float) -> Mapping[str, float]:
            order.append(name)
            return {"per_s": per_s * len(order), "cpu_us": cpu_us}

        return once

    return {"gateway": turn("gateway", 2.0, 10.0), "slow": turn("slow", 1.0, 20.0)}


def test_take_turns_alternates_and_compares_within_a_round(report: Report, tmp_path: Path) -> None:
    """A round has one turn of each server, and a ratio compares two turns of the same round."""
    order: list[str] = []
    results = take_turns(report, turns(order), options(tmp_path), ratios=(SPEED, CPU))
    assert order == ["gateway", "slow"] * 4  # one of them for warming up
    expected = [2 * n / (n + 1) for n in (3, 5, 7)]
    assert report.column("ratio_slow") == pytest.approx(expected)
    assert results["ratio_slow"] == pytest.approx(expected[1])
    assert results["cpu_ratio_slow"] == pytest.approx(2.0)
    assert results["median_gateway_cpu_us"] == pytest.approx(10.0)


def test_results_text_has_builds_digests_medians_and_spreads(report: Report, tmp_path: Path) -> None:
    """Whoever reads the page sees what was measured, with which Digest, and how far the rounds lay apart."""
    finished = report.finish(**take_turns(report, turns([]), options(tmp_path)))
    text = results_text([json.loads(json.dumps(finished))], command="bench/run requests")
    assert "| slow | slow/1.0 | MD5 | a name |" in text
    assert "SHA-256" in text
    assert "| ratio_slow | 1.667 | 1.500 | 1.750 | 3 |" in text
    assert "| slow | 6.000 | 20.0 |" in text
    assert "Load averages: " in text


def test_results_text_of_nothing_says_so() -> None:
    """A run that measured nothing is not an empty success."""
    assert "Nothing was measured" in results_text([], command="bench/run all")


def test_chosen_peers_unknown_name_is_refused() -> None:
    """A mistyped peer would be a comparison that is missing without a word."""
    assert chosen_peers("haproxy, apache") == ("apache", "haproxy")
    assert chosen_peers("") == ()
    with pytest.raises(BenchFailed, match="unknown peers: ngnix"):
        chosen_peers("ngnix,apache")


@pytest.mark.parametrize(("what", "without"), [("all", set[str]()), ("quick", LONG)])
def test_plan_covers_every_measurement_with_what_was_asked(what: str, without: set[str], tmp_path: Path) -> None:
    """`all` leaves no measurement out, `quick` only those that cannot be quick; nothing changes but sizes and turns."""
    planned = steps(what, options(tmp_path))
    assert {step.name for step in planned} == set(MEASUREMENTS) - without
    assert all(step.measurement is MEASUREMENTS[step.name] for step in planned)
    assert {(step.options.seconds, step.options.peers) for step in planned} == {(0.2, ())}
    assert all(step.options.rounds >= 3 for step in planned)  # never fewer than asked for


def test_plan_all_compares_closely_with_many_turns(tmp_path: Path) -> None:
    """What has a goal of speed is told apart from the noise of a host that others share."""
    rounds = {step.name: step.options.rounds for step in steps("all", options(tmp_path))}
    assert {rounds[name] for name in ("builds", "admission", "relayed", "hosted", "cross")} == {15}
    assert rounds["storm"] == 3


def test_plan_growth_alone_measures_the_second_process_first_and_takes_the_workers_asked_for(tmp_path: Path) -> None:
    """What a host would hold follows from both; and who asks for fewer workers gets fewer."""
    assert [step.name for step in steps("growth", options(tmp_path))] == ["processes", "cross", "growth"]
    assert steps("growth", options(tmp_path))[-1].options.workers == 10000
    assert steps("growth", options(tmp_path), workers_asked=True)[-1].options.workers == 8


def test_take_turns_compares_the_pairs_it_is_told(report: Report, tmp_path: Path) -> None:
    """A second build of ours is held against a peer too, under a name of its own."""
    three = {**turns([]), "before": lambda _: {"per_s": 8.0, "cpu_us": 5.0}}
    pairs = [("gateway", "slow"), ("before", "slow")]
    results = take_turns(report, three, options(tmp_path), ratios=(CPU,), pairs=pairs, warm_up=False)
    assert {name: value for name, value in results.items() if "ratio" in name} == {
        "cpu_ratio_slow": pytest.approx(2.0),
        "before_cpu_ratio_slow": pytest.approx(4.0),
    }


def test_command_before_is_found_in_an_environment_and_refused_where_there_is_none(tmp_path: Path) -> None:
    """Who names the build before wrongly learns it before anything is measured."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "rhttp-pki").touch()
    assert command_before(BENCH.parent, tmp_path, str(tmp_path)) == tmp_path / "bin" / "rhttp-pki"
    with pytest.raises(BenchFailed, match="no-such-commit is neither a commit nor a virtual environment"):
        command_before(BENCH.parent, tmp_path, "no-such-commit")


def test_command_before_unpacks_a_commit_and_builds_it_as_its_own_scripts_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A commit is built from its own sources, in a place of its own, and the checkout is left alone."""
    repository, build = tmp_path / "checkout", tmp_path / "build"
    (repository / "scripts").mkdir(parents=True)
    (repository / "scripts" / "lib.sh").write_text(
        'here="$(dirname "${BASH_SOURCE[0]}")/.." there="$here/.build/compiled/bin"\n'
        'make_compiled_venv() { mkdir -p "$there"; cp "$here/version" "$there/rhttp-pki"; }\n'
    )
    (repository / "version").write_text("the first\n")
    for name in ("GIT_AUTHOR", "GIT_COMMITTER"):
        monkeypatch.setenv(f"{name}_NAME", "bench")
        monkeypatch.setenv(f"{name}_EMAIL", "bench@bench.internal")
    for command in (["init", "-q"], ["add", "."], ["commit", "-q", "-m", "first"]):
        subprocess.run(["git", "-C", repository, *command], check=True, timeout=60)
    (repository / "version").write_text("not committed\n")
    command = command_before(repository, build, "HEAD")
    assert command.is_relative_to(build / "before")
    assert command.read_text() == "the first\n"
    assert command_before(repository, build, "HEAD") == command


def test_debian_program_not_installed_is_unpacked_not_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A missing server is fetched and unpacked below the bench: `apt-get install` would start a service."""
    tools = tmp_path / "tools"
    tools.mkdir()
    calls = tmp_path / "calls"
    scripts = {
        "apt-get": f'echo "$@" >>{calls}\n[ "$2" != download ] || touch "$3.deb"\n',
        "dpkg": f'echo "$@" >>{calls}\nmkdir -p "$3/usr/sbin" "$3/usr/lib/x86_64-linux-gnu"\n'
        'touch "$3/usr/sbin/no-such-server"\nchmod 755 "$3/usr/sbin/no-such-server"\n',
    }
    for name, script in scripts.items():
        (tools / name).write_text(f"#!/bin/sh\n{script}")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    program = debian_program(tmp_path, name="no-such-server", packages=["no-such-package"])
    assert program.path.is_relative_to(tmp_path)
    assert program.path.exists()
    assert program.environment()["LD_LIBRARY_PATH"].endswith("x86_64-linux-gnu")
    assert "install" not in calls.read_text()
    before = calls.read_text()
    assert debian_program(tmp_path, name="no-such-server", packages=["no-such-package"]) == program
    assert calls.read_text() == before  # once is enough


@pytest.fixture(scope="module")
def rig() -> Rig:
    """The load rig, built from source."""
    if (
        shutil.which("gcc") is None
        or shutil.which("taskset") is None
        or not Path("/usr/include/openssl/ssl.h").exists()
    ):
        pytest.skip("gcc, taskset or OpenSSL's headers are not installed")
    if (os.cpu_count() or 1) < 2:
        pytest.skip("the bench needs two cores")
    return Rig(BENCH)


@pytest.mark.parametrize(("path", "size"), [("/jobs/bytes/70000", 70000), ("/jobs/bytes/0", 0), ("/jobs/x", 16)])
def test_rig_origin_answers_with_the_size_in_the_path(rig: Rig, path: str, size: int) -> None:
    """One origin serves all sizes, so that all servers are asked for the same."""
    with rig.origin() as origin:
        connection = http.client.HTTPConnection("127.0.0.1", origin.port, timeout=10)
        connection.request("GET", path)
        content = connection.getresponse().read()
        connection.close()
    assert content == b"r" * size


def test_rig_master_works_in_rounds_and_is_silent_between(rig: Rig) -> None:
    """Workers that came once serve several rounds, each counted by itself."""
    port = free_port()
    crowd = ["--plain", "--port", str(port), "--conns", "8"]
    with (
        standing_master(rig, port=port, conns=8, seconds=0.2) as master,
        rig.standing("worker", crowd, seconds=30) as workers,
    ):
        rounds = [master.round(0.2) for _ in range(3)]
        assert workers.process.poll() is None
    assert all(counts["done"] > 100 for counts in rounds)
    assert all(counts["upgraded"] == 8 for counts in rounds)
    assert all(0.1 < counts["seconds"] < 1 for counts in rounds)
    assert all(counts["p99_us"] > 0 for counts in rounds)


def test_rig_idle_says_when_the_peer_has_closed(rig: Rig) -> None:
    """The moment of a close is told when it happens: the time from a revocation ends there."""
    with contextlib.ExitStack() as silent:
        with rig.origin() as origin:
            arguments = ["--plain", "--port", str(origin.port), "--conns", "2", "--upgrade", "none"]
            standing = silent.enter_context(rig.standing("idle", arguments, seconds=30))
        assert told_line(standing.process, 10) == "closed"


@pytest.mark.long
def test_peers_demand_the_client_role(rig: Rig) -> None:
    """Each peer does the work that it is said to do: no certificate and a worker's certificate get nothing."""
    commands = {"gateway": find_command(BENCH.parent)}
    wanted = Options(bench=BENCH, commands=commands, rounds=1, seconds=0.2, conns=2, workers=2)
    with open_testbed(wanted, peers=tuple(PEERS)) as on:
        for name in PEERS:
            target = on.targets[name]
            for path in ("/jobs/bytes/16", ADMISSION_PATH):
                right = [*target.home.client.rig_arguments(target.server.port, path), "--conns", "2"]
                assert rig.run("client", right, seconds=0.2)["done"] > 0
                wrong = [*target.home.worker.rig_arguments(target.server.port, path), "--conns", "1"]
                with pytest.raises(BenchFailed, match="counted errors"):
                    rig.run("connect", wrong, seconds=0.2)
            anonymous = ssl.create_default_context(cafile=str(target.home.certificate("root")))
            connection = http.client.HTTPSConnection("localhost", target.server.port, context=anonymous, timeout=10)
            with pytest.raises((OSError, http.client.HTTPException)):
                answer(connection)


def answer(connection: http.client.HTTPSConnection) -> None:
    """Ask without a certificate; nginx says 400 where the others end the handshake, and that is no answer either."""
    try:
        connection.request("GET", ADMISSION_PATH)
        if connection.getresponse().status == http.HTTPStatus.BAD_REQUEST:
            raise http.client.HTTPException("400")
    finally:
        connection.close()


@pytest.mark.long
def test_bench_quick_measures_everything_and_writes_the_page(tmp_path: Path) -> None:
    """`bench/run quick` measures everything beside all peers and writes the page."""
    out, page = tmp_path / "out.json", tmp_path / "RESULTS.md"
    told = subprocess.run(
        [sys.executable, BENCH / "run", "quick", "--json", out, "--results", page],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert told.returncode == 0, told.stderr
    reports: dict[str, dict[str, float]] = {}
    for report in json.loads(out.read_text())["reports"]:
        reports.setdefault(report["measurement"], report["results"])
    assert set(reports) == set(MEASUREMENTS) - LONG
    for peer in PEERS:
        assert reports["requests"][f"ratio_{peer}"] > 0
        assert reports["admission"][f"cpu_ratio_{peer}"] > 0
        assert f"| {peer} |" in page.read_text()
    assert reports["storm"]["ratio_haproxy"] > 0
    assert reports["idle"]["kib_per_worker"] > 0
    assert reports["idle"]["http_bytes"] == 0
    assert reports["relayed"]["ratio_haproxy"] > 0
    assert reports["hosted"]["ratio_relayed"] > 0
    assert reports["cross"]["ratio_local"] > 0
    assert reports["revocation"]["median_closed_ms"] > 0
