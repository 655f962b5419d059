"""Foreign paths under RFC 5280: valid ones stay valid, and each hostile shape has its reason.

The shapes follow the public suites (x509-limbo, BetterTLS, NIST PKITS); the certificates are made here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, mldsa, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from support.certs import AT, CLIENT_AUTH, Extension, Pair, common_name, forge, patched, pem

from pki import path as path_module
from pki.errors import CertificateInvalid, PathReason
from pki.names import Role
from pki.profiles import key_usage
from pki.verify import ValidatedPath, verify_file

DAY = timedelta(days=1)
UNKNOWN_OID = x509.ObjectIdentifier("1.3.6.1.4.1.55555.1")
Shape = tuple[Sequence[Pair], Sequence[Pair]]
"""(chain, anchors)"""


def judge(
    chain: Sequence[Pair], anchors: Sequence[Pair], *, role: Role = Role.CLIENT, at: datetime = AT
) -> PathReason | Literal["valid"]:
    try:
        answer = verify_file(pem(*chain), pem(*anchors), role=role, at=at, profile="rfc5280")
    except CertificateInvalid as error:
        return error.reason
    assert isinstance(answer, ValidatedPath)
    return "valid"


def unknown(critical: bool) -> Extension:
    return x509.UnrecognizedExtension(UNKNOWN_OID, b"\x05\x00"), critical


def usage(*bits: str) -> Extension:
    return key_usage(frozenset(bits)), True


def eku(*purposes: x509.ObjectIdentifier) -> Extension:
    return x509.ExtendedKeyUsage(purposes), False


def bc(ca: bool, length: int | None, critical: bool = True) -> Extension:
    return x509.BasicConstraints(ca=ca, path_length=length), critical


AIA = x509.AuthorityInformationAccess(
    [x509.AccessDescription(x509.AuthorityInformationAccessOID.CA_ISSUERS, x509.DNSName("a.example"))]
)
ANY = ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE
SERVER_AUTH, CLIENT = ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.CLIENT_AUTH
ROOT = forge("root", ca=True)
INTERMEDIATE = forge("intermediate", ROOT, ca=True)


def leaf(*extensions: Extension, **changes: object) -> Shape:
    """A leaf with one thing changed, right under the root."""
    return [forge("leaf", ROOT, extensions=extensions, **changes)], [ROOT]  # type: ignore[arg-type]


def middle(*extensions: Extension, **changes: object) -> Shape:
    """An intermediate with one thing changed."""
    changes = {"ca": True} | changes
    ca = forge("middle", ROOT, extensions=extensions, **changes)  # type: ignore[arg-type]
    return [forge("leaf", ca), ca], [ROOT]


def anchor(*extensions: Extension, **changes: object) -> Shape:
    """A root with one thing changed."""
    changes = {"ca": True} | changes
    root = forge("root", extensions=extensions, **changes)  # type: ignore[arg-type]
    return [forge("leaf", root)], [root]


def without(*kinds: type[x509.ExtensionType]) -> dict[str, object]:
    return {"drop": kinds}


def chain_of(*lengths: int | None, root_length: int | None = None) -> Shape:
    """CAs with these path lengths from the root's side, then a leaf."""
    above = root = forge("root", ca=True, path_length=root_length)
    cas = []
    for number, length in enumerate(lengths):
        above = forge(f"ca{number}", above, ca=True, path_length=length)
        cas.append(above)
    return [forge("leaf", above), *cas], [root]


def self_issued(inner: int | None) -> Shape:
    """root -> CA (pathlen) -> the same CA with a new key -> CA -> leaf."""
    root = forge("root", ca=True)
    one = forge("roll", root, ca=True, path_length=inner)
    two = forge("roll", one, ca=True, path_length=inner)
    three = forge("below", two, ca=True, path_length=0)
    return [forge("leaf", three), three, two, one], [root]


def misnamed() -> Shape:
    return [forge("leaf", ROOT, issuer_name=common_name("somebody"))], [ROOT]


def wrong_key() -> Shape:
    return [forge("leaf", Pair(certificate=ROOT.certificate, key=INTERMEDIATE.key))], [ROOT]


