"""Unix sockets between the processes of one gateway: who may be at the other end of one.

They lie in the home's `run` folder, which only its user can enter; the kernel says which user a peer is, and a greeting
(`gateway.cluster.frames.Greetings`) that it is a process of this gateway.

Trust: I/O. Nothing is read here.
"""

from __future__ import annotations

import os
import socket
from typing import Final

from rhttp.tls.plain import peer_uid

_ROOT: Final = 0


def dial(path: str) -> socket.socket:
    """A connected socket that does not block.

    A unix socket is connected at once, also when nobody accepts yet: then the connection waits in the queue.

    Raises:
        OSError: nobody listens there, the queue is full, or whoever listens is of another user.
    """
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.setblocking(False)
        sock.connect(path)
        if not is_of_our_user(sock):
            raise PermissionError(f"{path} is served by another user")
    except BaseException:
        sock.close()
        raise
    return sock


def accept(listening: socket.socket) -> socket.socket | None:
    """The next connection, which does not block; None: there is none, or no descriptor for it."""
    try:
        sock, _ = listening.accept()
    except OSError:
        return None
    sock.setblocking(False)
    return sock


def is_of_our_user(sock: socket.socket) -> bool:
    """Whether the peer's user, when it connected or began to listen, was ours or root."""
    return peer_uid(sock) in (_ROOT, os.geteuid())
