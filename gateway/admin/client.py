"""The commands' way to a running gateway: one request over its admin socket.

Trust: trusts the gateway of the same home; what it answers is bounded and checked for its form.
"""

from __future__ import annotations

import http.client
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import orjson

from gateway.admin.holder import holder_of
from rhttp.http1.limits import UNIX_PATH_MAX

ANSWER_MAX: Final = 64 * 1024 * 1024
PATIENCE: Final = 5.0
"""Seconds that a gateway which runs, but has no admin socket, is given to have one or to be gone."""
_PAUSE: Final = 0.05


class AdminFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A gateway runs but did not do what it was asked.

    ``status`` is its HTTP status (0: no usable answer came), ``problems`` what it found wrong, as (key path, message).
    """

    def __init__(self, message: str, *, status: int = 0, problems: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.status = status
        self.problems = problems


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout: float) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


def call(
    home: Path, method: str, path: str, body: Mapping[str, object] | None = None, timeout: float = 30.0
) -> dict[str, Any] | None:
    """Ask the gateway of this home; None when none runs.

    ``timeout`` is in seconds, for connecting and for each wait of the answer. Whether one runs is told by the lock that
    it holds, not by its socket: that may have been deleted, or not be there yet.

    Raises:
        AdminFailed: it refused, failed, cannot be reached, or gave no usable answer in time.
    """
    home = Path(os.path.abspath(home))
    place = home / "run" / "admin.sock"
    if len(os.fsencode(place)) > UNIX_PATH_MAX:
        raise AdminFailed(
            f"the admin socket's path {place} is over {UNIX_PATH_MAX} bytes; use a home with a shorter path"
        )
    connection = _UnixConnection(place, timeout)
    try:
        if not _connected(connection, home):
            return None
        content = b"" if body is None else orjson.dumps(body)
        connection.request(method, path, body=content, headers={"Content-Type": "application/json"} if content else {})
        response = connection.getresponse()
        answer = response.read(ANSWER_MAX + 1)
    except TimeoutError:
        raise AdminFailed(
            f"the gateway (pid {holder_of(home) or 'unknown'}) did not answer {method} {path} "
            f"within {timeout:g} seconds; look whether that process is stopped or hangs"
        ) from None
    except PermissionError:
        raise AdminFailed(f"not permitted to use {place}; run this as the owner of the home") from None
    except (OSError, http.client.HTTPException) as error:
        raise AdminFailed(f"the gateway ended while it was asked {method} {path} ({type(error).__name__})") from None
    finally:
        connection.close()
    return _checked(response.status, answer)


def _connected(connection: _UnixConnection, home: Path) -> bool:
    """Connect; False: no gateway runs. One that is coming up or going down is waited for."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            connection.connect()
        except (FileNotFoundError, ConnectionRefusedError):
            connection.close()
            holder = holder_of(home)
        else:
            return True
        if holder is None:
            return False
        if time.monotonic() >= until:
            raise AdminFailed(
                f"a gateway runs for {home} (pid {holder}) but its admin socket {home / 'run' / 'admin.sock'} is gone "
                f"or deaf; end that gateway with `kill {holder}` (it finishes its work first), and start it again"
            )
        time.sleep(_PAUSE)


def _checked(status: int, answer: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(answer) if len(answer) <= ANSWER_MAX else None
    except orjson.JSONDecodeError:
        value = None
    if not isinstance(value, dict):
        raise AdminFailed(f"the gateway's answer ({status}) is not a JSON object", status=status)
    if 200 <= status < 300:
        return value
    problems = tuple(
        (str(problem.get("path", "")), str(problem.get("message", "")))
        for problem in value.get("problems", ())
        if isinstance(problem, dict)
    )
    raise AdminFailed(str(value.get("error", f"the gateway answered {status}")), status=status, problems=problems)
