"""State: engine, schema, version, snapshot."""

from __future__ import annotations

import multiprocessing
import os
import sqlite3
import stat
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine, insert, text

import auth.tables
import pki.tables
from auth.credentials import UserCredentials
from auth.store import UserStore
from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.state import database
from gateway.state.database import (
    SCHEMA_REVISION,
    SchemaOutdated,
    StateUnavailable,
    bump,
    check_schema,
    create_schema,
    open_state,
    read_version,
    reading,
    upgrade_schema,
)
from gateway.state.migrations.runner import make_config
from gateway.state.snapshot import StateSnapshot
from gateway.state.snapshot_query import load_snapshot
from rhttp.digest.formula import Algorithm, ha1


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    """A database with the newest schema."""
    made = open_state(tmp_path, DEFAULT_STATE_URL)
    create_schema(made)
    yield made
    made.dispose()


def test_schema_revision_is_the_newest_of_the_history() -> None:
    """The number in the code and the history of the schema never drift apart, and the history has one head."""
    script = ScriptDirectory.from_config(make_config())
    assert script.get_heads() == [SCHEMA_REVISION]


def test_schema_made_by_history_is_that_of_the_tables(engine: Engine) -> None:
    """The migrations make exactly the tables that the packages declare."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "compare_server_default": True})
        for metadata in (pki.tables.metadata, auth.tables.metadata, database.metadata):
            others = {"alembic_version", "state_version", *pki.tables.metadata.tables, *auth.tables.metadata.tables}
            theirs = [
                change
                for change in compare_metadata(context, metadata)
                if not (change[0] == "remove_table" and change[1].name in others - set(metadata.tables))
                and not (change[0] == "remove_index" and change[1].table.name not in metadata.tables)
            ]
            assert theirs == []


def test_schema_constraints_are_those_of_the_tables(engine: Engine, tmp_path: Path) -> None:
    """Checks, which Alembic does not compare, are the same too."""
    other = open_state(tmp_path, "sqlite:///other.db")
    (tmp_path / "other.db").touch()
    for metadata in (pki.tables.metadata, auth.tables.metadata, database.metadata):
        metadata.create_all(other)
    query = text("SELECT name, sql FROM sqlite_master WHERE type = 'table' AND name != 'alembic_version' ORDER BY name")
    made = []
    for one in (engine, other):
        with reading(one) as connection:
            made.append(
                {
                    row[0]: sorted(word.strip(" ,\t\n") for word in row[1].split("\n"))
                    for row in connection.execute(query)
                }
            )
    other.dispose()
    assert made[0] == made[1]


def test_create_schema_makes_a_private_file_in_wal_mode(engine: Engine, tmp_path: Path) -> None:
    """Only the owner may read the database and its log, and readers do not wait for writers."""
    with reading(engine) as connection:
        assert connection.execute(text("PRAGMA journal_mode")).scalar() == "wal"
        assert connection.execute(text("PRAGMA foreign_keys")).scalar() == 1
        assert connection.execute(text("PRAGMA synchronous")).scalar() == 2
    for name in ("state.db", "state.db-wal"):
        assert stat.S_IMODE((tmp_path / name).stat().st_mode) == 0o600


def test_create_schema_under_a_wide_umask_is_private_still(tmp_path: Path) -> None:
    """The mode does not depend on the umask."""
    before = os.umask(0)
    try:
        made = open_state(tmp_path, DEFAULT_STATE_URL)
        create_schema(made)
        made.dispose()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "state.db").stat().st_mode) == 0o600


def test_open_state_missing_file_is_an_error_and_makes_none(tmp_path: Path) -> None:
    """A lost database is never replaced by an empty one, which would know no revocation."""
    engine = open_state(tmp_path, DEFAULT_STATE_URL)
    with pytest.raises(StateUnavailable, match="is missing"):
        read_version(engine)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "url", ["sqlite://", "sqlite:///:memory:", "sqlite:///x.db?mode=ro", "mysql://x/y", "nonsense"]
)
def test_open_state_unusable_url_is_refused(tmp_path: Path, url: str) -> None:
    """Only a SQLite file or PostgreSQL is a place for state."""
    with pytest.raises(StateUnavailable, match=r"\[state\] url"):
        open_state(tmp_path, url)


def test_open_state_url_with_password_is_never_shown(tmp_path: Path) -> None:
    """A URL that cannot be used is not quoted."""
    with pytest.raises(StateUnavailable) as caught:
        open_state(tmp_path, "postgresql+psycopg://u:hunter2@[::bad/x")
    assert "hunter2" not in str(caught.value)


def test_open_state_relative_path_is_relative_to_the_home(tmp_path: Path) -> None:
    """`sqlite:///x.db` lies in the home, with any characters that URIs treat specially; an absolute path stays."""
    home = tmp_path / "a b%20?#ü"
    home.mkdir()
    for url, place in (("sqlite:///x.db", home / "x.db"), (f"sqlite:////{tmp_path}/y.db", tmp_path / "y.db")):
        engine = open_state(home, url)
        create_schema(engine)
        engine.dispose()
        assert place.is_file()


def test_check_schema_newest_passes(engine: Engine) -> None:
    """A database of this version is used."""
    check_schema(engine)


def test_check_schema_without_tables_names_the_command(tmp_path: Path) -> None:
    """A database without a schema says how to get it."""
    (tmp_path / "state.db").touch()
    engine = open_state(tmp_path, DEFAULT_STATE_URL)
    with pytest.raises(SchemaOutdated, match="rhttp-pki db upgrade"):
        check_schema(engine)
    assert upgrade_schema(engine) == (None, SCHEMA_REVISION)
    check_schema(engine)
    engine.dispose()


def test_check_schema_of_a_newer_version_asks_for_it(engine: Engine) -> None:
    """A database that a newer version made is neither used nor changed."""
    with engine.begin() as connection:
        connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    with pytest.raises(SchemaOutdated, match="newer"):
        check_schema(engine)
    with pytest.raises(SchemaOutdated, match="newer"):
        upgrade_schema(engine)


def test_upgrade_twice_changes_nothing(engine: Engine) -> None:
    """An upgrade of the newest schema is nothing."""
    assert upgrade_schema(engine) == (SCHEMA_REVISION, SCHEMA_REVISION)
    assert read_version(engine) == 0


def test_upgrade_that_fails_leaves_nothing(tmp_path: Path) -> None:
    """A migration that breaks off is undone as a whole."""
    (tmp_path / "state.db").touch()
    with sqlite3.connect(tmp_path / "state.db") as raw:
        # The last table of the revision is in the way.
        raw.execute("CREATE TABLE state_version (other TEXT)")
    engine = open_state(tmp_path, DEFAULT_STATE_URL)
    with pytest.raises(StateUnavailable):
        upgrade_schema(engine)
    with reading(engine) as connection:
        names = connection.execute(text("SELECT name FROM sqlite_master WHERE type = 'table'")).scalars().all()
    engine.dispose()
    assert names == ["state_version"]


def test_bump_counts_write_transactions(engine: Engine) -> None:
    """Every committed write raises the version by one, a rolled back one does not."""
    with engine.begin() as connection:
        bump(connection)
    with engine.connect() as connection:
        bump(connection)
        connection.rollback()
    assert read_version(engine) == 1


def test_reading_takes_no_write_lock(engine: Engine) -> None:
    """The poll twice a second neither waits for a writer nor holds one up."""
    with engine.begin() as writer:
        bump(writer)
        assert read_version(engine) == 0
    with reading(engine) as reader:
        assert reader.execute(text("SELECT version FROM state_version")).scalar() == 1
        with engine.begin() as writer:
            bump(writer)
        assert reader.execute(text("SELECT version FROM state_version")).scalar() == 1


def test_locked_database_is_one_line(engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A writer that waits in vain says that the database is in use."""
    monkeypatch.setattr(database, "_BUSY_SECONDS", 0.05)
    other = open_state(tmp_path, DEFAULT_STATE_URL)
    with engine.begin(), pytest.raises(StateUnavailable, match="in use by another command"):
        upgrade_schema(other)
    other.dispose()


