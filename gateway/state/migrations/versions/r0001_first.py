"""The first schema: inventory, users, the version of the state.

Written out rather than derived from the tables in the code: history does not change when the code does.
There is no way down: a backup is.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make every table and the single row of ``state_version``."""
    _inventory()
    _users()
    op.create_table(
        "state_version",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.CheckConstraint("id = 1", name="state_version_single"),
    )
    op.execute("INSERT INTO state_version (id, version) VALUES (1, 0)")


def _inventory() -> None:
    op.create_table(
        "identities",
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("pool", sa.String(63), nullable=True),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.CheckConstraint("role IN ('client', 'worker', 'master')", name="identities_role"),
        sa.CheckConstraint("(role = 'worker') = (pool IS NOT NULL)", name="identities_pool"),
    )
    op.create_table(
        "authorities",
        sa.Column("fingerprint", sa.String(64), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("pem", sa.Text, nullable=False),
        sa.Column("crl_number", sa.BigInteger, nullable=False, server_default="0"),
        sa.CheckConstraint("role IN ('root', 'client', 'worker', 'master', 'server')", name="authorities_role"),
    )
    op.create_table(
        "certificates",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column("name", sa.String(63), sa.ForeignKey("identities.name", name="certificates_name"), nullable=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("pool", sa.String(63), nullable=True),
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column(
            "issuer",
            sa.String(64),
            sa.ForeignKey("authorities.fingerprint", name="certificates_issuer"),
            nullable=False,
        ),
        sa.Column("not_before", sa.BigInteger, nullable=False),
        sa.Column("not_after", sa.BigInteger, nullable=False),
        sa.Column("pem", sa.Text, nullable=False),
        sa.Column("issued_at", sa.BigInteger, nullable=False),
        sa.Column("revoked_at", sa.BigInteger, nullable=True),
        sa.Column("reason", sa.String(32), nullable=True),
        sa.CheckConstraint("role IN ('client', 'worker', 'master', 'server')", name="certificates_role"),
        sa.CheckConstraint("(role = 'server') = (name IS NULL)", name="certificates_owner"),
        sa.CheckConstraint("(revoked_at IS NULL) = (reason IS NULL)", name="certificates_revoked"),
    )
    op.create_index("certificates_by_name", "certificates", ["name"])
    op.create_index("certificates_by_expiry", "certificates", ["not_after"])


def _users() -> None:
    op.create_table(
        "users",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("role", sa.Text, nullable=True),
        sa.Column("enabled", sa.Boolean, nullable=False),
        sa.Column("created_at", sa.Double, nullable=False),
        sa.Column("changed_at", sa.Double, nullable=False),
    )
    op.create_table(
        "user_credentials",
        sa.Column("name", sa.Text, sa.ForeignKey("users.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("algorithm", sa.Text, primary_key=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
    )
