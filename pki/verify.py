"""Verifying what a peer presents: the path of a home (root, role CA, leaf), and any path as RFC 5280 has it.

A peer's certificate is judged twice, by our own steps and by a library's verifier; it passes if both agree.
Not checked: that a name is the one somebody wanted to reach (a server's SANs are matched by TLS), and OCSP.

Trust: untrusted client + untrusted worker.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.errors import CertificateInvalid, Finding, InputUnreadable, PathReason
from pki.extensions import UNREADABLE
from pki.issue import serial_hex
from pki.keys import KeyType, key_type
from pki.lint import lint, reason_of, spiffe_id_of
from pki.names import PEER_ROLES, Role
from pki.path import check_time, find_path
from pki.pem import read_certificates, read_crls
from pki.profiles import LEAF_PROFILES, PROFILES, ProfileName
from pki.revocation import RevocationView, check_revocation
from pki.secondopinion import require_second_opinion
from pki.signatures import certificate_key, is_signed_by
from pki.trust import IssuingCa, TrustStore, lint_authority

__all__ = [
    "CertificateInvalid",
    "PathReason",
    "PeerVerifier",
    "RevocationView",
    "TrustStore",
    "ValidatedPath",
    "VerifiedPeer",
    "verify_file",
    "verify_peer",
]

MAX_PRESENTED = 8
"""Certificates that a peer may present; three are used."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VerifiedPeer:
    """The proof that a path verified for a role: only `verify_peer` and `verify_file` (rhttp) build one.

    Holds no certificate, as one lives with every connection. `not_before` and `expires` are the window in which the
    whole path is valid, in epoch seconds. `issuer` is the SHA-256 of the issuing CA, whose leaving the store ends what
    rests on the path. A server's `name` is its common name. `key_type` is that of the leaf's own key.
    """

    role: Role
    name: str
    pool: str | None
    serial: int
    serial_hex: str
    fingerprint: bytes
    issuer: bytes
    not_before: float
    expires: float
    key_type: KeyType


@dataclass(frozen=True, slots=True, kw_only=True)
class ValidatedPath:
    """What `verify_file` answers under `rfc5280`: a valid path, but no identity; not a proof of a role."""

    subject: str
    serial_hex: str
    fingerprint: bytes
    not_before: float
    expires: float
    length: int


def verify_peer(
    path: Sequence[x509.Certificate],
    *,
    trust: TrustStore,
    roles: frozenset[Role],
    at: datetime,
    revocation: RevocationView,
) -> VerifiedPeer:
    """The identity that a presented path proves. `path` has the leaf first, the rest in any order; the role CA and the
    root may be absent, and nothing else may be present.

    1. the company: nothing but the store's own certificates beside the leaf;
    2. the issuing CA, by name and signature, and with it the role;
    3. the role is one that is asked for;
    4. times of leaf, CA and root;
    5. the leaf is exactly what its role's profile says, its SPIFFE ID included;
    6. the library's verifier agrees;
    7. not revoked (the leaf; a CA is taken back by leaving the store).

    Raises:
        CertificateInvalid: any step said no; the first one gives the reason.
        ValueError: `at` is naive, or `roles` is empty: a caller's mistake.
    """
    if at.tzinfo is None or not roles:
        raise ValueError("an aware time and at least one role are needed")
    leaf = _check_company(path, trust)  # 1
    issuing = trust.issuer_of(leaf)  # 2
    if issuing is None:
        raise CertificateInvalid(PathReason.UNTRUSTED, "signed by none of this home's issuing CAs")
    if issuing.role not in roles:  # 3
        raise CertificateInvalid(PathReason.ROLE, f"a {issuing.role.value}'s certificate")
    peer = _verify_under(leaf, issuing, at=at, trust_domain=trust.trust_domain)  # 4, 5, 6
    if revocation.is_revoked(peer.serial):  # 7
        raise CertificateInvalid(PathReason.REVOKED, f"serial {peer.serial_hex}")
    return peer


