"""Building paths: every order, beside bad ones, under a budget; and encodings that no builder makes."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from support.certs import AT, Pair, common_name, forge, patched, pem
from support.paths import (
    ROOT,
    chain_of,
    judge,
)

from pki import path as path_module
from pki.errors import CertificateInvalid, PathReason
from pki.names import Role
from pki.verify import verify_file


def test_path_in_reversed_order_is_built_all_the_same() -> None:
    """Only the leaf's place is fixed: what comes first is judged, and a CA is no leaf."""
    (first, *others), anchors = chain_of(None, None, None)
    assert judge([first, *reversed(others)], anchors) == "valid"
    assert judge([others[0], first, *others], anchors) is PathReason.PROFILE


def test_path_names_match_whatever_their_string_type_case_and_blanks() -> None:
    """RFC 5280 §7.1: comparing is not byte by byte."""
    kinds = [x509.name._ASN1Type.PrintableString, x509.name._ASN1Type.UTF8String]
    names = [
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text, _type=kind)])
        for text, kind in zip(["Some   CA ", "some ca"], kinds, strict=True)
    ]
    root = forge(names[0], ca=True)
    assert judge([forge("leaf", root, issuer_name=names[1])], [root]) == "valid"
    assert judge([forge("leaf", root, issuer_name=common_name("someca"))], [root]) is PathReason.UNTRUSTED


def test_path_around_an_expired_cross_certificate_is_found() -> None:
    """A bad path beside a good one does not spoil it."""
    other = forge("other root", ca=True)
    cross = forge(ROOT.certificate.subject, other, key=ROOT.key, ca=True, not_after=AT - timedelta(hours=1))
    made = forge("leaf", ROOT)
    assert judge([made, cross], [ROOT, other]) == "valid"
    assert judge([made, cross], [other, ROOT]) == "valid"
    assert judge([made, cross], [other]) is PathReason.EXPIRED


def test_path_through_one_of_two_certificates_of_a_ca_is_found() -> None:
    """When the first of two ways breaks a constraint, the second is tried."""
    other = forge("other root", ca=True)
    key = ec.generate_private_key(ec.SECP256R1())
    barred = forge(
        "twin",
        ROOT,
        key=key,
        ca=True,
        extensions=[(x509.NameConstraints(None, [x509.DNSName("example.com")]), True)],
    )
    free = forge("twin", other, key=key, ca=True)
    made = forge("leaf", free)
    for order in ([barred, free], [free, barred]):
        assert judge([made, *order], [ROOT, other]) == "valid"
    assert judge([made, barred], [ROOT, other]) is PathReason.NAME


def test_path_among_cas_that_certify_one_another_ends() -> None:
    """Cycles lead nowhere, and back to an anchor when there is one (CVE-2024-0567)."""
    keys = {name: ec.generate_private_key(ec.SECP256R1()) for name in "abc"}
    roots = {name: forge(name, key=key, ca=True) for name, key in keys.items()}
    crossed = [
        forge(below, roots[above], key=keys[below], ca=True) for above in "abc" for below in "abc" if above != below
    ]
    made = forge("leaf", roots["a"])
    assert judge([made, *crossed], [roots["a"]]) == "valid"
    assert judge([made, *crossed], [roots["c"]]) == "valid"
    assert judge([made, *crossed], [ROOT]) is PathReason.UNTRUSTED


def test_path_longer_than_the_limit_is_refused() -> None:
    """Twelve certificates, anchor included."""
    inside = chain_of(*[None] * (path_module.MAX_PATH - 2))
    assert len(inside[0]) + len(inside[1]) == path_module.MAX_PATH
    assert judge(*inside) == "valid"
    assert judge(*chain_of(*[None] * (path_module.MAX_PATH - 1))) is PathReason.UNTRUSTED


