"""Listening sockets: bound here by the supervisor, before anything else starts, and inherited by the data processes.

Bound means listening too: from then on the kernel queues connections, also while a process is being restarted.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from gateway.configvalues import Config, TcpAddress, UnixAddress

BACKLOG: Final = 4096
"""Connections that wait to be accepted; the kernel lowers it to ``net.core.somaxconn`` (4,096 since Linux 5.4)."""

UNIX_PATH_MAX: Final = 107
"""Bytes of a unix socket's path (``sun_path`` is 108 with its end)."""

DISPATCH_MODE: Final = 0o660
ADMIN_MODE: Final = 0o600

Purpose = Literal["tls", "dispatch", "metrics"]


class ListenFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """An address cannot be listened on; the text says which, why and the mend."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Listener:
    """One listening socket and what it is for; ``path`` and ``inode`` are set for a unix socket that we made."""

    purpose: Purpose | Literal["admin"]
    sock: socket.socket
    url: str
    path: Path | None = None
    inode: int = 0

    def facts(self) -> dict[str, object]:
        """The actual address, as status and ``run/gateway.json`` show it."""
        if self.path is not None:
            return {"url": self.url, "path": str(self.path)}
        host, port = self.sock.getsockname()[:2]
        return {"url": self.url, "host": host, "port": port}

    def close(self) -> None:
        """Close our handle; a unix socket's file goes too, unless it is no longer the one that we made."""
        self.sock.close()
        if self.path is not None:
            with contextlib.suppress(OSError):
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()


def bind_tcp(address: TcpAddress, purpose: Purpose) -> Listener:
    """Listen on a TCP address, with ``SO_REUSEADDR`` (a restart must not wait for TIME_WAIT).

    Raises:
        ListenFailed: in use, not ours, not allowed, or no such host.
    """
    try:
        found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise ListenFailed(f"cannot listen on {address} ({purpose}): {error.strerror}; name an IP address") from None
    family, kind, protocol, _name, place = found[0]
    sock = socket.socket(family, kind, protocol)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.bind(place)
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise ListenFailed(f"cannot listen on {address} ({purpose}): {_reason(error)}") from None
    host, port = sock.getsockname()[:2]
    scheme = "https" if purpose == "tls" else "http"
    return Listener(purpose=purpose, sock=sock, url=f"{scheme}://{TcpAddress(host=host, port=port)}")


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


def bind_all(config: Config) -> dict[Purpose, Listener]:
    """Every listener that the configuration names, or none of them.

    Raises:
        ListenFailed: the first that cannot be bound; those bound before it are closed again.
    """
    made: dict[Purpose, Listener] = {}
    try:
        made["tls"] = bind_tcp(config.listen, "tls")
        if isinstance(config.dispatch, UnixAddress):
            made["dispatch"] = bind_unix(config.dispatch.path, "dispatch", mode=DISPATCH_MODE)
        else:
            made["dispatch"] = bind_tcp(config.dispatch, "dispatch")
        if config.metrics.listen is not None:
            made["metrics"] = bind_tcp(config.metrics.listen, "metrics")
    except ListenFailed:
        close_all(made)
        raise
    return made


def close_all(listeners: dict[Purpose, Listener]) -> None:
    """Close our handles of all of them."""
    for listener in listeners.values():
        listener.close()
