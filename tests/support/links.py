"""A real link on a peer of the test's own: its socket blocks, refuses, ends and resets when the test says so.

`FakeLink` is what ends are given. Behind it stands `rhttp.tls.plain.PlainLink` itself, so flow control, hand-overs
and the order in which a connection ends are the real ones; only the kernel and the event loop are made up.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Any

from rhttp.timers import TimerWheel
from rhttp.tls.link import HIGH_WATER, Tally
from rhttp.tls.plain import PlainLink


class FakeSocket:
    """The kernel's side of a connection, and the peer behind it."""

    def __init__(self) -> None:
        self.sent = bytearray()
        """What the kernel took."""
        self.room: int | None = None
        """Bytes that it still takes; None: all that come."""
        self.fault: OSError | None = None
        """Raised by the next read or write, and every one behind it."""
        self.coming: deque[bytes] = deque()
        """What the peer sent and nobody has read yet; an empty one is its FIN."""
        self.is_shut = False
        self.is_closed = False

    def fileno(self) -> int:
        return -1 if self.is_closed else 3

    def send(self, data: bytes) -> int:
        if self.fault is not None:
            raise self.fault
        taken = len(data) if self.room is None else min(self.room, len(data))
        if not taken:
            raise BlockingIOError
        if self.room is not None:
            self.room -= taken
        self.sent += bytes(data[:taken])
        return taken

    def recv(self, size: int) -> bytes:
        if self.coming:
            data = self.coming[0]
            if len(data) > size:
                self.coming[0] = data[size:]
                return data[:size]
            return self.coming.popleft() if data else data
        if self.fault is not None:
            raise self.fault
        raise BlockingIOError

    def shutdown(self, how: int) -> None:
        self.is_shut = True

    def close(self) -> None:
        self.is_closed = True


class FakeLoop:
    """An event loop for one socket: `turn` is one of its turns."""

    def __init__(self, sock: FakeSocket) -> None:
        self._socket = sock
        self._soon: deque[tuple[Callable[..., object], tuple[Any, ...]]] = deque()
        self.reader: Callable[[], object] | None = None
        self.writer: Callable[[], object] | None = None

    def call_soon(self, callback: Callable[..., object], *args: Any) -> None:
        self._soon.append((callback, args))

    def add_reader(self, fd: int, callback: Callable[[], object]) -> None:
        self.reader = callback

    def remove_reader(self, fd: int) -> None:
        self.reader = None

    def add_writer(self, fd: int, callback: Callable[[], object]) -> None:
        self.writer = callback

    def remove_writer(self, fd: int) -> None:
        self.writer = None

    def turn(self) -> None:
        """What was put off, then what the kernel has to tell."""
        for _ in range(len(self._soon)):
            callback, args = self._soon.popleft()
            callback(*args)
        sock = self._socket
        if self.reader is not None and (sock.coming or sock.fault is not None):
            self.reader()
        if self.writer is not None and (sock.room != 0 or sock.fault is not None):
            self.writer()

    def has_work(self) -> bool:
        """Whether a turn would do anything."""
        sock = self._socket
        return bool(
            self._soon
            or (self.reader is not None and (sock.coming or sock.fault is not None))
            or (self.writer is not None and (sock.room != 0 or sock.fault is not None))
        )


class FakeLink:
    """A link whose peer is the test. What is written is in `sent`, and by default all of it is taken at once."""

    def __init__(
        self, *, wheel: TimerWheel | None = None, tally: Tally | None = None, high_water: int = HIGH_WATER
    ) -> None:
        self.socket = FakeSocket()
        self.loop = FakeLoop(self.socket)
        self.sent = self.socket.sent
        self.truncated = False
        self.waiting: int | None = None
        self.unread = False
        """Bytes came that nobody has read: what a test may say."""
        """Bytes that the peer has not taken, where the test wants to say so itself."""
        self.closed = False
        """It was ended in order."""
        self.aborted = False
        self.real = PlainLink(
            self.loop,  # type: ignore[arg-type]
            self.socket,  # type: ignore[arg-type]
            wheel=TimerWheel(0.0) if wheel is None else wheel,
            tally=tally,
            high_water=high_water,
        )

    # ---- the peer ----

    def block(self) -> None:
        """The peer stops reading, and the kernel's buffers are full."""
        self.socket.room = 0

    def drain(self, room: int | None = None) -> None:
        """The peer reads so many bytes (all, from now on), and the link is told."""
        self.socket.room = room
        self.settle()

    def receive(self, data: bytes) -> None:
        """Bytes of the peer."""
        if data:
            self.socket.coming.append(data)
        self.settle()

    def finish(self) -> None:
        """The peer sends its last byte: a FIN, which is read when all before it is."""
        self.socket.coming.append(b"")
        self.settle()

    def reset(self) -> None:
        """The peer resets the connection, and whoever owns the link hears of it, also when it does not read now."""
        self.socket.coming.clear()
        self.socket.fault = ConnectionResetError("reset by the test")
        self.settle()
        if not self.socket.is_closed:
            self.real.abort()
        self.settle()

    def settle(self) -> None:
        """Let the loop turn until nothing is left to do."""
        for _ in range(1000):
            if not self.loop.has_work():
                return
            self.loop.turn()
        raise AssertionError("the link never comes to rest")

    # ---- what became of it ----

    @property
    def owner(self) -> Any:
        """Whoever the link was handed to last."""
        return self.real._owner

    @property
    def reading(self) -> bool:
        return self.loop.reader is not None

    @property
    def eof(self) -> bool:
        """We said that no more comes."""
        return self.socket.is_shut

    def take(self) -> bytes:
        """What was written since the last look."""
        data = bytes(self.sent)
        self.sent.clear()
        return data

    # ---- Link ----

    def write(self, data: bytes) -> None:
        assert not self.closed, "written after close"
        assert not self.eof, "written after end of output"
        self.real.write(data)

    def write_eof(self) -> None:
        self.real.write_eof()

    def pause_reading(self) -> None:
        self.real.pause_reading()

    def resume_reading(self) -> None:
        self.real.resume_reading()

    def has_unread(self) -> bool:
        return self.unread

    def get_write_buffer_size(self) -> int:
        return self.real.get_write_buffer_size() if self.waiting is None else self.waiting

    def is_closing(self) -> bool:
        return self.real.is_closing()

    def close(self) -> None:
        self.closed = True
        self.real.close()

    def abort(self) -> None:
        self.aborted = True
        self.real.abort()

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        self.real.set_protocol(protocol)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.truncated if name == "truncated" else default
