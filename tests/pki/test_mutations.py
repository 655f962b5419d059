"""Paths of our own with octets changed: every answer is one of the documented ones, and none is yes."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certs import AT, NOTHING_REVOKED, authority, peer, pem, root, server, trust
from support.encodings import BIT_STRING, ECDSA_SHA256, SEQUENCE, armoured, tlv

from pki.errors import CertificateInvalid, InputUnreadable
from pki.extensions import UNREADABLE
from pki.names import Role
from pki.verify import PeerVerifier, verify_file, verify_peer

Edit = tuple[float, int, int]
"""Where (a part of the whole), which operation, and with which octet."""

_TAGS = (
    0x00,
    0x01,
    0x02,
    0x03,
    0x04,
    0x05,
    0x06,
    0x0C,
    0x13,
    0x16,
    0x17,
    0x18,
    0x30,
    0x31,
    0x7F,
    0x80,
    0x82,
    0xA0,
    0xFF,
)
EDITS = st.lists(
    st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 3), st.integers(0, 255) | st.sampled_from(_TAGS)),
    min_size=1,
    max_size=3,
)


@functools.cache
def chain(role: Role) -> tuple[bytes, bytes]:
    """A leaf and its CA in DER."""
    leaf = server() if role is Role.SERVER else peer(role)
    return leaf.public_bytes(Encoding.DER), authority(role).certificate.public_bytes(Encoding.DER)


def edited(der: bytes, edits: list[Edit]) -> bytes:
    data = bytearray(der)
    for place, operation, octet in edits:
        at = int(place * len(data))
        match operation:
            case 0:
                data[at] ^= octet
            case 1:
                data[at] = octet
            case 2:
                data.insert(at, octet)
            case _:
                del data[at : at + 1 + octet % 4]
    return bytes(data)


@contextmanager
def quiet() -> Iterator[None]:
    """The library warns of what it will refuse one day; the answer counts here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@given(role=st.sampled_from(Role), profile=st.sampled_from(("rhttp", "rfc5280")), which=st.integers(0, 1), edits=EDITS)
@settings(max_examples=400)
def test_file_with_octets_changed_is_never_valid(
    role: Role, profile: Literal["rhttp", "rfc5280"], which: int, edits: list[Edit]
) -> None:
    """Leaf or CA, signed part, algorithm or signature: invalid or unreadable, and nothing else is raised."""
    whole = chain(role)
    changed = tuple(edited(der, edits) if place == which else der for place, der in enumerate(whole))
    data = b"".join(map(armoured, changed))
    try:
        verify_file(data, pem(root().certificate), role=role, at=AT, profile=profile)
    except (CertificateInvalid, InputUnreadable):
        assert changed != whole
    else:
        assert changed == whole


@given(role=st.sampled_from((Role.CLIENT, Role.WORKER, Role.MASTER)), edits=EDITS)
@settings(max_examples=400)
def test_peer_with_octets_changed_is_never_taken(role: Role, edits: list[Edit]) -> None:
    """As in a handshake, where a certificate that cannot be parsed at all never comes to us."""
    der = chain(role)[0]
    changed = edited(der, edits)
    with quiet():
        try:
            leaf = x509.load_der_x509_certificate(changed)
        except UNREADABLE:
            assert changed != der
            return
        try:
            PeerVerifier(trust()).verify((leaf,), at=AT, revocation=NOTHING_REVOKED)
        except CertificateInvalid:
            assert changed != der
        else:
            assert changed == der


def signed_anew(role: Role, edits: list[Edit]) -> bytes:
    """The role's leaf with octets of its signed part changed, in the same length, and signed by its CA all the same."""
    tbs = bytearray(x509.load_der_x509_certificate(chain(role)[0]).tbs_certificate_bytes)
    for place, _, octet in edits:
        tbs[int(place * len(tbs))] = octet
    key = authority(role).key
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    signature = key.sign(bytes(tbs), ec.ECDSA(hashes.SHA256()))
    return tlv(SEQUENCE, bytes(tbs), ECDSA_SHA256, tlv(BIT_STRING, b"\0", signature))


@given(role=st.sampled_from((Role.CLIENT, Role.WORKER, Role.MASTER)), edits=EDITS)
@settings(max_examples=400)
def test_leaf_of_a_careless_ca_gets_one_answer_from_the_door_and_from_verify(role: Role, edits: list[Edit]) -> None:
    """Whatever a CA signed: nothing but a refusal is raised, and who is let in would be called valid."""
    der = signed_anew(role, edits)
    chain_pem = armoured(der) + pem(authority(role).certificate)
    try:
        verify_file(chain_pem, pem(root().certificate), role=role, at=AT)
        is_valid = True
    except CertificateInvalid:
        is_valid = False
    with quiet():
        try:
            verify_peer(
                (x509.load_der_x509_certificate(der),),
                trust=trust(),
                roles=frozenset({role}),
                at=AT,
                revocation=NOTHING_REVOKED,
            )
        except (CertificateInvalid, *UNREADABLE):
            return
    assert is_valid


@given(data=st.binary(max_size=400), profile=st.sampled_from(("rhttp", "rfc5280")))
def test_file_of_any_octets_is_never_valid(data: bytes, profile: Literal["rhttp", "rfc5280"]) -> None:
    """Whatever stands in the block, and whatever stands in the file."""
    for content in (data, armoured(data)):
        try:
            verify_file(content, pem(root().certificate), role=Role.WORKER, at=AT, profile=profile)
        except (CertificateInvalid, InputUnreadable):
            continue
        raise AssertionError
