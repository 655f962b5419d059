"""For tests of the map and reduce example: requests to an ASGI application without a server."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any

Application = Callable[[MutableMapping[str, Any], Any, Any], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class Answered:
    """What came back."""

    status: int
    headers: Mapping[str, str]
    body: dict[str, Any]


async def ask(
    application: Application,
    method: str,
    target: str,
    content: object = b"",
    *,
    headers: Mapping[str, str] | None = None,
    chunk: int = 1 << 20,
) -> Answered:
    """One request. Content that is no bytes is sent as JSON."""
    given = dict(headers or {})
    if not isinstance(content, bytes):
        content = json.dumps(content).encode()
        given.setdefault("content-type", "application/json")
    path, _, query = target.partition("?")
    pieces = [content[at : at + chunk] for at in range(0, len(content), chunk)] or [b""]
    sent: list[MutableMapping[str, Any]] = []

    async def receive() -> MutableMapping[str, Any]:
        if not pieces:
            return {"type": "http.disconnect"}
        piece = pieces.pop(0)
        return {"type": "http.request", "body": piece, "more_body": bool(pieces)}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    scope: MutableMapping[str, Any] = {
        "type": "http",
        "method": method,
        "path": path,
        "query_string": query.encode(),
        "headers": [(name.lower().encode(), value.encode()) for name, value in given.items()],
    }
    await application(scope, receive, send)
    fields = {bytes(name).decode(): bytes(value).decode() for name, value in sent[0]["headers"]}
    body = b"".join(message["body"] for message in sent[1:])
    assert int(fields["content-length"]) == len(body)
    return Answered(sent[0]["status"], fields, json.loads(body))
