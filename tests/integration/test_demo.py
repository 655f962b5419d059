"""`scripts/demo`, run as a user runs it: it proves what it shows, and leaves nothing behind, however it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
# The front makes the environment first, which is done when that is what the tests run in.
BUILDS = {ROOT / ".build" / "venv": "0", ROOT / ".build" / "compiled": "1"}
FRONT = (
    ["env", f"RHTTP_PKI_COMPILE={BUILDS[Path(sys.prefix)]}", str(ROOT / "scripts" / "demo")]
    if Path(sys.prefix) in BUILDS
    else [sys.executable, "-B", str(ROOT / "scripts" / "demo.py")]
)
PATIENCE = 240


@pytest.fixture
def files(long_run: bool) -> Sequence[str]:
    return () if long_run else ("--files", "60")


def start(place: Path, *arguments: str, **variables: str) -> subprocess.Popen[str]:
    """The demo with its temporary folder inside `place`."""
    return subprocess.Popen(
        [*FRONT, *arguments],
        env=os.environ | {"TMPDIR": str(place)} | variables,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def left_behind(place: Path) -> list[str]:
    """Files of the demo, and processes that know of its place; one that is ending is given a moment for it."""
    until = time.monotonic() + 10
    while (found := _found_in(place)) and time.monotonic() < until:
        time.sleep(0.1)
    return found


def _found_in(place: Path) -> list[str]:
    found = [str(path) for path in place.iterdir()]
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = (process / "environ").read_bytes() + (process / "cmdline").read_bytes()
        except OSError:
            continue
        if os.fsencode(place) in known:
            found.append(f"process {process.name}")
    return found


@pytest.mark.parametrize("tiers", ["1", "2"])
def test_demo_shows_all_of_it_and_leaves_nothing(tmp_path: Path, tiers: str, files: Sequence[str]) -> None:
    """Exit 0, the last line as promised, every claim checked, no process and no file left."""
    with start(tmp_path, "--tiers", tiers, *files) as demo:
        said = demo.communicate(timeout=PATIENCE)[0]
    assert demo.returncode == 0, said
    assert said.splitlines()[-1] == "demo: ok"
    assert left_behind(tmp_path) == []
    claims = [
        "words have the same count as in a single process",
        "the gateway refuses alice the reverse role: 403",
        "the gateway refuses w3 a job: 403",
        "when `revoke` is back, w2 is not connected any more",
        "w2 had no part in it",
        "ok: BAD p0-000001.jsonl",
    ]
    assert [claim for claim in claims if claim not in said] == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_demo_that_is_interrupted_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C in the middle, with a gateway, a master and a worker running."""
    with start(tmp_path, "--files", "10") as demo:
        assert demo.stdout is not None
        said = []
        for line in demo.stdout:
            said.append(line)
            if "issue-worker w2" in line:
                demo.send_signal(number)
        status = demo.wait(PATIENCE)
    assert status == 130, "".join(said)
    assert left_behind(tmp_path) == []


def test_demo_that_fails_says_why_and_leaves_nothing(tmp_path: Path) -> None:
    """Without curl: exit 1, the cause, the logs of what ran, and no `demo: ok`."""
    command = [sys.executable, "-B", str(ROOT / "scripts" / "demo.py")]
    done = subprocess.run(
        command,
        env=os.environ | {"TMPDIR": str(tmp_path), "PATH": "/nonexistent"},
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 1, done.stderr
    assert "demo: failed: curl cannot be run" in done.stdout
    assert "--- the last lines of gateway of home" in done.stdout
    assert "demo: ok" not in done.stdout
    assert left_behind(tmp_path) == []
