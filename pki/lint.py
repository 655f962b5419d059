"""Lint: whether a template or certificate is exactly what its profile says. All findings at once, none is a warning.

The same rules run before a key signs, after it signed, and on what a peer presents (`verify`); so a laxity of a library
or a bug of ours on one side is caught by the other. Signatures and times are not looked at here.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator

from cryptography import x509
from cryptography.x509.oid import ExtensionOID

from pki.encoding import encoding_faults
from pki.errors import Finding, NameInvalid, PathReason
from pki.extensions import NO_REV_AVAIL, UNREADABLE, find, points_to_revocation
from pki.keys import key_type
from pki.names import SpiffeId, parse_dns_name, parse_spiffe_id
from pki.profiles import ALL_HOSTS, CLOCK_CUSHION, LIST_LIFETIME, USAGE_BITS, Profile, SanKind
from pki.signatures import certificate_key, is_strong_signature
from pki.template import CertificateTemplate, host_subject, peer_subject

__all__ = ["Finding", "lint", "reason_of", "spiffe_id_of"]

_CRITICAL = frozenset({ExtensionOID.BASIC_CONSTRAINTS, ExtensionOID.KEY_USAGE, ExtensionOID.NAME_CONSTRAINTS})
# Pointers to revocation data bind nobody; they may stand in any certificate but a root.
_POINTERS = frozenset({ExtensionOID.CRL_DISTRIBUTION_POINTS, ExtensionOID.AUTHORITY_INFORMATION_ACCESS})
_MAX_HOSTS = 100


def lint(
    subject: CertificateTemplate | x509.Certificate, profile: Profile, *, issuer: x509.Certificate | None = None
) -> tuple[Finding, ...]:
    """Every rule of the profile that the certificate or template breaks.

    With `issuer`, also what the two must agree on. A certificate that cannot be read at all is one finding.
    """
    try:
        return tuple(_findings(subject, profile, issuer))
    except UNREADABLE as error:
        return (Finding(rule="malformed", where="certificate", message=str(error), reason=PathReason.MALFORMED),)


def reason_of(findings: tuple[Finding, ...]) -> PathReason:
    """The most telling reason among findings (at least one): what cannot be read or trusted first, form last."""
    reasons = {finding.reason for finding in findings}
    return next(reason for reason in _TELLING if reason in reasons)


_TELLING = (
    PathReason.MALFORMED,
    PathReason.ALGORITHM,
    PathReason.UNTRUSTED,
    PathReason.ROLE,
    PathReason.PURPOSE,
    PathReason.NAME,
    PathReason.PROFILE,
)


def spiffe_id_of(certificate: x509.Certificate | CertificateTemplate) -> SpiffeId:
    """The single SPIFFE ID in the subject alternative name; `NameInvalid` when there is anything else in it."""
    names = list(find(certificate.extensions, x509.SubjectAlternativeName) or ())
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        raise NameInvalid("not exactly one URI")
    return parse_spiffe_id(names[0].value)


def _findings(
    subject: CertificateTemplate | x509.Certificate, profile: Profile, issuer: x509.Certificate | None
) -> Iterator[Finding]:
    if isinstance(subject, x509.Certificate):
        yield from _encoding(subject)
    yield from _key(subject, profile)
    yield from _validity(subject, profile)
    yield from _extension_set(subject, profile)
    yield from _authority(subject, profile)
    yield from _purpose(subject, profile)
    yield from _revocation(subject)
    yield from _identifiers(subject, profile, issuer)
    yield from _names(subject, profile)
    if issuer is not None:
        yield from _under(subject, issuer)


def _encoding(certificate: x509.Certificate) -> Iterator[Finding]:
    for rule, where, message, rfc in encoding_faults(certificate):
        yield _malformed(rule, where, message, rfc)
    if not is_strong_signature(certificate):
        yield Finding(
            rule="signature-algorithm",
            where="signatureAlgorithm",
            message="not accepted",
            reason=PathReason.ALGORITHM,
        )


def _key(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    key = certificate_key(subject) if isinstance(subject, x509.Certificate) else subject.public_key
    if key_type(key) not in profile.keys:
        allowed = ", ".join(sorted(kind.value for kind in profile.keys))
        yield Finding(rule="key", where="publicKey", message=f"none of {allowed}", reason=PathReason.ALGORITHM)
    if not isinstance(subject, x509.Certificate) and not 0 < subject.serial_number < 1 << 159:
        yield _malformed("serial", "serialNumber", "not positive or over 159 bits", "RFC 5280 §4.1.2.2")


def _validity(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    begin, end = subject.not_valid_before_utc, subject.not_valid_after_utc
    if end <= begin:
        yield _profile("validity", "validity", "ends before it begins")
    if end - begin > profile.max_lifetime + CLOCK_CUSHION:
        yield _profile("lifetime", "validity", f"over {profile.max_lifetime.days} days")


def _extension_set(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    wanted = {
        ExtensionOID.BASIC_CONSTRAINTS,
        ExtensionOID.KEY_USAGE,
        ExtensionOID.SUBJECT_KEY_IDENTIFIER,
        ExtensionOID.AUTHORITY_KEY_IDENTIFIER,
    }
    if profile.purposes:
        wanted.add(ExtensionOID.EXTENDED_KEY_USAGE)
    if profile.san is not SanKind.ABSENT:
        wanted.add(ExtensionOID.SUBJECT_ALTERNATIVE_NAME)
    if profile.no_hosts:
        wanted.add(ExtensionOID.NAME_CONSTRAINTS)
    present = {extension.oid: extension.critical for extension in subject.extensions}
    for oid in sorted(wanted - present.keys(), key=str):
        reason = _REASONS.get(oid, PathReason.PROFILE)
        yield Finding(rule="extension-missing", where=_label(oid), message="is missing", reason=reason)
    for oid, critical in present.items():
        is_allowed = (oid in _POINTERS and profile.role is not None) or (oid == NO_REV_AVAIL.oid and not profile.is_ca)
        if oid not in wanted and not is_allowed:
            yield _profile("extension-unexpected", _label(oid), "has no place in this profile")
        elif critical != (oid in _CRITICAL):
            yield _profile("criticality", _label(oid), "must not be critical" if critical else "must be critical")


_REASONS = {
    ExtensionOID.EXTENDED_KEY_USAGE: PathReason.PURPOSE,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: PathReason.NAME,
}


def _authority(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    basic = find(subject.extensions, x509.BasicConstraints)
    if basic is not None and (basic.ca, basic.path_length) != (profile.is_ca, profile.path_length):
        yield _profile("basic-constraints", "basicConstraints", "not those of the profile", "RFC 5280 §4.2.1.9")
    usage = find(subject.extensions, x509.KeyUsage)
    if usage is not None and {bit for bit in USAGE_BITS if getattr(usage, bit)} != profile.usages:
        yield _profile("key-usage", "keyUsage", "not exactly that of the profile", "RFC 5280 §4.2.1.3")
    constraints = find(subject.extensions, x509.NameConstraints)
    if constraints is not None and (
        constraints.permitted_subtrees or set(constraints.excluded_subtrees or ()) != set(ALL_HOSTS)
    ):
        yield _profile("name-constraints", "nameConstraints", "do not exclude exactly all hosts", "RFC 5280 §4.2.1.10")


def _purpose(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    usage = find(subject.extensions, x509.ExtendedKeyUsage)
    if usage is not None and tuple(usage) != profile.purposes:
        yield Finding(
            rule="extended-key-usage",
            where="extendedKeyUsage",
            message="not exactly that of the profile",
            rfc="RFC 5280 §4.2.1.12",
            reason=PathReason.PURPOSE,
        )


def _revocation(subject: CertificateTemplate | x509.Certificate) -> Iterator[Finding]:
    """noRevAvail is for what ends before a list does, and for what says nowhere where to ask."""
    found = next((extension.value for extension in subject.extensions if extension.oid == NO_REV_AVAIL.oid), None)
    if found is None:
        return
    if found != NO_REV_AVAIL:
        yield _malformed("no-rev-avail", "noRevAvail", "is not NULL", "RFC 9608 §2")
    if subject.not_valid_after_utc - subject.not_valid_before_utc > LIST_LIFETIME + CLOCK_CUSHION:
        yield _profile("no-rev-avail", "noRevAvail", "in a certificate that outlives a revocation list")
    if points_to_revocation(subject.extensions):
        yield _profile("no-rev-avail", "noRevAvail", "beside a place to ask about revocation", "RFC 9608 §3")


def _identifiers(
    subject: CertificateTemplate | x509.Certificate, profile: Profile, issuer: x509.Certificate | None
) -> Iterator[Finding]:
    own = find(subject.extensions, x509.SubjectKeyIdentifier)
    above = find(subject.extensions, x509.AuthorityKeyIdentifier)
    if above is not None and (above.key_identifier is None or above.authority_cert_issuer is not None):
        yield _profile("authority-key", "authorityKeyIdentifier", "is not a key identifier", "RFC 5280 §4.2.1.1")
        return
    over = None if issuer is None else find(issuer.extensions, x509.SubjectKeyIdentifier)
    expected = own if profile.role is None else over
    if above is not None and expected is not None and above.key_identifier != expected.digest:
        yield _profile("authority-key", "authorityKeyIdentifier", "names another key", "RFC 5280 §4.2.1.1")


def _names(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    if not subject.subject.rdns or not subject.issuer.rdns:
        yield _name("empty-name", "subject, issuer", "must not be empty", "RFC 5280 §4.1.2.4")
    if profile.role is None and subject.subject != subject.issuer:
        yield _name("self-signed", "issuer", "a root is its own issuer")
    san = find(subject.extensions, x509.SubjectAlternativeName)
    if san is not None and profile.san is SanKind.SPIFFE:
        yield from _spiffe(subject, profile)
    if san is not None and profile.san is SanKind.HOSTS:
        yield from _hosts(subject, list(san))


def _spiffe(subject: CertificateTemplate | x509.Certificate, profile: Profile) -> Iterator[Finding]:
    try:
        identity = spiffe_id_of(subject)
    except NameInvalid as error:
        yield _name("spiffe-id", "subjectAltName", str(error), "SPIFFE X509-SVID §2")
        return
    if identity.role is not profile.role:
        yield Finding(
            rule="role",
            where="subjectAltName",
            message=f"names a {identity.role.value}, and the issuing CA makes others",
            reason=PathReason.ROLE,
        )
    if subject.subject != peer_subject(identity):
        yield _name("subject", "subject", "is not CN=name")


def _hosts(subject: CertificateTemplate | x509.Certificate, names: list[x509.GeneralName]) -> Iterator[Finding]:
    if not 1 <= len(names) <= _MAX_HOSTS:
        yield _name("hosts", "subjectAltName", f"not 1 to {_MAX_HOSTS} names")
    for name in names:
        if not _is_host(name):
            yield _name("hosts", "subjectAltName", "holds what is no DNS name or IP address", "RFC 9525 §6.3")
    hosts = [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]
    if subject.subject != host_subject(hosts):
        yield _name("subject", "subject", "is not CN=first name")


def _is_host(name: x509.GeneralName) -> bool:
    if isinstance(name, x509.IPAddress):
        return isinstance(name.value, ipaddress.IPv4Address | ipaddress.IPv6Address)
    if not isinstance(name, x509.DNSName):
        return False
    try:
        return parse_dns_name(name.value) == name.value
    except NameInvalid:
        return False


def _under(subject: CertificateTemplate | x509.Certificate, issuer: x509.Certificate) -> Iterator[Finding]:
    if subject.issuer != issuer.subject:
        yield _name("issuer", "issuer", "is not the issuer's subject", "RFC 5280 §4.1.2.4")
    if subject.not_valid_after_utc > issuer.not_valid_after_utc:
        yield _profile("outlives-issuer", "validity", "ends after the issuer's")
    if subject.not_valid_before_utc < issuer.not_valid_before_utc:
        yield _profile("predates-issuer", "validity", "begins before the issuer's")


def _label(oid: x509.ObjectIdentifier) -> str:
    return f"extension {oid.dotted_string}"


def _malformed(rule: str, where: str, message: str, rfc: str = "") -> Finding:
    return Finding(rule=rule, where=where, message=message, rfc=rfc, reason=PathReason.MALFORMED)


def _profile(rule: str, where: str, message: str, rfc: str = "") -> Finding:
    return Finding(rule=rule, where=where, message=message, rfc=rfc)


def _name(rule: str, where: str, message: str, rfc: str = "") -> Finding:
    return Finding(rule=rule, where=where, message=message, rfc=rfc, reason=PathReason.NAME)
