"""What the data processes of one gateway say to each other beside requests: a kind, a number, and what belongs to it.

Messages go over the connection that a process dialled to hear the news of another one: it asks there, too, and there it
reserves slots. Requests go over connections of their own: see `gateway.cluster.hop`. Either begins with a greeting.

Trust: pure. The peer is a process of the same gateway, and what it sends is checked for shape all the same.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from typing import Final

import orjson

from gateway.control.frames import FrameError, frame
from rhttp.memo import Memo

NEWS: Final = 1
"""JSON: what changed in the process that was dialled; see `gateway.cluster.directory`."""
ASK: Final = 2
"""The name of a question."""
ANSWER: Final = 3
"""The number of the question, then JSON."""
WANT: Final = 4
"""JSON: a slot is wanted; see `Wish`. The number is that of the reservation that is to be."""
OFFER: Final = 5
"""The worker's name: a slot of it is reserved under the number of the WANT, for
`gateway.cluster.reservations.RESERVED_FOR` seconds, and taken by the request that names it."""
NONE: Final = 6
"""No such slot, or none free now."""
CANCEL: Final = 7
"""The slot is wanted no more, also when it was offered meanwhile. Not answered."""

MAX_MESSAGE: Final = 64 * 1024 * 1024
"""Bytes of a message. The largest is the first news of a process: about 120 bytes a worker."""

FOR_NEWS: Final = 1
FOR_REQUESTS: Final = 2

_REMEMBERED: Final = 1024
_SHORT: Final = 512
"""Wishes that are remembered, and the bytes of one that is worth it."""

_HEAD: Final = struct.Struct(">BI")
_HEAD_SIZE: Final = 5
_GREETING: Final = struct.Struct(">4sBH32s")
_MAGIC: Final = b"rhm1"
GREETING_SIZE: Final = 39


class MeshError(FrameError):
    """The other end sent what no process of this gateway sends."""


def message(kind: int, number: int = 0, content: bytes = b"") -> bytes:
    """One message, as a frame.

    Raises:
        FrameError: the content is longer than `MAX_MESSAGE`.
    """
    return frame(_HEAD.pack(kind, number) + content, MAX_MESSAGE)


def parse_message(content: bytes) -> tuple[int, int, bytes]:
    """Kind, number and content of the message in a frame.

    Raises:
        MeshError: it is too short for one, or of no known kind.
    """
    if len(content) < _HEAD_SIZE:
        raise MeshError("a message without its head")
    head = _HEAD.unpack_from(content)
    kind: int = head[0]
    number: int = head[1]
    if not NEWS <= kind <= CANCEL:
        raise MeshError(f"a message of kind {kind}")
    return kind, number, content[_HEAD_SIZE:]


class Greetings:
    """The first bytes on every connection between processes, which prove that a process of this gateway dialled.

    They are an HMAC under a key that only these processes have, made anew whenever the gateway starts. It names both
    ends and the purpose, so a greeting that one process got is of no use towards another one.
    """

    __slots__ = ("_index", "_key")

    def __init__(self, secret: bytes, index: int) -> None:
        """``secret`` is shared by the processes; ``index`` is this process."""
        self._key = hmac.digest(secret, b"rhttp-pki: processes of one gateway", hashlib.sha256)
        self._index = index

    def greet(self, purpose: int, other: int) -> bytes:
        """What to say to another process."""
        return _GREETING.pack(_MAGIC, purpose, self._index, self._proof(purpose, self._index, other))

    def check(self, greeting: bytes) -> tuple[int, int]:
        """The purpose of a connection, and the process that dialled.

        Raises:
            MeshError: it is no greeting, or not one for us of a process of this gateway.
        """
        if len(greeting) != GREETING_SIZE:
            raise MeshError("no greeting")
        magic, purpose, index, proof = _GREETING.unpack(greeting)
        if magic != _MAGIC or purpose not in (FOR_NEWS, FOR_REQUESTS) or index == self._index:
            raise MeshError("no greeting")
        if not hmac.compare_digest(proof, self._proof(purpose, index, self._index)):
            raise MeshError("a greeting without proof")
        return purpose, index

    def _proof(self, purpose: int, source: int, target: int) -> bytes:
        return hmac.digest(self._key, b"%d %d %d" % (purpose, source, target), hashlib.sha256)


class Wish:
    """What slot is wanted of another process. Nobody changes one: equal ones are shared."""

    __slots__ = ("_text", "label", "not_again", "pool", "strict", "waits", "worker")

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
        self._text = b""

    def to_bytes(self) -> bytes:
        """As the content of a WANT; made once."""
        if not self._text:
            told = [self.pool, self.worker, self.label, self.strict, self.not_again, self.waits]
            self._text = orjson.dumps(told)
        return self._text

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
        if not all(name is None or isinstance(name, str) for name in (worker, not_again)):
            raise MeshError("a wish of another shape")
        return cls(str(pool), worker=worker, label=key, strict=bool(strict), not_again=not_again, waits=bool(waits))


_wishes: Final[Memo[bytes, Wish]] = Memo(_REMEMBERED)


def read_wish(content: bytes) -> Wish:
    """As `Wish.from_bytes`; most are like one before."""
    wish = _wishes.get(content)
    if wish is None:
        wish = Wish.from_bytes(content)
        if len(content) <= _SHORT:
            _wishes.remember(content, wish)
    return wish
