"""`scripts/wheels`: what is made for other machines, and the worker's side alone on one of them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from support.runhomes import append
from support.serving import Served
from support.standin import worker_home
from support.workers import WorkerProcess, dispatch

ROOT = Path(__file__).resolve().parents[2]
MOST_PACKAGES = 15
MOST_MEGABYTES = 40
NOT_OURS = re.compile(r"pip|setuptools|pkg_resources|_distutils_hack|distutils-precedence")
"""What a new environment has in it before anything is installed."""

APP = """
async def app(scope, receive, send):
    if scope["type"] != "http":
        raise RuntimeError("no lifespan here")
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"text/plain")]})
    await send({"type": "http.response.body", "body": b"from a small machine"})
"""


def run(*command: str | Path, **environment: str) -> str:
    """A command that must succeed; what it says."""
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "RHTTP_PKI_COMPILE")}
    done = subprocess.run(command, env=kept | environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Both wheels by their distribution; the gateway's interpreted, which is made in seconds."""
    folder = tmp_path_factory.mktemp("wheels") / "made"
    script = str(ROOT / "scripts" / "wheels")
    told = run(script, str(folder), RHTTP_PKI_COMPILE="0", PYTHON=sys.executable).splitlines()
    assert sorted(map(str, folder.iterdir())) == sorted(told)
    return {Path(line).name.partition("-")[0]: Path(line) for line in told}


@pytest.fixture(scope="module")
def small(wheels: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new environment with the worker's side alone, its dependencies at the versions of the lock."""
    place = tmp_path_factory.mktemp("small")
    lock = (ROOT / "requirements-dev.lock").read_text()
    (place / "constraints").write_text("\n".join(re.findall(r"^[a-z0-9-]+==[^\s;]+", lock, re.MULTILINE)))
    run(sys.executable, "-m", "venv", place / "venv")
    python = place / "venv" / "bin" / "python"
    run(python, "-m", "pip", "install", "--no-input", "--constraint", place / "constraints", wheels["rhttp"])
    return place / "venv"


def test_wheels_are_the_gateway_and_the_worker_alone(wheels: dict[str, Path]) -> None:
    """One for this machine, one for any; the worker's knows of no other package of ours."""
    assert set(wheels) == {"rhttp_pki", "rhttp"}
    assert wheels["rhttp"].name.endswith("-py3-none-any.whl")
    listed = run(sys.executable, "-m", "zipfile", "--list", wheels["rhttp"])
    roots = {line.split("/")[0] for line in listed.splitlines()[1:]}
    assert {root.partition("-")[0] for root in roots} == {"rhttp"}
    both = run(sys.executable, "-m", "zipfile", "--list", wheels["rhttp_pki"])
    assert "pyproject.toml" not in listed + both


def test_worker_machine_holds_little(small: Path) -> None:
    """At most 15 packages and 40 MB, dependencies and bytecode included."""
    (packages,) = small.glob("lib/*/site-packages")
    ours = [path for path in packages.iterdir() if not NOT_OURS.match(path.name)]
    distributions = [path.name for path in ours if path.name.endswith(".dist-info")]
    files = [file for path in ours for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file()]
    megabytes = sum(file.stat().st_blocks * 512 for file in files) / 1e6
    assert len(distributions) <= MOST_PACKAGES, distributions
    assert megabytes <= MOST_MEGABYTES


def test_worker_machine_serves_a_gateway(small: Path, tmp_path: Path) -> None:
    """`rhttp-worker BUNDLE --app` is the agent: it dials, is challenged, switches roles, serves and drains."""
    home = worker_home(tmp_path / "home")
    append(home, "[pools.render]")
    (tmp_path / "jobs.py").write_text(APP)
    with Served(home) as gateway:
        listener = gateway.listeners["tls"]
        program = small / "bin" / "rhttp-worker"
        options = ("--app", "jobs:app", "--slots", "2")
        with WorkerProcess(home / "bundles" / "w1", listener, *options, cwd=tmp_path, program=program) as worker:
            assert worker.line() == f"worker w1: 2 slots connected to {listener} pool render"
            assert dispatch(home, "/-/pools/render/any/x") == (200, b"from a small machine")
            worker.signal(signal.SIGTERM)
            assert worker.ended() == 0


def test_worker_machine_says_what_is_wrong_in_one_line(small: Path, tmp_path: Path) -> None:
    """Exit status 1 and the mend, as the gateway's commands do; `--version` names the build."""
    program = small / "bin" / "rhttp-worker"
    assert re.fullmatch(r"rhttp-worker [0-9.]+ \(interpreted\)\n", run(program, "--version"))
    command = [program, tmp_path / "none", "--forward", "http://127.0.0.1:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"Error: {tmp_path}/none is no directory; ")
    assert done.stderr.count("\n") == 1
