"""Reading files of strangers: every damage is one of two answers, whatever the bytes."""

from __future__ import annotations

import base64
import warnings

import pytest
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certs import AT, NOTHING_REVOKED, authority, peer, pem, root, trust

from pki.errors import CertificateInvalid, InputUnreadable, PathReason
from pki.names import Role
from pki.pem import read_certificates, read_crls
from pki.revocation import build_crl
from pki.verify import PeerVerifier, verify_file

LEAF = peer()
CHAIN = pem(LEAF, authority(Role.WORKER).certificate)
ROOT = pem(root().certificate)
DER = LEAF.public_bytes(Encoding.DER)


def armour(der: bytes) -> bytes:
    return b"-----BEGIN CERTIFICATE-----\n" + base64.encodebytes(der) + b"-----END CERTIFICATE-----\n"


def refused(chain: bytes, anchors: bytes = ROOT) -> bool:
    """Whether both profiles refuse; anything but the two documented errors fails the test."""
    answers = []
    for profile in ("rhttp", "rfc5280"):
        try:
            verify_file(chain, anchors, role=Role.WORKER, at=AT, profile=profile)  # type: ignore[arg-type]
        except (CertificateInvalid, InputUnreadable):
            answers.append(True)
        else:
            answers.append(False)
    return all(answers)


@settings(max_examples=300, deadline=None)
@given(
    position=st.integers(min_value=0, max_value=len(DER) - 1),
    value=st.integers(min_value=1, max_value=255),
)
def test_leaf_with_any_byte_changed_is_refused_in_order(position: int, value: int) -> None:
    """A changed certificate never verifies, and never surprises."""
    changed = bytearray(DER)
    changed[position] ^= value
    assert refused(armour(bytes(changed)) + pem(authority(Role.WORKER).certificate))


@settings(max_examples=150, deadline=None)
@given(
    position=st.integers(min_value=0, max_value=len(DER) - 1),
    value=st.integers(min_value=1, max_value=255),
)
def test_peer_with_any_byte_changed_is_refused_by_the_verifier(position: int, value: int) -> None:
    changed = bytearray(DER)
    changed[position] ^= value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            certificates = read_certificates(armour(bytes(changed)))
            PeerVerifier(trust()).verify(certificates, at=AT, revocation=NOTHING_REVOKED)
        except CertificateInvalid:
            return
    raise AssertionError("verified")


@settings(max_examples=150, deadline=None)
@given(data=st.binary(max_size=300), place=st.sampled_from(["chain", "anchors"]))
def test_file_of_any_bytes_is_refused_in_order(data: bytes, place: str) -> None:
    """Bytes as a file, and bytes inside a block."""
    for text in (data, armour(data)):
        assert refused(text if place == "chain" else CHAIN, text if place == "anchors" else ROOT)


@settings(max_examples=60, deadline=None)
@given(cut=st.integers(min_value=0, max_value=len(CHAIN) - 1))
def test_file_cut_anywhere_never_verifies_as_more_than_it_holds(cut: int) -> None:
    """The bundle without its issuing CA's whole block is not valid under the root."""
    assert refused(CHAIN[:cut]) == (cut < len(CHAIN) - 1)


def test_file_with_text_and_windows_line_ends_is_read() -> None:
    text = b"subject: x\r\n" + CHAIN.replace(b"\n", b"\r\n") + b"\r\nthe end"
    assert [LEAF, authority(Role.WORKER).certificate] == read_certificates(text)


def test_list_whose_issuer_cannot_be_read_decides_nothing() -> None:
    """The library decodes names late; a list is looked through before it is used."""
    der = build_crl(authority(Role.WORKER), [], number=1, at=AT).public_bytes(Encoding.DER)
    name = b"\x0c\x13rhttp-pki worker CA"
    assert der.count(name) == 1
    broken = der.replace(name, b"\xd5" + name[1:])
    text = armour(broken).replace(b"CERTIFICATE", b"X509 CRL")
    with pytest.raises(CertificateInvalid) as caught:
        verify_file(CHAIN, ROOT, role=Role.WORKER, at=AT, crls_pem=text)
    assert caught.value.reason is PathReason.STALE_CRL


def test_list_in_der_is_read_as_one_in_pem() -> None:
    """What was fetched needs no conversion. Broken, or with something behind it, it decides nothing; PEM goes first."""
    made = build_crl(authority(Role.WORKER), [], number=1, at=AT)
    der, text = made.public_bytes(Encoding.DER), made.public_bytes(Encoding.PEM)
    assert read_crls(der) == read_crls(text) == [made]
    for broken in (der[:-1], der + b"\0", b"0", b"0 is no list"):
        with pytest.raises(CertificateInvalid) as caught:
            read_crls(broken)
        assert caught.value.reason is PathReason.STALE_CRL
    assert read_crls(b"0 lists follow\n" + text) == [made]
