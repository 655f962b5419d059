"""OCSP on the wire: what is a request, and what is none."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from hypothesis import given
from hypothesis import strategies as st

from pki.ocsp_codec import MAX_REQUEST, MAX_REQUESTS, OcspRequest, element, parse_request

SEQ, OID = 0x30, 0x06
SHA1 = bytes.fromhex("06052b0e03021a")
NONCE = bytes.fromhex("06092b0601050507300102")
OTHER = bytes.fromhex("06092b0601050507300104")


def seq(*parts: bytes) -> bytes:
    return element(SEQ, *parts)


def octets(data: bytes) -> bytes:
    return element(4, data)


def cert_id(serial: bytes = b"\x05", algorithm: bytes = seq(SHA1, b"\x05\x00")) -> bytes:
    return seq(algorithm, octets(b"n" * 20), octets(b"k" * 20), element(2, serial))


def extension(oid: bytes, value: bytes, critical: bytes = b"") -> bytes:
    return seq(oid, critical, octets(value))


def request(*asked: bytes, before: bytes = b"", extensions: bytes = b"", after: bytes = b"") -> bytes:
    return seq(seq(before, seq(*(asked or (seq(cert_id()),))), extensions), after)


def with_nonce(value: bytes, *more: bytes, critical: bytes = b"") -> bytes:
    return request(extensions=element(0xA2, seq(extension(NONCE, value, critical), *more)))


GOOD: dict[str, bytes] = {
    "one": request(),
    "no-parameters": request(seq(cert_id(algorithm=seq(SHA1)))),
    "several": request(*[seq(cert_id(bytes((number + 1,)))) for number in range(MAX_REQUESTS)]),
    "requestor": request(before=element(0xA1, element(0x82, b"me.example"))),
    "signature": request(after=element(0xA0, seq(b"\x05\x00"))),
    "nonce": with_nonce(octets(b"x")),
    "nonce-128": with_nonce(octets(b"x" * 128)),
    "nonce-critical": with_nonce(octets(b"x"), critical=b"\x01\x01\xff"),
    "other-extension": with_nonce(octets(b"x"), extension(OTHER, b"anything")),
    "single-extension": request(seq(cert_id(), element(0xA0, seq(extension(OTHER, b""))))),
    "serial-20": request(seq(cert_id(b"\x7f" * 20))),
    "serial-with-sign": request(seq(cert_id(b"\x00\x80"))),
    "serial-negative": request(seq(cert_id(b"\x80"))),
    "serial-zero": request(seq(cert_id(b"\x00"))),
}
BAD: dict[str, bytes] = {
    "nothing": b"",
    "behind": request() + b"\x00",
    "cut": request()[:-1],
    "none": seq(seq(seq())),
    "too-many": request(*[seq(cert_id(bytes((number + 1,)))) for number in range(MAX_REQUESTS + 1)]),
    "version-written-out": request(before=element(0xA0, b"\x02\x01\x00")),
    "version-2": request(before=element(0xA0, b"\x02\x01\x01")),
    "nonce-empty": with_nonce(octets(b"")),
    "nonce-129": with_nonce(octets(b"x" * 129)),
    "nonce-bare": with_nonce(b"x" * 16),
    "nonce-and-more": with_nonce(octets(b"x") + b"\x00"),
    "nonce-twice": with_nonce(octets(b"x"), extension(NONCE, octets(b"y"))),
    "nonce-in-one": request(seq(cert_id(), element(0xA0, seq(extension(NONCE, octets(b"x")))))),
    "other-critical": with_nonce(octets(b"x"), extension(OTHER, b"", b"\x01\x01\xff")),
    "critical-false": with_nonce(octets(b"x"), extension(OTHER, b"", b"\x01\x01\x00")),
    "critical-1": with_nonce(octets(b"x"), extension(OTHER, b"", b"\x01\x01\x01")),
    "other-twice": with_nonce(octets(b"x"), extension(OTHER, b""), extension(OTHER, b"")),
    "no-extension": request(extensions=element(0xA2, seq())),
    "serial-empty": request(seq(cert_id(b""))),
    "serial-padded": request(seq(cert_id(b"\x00\x05"))),
    "serial-padded-negative": request(seq(cert_id(b"\xff\x85"))),
    "serial-22": request(seq(cert_id(b"\x7f" * 22))),
    "parameters": request(seq(cert_id(algorithm=seq(SHA1, seq())))),
    "parameters-not-empty": request(seq(cert_id(algorithm=seq(SHA1, b"\x05\x01\x00")))),
    "more-in-the-id": request(seq(seq(cert_id()[2:], b"\x05\x00"))),
    "more-in-one": request(seq(cert_id(), b"\x05\x00")),
    "more-in-all": seq(seq(seq(seq(cert_id())), b"\x05\x00")),
    "long-length": b"\x30\x81" + request()[1:],
    "indefinite": b"\x30\x80" + request()[2:] + b"\x00\x00",
    "too-long": request(seq(cert_id(), element(0xA0, seq(extension(OTHER, b"x" * MAX_REQUEST))))),
}


@pytest.mark.parametrize("data", GOOD.values(), ids=GOOD.keys())
def test_request_is_read(data: bytes) -> None:
    """Every form that RFC 6960 allows and a client may have reason to send."""
    found = parse_request(data)
    assert found is not None
    assert b"".join(element(SEQ, one.der) for one in found.certs)[2:] in data or found.certs[0].der in data


@pytest.mark.parametrize("data", BAD.values(), ids=BAD.keys())
def test_request_that_is_none_is_refused(data: bytes) -> None:
    """What is not DER, says something twice, or demands what is not known."""
    assert parse_request(data) is None


@pytest.mark.parametrize("data", [GOOD["one"], GOOD["nonce"], GOOD["several"]], ids=["one", "nonce", "several"])
def test_request_that_is_cut_or_longer_is_refused_at_every_byte(data: bytes) -> None:
    """Half of one is none, and so is one with something behind it."""
    assert all(parse_request(data[:end]) is None for end in range(len(data)))
    assert parse_request(data + b"0") is None


def test_request_at_its_bound_is_read_and_one_byte_more_is_not() -> None:
    """4,096 bytes in all."""

    def padded(count: int) -> bytes:
        return request(seq(cert_id(), element(0xA0, seq(extension(OTHER, b"x" * count)))))

    count = MAX_REQUEST - len(padded(2000)) + 2000
    assert (len(padded(count)), parse_request(padded(count)) is not None) == (MAX_REQUEST, True)
    assert parse_request(padded(count + 1)) is None


@given(st.binary(max_size=200))
def test_any_bytes_are_a_request_or_none(data: bytes) -> None:
    """Never an error."""
    found = parse_request(data)
    assert found is None or isinstance(found, OcspRequest)


@given(st.sampled_from(sorted(GOOD)), st.integers(0, 400), st.integers(0, 255))
def test_a_byte_that_differs_makes_no_request_that_another_reader_refuses(name: str, place: int, byte: int) -> None:
    """What we read of a changed request about one certificate, `cryptography` reads the same."""
    data = bytearray(GOOD[name])
    data[place % len(data)] = byte
    found = parse_request(bytes(data))
    if found is None or len(found.certs) != 1:
        return
    try:
        other = ocsp.load_der_ocsp_request(bytes(data))
        assert other.serial_number == found.certs[0].serial
        assert other.issuer_name_hash == found.certs[0].name_hash
        assert other.issuer_key_hash == found.certs[0].key_hash
    except (ValueError, TypeError, NotImplementedError, x509.DuplicateExtension):
        pass  # it looks into what we pass over: names, signatures, OIDs that it does not know


@pytest.mark.parametrize("algorithm", [hashes.SHA1(), hashes.SHA256(), hashes.SHA384(), hashes.SHA512()])
@pytest.mark.parametrize("nonce", [None, b"x" * 16])
def test_request_of_another_implementation_is_read(algorithm: hashes.HashAlgorithm, nonce: bytes | None) -> None:
    """Serial number, hashes and nonce are those that it wrote."""
    size = algorithm.digest_size
    builder = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"n" * size, b"k" * size, 1 << 158, algorithm)
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    found = parse_request(builder.build().public_bytes(Encoding.DER))
    assert found is not None
    (one,) = found.certs
    assert (one.serial, one.name_hash, one.key_hash) == (1 << 158, b"n" * size, b"k" * size)
    assert found.nonce == (None if nonce is None else octets(nonce))


@pytest.mark.parametrize("count", [0, 1, 127, 128, 255, 256, 65535, 65536])
def test_element_has_the_shortest_length(count: int) -> None:
    """X.690 §10.1."""
    made = element(4, b"x" * count)
    head: Callable[[int], bytes] = lambda n: (  # noqa: E731
        bytes((n,)) if n < 128 else bytes((0x80 | ((n.bit_length() + 7) // 8),)) + n.to_bytes((n.bit_length() + 7) // 8)
    )
    assert made == b"\x04" + head(count) + b"x" * count
