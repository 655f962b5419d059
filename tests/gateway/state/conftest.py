"""Databases for tests of the state: SQLite, and PostgreSQL where a server is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.postgres import installed_postgres

from gateway.config.defaults import DEFAULT_STATE_URL


@pytest.fixture(scope="package")
def make_postgres() -> Iterator[Callable[[], str]]:
    """What makes an empty PostgreSQL database and tells its URL."""
    with installed_postgres() as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The URL of a database without tables, for a home at ``tmp_path``; each test runs with both kinds."""
    if request.param == "sqlite":
        (tmp_path / "state.db").touch()
        return DEFAULT_STATE_URL
    return str(request.getfixturevalue("make_postgres")())
