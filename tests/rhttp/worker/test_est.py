"""The messages of enrolment, and what is believed of them."""

from __future__ import annotations

import base64
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from hypothesis import given
from hypothesis import strategies as st
from support.estserver import SECRET, TOKEN, TOKEN_ID, cas, certs_only

from pki.keys import KeyType, generate_key
from pki.names import PEER_ROLES, Role
from rhttp.worker.est import (
    KEY_TYPES,
    MAX_CERTIFICATES,
    ROLES,
    ClockOff,
    EstInvalid,
    build_request,
    find_anchor,
    fingerprint_of,
    is_name,
    judge_answer,
    parse_fingerprint,
    parse_token,
    read_certificates,
    read_password,
    read_title,
    show_fingerprint,
)

HEX = "00ff" * 16


@pytest.mark.parametrize(
    "text",
    [
        HEX,
        HEX.upper(),
        bytes.fromhex(HEX).hex(":"),
        bytes.fromhex(HEX).hex(":").upper(),
        f"SHA256:{HEX}",
        f"sha256:{HEX}",
        f"SHA-256:{bytes.fromhex(HEX).hex(':')}",
        f"sha256 Fingerprint={bytes.fromhex(HEX).hex(':').upper()}",
        f" {HEX}\n",
    ],
)
def test_fingerprint_is_read_in_each_form_in_which_tools_write_it(text: str) -> None:
    """With and without colons, in any case, with the algorithm before it or not."""
    assert parse_fingerprint(text) == bytes.fromhex(HEX)


@pytest.mark.parametrize(
    "text",
    ["", HEX[:-1], HEX + "0", HEX[:-2], f"sha1:{HEX}", f"{HEX[:2]}:{HEX[2:]}", "g" * 64, "ab" * 20, f"{HEX} {HEX}"],
)
def test_fingerprint_of_another_length_or_kind_is_none(text: str) -> None:
    """A shorter one would be easier to forge."""
    assert parse_fingerprint(text) is None


@given(st.binary(min_size=32, max_size=32))
def test_fingerprint_that_is_shown_is_read_again(fingerprint: bytes) -> None:
    """What a message shows can be given to the command."""
    assert parse_fingerprint(show_fingerprint(fingerprint)) == fingerprint


def test_token_is_an_id_and_a_secret_that_is_not_shown() -> None:
    """`repr` knows the id alone."""
    token = parse_token(TOKEN)
    assert token is not None
    assert (token.id, token.secret) == (TOKEN_ID, SECRET)
    assert SECRET not in repr(token)


@pytest.mark.parametrize(
    "text",
    [
        "",
        TOKEN_ID,
        f"{TOKEN_ID}.",
        f"{TOKEN_ID}.short",
        f"{TOKEN_ID} {SECRET}",
        f"x{TOKEN}",
        TOKEN.upper(),
        f"{TOKEN} x",
    ],
)
def test_token_of_another_form_is_none(text: str) -> None:
    """Nothing is guessed."""
    assert parse_token(text) is None


def test_roles_and_key_types_are_those_of_the_pki() -> None:
    """The worker's side imports none of it, so its tables are held against it here."""
    assert set(ROLES) == {role.value for role in PEER_ROLES}
    assert set(KEY_TYPES) == {kind.value for kind in KeyType}


@pytest.mark.parametrize("name", [None, "w1"])
@pytest.mark.parametrize("kind", KEY_TYPES)
def test_request_asks_for_a_name_and_nothing_else(kind: str, name: str | None) -> None:
    """Signed by the key, with an empty subject when no name is wanted, without extensions."""
    key = KEY_TYPES[kind]()
    request = x509.load_der_x509_csr(base64.b64decode(build_request(key, name)))
    assert request.is_signature_valid
    assert request.public_key() == key.public_key()
    assert request.subject.rfc4514_string() == ("" if name is None else "CN=w1")
    assert list(request.extensions) == []


# ---- certificates in a message ----


def test_certificates_are_read_with_any_line_breaks() -> None:
    """RFC 8951 §3.1: with or without, and of either kind."""
    root = cas().root.certificate
    text = certs_only(root)
    for form in (text, text.replace(b"\n", b""), text.replace(b"\n", b"\r\n"), b"\n " + text):
        assert read_certificates(form) == (root,)


def test_certificates_are_read_up_to_their_number() -> None:
    """32 are read, 33 are refused."""
    root = cas().root.certificate
    assert len(read_certificates(certs_only(*[root] * MAX_CERTIFICATES))) == MAX_CERTIFICATES
    with pytest.raises(EstInvalid, match="holds 33 certificates"):
        read_certificates(certs_only(*[root] * (MAX_CERTIFICATES + 1)))


DER = pkcs7.serialize_certificates([cas().root.certificate], Encoding.DER)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"=",
        b"====",
        b"not base64!",
        b"-----BEGIN PKCS7-----\n" + base64.b64encode(DER) + b"\n-----END PKCS7-----\n",
        base64.b64encode(DER)[:-4],
        base64.b64encode(DER[:-1]),
        base64.b64encode(DER + b"\0"),
        base64.b64encode(b"0\x80" + DER + b"\0\0"),
        base64.b64encode(cas().root.certificate.public_bytes(Encoding.DER)),
        base64.urlsafe_b64encode(b"\xff" * 30),
        b"A" * ((1 << 20) + 1),
    ],
)
def test_certificates_in_another_form_are_refused(content: bytes) -> None:
    """Base64 of one PKCS #7 in DER, and not a byte else."""
    with pytest.raises(EstInvalid):
        read_certificates(content)


