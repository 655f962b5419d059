"""Dialling a gateway: TCP, TLS with both certificates, Digest, and the switch of roles (I/O).

A `Session` is what all connections of one agent share while its bundle stays the same: the TLS settings and the Digest
state, so that one challenge serves them all. `dial` makes one connection and hands it over at the moment when the
gateway's 101 was read, with the bytes that came glued behind it.

Trust: trusts nothing before the server's certificate was verified by the bundle's anchors and for the name that was
dialled. What a verified gateway answers is still held to the grammar and to limits.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from OpenSSL import SSL

from rhttp.digest.formula import DigestClient
from rhttp.errors import RhttpError
from rhttp.http1.fields import values
from rhttp.http1.limits import Http1Limits
from rhttp.reversal.upgrade import UpgradeVariant
from rhttp.reversal.upgrade_client import UpgradeAnswer, UpgradeClient
from rhttp.timers import TimerWheel
from rhttp.tls.context import client_context
from rhttp.tls.tls_link import TlsLink
from rhttp.worker.backoff import REFUSAL, TROUBLE, Pace, parse_retry_after
from rhttp.worker.bundle import Bundle
from rhttp.worker.connect import ConnectFailed, connect

HANDSHAKE_TIMEOUT: Final = 10.0
ANSWER_TIMEOUT: Final = 30.0
"""For the answers to one attempt to switch, challenge and all."""
_MAX_TRIES: Final = 3
"""Requests on one connection: the first, one after a challenge, one after a stale nonce."""
Take = Callable[[TlsLink, bytes], None]


class DialFailed(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """No reversed connection came of it.

    ``code`` is a slug: ``unresolved``, ``unreachable``, ``proxy``, ``timeout``, ``untrusted`` (the
    server's certificate), ``certificate`` (ours), ``tls``, ``credentials``, ``forbidden``, ``not-found``,
    ``superseded`` (another start of this worker is newer), ``crowded`` (it takes no more connections), ``refused``,
    ``lost``, ``malformed``. ``str()`` is one line for people, without secrets.
    """

    def __init__(self, code: str, message: str, *, pace: Pace = TROUBLE, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.message = message
        self.pace = pace
        """How patiently to try again."""
        self.retry_after = retry_after
        """Seconds that the gateway asked for."""

    def __str__(self) -> str:
        return self.message


class Session:
    """What the connections made with one reading of a bundle share."""

    def __init__(self, bundle: Bundle) -> None:
        self.bundle = bundle
        self.context: SSL.Context = _context(bundle)
        self.digest: DigestClient | None = None
        if bundle.user is not None and bundle.password is not None:
            self.digest = DigestClient(bundle.user, bundle.password, entropy=os.urandom)
        self._is_primed = self.digest is None

    def is_unprimed(self) -> bool:
        """Whether the first challenge is still to come: better one dial asks for it than all of them."""
        return not self._is_primed

    def primed(self) -> None:
        """A challenge was taken up, or the gateway let us in without."""
        self._is_primed = True

    def authorize(self, method: bytes, target: bytes) -> bytes | None:
        """The ``Authorization`` value for one request, or None before the first challenge."""
        return self.digest.authorize(method, target) if self.digest is not None else None


def _context(bundle: Bundle) -> SSL.Context:
    try:
        return client_context(chain=bundle.chain, key=bundle.key, anchors=bundle.trust, host=bundle.gateway.host)
    except (SSL.Error, ValueError) as error:
        raise DialFailed("tls", f"OpenSSL takes no TLS settings from {bundle.place} ({type(error).__name__})") from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialling:
    """What every dial of one agent is made with."""

    wheel: TimerWheel
    limits: Http1Limits
    variant: UpgradeVariant
    instance: str
    """Names this start of the agent, so that the gateway can tell its connections from those of an earlier one."""


async def dial(session: Session, dialling: Dialling, take: Take) -> None:
    """Make one reversed connection.

    ``take(link, surplus)`` is called once, in the very turn in which the 101 was read; it must give the link an owner
    with `TlsLink.set_protocol`. When it was called, dial returns; otherwise it raises.

    Raises:
        DialFailed: with what went wrong and how patiently to try again.
    """
    try:
        sock = await connect(session.bundle.gateway)
    except ConnectFailed as error:
        raise DialFailed(error.code, error.message, pace=error.pace) from None
    ask = await _shake(session, dialling, sock, take)
    try:
        async with asyncio.timeout(ANSWER_TIMEOUT):
            await _switch(session, dialling, ask)
    except TimeoutError:
        if ask.has_switched:
            return
        ask.close()
        raise DialFailed("timeout", "the gateway did not answer the request to switch roles") from None
    except BaseException:
        ask.close()
        raise


# ---- TLS ----


async def _shake(session: Session, dialling: Dialling, sock: socket.socket, take: Take) -> UpgradeClient:
    loop = asyncio.get_running_loop()
    shaken: asyncio.Future[UpgradeClient | str] = loop.create_future()

    def done(link: TlsLink, failure: str | None) -> None:
        # The owner is there before the next byte is: that may be the alert that says what is wrong with us.
        outcome: UpgradeClient | str = failure or UpgradeClient(link, dialling.limits, dialling.wheel, take)
        if not shaken.done():
            shaken.set_result(outcome)

    host = session.bundle.gateway.host
    link = TlsLink(
        loop,
        sock,
        session.context,
        server=False,
        wheel=dialling.wheel,
        timeout=HANDSHAKE_TIMEOUT,
        done=done,
        server_name=None if _is_address(host) else host.encode("ascii"),
    )
    try:
        # The wheel bounds it, too; this bound holds even if nobody turns the wheel.
        async with asyncio.timeout(HANDSHAKE_TIMEOUT + 1):
            outcome = await shaken
    except TimeoutError:
        link.abort()
        outcome = "timeout"
    except BaseException:
        link.abort()
        raise
    if isinstance(outcome, str):
        raise _handshake_failed(session.bundle, outcome)
    return outcome


def _is_address(host: str) -> bool:
    for family in (socket.AF_INET, socket.AF_INET6):
        with contextlib.suppress(OSError):
            socket.inet_pton(family, host)
            return True
    return False


_OPENSSL: Final = {
    "openssl_9": "its certificate is not valid yet; look at the clock of this machine",
    "openssl_10": "its certificate has expired; look at the clock of this machine, or have the gateway's renewed "
    "(`rhttp-pki issue-server`)",
    "openssl_18": "its certificate is self-signed and not the one in trust.pem",
    "openssl_19": "trust.pem does not hold the root of its certificate",
    "openssl_20": "trust.pem does not hold the root of its certificate",
    "openssl_7": "trust.pem does not hold the root of its certificate",
    "openssl_26": "its certificate is not one of a server",
}


def _handshake_failed(bundle: Bundle, failure: str) -> DialFailed:
    gateway = bundle.gateway
    if failure == "timeout":
        return DialFailed("timeout", f"{gateway} did not finish the TLS handshake in time")
    if failure == "closed":
        return DialFailed("tls", f"{gateway} closed the connection during the TLS handshake")
    if failure == "server_name":
        message = f"the server at {gateway} is not trusted: its certificate does not name {gateway.host}"
        return DialFailed("untrusted", message, pace=REFUSAL)
    if failure.startswith("openssl_"):
        why = _OPENSSL.get(failure, f"verification failed ({failure})")
        return DialFailed("untrusted", f"the server at {gateway} is not trusted: {why}", pace=REFUSAL)
    if "alert" in failure:
        return certificate_refused(bundle, failure)
    return DialFailed("tls", f"TLS with {gateway} failed: {failure}")


def certificate_refused(bundle: Bundle, alert: str) -> DialFailed:
    """The gateway's TLS alert, in words: it is nearly always about our certificate."""
    if "expired" in alert:
        mend = "it has expired; run: rhttp-pki renew"
    elif "revoked" in alert:
        again = f"rhttp-pki issue-worker {bundle.name} --pool {bundle.pool} --out NEW"
        take = f"cp NEW/cert.pem NEW/key.pem NEW/leaf.pem {bundle.place}"
        mend = f"it is revoked; whoever runs the gateway can issue another: {again}; then: {take}"
    elif "unknown ca" in alert:
        mend = "it comes from another home than the gateway's"
    else:
        mend = "it may be not of a worker, or from before a change of the CA; ask: rhttp-pki show " + bundle.name
    message = f"the gateway refused the certificate in {bundle.place} ({alert}): {mend}"
    return DialFailed("certificate", message, pace=REFUSAL)


# ---- the switch ----


async def _switch(session: Session, dialling: Dialling, ask: UpgradeClient) -> None:
    bundle = session.bundle
    target = b"/-/reverse/" + bundle.pool.encode("ascii")
    method = b"POST" if b"POST" in dialling.variant.methods else b"GET"
    for _ in range(_MAX_TRIES):
        authorization = session.authorize(method, target)
        fields = [(b"Rhttp-Instance", dialling.instance.encode("ascii"))]
        if authorization is not None:
            fields.append((b"Authorization", authorization))
        asked = await ask.send(method, target, bundle.gateway.authority, tuple(fields), dialling.variant.token)
        if asked.switched:
            session.primed()
            if session.digest is not None:
                session.digest.accepted(values(asked.fields, b"authentication-info"))
            return
        if asked.status != 401 or session.digest is None:
            raise _refused(bundle, asked)
        again = session.digest.challenged(values(asked.fields, b"www-authenticate"), answered=authorization is not None)
        if not again:
            raise _refused(bundle, asked)
        session.primed()
        if not ask.is_open:
            raise DialFailed("lost", "the gateway closed the connection after its challenge")
    raise DialFailed("credentials", "the gateway keeps asking for new credentials", pace=REFUSAL)


def _refused(bundle: Bundle, asked: UpgradeAnswer) -> DialFailed:
    """A final answer other than 101, or none at all."""
    if asked.status == 0:
        if asked.alert:
            return certificate_refused(bundle, asked.alert)
        if asked.is_malformed:
            return DialFailed("malformed", f"the gateway's answer is not HTTP/1.1 as we know it: {asked.detail}")
        return DialFailed("lost", f"the gateway closed the connection: {asked.detail}")
    retry_after = next(iter(values(asked.fields, b"retry-after")), None)
    wait = parse_retry_after(retry_after) if retry_after is not None else None
    said = f"{asked.status}{f', {asked.title}' if asked.title else ''}"
    if asked.request_id:
        said += f" (request {asked.request_id})"
    pace = REFUSAL
    match asked.status:
        case 401 if bundle.user is None:
            code, message = "credentials", f"it wants a password, and {bundle.place} names no user: {said}"
        case 401:
            mend = "the password may have changed (`rhttp-pki user passwd`), or the user is disabled"
            code, message = "credentials", f"it does not take the password of {bundle.user}: {said}; {mend}"
        case 403:
            question = f"--as worker/{bundle.name} --action reverse --on pool/{bundle.pool}"
            mend = f"the audit log says why, and at the gateway `rhttp-pki policy explain {question}`"
            code, message = "forbidden", f"{bundle.name} may not serve the pool {bundle.pool}: {said}; {mend}"
        case 404:
            code, message = "not-found", f"there is no pool {bundle.pool}: {said}; add [pools.{bundle.pool}]"
        case 409 if asked.problem == "superseded":
            mend = (
                "a worker that was started later runs with a copy of this bundle; stop one of the two, "
                f"or give each a bundle of its own (`rhttp-pki issue-worker NAME --pool {bundle.pool}`)"
            )
            code, message = "superseded", f"this start of {bundle.name} is superseded: {said}; {mend}"
        case 426:
            code, message = "refused", f"it does not speak this protocol: {said}"
        case 503 if asked.problem == "overloaded":
            code, message, pace = "crowded", said, TROUBLE
        case status if status in (429, 502, 503, 504):
            code, message, pace = "refused", said, TROUBLE
        case _:
            code, message = "refused", said
    return DialFailed(code, f"the gateway refused: {message}", pace=pace, retry_after=wait)
