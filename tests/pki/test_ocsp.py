"""An OCSP responder: whom it speaks for, what it says, and when it says nothing."""

from __future__ import annotations

import dataclasses
from datetime import datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from support.certs import AT, authority, entropy, peer, root

from pki.issue import IssuerKey
from pki.keys import KeyType, generate_key
from pki.lint import lint
from pki.names import Role
from pki.ocsp import Responder, Responders, build_responder, revoked_in
from pki.ocsp_codec import OcspRequest, parse_request
from pki.profiles import LEAF_PROFILES
from pki.revocation import RevocationReason, RevokedEntry
from pki.signatures import PureKey

DAY = timedelta(days=1)


def responder(issuer: IssuerKey, *entries: RevokedEntry, at: datetime = AT) -> Responder:
    key = ec.generate_private_key(ec.SECP256R1())
    certificate = build_responder(issuer, key.public_key(), at=at, lifetime=DAY, entropy=entropy())
    return Responder(
        issuer=issuer.certificate,
        certificate=certificate,
        key=key,
        this_update=at - timedelta(minutes=5),
        next_update=at + DAY,
        revoked=revoked_in(entries),
    )


def asked(*certificates: x509.Certificate, issuer: IssuerKey, nonce: bytes | None = None) -> OcspRequest:
    """A request about several, made of requests about one each."""
    found = []
    for certificate in certificates:
        builder = ocsp.OCSPRequestBuilder().add_certificate(certificate, issuer.certificate, hashes.SHA1())
        if nonce is not None:
            builder = builder.add_extension(x509.OCSPNonce(nonce), False)
        one = parse_request(builder.build().public_bytes(Encoding.DER))
        assert one is not None
        found.append(one)
    return OcspRequest(certs=tuple(one.certs[0] for one in found), nonce=found[0].nonce)


WORKERS = authority(Role.WORKER)
LEAF, OTHER = peer(), peer(name="w2")


@pytest.mark.parametrize("reason", RevocationReason)
def test_answer_tells_what_the_list_tells(reason: RevocationReason) -> None:
    """Revoked, with time and reason; this update and next update are the list's; the signature is the responder's."""
    made = responder(WORKERS, RevokedEntry(serial=LEAF.serial_number, revoked_at=AT - DAY, reason=reason))
    answer = ocsp.load_der_ocsp_response(made.answer(asked(LEAF, issuer=WORKERS), AT + timedelta(hours=1)))
    assert answer.response_status is ocsp.OCSPResponseStatus.SUCCESSFUL
    assert answer.certificate_status is ocsp.OCSPCertStatus.REVOKED
    assert answer.revocation_time_utc == AT - DAY
    expected = None if reason is RevocationReason.UNSPECIFIED else x509.ReasonFlags(reason.value)
    assert answer.revocation_reason == expected
    assert (answer.this_update_utc, answer.next_update_utc) == (made.this_update, made.next_update)
    assert answer.produced_at_utc == AT + timedelta(hours=1)
    made.key.public_key().verify(answer.signature, answer.tbs_response_bytes, ec.ECDSA(hashes.SHA256()))
    assert answer.certificates == [made.certificate]
    assert answer.responder_key_hash == x509.SubjectKeyIdentifier.from_public_key(made.key.public_key()).digest


def test_answer_about_what_the_list_does_not_name_is_good() -> None:
    """A number that the list does not name is not revoked; several are told of in their order."""
    made = responder(WORKERS, RevokedEntry(serial=LEAF.serial_number, revoked_at=AT))
    request = asked(OTHER, LEAF, issuer=WORKERS, nonce=b"n" * 16)
    answer = ocsp.load_der_ocsp_response(made.answer(request, AT))
    told = [(one.serial_number, one.certificate_status.name) for one in answer.responses]
    assert told == [(OTHER.serial_number, "GOOD"), (LEAF.serial_number, "REVOKED")]
    assert answer.extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == b"n" * 16


def status_of(found: Responder | bytes) -> str:
    return "found" if isinstance(found, Responder) else ocsp.load_der_ocsp_response(found).response_status.name


