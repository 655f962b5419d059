"""Every type of key in every place: as root, issuing CA and leaf, in lists, and as a second judge sees it."""

from __future__ import annotations

import functools
import itertools
import shutil
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import crypto
from support.certs import (
    AT,
    DOMAIN,
    NOTHING_REVOKED,
    Pair,
    a_key,
    entropy,
    forge,
    identity,
    pem,
)

from pki.authority import Hierarchy, HierarchyKeys, make_hierarchy
from pki.errors import CertificateInvalid, PathReason
from pki.issue import IssuerKey, issue_leaf
from pki.keys import KeyType, key_type
from pki.names import Role, parse_san
from pki.ocsp import build_responder
from pki.profiles import PROFILES
from pki.revocation import CrlView, RevokedEntry, build_crl
from pki.signatures import is_signed_by, is_strong_key, is_strong_signature
from pki.verify import TrustStore, ValidatedPath, VerifiedPeer, verify_file, verify_peer

POST_QUANTUM = (KeyType.MLDSA44, KeyType.MLDSA65, KeyType.MLDSA87)
CLASSICAL = tuple(kind for kind in KeyType if kind not in POST_QUANTUM)


@functools.cache
def hierarchy(kind: KeyType) -> Hierarchy:
    return make_hierarchy(DOMAIN, at=AT, entropy=lambda _: entropy(), keys=HierarchyKeys(usual=kind))


def leaf_of(issuing: IssuerKey, role: Role, kind: KeyType) -> x509.Certificate:
    owner = [parse_san("DNS:localhost")] if role is Role.SERVER else identity(role)
    public_key = a_key(kind).public_key()
    return issue_leaf(owner, issuer=issuing, public_key=public_key, at=AT, entropy=entropy())


def trust_in(made: Hierarchy) -> TrustStore:
    cas = {role: pem(issuer.certificate) for role, issuer in made.issuing.items()}
    return TrustStore.from_pem(pem(made.root.certificate), cas, trust_domain=DOMAIN)


@pytest.mark.parametrize(("ca", "kind"), [*itertools.product(KeyType, KeyType)], ids=str)
def test_leaf_of_each_type_under_a_ca_of_each_type_proves_its_identity(ca: KeyType, kind: KeyType) -> None:
    """A P-256 worker under an ML-DSA CA, and every other mixture; the proof says what the leaf's own key is."""
    made = hierarchy(ca)
    leaf = leaf_of(made.issuing[Role.WORKER], Role.WORKER, kind)
    roles = frozenset({Role.WORKER})
    proof = verify_peer((leaf,), trust=trust_in(made), roles=roles, at=AT, revocation=NOTHING_REVOKED)
    assert (proof.name, proof.key_type) == ("w1", kind)


@pytest.mark.parametrize("ca", KeyType)
@pytest.mark.parametrize("role", Role)
def test_file_of_each_role_and_type_of_ca_is_valid_under_both_profiles(ca: KeyType, role: Role) -> None:
    """`verify` knows every type, under `rhttp` and under `rfc5280`."""
    made = hierarchy(ca)
    chain = pem(leaf_of(made.issuing[role], role, ca), made.issuing[role].certificate)
    anchor = pem(made.root.certificate)
    assert isinstance(verify_file(chain, anchor, role=role, at=AT), VerifiedPeer)
    assert isinstance(verify_file(chain, anchor, role=role, at=AT, profile="rfc5280"), ValidatedPath)


@pytest.mark.parametrize("ca", KeyType)
def test_leaf_signed_by_another_key_of_the_type_is_refused(ca: KeyType) -> None:
    """The signature counts, whatever its algorithm: a CA of the same name and type is another one."""
    other = make_hierarchy(DOMAIN, at=AT, entropy=lambda _: entropy(), keys=HierarchyKeys(usual=ca))
    leaf = leaf_of(other.issuing[Role.CLIENT], Role.CLIENT, KeyType.P256)
    roles = frozenset({Role.CLIENT})
    with pytest.raises(CertificateInvalid) as caught:
        verify_peer((leaf,), trust=trust_in(hierarchy(ca)), roles=roles, at=AT, revocation=NOTHING_REVOKED)
    assert caught.value.reason is PathReason.UNTRUSTED


