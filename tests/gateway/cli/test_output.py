"""Commands whose reader goes away: `rhttp-pki … | head`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from support.auditlogs import edit_lines, make_home, make_log

COMMAND = (sys.executable, "-m", "gateway.cli.main")


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    make_log(home / "audit", rounds=3, each=400)
    return home


def unread(*arguments: str | Path, also_stderr: bool = False) -> tuple[int, bytes]:
    """A command whose standard output nobody reads, not one byte: its exit status, and its standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [*COMMAND, *map(str, arguments)],
            stdout=writing,
            stderr=writing if also_stderr else subprocess.PIPE,
            timeout=60,
            check=False,
        )
    finally:
        os.close(writing)
    return done.returncode, done.stderr or b""


def test_tail_into_head_says_nothing_and_is_done(home: Path) -> None:
    """More lines than a pipe holds, of which somebody reads the first."""
    with subprocess.Popen(
        [*COMMAND, "--home", str(home), "audit", "tail", "-n", "1200"], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as tail:
        assert tail.stdout is not None
        assert tail.stderr is not None
        assert tail.stdout.readline()
        tail.stdout.close()
        assert tail.stderr.read() == b""
        assert tail.wait(60) == 0


def test_tail_that_follows_ends_when_its_reader_is_gone(home: Path) -> None:
    """Without waiting for another line, which may never come."""
    assert unread("--home", home, "audit", "tail", "-f", "-n", "0") == (0, b"")


@pytest.mark.parametrize(
    "arguments",
    [("--help",), ("audit", "tail"), ("audit", "verify"), ("audit", "verify", "--json")],
    ids=" ".join,
)
def test_command_that_nobody_reads_is_done(home: Path, arguments: tuple[str, ...]) -> None:
    """Its exit status is that of what it did."""
    assert unread("--home", home, *arguments) == (0, b"")


def test_proof_that_nobody_reads_to_its_end_keeps_its_exit_status(home: Path) -> None:
    """A log that was tampered with is not sound because `head` had seen enough."""
    edit_lines(home / "audit" / "p0-000001.jsonl", lambda lines: lines.pop(2))
    status, said = unread("--home", home, "audit", "verify")
    assert status == 1
    assert said.startswith(b"Error: ")


def test_failure_that_nobody_reads_keeps_its_exit_status(tmp_path: Path) -> None:
    """Standard error closed as well: nothing to say, and nothing to crash on."""
    assert unread("--home", tmp_path, "status", also_stderr=True) == (1, b"")
