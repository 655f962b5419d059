"""What can go wrong while a bundle is renewed over EST, in one line each, with the mend. Pure.

Trust: of what a peer says only a status, a TLS alert and the title of a problem are shown, made safe.
"""

from __future__ import annotations

from typing import Final

from rhttp.worker.bundle import Bundle
from rhttp.worker.bundle_watch import date
from rhttp.worker.enrolment_failure import LOOK_AT_THE_CLOCK, EnrolmentFailed, connection_failure, refusal, said
from rhttp.worker.https import Answer, HttpsFailed

_POLICIES: Final = {"worker": "workers-renew", "client": "clients-renew", "master": "masters-renew"}


def _again(bundle: Bundle, role: str) -> str:
    """How somebody whom the gateway lets in no more gets another bundle."""
    kind = "" if role == "worker" else f" --role {role}"
    return (
        "enrol again with a token, into a new directory: rhttp-pki enroll --gateway URL --fingerprint SHA256 "
        f"--token-file F{kind} --name {bundle.name} --out NEW"
    )


def expired(bundle: Bundle, role: str) -> EnrolmentFailed:
    """The present certificate cannot be shown any more."""
    message = (
        f"the certificate in {bundle.place} expired at {date(bundle.expires)}, by the clock of this machine, and the "
        f"gateway renews only valid ones; look at the clock, or {_again(bundle, role)}"
    )
    return EnrolmentFailed("expired", message)


def renewal_refusal(answer: Answer, bundle: Bundle, role: str) -> EnrolmentFailed:
    """What a gateway answers in place of the next certificate."""
    reason = said(answer)
    match answer.status:
        case 400:
            code, message = "request", f"it does not take the request ({reason}); its audit log says why"
        case 401 if bundle.user is None:
            code, message = "credentials", f"it wants a password ({reason}), and {bundle.place} names no user"
        case 401:
            code = "credentials"
            mend = "the password may have changed (`rhttp-pki user passwd`), or the user is disabled"
            message = f"it does not take the password of {bundle.user} ({reason}); {mend}"
        case 403:
            code = "forbidden"
            message = (
                f"{role} {bundle.name} may not be renewed ({reason}): it was revoked or removed, or the policy does "
                f"not allow it, as one of an earlier build, which lacks `{_POLICIES[role]}`; the gateway's audit log "
                "says which"
            )
        case 404:
            code = "not-found"
            message = f"it renews nothing ({reason}); put `renew = true` into [enroll] of its gateway.toml"
        case 429:
            code, message = "too-many", f"too many ask at the moment ({reason})"
        case 503:
            code, message = "unavailable", f"it cannot issue at the moment ({reason})"
        case _:
            code, message = "refused", f"it answers {reason}; is this the TLS listener of the gateway?"
    return refusal(answer, code, f"{bundle.gateway} does not renew {bundle.place}: {message}")


def renewal_connection_failure(error: HttpsFailed, bundle: Bundle, role: str) -> EnrolmentFailed:
    """For a connection that failed."""
    if error.code == "lost":
        message = f"{bundle.gateway}: {error.detail}; if it does so again, its audit log says why"
        return EnrolmentFailed("lost", message, is_passing=True)
    if error.code != "alert":
        return connection_failure(error, bundle.gateway, f"the root in {bundle.place / 'trust.pem'}")
    if "expired" in error.detail:
        mend = f"it has expired; {LOOK_AT_THE_CLOCK}, or {_again(bundle, role)}"
    elif "revoked" in error.detail:
        mend = f"it is revoked; {_again(bundle, role)}"
    elif "unknown ca" in error.detail:
        mend = "it comes from another home than the gateway's"
    else:
        mend = f"it may be from before a change of the CA; {_again(bundle, role)}"
    message = f"{bundle.gateway} refused the certificate in {bundle.place} ({error.detail}): {mend}"
    return EnrolmentFailed("alert", message)
