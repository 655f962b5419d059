"""A worker as `rhttp-pki worker` starts it, in a process of its own, and a master's side of the dispatch socket."""

from __future__ import annotations

import http.client
import selectors
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support.children import PATIENCE, Child


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a unix socket."""

    def __init__(self, path: Path, timeout: float = 30.0) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def dispatch(
    home: Path, target: str, *, method: str = "GET", content: Any = None, fields: dict[str, str] | None = None
) -> tuple[int, bytes]:
    """One request of the local master: status and content."""
    connection = UnixConnection(home / "run" / "dispatch.sock")
    try:
        connection.request(method, target, content, fields or {})
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def eventually(is_so: Callable[[], Any], patience: float = PATIENCE) -> Any:
    """Ask until the answer is true; it, or an assertion when time is over."""
    ends = time.monotonic() + patience
    while not (answer := is_so()):
        assert time.monotonic() < ends, "it never came to be"
        time.sleep(0.05)
    return answer


class WorkerProcess(Child):
    """A running `rhttp-pki worker`, or another command that takes the same; leaves no process behind."""

    def __init__(
        self, bundle: Path, gateway: str, *arguments: str, cwd: Path | None = None, program: Path | None = None
    ) -> None:
        # -P: the build under test, not the sources in the folder that pytest was started from.
        ours = (sys.executable, "-P", "-m", "gateway.cli.main", "worker")
        command = (*(ours if program is None else (program,)), str(bundle), "--gateway", gateway, *arguments)
        errors = bundle.parent / f"{bundle.name}.stderr"
        super().__init__(command, errors, stdin=subprocess.DEVNULL, cwd=cwd)

    def line(self) -> str:
        """The next line on its stdout; an assertion with its stderr when none comes."""
        assert self._process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self._process.stdout, selectors.EVENT_READ)
            assert selector.select(PATIENCE), f"the worker told nothing: {self.errors()}"
        line = self._process.stdout.readline().rstrip("\n")
        assert line, f"the worker ended: {self.errors()}"
        return line
