"""Homes for tests of the issuer: their state in SQLite, or in PostgreSQL where a server is installed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from support.homes import new_home, run_cli
from support.postgres import installed_postgres

from gateway.home.layout import Home
from gateway.home.session import HomeSession
from gateway.issuer.signing import Issuer


@pytest.fixture(scope="package")
def make_database() -> Iterator[Callable[[], str]]:
    """Empty PostgreSQL databases, of one server for all tests here."""
    with installed_postgres() as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Home:
    """A home, its state in either database."""
    made = new_home(tmp_path / "home")
    if request.param == "postgresql":
        url = request.getfixturevalue("make_database")()
        made.config.write_text(f'{made.config.read_text()}\n[state]\nurl = "{url}"\n')
        assert run_cli(made, "db upgrade").exit_code == 0
    return made


@pytest.fixture
def session(home: Home) -> Iterator[HomeSession]:
    """The home, open for a look at what the issuer did."""
    with HomeSession(home, None) as opened:
        yield opened


@pytest.fixture
def said() -> list[str]:
    """What the issuer said to the operator."""
    return []


@pytest.fixture
def issuer(home: Home, session: HomeSession, said: list[str]) -> Iterator[Issuer]:
    """The issuer of the home."""
    made = Issuer.open(home.path, session.basics.state_url, None, said.append)
    yield made
    made.close()
