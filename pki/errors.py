"""Every way this package says no, in one file.

    PkiError                 code: a stable slug for logs and audit lines
    ├─ NameInvalid           a name, pool, trust domain, SPIFFE ID or SAN that breaks its grammar
    ├─ ProfileViolation      findings: what lint found, all of it
    ├─ CertificateInvalid    reason: PathReason, detail: for the log, never for the peer
    ├─ AuthorityEnding       a CA that lives too short a while to issue anything of use
    ├─ RequestInvalid        a certificate signing request that is not to be signed
    ├─ InputUnreadable       a file that holds no certificate, revocation list or key where one was asked for
    ├─ StoreError            a trust store or inventory that cannot be used
    └─ KeyUnavailable        a sealed key without its passphrase, or with a wrong one

No message carries a key, a passphrase or the content of a file.
"""

# Refusals read as facts ("certificate invalid"), and the names are this package's interface.
# ruff: noqa: N818

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

__all__ = [
    "REASON_TEXTS",
    "AuthorityEnding",
    "CertificateInvalid",
    "Finding",
    "InputUnreadable",
    "KeyUnavailable",
    "NameInvalid",
    "PathReason",
    "PkiError",
    "ProfileViolation",
    "RequestInvalid",
    "StoreError",
]


class PathReason(StrEnum):
    """Why a certification path is refused. The values are public: `verify` prints them, the audit log records them."""

    UNTRUSTED = "untrusted"
    EXPIRED = "expired"
    NOT_YET_VALID = "not_yet_valid"
    PURPOSE = "purpose"
    NAME = "name"
    REVOKED = "revoked"
    STALE_CRL = "stale_crl"
    MALFORMED = "malformed"
    ROLE = "role"
    PROFILE = "profile"
    ALGORITHM = "algorithm"


REASON_TEXTS: Mapping[PathReason, str] = MappingProxyType(
    {
        PathReason.UNTRUSTED: "No path of matching names and good signatures leads from the certificate to a trust "
        "anchor (RFC 5280 §6.1.3 (a)(1), (a)(4)).",
        PathReason.EXPIRED: "A certificate of the path is past its end.",
        PathReason.NOT_YET_VALID: "A certificate of the path has not begun.",
        PathReason.PURPOSE: "Extended key usage, here or at a CA above, or the leaf's key usage excludes what is asked "
        "for: client authentication, or server authentication for the role server.",
        PathReason.NAME: "A name breaks its grammar, is missing, or lies outside of a name constraint.",
        PathReason.REVOKED: "A revocation list names it.",
        PathReason.STALE_CRL: "Whether it is revoked cannot be told: the list is missing, out of date or not to be "
        "used.",
        PathReason.MALFORMED: "Not X.509 version 3 in DER, or a field that cannot be read or has a form that is not "
        "allowed.",
        PathReason.ROLE: "The issuing CA, the SPIFFE ID and the role asked for do not agree.",
        PathReason.PROFILE: "A rule of structure: basic constraints, path length, key usage, key identifiers, an "
        "unknown critical extension, policies; under `rhttp` all that the role's profile says.",
        PathReason.ALGORITHM: "A key or a signature of a kind or size that is not accepted.",
    }
)
"""What each reason means, for the reference."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One rule that a template or certificate breaks.

    `rule` is a stable slug, `where` the field, `message` a clause for people, `reason` what `verify_peer` answers
    when a certificate breaks it.
    """

    rule: str
    where: str
    message: str
    rfc: str = ""
    reason: PathReason = PathReason.PROFILE

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" + (f" ({self.rfc})" if self.rfc else "")


class PkiError(Exception):
    """The root of this package's errors."""


class NameInvalid(PkiError):
    """A text is no name of the kind that was asked for."""


class ProfileViolation(PkiError):
    """A template or certificate that lint does not pass; carries every finding."""

    def __init__(self, findings: tuple[Finding, ...]) -> None:
        super().__init__("; ".join(str(finding) for finding in findings))
        self.findings = findings


class CertificateInvalid(PkiError):
    """A path that is refused: `reason` is stable, `detail` is for the log only."""

    def __init__(self, reason: PathReason, detail: str = "") -> None:
        super().__init__(f"{reason.value}: {detail}" if detail else reason.value)
        self.reason = reason
        self.detail = detail


class AuthorityEnding(PkiError):
    """A CA has too little time left, or none yet, to issue what was asked for."""


class RequestInvalid(PkiError):
    """A signing request is not one to be signed."""


class InputUnreadable(PkiError):
    """A file or text holds nothing of the kind that was asked for, or is damaged."""


class StoreError(PkiError):
    """What is kept does not fit what is asked of it."""


class KeyUnavailable(PkiError):
    """A sealed key does not open: the passphrase is wrong, or the envelope was changed."""
