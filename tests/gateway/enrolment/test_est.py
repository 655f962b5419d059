"""EST's content: what is taken of a request, and what an answer is made of."""

from __future__ import annotations

import base64

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st
from support.certs import requested

from gateway.enrolment.est import certs_only, csr_attributes, read_enrolment, spki_of
from pki.errors import RequestInvalid

KEY = ec.generate_private_key(ec.SECP256R1())


def armoured(der: bytes) -> bytes:
    return base64.encodebytes(der)


def test_request_gives_its_key_and_name() -> None:
    """And nothing else of what it says."""
    wanted = read_enrolment(armoured(requested(KEY, "w1")))
    assert (wanted.name, wanted.spki) == ("w1", spki_of(KEY.public_key()))


def test_request_without_a_subject_names_nobody() -> None:
    """Then the token says for whom it is."""
    assert read_enrolment(armoured(requested(KEY))).name == ""


@pytest.mark.parametrize("between", [b"", b"\n", b"\r\n", b" ", b"\t\r\n "])
def test_request_may_have_white_space_anywhere(between: bytes) -> None:
    """RFC 8951 section 3.1: lines of whatever length, or none."""
    text = base64.b64encode(requested(KEY, "w1"))
    assert read_enrolment(between.join([b"", text[:7], text[7:90], text[90:], b""])).name == "w1"


def test_request_for_a_certification_authority_is_read_as_any_other() -> None:
    """What it asks for is passed over: the certificate says what its profile says."""
    constraints = x509.BasicConstraints(ca=True, path_length=None)
    assert read_enrolment(armoured(requested(KEY, "w1", constraints))).name == "w1"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "no certificate signing request"),
        (b"MIIB*", "no base64"),
        (b"MIIB", "no certificate signing request"),
        (armoured(requested(KEY, "W1")), "is no name"),
        (armoured(requested(KEY, "w1", others=("w2",))), "more than one common name"),
        (armoured(requested(KEY, "w1")[:-1]), "no certificate signing request"),
        (armoured(requested(ec.generate_private_key(ec.SECP521R1()), "w1")), "key is none of"),
    ],
)
def test_request_that_is_none_says_why(content: bytes, said: str) -> None:
    """One line, for whoever sent it."""
    with pytest.raises(RequestInvalid, match=said):
        read_enrolment(content)


def test_request_that_another_key_signed_is_refused() -> None:
    """Whoever asks has to have the key."""
    der = bytearray(requested(KEY, "w1"))
    der[-1] ^= 1
    with pytest.raises(RequestInvalid, match=r"not signed by its own key|no certificate signing request"):
        read_enrolment(armoured(bytes(der)))


@given(st.binary(max_size=300))
def test_request_of_any_bytes_is_read_or_refused(content: bytes) -> None:
    """Total: nothing else is raised."""
    with pytest.raises(RequestInvalid):
        read_enrolment(content)


def test_answer_holds_the_certificates_in_order() -> None:
    """A certs-only CMS message, in lines of 64 letters."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    made = [_self_signed(name, serial) for serial in (5, 6)]
    text = certs_only([one.public_bytes(Encoding.DER) for one in made])
    assert max(map(len, text.split(b"\r\n"))) == 64
    assert {one.serial_number for one in pkcs7.load_der_pkcs7_certificates(base64.b64decode(text))} == {5, 6}


def test_attributes_are_der_that_names_p256() -> None:
    """RFC 7030 section 4.5.2: a SEQUENCE of attributes and object identifiers."""
    der = base64.b64decode(csr_attributes())
    assert (der[0], der[1]) == (0x30, len(der) - 2)
    assert bytes.fromhex("06082a8648ce3d030107") in der


def _self_signed(name: x509.Name, serial: int) -> x509.Certificate:
    import datetime

    start = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC)
    builder = x509.CertificateBuilder(name, name, KEY.public_key(), serial, start, start + datetime.timedelta(days=1))
    return builder.sign(KEY, SHA256())
