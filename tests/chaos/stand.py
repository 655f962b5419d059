"""The gateway under test: its home, its process, and the commands that an operator would type."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from gateway.cli.main import cli

POOL = "render"
_READY = 60.0
_END = 60.0
CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{master}"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[pools.{pool}]
[audit]
fold_after = 100000
[limits]
answer_timeout = 6.0
content_timeout = 6.0
drain_timeout = 5.0
connections = {connections}
handshakes = 256
"""
CONNECTIONS = 4000


class StandFailed(Exception):  # noqa: N818 - says what is the case
    """The gateway or a command did not do what it must."""


def free_port() -> int:
    """A port that nobody has; it stays the gateway's over its restarts."""
    with socket.create_server(("127.0.0.1", 0)) as sock:
        return int(sock.getsockname()[1])


class Stand:
    """One home and one gateway, started and ended many times."""

    def __init__(self, place: Path, binaries: Path, *, master: int, processes: int = 2) -> None:
        self.place = place
        self.home = place / "home"
        self._program = str(binaries / "rhttp-pki")
        self.port = free_port()
        self._gateway: subprocess.Popen[bytes] | None = None
        self._stderr = (place / "gateway.stderr").open("ab")
        self._turn = threading.Lock()
        self.cli("init", "--trust-domain", "chaos.internal")
        text = (self.home / "gateway.toml").read_text()
        lines = [
            line
            for line in text.splitlines()
            if not line.startswith(("listen =", "processes =", "[audit]", "[limits]"))
        ]
        head = f'listen = "127.0.0.1:{self.port}"\nprocesses = {processes}\n'
        self.good = head + "\n".join(lines) + CONFIG.format(master=master, pool=POOL, connections=CONNECTIONS)
        self.configure(self.good)

    @property
    def dispatch(self) -> Path:
        """The dispatch socket."""
        return self.home / "run" / "dispatch.sock"

    def configure(self, text: str) -> None:
        """Replace the configuration file."""
        new = self.home / "gateway.toml.new"
        new.write_text(text)
        new.rename(self.home / "gateway.toml")

    def cli(self, *arguments: str, statuses: tuple[int, ...] = (0,), patience: float = 60.0) -> str:
        """A command; what it said on stdout."""
        done = subprocess.run(
            [self._program, "--home", str(self.home), *arguments],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=patience,
            check=False,
        )
        if done.returncode not in statuses:
            raise StandFailed(f"{' '.join(arguments)} ended with {done.returncode}: {done.stderr or done.stdout}")
        return done.stdout

    def issue(self, role: str, name: str, number: int) -> Path:
        """Bundle number so-and-so of a name; all of them have the password of the first."""
        out = self.place / "bundles" / f"{name}.{number}"
        pool = ("--pool", POOL) if role == "worker" else ()
        self.cli(f"issue-{role}", name, *pool, "--out", str(out))
        password = out / "password"
        if not password.exists():
            shutil.copy(self.place / "bundles" / f"{name}.1" / "password", password)
        return out

    def issue_all(self, roles: Iterable[tuple[str, str]]) -> dict[str, Path]:
        """The first bundle of each (role, name), in this process: a command each would take most of a short run."""
        bundles = {}
        for role, name in roles:
            out = bundles[name] = self.place / "bundles" / f"{name}.1"
            arguments = ["--home", str(self.home), f"issue-{role}", name, "--out", str(out)]
            done = CliRunner().invoke(cli, [*arguments, *(("--pool", POOL) if role == "worker" else ())])
            if done.exit_code != 0:
                raise StandFailed(f"issue-{role} {name}: {done.output}")
        return bundles

    # ---- the process ----

    def start(self) -> None:
        """Start it and wait until it is ready."""
        environment = os.environ | {"PYTHONUNBUFFERED": "1"}
        gateway = self._gateway = subprocess.Popen(
            [self._program, "--home", str(self.home), "gateway"],
            cwd=self.place,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            env=environment,
            start_new_session=True,
        )
        assert gateway.stdout is not None
        ends = time.monotonic() + _READY
        for line in gateway.stdout:
            if line.startswith(b"gateway: ready"):
                threading.Thread(target=_drain, args=(gateway,), daemon=True).start()
                return
            if time.monotonic() > ends:
                break
        raise StandFailed(f"the gateway was not ready; it ended with {gateway.poll()}: {self.errors()[-2000:]}")

    def end(self) -> int:
        """SIGTERM, and its exit status."""
        assert self._gateway is not None
        self._gateway.send_signal(signal.SIGTERM)
        return self._gateway.wait(_END)

    def kill(self) -> None:
        """SIGKILL to all of it; wait until no process of it is left."""
        assert self._gateway is not None
        children = self.data_processes()
        for pid in (self._gateway.pid, *children):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._gateway.wait(_END)
        ends = time.monotonic() + _END
        while any(_is_alive(pid) for pid in children):
            if time.monotonic() > ends:
                raise StandFailed("a data process outlived SIGKILL")
            time.sleep(0.02)

    def data_processes(self) -> list[int]:
        """The pids of the data processes, from the kernel."""
        assert self._gateway is not None
        path = Path(f"/proc/{self._gateway.pid}/task/{self._gateway.pid}/children")
        with contextlib.suppress(OSError):
            return [int(word) for word in path.read_text().split()]
        return []

    def is_running(self) -> bool:
        """Whether the supervisor lives."""
        return self._gateway is not None and self._gateway.poll() is None

    def close(self) -> None:
        """Leave no process behind."""
        if self.is_running():
            self.kill()
        self._stderr.close()

    # ---- what it tells ----

    def errors(self) -> str:
        """Its stderr so far."""
        self._stderr.flush()
        return (self.place / "gateway.stderr").read_text(errors="replace")

    def status(self) -> dict[str, Any]:
        """``status --json``."""
        return dict(json.loads(self.cli("status", "--json", statuses=(0, 1))))

    def audit(self) -> list[dict[str, Any]]:
        """Every line of the data processes, stream by stream."""
        files = sorted((self.home / "audit").glob("p[0-9]*-*.jsonl"))
        return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def _drain(gateway: subprocess.Popen[bytes]) -> None:
    assert gateway.stdout is not None
    for _ in gateway.stdout:
        pass


def _is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
