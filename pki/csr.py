"""Certificate signing requests: proof that the asker holds the key, and nothing else.

Only the public key is taken. Names, attributes and extensions in the request are ignored, not refused: tools insist on
writing a subject, and what the certificate says is decided by who asks, never by what is asked for.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_der_public_key

from pki.errors import CertificateInvalid, InputUnreadable, RequestInvalid
from pki.extensions import UNREADABLE
from pki.keys import KEY_TYPES, PublicKey, key_type
from pki.pem import read_requests
from pki.signatures import certificate_key, is_signed_by

__all__ = ["parse_key_info", "parse_request", "read_request", "require_key"]

_MAX_REQUEST = 64 << 10


def parse_request(data: bytes) -> PublicKey:
    """The public key of a PKCS #10 request in PEM or DER; see `read_request`."""
    return read_request(data)[1]


def read_request(data: bytes) -> tuple[x509.CertificateSigningRequest, PublicKey]:
    """A PKCS #10 request in PEM or DER and its public key, once its self-signature verified (RFC 2986 §4.2).

    Text around the PEM block is passed over: tools write there what the request says.

    Raises:
        RequestInvalid: unreadable, over 64 KiB, more than one, a key that is of none of our types, or a signature
            that does not verify or uses a weak digest.
    """
    if len(data) > _MAX_REQUEST:
        raise RequestInvalid("the request is over 64 KiB")
    try:
        is_pem = b"-----BEGIN " in data
        request, *others = read_requests(data) if is_pem else [x509.load_der_x509_csr(data)]
    except (CertificateInvalid, InputUnreadable, *UNREADABLE):
        raise RequestInvalid(
            "no certificate signing request in PEM or DER; make one with `openssl req -new` or a tool like it"
        ) from None
    if others:
        raise RequestInvalid("more than one certificate signing request; put each into a file of its own")
    key = require_key(certificate_key(request))
    if not is_signed_by(request, key):
        raise RequestInvalid("the request is not signed by its own key, or with a digest that is not accepted")
    return request, key


def require_key(key: object) -> PublicKey:
    """The key itself, when it is of a kind that is certified; or `RequestInvalid`."""
    if key_type(key) is None:
        raise RequestInvalid(
            f"the request's key is none of {KEY_TYPES}, or its curve is not named (RFC 5480); make such a key"
        )
    return key  # type: ignore[return-value]  # key_type said so


def parse_key_info(data: bytes) -> PublicKey:
    """The key in a SubjectPublicKeyInfo in DER, as we write it: one encoding for one key.

    So a curve is named (RFC 5480 §2.1.1) and its point not compressed. That somebody holds the private key is not
    shown by it.

    Raises:
        RequestInvalid: unreadable, another encoding of it, or a kind of key that is not certified.
    """
    try:
        key = require_key(load_der_public_key(data))
    except UNREADABLE:
        raise RequestInvalid("no SubjectPublicKeyInfo in DER") from None
    if key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) != data:
        raise RequestInvalid("another encoding of the SubjectPublicKeyInfo than the usual one")
    return key
