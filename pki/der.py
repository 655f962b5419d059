"""The few facts of a certificate's encoding that `cryptography` parses but does not tell.

Input has been parsed as DER by `cryptography` before, so this reader only walks; anything odd is still a ValueError.
"""

from __future__ import annotations

from dataclasses import dataclass

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

__all__ = [
    "GENERALIZED_TIME",
    "CertificateShape",
    "certificate_shape",
    "is_plain_key",
    "list_shape",
    "parse_policy_mappings",
]

_SEQUENCE = 0x30
_INTEGER = 0x02
_OID = 0x06
_EC_PUBLIC_KEY = bytes.fromhex("06072a8648ce3d0201")  # id-ecPublicKey, 1.2.840.10045.2.1
_RSASSA_PSS = bytes.fromhex("06092a864886f70d01010a")  # id-RSASSA-PSS, 1.2.840.113549.1.1.10
_POINT_FORMS = (2, 3, 4)
"""Compressed and uncompressed points (RFC 5480 §2.2)."""
_VERSION_TAG = 0xA0
_EXTENSIONS_TAG = 0xA3
_MAX_EXTENSIONS = 1024
GENERALIZED_TIME = 0x18


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateShape:
    """What RFC 5280 §4.1 says about the encoding of the outer fields."""

    same_algorithm: bool
    """signatureAlgorithm equals tbsCertificate.signature, parameters included (§4.1.1.2)."""
    whole_signature: bool
    """signatureValue has no unused bits: else one certificate has several encodings that verify."""
    serial: bytes
    """The serial number's octets, in two's complement."""
    not_before_tag: int
    not_after_tag: int
    has_unique_ids: bool
    """issuerUniqueID or subjectUniqueID is there (§4.1.2.8)."""
    extensions: tuple[bytes, ...]
    """What is inside each Extension, in their order."""


def certificate_shape(certificate: x509.Certificate) -> CertificateShape:
    """Walk the outer fields; ValueError when the walk does not fit."""
    der = certificate.public_bytes(Encoding.DER)
    signed, outer, signature_value = _children(der, 0, limit=3)
    inside = _children(der, signed[1], limit=10)
    if inside and inside[0][0] == _VERSION_TAG:
        inside = inside[1:]
    # serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo, (unique identifiers), (extensions)
    serial, signature, _issuer, validity, _subject, _info, *rest = inside
    tagged = {tag: content for tag, _, content, _ in rest}
    times = _children(der, validity[1], limit=2)
    return CertificateShape(
        same_algorithm=der[outer[1] : outer[3]] == der[signature[1] : signature[3]],
        whole_signature=der[signature_value[2]] == 0,
        serial=der[serial[2] : serial[3]],
        not_before_tag=times[0][0],
        not_after_tag=times[1][0],
        has_unique_ids=not tagged.keys() <= {_EXTENSIONS_TAG},
        extensions=tuple(
            der[content:end] for _, _, content, end in _children(der, tagged[_EXTENSIONS_TAG], limit=_MAX_EXTENSIONS)
        )
        if _EXTENSIONS_TAG in tagged
        else (),
    )


def list_shape(crl: x509.CertificateRevocationList) -> tuple[bool, int, int]:
    """Whether a version is written, and the tags of thisUpdate and of what follows it (RFC 5280 §5.1)."""
    inside = _children(crl.tbs_certlist_bytes, 0, limit=5)
    has_version = bool(inside) and inside[0][0] == _INTEGER
    # (version), signature, issuer, thisUpdate, (nextUpdate), …
    _signature, _issuer, this_update, after, *_ = inside[has_version:]
    return has_version, this_update[0], after[0]


