"""TLS on a non-blocking socket: one object per connection, which outlives the role switch (pyOpenSSL, RFC 8446).

A `TlsLink` offers the methods of an asyncio transport that `rhttp.ends.Link` names, so an HTTP end does not know
whether TLS is under it. OpenSSL reads and writes the socket itself: no copy through memory BIOs, and it never reads
past a record, which is what lets `TlsLink.detach` give the bare socket away.

Posture: meets bytes of untrusted peers. This is I/O. What a certificate means is for the ``verify`` that is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import enum
import socket
from collections import deque
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL

from rhttp.timers import TimerWheel
from rhttp.tlscontext import Handshake, NoCommonProtocol, openssl_reason
from rhttp.tlsrecord import RECORD, give, take

_READS: Final = 8
"""Records taken in one turn, so that one busy peer does not starve the others."""
HIGH_WATER: Final = 65536
"""Bytes that may wait for the peer before the owner is told to pause; it goes on at a quarter of them."""


class _State(enum.IntEnum):
    HANDSHAKE = 0
    OPEN = 1
    CLOSING = 2
    """close() was called; what was written is still going out."""
    CLOSED = 3


class TlsLink:
    """One TLS connection.

    ``done(link, failure)`` is called once: with None when the handshake succeeded, else with a short reason. Before it
    returns from success the caller must have given an owner with `set_protocol`.
    """

    __slots__ = (
        "_blocked",
        "_connection",
        "_done",
        "_eof_wanted",
        "_fd",
        "_high_water",
        "_loop",
        "_out",
        "_out_size",
        "_owner",
        "_reading",
        "_state",
        "_wants_write",
        "_wheel",
        "bucket",
        "deadline",
        "handshake",
        "socket",
    )
    __deletable__ = ["_connection"]  # noqa: RUF012 - by this mypyc knows that `detach` deletes it

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        context: SSL.Context,
        *,
        server: bool,
        wheel: TimerWheel,
        timeout: float,
        done: Callable[[TlsLink, str | None], None],
        server_name: bytes | None = None,
        high_water: int = HIGH_WATER,
    ) -> None:
        self._loop = loop
        self.socket = sock
        self._fd = sock.fileno()
        self._high_water = high_water
        self._wheel = wheel
        self._done: Callable[[TlsLink, str | None], None] | None = done
        self._owner: Any = None
        # None while nothing waits: an empty deque is the largest part of an idle link.
        self._out: deque[bytes | memoryview] | None = None
        self._out_size = 0
        self._state = _State.HANDSHAKE
        self._reading = True
        self._wants_write = False
        self._blocked = False
        self._eof_wanted = False
        self.deadline = 0.0
        self.bucket = 0.0
        self.handshake = Handshake()
        connection = self._connection = SSL.Connection(context, sock)
        connection.set_app_data(self.handshake)
        if server:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            if server_name is not None:
                connection.set_tlsext_host_name(server_name)
        wheel.set(self, timeout)
        loop.add_reader(self._fd, self._shake)
        if not server:
            self._shake()

    # ---- handshake ----

    def _shake(self) -> None:
        try:
            self._connection.do_handshake()
        except SSL.WantReadError:
            self._watch_write(False)
            return
        except SSL.WantWriteError:
            self._watch_write(True)
            return
        except NoCommonProtocol:
            self._fail("alpn")
            return
        except SSL.SysCallError:
            self._fail("closed")
            return
        except SSL.Error as error:
            self._fail(self.handshake.refusal or openssl_reason(error))
            return
        self._wheel.clear(self)
        self._watch_write(False)
        self._state = _State.OPEN
        self._loop.add_reader(self._fd, self._readable)
        done, self._done = self._done, None
        assert done is not None
        done(self, None)

    def _fail(self, reason: str) -> None:
        """The handshake failed; OpenSSL has written its alert. Linger, or the peer loses it to a reset."""
        done, self._done = self._done, None
        self._state = _State.CLOSING
        self._watch_write(False)
        if reason == "closed":
            self._drop()
        else:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            self._loop.add_reader(self._fd, self._swallow)
            self._wheel.set(self, 2.0)
        if done is not None:
            done(self, reason)

    def _swallow(self) -> None:
        """Read and drop until the peer closes."""
        try:
            if self.socket.recv(65536):
                return
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            pass
        self._drop()

    # ---- facts ----

    def version(self) -> str:
        """The TLS version, as OpenSSL writes it (``TLSv1.3``)."""
        return self._connection.get_protocol_version_name()

    def protocol(self) -> bytes:
        """The ALPN protocol that was agreed on, or nothing."""
        return self._connection.get_alpn_proto_negotiated()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``, or ``truncated``: whether the peer ended without a close_notify."""
        if name == "truncated":
            return not self.handshake.has_ended
        return self.socket if name == "socket" else default

    def is_closing(self) -> bool:
        """Whether the link is closed or about to close."""
        return self._state >= _State.CLOSING

    def get_write_buffer_size(self) -> int:
        """Bytes that the peer has made no room for yet."""
        return self._out_size

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Hand the connection to another owner: the role switch."""
        self._owner = protocol

    def detach(self) -> socket.socket:
        """Give the bare socket away at a record boundary; this object is of no further use.

        The caller knows that the peer is silent until it is answered: a record that arrived in part goes unnoticed.

        Raises:
            ValueError: bytes of this TLS connection are still under way, so the boundary is not reached.
        """
        if self._out or self._connection.pending():
            raise ValueError("bytes of this connection are still under way")
        sock = self.socket
        self._unwatch()
        self._state = _State.CLOSED
        self._owner = None
        del self._connection
        return sock

    # ---- reading ----

    def _readable(self) -> None:
        """Read what there is; look once more a moment later: uvloop stops watching when a reset comes with data."""
        for _ in range(_READS):
            try:
                data = take(self._connection)
            except SSL.ZeroReturnError:
                self._on_eof()
                return
            except SSL.WantWriteError:
                self._watch_write(True)
                return
            except SSL.Error as error:
                self._drop(error)
                return
            if data is None:
                return
            try:
                self._owner.data_received(data)
            except Exception:
                self.abort()  # nobody knows any more where this connection stands
                raise
            if len(data) < RECORD or not self._reading or self._state > _State.OPEN:
                if not self.deadline and self._state == _State.OPEN:
                    self._wheel.set(self, 0.25)
                return
        self._loop.call_soon(self._read_on)

    def _read_on(self) -> None:
        """Go on reading after others had their turn."""
        if self._reading and self._state == _State.OPEN:
            self._readable()

    def _on_eof(self) -> None:
        self._loop.remove_reader(self._fd)
        self._reading = False
        if self._state == _State.CLOSING:
            return
        owner = self._owner
        if owner is None or not owner.eof_received():
            self.close()

    def pause_reading(self) -> None:
        """Stop delivering bytes."""
        if self._reading and self._state <= _State.OPEN:
            self._reading = False
            self._loop.remove_reader(self._fd)

    def resume_reading(self) -> None:
        """Deliver bytes again."""
        if not self._reading and self._state == _State.OPEN:
            self._reading = True
            self._loop.add_reader(self._fd, self._readable)

    # ---- writing ----

    def write(self, data: bytes) -> None:
        """Send, or keep until the peer reads."""
        if self._state != _State.OPEN or not data:
            return
        if self._out:
            self._out.append(data)
            self._out_size += len(data)
        else:
            try:
                sent = give(self._connection, data)
            except (SSL.WantWriteError, SSL.WantReadError):
                sent = 0
            except SSL.Error as error:
                self._loop.call_soon(self._drop, error)
                return
            if sent == len(data):
                return
            self._out = deque((memoryview(data)[sent:] if sent else data,))
            self._out_size = len(data) - sent
            self._writable()
        if self._out_size > self._high_water and not self._blocked:
            self._blocked = True
            self._owner.pause_writing()

    def _writable(self) -> None:
        out = self._out
        while out:
            data = out[0]
            try:
                # OpenSSL takes a record's worth at a time; after WantWrite it must be given the same bytes again.
                sent = give(self._connection, data)
            except (SSL.WantWriteError, SSL.WantReadError):
                break
            except SSL.Error as error:
                self._loop.call_soon(self._drop, error)
                return
            self._out_size -= sent
            if sent == len(data):
                out.popleft()
            else:
                out[0] = memoryview(data)[sent:]
        self._watch_write(bool(out))
        if not out:
            self._out = None
        if not out and self._state != _State.HANDSHAKE:
            if self._state == _State.CLOSING:
                self._say_bye()
                self._drop()
                return
            if self._eof_wanted:
                self._send_eof()
        if self._blocked and self._out_size <= self._high_water // 4:
            self._blocked = False
            if self._owner is not None and self._state == _State.OPEN:
                self._owner.resume_writing()

    def _watch_write(self, wanted: bool) -> None:
        if wanted != self._wants_write:
            self._wants_write = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._shake if self._state == _State.HANDSHAKE else self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def write_eof(self) -> None:
        """After what was written: close_notify and FIN. Reading goes on."""
        if self._state == _State.OPEN and not self._eof_wanted:
            self._eof_wanted = True
            if not self._out:
                self._send_eof()

    def _send_eof(self) -> None:
        self._say_bye()
        with contextlib.suppress(OSError):
            self.socket.shutdown(socket.SHUT_WR)

    def _say_bye(self) -> None:
        with contextlib.suppress(SSL.Error):
            if not self._connection.get_shutdown() & SSL.SENT_SHUTDOWN:
                self._connection.shutdown()

    # ---- the end ----

    def close(self) -> None:
        """Send what was written, say close_notify, close; a peer that does not read is dropped after 2 s."""
        if self._state >= _State.CLOSING:
            return
        self._state = _State.CLOSING
        if self._reading:
            self._reading = False
            self._loop.remove_reader(self._fd)
        if self._out:
            self._wheel.set(self, 2.0)
        else:
            self._say_bye()
            self._drop()

    def abort(self) -> None:
        """Close now, without close_notify, so that a peer can tell that something was cut."""
        if self._state != _State.CLOSED:
            self._drop()

    def deadline_passed(self) -> None:
        """The handshake, a linger or the last bytes took too long; or it is time for another look."""
        if self._state == _State.OPEN:
            self._read_on()
            return
        self._drop()
        if (done := self._done) is not None:
            self._done = None
            done(self, "timeout")

    def _unwatch(self) -> None:
        self._loop.remove_reader(self._fd)
        if self._wants_write:
            self._wants_write = False
            self._loop.remove_writer(self._fd)
        self._wheel.forget(self)

    def _drop(self, error: Exception | None = None) -> None:
        if self._state == _State.CLOSED:
            return
        self._unwatch()
        self._state = _State.CLOSED
        self._out = None
        self._out_size = 0
        self.socket.close()
        owner, self._owner = self._owner, None
        if owner is not None:
            self._loop.call_soon(owner.connection_lost, error)
