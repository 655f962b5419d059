"""Every answer that the gateway itself gives in place of a master's or worker's: one table, one form (RFC 9457).

A problem type says *what* happened. Why credentials or a policy refused is for the audit log alone: the types of those
refusals take no detail, so no caller can tell it by accident.

Trust: data and one pure function.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType
from typing import Final

import orjson

URN: Final = "urn:rhttp:problem:"
_MAX_DETAIL: Final = 1000


class Problem(StrEnum):
    """The slug of a problem type; the value is what follows `URN`."""

    # The head (RFC 9110, RFC 9112).
    BAD_REQUEST = "bad-request"
    TARGET_INVALID = "target-invalid"
    URI_TOO_LONG = "uri-too-long"
    FIELDS_TOO_LARGE = "fields-too-large"
    REQUEST_TIMEOUT = "request-timeout"
    VERSION_NOT_SUPPORTED = "version-not-supported"
    METHOD_NOT_IMPLEMENTED = "method-not-implemented"
    CODING_NOT_IMPLEMENTED = "coding-not-implemented"
    EXPECTATION_FAILED = "expectation-failed"
    LENGTH_REQUIRED = "length-required"
    CONTENT_TOO_LARGE = "content-too-large"
    MISDIRECTED = "misdirected"
    CROSS_SITE = "cross-site"
    LOOP_DETECTED = "loop-detected"
    # Who asks, and whether they may.
    CERTIFICATE_REFUSED = "certificate-refused"
    UNAUTHENTICATED = "unauthenticated"
    FORBIDDEN = "forbidden"
    # Certificates.
    REQUEST_INVALID = "request-invalid"
    ISSUER_UNAVAILABLE = "issuer-unavailable"
    # What is asked for.
    NOT_FOUND = "not-found"
    METHOD_NOT_ALLOWED = "method-not-allowed"
    UPGRADE_REQUIRED = "upgrade-required"
    # The gateway.
    OVERLOADED = "overloaded"
    DRAINING = "draining"
    STATE_STALE = "state-stale"
    AUDIT_UNAVAILABLE = "audit-unavailable"
    ANSWER_WITHHELD = "answer-withheld"
    INTERNAL = "internal"
    # Pools and workers.
    NO_SLOT = "no-slot"
    NOT_SENT = "not-sent"
    WORKER_LOST = "worker-lost"
    WORKER_INVALID = "worker-invalid"
    SUPERSEDED = "superseded"
    DEADLINE = "deadline"
    # Masters.
    MASTER_UNREACHABLE = "master-unreachable"
    MASTER_LOST = "master-lost"
    MASTER_INVALID = "master-invalid"
    MASTER_ASKED_CREDENTIALS = "master-asked-credentials"


@dataclass(frozen=True, slots=True, kw_only=True)
class ProblemType:
    """Status and title of a problem type; `open_detail`: may its answer say more than the title?"""

    slug: Problem
    status: int
    title: str
    open_detail: bool = True

    @property
    def type(self) -> str:
        """The URI of the type."""
        return URN + self.slug.value


def _closed(slug: Problem, status: int, title: str) -> ProblemType:
    return ProblemType(slug=slug, status=status, title=title, open_detail=False)


def _open(slug: Problem, status: int, title: str) -> ProblemType:
    return ProblemType(slug=slug, status=status, title=title)


PROBLEMS: Final[Mapping[Problem, ProblemType]] = MappingProxyType(
    {
        kind.slug: kind
        for kind in (
            _open(Problem.BAD_REQUEST, 400, "The request is malformed"),
            _open(Problem.TARGET_INVALID, 400, "The request target is not acceptable"),
            _open(Problem.URI_TOO_LONG, 414, "The request line is too long"),
            _open(Problem.FIELDS_TOO_LARGE, 431, "The header section is too large"),
            _open(Problem.REQUEST_TIMEOUT, 408, "The request took too long to arrive"),
            _open(Problem.VERSION_NOT_SUPPORTED, 505, "The HTTP version is not supported"),
            _open(Problem.METHOD_NOT_IMPLEMENTED, 501, "The method is not implemented"),
            _open(Problem.CODING_NOT_IMPLEMENTED, 501, "The transfer coding is not implemented"),
            _open(Problem.EXPECTATION_FAILED, 417, "The expectation cannot be met"),
            _open(Problem.LENGTH_REQUIRED, 411, "The length of the content must be given"),
            _open(Problem.CONTENT_TOO_LARGE, 413, "The content is too large"),
            _open(Problem.MISDIRECTED, 421, "The request is addressed to another host"),
            _open(Problem.CROSS_SITE, 403, "Cross-site requests are refused here"),
            _open(Problem.LOOP_DETECTED, 508, "The request passed this gateway before"),
            _closed(Problem.CERTIFICATE_REFUSED, 403, "The certificate is not accepted"),
            _closed(Problem.UNAUTHENTICATED, 401, "Valid credentials are required"),
            _closed(Problem.FORBIDDEN, 403, "The request is not permitted"),
            _open(Problem.REQUEST_INVALID, 400, "The certificate request is not acceptable"),
            _closed(Problem.ISSUER_UNAVAILABLE, 503, "No certificate can be issued now"),
            _open(Problem.NOT_FOUND, 404, "There is nothing at this path"),
            _open(Problem.METHOD_NOT_ALLOWED, 405, "The method is not allowed at this path"),
            _open(Problem.UPGRADE_REQUIRED, 426, "An upgrade to a reverse protocol is required"),
            _open(Problem.OVERLOADED, 503, "The gateway is at a limit"),
            _open(Problem.DRAINING, 503, "The gateway is shutting down"),
            _closed(Problem.STATE_STALE, 503, "The gateway cannot read its state"),
            _closed(Problem.AUDIT_UNAVAILABLE, 503, "The gateway cannot write its audit log"),
            _closed(Problem.ANSWER_WITHHELD, 500, "The request was carried out, but its answer cannot be recorded"),
            _closed(Problem.INTERNAL, 500, "The gateway failed"),
            _open(Problem.NO_SLOT, 503, "No worker slot became free"),
            _open(Problem.NOT_SENT, 503, "The request was not sent to any worker"),
            _open(Problem.WORKER_LOST, 502, "The worker was lost; the request may have run"),
            _open(Problem.WORKER_INVALID, 502, "The worker's answer is not valid"),
            _open(Problem.SUPERSEDED, 409, "A newer start of this worker serves"),
            _open(Problem.DEADLINE, 504, "No answer came in time; the request may have run"),
            _open(Problem.MASTER_UNREACHABLE, 502, "The master cannot be reached"),
            _open(Problem.MASTER_LOST, 502, "The master was lost; the request may have run"),
            _open(Problem.MASTER_INVALID, 502, "The master's answer is not valid"),
            _open(Problem.MASTER_ASKED_CREDENTIALS, 502, "The master or worker asks for credentials of its own"),
        )
    }
)


_BEGINNINGS: Final = {
    slug: orjson.dumps({"type": kind.type, "title": kind.title, "status": kind.status})[:-1]
    for slug, kind in PROBLEMS.items()
}


def problem_body(slug: Problem, request_id: str, detail: str | None = None) -> bytes:
    """The JSON content of a problem answer, one line; status: ``PROBLEMS[slug].status``.

    `detail` is text for the peer, cut at 1,000 characters. It is left out where the type is closed. What is in it is
    not looked at: exception text and addresses of masters have no place there.
    """
    if detail is None:
        return b'%b,"request_id":%b}\n' % (_BEGINNINGS[slug], orjson.dumps(request_id))
    kind = PROBLEMS[slug]
    body = {"type": kind.type, "title": kind.title, "status": kind.status, "request_id": request_id}
    if kind.open_detail:
        body["detail"] = detail[:_MAX_DETAIL]
    return orjson.dumps(body, option=orjson.OPT_APPEND_NEWLINE)
