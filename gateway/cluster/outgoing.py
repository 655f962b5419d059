"""The connection that we dialled to another process, to hear its news, ask it and reserve slots of it.

Trust: the other end is a process of this gateway; what it sends is checked for shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import orjson

from gateway.cluster.frames import ANSWER, ASK, MAX_MESSAGE, NEWS, NONE, OFFER, MeshError, message, parse_message
from gateway.cluster.remote_process import RemoteProcess
from gateway.control.frames import FrameError, FrameReader
from rhttp.ends import Link


class Outgoing(asyncio.Protocol):
    """The connection that we dialled to another process."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        remote: RemoteProcess,
        heard: Callable[[bytes], None],
        lost: Callable[[], None],
    ) -> None:
        """``heard`` gets its news, and raises `MeshError` when they have another shape; ``lost`` is called once."""
        self._loop = loop
        self._remote = remote
        self._heard = heard
        self._lost = lost
        self._reader = FrameReader(MAX_MESSAGE)
        self._link: Link | None = None
        self._asked = 0
        self._waiting: dict[int, asyncio.Future[Any]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = transport  # type: ignore[assignment]  # a Link

    def data_received(self, data: bytes) -> None:
        try:
            for content in self._reader.feed(data):
                kind, number, rest = parse_message(content)
                self._take(kind, number, rest)
        except FrameError:
            self.close()

    def _take(self, kind: int, number: int, content: bytes) -> None:
        if kind == OFFER:
            self._remote.offered(number, content.decode("ascii", "replace"))
        elif kind == NONE:
            self._remote.refused(number)
        elif kind == NEWS:
            self._heard(content)
        elif kind == ANSWER:
            self._answered(number, content)
        else:
            raise MeshError(f"a message of kind {kind} to whoever dialled")

    def _answered(self, number: int, content: bytes) -> None:
        try:
            answer = orjson.loads(content)
        except orjson.JSONDecodeError:
            raise MeshError("an answer of another shape") from None
        future = self._waiting.pop(number, None)
        if future is not None and not future.done():
            future.set_result(answer)

    def say(self, kind: int, number: int, content: bytes) -> None:
        """Send a message; nothing happens when the process is gone."""
        if self._link is not None:
            self._link.write(message(kind, number, content))

    def ask(self, question: str) -> asyncio.Future[Any]:
        """The answer, or a future that is cancelled when the process is gone."""
        future: asyncio.Future[Any] = self._loop.create_future()
        self._asked += 1
        number = self._asked & 0xFFFFFFFF
        self._waiting[number] = future
        future.add_done_callback(lambda _: self._waiting.pop(number, None))
        if self._link is None:
            future.cancel()
        else:
            self.say(ASK, number, question.encode())
        return future

    def connection_lost(self, exc: Exception | None) -> None:
        self._link = None
        for future in tuple(self._waiting.values()):
            future.cancel()
        self._lost()

    def close(self) -> None:
        """End it."""
        if self._link is not None:
            self._link.abort()
