"""The control socket between the supervisor and a process of its own: framed JSON, typed messages, bounded size.

A frame (`gateway.control.frames`) holds one JSON object with a ``type``. The codec
(`encode`, `FrameDecoder`) is pure; `ControlChannel` is its asyncio edge over one end of a socketpair. Both ends are
ours and the socket has no name in any file system, yet a frame that is too long, is no JSON or has another shape than
its type demands breaks the channel for good: a half-understood command is worse than a restarted process.

Trust: trusted peer, contents checked.
"""

from __future__ import annotations

import asyncio
import itertools
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from enum import StrEnum
from typing import Final, cast, get_args

import orjson

from gateway.control.frames import FrameError, FrameReader, frame

MAX_FRAME: Final = 128 * 1024 * 1024
"""Bytes of one message. The largest is a state snapshot: about 250 bytes a user, 100 a certificate."""


class ControlError(Exception):
    """The channel cannot go on: it is closed, its peer is silent, or it sent what no peer of ours sends."""


class Question(StrEnum):
    """What a supervisor may ask of a running process; the answer is `Done.value`."""

    STATUS = "status"
    AUDIT_HEAD = "audit-head"


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """First message of a process: it runs and waits for its inputs."""

    pid: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Prepare:
    """Build everything from these inputs, beside what runs now. Carries the server's key: never shown."""

    id: int
    inputs: Mapping[str, object]

    def __repr__(self) -> str:
        return f"Prepare(id={self.id}, inputs=<withheld>)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    """Use what was prepared from now on."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Rollback:
    """Forget what was prepared."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class ApplyState:
    """Use this snapshot (its JSON text); answer when every connection that it ends is closed."""

    id: int
    snapshot: str

    def __repr__(self) -> str:
        return f"ApplyState(id={self.id}, snapshot=<{len(self.snapshot)} characters>)"


@dataclass(frozen=True, slots=True, kw_only=True)
class StateFresh:
    """State could be read at this second of `rhttp.clock` and is what the process already has. Not answered."""

    at: float


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PublishLists:
    """Serve these revocation lists (their JSON text). Not answered."""

    lists: str

    def __repr__(self) -> str:
        return f"PublishLists(lists=<{len(self.lists)} characters>)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """Serve on the inherited sockets."""

    id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LameDuck:
    """Answer 503 to health, lease nothing, and serve on; answered after ``at_least`` seconds when what ran is over."""

    id: int
    at_least: float
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """Take what waits in the queues and nothing more; let what runs end within ``timeout`` seconds, cut the rest."""

    id: int
    timeout: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """A question that changes nothing."""

    id: int
    question: Question


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    """The answer to the message with this id: problems (key path, message), connections cut, and a value."""

    id: int
    problems: tuple[tuple[str, str], ...] = ()
    cut: int = 0
    value: Mapping[str, object] = field(repr=False)  # it may hold a password that was just made


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class StartIssuer:
    """To the issuer: open this home, whose state must be at ``state_url``, and its issuing keys.

    Carries the passphrase that unseals them, its bytes as latin-1: never shown.
    """

    id: int
    home: str
    state_url: str
    passphrase: str | None

    def __repr__(self) -> str:
        return f"StartIssuer(id={self.id}, home={self.home!r}, <withheld>)"


@dataclass(frozen=True, slots=True, kw_only=True)
class Issue:
    """An order for the issuer (`gateway.issuer.orders`): a data process to the supervisor, and that to the issuer.

    The answer is `Done.value`, passed back as it came.
    """

    id: int
    order: Mapping[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class CheckpointDue:
    """The process wrote enough audit lines that waiting for the second's end would leave too many unsigned."""

    lines: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Drained:
    """How a process ended: what it had to cut, by kind, and what went wrong, as (where, message)."""

    cut: Mapping[str, int] = field(default_factory=dict)
    problems: tuple[tuple[str, str], ...] = ()


Message = (
    Hello
    | Prepare
    | Commit
    | Rollback
    | ApplyState
    | StateFresh
    | PublishLists
    | Start
    | LameDuck
    | Drain
    | Ask
    | Done
    | StartIssuer
    | Issue
    | CheckpointDue
)


def encode(message: Message) -> bytes:
    """The frame of a message.

    Raises:
        ControlError: it would be longer than `MAX_FRAME`.
    """
    kind = type(message)
    value: dict[str, object] = {name: getattr(message, name) for name in kind.__slots__}
    value["type"] = kind.__name__
    try:
        return frame(orjson.dumps(value), MAX_FRAME)
    except FrameError as error:
        raise ControlError(f"a {kind.__name__} message: {error}") from None


class FrameDecoder:
    """Bytes in, messages out; never holds more than one frame and what follows it in the last read."""

    __slots__ = ("_frames",)

    def __init__(self, maximum: int = MAX_FRAME) -> None:
        self._frames = FrameReader(maximum)

    def feed(self, data: bytes) -> list[Message]:
        """The messages that these bytes complete, in order.

        Raises:
            ControlError: a frame is too long or not one of our messages; feed nothing more after it.
        """
        try:
            contents = self._frames.feed(data)
        except FrameError as error:
            raise ControlError(f"control: {error}") from None
        return [_parse(content) for content in contents]