def test_hierarchy_has_the_types_that_are_asked_for_each() -> None:
    """All CAs of one type, but for those that are named; the root is None."""
    keys = HierarchyKeys(usual=KeyType.MLDSA44, special={None: KeyType.MLDSA87, Role.SERVER: KeyType.P384})
    made = make_hierarchy(DOMAIN, at=AT, entropy=lambda _: entropy(), keys=keys)
    assert key_type(made.root.key) is KeyType.MLDSA87
    assert {role: key_type(issuer.key) for role, issuer in made.issuing.items()} == {
        Role.SERVER: KeyType.P384,
        Role.CLIENT: KeyType.MLDSA44,
        Role.WORKER: KeyType.MLDSA44,
        Role.MASTER: KeyType.MLDSA44,
    }


@pytest.mark.parametrize("profile", list(PROFILES.values()), ids=lambda profile: profile.name)
def test_profile_takes_every_type_of_key_and_asks_for_signing_only(profile: object) -> None:
    """None of the keys encrypts or agrees here, so every profile holds for every type (RFC 8410, RFC 9881)."""
    assert profile.keys == frozenset(KeyType)  # type: ignore[attr-defined]
    assert profile.usages <= {"digital_signature", "key_cert_sign", "crl_sign"}  # type: ignore[attr-defined]


@pytest.mark.parametrize("ca", KeyType)
def test_list_of_a_ca_of_each_type_decides(ca: KeyType) -> None:
    """CRLs are signed with the CA's own scheme, and one that another CA of the type signed is not believed."""
    issuer = hierarchy(ca).issuing[Role.WORKER]
    made = build_crl(issuer, [RevokedEntry(serial=7, revoked_at=AT)], number=1, at=AT)
    view = CrlView(made, issuer.certificate, at=AT)
    assert view.is_revoked(7)
    assert not view.is_revoked(8)
    forged = IssuerKey(certificate=issuer.certificate, key=issuer.key)
    object.__setattr__(forged, "key", hierarchy(ca).issuing[Role.CLIENT].key)
    with pytest.raises(CertificateInvalid, match="signature"):
        CrlView(build_crl(forged, [], number=2, at=AT), issuer.certificate, at=AT)


@pytest.mark.parametrize(
    ("ca", "digest", "parameters"),
    [
        (KeyType.P256, "sha256", ec.ECDSA),
        (KeyType.P384, "sha384", ec.ECDSA),
        (KeyType.RSA3072, "sha256", padding.PSS),
    ],
)
def test_ca_signs_by_a_scheme_that_tls_lists(ca: KeyType, digest: str, parameters: type) -> None:
    """RFC 8446 section 4.2.3: one list of signature schemes holds for handshakes and certificates."""
    issuer = hierarchy(ca).issuing[Role.CLIENT]
    for signed in (issuer.certificate, build_crl(issuer, [], number=1, at=AT)):
        assert signed.signature_hash_algorithm is not None
        assert signed.signature_hash_algorithm.name == digest
        assert isinstance(signed.signature_algorithm_parameters, parameters)


# --- foreign RSA ---------------------------------------------------------------------------------------------------

_MODULUS = rsa.generate_private_key(65537, 3072).public_key().public_numbers().n


@pytest.mark.parametrize(
    ("exponent", "is_strong", "is_ours"),
    [
        (3, True, False),
        (65535, True, False),
        (65537, True, True),
        ((1 << 256) - 1, True, True),
        ((1 << 256) + 1, False, False),
    ],
)
def test_rsa_exponent_counts_within_its_bounds_only(exponent: int, is_strong: bool, is_ours: bool) -> None:
    """Odd, from 3 and under 2^256 in foreign paths; over 2^16 in what we certify (FIPS 186-5)."""
    key = rsa.RSAPublicNumbers(exponent, _MODULUS).public_key()
    assert is_strong_key(key) is is_strong
    assert (key_type(key) is KeyType.RSA3072) is is_ours


@pytest.mark.parametrize(
    ("bits", "is_strong"), [(2048, True), (3064, True), (3071, False), (3073, False), (3080, True), (4096, True)]
)
def test_rsa_of_another_size_is_none_of_our_types(bits: int, is_strong: bool) -> None:
    """We certify one size; in foreign paths any from 2,048 in whole octets counts."""
    key = rsa.RSAPublicNumbers(65537, (1 << bits) - 159).public_key()
    assert key_type(key) is None
    assert is_strong_key(key) is is_strong


@pytest.mark.parametrize(("mask", "is_strong"), [(hashes.SHA256(), True), (hashes.SHA384(), False)])
def test_pss_signature_with_another_mask_than_its_digest_is_not_accepted(
    mask: hashes.HashAlgorithm, is_strong: bool
) -> None:
    """One digest is judged for both: no SHA-1 comes in by the mask."""
    key = a_key(KeyType.RSA3072)
    made = forge("ca", key=key, ca=True, rsa_padding=padding.PSS(padding.MGF1(mask), 32))
    assert is_strong_signature(made.certificate) is is_strong


