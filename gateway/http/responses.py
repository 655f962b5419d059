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
from rhttp.ends import RequestEnd
from rhttp.message import Blocks, FieldBlock, Length, one_field

_PROBLEM: Final = FieldBlock(((b"Content-Type", b"application/problem+json"), (b"Cache-Control", b"no-store")))
_JSON: Final = FieldBlock(((b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")))
NO_STORE: Final = one_field(b"Cache-Control", b"no-store")
_RETRY: Final = {
    "no-slot": one_field(b"Retry-After", b"1"),
    "not-sent": one_field(b"Retry-After", b"1"),
    "overloaded": one_field(b"Retry-After", b"1"),
    "draining": one_field(b"Retry-After", b"5"),
    "superseded": one_field(b"Retry-After", b"30"),
    "state-stale": one_field(b"Retry-After", b"5"),
    "issuer-unavailable": one_field(b"Retry-After", b"5"),
    "audit-unavailable": one_field(b"Retry-After", b"5"),
}


def fail(
    process: ProcessContext,
    end: RequestEnd,
    record: RequestRecord,
    status: int,
    slug: str,
    extra: Blocks = (),
    detail: str | None = None,
) -> None:
    """Answer with a problem, without an audit line; an answer that already began is cut instead."""
    if not end.uncommitted:
        end.abort()
        return
    _send(
        process,
        end,
        record,
        status,
        (*problem_blocks(slug), *extra),
        problem_body(Problem(slug), record.request_id, detail),
    )


def problem_blocks(slug: str) -> Blocks:
    """The fields of a problem answer: what it is, and when to come again."""
    retry = _RETRY.get(slug)
    return (_PROBLEM,) if retry is None else (_PROBLEM, retry)


def refuse(
    process: ProcessContext, end: RequestEnd, record: RequestRecord, refusal: Refusal, extra: Blocks = ()
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
    length = record.head.length
    if isinstance(length, int) and length > process.generation.limits.refused_content:
        end.last_request()
    fail(process, end, record, refusal.status, refusal.slug, (*refusal.extra, *extra), refusal.said)


def answer_json(process: ProcessContext, end: RequestEnd, record: RequestRecord, status: int, value: object) -> None:
    """Answer an allowed request of our own paths, after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=status)):
        fail(process, end, record, 503, "audit-unavailable")
        return
    _send(process, end, record, status, (_JSON,), orjson.dumps(value))


def answer_raw(
    process: ProcessContext,
    end: RequestEnd,
    record: RequestRecord,
    status: int,
    blocks: Blocks,
    length: Length,
    content: bytes,
) -> None:
    """Answer an allowed request of our own paths with something else than JSON, after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=status)):
        fail(process, end, record, 503, "audit-unavailable")
        return
    end.head(status, (*blocks, process.date, record.id_block), length)
    end.content(content)
    end.end([])


def answer_certificate(
    process: ProcessContext, end: RequestEnd, record: RequestRecord, media_type: bytes, content: bytes, name: str
) -> None:
    """Answer with what was issued to `name`, after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=200) | {"detail": {"name": name}}):
        fail(process, end, record, 503, "audit-unavailable")
        return
    _send(process, end, record, 200, (one_field(b"Content-Type", media_type), NO_STORE), content)


def answer_options(process: ProcessContext, end: RequestEnd, record: RequestRecord) -> None:
    """Answer an OPTIONS request that may be forwarded no further (RFC 9110 section 7.6.2), after its audit line."""
    process.counters.requests += 1
    if not process.record("request", record.audit("allowed", status=200)):
        fail(process, end, record, 503, "audit-unavailable")
        return
    _send(process, end, record, 200, (), b"")


def _send(
    process: ProcessContext, end: RequestEnd, record: RequestRecord, status: int, blocks: Blocks, body: bytes
) -> None:
    end.head(status, (*blocks, process.date, record.id_block), len(body))
    end.content(body)
    end.end([])
