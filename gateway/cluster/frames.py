"""Frames between the data processes of one gateway: a type, a length, and that many bytes.

Two kinds of connections carry them. On a *news* connection a process tells what it holds and answers questions; on a
*line* it lends one worker's slot at a time to the process at the other end. The first frame says which.

Trust: pure. The peer is a process of the same gateway, and what it sends is checked for shape all the same.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Final

import orjson

HELLO: Final = 1
"""First frame of whoever dialled: JSON, `index` of its process and `kind`, news or line."""
NEWS: Final = 2
ASK: Final = 3
"""Number of the question (4 bytes), then its name."""
ANSWER: Final = 4
"""Number of the question, then JSON."""
WANT: Final = 5
"""JSON: a slot is wanted; see `Wish`."""
CANCEL: Final = 6
"""The slot is wanted no more, also when it was offered meanwhile. Answered with FREE."""
OFFER: Final = 7
"""The worker's name: its slot is lent, and DATA goes to it and comes from it."""
NONE: Final = 8
"""No such slot, or none free now."""
FREE: Final = 9
"""The line is free for the next WANT."""
DATA: Final = 10
RELEASE: Final = 11
"""The answer is complete: the slot goes back, the line is free."""
DROP: Final = 12
"""One byte, 1: in order, 0: at once; then why. The worker's connection is of no further use."""
EOF: Final = 13
"""One byte, 1: the worker ended TLS without close_notify. No more DATA comes from it."""
GONE: Final = 14
"""Why, or nothing: the worker's connection is closed."""

MAX_FRAME: Final = 64 * 1024 * 1024
"""Bytes of a frame's content. The largest is the first news of a process: about 120 bytes a worker."""

_HEAD: Final = struct.Struct(">BI")
_HEAD_SIZE: Final = 5


class MeshError(Exception):
    """The other end sent what no process of this gateway sends."""


def frame(kind: int, content: bytes = b"") -> bytes:
    """One frame.

    Raises:
        MeshError: the content is longer than `MAX_FRAME`.
    """
    if len(content) > MAX_FRAME:
        raise MeshError(f"a frame of {len(content)} bytes is over the limit of {MAX_FRAME}")
    return _HEAD.pack(kind, len(content)) + content


class FrameReader:
    """Bytes in, frames out; holds at most one frame and what came with its end."""

    __slots__ = ("_buffer", "_maximum")

    def __init__(self, maximum: int = MAX_FRAME) -> None:
        self._buffer = b""
        self._maximum = maximum

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """The frames that these bytes complete, in order.

        Raises:
            MeshError: a frame is too long or of no known kind; feed nothing more after it.
        """
        if self._buffer:
            data = self._buffer + data
        frames: list[tuple[int, bytes]] = []
        at = 0
        left = len(data)
        while left >= _HEAD_SIZE:
            head = _HEAD.unpack_from(data, at)
            kind: int = head[0]
            length: int = head[1]
            if length > self._maximum or not HELLO <= kind <= GONE:
                raise MeshError(f"a frame of kind {kind} with {length} bytes")
            if left < _HEAD_SIZE + length:
                break
            at += _HEAD_SIZE
            frames.append((kind, data[at : at + length]))
            at += length
            left -= _HEAD_SIZE + length
        self._buffer = data[at:] if at else data
        return frames

    def deliver(self, data: bytes, take: Callable[[int, bytes], None], broken: Callable[[], None]) -> None:
        """Give each frame that these bytes complete to ``take``, or call ``broken`` as soon as there is a `MeshError`.

        Feed nothing more after that.
        """
        try:
            for kind, content in self.feed(data):
                take(kind, content)
        except MeshError:
            broken()


class Wish:
    """What slot is wanted of another process."""

    __slots__ = ("label", "not_again", "pool", "strict", "waits", "worker")

    def __init__(
        self,
        pool: str,
        *,
        worker: str | None = None,
        label: tuple[str, str] | None = None,
        strict: bool = False,
        not_again: str | None = None,
        waits: bool = False,
    ) -> None:
        self.pool = pool
        self.worker = worker
        """Only this worker will do."""
        self.label = label
        self.strict = strict
        """A worker without the label will not do."""
        self.not_again = not_again
        """Any worker but this one."""
        self.waits = waits
        """When there is none now, the first that comes free."""

    def to_bytes(self) -> bytes:
        """As the content of a WANT."""
        return orjson.dumps([self.pool, self.worker, self.label, self.strict, self.not_again, self.waits])

    @classmethod
    def from_bytes(cls, content: bytes) -> Wish:
        """The wish that a WANT carries.

        Raises:
            MeshError: it is none.
        """
        try:
            pool, worker, label, strict, not_again, waits = orjson.loads(content)
            key = (str(label[0]), str(label[1])) if label is not None else None
        except (ValueError, TypeError, LookupError):
            raise MeshError("a wish of another shape") from None
        return cls(str(pool), worker=worker, label=key, strict=bool(strict), not_again=not_again, waits=bool(waits))
