"""EST (RFC 7030, clarified by RFC 8951) as values: paths, the content of requests, the content of answers. Pure.

Content is base64 of DER, as RFC 8951 section 3.1 has it: no ``Content-Transfer-Encoding``, white space anywhere.

Trust: meets bytes of strangers. What a request holds is parsed here, where no key is that could sign it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID

from pki.csr import read_request
from pki.errors import NameInvalid, RequestInvalid
from pki.keys import PublicKey
from pki.names import parse_name

PREFIX: Final = b"/.well-known/est/"
MAX_REQUEST: Final = 16 * 1024
"""Bytes of a request's content: the largest key that is taken needs 4 KiB."""
CERTS_ONLY: Final = b"application/pkcs7-mime; smime-type=certs-only"
CA_CERTS: Final = b"application/pkcs7-mime"
CSR_ATTRS: Final = b"application/csrattrs"
PKCS10: Final = b"application/pkcs10"

# SEQUENCE { Attribute { id-ecPublicKey, SET { secp256r1 } }, ecdsa-with-SHA256 } (RFC 7030 section 4.5.2): what suits.
_CSR_ATTRS: Final = bytes.fromhex("3021301506072a8648ce3d0201310a06082a8648ce3d03010706082a8648ce3d040302")
_WHITE: Final = b" \t\r\n"


class WantedKey:
    """What is taken of a request: a key that signed it, and the name in its subject, empty when there is none."""

    __slots__ = ("name", "spki")

    def __init__(self, name: str, spki: bytes) -> None:
        self.name = name
        self.spki = spki
        """DER of the SubjectPublicKeyInfo."""


def read_enrolment(content: bytes) -> WantedKey:
    """The key and the name of a ``simpleenroll`` or ``simplereenroll`` request. Everything else in it is passed over.

    Raises:
        RequestInvalid: it is no base64, no PKCS #10 request that is signed by its own key, the key is of a kind that is
            not taken, or its subject has a common name that is no NAME, or several.
    """
    request, key = read_request(_unarmoured(content))
    return WantedKey(_name(request), spki_of(key))


def spki_of(key: PublicKey) -> bytes:
    """DER of a key's SubjectPublicKeyInfo (RFC 5280 section 4.1)."""
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def certs_only(certificates: Sequence[bytes]) -> bytes:
    """DER certificates as the content of an answer: a certs-only CMS message, base64 in lines of 64."""
    from cryptography.hazmat.primitives.serialization import pkcs7  # here: with it comes all that mail needs

    parsed = [x509.load_der_x509_certificate(one) for one in certificates]
    return _armoured(pkcs7.serialize_certificates(parsed, Encoding.DER))


def csr_attributes() -> bytes:
    """The content of an answer to ``csrattrs``: a P-256 key, signed with SHA-256. Other kinds are taken, too."""
    return _armoured(_CSR_ATTRS)


def _armoured(der: bytes) -> bytes:
    text = base64.b64encode(der)
    return b"".join(b"%b\r\n" % text[at : at + 64] for at in range(0, len(text), 64))


def _unarmoured(content: bytes) -> bytes:
    try:
        return base64.b64decode(content.translate(None, _WHITE), validate=True)
    except (binascii.Error, ValueError):
        raise RequestInvalid("the content is no base64 (RFC 8951 section 3.1)") from None


def _name(request: x509.CertificateSigningRequest) -> str:
    names = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    if not names:
        return ""
    value = names[0].value
    if len(names) > 1 or not isinstance(value, str):
        raise RequestInvalid("the request's subject has more than one common name")
    try:
        return parse_name(value)
    except NameInvalid as error:
        raise RequestInvalid(str(error)) from None
