"""The tables of the credential store (I/O). Their home in time is the migration history of the gateway.

Times are seconds since the epoch (UTC) as floating point numbers: SQLite drops time zones of date columns, a number
means the same in every database.
"""

from __future__ import annotations

from sqlalchemy import Boolean, Column, Double, ForeignKey, LargeBinary, MetaData, Table, Text

metadata = MetaData()

users = Table(
    "users",
    metadata,
    Column("name", Text, primary_key=True),
    # The role the user was issued for (client, worker, master); null for a user added by hand. Only shown, never
    # decided upon: the role of a connection is the issuing CA of its certificate.
    Column("role", Text, nullable=True),
    Column("enabled", Boolean, nullable=False),
    Column("created_at", Double, nullable=False),
    Column("changed_at", Double, nullable=False),
)

# One row for each (user, algorithm). `sealed` is the hashed A1 under the state key: for Digest it equals the password.
user_credentials = Table(
    "user_credentials",
    metadata,
    Column("name", Text, ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
    Column("algorithm", Text, primary_key=True),
    Column("sealed", LargeBinary, nullable=False),
)
