"""Leaves put together octet by octet, for encodings that no builder makes."""

from __future__ import annotations

import base64
import warnings
from collections.abc import Iterable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.certs import Pair, common_name, forge

SEQUENCE, SET, BIT_STRING, OCTET_STRING = 0x30, 0x31, 0x03, 0x04
UTF8_STRING, UTC_TIME, GENERALIZED_TIME = 0x0C, 0x17, 0x18
NULL = b"\x05\x00"
TRUE = b"\x01\x01\xff"


def tlv(tag: int, *parts: bytes) -> bytes:
    """One element, with its length in as few octets as can be."""
    content = b"".join(parts)
    size = len(content)
    if size < 0x80:
        return bytes([tag, size]) + content
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return bytes([tag, 0x80 | len(octets)]) + octets + content


def oid(dotted: str) -> bytes:
    """An OBJECT IDENTIFIER."""
    first, second, *rest = (int(arc) for arc in dotted.split("."))
    content = b""
    for arc in (40 * first + second, *rest):
        octets = [arc & 0x7F]
        while arc := arc >> 7:
            octets.insert(0, arc & 0x7F | 0x80)
        content += bytes(octets)
    return tlv(0x06, content)


def extension(dotted: str, value: bytes, critical: bytes = b"") -> bytes:
    """An Extension; `critical` is its whole BOOLEAN."""
    return tlv(SEQUENCE, oid(dotted), critical, tlv(OCTET_STRING, value))


def time(moment: str) -> bytes:
    """UTCTime or GeneralizedTime, as the text is long."""
    return tlv(UTC_TIME if len(moment) == 13 else GENERALIZED_TIME, moment.encode())


def name(*attributes: bytes) -> bytes:
    """A Name of one RDN, whose common name has these values (each a whole element)."""
    return tlv(SEQUENCE, tlv(SET, *(tlv(SEQUENCE, oid("2.5.4.3"), value) for value in attributes)))


ROOT = forge("root", ca=True)
KEY = ec.derive_private_key(3, ec.SECP256R1())
_POINT = KEY.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
P256 = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
ECDSA_SHA256 = bytes.fromhex("300a06082a8648ce3d040302")
ECDSA_SHA384 = bytes.fromhex("300a06082a8648ce3d040303")
_VALIDITY = tlv(SEQUENCE, time("260228120000Z"), time("260302120000Z"))

BASIC, USAGE, SUBJECT_KEY, AUTHORITY_KEY = "2.5.29.19", "2.5.29.15", "2.5.29.14", "2.5.29.35"
PURPOSE, NAMES, CONSTRAINTS, POLICIES = "2.5.29.37", "2.5.29.17", "2.5.29.30", "2.5.29.32"
MAPPINGS = "2.5.29.33"
USUAL = {
    BASIC: extension(BASIC, tlv(SEQUENCE), TRUE),
    USAGE: extension(USAGE, bytes.fromhex("03020780"), TRUE),
    SUBJECT_KEY: extension(SUBJECT_KEY, x509.SubjectKeyIdentifier.from_public_key(KEY.public_key()).public_bytes()),
    AUTHORITY_KEY: extension(
        AUTHORITY_KEY, x509.AuthorityKeyIdentifier.from_issuer_public_key(ROOT.key.public_key()).public_bytes()
    ),
    PURPOSE: extension(PURPOSE, tlv(SEQUENCE, oid("1.3.6.1.5.5.7.3.2"))),
    NAMES: extension(NAMES, tlv(SEQUENCE, tlv(0x82, b"peer.example.com"))),
}


def replacing(dotted: str, *changed: bytes) -> list[bytes]:
    """The usual extensions of a client's leaf, with these in the place of one, or in addition."""
    return [*(kept for own, kept in USUAL.items() if own != dotted), *changed]


def named(*names: bytes) -> list[bytes]:
    """The usual extensions with these general names."""
    return replacing(NAMES, extension(NAMES, tlv(SEQUENCE, *names)))


def key_info(point: bytes = _POINT, *, algorithm: bytes = P256, unused: int = 0, after: bytes = b"") -> bytes:
    """A SubjectPublicKeyInfo."""
    return tlv(SEQUENCE, algorithm, tlv(BIT_STRING, bytes([unused]), point), after)


def point(form: int) -> bytes:
    """The leaf's key in another form of X9.62: 2 compressed, 6 hybrid; its parity is added."""
    return bytes([form | _POINT[-1] & 1]) + (_POINT[1:33] if form == 2 else _POINT[1:])


def assemble(
    *,
    signer: Pair = ROOT,
    version: bytes = tlv(0xA0, b"\x02\x01\x02"),
    serial: bytes = b"\x02\x01\x05",
    inner: bytes = ECDSA_SHA256,
    outer: bytes = ECDSA_SHA256,
    validity: bytes = _VALIDITY,
    subject: bytes = common_name("leaf").public_bytes(),
    info: bytes = key_info(),
    unique_ids: bytes = b"",
    extensions: Iterable[bytes] = tuple(USUAL.values()),
    after: bytes = b"",
    unused: int = 0,
) -> bytes:
    """A leaf in DER, valid as it stands; `after` follows inside the signed part. The signer's key is on P-256."""
    issuer = signer.certificate.subject.public_bytes()
    fields = tlv(0xA3, tlv(SEQUENCE, *extensions))
    signed = tlv(SEQUENCE, version, serial, inner, issuer, validity, subject, info, unique_ids, fields, after)
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    signature = signer.key.sign(signed, ec.ECDSA(hashes.SHA256()))
    return tlv(SEQUENCE, signed, outer, tlv(BIT_STRING, bytes([unused]), signature))


def assemble_list(
    *,
    version: bytes = b"\x02\x01\x01",
    inner: bytes = ECDSA_SHA256,
    outer: bytes = ECDSA_SHA256,
    this_update: bytes = time("260228120000Z"),
    next_update: bytes = time("260302120000Z"),
    number: bytes = b"\x02\x01\x01",
    entry: Sequence[bytes] = (),
) -> bytes:
    """A revocation list of `ROOT` in DER that revokes serial 7; `entry` are extensions of its one line."""
    issuer = ROOT.certificate.subject.public_bytes()
    lines = tlv(SEQUENCE, b"\x02\x01\x07", time("260101000000Z"), tlv(SEQUENCE, *entry) if entry else b"")
    fields = tlv(0xA0, tlv(SEQUENCE, USUAL[AUTHORITY_KEY], extension("2.5.29.20", number)))
    signed = tlv(SEQUENCE, version, inner, issuer, this_update, next_update, tlv(SEQUENCE, lines), fields)
    assert isinstance(ROOT.key, ec.EllipticCurvePrivateKey)
    return tlv(SEQUENCE, signed, outer, tlv(BIT_STRING, b"\0", ROOT.key.sign(signed, ec.ECDSA(hashes.SHA256()))))


def loaded(der: bytes) -> x509.Certificate:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some encodings are on the library's list of what it will refuse one day
        return x509.load_der_x509_certificate(der)


def armoured(der: bytes) -> bytes:
    """PEM of octets that may be no certificate."""
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"