@pytest.mark.parametrize(
    "content", [b"no database at all, but long enough" * 40, b"SQLite format 3\x00" + b"\xff" * 5000]
)
def test_broken_database_is_one_line(tmp_path: Path, content: bytes) -> None:
    """Rubbish in state.db is one line that asks for the backup."""
    (tmp_path / "state.db").write_bytes(content)
    engine = open_state(tmp_path, DEFAULT_STATE_URL)
    with pytest.raises(StateUnavailable, match="broken"):
        check_schema(engine)
    engine.dispose()


def test_unavailable_never_shows_parameters(engine: Engine) -> None:
    """What a failing statement was given (sealed credentials, say) is not in the message."""
    statement = text("INSERT INTO state_version VALUES (1, :secret)")
    with pytest.raises(Exception, match="UNIQUE") as caught, engine.begin() as connection:
        connection.execute(statement, {"secret": "hunter2"})
    assert "hunter2" not in str(database.unavailable(caught.value)) + str(caught.value)


def _bump_often(home: str, times: int) -> None:
    engine = open_state(Path(home), DEFAULT_STATE_URL)
    for _ in range(times):
        with engine.begin() as connection:
            bump(connection)
    engine.dispose()


def test_many_processes_writing_lose_no_write(engine: Engine, tmp_path: Path) -> None:
    """Writers of several processes wait for each other: none fails and every one is counted."""
    context = multiprocessing.get_context("spawn")
    writers = [context.Process(target=_bump_often, args=(str(tmp_path), 25)) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert [writer.exitcode for writer in writers] == [0] * 4
    assert read_version(engine) == 100


KEY = b"k" * 32


def enter_certificate(engine: Engine, serial: str, **values: object) -> None:
    """A certificate that is good until 2,000,000 and is nobody's but the database's."""
    row = {
        "serial": serial,
        "name": "w1",
        "role": "worker",
        "pool": "p",
        "labels": "{}",
        "fingerprint": serial,
        "issuer": "ca",
        "not_before": 0,
        "not_after": 2_000_000,
        "pem": "",
        "issued_at": 0,
        **values,
    }
    with engine.begin() as connection:
        if connection.execute(text("SELECT count(*) FROM identities")).scalar() == 0:
            connection.execute(
                insert(pki.tables.authorities).values(
                    fingerprint="ca", role="worker", not_before=0, not_after=9, pem=""
                )
            )
            connection.execute(insert(pki.tables.identities).values(name="w1", role="worker", pool="p", created_at=0))
        connection.execute(insert(pki.tables.certificates).values(**row))
        bump(connection)


def test_load_snapshot_holds_users_revocations_and_labels(engine: Engine) -> None:
    """All that a data process needs, and nothing of certificates that have neither label nor revocation."""
    users = UserStore(engine, KEY, "realm", bump)
    users.add("alice", "secret")
    users.add("w1", "secret")
    users.disable("w1")
    enter_certificate(engine, "01")
    enter_certificate(engine, "02", labels='{"gpu": "a100"}')
    enter_certificate(engine, "03", revoked_at=5, reason="superseded", labels='{"gpu": "a100"}')
    snapshot = load_snapshot(engine, KEY, now=1_000_000)
    assert snapshot.version == read_version(engine) == 6
    assert {user.name: user.enabled for user in snapshot.users.values()} == {"alice": True, "w1": False}
    assert snapshot.users["alice"].ha1 == {"SHA-256": ha1("alice", "realm", "secret", Algorithm.SHA_256)}
    assert snapshot.revoked == {"03"}
    assert snapshot.labels == {"02": {"gpu": "a100"}}


def test_load_snapshot_forgets_what_expired_a_day_ago(engine: Engine) -> None:
    """The snapshot does not grow for ever; what expires now is in it still, for clocks that differ."""
    enter_certificate(engine, "03", revoked_at=5, reason="superseded")
    assert load_snapshot(engine, KEY, now=2_000_000 + 86_400).revoked == {"03"}
    assert load_snapshot(engine, KEY, now=2_000_000 + 86_401).revoked == frozenset()


def test_load_snapshot_with_a_wrong_key_is_refused_as_a_whole(engine: Engine) -> None:
    """When one credential does not open there is no snapshot: one without that user would be a guess."""
    UserStore(engine, KEY, "realm", bump).add("alice", "secret")
    with pytest.raises(StateUnavailable, match="does not open"):
        load_snapshot(engine, b"x" * 32)


def test_load_snapshot_of_a_missing_database_is_one_error(tmp_path: Path) -> None:
    """Whatever is wrong with the database comes out as the same error."""
    with pytest.raises(StateUnavailable):
        load_snapshot(open_state(tmp_path, DEFAULT_STATE_URL), KEY)


SNAPSHOT = StateSnapshot(
    version=7,
    users={
        "alice": UserCredentials(name="alice", enabled=True, ha1={"SHA-256": "ab" * 32}),
        "w1": UserCredentials(name="w1", enabled=False, ha1={}),
    },
    revoked=frozenset({"0a", "ff01"}),
    labels={"0b": {"gpu": "a100"}},
)


def test_snapshot_survives_its_wire_form() -> None:
    """What a data process gets is what was read."""
    assert StateSnapshot.from_bytes(SNAPSHOT.to_bytes()) == SNAPSHOT


def test_snapshot_repr_shows_no_credential() -> None:
    """HA1 equals the password for Digest: neither repr shows one."""
    assert "abab" not in repr(SNAPSHOT) + repr(SNAPSHOT.users) + str(SNAPSHOT)


@pytest.mark.parametrize(
    "data", [b"", b"[]", b"{}", b'{"version":1}', b'{"version":"x","users":[],"revoked":[],"labels":{}}']
)
def test_snapshot_of_other_bytes_is_refused(data: bytes) -> None:
    """Anything else is a ValueError that does not quote it."""
    with pytest.raises(ValueError, match="not a state snapshot"):
        StateSnapshot.from_bytes(data)
