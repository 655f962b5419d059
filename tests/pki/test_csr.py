"""Certificate signing requests: the key and nothing else."""

from __future__ import annotations

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.certs import a_key, common_name
from support.encodings import BIT_STRING, ECDSA_SHA256, KEY, SEQUENCE, key_info, point, tlv

from pki.csr import parse_request
from pki.errors import RequestInvalid
from pki.keys import KeyType

_SPKI = PublicFormat.SubjectPublicKeyInfo


def request(key: object = None, digest: hashes.HashAlgorithm | None = None) -> x509.CertificateSigningRequest:
    key = key or a_key()
    builder = x509.CertificateSigningRequestBuilder().subject_name(common_name("somebody-else"))
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    pure = not isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey)
    return builder.sign(key, None if pure else digest or hashes.SHA256())  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KeyType)
@pytest.mark.parametrize("encoding", [Encoding.PEM, Encoding.DER])
def test_request_signed_by_its_key_gives_the_key(kind: KeyType, encoding: Encoding) -> None:
    """Subject and extensions that it asks for are ignored: only the key comes back."""
    data = request(a_key(kind)).public_bytes(encoding)
    assert a_key(kind).public_key() == parse_request(data)


def test_request_with_a_broken_signature_is_refused() -> None:
    """Proof of possession: one flipped bit in the signature is no proof."""
    data = bytearray(request().public_bytes(Encoding.DER))
    data[-1] ^= 1
    with pytest.raises(RequestInvalid, match="signed"):
        parse_request(bytes(data))


def test_request_for_another_key_than_the_signer_is_refused() -> None:
    """Swapping in somebody's public key does not get a certificate for it."""
    mine = request(a_key()).public_bytes(Encoding.DER)
    point = a_key().public_key().public_bytes(Encoding.DER, _SPKI)
    other = a_key(number=1).public_key().public_bytes(Encoding.DER, _SPKI)
    with pytest.raises(RequestInvalid, match="signed"):
        parse_request(mine.replace(point, other))


def test_request_signed_with_a_weak_digest_is_refused() -> None:
    with pytest.raises(RequestInvalid, match="digest"):
        parse_request(request(digest=hashes.SHA224()).public_bytes(Encoding.PEM))


@pytest.mark.parametrize(
    "key",
    [rsa.generate_private_key(public_exponent=65537, key_size=2048), ec.generate_private_key(ec.SECP521R1())],
    ids=["rsa", "p521"],
)
def test_request_for_a_key_of_another_kind_is_refused(key: object) -> None:
    with pytest.raises(RequestInvalid, match="none of"):
        parse_request(request(key).public_bytes(Encoding.PEM))


@pytest.mark.parametrize("data", [b"", b"junk", b"-----BEGIN CERTIFICATE REQUEST-----\n", b"0" * 70_000, b"\x30\x80"])
def test_request_that_is_none_is_refused(data: bytes) -> None:
    with pytest.raises(RequestInvalid):
        parse_request(data)


@pytest.mark.parametrize("label", [b"CERTIFICATE REQUEST", b"NEW CERTIFICATE REQUEST"])
@pytest.mark.parametrize(
    "before", [b"", b"\xef\xbb\xbf", b"Certificate Request:\r\n    Data:\r\n        Version: 1 (0x0)\r\n"]
)
def test_request_with_text_around_its_block_is_read(label: bytes, before: bytes) -> None:
    """`openssl req -text`, mail and editors put text around the PEM block; it says nothing."""
    data = request().public_bytes(Encoding.PEM).replace(b"CERTIFICATE REQUEST", label)
    assert parse_request(before + data + b"\nregards\n") == parse_request(data)


def test_request_beside_another_is_refused() -> None:
    """Which of two is meant, nobody can tell."""
    data = request().public_bytes(Encoding.PEM)
    with pytest.raises(RequestInvalid, match="more than one"):
        parse_request(data + data)


def test_request_for_a_key_in_hybrid_form_is_refused() -> None:
    """RFC 5480 section 2.2 has the compressed and the uncompressed form; a third is the same key in other octets."""
    for form, is_taken in ((2, True), (6, False)):
        info = tlv(SEQUENCE, b"\x02\x01\x00", common_name("a").public_bytes(), key_info(point(form)), tlv(0xA0))
        signature = KEY.sign(info, ec.ECDSA(hashes.SHA256()))
        der = tlv(SEQUENCE, info, ECDSA_SHA256, tlv(BIT_STRING, b"\0", signature))
        if is_taken:
            assert parse_request(der) == KEY.public_key()
        else:
            with pytest.raises(RequestInvalid, match="none of"):
                parse_request(der)
