"""State: the database engine, its schema's version, and the immutable snapshot that the data processes work from.

Trust: trusts the database's owner. Every failure of the database becomes one `StateUnavailable` with the mend; its
message never holds a statement's parameters, which may be sealed credentials.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import quote

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    Connection,
    Engine,
    Integer,
    MetaData,
    Table,
    create_engine,
    event,
    inspect,
    select,
    text,
    update,
)
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, SQLAlchemyError
from sqlalchemy.pool import ConnectionPoolEntry, QueuePool

__all__ = [
    "SCHEMA_REVISION",
    "SchemaOutdated",
    "StateFile",
    "StateUnavailable",
    "bump",
    "check_schema",
    "create_schema",
    "metadata",
    "open_state",
    "read_version",
    "reading",
    "state_version",
    "unavailable",
    "upgrade_schema",
]

SCHEMA_REVISION = "0002"
"""The newest revision in `gateway.state.migrations`; a test holds the two together."""

_BUSY_SECONDS = 5.0
COMMAND_PATIENCE = 20.0
"""Seconds that a command waits for one answer of the database."""
GATEWAY_PATIENCE = 3.0
"""The same of a running gateway: another connection must have been tried before `limits.state_stale` is over."""
_READ_ONLY = "rhttp_read_only"
# The lock that upgrades of one PostgreSQL database take, so that two of them do not race: any fixed number.
_UPGRADE_LOCK = 0x72687474

metadata = MetaData()
state_version = Table(
    "state_version",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("version", BigInteger, nullable=False),
    CheckConstraint("id = 1", name="state_version_single"),
)
"""One row; its number grows with every write transaction, so a reader sees a change by one cheap query."""


class StateUnavailable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The state cannot be read or written; the message says what, why and the mend."""


class SchemaOutdated(StateUnavailable):
    """The database has another schema than this version needs; the message names the command."""


def open_state(home: os.PathLike[str], config_url: str, *, patience: float = COMMAND_PATIENCE) -> Engine:
    """An engine for the home's state; nothing is opened, made or checked before its first use.

    `config_url` is ``[state] url``; a relative SQLite path is relative to the home. A
    SQLite file that is missing is an error at first use, never silently made: only `create_schema` makes one.

    ``patience`` is how many seconds any one answer of PostgreSQL may take; beyond, the connection is given up.

    Transactions of SQLite start with BEGIN IMMEDIATE, so what was read in one still holds when it writes; readers use
    `reading`, which takes no write lock.

    Raises:
        StateUnavailable: the URL cannot be used.
    """
    try:
        url = make_url(config_url)
    except (ArgumentError, ValueError):
        # The URL may hold a password: not shown.
        raise StateUnavailable(
            "[state] url is no database URL; write sqlite:///state.db or postgresql+psycopg://…"
        ) from None
    match url.drivername:
        case "sqlite" | "sqlite+pysqlite":
            return _open_sqlite(Path(home), url)
        case "postgresql+psycopg":
            try:
                from gateway.state.postgres import open_engine  # here: only who has PostgreSQL has its driver

                return open_engine(url, patience)
            except ImportError:
                raise StateUnavailable(
                    "PostgreSQL needs the psycopg package; pip install 'rhttp-pki[postgresql]'"
                ) from None
        case other:
            raise StateUnavailable(f"[state] url: {other} is not supported; use sqlite or postgresql+psycopg")


def _open_sqlite(base: Path, url: URL) -> Engine:
    if not url.database or url.database == ":memory:" or url.query:
        raise StateUnavailable("[state] url: SQLite needs a file and takes no options; write sqlite:///state.db")
    # One leading slash: in a URI, two would start an authority.
    path = "/" + os.path.normpath(os.path.join(os.path.abspath(base), url.database)).lstrip("/")

    def connect() -> sqlite3.Connection:
        # mode=rw: a missing file is an error instead of an empty database.
        return sqlite3.connect(
            f"file:{quote(path)}?mode=rw",
            uri=True,
            timeout=_BUSY_SECONDS,
            isolation_level=None,
            check_same_thread=False,
        )

    engine = create_engine(
        URL.create("sqlite", database=path), creator=connect, poolclass=QueuePool, hide_parameters=True
    )
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", _begin_sqlite)
    return engine


def _prepare_sqlite(connection: sqlite3.Connection, _entry: ConnectionPoolEntry) -> None:
    connection.execute("PRAGMA foreign_keys = ON")
    # A revocation that was reported done must survive a power cut; NORMAL would lose the newest commits in WAL mode.
    connection.execute("PRAGMA synchronous = FULL")


def _begin_sqlite(connection: Connection) -> None:
    # The driver's own transactions (isolation_level) start late and deadlock on read-then-write: ours are explicit.
    read_only = connection.get_execution_options().get(_READ_ONLY, False)
    connection.exec_driver_sql("BEGIN" if read_only else "BEGIN IMMEDIATE")