class PeerVerifier:
    """`verify_peer` for clients, workers and masters with a memory: a signature is checked once a certificate.

    The memory is keyed by the leaf's SHA-256 and bounded; the oldest entry goes first. The time window, revocation and
    the rest of the path are looked at on every call. Not thread-safe. A changed store needs a new object.
    """

    __slots__ = ("_known", "_max_cached", "_trust")

    def __init__(self, trust: TrustStore, max_cached: int = 16384) -> None:
        self._trust = trust
        self._max_cached = max_cached
        self._known: dict[bytes, VerifiedPeer] = {}

    def verify(self, path: Sequence[x509.Certificate], *, at: datetime, revocation: RevocationView) -> VerifiedPeer:
        """As `verify_peer`; raises nothing but `CertificateInvalid`, whatever comes in: it runs in a TLS callback."""
        try:
            return self._verify(path, at, revocation)
        except CertificateInvalid:
            raise
        except Exception as error:
            # An exception that leaves a TLS callback surfaces elsewhere or nowhere; an unforeseen one is a refusal.
            raise CertificateInvalid(PathReason.MALFORMED, f"verification failed: {type(error).__name__}") from error

    def recall(self, fingerprints: Sequence[bytes], *, at: float, revocation: RevocationView) -> VerifiedPeer | None:
        """What `verify` would answer at this epoch second, for a path given by the SHA-256 of its certificates.

        None: only `verify` can tell. The leaf is not remembered, or something keeps it from being accepted.
        """
        peer = self._known.get(fingerprints[0]) if 1 <= len(fingerprints) <= MAX_PRESENTED else None
        if (
            peer is None
            or not peer.not_before <= int(at) <= peer.expires
            or not self._trust.knows_fingerprints(fingerprints[1:])
            or revocation.is_revoked(peer.serial)
        ):
            return None
        return peer

    def _verify(self, path: Sequence[x509.Certificate], at: datetime, revocation: RevocationView) -> VerifiedPeer:
        if at.tzinfo is None:
            raise ValueError("an aware time is needed")
        if not path:
            raise CertificateInvalid(PathReason.PROFILE, "no certificate")
        leaf = path[0]
        fingerprint = leaf.fingerprint(hashes.SHA256())
        peer = self._known.get(fingerprint)
        if peer is None or not peer.not_before <= int(at.timestamp()) <= peer.expires:
            self._known.pop(fingerprint, None)
            _check_company(path, self._trust)
            peer = verify_peer((leaf,), trust=self._trust, roles=PEER_ROLES, at=at, revocation=revocation)
            while len(self._known) >= self._max_cached > 0:
                del self._known[next(iter(self._known))]
            if self._max_cached > 0:
                self._known[fingerprint] = peer
            return peer
        _check_others(path, self._trust)  # the leaf itself passed before
        if revocation.is_revoked(peer.serial):
            raise CertificateInvalid(PathReason.REVOKED, f"serial {peer.serial_hex}")
        return peer


def verify_file(
    chain_pem: bytes,
    trust_pem: bytes,
    *,
    role: Role,
    at: datetime,
    profile: Literal["rhttp", "rfc5280"] = "rhttp",
    crls_pem: bytes | None = None,
) -> VerifiedPeer | ValidatedPath:
    """The gateway's judgement on files: CHAIN holds the leaf, then other certificates in any order; every certificate
    in TRUST is an anchor for the role, be it a root or an issuing CA.

    `rfc5280`: path, purpose (clientAuth; serverAuth for the server role), times, algorithms. `rhttp`: all that
    `verify_peer` checks. With CRLs, the leaf (and under `rfc5280` each CA below the anchor) needs one that decides.

    Raises:
        CertificateInvalid: refused, with the reason.
        InputUnreadable: a file holds no PEM of the kind asked for, or TRUST something that is no certificate.
    """
    if at.tzinfo is None:
        raise ValueError("an aware time is needed")
    with warnings.catch_warnings():
        # The library warns about encodings that it will refuse one day; the steps below refuse them now.
        warnings.simplefilter("ignore")
        anchors = _anchors(trust_pem)
        leaf, *others = read_certificates(chain_pem, what="certificate file")
        crls = None if crls_pem is None else read_crls(crls_pem)
        if profile == "rfc5280":
            server = role is Role.SERVER
            purpose = ExtendedKeyUsageOID.SERVER_AUTH if server else ExtendedKeyUsageOID.CLIENT_AUTH
            path = find_path(leaf, others, anchors, purpose=purpose, at=at)
            answer: VerifiedPeer | ValidatedPath = _validated(path)
        else:
            issuing = _issuing_of(leaf, others, anchors, role)
            path = (leaf, *issuing.above)
            answer = _verify_under(leaf, issuing, at=at, trust_domain=None)
        if crls is not None:
            check_revocation(path, crls, at=at, every=profile == "rfc5280")
        return answer


def _anchors(trust_pem: bytes) -> list[x509.Certificate]:
    try:
        return read_certificates(trust_pem, what="trust file")
    except CertificateInvalid as error:
        # It says nothing about the certificate that is asked about.
        raise InputUnreadable(error.detail) from None


def _check_others(path: Sequence[x509.Certificate], trust: TrustStore) -> None:
    if not 1 <= len(path) <= MAX_PRESENTED:
        raise CertificateInvalid(PathReason.PROFILE, f"not 1 to {MAX_PRESENTED} certificates")
    if not all(trust.knows(other) for other in path[1:]):
        raise CertificateInvalid(PathReason.PROFILE, "a path of other than leaf, role CA and root")


