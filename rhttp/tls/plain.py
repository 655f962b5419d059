"""A plain connection on a non-blocking socket, for peers on this host or in the clear.

It takes the place of the event loop's own transport: it reads and writes the socket itself, so a request costs two
calls into the kernel and little else.

Trust: meets bytes of untrusted peers. This is I/O.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from typing import Final

from rhttp.timers import TimerWheel
from rhttp.tls.link import HIGH_WATER, OPEN, SocketLink, Tally
from rhttp.tls.outbox import Outbox

_CREDENTIALS: Final = struct.Struct("3i")
"""What the kernel knows of the peer of a unix socket: process, user, group."""
_READS: Final = 4
"""Reads in one turn, so that one busy peer does not starve the others."""
_PIECE: Final = 65536
"""Bytes a read; a shorter one means that the socket holds nothing more."""


def peer_uid(sock: socket.socket) -> int:
    """The user that connected to a unix socket, as the kernel saw it at that time (unix(7), ``SO_PEERCRED``)."""
    _pid, uid, _gid = _CREDENTIALS.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return int(uid)


class PlainLink(SocketLink):
    """One connection in the clear; open from the start. The caller gives an owner with `set_protocol` at once."""

    __slots__ = ()

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        *,
        wheel: TimerWheel,
        outbox: Outbox | None = None,
        high_water: int = HIGH_WATER,
        tally: Tally | None = None,
    ) -> None:
        super().__init__(loop, sock, wheel=wheel, outbox=outbox, high_water=high_water, state=OPEN, tally=tally)
        loop.add_reader(self._fd, self._readable)

    def _readable(self) -> None:
        for _ in range(_READS):
            try:
                data = self.socket.recv(_PIECE)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._drop(error)
                return
            if not data:
                self._on_eof()
                return
            self._deliver(data)
            if len(data) < _PIECE or not self._reading or self._state > OPEN:
                self._has_read()
                return
        self._loop.call_soon(self._read_on)

    def _give(self, data: bytes | memoryview) -> int:
        try:
            return self.socket.send(data)
        except (BlockingIOError, InterruptedError):
            return 0
        except OSError as error:
            self._lose(error)
            return -1


async def dial(loop: asyncio.AbstractEventLoop, host: str, port: int) -> socket.socket:
    """A non-blocking socket that is connected to ``host``, at the first of its addresses that answers.

    Raises:
        OSError: none did, or the name has no address.
    """
    failure: OSError | None = None
    for family, kind, protocol, _, address in await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM):
        sock = socket.socket(family, kind, protocol)
        try:
            sock.setblocking(False)
            with contextlib.suppress(OSError):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            await loop.sock_connect(sock, address)
        except OSError as error:
            sock.close()
            failure = failure or error
        except BaseException:
            sock.close()
            raise
        else:
            return sock
    raise failure or OSError(f"{host} has no address")