def with_key(key: object) -> Shape:
    return [forge("leaf", ROOT, key=key)], [ROOT]  # type: ignore[arg-type]


def ca_key(key: object, digest: hashes.HashAlgorithm | None = None) -> Shape:
    root = forge("root", ca=True, key=key)  # type: ignore[arg-type]
    return [forge("leaf", root, digest=digest)], [root]


def rsa_key(bits: int) -> rsa.RSAPrivateKey:
    return rsa.generate_private_key(public_exponent=65537, key_size=bits)


def pss(digest: hashes.HashAlgorithm) -> Shape:
    root = forge("root", ca=True, key=rsa_key(2048))
    scheme = padding.PSS(padding.MGF1(digest), digest.digest_size)
    return [forge("leaf", root, digest=digest, rsa_padding=scheme)], [root]


def serial_patched(new: bytes) -> Shape:
    """A serial number of our choice, in its two's complement octets."""
    start = int.from_bytes(b"\x11" * len(new))
    made = forge("leaf", ROOT, serial=start)
    tag = bytes([2, len(new)])
    return [patched(made, ROOT, tag + b"\x11" * len(new), tag + new)], [ROOT]


def generalized_time() -> Shape:
    """2049 written as GeneralizedTime: made as 2050 and patched."""
    made = forge("leaf", ROOT, not_after=datetime(2050, 6, 1, tzinfo=UTC))
    return [patched(made, ROOT, b"20500601000000Z", b"20490601000000Z")], [ROOT]


def differing_algorithms() -> Shape:
    """The signed algorithm says ECDSA with SHA-384, the outer one SHA-256."""
    made = forge("leaf", ROOT)
    old, new = bytes.fromhex("06082a8648ce3d040302"), bytes.fromhex("06082a8648ce3d040303")
    return [patched(made, ROOT, old, new)], [ROOT]


def lone_anchor() -> Shape:
    """The intermediate itself is trusted; its root comes along and is of no use."""
    return [forge("leaf", INTERMEDIATE), ROOT], [INTERMEDIATE]


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
    "aki-without-key": (lambda: leaf((x509.AuthorityKeyIdentifier(None, [MAPPED], 5), False)), PathReason.PROFILE),
    "no-ski-leaf": (lambda: leaf(**without(x509.SubjectKeyIdentifier)), "valid"),
    "no-ski-ca": (lambda: middle(**without(x509.SubjectKeyIdentifier)), PathReason.PROFILE),
    "no-ski-root": (lambda: anchor(**without(x509.SubjectKeyIdentifier)), PathReason.PROFILE),
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
    "leaf-is-ca": (lambda: ([INTERMEDIATE], [ROOT]), "valid"),
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
    # algorithms
    "rsa-2048": (lambda: ca_key(rsa_key(2048)), "valid"),
    "rsa-1024-ca": (lambda: ca_key(rsa_key(1024)), PathReason.ALGORITHM),
    "rsa-1024-leaf": (lambda: with_key(rsa_key(1024)), PathReason.ALGORITHM),
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


@pytest.mark.parametrize("shift", [timedelta(milliseconds=999), timedelta(0)])
def test_path_time_is_judged_in_whole_seconds(shift: timedelta) -> None:
    """Fractions are dropped, not rounded."""
    chain, anchors = leaf(not_after=AT)
    assert judge(chain, anchors, at=AT + shift) == "valid"
    chain, anchors = leaf(not_before=AT)
    assert judge(chain, anchors, at=AT - timedelta(milliseconds=1)) is PathReason.NOT_YET_VALID


def test_path_in_reversed_order_is_built_all_the_same() -> None:
    """Only the leaf's place is fixed."""
    (first, *others), anchors = chain_of(None, None, None)
    assert judge([first, *reversed(others)], anchors) == "valid"
    assert judge([others[0], first, *others], anchors) == "valid"


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


def test_path_of_an_anchor_alone_needs_a_ca() -> None:
    """A self-signed leaf in the trust file is an anchor; it issues itself only if it is a CA."""
    lonely = forge("lonely")
    assert judge([lonely], [lonely]) is PathReason.PROFILE
    assert judge([ROOT], [ROOT]) == "valid"


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
