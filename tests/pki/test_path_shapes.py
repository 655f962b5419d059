"""Foreign paths under RFC 5280: valid ones stay valid, and each hostile shape has its reason.

The shapes follow the public suites (x509-limbo, BetterTLS, NIST PKITS); the certificates are made here.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa
from support.certs import AT, CLIENT_AUTH, common_name, forge
from support.paths import (
    AIA,
    ANY,
    CLIENT,
    INTERMEDIATE,
    ROOT,
    SERVER_AUTH,
    Shape,
    alternative,
    anchor,
    bc,
    ca_key,
    chain_of,
    differing_algorithms,
    eku,
    explicit_ca,
    explicit_leaf,
    explicit_root,
    generalized_time,
    judge,
    leaf,
    lone_anchor,
    middle,
    misnamed,
    nameless_anchor,
    pss,
    rooted_in_itself,
    rsa_key,
    sans,
    self_issued,
    serial_patched,
    unknown,
    usage,
    with_key,
    without,
    wrong_key,
)

from pki.errors import PathReason
from pki.extensions import NO_REV_AVAIL
from pki.names import Role

ROOT_SIGNED_AKI = x509.AuthorityKeyIdentifier.from_issuer_public_key(INTERMEDIATE.key.public_key())
MAPPED = x509.DirectoryName(common_name("x"))

SHAPES: dict[str, tuple[Callable[[], Shape], PathReason | Literal["valid"]]] = {
    # §6.1.3 (a): signature, names, times
    "leaf": (leaf, "valid"),
    "intermediate": (middle, "valid"),
    "anchor-is-intermediate": (lone_anchor, "valid"),
    "issuer-name": (misnamed, PathReason.UNTRUSTED),
    "issuer-key": (wrong_key, PathReason.UNTRUSTED),
    "empty-issuer": (lambda: leaf(issuer_name=x509.Name([])), PathReason.MALFORMED),
    "expired": (lambda: leaf(not_after=AT - timedelta(seconds=1)), PathReason.EXPIRED),
    "expires-now": (lambda: leaf(not_after=AT), "valid"),
    "begins-now": (lambda: leaf(not_before=AT), "valid"),
    "future": (lambda: leaf(not_before=AT + timedelta(seconds=1)), PathReason.NOT_YET_VALID),
    "expired-ca": (lambda: middle(not_after=AT - timedelta(seconds=1)), PathReason.EXPIRED),
    "expired-root": (lambda: anchor(not_after=AT - timedelta(seconds=1)), PathReason.EXPIRED),
    # encodings
    "differing-algorithms": (differing_algorithms, PathReason.MALFORMED),
    "generalized-time": (generalized_time, PathReason.MALFORMED),
    "serial-20-octets": (lambda: serial_patched(b"\x7f" + b"\xff" * 19), "valid"),
    "serial-21-octets": (lambda: serial_patched(b"\x00" + b"\xff" * 20), PathReason.MALFORMED),
    "serial-zero": (lambda: serial_patched(b"\x00"), PathReason.MALFORMED),
    "serial-negative": (lambda: serial_patched(b"\x81"), PathReason.MALFORMED),
    "malformed-san": (
        lambda: leaf((x509.UnrecognizedExtension(x509.SubjectAlternativeName.oid, b"peer.example.com"), False)),
        PathReason.MALFORMED,
    ),
    "malformed-aia": (
        lambda: leaf((x509.UnrecognizedExtension(x509.AuthorityInformationAccess.oid, b"junk"), False)),
        PathReason.MALFORMED,
    ),
    "aki-with-x400-name": (
        lambda: leaf(
            (x509.UnrecognizedExtension(x509.AuthorityKeyIdentifier.oid, bytes.fromhex("3004a102a300")), False)
        ),
        PathReason.MALFORMED,
    ),
    # extensions
    "unknown": (lambda: leaf(unknown(False)), "valid"),
    "unknown-critical": (lambda: leaf(unknown(True)), PathReason.PROFILE),
    "unknown-critical-ca": (lambda: middle(unknown(True)), PathReason.PROFILE),
    "unknown-critical-root": (lambda: anchor(unknown(True)), PathReason.PROFILE),
    "aia": (lambda: leaf((AIA, False)), "valid"),
    "aia-critical": (lambda: leaf((AIA, True)), PathReason.PROFILE),
    "aki-critical": (
        lambda: leaf((x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.public_key()), True)),
        PathReason.PROFILE,
    ),
    "no-aki": (lambda: leaf(**without(x509.AuthorityKeyIdentifier)), PathReason.PROFILE),
    "no-aki-ca": (lambda: middle(**without(x509.AuthorityKeyIdentifier)), PathReason.PROFILE),
    "no-aki-root": (lambda: anchor(**without(x509.AuthorityKeyIdentifier)), "valid"),
    "aki-root-of-other-key": (lambda: anchor((ROOT_SIGNED_AKI, False)), PathReason.PROFILE),
    "aki-empty-root": (lambda: anchor((x509.AuthorityKeyIdentifier(None, None, None), False)), PathReason.PROFILE),
    "aki-with-issuer-root": (rooted_in_itself, "valid"),
    "ski-empty-ca": (lambda: middle((x509.SubjectKeyIdentifier(b""), False)), PathReason.PROFILE),
    "aki-without-key": (lambda: leaf((x509.AuthorityKeyIdentifier(None, [MAPPED], 5), False)), PathReason.PROFILE),
    "no-rev-avail-leaf": (lambda: leaf((NO_REV_AVAIL, False)), "valid"),
    "no-rev-avail-leaf-critical": (lambda: leaf((NO_REV_AVAIL, True)), PathReason.PROFILE),
    "no-rev-avail-ca": (lambda: middle((NO_REV_AVAIL, False)), PathReason.PROFILE),
    "no-ski-leaf": (lambda: leaf(**without(x509.SubjectKeyIdentifier)), "valid"),
    "no-ski-ca": (lambda: middle(**without(x509.SubjectKeyIdentifier)), PathReason.PROFILE),
    "no-ski-root": (lambda: anchor(**without(x509.SubjectKeyIdentifier)), "valid"),
    "no-key-identifier-root": (nameless_anchor, "valid"),
    "ski-critical": (lambda: anchor((x509.SubjectKeyIdentifier(b"x" * 20), True)), PathReason.PROFILE),
    "no-san": (lambda: leaf(**without(x509.SubjectAlternativeName)), "valid"),
    "crl-points-critical": (
        lambda: leaf((x509.CRLDistributionPoints([x509.DistributionPoint([MAPPED], None, None, None)]), True)),
        PathReason.PROFILE,
    ),
    "policy-constraints-not-critical": (lambda: middle((x509.PolicyConstraints(3, None), False)), PathReason.PROFILE),
    # CAs: basic constraints, key usage
    "ca-false": (lambda: middle(bc(False, None), usage("digital_signature")), PathReason.PROFILE),
    "ca-no-bc": (lambda: middle(usage("digital_signature"), **without(x509.BasicConstraints)), PathReason.PROFILE),
    "ca-bc-not-critical": (lambda: middle(bc(True, None, critical=False)), "valid"),
    "root-no-bc": (lambda: anchor(usage("digital_signature"), **without(x509.BasicConstraints)), PathReason.PROFILE),
    "root-bc-not-critical": (lambda: anchor(bc(True, None, critical=False)), PathReason.PROFILE),
    "ca-cannot-sign": (lambda: middle(usage("crl_sign")), PathReason.PROFILE),
    "root-cannot-sign": (lambda: anchor(usage("digital_signature")), PathReason.PROFILE),
    "ca-no-usage": (lambda: middle(**without(x509.KeyUsage)), "valid"),
    "leaf-can-sign": (lambda: leaf(usage("digital_signature", "key_cert_sign")), PathReason.PROFILE),
    "leaf-no-usage": (lambda: leaf(**without(x509.KeyUsage)), "valid"),
    "leaf-no-bc": (lambda: leaf(**without(x509.BasicConstraints)), "valid"),
    "leaf-usage-without-bit": (lambda: leaf(usage()), PathReason.PROFILE),
    "leaf-is-ca": (lambda: ([INTERMEDIATE], [ROOT]), PathReason.PROFILE),
    "leaf-is-anchor": (lambda: ([ROOT], [ROOT]), PathReason.PROFILE),
    "leaf-issued-by-leaf": (
        lambda: ([forge("below", forge_leaf := forge("leaf", ROOT)), forge_leaf], [ROOT]),
        PathReason.PROFILE,
    ),
    # path lengths
    "length-0": (lambda: chain_of(0), "valid"),
    "length-0-0": (lambda: chain_of(0, 0), PathReason.PROFILE),
    "length-1-2": (lambda: chain_of(1, 2), "valid"),
    "length-1-0-0": (lambda: chain_of(1, 0, 0), PathReason.PROFILE),
    "length-none-none-0": (lambda: chain_of(None, None, 0), "valid"),
    "root-length-0": (lambda: chain_of(None, root_length=0), PathReason.PROFILE),
    "root-length-1": (lambda: chain_of(None, root_length=1), "valid"),
    "root-length-0-leaf": (lambda: chain_of(root_length=0), "valid"),
    "length-0-then-ca-as-leaf": (lambda: (chain_of(0, 0)[0][2:0:-1], chain_of(0)[1]), PathReason.UNTRUSTED),
    "self-issued-does-not-count": (lambda: self_issued(1), "valid"),
    "self-issued-then-too-long": (lambda: self_issued(0), PathReason.PROFILE),
    # purposes
    "no-eku": (lambda: leaf(**without(x509.ExtendedKeyUsage)), "valid"),
    "eku-server": (lambda: leaf(eku(SERVER_AUTH)), PathReason.PURPOSE),
    "eku-both": (lambda: leaf(eku(SERVER_AUTH, CLIENT)), "valid"),
    "eku-any": (lambda: leaf(eku(ANY)), PathReason.PURPOSE),
    "eku-any-ca": (lambda: middle(eku(ANY)), "valid"),
    "eku-other-ca": (lambda: middle(eku(SERVER_AUTH)), PathReason.PURPOSE),
    "eku-other-root": (lambda: anchor(eku(SERVER_AUTH)), PathReason.PURPOSE),
    "eku-critical": (lambda: leaf((CLIENT_AUTH[0], True)), "valid"),
    "usage-signature": (lambda: leaf(usage("digital_signature")), "valid"),
    "usage-agreement": (lambda: leaf(usage("key_agreement")), "valid"),
    "usage-encipherment": (lambda: leaf(usage("key_encipherment")), PathReason.PURPOSE),
    "usage-commitment": (lambda: leaf(usage("content_commitment")), PathReason.PURPOSE),
    "usage-crl": (lambda: leaf(usage("crl_sign")), PathReason.PURPOSE),
    "usage-commitment-no-eku": (
        lambda: leaf(usage("content_commitment"), **without(x509.ExtendedKeyUsage)),
        PathReason.PURPOSE,
    ),
    # algorithms
    "explicit-curve-leaf": (explicit_leaf, PathReason.ALGORITHM),
    "explicit-curve-ca": (explicit_ca, PathReason.ALGORITHM),
    "explicit-curve-root": (explicit_root, PathReason.ALGORITHM),
    "rsa-2048": (lambda: ca_key(rsa_key(2048)), "valid"),
    "rsa-1024-ca": (lambda: ca_key(rsa_key(1024)), PathReason.ALGORITHM),
    "rsa-1024-leaf": (lambda: with_key(rsa_key(1024)), PathReason.ALGORITHM),
    "rsa-2052-ca": (lambda: ca_key(rsa_key(2052)), PathReason.ALGORITHM),
    "rsa-2052-leaf": (lambda: with_key(rsa_key(2052)), PathReason.ALGORITHM),
    "sha224": (lambda: ca_key(rsa_key(2048), hashes.SHA224()), PathReason.ALGORITHM),
    "ecdsa-sha224": (lambda: leaf(digest=hashes.SHA224()), PathReason.ALGORITHM),
    "sha224-ca": (lambda: middle(digest=hashes.SHA224()), PathReason.ALGORITHM),
    "sha512": (lambda: ca_key(rsa_key(2048), hashes.SHA512()), "valid"),
    "rsa-pss": (lambda: pss(hashes.SHA256()), "valid"),
    "rsa-pss-weak": (lambda: pss(hashes.SHA224()), PathReason.ALGORITHM),
    "p384": (lambda: ca_key(ec.generate_private_key(ec.SECP384R1()), hashes.SHA384()), "valid"),
    "p521-leaf": (lambda: with_key(ec.generate_private_key(ec.SECP521R1())), "valid"),
    "secp256k1-leaf": (lambda: with_key(ec.generate_private_key(ec.SECP256K1())), PathReason.ALGORITHM),
    "dsa-leaf": (lambda: with_key(dsa.generate_private_key(2048)), PathReason.ALGORITHM),
    "ed25519-leaf": (lambda: with_key(ed25519.Ed25519PrivateKey.generate()), "valid"),
    "ed25519-ca": (lambda: ca_key(ed25519.Ed25519PrivateKey.generate()), "valid"),
    "ed448-ca": (lambda: ca_key(ed448.Ed448PrivateKey.generate()), "valid"),
    "ml-dsa-ca": (lambda: ca_key(mldsa.MLDSA44PrivateKey.generate()), "valid"),
    "ed25519-for-encryption": (
        lambda: leaf(usage("digital_signature", "key_agreement"), key=ed25519.Ed25519PrivateKey.generate()),
        PathReason.PROFILE,
    ),
    # names
    "dns": (lambda: alternative(x509.DNSName("*.a.example")), "valid"),
    "dns-underscore": (lambda: alternative(x509.DNSName("a_b.example")), PathReason.NAME),
    "dns-address": (lambda: alternative(x509.DNSName("192.0.2.1")), PathReason.NAME),
    "dns-wildcard-inside": (lambda: alternative(x509.DNSName("a.*.example")), PathReason.NAME),
    "dns-wildcard-alone": (lambda: alternative(x509.DNSName("*")), PathReason.NAME),
    "dns-blank": (lambda: alternative(x509.DNSName(" ")), PathReason.NAME),
    "uri": (lambda: alternative(x509.UniformResourceIdentifier("spiffe://d.example/a")), "valid"),
    "uri-relative": (lambda: alternative(x509.UniformResourceIdentifier("/a")), PathReason.NAME),
    "mail": (lambda: alternative(x509.RFC822Name("m@h.example")), "valid"),
    "mail-without-host": (lambda: alternative(x509.RFC822Name._init_without_validation("m")), PathReason.NAME),
    "dns-underscore-ca": (lambda: middle(sans(x509.DNSName("a_b.example"))), PathReason.NAME),
    "dns-underscore-root": (lambda: anchor(sans(x509.DNSName("a_b.example"))), "valid"),
    "empty-subject": (lambda: ([forge(x509.Name([]), ROOT)], [ROOT]), PathReason.PROFILE),
    "empty-subject-critical-san": (
        lambda: (
            [
                forge(
                    x509.Name([]),
                    ROOT,
                    extensions=[(x509.SubjectAlternativeName([x509.DNSName("a.example")]), True)],
                )
            ],
            [ROOT],
        ),
        "valid",
    ),
    "empty-subject-ca": (
        lambda: (
            [forge("leaf", nameless := forge(x509.Name([]), ca=True, issuer_name=common_name("x")))],
            [nameless],
        ),
        PathReason.PROFILE,
    ),
}


@pytest.mark.parametrize(("make", "expected"), SHAPES.values(), ids=SHAPES.keys())
def test_path_of_a_shape_is_judged_as_rfc5280_has_it(
    make: Callable[[], Shape], expected: PathReason | Literal["valid"]
) -> None:
    """One thing changed in a valid path, one answer."""
    chain, anchors = make()
    assert judge(chain, anchors) == expected


def test_path_for_a_server_asks_for_server_auth() -> None:
    """The role decides the purpose."""
    chain, anchors = leaf(eku(SERVER_AUTH))
    assert judge(chain, anchors, role=Role.SERVER) == "valid"
    assert judge(*leaf(), role=Role.SERVER) is PathReason.PURPOSE


@pytest.mark.parametrize(
    ("bit", "expected"),
    [
        ("digital_signature", "valid"),
        ("key_agreement", "valid"),
        ("key_encipherment", "valid"),
        ("content_commitment", PathReason.PURPOSE),
    ],
)
def test_path_for_a_server_asks_for_a_key_that_may_do_it(bit: str, expected: PathReason | Literal["valid"]) -> None:
    """Key usage and extended key usage must both allow the purpose (RFC 5280 section 4.2.1.12)."""
    chain, anchors = leaf(usage(bit), eku(SERVER_AUTH))
    assert judge(chain, anchors, role=Role.SERVER) == expected


@pytest.mark.parametrize("shift", [timedelta(milliseconds=999), timedelta(0)])
def test_path_time_is_judged_in_whole_seconds(shift: timedelta) -> None:
    """Fractions are dropped, not rounded."""
    chain, anchors = leaf(not_after=AT)
    assert judge(chain, anchors, at=AT + shift) == "valid"
    chain, anchors = leaf(not_before=AT)
    assert judge(chain, anchors, at=AT - timedelta(milliseconds=1)) is PathReason.NOT_YET_VALID
