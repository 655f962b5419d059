"""What can go wrong while enrolling or renewing, in one line each, with the mend. Pure.

Trust: of what a peer says only a status and the title of a problem are shown, made safe.
"""

from __future__ import annotations

from typing import Final

from rhttp.errors import RhttpError
from rhttp.worker.backoff import MAX_RETRY_AFTER, parse_retry_after
from rhttp.worker.bundle import GatewayAddress
from rhttp.worker.est import read_title
from rhttp.worker.https import Answer, HttpsFailed

LOOK_AT_THE_CLOCK: Final = "look at the clock of this machine, and at the gateway's"
_NOT_ITS_ROOT: Final = frozenset({"openssl_7", "openssl_18", "openssl_19", "openssl_20", "openssl_21", "openssl_2"})
_TIMES: Final = {"openssl_9": "is not valid yet", "openssl_10": "has expired"}


class EnrolmentFailed(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """No bundle was made, or it was not renewed.

    ``code`` is a slug; ``str()`` is one line for people, with the mend and without secrets.
    """

    def __init__(self, code: str, message: str, *, is_passing: bool = False, retry_after: float | None = None) -> None:
        super().__init__(code, message)
        self.message = message
        self.is_passing = is_passing
        """Whether trying again may help."""
        self.retry_after = retry_after
        """Seconds that the gateway asked for."""

    def __str__(self) -> str:
        return self.message


class PasswordMissing(EnrolmentFailed):
    """The bundle was made, and lacks the password."""


def said(answer: Answer) -> str:
    """The status, and the title when there is one."""
    title = read_title(answer.content)
    return f"{answer.status}, {title}" if title else str(answer.status)


def refusal(answer: Answer, code: str, message: str) -> EnrolmentFailed:
    """A refusal; 503 passes, and 429 when it says when."""
    found = answer.values("Retry-After")
    wait = parse_retry_after(found[0]) if len(found) == 1 else None
    is_passing = answer.status == 503 or (answer.status == 429 and wait is not None)
    if wait is not None and wait > MAX_RETRY_AFTER:
        return EnrolmentFailed(code, f"{message}; it asks to wait {wait:.0f} s", retry_after=wait)
    return EnrolmentFailed(code, message, is_passing=is_passing, retry_after=wait)


def enrolment_refusal(answer: Answer, peer: GatewayAddress, role: str) -> EnrolmentFailed:
    """What an enrolment listener answers in place of a certificate."""
    reason = said(answer)
    match answer.status:
        case 400:
            code, message = "request", f"it does not take the request ({reason}); try another --name or --key-type"
        case 401:
            code = "token"
            again = f"rhttp-pki token create --role {role}{' --pool P' if role == 'worker' else ''}"
            message = (
                f"it does not take the token ({reason}): unknown, expired, used up or wrong, or for another role or "
                f"name; make a new one on the gateway's home: {again}; and compare the clocks"
            )
        case 403:
            code = "forbidden"
            message = f"this may not be enrolled with this token ({reason}); the gateway's audit log says why"
        case 404:
            code = "not-found"
            message = f"it enrols no {role} ({reason}); is this the address of `[enroll] listen` in gateway.toml?"
        case 429:
            code, message = "too-many", f"too many ask at the moment ({reason}); run this again later"
        case 503:
            code, message = "unavailable", f"it cannot enrol anybody at the moment ({reason})"
        case _:
            code, message = "refused", f"it answers {reason}; is this the address of `[enroll] listen` in gateway.toml?"
    return refusal(answer, code, f"{peer} refused: {message}")


def connection_failure(
    error: HttpsFailed, peer: GatewayAddress, root: str = "the root of --fingerprint"
) -> EnrolmentFailed:
    """For a connection that failed; `root` is what the server had to prove itself by."""
    match error.code:
        case "unresolved" | "unreachable" | "proxy":
            message = error.detail
        case "untrusted":
            message = _distrust(error.detail, peer, root)
        case "alert":
            message = f"{peer} ended the TLS handshake ({error.detail})"
        case "tls":
            message = f"TLS with {peer} failed: {error.detail}"
        case _:
            message = f"{peer}: {error.detail}"
    return EnrolmentFailed(error.code, message, is_passing=error.is_passing)


def _distrust(why: str, peer: GatewayAddress, root: str) -> str:
    if why in _TIMES:
        return f"the certificate of {peer} {_TIMES[why]}; {LOOK_AT_THE_CLOCK}"
    if why in _NOT_ITS_ROOT:
        return f"{peer} shows a certificate that {root} did not sign; somebody may be in between"
    if why == "server_name":
        kind = "IP" if ":" in peer.host or peer.host.replace(".", "").isdigit() else "DNS"
        return (
            f"the certificate of {peer} does not name {peer.host}; dial a name that it has, or run on the gateway's "
            f"home: rhttp-pki issue-server --san {kind}:{peer.host}"
        )
    return f"the certificate of {peer} is not accepted ({why})"
