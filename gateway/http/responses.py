"""Answers of the gateway itself: problem details (RFC 9457), JSON, and refusals with their audit line.

A refused peer learns the status and a request id, never the reason; the audit log has it.

Trust: pure but for the audit line.
"""

from __future__ import annotations

from typing import Final

import orjson

from gateway.admission.checks import Refusal
from gateway.admission.request_record import RequestRecord
from gateway.core.context import ProcessContext
from gateway.http.problems import Problem, problem_body
from rhttp.http1.server import ServerEnd

_PROBLEM: Final = b"Content-Type: application/problem+json\r\nCache-Control: no-store\r\n"
_JSON: Final = b"Content-Type: application/json\r\nCache-Control: no-store\r\n"
_RETRY: Final = {
    "no-slot": b"Retry-After: 1\r\n",
    "not-sent": b"Retry-After: 1\r\n",
    "overloaded": b"Retry-After: 1\r\n",
    "draining": b"Retry-After: 5\r\n",
    "superseded": b"Retry-After: 30\r\n",
    "state-stale": b"Retry-After: 5\r\n",
    "audit-unavailable": b"Retry-After: 5\r\n",
}


def fail(
    process: ProcessContext, end: ServerEnd, record: RequestRecord, status: int, slug: str, extra: bytes = b""
) -> None:
    """Answer with a problem, without an audit line; an answer that already began is cut instead."""
    if not end.uncommitted:
        end.abort()
        return
    body = problem_body(Problem(slug), record.request_id)
    _send(process, end, record.id_bytes, status, _PROBLEM + _RETRY.get(slug, b"") + extra, body)


def refuse(
    process: ProcessContext, end: ServerEnd, record: RequestRecord, refusal: Refusal, extra: bytes = b""
) -> None:
    """Refuse a request: the audit line with its reason first, then an answer without it.

    The line tells a status only when the peer is told it: an answer that has begun is cut, not replaced. Whether the
    connection closes is for `gateway.ingress.connection` to say. Refused content is read and dropped within limits by
    the server end.
    """
    process.counters.refused += 1
    fields = record.audit("refused", status=refusal.status if end.uncommitted else None, reason=refusal.reason)
    if refusal.policy:
        fields["policy"] = refusal.policy
    if refusal.detail is not None:
        fields["detail"] = refusal.detail
    process.record_refusal(refusal.event, fields)
    head = record.head
    if head.content_length and head.content_length > process.generation.limits.refused_content:
        end.close_after = True
    fail(process, end, record, refusal.status, refusal.slug, refusal.extra + extra)


def answer_json(process: ProcessContext, end: ServerEnd, record: RequestRecord, status: int, value: object) -> None:
    """Answer an allowed request of our own paths, after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=status)):
        fail(process, end, record, 503, "audit-unavailable")
        return
    _send(process, end, record.id_bytes, status, _JSON, orjson.dumps(value))


def answer_options(process: ProcessContext, end: ServerEnd, record: RequestRecord) -> None:
    """Answer an OPTIONS request that may be forwarded no further (RFC 9110 section 7.6.2), after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=200)):
        fail(process, end, record, 503, "audit-unavailable")
        return
    _send(process, end, record.id_bytes, 200, b"", b"")


def _send(process: ProcessContext, end: ServerEnd, request_id: bytes, status: int, block: bytes, body: bytes) -> None:
    block = b"%b%bRhttp-Request-Id: %b\r\n" % (block, process.date, request_id)
    end.head(status, block, len(body))
    end.content(body)
    end.end([])
