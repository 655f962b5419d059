"""Trust stores: the root and the issuing CAs of a home, each with the role that it stands for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from cryptography import x509
from cryptography.hazmat.primitives import hashes

from pki.errors import CertificateInvalid, Finding, InputUnreadable, PathReason, StoreError
from pki.lint import lint
from pki.names import Role
from pki.pem import read_certificates
from pki.profiles import CA_PROFILES, PROFILES, ProfileName
from pki.signatures import certificate_key, is_signed_by

__all__ = ["IssuingCa", "TrustStore", "lint_authority"]


@dataclass(frozen=True, slots=True, kw_only=True)
class IssuingCa:
    """A role's CA; `root` is None when the CA itself is the anchor."""

    role: Role
    certificate: x509.Certificate
    root: x509.Certificate | None
    key: object = field(repr=False)
    fingerprint: bytes = field(init=False, repr=False)
    """SHA-256 of the certificate."""
    keys: tuple[object, ...] = field(init=False, repr=False)
    """The public keys of `above`, read once: every admission asks for their kind."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "keys", tuple(map(certificate_key, self.above)))
        object.__setattr__(self, "fingerprint", self.certificate.fingerprint(hashes.SHA256()))

    @property
    def above(self) -> tuple[x509.Certificate, ...]:
        """The path above a leaf, the anchor last."""
        return (self.certificate,) if self.root is None else (self.certificate, self.root)


def lint_authority(role: Role, certificate: x509.Certificate, root: x509.Certificate | None) -> tuple[Finding, ...]:
    """What keeps the certificate from being the role's issuing CA under the root (None: an anchor itself)."""
    findings = lint(certificate, CA_PROFILES[role], issuer=root)
    if root is not None:
        findings += lint(root, PROFILES[ProfileName.ROOT])
        if not is_signed_by(certificate, certificate_key(root)):
            findings += (
                Finding(
                    rule="signature",
                    where="signatureValue",
                    message="does not verify under the root",
                    reason=PathReason.UNTRUSTED,
                ),
            )
    return findings


class TrustStore:
    """The CAs that `verify_peer` goes by. Immutable; a CA is recognised by its whole certificate, never by a name.

    Times are not looked at here: they are at every verification, so a store with an expired CA refuses, and loads.
    """

    __slots__ = ("_by_subject", "_fingerprints", "_known", "issuers", "trust_domain")

    def __init__(self, authorities: Iterable[IssuingCa], *, trust_domain: str | None = None) -> None:
        self.trust_domain = trust_domain
        self._by_subject: dict[bytes, tuple[IssuingCa, ...]] = {}
        known: set[x509.Certificate] = set()
        issuers: set[bytes] = set()
        for authority in authorities:
            subject = authority.certificate.subject.public_bytes()
            self._by_subject[subject] = (*self._by_subject.get(subject, ()), authority)
            known.update(authority.above)
            issuers.add(authority.fingerprint)
        self._known = frozenset(known)
        self.issuers = frozenset(issuers)
        """SHA-256 of each issuing CA: what `VerifiedPeer.issuer` is one of, for as long as the CA is in the store."""
        self._fingerprints = frozenset(certificate.fingerprint(hashes.SHA256()) for certificate in known)

    @classmethod
    def from_pem(
        cls, root_pem: bytes, cas: Mapping[Role, bytes | Iterable[bytes]], *, trust_domain: str | None = None
    ) -> TrustStore:
        """One root, and for each role its issuing CA or CAs (more than one while keys roll over).

        With `trust_domain`, SPIFFE IDs of another domain are refused.

        Raises:
            StoreError: unreadable, not exactly one root, a CA that breaks its profile or is not the root's, or one CA
                for two roles.
        """
        try:
            roots = read_certificates(root_pem, what="root certificate")
            found = [(role, ca) for role, data in cas.items() for ca in _read_all(data, role)]
        except (InputUnreadable, CertificateInvalid) as error:
            raise StoreError(str(error)) from None
        if len(roots) != 1:
            raise StoreError("the root file holds more than one certificate")
        if len({ca for _, ca in found}) != len(found):
            raise StoreError("one CA stands for two roles, or twice for one")
        for role, ca in found:
            findings = lint_authority(role, ca, roots[0])
            if findings:
                raise StoreError(f"the {role.value} CA is not usable: {'; '.join(map(str, findings))}")
        return cls(
            (IssuingCa(role=role, certificate=ca, root=roots[0], key=certificate_key(ca)) for role, ca in found),
            trust_domain=trust_domain,
        )

    def knows(self, certificate: x509.Certificate) -> bool:
        """Whether the certificate is one of the store's own."""
        return certificate in self._known

    def knows_fingerprints(self, fingerprints: Iterable[bytes]) -> bool:
        """The same of all certificates with these SHA-256."""
        return self._fingerprints.issuperset(fingerprints)

    def issuer_of(self, leaf: x509.Certificate) -> IssuingCa | None:
        """The CA whose name the leaf carries as issuer and whose key signed it."""
        for authority in self._by_subject.get(leaf.issuer.public_bytes(), ()):
            if is_signed_by(leaf, authority.key):
                return authority
        return None


def _read_all(data: bytes | Iterable[bytes], role: Role) -> list[x509.Certificate]:
    files = [data] if isinstance(data, bytes) else data
    return [certificate for file in files for certificate in read_certificates(file, what=f"{role.value} CA")]
