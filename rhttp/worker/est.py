"""Enrolment over secure transport (RFC 7030, RFC 8951), the messages that a client makes and reads. Pure.

A message holds certificates in a certs-only PKCS #7 in base64. Of what is read nothing is believed for having been
read: the root is the one whose fingerprint the operator gave, and a certificate is taken only when it is for our key,
leads to that root, and names one identity of the role that was asked for.

Not checked: whether the certificate is exactly what its profile says, and revocation. The gateway does both whenever
the certificate is shown to it.

Trust: meets messages of strangers (until the root is known) and of a verified gateway. A fault quotes nothing of them
but fingerprints and names that passed the grammar.
"""

from __future__ import annotations

import base64
import json
import re
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from types import MappingProxyType
from typing import Final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, mldsa, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.x509.oid import NameOID

ROLES: Final = ("worker", "client", "master")
MAX_MESSAGE: Final = 1 << 20
"""Bytes of one message."""
MAX_CERTIFICATES: Final = 32
"""In one message."""
_MAX_PATH: Final = 4
_MAX_PASSWORD: Final = 1024

PrivateKey = (
    ec.EllipticCurvePrivateKey
    | ed25519.Ed25519PrivateKey
    | rsa.RSAPrivateKey
    | mldsa.MLDSA44PrivateKey
    | mldsa.MLDSA65PrivateKey
    | mldsa.MLDSA87PrivateKey
)

KEY_TYPES: Final[Mapping[str, Callable[[], PrivateKey]]] = MappingProxyType(
    {
        "p256": lambda: ec.generate_private_key(ec.SECP256R1()),
        "p384": lambda: ec.generate_private_key(ec.SECP384R1()),
        "ed25519": ed25519.Ed25519PrivateKey.generate,
        "rsa3072": lambda: rsa.generate_private_key(65537, 3072),
        "mldsa44": mldsa.MLDSA44PrivateKey.generate,
        "mldsa65": mldsa.MLDSA65PrivateKey.generate,
        "mldsa87": mldsa.MLDSA87PrivateKey.generate,
    }
)
"""The kinds of key that a gateway certifies, each with what makes one (it draws from the system's randomness)."""

_LABEL: Final = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_NAME: Final = re.compile(_LABEL)
_DOMAIN: Final = rf"(?:{_LABEL}\.)*{_LABEL}"
_WORKER: Final = re.compile(rf"spiffe://{_DOMAIN}/(worker)/({_LABEL})/({_LABEL})")
_OTHER: Final = re.compile(rf"spiffe://{_DOMAIN}/(client|master)/()({_LABEL})")
_FINGERPRINT: Final = re.compile(r"(?:sha-?256(?: fingerprint)?[:=])?([0-9a-f]{64}|[0-9a-f]{2}(?::[0-9a-f]{2}){31})")
_TOKEN: Final = re.compile(r"(et_[0-9a-f]{16})\.([!-~]{8,256})")
_SPACE: Final = bytes.maketrans(b"", b""), b" \t\r\n"


class EstInvalid(ValueError):  # noqa: N818 - says what is the case, like every error of ours
    """A message is none that we take; the text says why, in words that go on after what was asked."""


