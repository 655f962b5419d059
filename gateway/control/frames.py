"""Frames between processes of one gateway: a length of four bytes, big-endian, and that many bytes.

Trust: pure. The peer is a process of the same gateway; its lengths are checked all the same.
"""

from __future__ import annotations

import struct
from typing import Final

_LENGTH: Final = struct.Struct(">I")
_SIZE: Final = 4


class FrameError(Exception):
    """The other end sent what no process of this gateway sends."""


def frame(content: bytes, maximum: int) -> bytes:
    """One frame.

    Raises:
        FrameError: the content is longer than ``maximum``.
    """
    if len(content) > maximum:
        raise FrameError(f"a frame of {len(content)} bytes is over the limit of {maximum}")
    return _LENGTH.pack(len(content)) + content


class FrameReader:
    """Bytes in, contents of frames out; never holds more than one frame and what came with its end."""

    __slots__ = ("_maximum", "_missing", "_pieces")

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._pieces: list[bytes] = []
        self._missing = 0  # bytes without which no frame can be complete

    def feed(self, data: bytes) -> list[bytes]:
        """The contents that these bytes complete, in order.

        Raises:
            FrameError: a frame is too long, as its length says; feed nothing more after it.
        """
        if self._pieces:
            self._pieces.append(data)
            self._missing -= len(data)
            if self._missing > 0:
                return []  # a large frame is put together once, not with each piece of it
            data = b"".join(self._pieces)
            self._pieces = []
        contents: list[bytes] = []
        at = 0
        size = len(data)
        missing = _SIZE - size
        while size - at >= _SIZE:
            length: int = _LENGTH.unpack_from(data, at)[0]
            if length > self._maximum:
                raise FrameError(f"a frame of {length} bytes is over the limit of {self._maximum}")
            end = at + _SIZE + length
            if end > size:
                missing = end - size
                break
            contents.append(data[at + _SIZE : end])
            at = end
            missing = _SIZE - (size - at)
        if at < size:
            self._pieces.append(data[at:] if at else data)
            self._missing = missing
        return contents