def test_path_building_stops_at_its_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """A bush of equal names costs a bounded number of signatures and steps, then the answer is no."""
    checks = 0
    real = path_module.is_signed_by

    def counted(signed: x509.Certificate, key: object) -> bool:
        nonlocal checks
        checks += 1
        return real(signed, key)

    monkeypatch.setattr(path_module, "is_signed_by", counted)
    levels = 6
    keys = [[ec.generate_private_key(ec.SECP256R1()) for _ in range(4)] for _ in range(levels)]
    bush = []
    for level in range(levels - 1):
        for above in keys[level + 1]:
            issuer = forge(f"level{level + 1}", key=above, ca=True)
            bush += [forge(f"level{level}", issuer, key=below, ca=True) for below in keys[level]]
    made = forge("leaf", forge("level0", key=keys[0][0], ca=True))
    begin = time.perf_counter()
    assert judge([made, *bush], [ROOT]) is PathReason.UNTRUSTED
    assert checks <= path_module.MAX_SIGNATURES
    assert time.perf_counter() - begin < 5


def test_path_of_an_anchor_alone_is_none() -> None:
    """What is no CA does not issue itself, and a CA is no leaf."""
    lonely = forge("lonely")
    assert judge([lonely], [lonely]) is PathReason.PROFILE
    assert judge([ROOT], [ROOT]) is PathReason.PROFILE


def test_path_with_a_duplicate_extension_is_malformed() -> None:
    """§4.2: not more than one instance of an extension. Made by renaming one extension to another's OID."""
    extra = (x509.UnrecognizedExtension(x509.ObjectIdentifier("2.5.29.117"), b"\x30\x00"), False)
    made = forge("leaf", ROOT, extensions=[extra])
    twice = patched(made, ROOT, bytes.fromhex("0603551d75"), bytes.fromhex("0603551d11"))
    assert judge([twice], [ROOT]) is PathReason.MALFORMED


def test_path_with_a_certificate_of_version_1_or_2_is_malformed() -> None:
    """Only v3 carries what the checks look at."""
    made = forge("leaf", ROOT)
    der = made.certificate.public_bytes(Encoding.DER)
    version = bytes.fromhex("a003020102")
    assert der.count(version) == 1
    for number in (b"\x00", b"\x01", b"\x03"):
        broken = der.replace(version, version[:-1] + number)
        text = _armour(broken)
        with pytest.raises(CertificateInvalid) as caught:
            verify_file(text, pem(ROOT), role=Role.CLIENT, at=AT, profile="rfc5280")
        assert caught.value.reason is PathReason.MALFORMED


def _armour(der: bytes) -> bytes:
    import base64

    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def test_path_whose_key_is_off_the_curve_is_refused() -> None:
    """A public key that cannot be read verifies nothing and is no leaf's."""
    made = forge("leaf", ROOT)
    numbers = made.key.public_key().public_numbers()  # type: ignore[union-attr]
    point = numbers.x.to_bytes(32) + numbers.y.to_bytes(32)  # type: ignore[union-attr]
    broken = patched(made, ROOT, point, point[:-1] + bytes([point[-1] ^ 1]))
    assert judge([broken], [ROOT]) is PathReason.ALGORITHM


def test_path_with_unused_bits_in_a_signature_is_malformed() -> None:
    """The library takes such an encoding as the same signature; one certificate would have two fingerprints."""
    made = next(pair for pair in iter(lambda: forge("leaf", ROOT), None) if pair.certificate.signature[-1] % 2 == 0)
    der = bytearray(made.certificate.public_bytes(Encoding.DER))
    place = len(der) - len(made.certificate.signature) - 1
    assert der[place] == 0
    der[place] = 1
    again = Pair(certificate=x509.load_der_x509_certificate(bytes(der)), key=made.key)
    assert again.certificate.signature == made.certificate.signature
    assert judge([made], [ROOT]) == "valid"
    assert judge([again], [ROOT]) is PathReason.MALFORMED
