"""Certification paths as RFC 5280 §6 has them: building them under a budget, and validating one.

Stricter than §6.1 where the profile of §4 leaves no doubt and suites of hostile paths probe it: encodings of the outer
fields, criticality, subject and authority key identifiers, and the checks of a CA also apply to the trust anchor, but
that an anchor needs no key identifiers: it was chosen, not found. The leaf is never a CA. Not looked at: a reference
name (who the peer should be), OCSP, distribution points on the network.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from pki.constraints import ComparisonBudget, NameConstraintState, normal_name
from pki.encoding import encoding_faults
from pki.errors import CertificateInvalid, PathReason
from pki.extensions import NO_REV_AVAIL, UNREADABLE, find
from pki.generalnames import is_well_formed
from pki.policies import PolicyState
from pki.signatures import PureKey, certificate_key, is_signed_by, is_strong_key, is_strong_signature

__all__ = ["Path", "check_time", "find_path", "validate_path"]

Path = tuple[x509.Certificate, ...]
"""Leaf first, trust anchor last."""

MAX_PATH = 12
"""Certificates in one path, anchor included (OpenSSL allows 100, Go 100, most browsers about 8 to 10)."""
MAX_SIGNATURES = 256
"""Signature checks for one leaf (Go spends at most 100 on one chain)."""
MAX_STEPS = 4096
"""Certificates tried while building, whatever came of it."""

# What is processed, and whether it must be critical (True), must not (False) or may. Unlisted and critical: refused.
_CRITICALITY: Mapping[x509.ObjectIdentifier, bool | None] = {
    ExtensionOID.KEY_USAGE: None,
    ExtensionOID.EXTENDED_KEY_USAGE: None,
    ExtensionOID.SUBJECT_ALTERNATIVE_NAME: None,
    ExtensionOID.BASIC_CONSTRAINTS: None,
    ExtensionOID.CERTIFICATE_POLICIES: None,
    ExtensionOID.POLICY_MAPPINGS: None,
    ExtensionOID.NAME_CONSTRAINTS: True,
    ExtensionOID.POLICY_CONSTRAINTS: True,
    ExtensionOID.INHIBIT_ANY_POLICY: True,
    ExtensionOID.AUTHORITY_KEY_IDENTIFIER: False,
    ExtensionOID.SUBJECT_KEY_IDENTIFIER: False,
    ExtensionOID.AUTHORITY_INFORMATION_ACCESS: False,
    ExtensionOID.SUBJECT_INFORMATION_ACCESS: False,
    NO_REV_AVAIL.oid: False,
}


def find_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    *,
    purpose: x509.ObjectIdentifier,
    at: datetime,
) -> Path:
    """The first valid path from the leaf to an anchor, whatever order the intermediates came in.

    Raises:
        CertificateInvalid: no path, or none that validates: the reason of the first one that was complete.
    """
    first: CertificateInvalid | None = None
    budget, comparisons = _Budget(), ComparisonBudget()
    for path in _paths(leaf, intermediates, anchors, budget):
        try:
            validate_path(path, purpose=purpose, at=at, comparisons=comparisons)
        except CertificateInvalid as error:
            first = first or error
        else:
            return path
    if first is None:
        # Without a path the leaf's own faults are the better answer.
        _check_certificate(leaf, is_anchor=False)
        if budget.met_weakness:
            raise CertificateInvalid(PathReason.ALGORITHM, "the path needs a key or signature that is not accepted")
        raise CertificateInvalid(PathReason.UNTRUSTED, "no path of good signatures leads to a trust anchor")
    raise first


def validate_path(
    path: Path, *, purpose: x509.ObjectIdentifier, at: datetime, comparisons: ComparisonBudget | None = None
) -> None:
    """RFC 5280 §6.1 over one path whose signatures and names chain (as `find_path` builds it); `CertificateInvalid`.

    1. encoding, algorithms and extensions of every certificate, 2. times, 3. what a CA must be, with path lengths,
    4. name constraints, 5. policies, 6. purpose.
    """
    if at.tzinfo is None:
        raise ValueError("a time without a zone says nothing")
    at = at.replace(microsecond=0)
    names, policies = NameConstraintState(comparisons), PolicyState(len(path) - 1)
    below: int | None = None  # max_path_length of §6.1.2 (k), None while nothing constrains it
    for index, certificate in reversed(tuple(enumerate(path))):
        is_anchor, is_last = index == len(path) - 1, index == 0
        is_self_issued = normal_name(certificate.subject) == normal_name(certificate.issuer)
        _check_certificate(certificate, is_anchor=is_anchor)  # 1
        check_time(certificate, at)  # 2
        if not is_anchor and (is_last or not is_self_issued):  # 4: §6.1.3 (b), (c)
            names.check(certificate, is_server=is_last and purpose == ExtendedKeyUsageOID.SERVER_AUTH)
        if not is_last:
            below = _check_ca(certificate, below, is_anchor=is_anchor, is_self_issued=is_self_issued)  # 3
            constraints = find(certificate.extensions, x509.NameConstraints)
            if constraints is not None:
                names.constrain(constraints)
        if is_anchor:  # 5
            policies.begin(certificate)
        else:
            policies.feed(certificate, is_self_issued=is_self_issued, is_last=is_last)
        if is_last:
            _check_leaf(certificate, purpose)
        _check_purpose(certificate, purpose, is_last=is_last)  # 6


def check_time(certificate: x509.Certificate, at: datetime) -> None:
    """§4.1.2.5: notBefore through notAfter, both inclusive; `at` is aware and in whole seconds."""
    if at < certificate.not_valid_before_utc:
        raise CertificateInvalid(PathReason.NOT_YET_VALID, f"not before {certificate.not_valid_before_utc.isoformat()}")
    if at > certificate.not_valid_after_utc:
        raise CertificateInvalid(PathReason.EXPIRED, f"not after {certificate.not_valid_after_utc.isoformat()}")


def _check_certificate(certificate: x509.Certificate, *, is_anchor: bool) -> None:
    for _, field, message, clause in encoding_faults(certificate, is_anchor=is_anchor, may_have_unique_ids=True):
        raise CertificateInvalid(PathReason.MALFORMED, f"{field}: {message}" + (f" ({clause})" if clause else ""))
    rules = (
        (bool(certificate.issuer.rdns), PathReason.MALFORMED, "an empty issuer"),
        (is_strong_key(certificate_key(certificate)), PathReason.ALGORITHM, "a key that is not accepted"),
        (is_anchor or is_strong_signature(certificate), PathReason.ALGORITHM, "a signature that is not accepted"),
    )
    for holds, reason, detail in rules:
        if not holds:
            raise CertificateInvalid(reason, detail)
    _check_extensions(certificate, certificate.extensions, is_anchor=is_anchor)
    if not is_anchor:
        _check_names(certificate)


def _check_names(certificate: x509.Certificate) -> None:
    """§4.2.1.6: at least one alternative name, each of its form; and no NUL, before which C programs stop to read."""
    alternatives = find(certificate.extensions, x509.SubjectAlternativeName)
    if alternatives is not None and not (list(alternatives) and all(map(is_well_formed, alternatives))):
        raise CertificateInvalid(PathReason.NAME, "a subject alternative name that breaks its grammar (§4.2.1.6)")
    if any("\0" in item.value for item in certificate.subject if isinstance(item.value, str)):
        raise CertificateInvalid(PathReason.NAME, "a NUL in the subject")


def _check_extensions(certificate: x509.Certificate, extensions: x509.Extensions, *, is_anchor: bool) -> None:
    for extension in extensions:
        must = _CRITICALITY.get(extension.oid, False)
        if (
            must is not None
            and extension.critical is not must
            and (extension.critical or extension.oid in _CRITICALITY)
        ):
            raise CertificateInvalid(PathReason.PROFILE, f"criticality of {extension.oid.dotted_string}")
    basic = find(certificate.extensions, x509.BasicConstraints)
    usage = find(certificate.extensions, x509.KeyUsage)
    authority = find(certificate.extensions, x509.AuthorityKeyIdentifier)
    is_ca = basic is not None and basic.ca
    alternative = next((e for e in extensions if e.oid == ExtensionOID.SUBJECT_ALTERNATIVE_NAME), None)
    is_named = bool(certificate.subject.rdns) or (not is_ca and alternative is not None and alternative.critical)
    own = find(certificate.extensions, x509.SubjectKeyIdentifier)
    is_self_issued_anchor = is_anchor and normal_name(certificate.subject) == normal_name(certificate.issuer)
    rules = (
        (is_ca or usage is None or not usage.key_cert_sign, "keyCertSign without being a CA (§4.2.1.9)"),
        (is_ca or basic is None or basic.path_length is None, "a path length without being a CA (§4.2.1.9)"),
        (
            is_ca or find(certificate.extensions, x509.NameConstraints) is None,
            "name constraints outside of a CA (§4.2.1.10)",
        ),
        (not is_ca or all(e.oid != NO_REV_AVAIL.oid for e in extensions), "noRevAvail in a CA (RFC 9608 §2)"),
        (not is_ca or is_anchor or (own is not None and own.digest), "a CA without subject key identifier (§4.2.1.2)"),
        (
            is_anchor or (authority is not None and authority.key_identifier),
            "no authority key identifier (§4.2.1.1)",
        ),
        (
            authority is None or authority.key_identifier is not None or authority.authority_cert_issuer is not None,
            "an authority key identifier without content (§4.2.1.1)",
        ),
        (
            not is_self_issued_anchor
            or authority is None
            or own is None
            or authority.key_identifier in (own.digest, None),
            "a self-issued anchor that names another key (§4.2.1.1)",
        ),
        (
            usage is None or _is_sensible(usage, certificate_key(certificate)),
            "key usage (§4.2.1.3, RFC 8410, RFC 9881)",
        ),
        (is_named, "an empty subject, and no critical subject alternative name (§4.1.2.6)"),
    )
    for holds, detail in rules:
        if not holds:
            raise CertificateInvalid(PathReason.PROFILE, detail)


def _is_sensible(usage: x509.KeyUsage, key: object) -> bool:
    """At least one bit is set, and a key that can only sign is not for encrypting or agreeing."""
    other = usage.key_encipherment or usage.data_encipherment or usage.key_agreement
    some = usage.digital_signature or usage.content_commitment or usage.key_cert_sign or usage.crl_sign
    return some and not other if isinstance(key, PureKey) else some or other


def _check_ca(certificate: x509.Certificate, below: int | None, *, is_anchor: bool, is_self_issued: bool) -> int | None:
    """§6.1.4 (k) to (n) for a certificate that issues; answers max_path_length for the next one.

    Basic constraints must be critical in an anchor (§4.2.1.9; an operator chose it). In between, (k) asks for the
    extension alone, and it is processed either way (PKITS 4.6.4).
    """
    try:
        basic = certificate.extensions.get_extension_for_class(x509.BasicConstraints)
    except x509.ExtensionNotFound:
        raise CertificateInvalid(PathReason.PROFILE, "an issuer without basic constraints") from None
    usage = find(certificate.extensions, x509.KeyUsage)
    if not basic.value.ca or (is_anchor and not basic.critical):
        raise CertificateInvalid(
            PathReason.PROFILE, "an issuer that is no CA, or an anchor whose saying so is optional"
        )
    if usage is not None and not usage.key_cert_sign:
        raise CertificateInvalid(PathReason.PROFILE, "an issuer that may not sign certificates")
    if below is not None and not is_anchor and not is_self_issued:
        if below == 0:
            raise CertificateInvalid(PathReason.PROFILE, "the path is longer than a CA in it allows")
        below -= 1
    length = basic.value.path_length
    return length if below is None else below if length is None else min(below, length)


# What a key may do in the handshake for the purpose (§4.2.1.12): one of these is enough.
_HANDSHAKE: Mapping[x509.ObjectIdentifier, tuple[str, ...]] = {
    ExtendedKeyUsageOID.CLIENT_AUTH: ("digital_signature", "key_agreement"),
    ExtendedKeyUsageOID.SERVER_AUTH: ("digital_signature", "key_agreement", "key_encipherment"),
}


def _check_leaf(certificate: x509.Certificate, purpose: x509.ObjectIdentifier) -> None:
    """The last certificate is no CA's, and its key usage, when there is one, is consistent with the purpose."""
    basic = find(certificate.extensions, x509.BasicConstraints)
    if basic is not None and basic.ca:
        raise CertificateInvalid(PathReason.PROFILE, "a CA's certificate is no peer's")
    usage = find(certificate.extensions, x509.KeyUsage)
    if usage is not None and not any(getattr(usage, bit) for bit in _HANDSHAKE.get(purpose, ())):
        raise CertificateInvalid(PathReason.PURPOSE, "key usage excludes what the purpose needs (§4.2.1.12)")


