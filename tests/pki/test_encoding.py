"""Encodings that a library reads and RFC 5280 or DER does not allow, in leaves of any path and of a home."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from support.certs import AT, NOTHING_REVOKED, Pair, authority, peer, pem, root, trust
from support.encodings import (
    AUTHORITY_KEY,
    BASIC,
    CONSTRAINTS,
    ECDSA_SHA256,
    ECDSA_SHA384,
    GENERALIZED_TIME,
    KEY,
    MAPPINGS,
    NULL,
    P256,
    POLICIES,
    PURPOSE,
    ROOT,
    SEQUENCE,
    SET,
    SUBJECT_KEY,
    TRUE,
    USAGE,
    USUAL,
    UTC_TIME,
    UTF8_STRING,
    armoured,
    assemble,
    assemble_list,
    extension,
    key_info,
    loaded,
    name,
    named,
    oid,
    point,
    replacing,
    time,
    tlv,
)

from pki.errors import CertificateInvalid, PathReason
from pki.names import PEER_ROLES, Role
from pki.revocation import CrlView
from pki.verify import verify_file, verify_peer

MALFORMED, NAME, PROFILE = PathReason.MALFORMED, PathReason.NAME, PathReason.PROFILE
Answer = PathReason | Literal["valid"]
BEGIN, END = time("260228120000Z"), time("260302120000Z")
EXTRA = "1.3.6.1.4.1.55555.1"
FALSE = b"\x01\x01\x00"


def usage(bits: str) -> Mapping[str, Any]:
    return {"extensions": replacing(USAGE, extension(USAGE, bytes.fromhex(bits), TRUE))}


def policies(*dotted: str) -> Mapping[str, Any]:
    infos = (tlv(SEQUENCE, oid(one)) for one in dotted)
    return {"extensions": replacing("", extension(POLICIES, tlv(SEQUENCE, *infos)))}


def lasting(begin: bytes = BEGIN, end: bytes = END) -> Mapping[str, Any]:
    return {"validity": tlv(SEQUENCE, begin, end)}


ENCODINGS: dict[str, tuple[Mapping[str, Any], Answer]] = {
    "plain": ({}, "valid"),
    # the outer fields
    "version-1-written": ({"version": tlv(0xA0, b"\x02\x01\x00")}, MALFORMED),
    "version-2": ({"version": tlv(0xA0, b"\x02\x01\x01")}, MALFORMED),
    "version-4": ({"version": tlv(0xA0, b"\x02\x01\x03")}, MALFORMED),
    "serial-with-a-zero-in-front": ({"serial": b"\x02\x02\x00\x05"}, MALFORMED),
    "serial-without-octets": ({"serial": b"\x02\x00"}, MALFORMED),
    "serial-zero": ({"serial": b"\x02\x01\x00"}, MALFORMED),
    "algorithms-differ": ({"inner": ECDSA_SHA384}, MALFORMED),
    "algorithms-differ-outside": ({"outer": ECDSA_SHA384}, MALFORMED),
    "ecdsa-with-parameters": (
        {key: tlv(SEQUENCE, oid("1.2.840.10045.4.3.2"), NULL) for key in ("inner", "outer")},
        MALFORMED,
    ),
    "signature-with-unused-bits": ({"unused": 1}, MALFORMED),
    "something-behind-the-extensions": ({"after": NULL}, MALFORMED),
    "unique-id-of-the-issuer": ({"unique_ids": tlv(0x81, b"\0abc")}, "valid"),
    "unique-id-of-the-subject": ({"unique_ids": tlv(0x82, b"\0abc")}, "valid"),
    # times
    "time-without-seconds": (lasting(tlv(UTC_TIME, b"2602281200Z")), MALFORMED),
    "time-with-an-offset": (lasting(tlv(UTC_TIME, b"260228120000+0000")), MALFORMED),
    "time-of-no-day": (lasting(time("260230120000Z")), MALFORMED),
    "time-with-a-second-60": (lasting(time("260228120060Z")), MALFORMED),
    "time-of-1950": (lasting(time("500101000000Z")), "valid"),
    "generalized-time-before-2050": (lasting(end=time("20260302120000Z")), MALFORMED),
    "generalized-time-from-2050": (lasting(end=time("20500101000000Z")), "valid"),
    "generalized-time-for-ever": (lasting(end=time("99991231235959Z")), "valid"),
    "generalized-time-with-a-fraction": (lasting(end=tlv(GENERALIZED_TIME, b"20500302120000.5Z")), MALFORMED),
    "generalized-time-without-zone": (lasting(end=tlv(GENERALIZED_TIME, b"20500302120000")), MALFORMED),
    # names
    "subject-without-attribute": ({"subject": tlv(SEQUENCE, tlv(SET))}, MALFORMED),
    "subject-without-value": ({"subject": name(tlv(UTF8_STRING))}, MALFORMED),
    "subject-that-is-no-text": ({"subject": name(b"\x02\x01\x05")}, MALFORMED),
    "subject-out-of-order": ({"subject": name(tlv(UTF8_STRING, b"b"), tlv(UTF8_STRING, b"a"))}, MALFORMED),
    "subject-that-is-no-utf-8": ({"subject": name(tlv(UTF8_STRING, b"\xff"))}, MALFORMED),
    "subject-with-a-nul": ({"subject": name(tlv(UTF8_STRING, b"a\0b"))}, NAME),
    # the key
    "key-with-unused-bits": ({"info": key_info(unused=1)}, PathReason.ALGORITHM),
    "key-with-something-behind": ({"info": key_info(after=NULL)}, MALFORMED),
    "key-with-a-third-parameter": ({"info": key_info(algorithm=tlv(SEQUENCE, P256[2:], NULL))}, MALFORMED),
    "key-hybrid": ({"info": key_info(point(6))}, PathReason.ALGORITHM),
    "key-without-octets": ({"info": key_info(b"")}, PathReason.ALGORITHM),
    "key-compressed": ({"info": key_info(point(2))}, "valid"),
    # extensions as such
    "no-extension": ({"extensions": ()}, PROFILE),
    "extension-twice": ({"extensions": replacing("", *[extension(EXTRA, NULL)] * 2)}, MALFORMED),
    "purpose-twice": ({"extensions": replacing("", extension(PURPOSE, tlv(SEQUENCE, oid("1.2.3"))))}, MALFORMED),
    "critical-false-written": ({"extensions": replacing("", extension(EXTRA, NULL, FALSE))}, MALFORMED),
    "critical-of-ber": ({"extensions": replacing(BASIC, extension(BASIC, tlv(SEQUENCE), b"\x01\x01\x01"))}, MALFORMED),
    "extension-with-a-fourth-part": (
        {"extensions": replacing("", tlv(SEQUENCE, oid(EXTRA), tlv(0x04, NULL), NULL))},
        MALFORMED,
    ),
    "extension-id-with-a-zero-in-front": (
        {"extensions": replacing("", tlv(SEQUENCE, b"\x06\x04\x55\x1d\x80\x0f", tlv(0x04, NULL)))},
        MALFORMED,
    ),
    # what is in them
    "ca-false-written": ({"extensions": replacing(BASIC, extension(BASIC, tlv(SEQUENCE, FALSE), TRUE))}, MALFORMED),
    "basic-with-something-behind": (
        {"extensions": replacing(BASIC, extension(BASIC, tlv(SEQUENCE) + NULL, TRUE))},
        MALFORMED,
    ),
    "usage-with-zeros-behind": (usage("03020080"), MALFORMED),
    "usage-with-an-octet-behind": (usage("0303078000"), MALFORMED),
    "usage-of-a-tenth-bit": (usage("0303068040"), MALFORMED),
    "usage-with-padding-that-is-set": (usage("03020781"), MALFORMED),
    "usage-empty": (usage("030100"), PROFILE),
    "purpose-empty": ({"extensions": replacing(PURPOSE, extension(PURPOSE, tlv(SEQUENCE)))}, MALFORMED),
    "own-key-identifier-empty": ({"extensions": replacing(SUBJECT_KEY, extension(SUBJECT_KEY, b"\x04\x00"))}, "valid"),
    "authority-key-identifier-empty": (
        {"extensions": replacing(AUTHORITY_KEY, extension(AUTHORITY_KEY, tlv(SEQUENCE, tlv(0x80))))},
        PROFILE,
    ),
    "authority-key-identifier-in-a-long-length": (
        {"extensions": replacing(AUTHORITY_KEY, extension(AUTHORITY_KEY, b"\x30\x81\x05\x80\x03abc"))},
        MALFORMED,
    ),
    "policy": (policies("1.2.3"), "valid"),
    "policies-empty": (policies(), MALFORMED),
    "policy-twice": (policies("1.2.3", "1.2.4", "1.2.3"), MALFORMED),
    "mappings-empty": ({"extensions": replacing("", extension(MAPPINGS, tlv(SEQUENCE), TRUE))}, MALFORMED),
    # alternative names
    "names-empty": ({"extensions": named()}, NAME),
    "dns-in-utf-8": ({"extensions": named(tlv(0x82, "ä.example".encode()))}, NAME),
    "dns-in-latin-1": ({"extensions": named(tlv(0x82, b"\xe4.example"))}, MALFORMED),
    "dns-with-a-nul": ({"extensions": named(tlv(0x82, b"a.example\0.b"))}, NAME),
    "dns-constructed": ({"extensions": named(tlv(0xA2, tlv(0x16, b"a.example")))}, MALFORMED),
    "address-of-5-octets": ({"extensions": named(tlv(0x87, b"12345"))}, MALFORMED),
    "address-with-a-mask": ({"extensions": named(tlv(0x87, bytes([10, 0, 0, 0, 255, 0, 0, 0])))}, NAME),
    "directory-name-empty": ({"extensions": named(tlv(0xA4, tlv(SEQUENCE)))}, NAME),
    "registered-id": ({"extensions": named(tlv(0x88, b"\x2a\x03"))}, "valid"),
    "x400-address": ({"extensions": named(tlv(0xA3))}, MALFORMED),
}


def judged(der: bytes, anchor: bytes, *others: bytes) -> Answer:
    try:
        verify_file(b"".join(map(armoured, (der, *others))), anchor, role=Role.CLIENT, at=AT, profile="rfc5280")
    except CertificateInvalid as error:
        return error.reason
    return "valid"


@pytest.mark.parametrize(("changes", "expected"), ENCODINGS.values(), ids=ENCODINGS)
def test_leaf_of_an_encoding_is_judged_as_the_rfc_has_it(changes: Mapping[str, Any], expected: Answer) -> None:
    """One octet more or less in a leaf that is signed all the same: one form of each thing is taken."""
    assert judged(assemble(**changes), pem(ROOT)) == expected


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [(b"", "valid"), (b"\x80\x01\x01", MALFORMED), (b"\x80\x01\x00", MALFORMED), (b"\x81\x01\x07", MALFORMED)],
    ids=["none", "minimum", "minimum-of-the-default", "maximum"],
)
def test_name_constraints_with_bounds_are_malformed(bounds: bytes, expected: Answer) -> None:
    """RFC 5280 section 4.2.1.10: a minimum of zero, so not written, and no maximum. The library drops both."""
    permitted = tlv(SEQUENCE, tlv(0xA0, tlv(SEQUENCE, tlv(0x82, b"example.com"), bounds)))
    fields = {
        BASIC: extension(BASIC, tlv(SEQUENCE, TRUE), TRUE),
        USAGE: extension(USAGE, bytes.fromhex("03020204"), TRUE),
        SUBJECT_KEY: USUAL[SUBJECT_KEY],
        AUTHORITY_KEY: USUAL[AUTHORITY_KEY],
        CONSTRAINTS: extension(CONSTRAINTS, permitted, TRUE),
    }
    ca = assemble(subject=name(tlv(UTF8_STRING, b"middle")), extensions=fields.values())
    leaf = assemble(signer=Pair(certificate=loaded(ca), key=KEY))
    assert judged(leaf, pem(ROOT), ca) == expected


@pytest.mark.parametrize(
    "spoil",
    [
        lambda der: der + b"\0",
        lambda der: der[:1] + b"\x80" + der[4:] + b"\0\0",
        lambda der: der[:1] + b"\x83\0" + der[2:],
        lambda der: der[:-1],
    ],
    ids=["something-behind", "indefinite-length", "length-with-a-zero-in-front", "cut"],
)
def test_certificate_in_another_frame_is_malformed(spoil: Any) -> None:
    """DER has one length for each element, and nothing follows the outermost."""
    assert judged(spoil(assemble()), pem(ROOT)) is MALFORMED


def ours(**changes: Any) -> x509.Certificate:
    """A worker's certificate of the home, octet by octet; `extensions` are put in place of those of the same kind."""
    made, issuer = peer(), authority(Role.WORKER)
    usual = {
        one.oid.dotted_string: extension(one.oid.dotted_string, one.value.public_bytes(), TRUE if one.critical else b"")
        for one in made.extensions
    }
    fields: dict[str, Any] = {
        "signer": Pair(certificate=issuer.certificate, key=issuer.key),
        "subject": made.subject.public_bytes(),
        "validity": tlv(SEQUENCE, time("260301115500Z"), time("260302120000Z")),
        "info": made.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        "extensions": (usual | changes.pop("extensions", {})).values(),
    }
    return loaded(assemble(**(fields | changes)))


