"""Renewing a bundle where it lies, over EST (I/O): RFC 7030 section 4.2.2.

The gateway is asked over mutual TLS with the present certificate, and by the Digest password where the bundle has one.
What it answers has to be for the key that was made here, lead to what the bundle trusts, be in its time, and name whom
the present certificate names; then key and certificate take the place of the old ones at one moment. Whatever fails
before leaves the bundle as it is.

One renewal of a bundle at a time: the others are told so, by a lock on ``rhttp.toml``, which no renewal replaces.

Trust: the bundle is its owner's, the gateway is verified by what the bundle trusts. Password and key never reach an
error, a log line or a repr.
"""

from __future__ import annotations

import base64
import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from cryptography import x509
from OpenSSL import SSL

from rhttp.tls.context import client_context
from rhttp.worker.bundle import SETTINGS, Bundle, BundleInvalid, read_bundle
from rhttp.worker.digest_post import DigestPost, certificates_of
from rhttp.worker.enrolment_failure import LOOK_AT_THE_CLOCK, EnrolmentFailed
from rhttp.worker.est import ClockOff, EstInvalid, identity_of, judge_renewal
from rhttp.worker.https import HttpsFailed
from rhttp.worker.renewal import Certified, renew_files
from rhttp.worker.renewal_failure import expired, renewal_connection_failure, renewal_refusal

__all__ = ["renew_over_est", "try_renewal"]

_LOCK: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def _always(_bundle: Bundle) -> bool:
    return True


def _now() -> datetime:
    return datetime.now(UTC)


def renew_over_est(
    place: Path,
    *,
    gateway: str | None = None,
    is_due: Callable[[Bundle], bool] = _always,
    now: Callable[[], datetime] = _now,
) -> Bundle | None:
    """Put a new key, of the present one's kind, and a certificate for it into a bundle; what is there then.

    Args:
        gateway: in place of what the bundle says.
        is_due: asked, once no other renewal is under way, whether it is still wanted; when not, None is the answer.
        now: the time of day, by which certificates are judged.

    Raises:
        BundleInvalid: it cannot be used, or its key is of a kind that is not made here.
        EnrolmentFailed: no certificate came, or none that may be used.
        OSError: it could not be written, and everything is as it was.
    """
    with _held(place):
        bundle = read_bundle(place, gateway=gateway)
        if not is_due(bundle):
            return None
        present = x509.load_pem_x509_certificates(bundle.chain)[0]
        found = identity_of(present)
        if found is None:
            message = f"the certificate in {place} names no worker, client or master; issue a new bundle"
            raise EnrolmentFailed("certificate", message)
        if now() >= present.not_valid_after_utc:
            raise expired(bundle, found[0])
        if not os.access(place, os.W_OK | os.X_OK):
            message = f"{place} may not be written to by this user, so it is not renewed; mend its owner or permissions"
            raise EnrolmentFailed("place", message)
        renew_files(place, present, lambda request: _obtain(bundle, found[0], present, request, now))
        return read_bundle(place, gateway=gateway)


def try_renewal(
    place: Path, *, gateway: str | None = None, is_due: Callable[[Bundle], bool] = _always
) -> Bundle | None:
    """`renew_over_est` for those who go on when it fails: every failure is one kind.

    Raises:
        EnrolmentFailed: nothing was changed.
    """
    try:
        return renew_over_est(place, gateway=gateway, is_due=is_due)
    except BundleInvalid as error:
        raise EnrolmentFailed("bundle", str(error)) from None
    except OSError as fault:
        where = fault.filename if isinstance(fault.filename, str) else place
        why = fault.strerror or type(fault).__name__
        message = f"cannot write to {where}: {why}; check its permissions and the disk. The old certificate stays"
        raise EnrolmentFailed("disk", message, is_passing=True) from None


@contextmanager
def _held(place: Path) -> Iterator[None]:
    """Nobody else renews it meanwhile."""
    try:
        lock = os.open(place / SETTINGS, _LOCK)
    except OSError:
        yield  # it is no bundle, or none that we may read, which its reader tells best
        return
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            message = f"another run is renewing {place}; wait for it"
            raise EnrolmentFailed("busy", message, is_passing=True) from None
        except OSError:
            pass  # a file system without locks is one that nobody shares
        yield
    finally:
        with suppress(OSError):
            os.close(lock)


def _obtain(
    bundle: Bundle, role: str, present: x509.Certificate, request: bytes, now: Callable[[], datetime]
) -> Certified:
    """A certificate for the key of the request (DER), from the gateway."""
    gateway = bundle.gateway
    try:
        context = client_context(chain=bundle.chain, key=bundle.key, anchors=bundle.trust, host=gateway.host)
    except (SSL.Error, ValueError, TypeError) as error:
        message = f"OpenSSL takes no TLS settings from {bundle.place} ({type(error).__name__})"
        raise EnrolmentFailed("tls", message) from None
    try:
        post = DigestPost(bundle.user, bundle.password)
    except ValueError:
        message = f"`user` in {bundle.place / SETTINGS} is no user name for Digest: visible ASCII without a colon"
        raise EnrolmentFailed("credentials", message) from None
    try:
        target = f"/.well-known/est/{role}/simplereenroll"
        answer = post.ask(gateway, context, target, base64.encodebytes(request))
    except HttpsFailed as error:
        raise renewal_connection_failure(error, bundle, role) from None
    if answer.status != 200:
        raise renewal_refusal(answer, bundle, role)
    try:
        path = judge_renewal(
            certificates_of(answer),
            anchors=[x509.load_pem_x509_certificate(pem) for pem in bundle.trust],
            key=x509.load_der_x509_csr(request).public_key(),
            present=present,
            at=now(),
        )
    except ClockOff as error:
        raise EnrolmentFailed("clock", f"the certificate that {gateway} gave {error}; {LOOK_AT_THE_CLOCK}") from None
    except EstInvalid as error:
        message = f"the certificate that {gateway} gave {error}; it is not used, and the old one stays"
        raise EnrolmentFailed("certificate", message) from None
    return Certified(path=path)
