"""The listening sockets of one purpose, as one data process serves them.

With several data processes a TCP listener is a socket for each of them, and the kernel decides whose queue a connection
joins. While a process is down the others accept from its queue too, so nobody waits for it to come back.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable


class Queues:
    """We accept from our own queue, and from those of processes that are down.

    ``accept`` is called with a socket when a connection waits there.
    """

    __slots__ = ("_accept", "_from", "_loop", "_own", "_sockets", "is_open")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sockets: tuple[socket.socket, ...],
        index: int,
        accept: Callable[[socket.socket], None],
    ) -> None:
        self._loop = loop
        self._sockets = sockets
        self._own = index if len(sockets) > 1 else 0
        self._accept = accept
        self._from = {self._own}
        self.is_open = False

    def open(self) -> None:
        """Accept from now on."""
        if not self.is_open:
            self.is_open = True
            for index in self._from:
                self._watch(self._sockets[index])

    def close(self) -> None:
        """Accept nothing for now; connections wait in the kernel."""
        if self.is_open:
            self.is_open = False
            for index in self._from:
                self._loop.remove_reader(self._sockets[index].fileno())

    def adopt(self, index: int) -> None:
        """Accept from the queue of this process too, if it has one of its own."""
        if 0 <= index < len(self._sockets) > 1 and index not in self._from:
            self._from.add(index)
            if self.is_open:
                self._watch(self._sockets[index])

    def give_back(self, index: int) -> None:
        """Leave its queue to this process again. The socket stays open: it may go down once more."""
        if index in self._from and index != self._own:
            self._from.discard(index)
            if self.is_open:
                self._loop.remove_reader(self._sockets[index].fileno())

    def served(self) -> tuple[socket.socket, ...]:
        """The sockets that we accept from."""
        return tuple(self._sockets[index] for index in self._from)

    def end(self) -> None:
        """Give up all of them, those of other processes too: a queue is gone when nobody has its socket any more."""
        self.close()
        for sock in self._sockets:
            sock.close()

    def _watch(self, sock: socket.socket) -> None:
        self._loop.add_reader(sock.fileno(), self._accept, sock)
