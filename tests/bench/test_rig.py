"""The bench's own parts: a number is worth what the thing that counted it is worth."""

from __future__ import annotations

import json
import os
import runpy
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

BENCH = Path(__file__).resolve().parents[2] / "bench"
sys.path.insert(0, str(BENCH))

from rig.processes import BenchFailed, Rig, cpu_seconds, pss_kib, tree  # noqa: E402


@pytest.fixture
def busy_family() -> Iterator[subprocess.Popen[str]]:
    """A process whose child has burnt 0.3 s of processor time and then waits for its standard input to end."""
    script = (
        "import subprocess, sys\n"
        "burn = 'import os, sys, time\\n"
        "while sum(os.times()[:2]) < 0.3: pass\\n"
        'sys.stdout.write("burnt\\\\n"); sys.stdout.flush(); sys.stdin.read()\'\n'
        "sys.exit(subprocess.run([sys.executable, '-c', burn]).returncode)\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        assert process.stdout.readline() == "burnt\n"
        yield process
        process.stdin.close()


def test_cpu_seconds_counts_the_child_too(busy_family: subprocess.Popen[str]) -> None:
    """Time that a child spent is the server's time: the gateway's work is done in one."""
    family = tree(busy_family.pid)
    assert len(family) == 2
    assert 0.25 <= cpu_seconds(busy_family.pid) < 5
    assert cpu_seconds(family[1]) >= 0.25


@pytest.mark.parametrize("name", ["connection", "ledger"])
def test_micro_finds_all_that_it_measures(name: str) -> None:
    """Measurements of one part import it by its name of today."""
    assert callable(runpy.run_path(str(BENCH / "micro" / name))["main"])


def test_pss_kib_of_a_process_is_its_memory() -> None:
    """Memory that a process really fills appears in the count, in KiB."""
    before = pss_kib(os.getpid())
    filled = bytearray(os.urandom(1 << 20) * 32)
    grown = pss_kib(os.getpid()) - before
    assert len(filled) == 32 << 20
    assert 30_000 < grown < 40_000


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


def test_rig_client_counts_what_the_origin_served(rig: Rig) -> None:
    """Both ends of the rig agree: requests are answered, and only answered ones are counted."""
    with rig.origin() as origin:
        counts = rig.run("client", ["--plain", "--port", str(origin.port), "--conns", "4"], seconds=0.3)
    assert counts["done"] > 100
    assert sum(counts["errors"].values()) == 0
    assert json.dumps(counts)


def test_rig_admission_answered_without_101_fails_the_run(rig: Rig) -> None:
    """A 200 is no admission: with --upgrade only a 101 counts, and a run with errors is no measurement."""
    with rig.origin() as origin, pytest.raises(BenchFailed, match="counted errors"):
        rig.run(
            "connect", ["--plain", "--port", str(origin.port), "--conns", "1", "--upgrade", "PTTH/1.0"], seconds=0.2
        )


def test_rig_server_gone_fails_the_run(rig: Rig) -> None:
    """Nobody there: the run fails instead of reporting zero."""
    with rig.origin() as origin:
        pass
    with pytest.raises(BenchFailed, match="counted errors"):
        rig.run("client", ["--plain", "--port", str(origin.port), "--conns", "1"], seconds=0.2)
