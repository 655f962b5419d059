"""Issuing: request -> template -> findings -> signed -> linted again.

Pure: time and entropy are arguments (the randomness of a signature is OpenSSL's). Whether a name may be issued, to
whom, and what is written down about it, is the inventory's and the caller's.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pki.errors import Finding, ProfileViolation, StoreError
from pki.keys import PrivateKey, PublicKey
from pki.lint import lint
from pki.names import Role, SpiffeId
from pki.profiles import CA_PROFILES, LEAF_PROFILES, PROFILES, ProfileName
from pki.signatures import certificate_key, is_signed_by, sign_certificate
from pki.template import (
    CertificateTemplate,
    HostName,
    Pointers,
    build_template,
    ca_subject,
    host_subject,
    peer_subject,
    serial_from,
)

__all__ = [
    "IssuerKey",
    "certificate_pem",
    "issue",
    "issue_ca",
    "issue_leaf",
    "issue_root",
    "serial_from",
    "serial_hex",
    "stamp",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuerKey:
    """A CA certificate with its key. Building one checks that they belong together (`StoreError`)."""

    certificate: x509.Certificate
    key: PrivateKey = field(repr=False)

    def __post_init__(self) -> None:
        if certificate_key(self.certificate) != self.key.public_key():
            raise StoreError("a CA key does not belong to its certificate")


def issue(template: CertificateTemplate, issuer: IssuerKey | PrivateKey) -> x509.Certificate:
    """Sign the template; a bare key signs a root's template.

    Raises:
        ProfileViolation: lint found something before or after signing, or the signature does not verify.
    """
    key, certificate = (issuer.key, issuer.certificate) if isinstance(issuer, IssuerKey) else (issuer, None)
    _refuse(lint(template, template.profile, issuer=certificate))
    builder = (
        x509.CertificateBuilder()
        .subject_name(template.subject)
        .issuer_name(template.issuer)
        .public_key(template.public_key)
        .serial_number(template.serial_number)
        .not_valid_before(template.not_valid_before_utc)
        .not_valid_after(template.not_valid_after_utc)
    )
    for extension in template.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    signed = sign_certificate(builder, key)
    _refuse(lint(signed, template.profile, issuer=certificate))
    if not is_signed_by(signed, template.public_key if certificate is None else certificate_key(certificate)):
        _refuse((Finding(rule="signature", where="signatureValue", message="does not verify"),))
    return signed


def issue_root(*, key: PrivateKey, trust_domain: str, at: datetime, entropy: bytes) -> x509.Certificate:
    """A root over its own key, for 10 years."""
    template = build_template(
        PROFILES[ProfileName.ROOT],
        subject=ca_subject(None, trust_domain),
        public_key=key.public_key(),
        issuer=None,
        at=at,
        entropy=entropy,
    )
    return issue(template, key)


def issue_ca(
    role: Role,
    *,
    root: IssuerKey,
    public_key: PublicKey,
    trust_domain: str,
    at: datetime,
    entropy: bytes,
) -> x509.Certificate:
    """The issuing CA of a role, for 2 years."""
    template = build_template(
        CA_PROFILES[role],
        subject=ca_subject(role, trust_domain),
        public_key=public_key,
        issuer=root.certificate,
        at=at,
        entropy=entropy,
    )
    return issue(template, root)


def issue_leaf(
    owner: SpiffeId | Sequence[HostName],
    *,
    issuer: IssuerKey,
    public_key: PublicKey,
    at: datetime,
    entropy: bytes,
    lifetime: timedelta | None = None,
    pointers: Pointers | None = None,
) -> x509.Certificate:
    """The certificate of a client, worker or master, or of a server with these names (`parse_san`), each once.

    `issuer` must be that role's CA, or `ProfileViolation`.
    """
    names: list[HostName | x509.UniformResourceIdentifier]
    if isinstance(owner, SpiffeId):
        role, subject, names = owner.role, peer_subject(owner), [x509.UniformResourceIdentifier(str(owner))]
    else:
        hosts = list(dict.fromkeys(owner))
        role, subject, names = Role.SERVER, host_subject(hosts), [*hosts]
    _refuse(lint(issuer.certificate, CA_PROFILES[role]))
    template = build_template(
        LEAF_PROFILES[role],
        subject=subject,
        public_key=public_key,
        names=names,
        issuer=issuer.certificate,
        at=at,
        entropy=entropy,
        lifetime=lifetime,
        pointers=pointers,
    )
    return issue(template, issuer)


def serial_hex(serial: int) -> str:
    """Lower-case hex, no colons, an even number of digits: the form of the inventory and of `--serial`."""
    text = f"{serial:x}"
    return text.zfill(len(text) + len(text) % 2)


def stamp(at: datetime) -> str:
    """RFC 3339 in UTC, to the second; `at` is in UTC."""
    return f"{at:%Y-%m-%dT%H:%M:%SZ}"


def certificate_pem(*path: x509.Certificate) -> bytes:
    """PEM blocks in the order given."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in path)


def _refuse(findings: tuple[Finding, ...]) -> None:
    if findings:
        raise ProfileViolation(findings)
