"""TLS on a non-blocking socket: one object per connection, which outlives the role switch (pyOpenSSL, RFC 8446).

A `TlsLink` offers the methods of an asyncio transport that `rhttp.ends.Link` names, so an HTTP end does not know
whether TLS is under it. OpenSSL reads and writes the socket itself: no copy through memory BIOs, and it never reads
past a record, which is what lets `TlsLink.detach` give the bare socket away.

Trust: meets bytes of untrusted peers. This is I/O. What a certificate means is for the ``verify`` that is given.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable
from typing import Any, Final

from OpenSSL import SSL

from rhttp.http1.head import begins_request
from rhttp.timers import TimerWheel
from rhttp.tls.context import openssl_reason
from rhttp.tls.handshake import Handshake
from rhttp.tls.link import CLOSED, CLOSING, GRACE, HANDSHAKE, HIGH_WATER, OPEN, SocketLink, Tally
from rhttp.tls.outbox import Outbox
from rhttp.tls.record import (
    RECORD,
    SHAKEN,
    WANTS_WRITE,
    accepting,
    dialling,
    do_handshake,
    group,
    has_taken_hello,
    met_end,
    pending,
    protocol,
    read,
    shutdown,
    version,
    watch_end,
    write,
)

_PEEK: Final = 16
"""Bytes that are looked at before TLS begins: every method and the space behind it."""
_IN_THE_CLEAR: Final = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nContent-Length: 44\r\nConnection: close\r\n\r\n"
    b"This port speaks TLS: ask again with https.\n"
)
_READS: Final = 8
"""Records taken in one turn, so that one busy peer does not starve the others."""

_OVER: Final = Handshake()
"""Every handshake that is over: what it found out is its owner's by then, and need not be kept for a link's life.