def _parse(content: bytes) -> Message:
    try:
        value = orjson.loads(content)
    except orjson.JSONDecodeError:
        raise ControlError("a control frame is not JSON") from None
    if not isinstance(value, dict):
        raise ControlError("a control frame is not a JSON object")
    kind = value.pop("type", None)
    shape = _SHAPES.get(kind) if isinstance(kind, str) else None
    if shape is None:
        raise ControlError("a control frame has no known type")
    make, readers = shape
    if value.keys() != readers.keys():
        raise ControlError(f"a {kind} frame has other fields than it should")
    try:
        return make(**{name: reader(value[name]) for name, reader in readers.items()})
    except (TypeError, ValueError):
        raise ControlError(f"a {kind} frame has a field of the wrong type") from None


def _count(value: object) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise TypeError
    return value


def _seconds(value: object) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError
    return float(value)


def read_text(value: object) -> str:
    """A string out of JSON; raises `TypeError`."""
    if not isinstance(value, str):
        raise TypeError
    return value


def read_object(value: object) -> dict[str, object]:
    """An object out of JSON; raises `TypeError`."""
    if not isinstance(value, dict):
        raise TypeError
    return cast("dict[str, object]", value)


def _pairs(value: object) -> tuple[tuple[str, str], ...]:
    if not isinstance(value, list):
        raise TypeError
    pairs: list[tuple[str, str]] = []
    for item in value:
        if not isinstance(item, list) or len(item) != 2:
            raise TypeError
        pairs.append((read_text(item[0]), read_text(item[1])))
    return tuple(pairs)


def _question(value: object) -> Question:
    return Question(read_text(value))


_READERS: Final[Mapping[str, Callable[[object], object]]] = {
    "int": _count,
    "float": _seconds,
    "str": read_text,
    "str | None": lambda value: None if value is None else read_text(value),
    "Mapping[str, object]": read_object,
    "tuple[tuple[str, str], ...]": _pairs,
    "Question": _question,
}
"""By the type that a field of a message declares; no number of ours is negative."""
_SHAPES: Final[Mapping[str, tuple[Callable[..., Message], Mapping[str, Callable[[object], object]]]]] = {
    kind.__name__: (kind, {field.name: _READERS[str(field.type)] for field in fields(kind)})
    for kind in get_args(Message)
}


class ControlChannel(asyncio.Protocol):
    """One end of the control socket on an event loop: sends messages, matches `Done` to its question, tells the rest.

    ``on_message`` gets every message but `Done`; ``on_close`` is called once, when nothing more can be said, after all
    waiting calls failed.
    """

    def __init__(self, *, on_message: Callable[[Message], None], on_close: Callable[[], None]) -> None:
        self._on_message = on_message
        self._on_close = on_close
        self._decoder = FrameDecoder()
        self._waiting: dict[int, asyncio.Future[Done]] = {}
        self._ids = itertools.count(1)
        self._transport: asyncio.Transport | None = None
        self._reason = "the control socket is closed"

    @classmethod
    async def open(
        cls, sock: socket.socket, *, on_message: Callable[[Message], None], on_close: Callable[[], None]
    ) -> ControlChannel:
        """Take over the socket."""
        loop = asyncio.get_running_loop()
        sock.setblocking(False)
        _transport, channel = await loop.create_unix_connection(
            lambda: cls(on_message=on_message, on_close=on_close), sock=sock
        )
        return channel

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        try:
            messages = self._decoder.feed(data)
        except ControlError as error:
            self._reason = str(error)
            self.close()
            return
        for message in messages:
            if isinstance(message, Done):
                future = self._waiting.pop(message.id, None)
                if future is not None and not future.done():
                    future.set_result(message)
            else:
                self._on_message(message)

    def connection_lost(self, exc: Exception | None) -> None:
        self._transport = None
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(ControlError(self._reason))
        self._on_close()

    def send(self, message: Message) -> None:
        """Send without waiting; nothing happens on a closed channel (``on_close`` tells)."""
        if self._transport is not None:
            self._transport.write(encode(message))

    async def call(self, make: Callable[[int], Message], *, within: float) -> Done:
        """Send the message that ``make`` builds for a fresh id and wait for its answer.

        Raises:
            ControlError: the channel closed or no answer came ``within`` so many seconds.
        """
        if self._transport is None:
            raise ControlError(self._reason)
        number = next(self._ids)
        future: asyncio.Future[Done] = asyncio.get_running_loop().create_future()
        message = encode(make(number))
        self._waiting[number] = future
        self._transport.write(message)
        try:
            async with asyncio.timeout(within):
                return await future
        except TimeoutError:
            raise ControlError(f"no answer within {within:g} seconds") from None
        finally:
            self._waiting.pop(number, None)

    def close(self) -> None:
        """Close at once, dropping what was not written yet."""
        if self._transport is not None:
            self._transport.abort()
