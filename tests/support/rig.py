"""A whole gateway for hostile tests: the real command, real sockets, peers that send any bytes, and its audit log.

`Rig` starts `rhttp-pki gateway` over a home of its own. When it ends it looks at stderr: a traceback there fails the
test, whatever the test itself was about.
"""

from __future__ import annotations

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from click.testing import CliRunner
from OpenSSL import SSL
from support.origins import Request, read_request, response
from support.runhomes import append, copy_home, set_key
from support.serving import Served
from support.wire import PATIENCE, Answer, Digest, Wire, request, tls_context

from gateway.cli.main import cli

LIVE: set[Rig] = set()
"""Gateways that run now; `tests/integration/conftest.py` looks at their stderr after every test."""
JOBS = """
[masters.jobs]
urls = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[pools.render]
"""
"""What most gateways serve: a route to the master at ``{port}``, and a pool. More tables may follow."""
Check = Callable[[dict[str, Any]], bool]


def run(home: Path, *arguments: str | Path) -> str:
    """A command that succeeds; what it said on stdout."""
    result = CliRunner(env={"RHTTP_PKI_HOME": str(home)}).invoke(cli, list(map(str, arguments)))
    assert result.exit_code == 0, result.output
    return result.stdout


class NotSwitched(AssertionError):  # noqa: N818 - says what is the case
    """A worker's switch was refused."""

    def __init__(self, answer: Answer) -> None:
        super().__init__(repr(answer))
        self.answer = answer


class Rig:
    """A gateway, its home, and every kind of peer. A context manager."""

    def __init__(
        self,
        place: Path,
        config: str = "",
        *,
        policy: str | None = None,
        peers: tuple[str, ...] = (),
        processes: int = 1,
    ) -> None:
        """`peers` are commands such as ``issue-client alice`` that run before the gateway starts."""
        self.home = copy_home(place / "home")
        set_key(self.home, "processes", str(processes))
        for command in peers:
            run(self.home, *command.split())
        append(self.home, config)
        if policy is not None:
            (self.home / "policy.cedar").write_text(policy)
        self.served: Served
        self._stack = contextlib.ExitStack()
        self._seen_errors = ""
        self._digests: dict[str, Digest] = {}

    def __enter__(self) -> Self:
        self.start()
        LIVE.add(self)
        return self

    def __exit__(self, *_: object) -> None:
        LIVE.discard(self)
        self._stack.close()

    def start(self) -> None:
        """Start it; after its end it may be started again."""
        self.served = self._stack.enter_context(Served(self.home))

    def check_stderr(self) -> None:
        """No traceback, no fault of the event loop: whatever came in, it was answered by rule."""
        errors = self.served.errors().removeprefix(self._seen_errors)
        self._seen_errors += errors  # one fault fails one test
        assert "Traceback" not in errors, errors
        assert "Exception" not in errors, errors

    def run(self, *arguments: str | Path) -> str:
        """A command that succeeds; what it said on stdout."""
        return run(self.home, *arguments)

    def status(self) -> dict[str, Any]:
        """``status --json``."""
        return dict(json.loads(self.run("status", "--json")))

    # ---- peers ----

    @property
    def address(self) -> tuple[str, int]:
        """Where the TLS listener is."""
        url = urlsplit(self.served.listeners["tls"])
        assert url.hostname is not None
        assert url.port is not None
        return url.hostname, url.port

    def bundle(self, name: str) -> Path:
        """Where a bundle is."""
        return self.home / "bundles" / name

    def tcp(self) -> socket.socket:
        """A bare connection to the TLS listener."""
        return socket.create_connection(self.address, timeout=PATIENCE)

    @staticmethod
    def tcp_to(address: tuple[str, int]) -> socket.socket:
        """The same at an address that was asked before: also while no gateway runs."""
        return socket.create_connection(address, timeout=PATIENCE)

    def tls(self, name: str) -> SSL.Context:
        """A client's context with the certificate of a bundle."""
        return tls_context(self.bundle(name))

    def connect(self, name: str | None, **settings: Any) -> Wire:
        """A TLS connection with the certificate of a bundle."""
        return Wire(self.tcp(), tls_context(self.bundle(name) if name else None, **settings))

    def dispatch(self) -> Wire:
        """A connection to the dispatch listener."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(PATIENCE)
        sock.connect(str(self.home / "run" / "dispatch.sock"))
        return Wire(sock)

    def digest(self, name: str) -> Digest:
        """Fresh credentials of a bundle's user, without a challenge."""
        return Digest(name, (self.bundle(name) / "password").read_text().strip())

    def login(self, name: str, wire: Wire | None = None) -> tuple[Wire, Digest]:
        """A connection whose user has a challenge in hand."""
        wire = wire or self.connect(name)
        return wire, self.digest(name).challenged(wire.ask("/-/pools"))

    def authorized(self, name: str, target: str, method: str = "GET") -> str:
        """An ``Authorization`` line for a request of this identity; one challenge is fetched for the whole module."""
        digest = self._digests.get(name)
        if digest is None:
            with self.connect(name) as wire:
                digest = self._digests[name] = self.digest(name).challenged(wire.ask("/-/pools"))
        return digest.line(target, method)

    def forget_challenges(self) -> None:
        """After a restart or new password."""
        self._digests.clear()

    def ask(
        self, name: str, target: str, method: str = "GET", *lines: str, content: bytes = b"", wire: Wire | None = None
    ) -> Answer:
        """A request with good credentials, on a connection of its own unless one is given."""
        line = self.authorized(name, target, method)
        if wire is not None:
            return wire.ask(target, method, line, *lines, content=content)
        with self.connect(name) as wire:
            return wire.ask(target, method, line, *lines, content=content)

    def worker(self, name: str, pool: str = "render", *lines: str, method: str = "POST") -> Worker:
        """A worker that has switched roles."""
        target = f"/-/reverse/{pool}"
        wire = self.connect(name)
        wire.send(upgrade(target, self.authorized(name, target, method), *lines, method=method))
        answer = wire.one()
        if answer.status != 101:
            wire.close()
            raise NotSwitched(answer)
        return Worker(name, wire, answer)

    def pool(self, name: str = "render") -> dict[str, Any]:
        """``GET /-/pools/{name}`` on the dispatch listener."""
        with self.dispatch() as wire:
            return dict(wire.ask(f"/-/pools/{name}").json)

    def wait_pool(self, check: Check, name: str = "render") -> dict[str, Any]:
        """The pool as soon as it is so."""
        return dict(wait_for(lambda: self.pool(name), check))

    # ---- audit ----

    def audit(self) -> list[dict[str, Any]]:
        """Every line of the data processes, in the order in which they were written."""
        files = sorted((self.home / "audit").glob("p[0-9]*-*.jsonl"))
        lines = [json.loads(line) for file in files for line in file.read_bytes().splitlines()]
        return sorted(lines, key=lambda line: str(line["ts"]))  # a sort that keeps the order within a stream

    def lines_of(self, answer: Answer | str) -> list[dict[str, Any]]:
        """The audit lines of one request."""
        wanted = answer if isinstance(answer, str) else answer["rhttp-request-id"]
        return [line for line in self.audit() if line.get("request_id") == wanted]

    def line_of(self, answer: Answer | str, event: str | None = None) -> dict[str, Any]:
        """The one audit line that ends a request (of one event, when given)."""
        lines = [line for line in self.lines_of(answer) if not str(line["event"]).endswith(".sent")]
        (line,) = [line for line in lines if event in (None, line["event"])]
        return line

    def wait_line(self, **wanted: Any) -> dict[str, Any]:
        """The last audit line with these values, as soon as there is one."""

        def found() -> dict[str, Any]:
            matching = [line for line in self.audit() if all(line.get(key) == value for key, value in wanted.items())]
            return matching[-1] if matching else {}

        return dict(wait_for(found, bool))