OpenSSL's own session, with the peer's parsed path, has to stay: SSL_set_session(NULL) makes OpenSSL fall back to its
method for any version, and a close_notify, KeyUpdate or ticket is then answered with a fatal alert.
"""
_OVER.has_begun = True


class TlsLink(SocketLink):
    """One TLS connection.

    ``done(link, failure)`` is called once: with None when the handshake succeeded, else with a short reason. Before it
    returns from success the caller must have given an owner with `set_protocol`.
    """

    __slots__ = ("_context", "_done", "_has_ended", "_ssl", "handshake")
    __deletable__ = ["_ssl"]  # noqa: RUF012 - by this mypyc knows that `detach` deletes it

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
        outbox: Outbox | None = None,
        high_water: int = HIGH_WATER,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(loop, sock, wheel=wheel, outbox=outbox, high_water=high_water, state=HANDSHAKE, tally=tally)
        self._done: Callable[[TlsLink, str | None], None] | None = done
        self.handshake = Handshake()
        """Until `done` was told; then one that stands for all."""
        self._has_ended = False  # the peer sent close_notify
        self._context = context  # its callbacks are needed to the end
        self._ssl: Any = accepting(context, self._fd) if server else dialling(context, self._fd, server_name)
        wheel.set(self, timeout)
        loop.add_reader(self._fd, self._first_readable if server else self._readable)
        if not server:
            self._shake()

    # ---- handshake ----

    def _first_readable(self) -> None:
        """The first bytes: TLS, or a request in the clear, whose peer could not read an alert."""
        try:
            data = self.socket.recv(_PEEK, socket.MSG_PEEK)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._fail("closed")
            return
        if begins_request(data):
            with contextlib.suppress(OSError):
                self.socket.send(_IN_THE_CLEAR)
            self._fail("plain_http")
            return
        self._loop.add_reader(self._fd, self._readable)
        self._readable()

    def _shake(self) -> None:
        self.handshake.has_begun = True
        try:
            step = do_handshake(self._ssl, self.handshake)
        except SSL.SysCallError:
            self._fail("closed")
            return
        except SSL.Error as error:
            self._fail(self.handshake.refusal or openssl_reason(error))
            return
        if step != SHAKEN:
            self._watch_write(step == WANTS_WRITE)
            return
        self._wheel.clear(self)
        self._watch_write(False)
        self._state = OPEN
        watch_end(self._ssl)
        done, self._done = self._done, None
        assert done is not None
        done(self, None)
        self.handshake = _OVER
        self._has_read()  # the peer's last step may have come with more, and a reset behind it

    def _fail(self, reason: str) -> None:
        """The handshake failed; OpenSSL has written its alert. Linger, or the peer loses it to a reset."""
        done, self._done = self._done, None
        self._state = CLOSING
        self._watch_write(False)
        if reason == "closed":
            self._drop()
        else:
            with contextlib.suppress(OSError):
                self.socket.shutdown(socket.SHUT_WR)
            self._reading = True
            self._loop.add_reader(self._fd, self._swallow)
            self._wheel.set(self, GRACE)
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

    def give_up(self, reason: str) -> None:
        """End a handshake that is under way, or the linger after one, now; `done` is told this reason."""
        if self._state != OPEN:
            self._drop()
            done, self._done = self._done, None
            if done is not None:
                done(self, reason)

    # ---- facts ----

    def has_unread(self) -> bool:
        """Whether bytes of the peer are here that nobody has read yet, in OpenSSL or in the socket."""
        return self._state < CLOSED and (pending(self._ssl) > 0 or super().has_unread())

    def was_answered(self) -> bool:
        """Whether the peer's hello was whole and has our answer: from there on it owes us the next step."""
        return self._state != HANDSHAKE or has_taken_hello(self._ssl)

    def version(self) -> str:
        """The TLS version, as OpenSSL writes it (``TLSv1.3``)."""
        return version(self._ssl)

    def group(self) -> str:
        """The group of the key exchange, by its registered name (``X25519MLKEM768``); a resumed session has none."""
        return group(self._ssl)

    def protocol(self) -> bytes:
        """The ALPN protocol that was agreed on, or nothing."""
        return protocol(self._ssl)

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """``socket``, or ``truncated``: whether the peer ended without a close_notify."""
        if name == "truncated":
            return not self._has_ended
        return self.socket if name == "socket" else default

    def detach(self) -> socket.socket:
        """Give the bare socket away at a record boundary; this object is of no further use.

        The caller knows that the peer is silent until it is answered: a record that arrived in part goes unnoticed.

        Raises:
            ValueError: bytes of this TLS connection are still under way, so the boundary is not reached.
        """
        self.send_held()
        if self._out or pending(self._ssl):
            raise ValueError("bytes of this connection are still under way")
        sock = self.socket
        self._unwatch()
        self._state = CLOSED
        self._owner = None
        self._uncount()
        del self._ssl
        return sock

    # ---- records ----

    def _readable(self) -> None:
        if self._state == HANDSHAKE:
            self._shake()
            return
        for _ in range(_READS):
            try:
                data = read(self._ssl)
            except SSL.ZeroReturnError:
                self._has_ended = met_end()
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
            self._deliver(data)
            if len(data) < RECORD or not self._reading or self._state > OPEN:
                self._has_read()
                return
        self._loop.call_soon(self._read_on)

    def _give(self, data: bytes | memoryview) -> int:
        # OpenSSL takes a record's worth at a time; after WantWrite it must be given the same bytes again.
        try:
            return write(self._ssl, data)
        except (SSL.WantWriteError, SSL.WantReadError):
            return 0
        except SSL.Error as error:
            self._lose(error)
            return -1

    def _watch_write(self, wanted: bool) -> None:
        if wanted != self._wants_write:
            self._wants_write = wanted
            if wanted:
                self._loop.add_writer(self._fd, self._shake if self._state == HANDSHAKE else self._writable)
            else:
                self._loop.remove_writer(self._fd)

    def _shutdown(self) -> None:
        shutdown(self._ssl)

    def deadline_passed(self) -> None:
        """The handshake, a linger or the last bytes took too long; or it is time for another look."""
        if self._state == HANDSHAKE:
            self.give_up("timeout")
        else:
            super().deadline_passed()