class ClockOff(EstInvalid):
    """By our clock a certificate is not valid yet, or no longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Token:
    """An enrolment token."""

    id: str
    secret: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Enrolled:
    """A certificate for our key."""

    path: tuple[x509.Certificate, ...]
    """The leaf, then its issuing CAs, without the root."""
    role: str
    pool: str | None
    name: str


def is_name(text: str) -> bool:
    """Whether it is a name: one lower-case DNS label."""
    return _NAME.fullmatch(text) is not None


def parse_fingerprint(text: str) -> bytes | None:
    """The 32 bytes of a SHA-256 fingerprint in hex, with or without colons, in any case, ``SHA256:`` before it or
    not; None: it is none."""
    match = _FINGERPRINT.fullmatch(text.strip().lower())
    return None if match is None else bytes.fromhex(match[1].replace(":", ""))


def show_fingerprint(fingerprint: bytes) -> str:
    """As ``openssl x509 -fingerprint`` writes it."""
    return fingerprint.hex(":").upper()


def parse_token(text: str) -> Token | None:
    """``et_<16 hex digits>.<secret>``; None: it is none."""
    match = _TOKEN.fullmatch(text)
    return None if match is None else Token(id=match[1], secret=match[2])


# ---- requests ----


def build_request(key: PrivateKey, name: str | None) -> bytes:
    """A signing request (PKCS #10) in base64, as RFC 8951 section 3.1 sends it. Only a name is asked for, or nothing:
    role and pool are the token's."""
    subject = x509.Name([] if name is None else [x509.NameAttribute(NameOID.COMMON_NAME, name)])
    digest = SHA256() if isinstance(key, ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) else None
    request = x509.CertificateSigningRequestBuilder().subject_name(subject).sign(key, digest)
    return base64.encodebytes(request.public_bytes(Encoding.DER))


# ---- answers ----


def read_certificates(content: bytes) -> tuple[x509.Certificate, ...]:
    """The certificates in an answer.

    Raises:
        EstInvalid: it is not base64 of a certs-only PKCS #7 in DER, or holds none or more than `MAX_CERTIFICATES`.
    """
    if len(content) > MAX_MESSAGE:
        raise EstInvalid("is longer than 1 MiB")
    try:
        der = base64.b64decode(content.translate(*_SPACE), validate=True)
    except ValueError:
        raise EstInvalid("is not base64") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # the library would try BER where DER is broken
            found = tuple(pkcs7.load_der_pkcs7_certificates(der))
    except (ValueError, UnsupportedAlgorithm, Warning):
        raise EstInvalid("is no PKCS #7 of certificates") from None
    if not 1 <= len(found) <= MAX_CERTIFICATES:
        raise EstInvalid(f"holds {len(found)} certificates, and not 1 to {MAX_CERTIFICATES}")
    return found


def fingerprint_of(certificate: x509.Certificate) -> bytes:
    """SHA-256 over the DER."""
    return certificate.fingerprint(SHA256())


def find_anchor(offered: Sequence[x509.Certificate], fingerprint: bytes) -> x509.Certificate:
    """The root with this fingerprint.

    Raises:
        EstInvalid: none has it, or who has it is no root: not a CA, or not signed by itself.
    """
    match = next((certificate for certificate in offered if fingerprint_of(certificate) == fingerprint), None)
    if match is None:
        roots = [certificate for certificate in offered if certificate.subject == certificate.issuer] or offered
        shown = ", ".join(show_fingerprint(fingerprint_of(certificate)) for certificate in roots[:3])
        raise EstInvalid(f"expected {show_fingerprint(fingerprint)}, and it offers {shown}")
    if not _is_ca(match) or not _has_signed(match, match):
        raise EstInvalid(f"{show_fingerprint(fingerprint)} is there, and is no root: not a CA, or not signed by itself")
    return match


def judge_answer(
    certificates: Sequence[x509.Certificate],
    *,
    anchor: x509.Certificate,
    key: PrivateKey,
    role: str,
    name: str | None,
    at: datetime,
) -> Enrolled:
    """What came of a request, once it is what was asked for.

    Raises:
        ClockOff: its path is not in its time, by `at`.
        EstInvalid: it is for another key, does not lead to `anchor`, or has another identity than was asked for.
    """
    path = _judge_path(certificates, (anchor,), key.public_key(), at)
    found = identity_of(path[0])
    if found is None:
        raise EstInvalid("names no identity: one URI spiffe://DOMAIN/worker/POOL/NAME, or /client/ or /master/NAME")
    its_role, pool, its_name = found
    if its_role != role:
        raise EstInvalid(f"is for a {its_role}, and --role {role} was asked for")
    if name is not None and its_name != name:
        raise EstInvalid(f"is for the name {its_name}, and --name {name} was asked for")
    return Enrolled(path=path, role=its_role, pool=pool, name=its_name)


def judge_renewal(
    certificates: Sequence[x509.Certificate],
    *,
    anchors: Sequence[x509.Certificate],
    key: CertificatePublicKeyTypes,
    present: x509.Certificate,
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    """The path of the next certificate, leaf first, once it says of its owner what the `present` one does.

    Raises:
        ClockOff: its path is not in its time, by `at`.
        EstInvalid: it is for another key, leads to none of `anchors`, or names somebody else.
    """
    path = _judge_path(certificates, anchors, key, at)
    if identity_of(path[0]) is None or _names(path[0]) != _names(present):
        raise EstInvalid("names somebody else than the one that it is to replace")
    return path


def _judge_path(
    certificates: Sequence[x509.Certificate],
    anchors: Sequence[x509.Certificate],
    key: CertificatePublicKeyTypes,
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    leaf = next((certificate for certificate in certificates if _is_for(certificate, key)), None)
    if leaf is None:
        raise EstInvalid("is for another key than the one that was made here")
    path, anchor = _find_path(leaf, certificates, anchors)
    for certificate in (*path, anchor):
        _require_valid(certificate, at)
    return path


def _is_for(certificate: x509.Certificate, key: CertificatePublicKeyTypes) -> bool:
    try:
        theirs = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
    return theirs.public_bytes(*form) == key.public_bytes(*form)


def _find_path(
    leaf: x509.Certificate, certificates: Sequence[x509.Certificate], anchors: Sequence[x509.Certificate]
) -> tuple[tuple[x509.Certificate, ...], x509.Certificate]:
    path = [leaf]
    while (anchor := next((one for one in anchors if _has_signed(one, path[-1])), None)) is None:
        issuer = next(
            (one for one in certificates if one not in path and _is_ca(one) and _has_signed(one, path[-1])), None
        )
        if issuer is None or len(path) == _MAX_PATH:
            raise EstInvalid("does not lead to the root that is trusted here")
        path.append(issuer)
    return tuple(path), anchor


def _is_ca(certificate: x509.Certificate) -> bool:
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return False


def _has_signed(issuer: x509.Certificate, certificate: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(issuer)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def _require_valid(certificate: x509.Certificate, at: datetime) -> None:
    if at < certificate.not_valid_before_utc:
        raise ClockOff(f"is valid from {certificate.not_valid_before_utc:%Y-%m-%dT%H:%M:%SZ} on")
    if at >= certificate.not_valid_after_utc:
        raise ClockOff(f"expired at {certificate.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")


def _names(leaf: x509.Certificate) -> list[x509.GeneralName]:
    try:
        return list(leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value)
    except (x509.ExtensionNotFound, x509.DuplicateExtension, ValueError):
        return []


def identity_of(leaf: x509.Certificate) -> tuple[str, str | None, str] | None:
    """(role, pool, name) of the one name that it has; None: it has another one, none, or several."""
    names = _names(leaf)
    if len(names) != 1 or not isinstance(names[0], x509.UniformResourceIdentifier):
        return None
    match = _WORKER.fullmatch(names[0].value) or _OTHER.fullmatch(names[0].value)
    return None if match is None else (match[1], match[2] or None, match[3])


def read_password(content: bytes, name: str) -> str:
    """The Digest password of `name` in an answer of ``/-/credentials``.

    Raises:
        EstInvalid: it is none, or another's.
    """
    try:
        found = json.loads(content)
    except (ValueError, RecursionError):
        found = None
    user, password = (found.get("user"), found.get("password")) if isinstance(found, dict) else (None, None)
    if not isinstance(password, str) or not 1 <= len(password) <= _MAX_PASSWORD or not password.isprintable():
        raise EstInvalid("holds no password")
    if user != name:
        raise EstInvalid(f"is not for {name}")
    return password


def read_title(content: bytes) -> str:
    """The title of a problem (RFC 9457), made safe for one line; empty: there is none."""
    try:
        found = json.loads(content) if len(content) <= MAX_MESSAGE else None
    except (ValueError, RecursionError):
        return ""
    title = found.get("title") if isinstance(found, dict) else None
    return "".join(c if c.isprintable() else "?" for c in title[:200]) if isinstance(title, str) else ""