OURS: dict[str, Mapping[str, Any]] = {
    "usage-with-zeros-behind": {"extensions": {USAGE: extension(USAGE, bytes.fromhex("03020080"), TRUE)}},
    "generalized-time-before-2050": lasting(time("260301115500Z"), time("20260302120000Z")),
    "unique-id-of-the-issuer": {"unique_ids": tlv(0x81, b"\0abc")},
    "unique-id-of-the-subject": {"unique_ids": tlv(0x82, b"\0abc")},
    "algorithms-differ": {"outer": ECDSA_SHA384},
    "serial-zero": {"serial": b"\x02\x01\x00"},
    "serial-negative": {"serial": b"\x02\x01\xff"},
    "serial-of-21-octets": {"serial": tlv(0x02, b"\x7f" + b"\xff" * 20)},
}


@pytest.mark.parametrize("changes", OURS.values(), ids=OURS)
def test_peer_with_an_encoding_that_we_do_not_write_is_malformed(changes: Mapping[str, Any]) -> None:
    """The door and `verify` ask the same of encodings: what a role's CA signed in another form is not taken."""
    if changes.get("outer", ECDSA_SHA256) == ECDSA_SHA256:
        taken = verify_peer((ours(),), trust=trust(), roles=PEER_ROLES, at=AT, revocation=NOTHING_REVOKED)
        assert taken.name == "w1"
    with pytest.raises(CertificateInvalid) as caught:
        verify_peer((ours(**changes),), trust=trust(), roles=PEER_ROLES, at=AT, revocation=NOTHING_REVOKED)
    if "outer" not in changes:  # whose signature does not verify
        assert caught.value.reason is MALFORMED
    chain = pem(ours(**changes), authority(Role.WORKER).certificate)
    with pytest.raises(CertificateInvalid):
        verify_file(chain, pem(root().certificate), role=Role.WORKER, at=AT)


