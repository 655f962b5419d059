"""A second judgement of a path that our own steps accepted, by a library's verifier, against mistakes in them.

`cryptography`'s own verifier alone is too lax (it takes a leaf without purpose, or one that the root signed). It knows
no Ed25519 CA: a path with one is put before OpenSSL instead. Both take ML-DSA.
"""

from __future__ import annotations

from datetime import UTC, datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.x509.verification import (
    ClientVerifier,
    Criticality,
    ExtensionPolicy,
    Policy,
    PolicyBuilder,
    ServerVerifier,
    Store,
    VerificationError,
)

from pki.errors import CertificateInvalid, PathReason
from pki.names import Role
from pki.trust import IssuingCa

__all__ = ["require_second_opinion"]

_STRICT = 0x20
"""``X509_V_FLAG_X509_STRICT`` (OpenSSL's x509_vfy.h)."""


def _only_purpose(policy: Policy, _certificate: x509.Certificate, usage: x509.ExtendedKeyUsage) -> None:
    if list(usage) != [policy.extended_key_usage]:
        raise ValueError("extended key usage is not exactly the purpose")


_CA_POLICY = ExtensionPolicy.webpki_defaults_ca()
_LEAF_POLICY = (
    ExtensionPolicy.webpki_defaults_ee()
    .require_present(x509.ExtendedKeyUsage, Criticality.NON_CRITICAL, _only_purpose)
    .require_present(x509.KeyUsage, Criticality.CRITICAL, None)
)


def require_second_opinion(leaf: x509.Certificate, issuing: IssuingCa, at: datetime) -> None:
    """Have a library's verifier judge the path that our own steps accepted.

    Raises:
        CertificateInvalid: it refuses.
    """
    if any(isinstance(key, ed25519.Ed25519PublicKey) for key in issuing.keys):
        _ask_openssl(leaf, issuing, at)
    else:
        _ask_cryptography(leaf, issuing, at)


def _ask_cryptography(leaf: x509.Certificate, issuing: IssuingCa, at: datetime) -> None:
    anchor = issuing.above[-1]
    builder = (
        PolicyBuilder()
        .store(Store([anchor]))
        .time(at.astimezone(UTC))
        .max_chain_depth(len(issuing.above) - 1)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
    )
    verifier: ClientVerifier | ServerVerifier
    if issuing.role is Role.SERVER:
        verifier = builder.build_server_verifier(_first_host(leaf))
    else:
        verifier = builder.build_client_verifier()
    try:
        verifier.verify(leaf, list(issuing.above[:-1]))
    except (VerificationError, ValueError) as error:
        raise CertificateInvalid(PathReason.PROFILE, f"the library's verifier refuses it: {error}") from None


def _ask_openssl(leaf: x509.Certificate, issuing: IssuingCa, at: datetime) -> None:
    """Signatures, times, names, lengths and constraints; the purpose is ours alone to look at here."""
    from OpenSSL import crypto  # here: it takes long to load, and few homes have such a CA

    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(issuing.above[-1]))
    store.set_flags(_STRICT | crypto.X509StoreFlags.PARTIAL_CHAIN)
    store.set_time(at)
    between = [crypto.X509.from_cryptography(ca) for ca in issuing.above[:-1]]
    try:
        crypto.X509StoreContext(store, crypto.X509.from_cryptography(leaf), between).verify_certificate()
    except crypto.X509StoreContextError as error:
        raise CertificateInvalid(PathReason.PROFILE, f"OpenSSL refuses it: {error}") from None


def _first_host(leaf: x509.Certificate) -> x509.DNSName | x509.IPAddress:
    for name in leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value:
        if isinstance(name, x509.DNSName | x509.IPAddress):
            return name
    raise CertificateInvalid(PathReason.NAME, "a server without a name")
