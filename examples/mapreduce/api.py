"""The API, the same for masters and workers: an ASGI application over an engine that does the work.

    POST /jobs       an order; 202 and Location, or 200 when it ended within Prefer: wait=N (RFC 7240)
    GET /jobs/{id}   the job; Prefer: wait=N waits for its end
    GET /jobs/{id}/events   the job as it goes on: server-sent events, until it ends
    GET /slots       how many jobs it can take now

``?top=N`` on the first two shortens the lists in a result. A job belongs to whom the gateway says asked for it
(``Rhttp-Identity``); for anyone else it is not there. That field is worth what stands in front of this application: it
must be reached through a gateway only.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import re
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode

from mapreduce.orders import MAX_CONTENT, Order, parse_order
from mapreduce.problems import CONTENT_TYPE, Problem, Refused, invalid, refuse
from mapreduce.store import Done, Job, JobStore

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

MAX_WAIT = 300.0
"""Seconds for which an answer is held back at most."""
_WAIT = re.compile(r'wait\s*=\s*"?([0-9]{1,9})"?', re.IGNORECASE)
_MAX_TOP = 1_000_000
_MAX_TARGET = 4096
_HEARTBEAT = 15.0
"""Seconds between two signs of life on a stream of events."""


@dataclass(frozen=True, slots=True)
class Slots:
    """How many jobs, or units of one, can run at a time, and how many more could now."""

    total: int
    free: int


class Engine(Protocol):
    """What does the work behind the API."""

    async def run(self, order: Order, job: Job) -> Done:
        """Do what is ordered, telling the job how far it is; raises `Refused` when it cannot be done."""

    async def slots(self) -> Slots:
        """The slots now; raises `Refused` when nobody knows."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request whose content is still to come."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    receive: Receive

    @property
    def wait(self) -> float:
        """Seconds that the requester would wait."""
        for member in self.headers.get("prefer", "").split(","):
            match = _WAIT.fullmatch(member.partition(";")[0].strip())
            if match is not None:
                return min(float(match[1]), MAX_WAIT)
        return 0.0

    async def content(self) -> bytes:
        """All of the content, up to its limit."""
        if self.headers.get("content-encoding", "identity") != "identity":
            raise refuse("unsupported-content", 415, "Compressed content is not taken")
        too_large = refuse("content-too-large", 413, "The order is too large", f"at most {MAX_CONTENT} bytes")
        length = self.headers.get("content-length", "0")
        if length.isdigit() and int(length[:20]) > MAX_CONTENT:
            raise too_large
        chunks: list[bytes] = []
        size = 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise refuse("content-incomplete", 400, "The content ended early")
            chunks.append(message.get("body", b""))
            size += len(chunks[-1])
            if size > MAX_CONTENT:
                raise too_large
            if not message.get("more_body", False):
                return b"".join(chunks)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is answered."""

    status: int
    body: Mapping[str, object]
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Api:
    """The ASGI application."""

    def __init__(self, engine: Engine, *, store: JobStore | None = None) -> None:
        self._engine = engine
        self._store = store if store is not None else JobStore()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = asyncio.Event()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request, or the life of the server (ASGI 3)."""
        match scope["type"]:
            case "http":
                request = _request(scope, self._unless_closing(receive))
                job = self._followed(request)
                if job is not None:
                    await _follow(job, receive, send)
                else:
                    await _send(send, await self._answer(request))
            case "lifespan":
                await self._live(receive, send)

    async def close(self) -> None:
        """End what still runs, and whoever still sends an order."""
        self._closing.set()
        tasks = tuple(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _unless_closing(self, receive: Receive) -> Receive:
        """`receive` that is refused once this application closes: a server would wait for the content, then cut."""

        async def receive_or_refuse() -> Message:
            message = asyncio.ensure_future(receive())
            closing = asyncio.create_task(self._closing.wait())
            try:
                await asyncio.wait({message, closing}, return_when="FIRST_COMPLETED")
                if not message.done():
                    raise refuse("busy", 503, "This is about to end")
                return message.result()
            finally:
                message.cancel()
                closing.cancel()

        return receive_or_refuse

    async def _live(self, receive: Receive, send: Send) -> None:
        while True:
            message = await receive()
            if message["type"] == "lifespan.startup":
                await send({"type": "lifespan.startup.complete"})
            else:
                await self.close()
                await send({"type": "lifespan.shutdown.complete"})
                return

    def _followed(self, request: Request) -> Job | None:
        """The job whose events are asked for, if it is there and the method is right."""
        match request.method, request.path.split("/")[1:]:
            case "GET", ["jobs", id, "events"]:
                return self._store.find((request.headers.get("rhttp-identity", ""), id))
        return None

    async def _answer(self, request: Request) -> Answer:
        try:
            return await self._route(request)
        except Refused as refused:
            headers = ((b"retry-after", b"1"),) if refused.problem.status == 503 else ()
            return Answer(refused.problem.status, refused.problem.to_json(), headers)

    async def _route(self, request: Request) -> Answer:
        if len(request.path) + len(request.query) > _MAX_TARGET:
            raise refuse("target-too-long", 414, "The target is too long")
        owner = request.headers.get("rhttp-identity", "")
        match request.method, request.path.split("/")[1:]:
            case "POST", ["jobs"]:
                return await self._submit(request, owner)
            case "GET", ["jobs", id]:
                job = self._store.find((owner, id))
                if job is not None:
                    return await _show(job, request.wait, _split_top(request.query)[0])
            case "GET", ["slots"]:
                slots = await self._engine.slots()
                return Answer(200, {"slots": {"total": slots.total, "free": slots.free}})
            case _, ["jobs"]:
                return _only(b"POST")
            case method, ["jobs", _, "events"] if method != "GET":
                return _only(b"GET")
            case _, ["slots"] | ["jobs", _]:
                return _only(b"GET")
        raise refuse("not-found", 404, "There is nothing here, or not for you")

    async def _submit(self, request: Request, owner: str) -> Answer:
        top, query = _split_top(request.query)
        media = request.headers.get("content-type", "")
        content = await request.content()
        order = parse_order(content, media, query)
        digest = hashlib.sha256(f"{media}\n{query}\n".encode() + content).digest()
        key = (owner, order.id or secrets.token_hex(8))
        job, new = self._store.open(key, order, digest, len(content))
        if new:
            task = asyncio.create_task(self._run(order, job))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        del content, order  # they may be large, and the wait long
        return await _show(job, request.wait, top)

    async def _run(self, order: Order, job: Job) -> None:
        outcome: Done | Problem = Problem(type="about:blank", title="The job was interrupted", status=503)
        try:
            outcome = await self._engine.run(order, job)
        except Refused as refused:
            outcome = refused.problem
        except Exception as error:  # a fault of ours, or of a kind: the job fails, the server lives
            outcome = Problem(type="about:blank", title="The job failed", status=500, detail=type(error).__name__)
        finally:
            self._store.close(job, outcome)


async def _show(job: Job, wait: float, top: int | None) -> Answer:
    if job.outcome is None and wait:
        try:
            async with asyncio.timeout(wait):
                await job.ended.wait()
        except TimeoutError:
            pass
    headers = ((b"location", f"/jobs/{job.id}".encode()),)
    return Answer(202 if job.outcome is None else 200, job.show(top), headers)


async def _follow(job: Job, receive: Receive, send: Send) -> None:
    """The job as an event whenever it changed, and at its end; a comment now and then: silence means trouble."""
    headers = [(b"content-type", b"text/event-stream"), (b"cache-control", b"no-store")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    gone = asyncio.create_task(_disconnected(receive))
    try:
        while not gone.done():
            change, ended = job.change, job.outcome is not None
            # Without the result, which may be large: it is at the job itself.
            told = json.dumps(job.show_state(), ensure_ascii=False, separators=(",", ":"))
            name = "ended" if ended else "progress"
            event = f"event: {name}\ndata: {told}\n\n".encode()
            await send({"type": "http.response.body", "body": event, "more_body": True})
            if ended:
                break
            while not await _happened(change, gone):
                await send({"type": "http.response.body", "body": b":\n\n", "more_body": True})
        await send({"type": "http.response.body", "body": b""})
    except OSError:
        pass  # whoever asked has gone
    finally:
        gone.cancel()


async def _happened(change: asyncio.Event, gone: asyncio.Task[None]) -> bool:
    """Whether the job changed, or the requester left, before a sign of life is due."""
    changed = asyncio.create_task(change.wait())
    try:
        return bool((await asyncio.wait({changed, gone}, timeout=_HEARTBEAT, return_when="FIRST_COMPLETED"))[0])
    finally:
        changed.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _only(method: bytes) -> Answer:
    problem = refuse("method-not-allowed", 405, "The method is not for this path").problem
    return Answer(405, problem.to_json(), ((b"allow", method),))


def _split_top(query: str) -> tuple[int | None, str]:
    """The number in ``top=N``, and the query without it."""
    if "top=" not in query:
        return None, query
    pairs = parse_qsl(query, keep_blank_values=True)
    tops = [value for name, value in pairs if name == "top"]
    rest = urlencode([pair for pair in pairs if pair[0] != "top"])
    if not tops:
        return None, query
    if len(tops) > 1 or not (tops[0].isascii() and tops[0].isdigit() and len(tops[0]) < 10):
        raise invalid("top must be one number")
    return min(int(tops[0]), _MAX_TOP), rest


def _request(scope: Scope, receive: Receive) -> Request:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = bytes(name).decode("latin-1").lower()
        text = bytes(value).decode("latin-1")
        headers[key] = f"{headers[key]}, {text}" if key in headers else text
    query = bytes(scope.get("query_string", b"")).decode("latin-1")
    return Request(scope["method"], scope["path"], query, headers, receive)


async def _send(send: Send, answer: Answer) -> None:
    body = json.dumps(answer.body, ensure_ascii=False, separators=(",", ":")).encode()
    kind = CONTENT_TYPE if answer.status >= 400 else "application/json"
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(body)).encode()), *answer.headers]
    await send({"type": "http.response.start", "status": answer.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
