"""`db upgrade`."""

from __future__ import annotations

from pathlib import Path

from support.homes import new_home, run_cli

from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.state.database import check_schema, open_state


def test_db_upgrade_of_the_newest_schema_does_nothing(tmp_path: Path) -> None:
    """It can be run at any time."""
    home = new_home(tmp_path / "home")
    result = run_cli(home, "db upgrade")
    assert (result.exit_code, "nothing to do" in result.stdout) == (0, True)


def test_db_upgrade_makes_the_schema_of_an_empty_database(tmp_path: Path) -> None:
    """A database without tables gets them, as on a new PostgreSQL, and the home's CAs: it works at once."""
    home = new_home(tmp_path / "home")
    (home.path / "state.db").write_bytes(b"")
    assert run_cli(home, "list").exit_code == 1
    result = run_cli(home, "db upgrade")
    assert (result.exit_code, "none -> 0002" in result.stdout) == (0, True), result.stderr
    engine = open_state(home, DEFAULT_STATE_URL)
    check_schema(engine)
    engine.dispose()
    assert run_cli(home, "issue-client", "alice").exit_code == 0


def test_db_upgrade_without_a_home_is_one_line(tmp_path: Path) -> None:
    """It never makes a database anywhere."""
    result = run_cli(tmp_path / "none", "db upgrade")
    assert (result.exit_code, result.stdout) == (1, "")
    assert list(tmp_path.iterdir()) == []
