"""`status` tells the truth, and soon, whatever became of the data processes."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.homes import run_cli
from support.runhomes import copy_home
from support.serving import FAKE, Served

from gateway.cli import run
from gateway.cli.run import _show


@pytest.fixture
def served(tmp_path: Path) -> Iterator[tuple[Path, Served]]:
    home = copy_home(tmp_path / "home")
    with Served(home, command=FAKE) as gateway:
        yield home, gateway


def test_status_of_a_stopped_process_says_that_it_does_not_answer(served: tuple[Path, Served]) -> None:
    """It has a pid and accepts connections, and yet serves nobody."""
    home, _ = served
    status = json.loads(run_cli(home, "status", "--json").stdout)
    (process,) = status["processes"]
    assert (process["state"], process["restarts"]) == ("serving", 0)
    os.kill(process["pid"], signal.SIGSTOP)
    try:
        (silent,) = json.loads(run_cli(home, "status", "--json").stdout)["processes"]
        assert silent == {"stream": "p0", "pid": process["pid"], "restarts": 0, "state": "silent", "answers": False}
        shown = run_cli(home, "status").stdout
        assert "NOT SERVING: no data process answers" in shown
        assert f"p0 pid {process['pid']} DOES NOT ANSWER" in shown
    finally:
        os.kill(process["pid"], signal.SIGCONT)


def test_status_of_a_stopped_gateway_names_the_process(
    served: tuple[Path, Served], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody answers for it, and it does run: its pid is what the operator needs, soon."""
    home, _ = served
    pid = json.loads(run_cli(home, "status", "--json").stdout)["pid"]
    monkeypatch.setattr(run, "_STATUS_TIMEOUT", 0.2)
    os.kill(pid, signal.SIGSTOP)
    try:
        done = run_cli(home, "status")
    finally:
        os.kill(pid, signal.SIGCONT)
    assert done.exit_code == 1
    assert f"the gateway (pid {pid}) did not answer GET /status within 0.2 seconds" in done.stderr


def shown(capsys: pytest.CaptureFixture[str], *processes: dict[str, Any], **more: Any) -> str:
    """What a person sees of these processes."""
    _show({"version": "1", "state": {"readable": True}, "audit": {"healthy": True}, "processes": processes, **more})
    return capsys.readouterr().out


P0 = {"stream": "p0", "pid": 7, "restarts": 0, "state": "serving", "answers": True}
P1 = {"stream": "p1", "pid": None, "restarts": 2, "state": "restarting", "answers": False}


def test_status_shows_processes_that_are_down_and_how_often_they_were(capsys: pytest.CaptureFixture[str]) -> None:
    """None of them looks like one that serves."""
    text = shown(capsys, P0, P1)
    assert "serving, by 1 of 2 processes" in text
    assert "p0 pid 7 serving\n" in text
    assert "p1 DOWN, being started again (2 restarts)\n" in text
    assert "NOT SERVING" in shown(capsys, P1)
    assert "draining, version" in shown(capsys, P0 | {"state": "draining", "restarts": 1}, draining=True)


def test_status_shows_state_and_audit_log_that_fail(capsys: pytest.CaptureFixture[str]) -> None:
    """What refuses requests is told where an operator looks first."""
    text = shown(capsys, P0, state={"version": 3, "readable": False}, audit={"healthy": False, "faults": ["p0: full"]})
    assert "version 3, unreadable now" in text
    assert "NOT HEALTHY: p0: full" in text
