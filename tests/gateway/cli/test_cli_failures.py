"""What can go wrong with a home: one line each, from every command."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.homes import refused, run_cli, start_cli

from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.home import session
from gateway.home.layout import Home
from gateway.state.database import open_state
from pki.names import Role


@pytest.mark.parametrize(
    "command",
    [
        ["issue-client", "a"],
        ["issue-server"],
        ["renew", "/"],
        ["revoke", "a"],
        ["list"],
        ["show", "a"],
        ["crl", "--role", "client"],
    ],
)
def test_home_missing_is_one_line_everywhere(tmp_path: Path, command: list[str]) -> None:
    """Every command that needs a home says how to make one."""
    refused(run_cli(tmp_path / "none", *command), "make it with `rhttp-pki init`")


def test_home_behind_a_symlink_is_used(home: Home, tmp_path: Path) -> None:
    """A link to a home is as good as the home."""
    (tmp_path / "link").symlink_to(home.path)
    assert run_cli(tmp_path / "link", "issue-client", "alice").exit_code == 0
    assert (home.bundles / "alice" / "cert.pem").is_file()


@pytest.mark.parametrize(
    ("breakage", "said"),
    [
        ("locked", "in use by another command"),
        ("rubbish", "is broken"),
        ("gone", "is missing"),
        ("old", "rhttp-pki db upgrade"),
        ("key", "restore it from a backup"),
        ("mode", "chmod 700"),
    ],
)
def test_home_broken_is_one_line(home: Home, monkeypatch: pytest.MonkeyPatch, breakage: str, said: str) -> None:
    """A database or key that cannot be used is one line with the mend, no traceback, and nothing is left behind."""
    held = None
    match breakage:
        case "locked":
            from gateway.state import database

            monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
            held = open_state(home, DEFAULT_STATE_URL).connect()
            held.begin()
        case "rubbish":
            (home.path / "state.db").write_bytes(b"not a database, certainly not" * 100)
        case "gone":
            (home.path / "state.db").unlink()
        case "old":
            engine = open_state(home, DEFAULT_STATE_URL)
            with engine.begin() as connection:
                connection.exec_driver_sql("DROP TABLE alembic_version")
            engine.dispose()
        case "key":
            home.ca_key(Role.CLIENT).write_bytes(b"")
        case "mode":
            home.path.chmod(0o755)
    refused(run_cli(home, "issue-client", "alice"), said)
    assert list(home.bundles.iterdir()) == []
    if held is not None:
        held.close()
        held.engine.dispose()


def test_unforeseen_failure_is_one_line_without_its_text(home: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """An exception nobody thought of shows its type only: its text may quote a secret."""

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("hunter2")

    monkeypatch.setattr(session, "open_state", fail)
    result = run_cli(home, "list")
    refused(result, "internal error (RuntimeError)")
    assert "hunter2" not in result.output


def test_command_as_process_shows_no_traceback(tmp_path: Path) -> None:
    """The installed command fails in one line too."""
    process = start_cli(tmp_path / "none", "list")
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (1, "")
    assert err.count("\n") == 1
