"""The audit lines of certificates, in the ``cli`` stream of a home (I/O)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from cryptography.x509 import load_pem_x509_certificate

from gateway.home.layout import Home
from pki.inventory import CertificateRecord, Identity
from pki.issue import stamp
from pki.keys import key_type

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

__all__ = ["audit_certificate", "certificate_fields"]


def audit_certificate(
    home: Home,
    event: str,
    record: CertificateRecord,
    *,
    key: Ed25519PrivateKey | None = None,
    reason: str | None = None,
    old: str | None = None,
    formerly: Identity | None = None,
    sign: bool = True,
) -> None:
    """Write one line; it is on disk when this returns.

    `old` is the serial of the certificate that a renewal replaces, `formerly` whose the name was before.

    Unless the next one does it (`sign`), it is signed with `key`, or with the home's when that is not sealed.

    Raises:
        AuditUnavailable: the line is not in the log; what it tells of must not go on.
    """
    from gateway.audit.cli_stream import append_cli

    fields = certificate_fields(record, reason=reason, old=old, formerly=formerly)
    append_cli(home.path, event, key=key, sign=sign, **fields)


def certificate_fields(
    record: CertificateRecord,
    *,
    reason: str | None = None,
    old: str | None = None,
    formerly: Identity | None = None,
    token: str | None = None,
) -> dict[str, Any]:
    """The fields of such a line; see `audit_certificate`. `token` is the id of the one that it was issued upon."""
    detail = {
        "role": record.role.value,
        "pool": record.pool,
        "key_type": key_type(load_pem_x509_certificate(record.pem.encode()).public_key()),
        "labels": " ".join(f"{key}={value}" for key, value in sorted(record.labels.items())) or None,
        "expires": stamp(datetime.fromtimestamp(record.not_after, UTC)),
        "serial": old,
        "token": token,
        "formerly": None if formerly is None else str(formerly),
    }
    return {
        "identity": f"{record.role.value}/{record.name or 'gateway'}",
        "serial": record.serial,
        "outcome": "done",
        "reason": reason,
        "detail": {key: value for key, value in detail.items() if value is not None},
    }
