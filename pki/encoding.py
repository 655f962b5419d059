"""Encodings: what RFC 5280 and DER say of a certificate's octets beyond what the library asks for when it reads them.

`cryptography` reads strictly: lengths, integers, booleans, times, sets and defaults in their one DER form, nothing
behind an element. What it lets pass is looked for here, once for peers of a home and for the paths of others.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

from cryptography import x509

from pki.der import GENERALIZED_TIME, CertificateShape, certificate_shape, list_shape
from pki.extensions import UNREADABLE, find

__all__ = ["Fault", "encoding_faults", "list_fault"]

Fault = tuple[str, str, str, str]
"""Rule (a stable slug), field, what is wrong, clause."""

_SERIAL_OCTETS = 20
_FIRST_GENERALIZED = datetime(2050, 1, 1, tzinfo=UTC)
# Written again, these must be the octets that were read; all are 2.5.29.n. Policies are left out, since their notices
# have several string types.
_REWRITTEN: dict[type, int] = {
    x509.BasicConstraints: 19,
    x509.KeyUsage: 15,
    x509.ExtendedKeyUsage: 37,
    x509.SubjectAlternativeName: 17,
    x509.NameConstraints: 30,
    x509.PolicyConstraints: 36,
    x509.InhibitAnyPolicy: 54,
    x509.AuthorityKeyIdentifier: 35,
    x509.SubjectKeyIdentifier: 14,
}


def encoding_faults(
    certificate: x509.Certificate, *, is_anchor: bool = False, may_have_unique_ids: bool = False
) -> Iterator[Fault]:
    """Each fault; a field that cannot be read at all ends the list.

    An anchor may have the serial number zero: whoever chose it did not choose it by its number. Unique identifiers
    (§4.1.2.8) must not be written, but may be read.
    """
    try:
        shape = certificate_shape(certificate)
        if shape.has_unique_ids and not may_have_unique_ids:
            yield "unique-id", "issuerUniqueID, subjectUniqueID", "must not be there", "RFC 5280 §4.1.2.8"
        yield from _outer(certificate, shape, is_anchor=is_anchor)
        yield from _inner(certificate, shape)
    except UNREADABLE as error:
        yield "malformed", "certificate", str(error), ""


def list_fault(crl: x509.CertificateRevocationList) -> str | None:
    """What is wrong with a revocation list's encoding (RFC 5280 §5.1, §5.2.3); ValueError when it cannot be walked."""
    has_version, this_update, after = list_shape(crl)
    if not has_version and list(crl.extensions):
        return "extensions in a list of version 1"
    for tag, time in ((this_update, crl.last_update_utc), (after, crl.next_update_utc)):
        if tag == GENERALIZED_TIME and time is not None and time < _FIRST_GENERALIZED:
            return "a GeneralizedTime before 2050"
    number = find(crl.extensions, x509.CRLNumber)
    if number is not None and number.crl_number >= 1 << 8 * _SERIAL_OCTETS - 1:
        return "a number over 20 octets"
    return None


def _outer(certificate: x509.Certificate, shape: CertificateShape, *, is_anchor: bool) -> Iterator[Fault]:
    if certificate.version is not x509.Version.v3:
        yield "version", "version", "not version 3", "RFC 5280 §4.1.2.1"
    if not shape.same_algorithm:
        yield "algorithms-differ", "signatureAlgorithm", "differs from the signed one", "RFC 5280 §4.1.1.2"
    if not shape.whole_signature:
        yield "signature-encoding", "signatureValue", "has unused bits", ""
    # Not asked of the library, which warns of numbers that it will refuse one day.
    if len(shape.serial) > _SERIAL_OCTETS:
        yield "serial", "serialNumber", "over 20 octets", "RFC 5280 §4.1.2.2"
    if shape.serial[:1] >= b"\x80" or (not any(shape.serial) and not is_anchor):
        yield "serial", "serialNumber", "not positive", "RFC 5280 §4.1.2.2"
    for tag, time in (
        (shape.not_before_tag, certificate.not_valid_before_utc),
        (shape.not_after_tag, certificate.not_valid_after_utc),
    ):
        if tag == GENERALIZED_TIME and time < _FIRST_GENERALIZED:
            yield "time-form", "validity", "a GeneralizedTime before 2050", "RFC 5280 §4.1.2.5"


def _inner(certificate: x509.Certificate, shape: CertificateShape) -> Iterator[Fault]:
    for name, field in ((certificate.subject, "subject"), (certificate.issuer, "issuer")):
        if any(not item.value for item in name):
            yield "empty-attribute", field, "an attribute without a value", "RFC 5280 §4.1.2.4"
    for extension, octets in zip(certificate.extensions, shape.extensions, strict=True):
        number = _REWRITTEN.get(type(extension.value))
        if number is not None and octets != _rewritten(extension, number):
            yield "der", f"extension {extension.oid.dotted_string}", "is not in its DER form", "X.690 §10, §11"


def _rewritten(extension: x509.Extension[x509.ExtensionType], number: int) -> bytes:
    """What is inside the Extension 2.5.29.`number`, anew."""
    value = extension.value.public_bytes()
    head = b"\x06\x03\x55\x1d" + bytes((number,)) + (b"\x01\x01\xff" if extension.critical else b"")
    size = len(value)
    if size < 0x80:
        return head + bytes((0x04, size)) + value
    octets = size.to_bytes((size.bit_length() + 7) // 8)
    return head + bytes((0x04, 0x80 | len(octets))) + octets + value