def wait_for(look: Callable[[], Any], check: Callable[[Any], Any], patience: float = PATIENCE) -> Any:
    """Look again and again until the check holds: for states that nobody announces."""
    until = time.monotonic() + patience
    while True:
        value = look()
        if check(value):
            return value
        if time.monotonic() > until:
            raise AssertionError(f"it stayed at {value!r}")
        select.select([], [], [], 0.02)


def upgrade(target: str, *lines: str, method: str = "POST", token: str = "PTTH/1.0") -> bytes:
    """The bytes of a request to switch roles."""
    return request(target, method, f"Upgrade: {token}", "Connection: Upgrade", *lines)


class Worker:
    """A reversed connection whose worker is the test itself: it reads requests as bytes and sends any bytes back."""

    def __init__(self, name: str, wire: Wire, answer: Answer) -> None:
        self.name = name
        self.wire = wire
        self.switched = answer

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.wire.close()

    def request(self) -> Request:
        """The next request, whole."""
        return read_request(self.wire)

    def reply(self, content: bytes = b"done", status: str = "200 OK", *lines: str) -> None:
        """A plain answer."""
        self.wire.send(response(content, status, *lines))

    def serve(self) -> Request:
        """Take one request and answer it."""
        taken = self.request()
        self.reply()
        return taken


def data_pid(rig: Rig) -> int:
    """The data process."""
    return int(rig.status()["processes"][0]["pid"])


def memory_of(pid: int) -> int:
    """Resident bytes of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")
