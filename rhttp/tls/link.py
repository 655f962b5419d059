"""A byte connection on a non-blocking socket: what `rhttp.tls.tls_link.TlsLink` and `rhttp.tls.plain.PlainLink` share.

It offers the methods of an asyncio transport that `rhttp.ends.Link` names. Reading and writing the socket is for the
two classes; here is what waits for the peer, back-pressure both ways, and the order in which a connection ends.

Trust: meets bytes of untrusted peers. This is I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections import deque
from typing import Any, Final, Protocol

from rhttp.timers import TimerWheel
from rhttp.tls.outbox import Outbox

HIGH_WATER: Final = 65536
"""Bytes that may wait for the peer before the owner is told to pause; it goes on at a quarter of them."""
SMALL: Final = 4096
"""Bytes that are held back until the end of the turn; more is written at once."""
GRACE: Final = 2.0
"""Seconds for a peer to take the last bytes, or to read an alert."""
AGAIN: Final = 0.25
"""Seconds after which a link that was read from is looked at once more."""

_NOTHING: Final = struct.pack("i", 0)

# What a link is doing; plain numbers, since they are compared for every read and write.
HANDSHAKE: Final = 0
OPEN: Final = 1
CLOSING: Final = 2
"""close() was called; what was written is still going out."""
CLOSED: Final = 3


class Tally(Protocol):
    """Counts links. Each is counted as long as it holds a descriptor, whoever owns it in between."""

    def opened(self) -> None:
        """One more."""

    def closed(self) -> None:
        """One less."""


class SocketLink:
    """One connection. With an ``outbox`` small writes wait for the end of the turn; a ``tally`` counts it."""

    __slots__ = (
        "_blocked",
        "_eof",
        "_eof_wanted",
        "_fd",
        "_held",
        "_high_water",
        "_is_told",
        "_loop",
        "_out",
        "_out_size",
        "_outbox",
        "_owner",
        "_reading",
        "_state",
        "_tally",
        "_wants_write",
        "_wheel",
        "bucket",
        "deadline",
        "socket",
    )

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        wheel: TimerWheel,
        outbox: Outbox | None,
        high_water: int,
        state: int,
        tally: Tally | None,
    ) -> None:
        self._loop = loop
        self.socket = sock
        self._fd = sock.fileno()
        self._high_water = high_water
        self._wheel = wheel
        self._outbox = outbox
        self._owner: Any = None
        # None while nothing waits: an empty deque is the largest part of an idle link.
        self._out: deque[bytes | memoryview] | None = None
        self._out_size = 0
        self._held = b""
        self._state = state
        self._reading = True
        self._wants_write = False
        self._blocked = False
        self._eof = False
        self._eof_wanted = False
        self._is_told = False
        self.deadline = 0.0
        self.bucket = 0.0
        self._tally = tally
        if tally is not None:
            tally.opened()

    # ---- what the two kinds do ----

    def _readable(self) -> None:
        """Read what there is and give it to the owner."""
        raise NotImplementedError

    def _give(self, data: bytes | memoryview) -> int:
        """Write: how many bytes were taken, 0: there is no room now, -1: the link is lost and `_drop` follows."""
        raise NotImplementedError

    def _shutdown(self) -> None:
        """Say in the protocol's own way that no more comes."""

    # ---- facts ----

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``, and what the kind of link knows besides."""
        return self.socket if name == "socket" else default

    def has_unread(self) -> bool:
        """Whether bytes of the peer are here that nobody has read yet: it waits for us, not we for it."""
        try:
            return fcntl.ioctl(self._fd, termios.FIONREAD, _NOTHING) != _NOTHING
        except OSError:
            return False

    def is_closing(self) -> bool:
        """Whether the link is closed or about to close."""
        return self._state >= CLOSING

    def get_write_buffer_size(self) -> int:
        """Bytes that have not left yet."""
        return self._out_size + len(self._held)

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another owner, which may happen at any moment of its life; nothing gets lost by it.

        The one that had it is released: when it was told to pause, it is told to go on, since it has nothing to write
        here any more and whatever it stopped elsewhere for our sake would wait for ever. Its deadlines are its own to
        forget. The new one finds a link that is read from, whatever the old one had paused, and hears within this call
        that the peer reads too slowly or has sent its last byte; of a link that is gone it hears in the next turn. So
        it must be ready before it is given the link. What the link itself waits for goes on.
        """
        owner, self._owner = self._owner, protocol
        if self._blocked and owner is not None:
            owner.resume_writing()
        heir: Any = protocol
        if self._state != OPEN:
            self._blocked = False  # nothing more is written here
            if self._is_told:
                self._loop.call_soon(self._tell_lost, None)
            return
        self.resume_reading()
        if self._blocked:
            heir.pause_writing()
        if self._eof and self._state == OPEN and not heir.eof_received():
            self.close()

    # ---- reading ----

    def _deliver(self, data: bytes) -> None:
        try:
            self._owner.data_received(data)
        except Exception:
            self.abort()  # nobody knows any more where this connection stands
            raise

    def _has_read(self) -> None:
        """What came is delivered. Look once more a moment later: uvloop stops watching when a reset comes with data."""
        if not self.deadline and self._state == OPEN:
            self._wheel.set(self, AGAIN)
        if self._outbox is not None:
            self._outbox.between_reads()

    def _read_on(self) -> None:
        """Go on reading after others had their turn."""
        if self._reading and self._state == OPEN:
            self._readable()

    def _on_eof(self) -> None:
        self._loop.remove_reader(self._fd)
        self._reading = False
        if self._state == CLOSING:
            return
        self._eof = True
        owner = self._owner
        if owner is None or not owner.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """Stop delivering bytes."""
        if self._reading and self._state <= OPEN:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Deliver bytes again; a peer that sent its last one has none, and its end is told once."""
        if not self._reading and self._state == OPEN and not self._eof:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    # ---- writing ----

    def write(self, data: bytes) -> None:
        """Send, now or at the end of this turn, or keep until the peer reads."""
        if self._state != OPEN or not data:
            return
        if self._out is not None:
            self._out.append(data)
            self._out_size += len(data)
            if self._out_size > self._high_water and not self._blocked:
                self._blocked = True
                self._owner.pause_writing()
            return
        held = self._held
        if self._outbox is not None and len(held) + len(data) <= SMALL:
            if held:
                self._held = held + data
            else:
                self._held = data
                self._outbox.add(self)
            return
        if held:
            self._held = b""
            data = held + data
        self._send(data)

    def send_held(self) -> None:
        """The turn is over: send what was held back."""
        data = self._held
        if data:
            self._held = b""
            self._send(data)

    def _send(self, data: bytes) -> None:
        """Write with nothing in front; what finds no room waits."""
        sent = self._give(data)
        if sent == len(data) or sent < 0:
            return
        self._out = deque((memoryview(data)[sent:] if sent else data,))
        self._out_size = len(data) - sent
        self._writable()
        if self._out_size > self._high_water and not self._blocked and self._owner is not None:
            self._blocked = True
            self._owner.pause_writing()

    def _writable(self) -> None:
        out = self._out
        while out:
            data = out[0]
            sent = self._give(data)
            if sent < 0:
                return
            if not sent:
                break
            self._out_size -= sent
            if sent == len(data):
                out.popleft()
            else:
                out[0] = memoryview(data)[sent:]
        self._watch_write(bool(out))
        if not out:
            self._out = None
        if not out and self._state != HANDSHAKE:
            if self._state == CLOSING:
                self._shutdown()
                self._drop()
                return
            if self._eof_wanted:
                self._send_eof()
        if self._blocked and self._out_size <= self._high_water // 4:
            self._blocked = False
            if self._owner is not None and self._state == OPEN:
                self._owner.resume_writing()

    def _watch_write(self, wanted: bool) -> None:
        if wanted != self._wants_write:
            self._wants_write = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def write_eof(self) -> None:
        """After what was written: say that no more comes. Reading goes on."""
        if self._state == OPEN and not self._eof_wanted:
            self._eof_wanted = True
            self.send_held()
            if not self._out:
                self._send_eof()

    def _send_eof(self) -> None:
        self._shutdown()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    # ---- the end ----

    def close(self) -> None:
        """Send what was written, say that no more comes, close; a peer that does not read is dropped after 2 s."""
        if self._state >= CLOSING:
            return
        self.send_held()
        self._state = CLOSING
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._out:
            self._wheel.set(self, GRACE)
        else:
            self._shutdown()
            self._drop()

    def abort(self) -> None:
        """Close now, so that a peer can tell that something was cut."""
        if self._state != CLOSED:
            self._drop()

    def deadline_passed(self) -> None:
        """The last bytes took too long; or it is time for another look."""
        if self._state == OPEN:
            self._read_on()
        else:
            self._drop()

    def _lose(self, error: Exception) -> None:
        """Drop the link once whoever is writing is done."""
        self._loop.call_soon(self._drop, error)

    def _unwatch(self) -> None:
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._wants_write:
            self._wants_write = False
            self._loop.remove_writer(self._fd)
        self._wheel.forget(self)

    def _drop(self, error: Exception | None = None) -> None:
        if self._state == CLOSED:
            return
        self._unwatch()
        self._state = CLOSED
        self._out = None
        self._out_size = 0
        self._held = b""
        self.socket.close()
        self._uncount()
        self._loop.call_soon(self._tell_lost, error)

    def _uncount(self) -> None:
        tally, self._tally = self._tally, None
        if tally is not None:
            tally.closed()

    def _tell_lost(self, error: Exception | None) -> None:
        """Tell whoever owns the link by now: it may have changed hands in the turn in which it was lost."""
        self._is_told = True
        owner, self._owner = self._owner, None
        if owner is not None:
            owner.connection_lost(error)