class StateFile:
    """The file of an SQLite engine, noticed when it was replaced or removed; nothing for other databases.

    Connections that are open would go on with the old one: no revocation that is written to the new one would arrive,
    and what they write would be in no database.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._file = engine.url.database if engine.dialect.name == "sqlite" else None
        self._seen = self._identity()

    def reopen_if_replaced(self) -> None:
        """Let the engine open new connections if its file is another one by now."""
        identity = self._identity()
        if identity != self._seen:
            self._engine.dispose()
            self._seen = identity

    def _identity(self) -> tuple[int, int] | None:
        if self._file is None:
            return None
        try:
            found = os.stat(self._file)
        except OSError:
            return None
        return found.st_dev, found.st_ino


@contextmanager
def reading(engine: Engine) -> Iterator[Connection]:
    """A transaction that only reads: it sees one state of everything and holds up no writer."""
    options: dict[str, object] = {_READ_ONLY: True}
    if engine.dialect.name == "postgresql":
        # Its default shows each statement a newer state; SQLite's transactions see one anyway.
        options |= {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with engine.connect().execution_options(**options) as connection:
        yield connection


def bump(connection: Connection) -> None:
    """Count the write transaction that `connection` is in; pass this to stores as `on_write`."""
    connection.execute(update(state_version).values(version=state_version.c.version + 1))


def read_version(engine: Engine) -> int:
    """The number of write transactions so far: cheap enough for polling twice a second.

    Raises:
        StateUnavailable: it cannot be read.
    """
    try:
        with reading(engine) as connection:
            return int(connection.execute(select(state_version.c.version)).scalar_one())
    except SQLAlchemyError as error:
        raise unavailable(error) from error


def create_schema(engine: Engine) -> None:
    """Make the database (SQLite: the file, 0600, in WAL mode) and bring it to the newest schema; for `init`.

    Raises:
        StateUnavailable: it cannot be made.
    """
    database = engine.url.database
    try:
        if engine.dialect.name == "sqlite" and database:
            # SQLite would make it under the umask; the -wal and -shm files take the mode of the database.
            os.close(os.open(database, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            with engine.connect() as connection:
                # The mode cannot change inside a transaction; it stays with the file.
                raw = connection.connection.driver_connection
                assert isinstance(raw, sqlite3.Connection)
                raw.execute("PRAGMA journal_mode = WAL")
    except OSError as error:
        raise StateUnavailable(f"cannot make {database}: {error.strerror}") from error
    except (SQLAlchemyError, sqlite3.Error) as error:
        raise unavailable(error) from error
    upgrade_schema(engine)


def upgrade_schema(engine: Engine) -> tuple[str | None, str]:
    """Bring the schema to `SCHEMA_REVISION` in one transaction: wholly or not at all.

    Returns the revisions before (None: an empty database) and after. A second upgrade at the same time waits.

    Raises:
        SchemaOutdated: the database was made by a newer version.
        StateUnavailable: it cannot be written.
    """
    # Alembic takes long to import: only who upgrades pays.
    from gateway.state.migrations.runner import known_revisions, run_upgrade

    try:
        with engine.begin() as connection:
            if connection.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _UPGRADE_LOCK})
            before = _revision(connection)
            if before is not None and before not in known_revisions():
                raise _unknown_schema(before)
            if before != SCHEMA_REVISION:
                run_upgrade(connection, SCHEMA_REVISION)
            return before, SCHEMA_REVISION
    except SQLAlchemyError as error:
        raise unavailable(error) from error


def check_schema(engine: Engine) -> None:
    """Raise unless the database has the schema of this version.

    Raises:
        SchemaOutdated: it has another, or none.
        StateUnavailable: it cannot be read.
    """
    try:
        with reading(engine) as connection:
            revision = _revision(connection)
    except SQLAlchemyError as error:
        raise unavailable(error) from error
    if revision != SCHEMA_REVISION:
        raise _outdated(revision)


def _revision(connection: Connection) -> str | None:
    # Alembic's own table, read without Alembic.
    if not inspect(connection).has_table("alembic_version"):
        return None
    return connection.execute(text("SELECT version_num FROM alembic_version")).scalar()


def _unknown_schema(revision: str) -> SchemaOutdated:
    return SchemaOutdated(
        f"the state database has schema {revision}, which this version does not know; install a newer rhttp-pki"
    )


def _outdated(revision: str | None) -> SchemaOutdated:
    if revision is not None and revision > SCHEMA_REVISION:
        return _unknown_schema(revision)
    return SchemaOutdated(
        f"the state database has schema {revision or 'none'}, this needs {SCHEMA_REVISION}; run: rhttp-pki db upgrade"
    )


def unavailable(error: BaseException) -> StateUnavailable:
    """The one line for a failure of the database: what, and the mend. No statement, no parameters, no URL."""
    cause = error.orig if isinstance(error, DBAPIError) and error.orig is not None else error
    said = str(cause).strip().split("\n", 1)[0][:200]
    for sign, message in _SIGNS:
        if sign in said:
            return StateUnavailable(f"the state database {message}")
    if isinstance(error, DBAPIError) or isinstance(cause, sqlite3.Error):
        return StateUnavailable(f"the state database failed: {said}")
    return StateUnavailable(f"the state database failed ({type(error).__name__})")


_SIGNS = (
    ("no answer within", "does not answer; check the server and the way to it, then try again"),
    ("timeout expired", "cannot be reached in time; check the server and the way to it, then try again"),
    ("statement timeout", "takes too long to answer; try again when it is less busy"),
    ("database is locked", f"is in use by another command (waited {_BUSY_SECONDS:.0f} s); try again"),
    (
        "unable to open database file",
        "is missing or may not be opened; check state.db and its folder, or restore a backup",
    ),
    ("readonly database", "may not be written; check the permissions of state.db and its folder"),
    ("file is not a database", "is broken (not a database); restore it from a backup"),
    ("malformed", "is broken (malformed); restore it from a backup"),
    ("disk is full", "cannot grow: the disk is full; make room and try again"),
    (
        "disk I/O error",
        "cannot be read or written (disk error, or disk full); check the disk, and a backup if it is damaged",
    ),
    ("no such table", "lacks a table; run: rhttp-pki db upgrade, or restore it from a backup"),
)
