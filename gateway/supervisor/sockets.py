"""Listening sockets: bound here by the supervisor, before anything else starts, and inherited by the data processes.

Bound means listening too: from then on the kernel queues connections, also while a process is being restarted.

With several data processes each has a TCP socket of its own on the same port (``SO_REUSEPORT``), over which the kernel
spreads connections evenly, and a unix socket where the others reach it. A unix socket for masters, and the listeners
of metrics, revocation lists and enrolment, are each one that all accept from.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, Literal

from gateway.config.values import Config, TcpAddress, UnixAddress
from gateway.control.descriptors import mesh_path
from rhttp.http1.limits import UNIX_PATH_MAX

BACKLOG: Final = 4096
"""Connections that wait to be accepted; the kernel lowers it to ``net.core.somaxconn`` (4,096 since Linux 5.4)."""

DISPATCH_MODE: Final = 0o660
ADMIN_MODE: Final = 0o600

MESH_MODE: Final = 0o600

Purpose = Literal["tls", "dispatch", "metrics", "pki", "enroll", "mesh"]


class ListenFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """An address cannot be listened on; the text says which, why and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening socket and what it is for; ``path`` and ``inode`` are set for a unix socket that we made.

    ``more`` has those of the second, third … data process, when each has its own.
    """

    purpose: Purpose | Literal["admin"]
    sock: socket.socket
    url: str
    path: Path | None = None
    inode: int = 0
    more: tuple[Listener, ...] = ()

    def numbers(self) -> tuple[int, ...]:
        """The descriptors, in the order of the processes; one when they share it."""
        return (self.sock.fileno(), *(other.sock.fileno() for other in self.more))

    def facts(self) -> dict[str, object]:
        """The actual address, as status and ``run/gateway.json`` show it."""
        if self.path is not None:
            return {"url": self.url, "path": str(self.path)}
        host, port = self.sock.getsockname()[:2]
        return {"url": self.url, "host": host, "port": port}

    def close(self) -> None:
        """Close our handles; a unix socket's file goes too, unless it is no longer the one that we made."""
        for other in self.more:
            other.close()
        self.sock.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()


def bind_tcp(address: TcpAddress, purpose: Purpose, *, count: int = 1) -> Listener:
    """Listen on a TCP address, with ``SO_REUSEADDR`` (a restart must not wait for TIME_WAIT), on so many sockets.

    Nobody else listens there when this returns, this user's other gateways included: the first socket is bound *and*
    listens before it is opened for sharing, and Linux refuses that where anybody listens who does not share, or shares
    with whoever asks to.

    Raises:
        ListenFailed: in use, not ours, not allowed, or no such host.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {address} ({purpose}): {error.strerror}; name an IP address") from None
    family, kind, protocol, _name, place = found[0]
    socks: list[socket.socket] = []
    try:
        for _ in range(count):
            sock = socket.socket(family, kind, protocol)
            socks.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            if len(socks) > 1:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            sock.bind(place)
            sock.listen(BACKLOG)
            sock.setblocking(False)
            if len(socks) == 1 < count:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            place = sock.getsockname()  # with port 0 the first chose
    except OSError as error:
        for sock in socks:
            sock.close()
        raise ListenFailed(f"cannot listen on {address} ({purpose}): {_reason(error)}") from None
    host, port = place[:2]
    scheme = "https" if purpose in ("tls", "enroll") else "http"
    url = f"{scheme}://{TcpAddress(host=str(host), port=int(port))}"
    first, *more = (Listener(purpose=purpose, sock=sock, url=url) for sock in socks)
    return replace(first, more=tuple(more))


def bind_unix(path: Path, purpose: Purpose | Literal["admin"], *, mode: int) -> Listener:
    """Listen on a unix socket with this file mode.

    A socket file that is in the way goes only if nobody listens on it; call this only while holding the home's lock,
    so that no second gateway stands between its ``bind`` and its ``listen``.

    Raises:
        ListenFailed: the path is too long, taken by something else, or cannot be made.
    """
    if len(os.fsencode(path)) > UNIX_PATH_MAX:
        raise ListenFailed(
            f"the {purpose} socket's path {path} is over {UNIX_PATH_MAX} bytes; use a home with a shorter path"
        )
    _remove_stale(path, purpose)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        previous = os.umask(0o177)  # the file is never wider than its mode, not even between bind and chmod
        try:
            sock.bind(str(path))
        finally:
            os.umask(previous)
        path.chmod(mode)
        sock.listen(BACKLOG)
        sock.setblocking(False)
        inode = path.lstat().st_ino
    except OSError as error:
        sock.close()
        raise ListenFailed(f"cannot listen on unix:{path} ({purpose}): {_reason(error)}") from None
    return Listener(purpose=purpose, sock=sock, url=f"unix:{path}", path=path, inode=inode)


def _remove_stale(path: Path, purpose: str) -> None:
    try:
        mode = path.lstat().st_mode
    except OSError:
        return  # nothing there, or bind will say what is wrong
    if not stat.S_ISSOCK(mode):
        raise ListenFailed(f"cannot listen on unix:{path} ({purpose}): a file that is no socket is there; move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.setblocking(False)  # a listener whose queue is full answers EAGAIN: somebody is there
        code = probe.connect_ex(str(path))
    if code != errno.ECONNREFUSED:
        raise ListenFailed(f"cannot listen on unix:{path} ({purpose}): another process listens there; end it first")
    with contextlib.suppress(FileNotFoundError):
        path.unlink()


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "the address is in use; end what listens there or choose another"
        case errno.EADDRNOTAVAIL:
            return "the address is not one of this machine's; choose one that is"
        case errno.EACCES | errno.EPERM:
            return "not permitted; choose a port above 1023 or a folder that you may write to"
        case errno.ENOENT:
            return "its folder does not exist; make it"
        case _:
            return os.strerror(error.errno) if error.errno else "unknown error"


def bind_mesh(folder: Path, count: int) -> Listener:
    """A unix socket in this folder for each data process, for the others only.

    Raises:
        ListenFailed: as `bind_unix`.
    """
    made: list[Listener] = []
    try:
        for number in range(count):
            path = mesh_path(folder, number)
            made.append(bind_unix(path, "mesh", mode=MESH_MODE))
    except ListenFailed:
        for listener in made:
            listener.close()
        raise
    return replace(made[0], more=tuple(made[1:]))


def bind_all(config: Config) -> dict[Purpose, Listener]:
    """Every listener that the configuration names, and what several processes need among themselves; or none of them.

    Raises:
        ListenFailed: the first that cannot be bound; those bound before it are closed again.
    """
    made: dict[Purpose, Listener] = {}
    try:
        made["tls"] = bind_tcp(config.listen, "tls", count=config.processes)
        if isinstance(config.dispatch, UnixAddress):
            made["dispatch"] = bind_unix(config.dispatch.path, "dispatch", mode=DISPATCH_MODE)
        else:
            made["dispatch"] = bind_tcp(config.dispatch, "dispatch", count=config.processes)
        if config.metrics.listen is not None:
            made["metrics"] = bind_tcp(config.metrics.listen, "metrics")
        if config.pki.listen is not None:
            made["pki"] = bind_tcp(config.pki.listen, "pki")
        if config.enroll.listen is not None:
            made["enroll"] = bind_tcp(config.enroll.listen, "enroll")
        if config.processes > 1:
            made["mesh"] = bind_mesh(config.home / "run", config.processes)
    except ListenFailed:
        close_all(made)
        raise
    return made


def close_all(listeners: dict[Purpose, Listener]) -> None:
    """Close our handles of all of them."""
    for listener in listeners.values():
        listener.close()
