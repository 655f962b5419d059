"""The tables of the inventory. The schema's history is the gateway's (`gateway.state.migrations`); a test compares
the two.

Times are whole seconds since the epoch, UTC. Serial numbers and fingerprints are lower-case hex without colons.
"""

from __future__ import annotations

from sqlalchemy import BigInteger, CheckConstraint, Column, ForeignKey, Index, MetaData, String, Table, Text

__all__ = ["authorities", "certificates", "identities", "metadata"]

metadata = MetaData()

identities = Table(
    "identities",
    metadata,
    Column("name", String(63), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("pool", String(63), nullable=True),
    Column("created_at", BigInteger, nullable=False),
    CheckConstraint("role IN ('client', 'worker', 'master')", name="identities_role"),
    # A worker belongs to one pool, and nobody else to any.
    CheckConstraint("(role = 'worker') = (pool IS NOT NULL)", name="identities_pool"),
)
"""Who may hold certificates: a name has one role and, as a worker, one pool, until all that it had has ended."""

authorities = Table(
    "authorities",
    metadata,
    Column("fingerprint", String(64), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("pem", Text, nullable=False),
    Column("crl_number", BigInteger, nullable=False, server_default="0"),
    CheckConstraint("role IN ('root', 'client', 'worker', 'master', 'server')", name="authorities_role"),
)
"""The root and the issuing CAs; `crl_number` is the last one given to a revocation list (RFC 5280 §5.2.3)."""

certificates = Table(
    "certificates",
    metadata,
    Column("serial", String(40), primary_key=True),
    # A server certificate belongs to the gateway itself and has no name.
    Column("name", String(63), ForeignKey("identities.name", name="certificates_name"), nullable=True),
    Column("role", String(16), nullable=False),
    Column("pool", String(63), nullable=True),
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("fingerprint", String(64), nullable=False, unique=True),
    Column("issuer", String(64), ForeignKey("authorities.fingerprint", name="certificates_issuer"), nullable=False),
    Column("not_before", BigInteger, nullable=False),
    Column("not_after", BigInteger, nullable=False),
    Column("pem", Text, nullable=False),
    Column("issued_at", BigInteger, nullable=False),
    Column("revoked_at", BigInteger, nullable=True),
    Column("reason", String(32), nullable=True),
    CheckConstraint("role IN ('client', 'worker', 'master', 'server')", name="certificates_role"),
    CheckConstraint("(role = 'server') = (name IS NULL)", name="certificates_owner"),
    CheckConstraint("(revoked_at IS NULL) = (reason IS NULL)", name="certificates_revoked"),
)
"""Every certificate that was issued, none is ever deleted. `labels` is a JSON object of texts."""

Index("certificates_by_name", certificates.c.name)
Index("certificates_by_expiry", certificates.c.not_after)
