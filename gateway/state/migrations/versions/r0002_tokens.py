"""Enrolment tokens, and the uses of them that may still be asked for again."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Make both tables, empty; what is there stays as it is."""
    op.create_table(
        "enrolment_tokens",
        sa.Column("id", sa.String(19), primary_key=True),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("pool", sa.String(63), nullable=True),
        sa.Column("name", sa.String(63), nullable=True),
        sa.Column("name_prefix", sa.String(62), nullable=True),
        sa.Column("labels", sa.Text, nullable=False, server_default="{}"),
        sa.Column("uses", sa.Integer, nullable=False),
        sa.Column("used", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=True),
        sa.Column("revoked_at", sa.BigInteger, nullable=True),
        sa.Column("sealed", sa.LargeBinary, nullable=False),
        sa.CheckConstraint("role IN ('client', 'worker', 'master')", name="enrolment_tokens_role"),
        sa.CheckConstraint("(role = 'worker') = (pool IS NOT NULL)", name="enrolment_tokens_pool"),
        sa.CheckConstraint("name IS NULL OR name_prefix IS NULL", name="enrolment_tokens_name"),
        sa.CheckConstraint("used >= 0 AND used <= uses", name="enrolment_tokens_used"),
        sa.CheckConstraint("(used = 0) = (used_at IS NULL)", name="enrolment_tokens_used_at"),
    )
    op.create_table(
        "enrolment_uses",
        sa.Column("serial", sa.String(40), primary_key=True),
        sa.Column(
            "token", sa.String(19), sa.ForeignKey("enrolment_tokens.id", name="enrolment_uses_token"), nullable=False
        ),
        sa.Column("key_hash", sa.String(64), nullable=False),
        sa.Column("name", sa.String(63), nullable=False),
        sa.Column("used_at", sa.BigInteger, nullable=False),
        sa.Column("credentials_at", sa.BigInteger, nullable=True),
    )
    op.create_index("enrolment_uses_by_token", "enrolment_uses", ["token"])
    op.create_index("enrolment_uses_by_time", "enrolment_uses", ["used_at"])
