"""The door to the workers: one pool at a gateway's dispatch listener (I/O).

Everything that comes back is what a worker said, or a gateway about one: it is read under a limit and never believed.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import httpx

from mapreduce.api import Slots
from mapreduce.problems import OURS, Problem, read_problem
from mapreduce.retry import gateway_problem
from mapreduce.split import WorkerSlots
from mapreduce.sse import EventParser, EventsInvalid

MAX_ANSWER = 128 << 20
_MAX_FACTS = 16 << 20
_CONNECT = 5.0
_HEARTBEAT = 45.0
"""Seconds: the gateway says something on a stream of events every 15."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pool:
    """The pool as it is now."""

    slots: Slots
    workers: tuple[WorkerSlots, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """An answer of a worker: a JSON object."""

    status: int
    worker: str
    value: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """No such answer, and what is known about why."""

    problem: Problem
    retry_after: float = 0.0


class Door:
    """A client of the dispatch listener, for one pool. An async context manager.

    Args:
        dispatch: ``unix:PATH``, or the URL of a loopback address.
        wait: seconds that a request asks to be waited for: by the gateway for a slot (whose own limit is 60 s unless
            told), then by the worker for the end of the job. Less than the gateway's `answer_timeout` (300 s).
        patience: seconds for an answer; more than the gateway takes for both, so that it is the gateway who tells.
    """

    def __init__(self, dispatch: str, pool: str, *, wait: int = 290, patience: float = 400.0) -> None:
        path = dispatch.removeprefix("unix:")
        is_unix = path != dispatch
        self._pool = f"/-/pools/{pool}"
        self._wait = wait
        self._client = httpx.AsyncClient(
            # The authority must be one of the listener's own; on a unix socket any will do.
            base_url="http://localhost" if is_unix else dispatch,
            transport=httpx.AsyncHTTPTransport(
                uds=path if is_unix else None, limits=httpx.Limits(max_connections=None, max_keepalive_connections=32)
            ),
            timeout=httpx.Timeout(patience, connect=_CONNECT, pool=None),
            trust_env=False,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._client.aclose()

    async def look(self) -> Pool | Failure:
        """The pool now."""
        reply = await self._ask(self._client.build_request("GET", self._pool, timeout=_CONNECT), _MAX_FACTS)
        if isinstance(reply, Failure):
            return reply
        try:
            return _read_pool(reply.value)
        except (KeyError, TypeError, ValueError):
            return _unreachable("what the gateway says of the pool makes no sense")

    async def submit(self, order: bytes, label: str | None) -> Reply | Failure:
        """Send an order to a free slot, one with this label when there is one."""
        headers = {"Content-Type": "application/json", "Prefer": f"wait={self._wait}"}
        if label is not None:
            headers["Rhttp-Prefer-Label"] = label
        request = self._client.build_request("POST", f"{self._pool}/any/jobs", content=order, headers=headers)
        return await self._ask(request, MAX_ANSWER)

    async def follow_up(self, worker: str, id: str) -> Reply | Failure:
        """Ask the worker that took a job how it is."""
        url = f"{self._pool}/workers/{worker}/jobs/{id}"
        return await self._ask(
            self._client.build_request("GET", url, headers={"Prefer": f"wait={self._wait}"}), MAX_ANSWER
        )

    async def events(self) -> AsyncGenerator[Slots, None]:
        """The slots of the pool, now and at every change, until the stream ends. Raises nothing but `OSError`."""
        parser = EventParser()
        timeout = httpx.Timeout(_HEARTBEAT, connect=_CONNECT)
        try:
            async with self._client.stream("GET", f"{self._pool}/events", timeout=timeout) as response:
                if response.status_code != 200:
                    raise OSError(f"the gateway answers {response.status_code}")
                async for data in response.aiter_raw():
                    for event in parser.feed(data):
                        if event.name == "slots":
                            yield _read_slots(json.loads(event.data))
        except (httpx.HTTPError, EventsInvalid, ValueError, KeyError, TypeError) as error:
            raise OSError(type(error).__name__) from None

    async def _ask(self, request: httpx.Request, most: int) -> Reply | Failure:
        try:
            response = await self._client.send(request, stream=True)
        except httpx.ConnectError:
            return _unreachable("the gateway cannot be reached")
        except httpx.HTTPError as error:
            # Sent, or part of it, and nobody knows how far it came.
            return Failure(problem=gateway_problem("worker-lost", 502, "The exchange broke off", type(error).__name__))
        try:
            content = bytearray()
            async for data in response.aiter_raw():
                content += data
                if len(content) > most:
                    return _senseless("it is too large")
        except httpx.HTTPError as error:
            return Failure(problem=gateway_problem("worker-lost", 502, "The answer broke off", type(error).__name__))
        finally:
            await response.aclose()
        return await asyncio.to_thread(_read_answer, response, bytes(content))


def _read_answer(response: httpx.Response, content: bytes) -> Reply | Failure:
    try:
        value = json.loads(content.decode())
    except (ValueError, RecursionError):
        value = None
    if response.status_code >= 400:
        after = response.headers.get("retry-after", "")
        return Failure(
            problem=read_problem(value, response.status_code),
            retry_after=float(after) if after.isascii() and after.isdigit() and len(after) < 6 else 0.0,
        )
    if not isinstance(value, dict) or response.status_code not in (200, 202):
        return _senseless("it is no JSON object")
    return Reply(status=response.status_code, worker=response.headers.get("rhttp-worker", ""), value=value)


def _senseless(why: str) -> Failure:
    return Failure(problem=gateway_problem("worker-invalid", 502, "The worker's answer makes no sense", why))


def _unreachable(why: str) -> Failure:
    return Failure(problem=Problem(type=OURS + "gateway-unreachable", title="No gateway", status=503, detail=why))


def _read_slots(value: dict[str, object]) -> Slots:
    total, free = value["total"], value["free"]
    if type(total) is not int or type(free) is not int or not 0 <= free <= total:
        raise ValueError("slots")
    return Slots(total, free)


def _read_pool(value: dict[str, object]) -> Pool:
    match value:
        case {"slots": dict(slots), "workers": list(workers)}:
            return Pool(slots=_read_slots(slots), workers=tuple(map(_read_worker, workers)))
    raise ValueError("pool")


def _read_worker(value: object) -> WorkerSlots:
    match value:
        case {"name": str(name), "slots": int(slots), "busy": int(busy), "labels": dict(labels)}:
            return WorkerSlots(name=name, free=max(0, slots - busy), labels=labels)
    raise ValueError("worker")
