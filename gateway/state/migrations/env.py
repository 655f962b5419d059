"""What Alembic executes for each command: always on the caller's connection, inside the caller's transaction."""

from __future__ import annotations

from alembic import context
from sqlalchemy import Connection

_connection = context.config.attributes.get("connection")
if not isinstance(_connection, Connection):
    raise RuntimeError("this history runs through `rhttp-pki db upgrade`, not through the alembic command")
# transactional_ddl: SQLite can do it when transactions are started explicitly, as the engine of ours does.
context.configure(connection=_connection, transactional_ddl=True)
context.run_migrations()