# --- second judges -------------------------------------------------------------------------------------------------

OPENSSL = shutil.which("openssl")


@pytest.mark.skipif(OPENSSL is None, reason="the openssl command is not installed")
@pytest.mark.parametrize("ca", CLASSICAL)
def test_path_and_list_under_each_classical_ca_are_taken_by_the_openssl_command(ca: KeyType, tmp_path: Path) -> None:
    """Also an RSA CA that signs with PSS; the command may be older than ML-DSA."""
    issuer = hierarchy(ca).issuing[Role.CLIENT]
    leaf = leaf_of(issuer, Role.CLIENT, ca)
    made = build_crl(issuer, [RevokedEntry(serial=7, revoked_at=AT)], number=1, at=AT)
    files = {
        "root": pem(hierarchy(ca).root.certificate),
        "ca": pem(issuer.certificate),
        "leaf": pem(leaf),
        "crl": made.public_bytes(Encoding.PEM),
    }
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    command = [str(OPENSSL), "verify", "-x509_strict", "-check_ss_sig", "-purpose", "sslclient", "-crl_check"]
    command += ["-attime", str(int(AT.timestamp())), "-CAfile", "root", "-untrusted", "ca", "-CRLfile", "crl", "leaf"]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize("ca", KeyType)
def test_responder_of_a_ca_of_each_type_has_a_certificate_that_verifies(ca: KeyType) -> None:
    """The CA's own scheme signs it, whatever type the responder's key is of."""
    issuer = hierarchy(ca).issuing[Role.CLIENT]
    public_key = a_key(KeyType.P256).public_key()
    made = build_responder(issuer, public_key, at=AT, lifetime=timedelta(hours=1), entropy=entropy())
    assert is_signed_by(made, issuer.key.public_key())


@pytest.mark.parametrize("ca", POST_QUANTUM)
def test_path_under_each_post_quantum_ca_is_taken_by_openssl(ca: KeyType) -> None:
    """The OpenSSL inside of `cryptography`, which knows ML-DSA."""
    issuer = hierarchy(ca).issuing[Role.CLIENT]
    store = crypto.X509Store()
    store.add_cert(crypto.X509.from_cryptography(hierarchy(ca).root.certificate))
    store.set_time(AT)
    store.set_flags(0x20)  # X509_V_FLAG_X509_STRICT
    leaf = crypto.X509.from_cryptography(leaf_of(issuer, Role.CLIENT, ca))
    between = [crypto.X509.from_cryptography(issuer.certificate)]
    crypto.X509StoreContext(store, leaf, between).verify_certificate()


def test_second_judge_of_an_ed25519_ca_refuses_what_was_not_signed_by_it() -> None:
    """`cryptography` knows no Ed25519 CA, so OpenSSL is asked, and it does look."""
    from pki.secondopinion import require_second_opinion
    from pki.trust import IssuingCa

    made = hierarchy(KeyType.ED25519)
    right, wrong = made.issuing[Role.CLIENT], made.issuing[Role.MASTER]
    leaf = leaf_of(right, Role.CLIENT, KeyType.P256)

    def under(issuer: IssuerKey) -> IssuingCa:
        key = issuer.key.public_key()
        return IssuingCa(role=Role.CLIENT, certificate=issuer.certificate, root=made.root.certificate, key=key)

    require_second_opinion(leaf, under(right), AT)
    alone = IssuingCa(role=Role.CLIENT, certificate=right.certificate, root=None, key=right.key.public_key())
    require_second_opinion(leaf, alone, AT)
    with pytest.raises(CertificateInvalid, match="OpenSSL refuses"):
        require_second_opinion(leaf, under(wrong), AT)
    later = leaf.not_valid_after_utc.replace(year=leaf.not_valid_after_utc.year + 1)
    with pytest.raises(CertificateInvalid, match="OpenSSL refuses"):
        require_second_opinion(leaf, under(right), later)


def test_stolen_ca_of_each_type_makes_no_host_certificate() -> None:
    """The critical name constraints hold under every type of CA."""
    for ca in KeyType:
        issuer = hierarchy(ca).issuing[Role.CLIENT]
        stolen = Pair(certificate=issuer.certificate, key=issuer.key)
        forged = forge("bank.example", stolen)
        with pytest.raises(CertificateInvalid) as caught:
            verify_file(pem(forged), pem(issuer.certificate), role=Role.CLIENT, at=AT, profile="rfc5280")
        assert caught.value.reason is PathReason.NAME