def is_plain_key(signed: x509.Certificate | x509.CertificateSigningRequest) -> bool:
    """False for a subject's key about which its algorithm identifier says more than `cryptography` tells.

    An elliptic curve key whose curve is spelt out, or left out, where RFC 5480 §2.1.1 wants its name: the library takes
    the spelt out parameters of a curve that it knows for that curve's name. One whose point is in the hybrid form of
    X9.62, which RFC 5480 §2.2 does not have: it is a second encoding of the same key. An RSA key that is bound to PSS,
    and to parameters of it (RFC 4055 §1.2): the library forgets what it is bound to. ValueError when the walk does not
    fit.
    """
    if isinstance(signed, x509.Certificate):
        data = signed.tbs_certificate_bytes
        inside = _children(data, 0, limit=8)
        # (version), serialNumber, signature, issuer, validity, subject, subjectPublicKeyInfo
        info = inside[6 if inside[0][0] == _VERSION_TAG else 5]
    else:
        data = signed.tbs_certrequest_bytes
        info = _children(data, 0, limit=3)[2]  # version, subject, subjectPKInfo
    identifier, key = _children(data, info[1], limit=2)
    algorithm = _children(data, identifier[1], limit=2)
    kind = data[algorithm[0][1] : algorithm[0][3]]
    if kind == _EC_PUBLIC_KEY:
        # The key's BIT STRING begins with its count of unused bits.
        return len(algorithm) == 2 and algorithm[1][0] == _OID and data[key[2] + 1] in _POINT_FORMS
    return kind != _RSASSA_PSS


def parse_policy_mappings(value: bytes) -> tuple[tuple[str, str], ...]:
    """The (issuerDomainPolicy, subjectDomainPolicy) pairs of a policyMappings extension (RFC 5280 §4.2.1.5)."""
    pairs = []
    for tag, start, _, _ in _children(value, 0, limit=256):
        if tag != _SEQUENCE:
            raise ValueError("policy mapping is no SEQUENCE")
        oids = _children(value, start, limit=2)
        if [oid[0] for oid in oids] != [_OID, _OID]:
            raise ValueError("policy mapping holds two OIDs")
        pairs.append((_dotted(value[oids[0][2] : oids[0][3]]), _dotted(value[oids[1][2] : oids[1][3]])))
    if not pairs:
        raise ValueError("empty policy mappings")
    return tuple(pairs)


def _children(data: bytes, offset: int, *, limit: int) -> list[tuple[int, int, int, int]]:
    """(tag, start, content start, end) of up to `limit` elements inside the SEQUENCE that starts at `offset`."""
    tag, position, end = _header(data, offset)
    if tag != _SEQUENCE:
        raise ValueError("no SEQUENCE")
    found: list[tuple[int, int, int, int]] = []
    while position < end and len(found) < limit:
        if position + 2 > end:
            raise ValueError("truncated")
        length = data[position + 1]
        if length < 0x80:  # most are
            child_tag, content = data[position], position + 2
            child_end = content + length
        else:
            child_tag, content, child_end = _header(data, position)
        if child_end > end:
            raise ValueError("element runs over")
        found.append((child_tag, position, content, child_end))
        position = child_end
    return found


def _header(data: bytes, offset: int) -> tuple[int, int, int]:
    """Tag, start of the content, end of the element. Low tag numbers and definite lengths only (DER)."""
    if offset + 2 > len(data):
        raise ValueError("truncated")
    tag, first = data[offset], data[offset + 1]
    content = offset + 2
    length = first
    if first & 0x80:
        octets = first & 0x7F
        if not 1 <= octets <= 4:
            raise ValueError("length")
        length = int.from_bytes(data[content : content + octets])
        content += octets
    if content + length > len(data):
        raise ValueError("truncated")
    return tag, content, content + length


def _dotted(content: bytes) -> str:
    """An OID's content octets as dotted text (X.690 §8.19)."""
    arcs: list[int] = []
    value = 0
    for octet in content:
        value = value << 7 | octet & 0x7F
        if not octet & 0x80:
            arcs.append(value)
            value = 0
    if not arcs or content[-1] & 0x80:
        raise ValueError("OID")
    head = min(arcs[0] // 40, 2)
    return ".".join(str(arc) for arc in (head, arcs[0] - 40 * head, *arcs[1:]))
