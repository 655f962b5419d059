"""An OCSP responder (RFC 6960): certificates for its keys, and answers out of revocation lists.

Each CA lends a key of its own for short (`build_responder`: id-kp-OCSPSigning, id-pkix-ocsp-nocheck), so that whoever
meets strangers has no key of a CA. The word of a responder is that of the CA's list: *good* means that the list in
force does not name the serial number, not that the number was ever given.

Pure: time and entropy are arguments.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from pki.issue import IssuerKey, serial_hex
from pki.keys import PublicKey
from pki.ocsp_codec import (
    GOOD,
    CertId,
    OcspRequest,
    ResponseStatus,
    response_data,
    revoked,
    single_response,
    successful,
    unsuccessful,
)
from pki.profiles import CLOCK_CUSHION, key_usage
from pki.revocation import RevocationReason, RevokedEntry
from pki.signatures import sign_certificate
from pki.template import serial_from

__all__ = ["Responder", "Responders", "Revoked", "build_responder", "revoked_in"]

_ECDSA_SHA256: Final = bytes.fromhex("300a06082a8648ce3d040302")
_HASHES: Final[dict[bytes, hashes.HashAlgorithm]] = {
    bytes.fromhex("06052b0e03021a"): hashes.SHA1(),  # noqa: S303 - names an issuer (RFC 6960 §4.3), proves nothing
    bytes.fromhex("0609608648016503040201"): hashes.SHA256(),
    bytes.fromhex("0609608648016503040202"): hashes.SHA384(),
    bytes.fromhex("0609608648016503040203"): hashes.SHA512(),
}
_REASONS: Final = {
    RevocationReason.UNSPECIFIED: 0,
    RevocationReason.KEY_COMPROMISE: 1,
    RevocationReason.AFFILIATION_CHANGED: 3,
    RevocationReason.SUPERSEDED: 4,
    RevocationReason.CESSATION_OF_OPERATION: 5,
    RevocationReason.PRIVILEGE_WITHDRAWN: 9,
}

Revoked = Mapping[str, Sequence[int]]
"""Serial number (lower-case hex) to when it was revoked (seconds since the epoch) and the number of the CRLReason."""


def revoked_in(entries: Iterable[RevokedEntry]) -> dict[str, tuple[int, int]]:
    """What a responder has to know of a list with these entries."""
    return {serial_hex(entry.serial): (int(entry.revoked_at.timestamp()), _REASONS[entry.reason]) for entry in entries}


def build_responder(
    issuer: IssuerKey, public_key: PublicKey, *, at: datetime, lifetime: timedelta, entropy: bytes
) -> x509.Certificate:
    """The certificate of a responder for what `issuer` issued (§4.2.2.2), good for `lifetime`, not past the issuer."""
    above = issuer.certificate
    at = at.replace(microsecond=0)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "rhttp-pki OCSP responder")])
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(above.subject)
        .public_key(public_key)
        .serial_number(serial_from(entropy))
        .not_valid_before(max(at - CLOCK_CUSHION, above.not_valid_before_utc))
        .not_valid_after(min(at + lifetime, above.not_valid_after_utc).replace(microsecond=0))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        .add_extension(key_usage(frozenset({"digital_signature"})), True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.OCSP_SIGNING]), False)
        .add_extension(x509.OCSPNoCheck(), False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), False)
        .add_extension(
            x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(
                above.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
            ),
            False,
        )
    )
    return sign_certificate(builder, issuer.key)


@dataclass(frozen=True, slots=True, kw_only=True)
class Responder:
    """Who answers for one CA, and what the CA's list says. The key is on P-256."""

    issuer: x509.Certificate
    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)
    this_update: datetime
    next_update: datetime
    revoked: Revoked = field(repr=False)

    def answer(self, request: OcspRequest, at: datetime) -> bytes:
        """A signed response about all that is asked."""
        begin, end = self.this_update, self.next_update
        said = [single_response(one, self._status(one.serial), begin, end) for one in request.certs]
        point = self.certificate.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        data = response_data(_digest(hashes.SHA1(), point), at, said, request.nonce)  # noqa: S303 - §4.2.1, KeyHash
        signature = self.key.sign(data, ec.ECDSA(hashes.SHA256()))
        return successful(data, _ECDSA_SHA256, signature, self.certificate.public_bytes(Encoding.DER))

    def _status(self, serial: int) -> bytes:
        found = self.revoked.get(serial_hex(serial)) if serial > 0 else None
        if found is None:
            return GOOD
        when, reason = found
        return revoked(datetime.fromtimestamp(when, UTC), reason or None)  # §5.3.1: absent rather than unspecified

    def is_in_force(self, at: datetime) -> bool:
        """Whether its certificate and its list hold at this time."""
        certificate = self.certificate
        return certificate.not_valid_before_utc <= at <= min(certificate.not_valid_after_utc, self.next_update)


class Responders:
    """The responders of several CAs: finds whom a request asks, and has it answered."""

    __slots__ = ("_by_issuer",)

    def __init__(self, responders: Sequence[Responder]) -> None:
        self._by_issuer: dict[tuple[bytes, bytes, bytes], Responder] = {}
        for responder in responders:
            name = responder.issuer.subject.public_bytes()
            key = _key_bits(responder.issuer)
            for oid, algorithm in _HASHES.items():
                self._by_issuer[oid, _digest(algorithm, name), _digest(algorithm, key)] = responder

    def find(self, request: OcspRequest, at: datetime) -> Responder | bytes:
        """Who answers, or the response that says why nobody does.

        A responder may speak for its own CA only, so all that one request asks about must be of one CA.
        """
        found = {id(one): one for one in map(self._of, request.certs) if one is not None}
        if len(found) != 1 or any(self._of(one) is None for one in request.certs):
            return unsuccessful(ResponseStatus.UNAUTHORIZED)
        (responder,) = found.values()
        return responder if responder.is_in_force(at) else unsuccessful(ResponseStatus.TRY_LATER)

    def _of(self, cert: CertId) -> Responder | None:
        return self._by_issuer.get((cert.algorithm, cert.name_hash, cert.key_hash))


def _key_bits(certificate: x509.Certificate) -> bytes:
    """The value of the subjectPublicKey BIT STRING, of which KeyHash is made (§4.1.1): algorithm and padding apart."""
    info = certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    at, end = _inside(info, 0)
    at = _inside(info, at)[1]  # past the algorithm
    at, end = _inside(info, at)
    return info[at + 1 : end]


def _inside(data: bytes, at: int) -> tuple[int, int]:
    """Where the content of the element at this place begins and ends."""
    first, content = data[at + 1], at + 2
    if not first & 0x80:
        return content, content + first
    octets = first & 0x7F
    return content + octets, content + octets + int.from_bytes(data[content : content + octets])


def _digest(algorithm: hashes.HashAlgorithm, data: bytes) -> bytes:
    context = hashes.Hash(algorithm)
    context.update(data)
    return context.finalize()