LISTS: dict[str, tuple[Mapping[str, Any], str]] = {
    "version-1-with-extensions": ({"version": b""}, "version 1"),
    "generalized-this-update": ({"this_update": time("20260228120000Z")}, "GeneralizedTime"),
    "generalized-next-update": ({"next_update": time("20260302120000Z")}, "GeneralizedTime"),
    "number-over-20-octets": ({"number": tlv(0x02, b"\x7f" + b"\xff" * 20)}, "20 octets"),
    "entry-of-another-issuer": (
        {"entry": [extension("2.5.29.29", tlv(SEQUENCE, tlv(0xA4, ROOT.certificate.subject.public_bytes())))]},
        "indirect",
    ),
}


def test_list_in_its_form_decides() -> None:
    """Also with a number of 20 octets, and a next update from 2050 on."""
    for changes in ({}, {"number": tlv(0x02, b"\x7f" + b"\xff" * 19)}, {"next_update": time("20500101000000Z")}):
        view = CrlView(x509.load_der_x509_crl(assemble_list(**changes)), ROOT.certificate, at=AT)
        assert view.is_revoked(7)
        assert not view.is_revoked(5)


@pytest.mark.parametrize(("changes", "told"), LISTS.values(), ids=LISTS)
def test_list_in_another_form_decides_nothing(changes: Mapping[str, Any], told: str) -> None:
    """RFC 5280 sections 5.1.2 and 5.2.3: fails closed."""
    with pytest.raises(CertificateInvalid, match=told) as caught:
        CrlView(x509.load_der_x509_crl(assemble_list(**changes)), ROOT.certificate, at=AT)
    assert caught.value.reason is PathReason.STALE_CRL
