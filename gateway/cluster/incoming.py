"""A connection that another process dialled, from its greeting on.

Trust: whoever has not greeted is a stranger, who may say 39 bytes and has two seconds for them. Then it is a process of
this gateway, and what it sends is checked for shape.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Final, Protocol

import orjson

from gateway.cluster.frames import (
    ANSWER,
    ASK,
    CANCEL,
    GREETING_SIZE,
    MAX_MESSAGE,
    WANT,
    Greetings,
    MeshError,
    message,
    parse_message,
    read_wish,
)
from gateway.cluster.reservations import PassedConnection, Reservations
from gateway.control.frames import FrameError, FrameReader
from gateway.core.context import ProcessContext
from gateway.pools.hosted import HostedPool
from rhttp.ends import Link

GREET_WITHIN: Final = 2.0
"""Seconds."""
MAX_BEHIND: Final = 32 * 1024 * 1024
"""Bytes of news that a process may be behind with before it has to begin anew."""


class Host(Protocol):
    """Who takes connections: a process's part in the mesh."""

    process: ProcessContext
    greetings: Greetings
    hosted: Callable[[str], HostedPool | None]
    tell: Callable[[str], object]

    def arrived(self, incoming: Incoming, /) -> None:
        """A connection was accepted; nobody knows yet who it is."""

    def stranger(self) -> None:
        """It is none of ours."""

    def greeted(self, incoming: Incoming, index: int, purpose: int, /) -> PassedConnection | None:
        """It is another process of ours; for requests, their owner from now on."""

    def left(self, incoming: Incoming, /) -> None:
        """It is gone."""


class Incoming(asyncio.Protocol):
    """One connection: a stranger's, then a subscriber's, unless requests come over it and it has another owner."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self._reader: FrameReader | None = None
        self._early = b""
        self._link: Link
        self.reservations = Reservations(host.process, host.hosted, self._say)
        self.deadline = 0.0
        self.bucket = 0.0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._link = transport  # type: ignore[assignment]  # a Link
        self._host.process.wheel.set(self, GREET_WITHIN)
        self._host.arrived(self)

    def deadline_passed(self) -> None:
        """It did not greet."""
        self._refuse()

    def data_received(self, data: bytes) -> None:
        if self._reader is None:
            data = self._early + data
            if len(data) < GREETING_SIZE:
                self._early = data
                return
            self._early = b""
            self._greeted(data[:GREETING_SIZE], data[GREETING_SIZE:])
        else:
            self._messages(self._reader, data)

    def _greeted(self, greeting: bytes, rest: bytes) -> None:
        host = self._host
        try:
            purpose, index = host.greetings.check(greeting)
        except MeshError:
            self._refuse()
            return
        host.process.wheel.forget(self)
        passed = host.greeted(self, index, purpose)
        if passed is None:
            self._reader = FrameReader(MAX_MESSAGE)
            self._messages(self._reader, rest)
        else:
            end = passed.end
            end.connection_made(self._link)  # type: ignore[arg-type]  # a Link
            self._link.set_protocol(end)
            if rest:
                end.data_received(rest)

    def _refuse(self) -> None:
        self._host.process.wheel.forget(self)
        self._host.stranger()
        self._link.abort()

    def _messages(self, reader: FrameReader, data: bytes) -> None:
        try:
            for content in reader.feed(data):
                kind, number, rest = parse_message(content)
                if kind == WANT:
                    self.reservations.want(number, read_wish(rest))
                elif kind == CANCEL:
                    self.reservations.cancel(number)
                elif kind == ASK:
                    answer = self._host.tell(rest.decode(errors="replace"))
                    self._say(ANSWER, number, orjson.dumps(answer))
                else:
                    raise MeshError(f"a message of kind {kind} of whoever dialled")
        except FrameError:
            self._link.abort()

    def _say(self, kind: int, number: int, content: bytes) -> None:
        self._link.write(message(kind, number, content))

    def send_news(self, news: bytes) -> None:
        """Tell it; one that does not listen has to begin anew."""
        self._link.write(news)
        if self._link.get_write_buffer_size() > MAX_BEHIND:
            self._link.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._host.process.wheel.forget(self)
        self._host.left(self)
        self.reservations.close()

    def close(self) -> None:
        """End it."""
        self._link.abort()
