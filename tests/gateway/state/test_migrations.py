"""The schema's history: from each revision to the newest, with all that was there, in both databases."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Engine, inspect, text
from support.homes import new_home, run_cli

import auth.tables
import pki.tables
from gateway.state import database
from gateway.state.database import (
    SCHEMA_REVISION,
    SchemaOutdated,
    check_schema,
    open_state,
    upgrade_schema,
)
from gateway.state.migrations.runner import known_revisions, run_upgrade

OLD = sorted(known_revisions() - {SCHEMA_REVISION})


@pytest.fixture
def engine(empty_url: str, tmp_path: Path) -> Iterator[Engine]:
    """An empty database of either kind."""
    made = open_state(tmp_path, empty_url)
    yield made
    made.dispose()


def begin_at(engine: Engine, revision: str) -> None:
    with engine.begin() as connection:
        run_upgrade(connection, revision)


@pytest.mark.parametrize("revision", OLD)
def test_upgrade_from_each_revision_gives_the_tables_of_the_code(engine: Engine, revision: str) -> None:
    """Whatever version made the database, it ends up as a new one, and only then is used."""
    begin_at(engine, revision)
    with pytest.raises(SchemaOutdated, match=f"schema {revision}, this needs {SCHEMA_REVISION}; run: rhttp-pki db up"):
        check_schema(engine)
    assert upgrade_schema(engine) == (revision, SCHEMA_REVISION)
    check_schema(engine)
    declared = (pki.tables.metadata, auth.tables.metadata, database.metadata)
    names = {name for metadata in declared for name in metadata.tables} | {"alembic_version"}
    with engine.connect() as connection:
        assert set(inspect(connection).get_table_names()) == names
        for metadata in declared:
            options = {
                "compare_type": True,
                "compare_server_default": True,
                "include_name": lambda name, kind, _, known=metadata: kind != "table" or name in known.tables,
            }
            assert compare_metadata(MigrationContext.configure(connection, opts=options), metadata) == []


def test_upgrade_from_the_first_revision_keeps_every_row(engine: Engine) -> None:
    """Users, certificates and the count of writes are as they were."""
    begin_at(engine, "0001")
    rows = {
        "authorities": "('ca', 'worker', 0, 9, 'pem', 3)",
        "identities": "('w1', 'worker', 'render', 5)",
        "certificates": "('01', 'w1', 'worker', 'render', '{}', 'f', 'ca', 0, 9, 'pem', 5, 6, 'superseded')",
        "users": "('w1', 'worker', TRUE, 1.5, 2.5)",
    }
    with engine.begin() as connection:
        for table, values in rows.items():
            connection.execute(text(f"INSERT INTO {table} VALUES {values}"))
        connection.execute(text("UPDATE state_version SET version = 41"))
        before = {table: connection.execute(text(f"SELECT * FROM {table}")).all() for table in (*rows, "state_version")}
    upgrade_schema(engine)
    with engine.connect() as connection:
        assert before == {table: connection.execute(text(f"SELECT * FROM {table}")).all() for table in before}


def test_upgrade_of_a_revision_that_nobody_knows_changes_nothing(engine: Engine) -> None:
    """A revision of another history is not taken for an old one of ours."""
    begin_at(engine, "0001")
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '0000'"))
    with pytest.raises(SchemaOutdated, match="schema 0000"):
        upgrade_schema(engine)
    with engine.connect() as connection:
        assert not inspect(connection).has_table("enrolment_tokens")


def test_home_of_the_release_before_names_the_command_and_goes_on_after_it(tmp_path: Path) -> None:
    """Nothing is done with it before; afterwards what it issued is there, and what is new works."""
    home = new_home(tmp_path / "home")
    assert run_cli(home, "issue-worker", "w1", "--pool", "render").exit_code == 0
    listed = run_cli(home, "list", "--json").stdout
    make_older(home.path / "state.db", tmp_path)
    refused = run_cli(home, "list")
    assert (refused.exit_code, "rhttp-pki db upgrade" in refused.stderr) == (1, True)
    assert run_cli(home, "gateway", "--check").exit_code == 1
    upgraded = run_cli(home, "db upgrade")
    assert (upgraded.exit_code, upgraded.stdout) == (0, f"schema 0001 -> {SCHEMA_REVISION}\n")
    assert run_cli(home, "list", "--json").stdout == listed
    assert run_cli(home, "user list").stdout.startswith("w1  enabled")


def make_older(place: Path, folder: Path) -> None:
    """Put what stands in a state.db into a database that the first revision made, in its place."""
    (folder / "older.db").touch()
    older = open_state(folder, "sqlite:///older.db")
    begin_at(older, "0001")
    with older.connect() as connection:
        tables = [name for name in inspect(connection).get_table_names() if name != "alembic_version"]
    older.dispose()
    raw = sqlite3.connect(folder / "older.db")
    raw.execute("ATTACH ? AS newer", (str(place),))
    for table in tables:
        raw.execute(f"DELETE FROM main.{table}")
        raw.execute(f"INSERT INTO main.{table} SELECT * FROM newer.{table}")
    raw.commit()
    raw.close()
    for old in place.parent.glob("state.db*"):
        old.unlink()
    (folder / "older.db").rename(place)
    place.chmod(0o600)