def test_responder_is_the_one_of_the_ca_that_is_asked_about() -> None:
    """Each speaks for its own CA; about two CAs at once, or one that is not ours, nobody does."""
    workers, above = responder(WORKERS), responder(root())
    both = Responders([workers, above])
    assert both.find(asked(LEAF, issuer=WORKERS), AT) is workers
    assert both.find(asked(WORKERS.certificate, issuer=root()), AT) is above
    one, two = asked(LEAF, issuer=WORKERS).certs[0], asked(WORKERS.certificate, issuer=root()).certs[0]
    clients = asked(peer(Role.CLIENT, "c"), issuer=authority(Role.CLIENT))
    assert status_of(both.find(OcspRequest(certs=(one, two)), AT)) == "UNAUTHORIZED"
    assert status_of(both.find(clients, AT)) == "UNAUTHORIZED"
    assert status_of(both.find(OcspRequest(certs=(one, clients.certs[0])), AT)) == "UNAUTHORIZED"
    assert status_of(Responders([]).find(clients, AT)) == "UNAUTHORIZED"


@pytest.mark.parametrize(
    ("late", "expected"),
    [(timedelta(0), "found"), (DAY, "found"), (DAY + timedelta(seconds=1), "TRY_LATER"), (-DAY, "TRY_LATER")],
)
def test_responder_answers_while_its_list_and_certificate_hold(late: timedelta, expected: str) -> None:
    """What is out of date says nothing, good or bad."""
    assert status_of(Responders([responder(WORKERS)]).find(asked(LEAF, issuer=WORKERS), AT + late)) == expected


def test_responders_certificate_is_good_for_ocsp_and_nothing_else() -> None:
    """It names its purpose, needs no check itself, does not outlive its CA, and is no peer's."""
    made = build_responder(WORKERS, generate_key().public_key(), at=AT, lifetime=DAY, entropy=entropy())
    made.verify_directly_issued_by(WORKERS.certificate)
    usage = made.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    assert list(usage) == [x509.ExtendedKeyUsageOID.OCSP_SIGNING]
    assert not made.extensions.get_extension_for_class(x509.OCSPNoCheck).critical
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (AT - timedelta(minutes=5), AT + DAY)
    assert all(lint(made, profile, issuer=WORKERS.certificate) for profile in LEAF_PROFILES.values())
    long = build_responder(WORKERS, generate_key().public_key(), at=AT, lifetime=9999 * DAY, entropy=entropy())
    assert long.not_valid_after_utc == WORKERS.certificate.not_valid_after_utc


@pytest.mark.parametrize("serial", [0, -5, 1 << 158])
def test_answer_about_a_number_that_no_certificate_has_is_good(serial: int) -> None:
    """The list does not name it, and more is not said."""
    made = responder(WORKERS, RevokedEntry(serial=5, revoked_at=AT))
    request = asked(LEAF, issuer=WORKERS)
    odd = dataclasses.replace(request, certs=(dataclasses.replace(request.certs[0], serial=serial),))
    answer = ocsp.load_der_ocsp_response(made.answer(odd, AT))
    assert answer.certificate_status is ocsp.OCSPCertStatus.GOOD


@pytest.mark.parametrize("kind", KeyType)
def test_responder_finds_its_ca_whatever_the_cas_key(kind: KeyType) -> None:
    """KeyHash is of the key's bits: the same that another implementation takes."""
    key = generate_key(kind)
    name = WORKERS.certificate.subject
    digest = None if isinstance(key.public_key(), PureKey) else hashes.SHA256()
    builder = x509.CertificateBuilder(name, name, key.public_key(), 5, AT - DAY, AT + 99 * DAY)
    own = x509.SubjectKeyIdentifier.from_public_key(key.public_key())
    issuer = IssuerKey(certificate=builder.add_extension(own, False).sign(key, digest), key=key)
    made = responder(issuer)
    assert Responders([made]).find(asked(LEAF, issuer=issuer), AT) is made
