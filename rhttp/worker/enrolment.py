"""Enrolling: from a token and a fingerprint to a bundle (I/O).

1. The root is fetched from a server that nobody has verified yet, and taken when its fingerprint is the one that the
   operator gave. Nothing secret has been said so far.
2. A server of that very root is asked to certify a key that was made here, with the token as Digest credentials.
3. The gateway is asked for the Digest password of the new name, over mutual TLS with the new certificate. It comes
   once.

A gateway that is away, or asks to wait, is asked again for a while, always with the same key, so that an answer that
was lost is not a use of the token that was lost.

Trust: nobody before his root was found, and the gateway of that root afterwards, with its answers held to
`rhttp.worker.est`. Token, password and key never reach an error, a log line or a repr.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL

from rhttp.tls.context import client_context, unsafe_client_context
from rhttp.worker.backoff import TROUBLE, wait_before_retry
from rhttp.worker.bundle import PASSWORD, SETTINGS, BundleInvalid, GatewayAddress, parse_gateway
from rhttp.worker.bundle_texts import CURL, build_certificate_files, build_curl_conf, build_settings
from rhttp.worker.digest_post import CERTIFICATES, DigestPost, certificates_of
from rhttp.worker.enrolment_failure import (
    LOOK_AT_THE_CLOCK,
    EnrolmentFailed,
    PasswordMissing,
    connection_failure,
    enrolment_refusal,
    refusal,
    said,
)
from rhttp.worker.est import (
    MAX_MESSAGE,
    ClockOff,
    Enrolled,
    EstInvalid,
    PrivateKey,
    Token,
    build_request,
    find_anchor,
    judge_answer,
    read_password,
)
from rhttp.worker.fresh_bundle import FreshBundle, key_pem
from rhttp.worker.https import Answer, HttpsConnection, HttpsFailed
from rhttp.worker.versions import KEY

__all__ = ["EnrolmentOrder", "NewBundle", "enroll"]

T = TypeVar("T")

_MAX_PASSWORD_ANSWER: Final = 1 << 16


@dataclass(frozen=True, slots=True, kw_only=True)
class EnrolmentOrder:
    """What is to be enrolled, where, and by what right."""

    gateway: GatewayAddress
    """The enrolment listener's."""
    fingerprint: bytes
    """SHA-256 of the root's DER."""
    token: Token = field(repr=False)
    role: str
    name: str | None
    """None: the gateway chooses, or the token says it."""
    key_type: str
    out: Path
    """Absolute."""
    wait: float
    """Seconds for which a gateway that is away, or asks to wait, is asked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NewBundle:
    """What was made."""

    place: Path
    role: str
    pool: str | None
    name: str
    gateway: GatewayAddress
    expires: datetime


class _Patience:
    """Asks again what fails and may not, until the time is up."""

    def __init__(self, seconds: float, tell: Callable[[str], None], sleep: Callable[[float], None]) -> None:
        self._until = time.monotonic() + seconds
        self._tell = tell
        self._sleep = sleep
        self._failures = 0

    def insist(self, act: Callable[[], T]) -> T:
        while True:
            try:
                return act()
            except EnrolmentFailed as error:
                if not error.is_passing:
                    raise
                self._failures += 1
                # Not for safety, but lest a thousand machines come back at once.
                chance = random.random()  # noqa: S311
                pause = wait_before_retry(self._failures, TROUBLE, chance, retry_after=error.retry_after)
                left = self._until - time.monotonic()
                if pause >= left:
                    raise
                if self._failures == 1:
                    self._tell(f"{error}; trying again for {left:.0f} s")
                self._sleep(pause)


def enroll(
    order: EnrolmentOrder,
    *,
    tell: Callable[[str], None] = lambda _: None,
    sleep: Callable[[float], None] = time.sleep,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> NewBundle:
    """Make the bundle.

    When it fails after the request was sent, the key stays beside the place (`FreshBundle`), and the next call for the
    same place goes on with it.

    Args:
        tell: is told once, when the gateway is asked again.
        sleep: waits so many seconds.
        now: the time of day, by which certificates are judged.

    Raises:
        PlaceTaken: something is at ``order.out``.
        PasswordMissing: the bundle is there, without its password; the message says how it gets one.
        EnrolmentFailed: there is none.
        OSError: the place cannot be written to.
    """
    patience = _Patience(order.wait, tell, sleep)
    with FreshBundle(order.out) as bundle:
        anchor = patience.insist(lambda: _find_root(order))
        key = bundle.key(order.key_type)
        try:
            bundle.is_kept = True  # from here on the gateway may have made a certificate for it
            enrolled, gateway = patience.insist(lambda: _request(order, anchor, key, now))
        except EnrolmentFailed as error:
            bundle.is_kept = error.is_passing
            if not error.is_passing:
                raise
            again = (
                "run this again within ten minutes: the key was kept, and the token is good for it without another use"
            )
            raise EnrolmentFailed(error.code, f"{error}; {again}") from None
        # Whatever can fail here does so before the password, which is given once, is asked for.
        bundle.add(_certified_files(anchor, key, enrolled, gateway))
        password: str | None = None
        fault: EnrolmentFailed | None = None
        try:
            password = patience.insist(lambda: _fetch_password(anchor, key, enrolled, gateway))
        except EnrolmentFailed as error:
            fault = error
        if password is not None:
            bundle.add({PASSWORD: f"{password}\n".encode()})
        bundle.add({CURL: build_curl_conf(order.out, user=enrolled.name, password=password, has_key=True)})
        bundle.commit()
    if fault is not None:
        mend = f"rhttp-pki user passwd {enrolled.name} --generate --out FILE"
        message = (
            f"{order.out} is made, its certificate is good, and it lacks the password: {fault}; on the gateway's home"
            f" run `{mend}`, and bring the file here as {order.out / PASSWORD} (mode 0600)"
        )
        raise PasswordMissing(fault.code, message)
    return NewBundle(
        place=order.out,
        role=enrolled.role,
        pool=enrolled.pool,
        name=enrolled.name,
        gateway=gateway,
        expires=enrolled.path[0].not_valid_after_utc,
    )


def _certified_files(
    anchor: x509.Certificate, key: PrivateKey, enrolled: Enrolled, gateway: GatewayAddress
) -> dict[str, bytes]:
    settings = build_settings(
        gateway=str(gateway), pool=enrolled.pool, name=enrolled.name, role=enrolled.role, has_user=True
    )
    certificates = build_certificate_files(enrolled.path, anchor.public_bytes(Encoding.PEM))
    return {**certificates, KEY: key_pem(key), SETTINGS: settings}


# ---- the three steps ----


def _find_root(order: EnrolmentOrder) -> x509.Certificate:
    """The root, by its fingerprint, from a server that is not verified: nothing secret is said to it."""
    try:
        with HttpsConnection(order.gateway, unsafe_client_context()) as connection:
            target = f"/.well-known/est/{order.role}/cacerts"
            answer = connection.ask("GET", target, {"Accept": CERTIFICATES}, limit=MAX_MESSAGE)
    except HttpsFailed as error:
        raise connection_failure(error, order.gateway) from None
    if answer.status != 200:
        raise enrolment_refusal(answer, order.gateway, order.role)
    try:
        return find_anchor(certificates_of(answer), order.fingerprint)
    except EstInvalid as error:
        message = (
            f"the root of {order.gateway} is not the one of --fingerprint: {error}; somebody may be in between, or the "
            "fingerprint is another gateway's: compare with what this prints on the gateway's home: "
            "openssl x509 -in rhttp-home/certs/root.pem -noout -fingerprint -sha256"
        )
        raise EnrolmentFailed("fingerprint", message) from None


def _request(
    order: EnrolmentOrder,
    anchor: x509.Certificate,
    key: PrivateKey,
    now: Callable[[], datetime],
) -> tuple[Enrolled, GatewayAddress]:
    """A certificate for the key, and where the gateway serves, from a server that the root vouches for."""
    anchors = [anchor.public_bytes(Encoding.PEM)]
    context = client_context(chain=None, key=None, anchors=anchors, host=order.gateway.host)
    target = f"/.well-known/est/{order.role}/simpleenroll"
    content = build_request(key, order.name)
    try:
        answer = DigestPost(order.token.id, order.token.secret).ask(order.gateway, context, target, content)
    except HttpsFailed as error:
        raise connection_failure(error, order.gateway) from None
    if answer.status != 200:
        raise enrolment_refusal(answer, order.gateway, order.role)
    try:
        enrolled = judge_answer(
            certificates_of(answer), anchor=anchor, key=key, role=order.role, name=order.name, at=now()
        )
    except ClockOff as error:
        raise EnrolmentFailed(
            "clock", f"the certificate that {order.gateway} gave {error}; {LOOK_AT_THE_CLOCK}"
        ) from None
    except EstInvalid as error:
        message = (
            f"the certificate that {order.gateway} gave {error}; it is not used, and the token may have lost a use"
        )
        raise EnrolmentFailed("certificate", message) from None
    return enrolled, _gateway(answer, order)


def _gateway(answer: Answer, order: EnrolmentOrder) -> GatewayAddress:
    where = answer.values("Rhttp-Gateway")
    if len(where) != 1:
        message = (
            f"{order.gateway} does not say where its gateway listens (no field Rhttp-Gateway); is it an rhttp-pki?"
        )
        raise EnrolmentFailed("gateway", message)
    try:
        return parse_gateway(where[0].decode("ascii", "replace"), f"the field Rhttp-Gateway of {order.gateway}")
    except BundleInvalid as error:
        raise EnrolmentFailed("gateway", str(error)) from None


def _fetch_password(anchor: x509.Certificate, key: PrivateKey, enrolled: Enrolled, gateway: GatewayAddress) -> str:
    try:
        context = client_context(
            chain=b"".join(certificate.public_bytes(Encoding.PEM) for certificate in enrolled.path),
            key=key_pem(key),
            anchors=[anchor.public_bytes(Encoding.PEM)],
            host=gateway.host,
        )
    except (SSL.Error, ValueError, TypeError) as error:
        raise EnrolmentFailed("tls", f"OpenSSL takes no TLS settings from them ({type(error).__name__})") from None
    try:
        with HttpsConnection(gateway, context) as connection:
            answer = connection.ask("POST", "/-/credentials", {}, b"", limit=_MAX_PASSWORD_ANSWER)
    except HttpsFailed as error:
        raise connection_failure(error, gateway) from None
    if answer.status != 200:
        why = {
            409: "it was given out before",
            403: "the policy does not give it",
            404: "the gateway gives out none",
        }.get(answer.status, "it was refused")
        raise refusal(answer, "password", f"{why} ({said(answer)})")
    try:
        return read_password(answer.content, enrolled.name)
    except EstInvalid as error:
        raise EnrolmentFailed("password", f"what {gateway} answered {error}") from None