@given(st.binary(max_size=200))
def test_certificates_in_any_bytes_are_refused_in_one_way(content: bytes) -> None:
    """Total: whatever a stranger sends, as it is or in base64."""
    for form in (content, base64.b64encode(content)):
        with pytest.raises(EstInvalid):
            read_certificates(form)


def test_anchor_is_found_by_its_fingerprint_alone() -> None:
    """Wherever it stands, and beside another root."""
    ours, other = cas().root.certificate, cas(1).root.certificate
    issuing = cas().issuing[Role.WORKER].certificate
    assert find_anchor([other, issuing, ours], fingerprint_of(ours)) == ours
    assert fingerprint_of(ours) == ours.fingerprint(SHA256())
    with pytest.raises(EstInvalid, match="it offers") as caught:
        find_anchor([issuing, ours], fingerprint_of(other))
    assert show_fingerprint(fingerprint_of(ours)) in str(caught.value)
    assert show_fingerprint(fingerprint_of(issuing)) not in str(caught.value)


def test_anchor_has_to_be_a_root() -> None:
    """An issuing CA or a leaf is none, though its fingerprint be given."""
    for none in (cas().issuing[Role.SERVER].certificate, cas().leaf(generate_key().public_key())):
        with pytest.raises(EstInvalid, match="is no root"):
            find_anchor([none], fingerprint_of(none))


# ---- the answer ----

KEY = generate_key()
AT = cas().at + timedelta(minutes=1)


def judge(*certificates: x509.Certificate, **changes: Any) -> Any:
    how = {"anchor": cas().root.certificate, "key": KEY, "role": "worker", "name": None, "at": AT, **changes}
    return judge_answer(certificates, **how)


def test_answer_is_taken_in_any_order() -> None:
    """A PKCS #7 is a set; what is not needed is left out of the path."""
    leaf, issuing = cas().leaf(KEY.public_key()), cas().issuing[Role.WORKER].certificate
    for order in ([leaf, issuing], [issuing, leaf], [cas().root.certificate, issuing, leaf]):
        found = judge(*order)
        assert found.path == (leaf, issuing)
        assert (found.role, found.pool, found.name) == ("worker", "render", "w1")


def test_answer_is_judged_by_the_second() -> None:
    """In the first second in which it has expired it is refused, and in the last before it begins."""
    leaf, issuing = cas().leaf(KEY.public_key()), cas().issuing[Role.WORKER].certificate
    begins, ends = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    judge(leaf, issuing, at=max(begins, issuing.not_valid_before_utc))
    judge(leaf, issuing, at=ends - timedelta(seconds=1))
    for at in (begins - timedelta(seconds=1), ends):
        with pytest.raises(ClockOff):
            judge(leaf, issuing, at=at)


def test_answer_signed_by_a_leaf_is_refused() -> None:
    """Who is no CA vouches for nobody."""
    from cryptography.hazmat.primitives.asymmetric import ec

    between = generate_key()
    assert isinstance(between, ec.EllipticCurvePrivateKey)
    issuer = cas().leaf(between.public_key())
    ours = cas().leaf(KEY.public_key())
    forged = (
        x509.CertificateBuilder()
        .subject_name(ours.subject)
        .issuer_name(issuer.subject)
        .public_key(KEY.public_key())
        .serial_number(1)
        .not_valid_before(ours.not_valid_before_utc)
        .not_valid_after(ours.not_valid_after_utc)
        .sign(between, SHA256())
    )
    with pytest.raises(EstInvalid, match="does not lead"):
        judge(forged, issuer, cas().issuing[Role.WORKER].certificate)


def test_answer_without_an_identity_is_refused() -> None:
    """A server's certificate names hosts, and a CA nobody."""
    with pytest.raises(EstInvalid, match="names no identity"):
        judge(cas().issuing[Role.WORKER].certificate, key=cas().issuing[Role.WORKER].key)


# ---- JSON ----


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b"[" * 50000, b'{"user": "w1"}', b'{"user": "w1", "password": ""}', b"\xff"]
    + [b'{"user": "w1", "password": %b}' % value for value in (b"1", b"null", b'"a\\u0000b"', b'"%b"' % (b"x" * 1025))],
)
def test_password_in_another_form_is_refused(content: bytes) -> None:
    """Nothing becomes a password that could not be typed."""
    with pytest.raises(EstInvalid, match="holds no password"):
        read_password(content, "w1")


def test_password_is_read_for_the_name_that_was_certified() -> None:
    """And for no other."""
    assert read_password(b'{"user": "w1", "password": "x", "more": 1}', "w1") == "x"
    with pytest.raises(EstInvalid, match="is not for w1"):
        read_password(b'{"user": "w2", "password": "x"}', "w1")


@pytest.mark.parametrize(
    ("content", "title"),
    [
        (b'{"title": "no"}', "no"),
        (b'{"title": "a\\nb\\u001b[0m"}', "a?b?[0m"),
        (b'{"title": "%b"}' % (b"x" * 300), "x" * 200),
        (b'{"title": 1}', ""),
        (b"[]", ""),
        (b"<html>", ""),
        (b"[" * 50000, ""),
    ],
)
def test_title_of_a_problem_is_one_safe_line(content: bytes, title: str) -> None:
    """A terminal gets nothing but text of it."""
    assert read_title(content) == title


@pytest.mark.parametrize(
    ("text", "is_one"), [("w1", True), ("w" * 63, True), ("w" * 64, False), ("-w", False), ("W", False)]
)
def test_name_is_a_label(text: str, is_one: bool) -> None:
    """As `pki.names` has it."""
    assert is_name(text) is is_one
