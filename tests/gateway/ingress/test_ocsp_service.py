"""OCSP of a data process: what is kept, how much is signed, and what a fault looks like from outside."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509 import ocsp
from support.certs import AT, authority, entropy, peer

from gateway.config.limits import Limits
from gateway.core.counters import Counters
from gateway.http.upload import Upload
from gateway.ingress import ocsp_service
from gateway.ingress.ocsp_message import is_ocsp, request_in
from gateway.ingress.ocsp_service import OcspService
from gateway.state.lists import PublishedLists, ResponderKey, RevocationList
from pki.names import Role
from pki.ocsp import build_responder
from pki.revocation import build_crl

DAY = timedelta(days=1)
STATUS = ocsp.OCSPResponseStatus


class Process:
    """As much of a data process as the service looks at."""

    def __init__(self, lifetime: timedelta = DAY, responder: timedelta = DAY, signatures: int = 500) -> None:
        issuer, key = authority(Role.WORKER), ec.generate_private_key(ec.SECP256R1())
        crl = build_crl(issuer, [], number=1, at=AT, lifetime=lifetime).public_bytes(Encoding.DER)
        certificate = build_responder(issuer, key.public_key(), at=AT, lifetime=responder, entropy=entropy())
        begin = int(AT.timestamp())
        end = begin + int(lifetime.total_seconds())
        self.lists = PublishedLists(
            version=1,
            lists={"worker": RevocationList(der=crl, number=1, this_update=begin, next_update=end, tag="")},
            responders={
                "worker": ResponderKey(
                    certificate=certificate.public_bytes(Encoding.DER),
                    issuer=issuer.certificate.public_bytes(Encoding.DER),
                    key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                )
            },
        )
        self.epoch = AT.timestamp() + 100
        self.elapsed = 7.0
        self.counters = Counters()
        self.faults: list[dict[str, object]] = []
        self.loop = SimpleNamespace(call_exception_handler=self.faults.append)
        self.generation = SimpleNamespace(config=SimpleNamespace(limits=Limits(ocsp_signatures=signatures)))


def service(process: Any) -> OcspService:
    return OcspService(process)


def question(serial: int | None = None, nonce: bytes | None = None) -> bytes:
    leaf = peer()
    issuer = authority(Role.WORKER).certificate
    builder = ocsp.OCSPRequestBuilder()
    if serial is None:
        builder = builder.add_certificate(leaf, issuer, hashes.SHA256())
    else:
        probe = ocsp.OCSPRequestBuilder().add_certificate(leaf, issuer, hashes.SHA256()).build()
        builder = builder.add_certificate_by_hash(
            probe.issuer_name_hash, probe.issuer_key_hash, serial, hashes.SHA256()
        )
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return builder.build().public_bytes(Encoding.DER)


def told(answered: tuple[bytes, int]) -> STATUS:
    return ocsp.load_der_ocsp_response(answered[0]).response_status


@pytest.mark.parametrize(
    ("lifetime", "responder", "age"), [(DAY, DAY, 86300), (DAY, DAY / 2, 43100), (DAY / 2, DAY, 43100)]
)
def test_answer_may_be_kept_until_list_or_responder_end(lifetime: timedelta, responder: timedelta, age: int) -> None:
    """Whichever ends first."""
    assert service(Process(lifetime, responder)).answer(question())[1] == age


def test_answer_without_nonce_is_signed_once() -> None:
    """Asked again, the same bytes come, later for fewer seconds; with a nonce each is another, and not kept."""
    process = Process()
    one = service(process)
    first = one.answer(question(5))
    process.epoch += 50
    assert one.answer(question(5)) == (first[0], first[1] - 50)
    assert one.answer(question(5, b"a"))[0] != one.answer(question(5, b"a"))[0]
    assert one.answer(question(5, b"a"))[1] == 0


def test_signatures_a_second_are_bounded_and_kept_answers_are_not() -> None:
    """Beyond the bound: try later, until the next second. What is kept already is given all the same."""
    process = Process(signatures=3)
    one = service(process)
    assert [told(one.answer(question(number))) for number in range(1, 5)] == [STATUS.SUCCESSFUL] * 3 + [
        STATUS.TRY_LATER
    ]
    assert told(one.answer(question(1))) is STATUS.SUCCESSFUL
    assert told(one.answer(question(1, b"n"))) is STATUS.TRY_LATER
    process.elapsed += 1
    assert told(one.answer(question(4))) is STATUS.SUCCESSFUL
    assert (process.counters.ocsp_signed, process.counters.ocsp_deferred) == (4, 2)


def test_kept_answers_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest goes first."""
    monkeypatch.setattr(ocsp_service, "_KEPT", 2)
    one = service(Process())
    first = one.answer(question(1))[0]
    one.answer(question(2))
    assert one.answer(question(1))[0] == first
    one.answer(question(3))
    assert one.answer(question(1))[0] != first
    assert len(one._kept) == 2


def test_answer_when_the_list_is_over_is_try_later() -> None:
    """A kept answer does not outlive the list either."""
    process = Process()
    one = service(process)
    one.answer(question(1))
    process.epoch = (AT + DAY).timestamp() + 1
    assert (told(one.answer(question(1))), one.answer(question(1))[1]) == (STATUS.TRY_LATER, 0)


def test_fault_inside_is_told_in_the_log_and_not_to_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    """`internalError`, and a line."""
    process = Process()
    one = service(process)

    def fail(_: bytes) -> None:
        raise RuntimeError("deep inside")

    monkeypatch.setattr(ocsp_service, "parse_request", fail)
    answered = one.answer(b"")
    assert (told(answered), len(process.faults)) == (STATUS.INTERNAL_ERROR, 1)
    assert b"deep" not in answered[0]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (b"MAA", b""),
        (b"MAA=", b"0\0"),
        (b"MAA%3D", b"0\0"),
        (b"%2F%2B8=", b"\xff\xef"),
        (b"M A=", b""),
        (b"MA%zz", b""),
    ],
)
def test_request_in_a_target_is_base64_and_nothing_else(target: bytes, expected: bytes) -> None:
    """Percent-encoded or not; what cannot be read is empty, and then malformed."""
    assert request_in(b"/-/pki/ocsp/" + target) == expected


def test_request_in_a_target_that_is_too_long_is_not_decoded() -> None:
    """A target may have more bytes than a request."""
    assert request_in(b"/-/pki/ocsp/" + b"A" * 5472) == b""


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([b"application/ocsp-request"], True),
        ([b" Application/OCSP-Request ; x=y"], True),
        ([b"application/ocsp-response"], False),
        ([], False),
        ([b"application/ocsp-request"] * 2, False),
    ],
)
def test_content_says_that_it_is_a_request(values: list[bytes], expected: bool) -> None:
    """One type, and the right one."""
    assert is_ocsp(tuple((b"content-type", value) for value in values)) is expected


def test_upload_keeps_as_much_as_it_was_told_and_calls_once() -> None:
    """At the bound the content comes whole; a byte more and nothing is kept, whatever follows."""
    seen: list[bytes | None] = []
    whole = Upload(4, seen.append)
    whole.request_content(b"ab")
    whole.request_content(b"cd")
    whole.request_end([])
    whole.request_abort("late")
    over = Upload(4, seen.append)
    over.request_content(b"abcde")
    over.request_content(b"f" * 1000)
    over.request_end([])
    assert seen == [b"abcd", None]
    gone: list[str] = []
    cut = Upload(4, seen.append, gone.append)
    cut.request_content(b"ab")
    cut.request_abort("lost")
    assert (seen, gone) == ([b"abcd", None], ["lost"])
