"""Reading PEM files of certificates, revocation lists and signing requests, with the two failures told apart.

No block of the kind, a block without end, or base64 that is none: the file is unreadable (`InputUnreadable`). A block
whose content is no DER X.509: the certificate is malformed (`CertificateInvalid`). Text around blocks is allowed, as
bundles and requests carry it (RFC 7468 §5.2).
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Callable
from typing import TypeVar

from cryptography import x509

from pki.errors import CertificateInvalid, InputUnreadable, PathReason
from pki.extensions import UNREADABLE

__all__ = ["read_certificates", "read_crls", "read_requests"]

T = TypeVar("T")

_MAX_BYTES = 64 << 20
_MAX_BLOCKS = 4096
_SEQUENCE = b"\x30"


def read_certificates(data: bytes, *, what: str = "certificate file") -> list[x509.Certificate]:
    """One or more certificates, in their order."""
    return _read(data, b"(?:X509 )?CERTIFICATE", _load_certificate, what, PathReason.MALFORMED)


def read_crls(data: bytes) -> list[x509.CertificateRevocationList]:
    """One or more revocation lists in PEM, or one in DER, as it is fetched.

    One that is no DER is `CertificateInvalid` (stale_crl): it decides nothing.
    """
    if data[:1] == _SEQUENCE and b"-----BEGIN X509 CRL-----" not in data and len(data) <= _MAX_BYTES:
        return [_parse(data, _load_crl, "revocation list", PathReason.STALE_CRL)]
    return _read(data, b"X509 CRL", _load_crl, "revocation list", PathReason.STALE_CRL)


def read_requests(data: bytes) -> list[x509.CertificateSigningRequest]:
    """One or more requests (PKCS #10), under either of their labels (RFC 7468 §7)."""
    label = b"(?:NEW )?CERTIFICATE REQUEST"
    return _read(data, label, x509.load_der_x509_csr, "signing request", PathReason.MALFORMED)


def _load_certificate(der: bytes) -> x509.Certificate:
    certificate = x509.load_der_x509_certificate(der)
    # Names are decoded late by the library; a path cannot be built around one that cannot be read.
    _ = certificate.subject, certificate.issuer
    return certificate


def _load_crl(der: bytes) -> x509.CertificateRevocationList:
    crl = x509.load_der_x509_crl(der)
    _ = crl.issuer
    return crl


def _read(data: bytes, label: bytes, load: Callable[[bytes], T], what: str, reason: PathReason) -> list[T]:
    if len(data) > _MAX_BYTES:
        raise InputUnreadable(f"the {what} is over {_MAX_BYTES >> 20} MiB")
    begins = re.findall(rb"-----BEGIN %b-----" % label, data)
    blocks = re.findall(rb"-----BEGIN (%b)-----([A-Za-z0-9+/=\s]+)-----END \1-----" % label, data)
    if not begins or len(begins) != len(blocks) or len(blocks) > _MAX_BLOCKS:
        raise InputUnreadable(f"the {what} holds no PEM block of the right kind, a damaged one, or too many")
    return [_load(body, load, what, reason) for _, body in blocks]


def _load(body: bytes, load: Callable[[bytes], T], what: str, reason: PathReason) -> T:
    try:
        der = base64.b64decode(b"".join(body.split()), validate=True)
    except binascii.Error:
        raise InputUnreadable(f"the {what} holds a damaged PEM block") from None
    return _parse(der, load, what, reason)


def _parse(der: bytes, load: Callable[[bytes], T], what: str, reason: PathReason) -> T:
    try:
        return load(der)
    except UNREADABLE as error:
        raise CertificateInvalid(reason, f"{what}: {error}") from None
