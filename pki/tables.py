"""The tables of the inventory. The schema's history is the gateway's (`gateway.state.migrations`); a test compares
the two.

Times are whole seconds since the epoch, UTC. Serial numbers and fingerprints are lower-case hex without colons.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    CheckConstraint,
    Column,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
)

__all__ = ["authorities", "certificates", "enrolment_tokens", "enrolment_uses", "identities", "metadata"]

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

enrolment_tokens = Table(
    "enrolment_tokens",
    metadata,
    Column("id", String(19), primary_key=True),
    Column("role", String(16), nullable=False),
    Column("pool", String(63), nullable=True),
    Column("name", String(63), nullable=True),
    Column("name_prefix", String(62), nullable=True),
    Column("labels", Text, nullable=False, server_default="{}"),
    Column("uses", Integer, nullable=False),
    Column("used", Integer, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
    Column("used_at", BigInteger, nullable=True),
    Column("revoked_at", BigInteger, nullable=True),
    # The hashed A1 of id and secret under the state key: for Digest it equals the secret.
    Column("sealed", LargeBinary, nullable=False),
    CheckConstraint("role IN ('client', 'worker', 'master')", name="enrolment_tokens_role"),
    CheckConstraint("(role = 'worker') = (pool IS NOT NULL)", name="enrolment_tokens_pool"),
    CheckConstraint("name IS NULL OR name_prefix IS NULL", name="enrolment_tokens_name"),
    CheckConstraint("used >= 0 AND used <= uses", name="enrolment_tokens_used"),
    CheckConstraint("(used = 0) = (used_at IS NULL)", name="enrolment_tokens_used_at"),
)
"""Enrolment tokens, without their secrets; what each column means is said in `pki.enrolment`."""

enrolment_uses = Table(
    "enrolment_uses",
    metadata,
    # Not a foreign key of `certificates`: a use is taken before its certificate is entered, in the same transaction.
    Column("serial", String(40), primary_key=True),
    Column("token", String(19), ForeignKey("enrolment_tokens.id", name="enrolment_uses_token"), nullable=False),
    Column("key_hash", String(64), nullable=False),
    Column("name", String(63), nullable=False),
    Column("used_at", BigInteger, nullable=False),
    Column("credentials_at", BigInteger, nullable=True),
)
"""Uses that may still be asked for again: the certificate that each gave, to which key (SHA-256 of its SPKI), and when
the Digest credentials that go with it were given."""

Index("enrolment_uses_by_token", enrolment_uses.c.token)
Index("enrolment_uses_by_time", enrolment_uses.c.used_at)