def _check_company(path: Sequence[x509.Certificate], trust: TrustStore) -> x509.Certificate:
    if not 1 <= len(path) <= MAX_PRESENTED:
        raise CertificateInvalid(PathReason.PROFILE, f"not 1 to {MAX_PRESENTED} certificates")
    leaf = path[0]
    try:
        _ = leaf.subject, leaf.issuer
    except UNREADABLE as error:
        raise CertificateInvalid(PathReason.MALFORMED, str(error)) from None
    if trust.knows(leaf):
        raise CertificateInvalid(PathReason.PROFILE, "a CA's certificate is no peer's")
    _check_others(path, trust)
    return leaf


def _verify_under(
    leaf: x509.Certificate, issuing: IssuingCa, *, at: datetime, trust_domain: str | None
) -> VerifiedPeer:
    """Steps 4 to 6; the leaf's signature under the issuing CA has been checked."""
    at = at.replace(microsecond=0)
    path = (leaf, *issuing.above)
    for certificate in path:  # 4
        check_time(certificate, at)
    _refuse(lint(leaf, LEAF_PROFILES[issuing.role], issuer=issuing.certificate))  # 5
    name, pool = _identity(leaf, issuing.role, trust_domain)
    kind = key_type(leaf.public_key())
    if kind is None:  # lint has looked, and at how the key is written
        raise CertificateInvalid(PathReason.ALGORITHM, "a key that is not accepted")
    require_second_opinion(leaf, issuing, at)  # 6
    not_before, expires = _window(path)
    return VerifiedPeer(
        role=issuing.role,
        name=name,
        pool=pool,
        serial=leaf.serial_number,
        serial_hex=serial_hex(leaf.serial_number),
        fingerprint=leaf.fingerprint(hashes.SHA256()),
        issuer=issuing.fingerprint,
        not_before=not_before,
        expires=expires,
        key_type=kind,
    )


def _identity(leaf: x509.Certificate, role: Role, trust_domain: str | None) -> tuple[str, str | None]:
    """Name and pool of a leaf that lint passed."""
    if role is Role.SERVER:
        return str(leaf.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value), None
    identity = spiffe_id_of(leaf)
    if trust_domain is not None and identity.trust_domain != trust_domain:
        raise CertificateInvalid(PathReason.NAME, "a SPIFFE ID of another trust domain")
    return identity.name, identity.pool


def _window(path: Sequence[x509.Certificate]) -> tuple[float, float]:
    return (
        max(certificate.not_valid_before_utc for certificate in path).timestamp(),
        min(certificate.not_valid_after_utc for certificate in path).timestamp(),
    )


def _refuse(findings: tuple[Finding, ...]) -> None:
    if findings:
        raise CertificateInvalid(reason_of(findings), "; ".join(map(str, findings)))


def _issuing_of(
    leaf: x509.Certificate, others: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate], role: Role
) -> IssuingCa:
    """The issuing CA among anchors and presented certificates, checked for the role; the root is an anchor."""
    refusal = CertificateInvalid(PathReason.UNTRUSTED, "no path of root, role CA and leaf leads to a trust anchor")
    for certificate in (*anchors, *others[:MAX_PRESENTED]):
        key = certificate_key(certificate)
        if certificate.subject != leaf.issuer or not is_signed_by(leaf, key):
            continue
        roots = [None] if certificate in anchors else _issuers(certificate, anchors)
        for root in roots:
            findings = lint_authority(role, certificate, root)
            if not findings:
                return IssuingCa(role=role, certificate=certificate, root=root, key=key)
            refusal = CertificateInvalid(reason_of(findings), "issuing CA: " + "; ".join(map(str, findings)))
            if not lint(certificate, PROFILES[ProfileName.ROOT]):
                refusal = CertificateInvalid(PathReason.PROFILE, "signed by a root, which signs issuing CAs only")
    raise refusal


def _issuers(certificate: x509.Certificate, anchors: Sequence[x509.Certificate]) -> list[x509.Certificate | None]:
    return [
        anchor
        for anchor in anchors
        if anchor.subject == certificate.issuer and is_signed_by(certificate, certificate_key(anchor))
    ]


def _validated(path: Sequence[x509.Certificate]) -> ValidatedPath:
    leaf = path[0]
    not_before, expires = _window(path)
    return ValidatedPath(
        subject=leaf.subject.rfc4514_string(),
        serial_hex=serial_hex(leaf.serial_number),
        fingerprint=leaf.fingerprint(hashes.SHA256()),
        not_before=not_before,
        expires=expires,
        length=len(path),
    )
