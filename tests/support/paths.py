"""Shapes of paths: a valid one with one thing changed, and how `rfc5280` judges them."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from support.certs import AT, Extension, Pair, common_name, forge, patched, pem

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


def spelt_out(pair: Pair, issuer: Pair) -> Pair:
    """The certificate with the parameters of its curve (P-256) written out instead of named, and signed anew."""
    named = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107034200")
    tbs = pair.certificate.tbs_certificate_bytes
    start = tbs.index(named)
    info = bytes.fromhex("3082014b3082010306072a8648ce3d0201") + _P256 + bytes.fromhex("034200")
    point = tbs[start + len(named) : start + len(named) + 65]
    body = _content(tbs[: start - 2] + info + point + tbs[start + len(named) + 65 :])
    tbs = b"\x30\x82" + len(body).to_bytes(2) + body
    assert isinstance(issuer.key, ec.EllipticCurvePrivateKey)
    signature = b"\0" + issuer.key.sign(tbs, ec.ECDSA(hashes.SHA256()))
    whole = tbs + bytes.fromhex("300a06082a8648ce3d040302") + b"\x03" + bytes([len(signature)]) + signature
    der = b"\x30\x82" + len(whole).to_bytes(2) + whole
    return Pair(certificate=x509.load_der_x509_certificate(der), key=pair.key)


def _content(element: bytes) -> bytes:
    """What is in a SEQUENCE whose length takes two octets; the length itself is not looked at."""
    assert element[:2] == b"\x30\x82"
    return element[4:]


# ECParameters of P-256 as RFC 3279 §2.3.5 has them: version, prime field, curve, base point, order, cofactor.
_P256 = bytes.fromhex(
    "3081f7020101302c06072a8648ce3d0101022100ffffffff00000001000000000000000000000000ffffffffffffffffffffffff305b0420"
    "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc04205ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53"
    "b0f63bce3c3e27d2604b031500c49d360886e704936a6678e1139d26b7819f7e900441046b17d1f2e12c4247f8bce6e563a440f277037d81"
    "2deb33a0f4a13945d898c2964fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5022100ffffffff00000000ff"
    "ffffffffffffffbce6faada7179e84f3b9cac2fc632551020101"
)


def explicit_leaf() -> Shape:
    return [spelt_out(forge("leaf", ROOT), ROOT)], [ROOT]


def explicit_ca() -> Shape:
    middle = spelt_out(forge("middle", ROOT, ca=True), ROOT)
    return [forge("leaf", middle), middle], [ROOT]


def explicit_root() -> Shape:
    plain = forge("root", ca=True)
    root = spelt_out(plain, plain)
    return [forge("leaf", root)], [root]


def nameless_anchor() -> Shape:
    """An anchor without any key identifier."""
    return anchor(drop=(x509.SubjectKeyIdentifier, x509.AuthorityKeyIdentifier))


def rooted_in_itself() -> Shape:
    """An anchor whose authority key identifier also has its own name and number, as old tools make it."""
    key = ec.generate_private_key(ec.SECP256R1())
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key()).digest
    above = x509.AuthorityKeyIdentifier(own, [x509.DirectoryName(common_name("root"))], 5)
    return anchor((above, False), key=key, serial=5)


def sans(*names: x509.GeneralName) -> Extension:
    return x509.SubjectAlternativeName(names), False


def alternative(name: x509.GeneralName) -> Shape:
    """A leaf with this alternative name."""
    return leaf(sans(name))


def lone_anchor() -> Shape:
    """The intermediate itself is trusted; its root comes along and is of no use."""
    return [forge("leaf", INTERMEDIATE), ROOT], [INTERMEDIATE]
