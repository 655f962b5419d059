"""What serves the requests of reversed connections, and the answers that the agent itself gives.

Trust: pure. The requests come from the gateway, which let them in; their content is its clients'.
"""

from __future__ import annotations

import json
from typing import Final, Protocol, runtime_checkable

from rhttp.ends import RequestEnd
from rhttp.http1.limits import Http1Limits
from rhttp.http1.server import ServerEnd
from rhttp.message import FieldBlock, RequestHead

LIMITS: Final = Http1Limits(
    # Wider than a gateway's own limits: it has let the request in, and added fields of its own.
    head_bytes=131072,
    request_line_bytes=65536,
    fields=256,
    # How long an answer may take is the gateway's to say: it closes the connection of a request that it gave up.
    answer_timeout=86400.0,
)
"""For the ends of an agent."""
_PROBLEM: Final = FieldBlock(((b"Content-Type", b"application/problem+json"), (b"Cache-Control", b"no-store")))


@runtime_checkable
class Handler(Protocol):
    """Serves requests: an ASGI application, or a server that they are forwarded to."""

    @property
    def orphans(self) -> int:
        """Requests that are still being worked on though their connection is gone; they take up slots."""

    def handle(self, end: ServerEnd, head: RequestHead) -> None:
        """Serve one request: give the end a sink, and an answer now or later. Must not block."""

    async def start(self) -> None:
        """Called once, before the first connection is made."""

    async def stop(self) -> None:
        """Called once, when no connection is left; what still runs is cancelled."""


def answer_problem(end: RequestEnd, status: int, slug: str, title: str) -> None:
    """Answer a request with a problem (RFC 9457), or cut the connection when its answer has begun."""
    if not end.is_asked:
        return
    if not end.uncommitted:
        end.abort()
        return
    body = json.dumps({"type": f"urn:rhttp:problem:{slug}", "title": title, "status": status}).encode() + b"\n"
    end.head(status, (_PROBLEM,), len(body))
    end.content(body)
    end.end([])
