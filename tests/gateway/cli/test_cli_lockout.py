"""Locking somebody out hangs on nothing: neither on a file that is being edited nor on a folder that was cleared."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.homes import run_cli

from gateway.admin import client
from gateway.home.layout import Home
from gateway.home.locks import GatewayLock

LOCKS_OUT = (("revoke", "alice"), ("user disable", "alice"), ("user remove", "alice"))
BROKEN: dict[str, Callable[[Path], object]] = {
    "syntax": lambda file: file.write_text(file.read_text() + "\n[limits\n"),
    "bytes": lambda file: file.write_bytes(b"\xff\xfe"),
    "gone": lambda file: file.unlink(),
    "empty": lambda file: file.write_text(""),
    "moved": lambda file: file.write_text(file.read_text().replace('realm = "', 'realm = "other-')),
}


@pytest.fixture
def home(home: Home) -> Home:
    """With a client."""
    assert run_cli(home, "issue-client", "alice").exit_code == 0
    return home


@pytest.mark.parametrize("arguments", LOCKS_OUT, ids=" ".join)
@pytest.mark.parametrize("fault", list(BROKEN))
def test_lockout_under_a_broken_configuration_is_done_and_says_so(
    home: Home, arguments: tuple[str, ...], fault: str
) -> None:
    """It goes on by what the home was last used with; a command that lets somebody in does not."""
    BROKEN[fault](home.config)
    done = run_cli(home, *arguments)
    assert done.exit_code == 0, done.output
    assert "going on by what this home was last used with" in done.stderr
    assert run_cli(home, "issue-client", "bob").exit_code == 1
    assert run_cli(home, "user enable", "alice").exit_code == 1


@pytest.mark.parametrize("arguments", LOCKS_OUT, ids=" ".join)
def test_lockout_where_nothing_is_known_of_the_state_is_refused(home: Home, arguments: tuple[str, ...]) -> None:
    """A guess might write to a database that nobody reads."""
    home.state_note.unlink()
    BROKEN["syntax"](home.config)
    done = run_cli(home, *arguments)
    assert done.exit_code == 1
    assert "nothing is known of where the state" in done.stderr


def test_state_that_was_used_last_is_noted_for_its_owner_alone(home: Home) -> None:
    """A database's URL may hold a password."""
    home.state_note.unlink()
    assert run_cli(home, "list").exit_code == 0
    assert home.state_note.stat().st_mode & 0o777 == 0o600
    assert home.last_basics() == home.basics()


@pytest.mark.parametrize("arguments", LOCKS_OUT, ids=" ".join)
def test_lockout_with_the_run_folder_gone_is_not_called_done(
    home: Home, arguments: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The change is written, but the gateway that runs did not confirm it: exit 1, and no word of "no gateway runs"."""
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    lock = GatewayLock(home.lock, home.path)
    try:
        shutil.rmtree(home.run)
        done = run_cli(home, *arguments)
        assert done.exit_code == 1
        assert "did not confirm it: a gateway runs for" in done.stderr
        assert "no gateway runs" not in done.output
    finally:
        lock.release()
    if arguments[0] != "user remove":
        again = run_cli(home, *arguments)
        assert again.exit_code == 0
        assert "no gateway runs" in again.output


@pytest.mark.parametrize("command", ["status", "reload", "drain"])
def test_command_to_a_gateway_without_its_socket_says_that_it_runs(
    home: Home, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is not there to be started a second time."""
    monkeypatch.setattr(client, "PATIENCE", 0.1)
    lock = GatewayLock(home.lock, home.path)
    try:
        shutil.rmtree(home.run)
        done = run_cli(home, command)
        assert done.exit_code == 1
        assert "a gateway runs for" in done.stderr
        assert f"`kill {os.getpid()}`" in done.stderr  # the mend cannot be a command that asks the socket
    finally:
        lock.release()
    assert "no gateway runs" in run_cli(home, command).stderr