def _check_purpose(certificate: x509.Certificate, purpose: x509.ObjectIdentifier, *, is_last: bool) -> None:
    """§4.2.1.12. An absent extension allows everything. `any` is enough for a CA, not for the leaf: who demands a
    purpose may do so."""
    usage = find(certificate.extensions, x509.ExtendedKeyUsage)
    if usage is None or purpose in usage:
        return
    if is_last or ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE not in usage:
        raise CertificateInvalid(PathReason.PURPOSE, "extended key usage excludes the purpose")


@dataclass(slots=True)
class _Budget:
    signatures: int = MAX_SIGNATURES
    steps: int = MAX_STEPS
    met_weakness: bool = False


def _paths(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    budget: _Budget,
) -> Iterator[Path]:
    """Every path of matching names and good signatures, nearest anchor first, until the budget is spent."""
    by_subject: dict[object, list[tuple[x509.Certificate, bool]]] = {}
    anchored = {_digest(anchor) for anchor in anchors}
    for anchor in anchors:
        by_subject.setdefault(normal_name(anchor.subject), []).append((anchor, True))
    for intermediate in intermediates:
        if _digest(intermediate) not in anchored:
            by_subject.setdefault(normal_name(intermediate.subject), []).append((intermediate, False))
    signed: dict[tuple[bytes, bytes], bool] = {}

    def is_issued(child: x509.Certificate, issuer: x509.Certificate) -> bool:
        pair = (_digest(child), _digest(issuer))
        if pair not in signed:
            if budget.signatures == 0:
                return False
            budget.signatures -= 1
            key = certificate_key(issuer)
            budget.met_weakness |= not (is_strong_key(key) and is_strong_signature(child))
            signed[pair] = is_signed_by(child, key)
        return signed[pair]

    def grow(path: Path) -> Iterator[Path]:
        child = path[-1]
        # An issuer that carries the key identifier which the child names is tried first.
        candidates = sorted(
            by_subject.get(normal_name(child.issuer), ()),
            key=lambda item: (not item[1], not _names_key(child, item[0])),
        )
        for issuer, is_anchor in candidates:
            if budget.steps == 0:
                return
            budget.steps -= 1
            if any(_is_same_entity(issuer, member) for member in path[1:]) or not is_issued(child, issuer):
                continue
            if is_anchor:
                yield (*path, issuer)
            elif len(path) + 2 <= MAX_PATH:
                yield from grow((*path, issuer))

    yield from grow((leaf,))


def _digest(certificate: x509.Certificate) -> bytes:
    return certificate.fingerprint(hashes.SHA256())


def _names_key(child: x509.Certificate, issuer: x509.Certificate) -> bool:
    """Whether the child's authority key identifier is the issuer's subject key identifier: a hint, never a proof."""
    try:
        authority = find(child.extensions, x509.AuthorityKeyIdentifier)
        subject = find(issuer.extensions, x509.SubjectKeyIdentifier)
    except UNREADABLE:
        return False
    return authority is not None and subject is not None and authority.key_identifier == subject.digest


def _is_same_entity(one: x509.Certificate, other: x509.Certificate) -> bool:
    """Same name and key, so that CAs which certify one another cannot lead the builder in circles."""
    if normal_name(one.subject) != normal_name(other.subject):
        return False
    try:
        return one.public_key() == other.public_key()
    except UNREADABLE:
        return True
