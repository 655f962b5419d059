"""What serves: a master behind the route, scripted workers, and the application of the product's own workers.

Each writes down what it got whole before it answers, and answers with the key of what it answers.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import threading
import time
from pathlib import Path
from typing import Any

from OpenSSL import SSL
from support.origins import Request, read_request, response
from support.wire import Digest, Ended, Wire, request, tls_context

from chaos.books import Books, Ran

BOOK = "CHAOS_BOOK"
"""Environment of a worker process: the file that its application writes what ran to."""
_LOST = (Ended, OSError, SSL.Error, ValueError)
_IDLE = 3600.0


def key_of(target: str) -> str:
    """The last segment of a target."""
    return target.rpartition("/")[2]


def echo(key: str, size: int) -> bytes:
    """Content that says what it answers, of about this size."""
    return json.dumps({"key": key}).encode() + b" " * size


class PatientWire(Wire):
    """Waits for long: an idle master or worker hears nothing for minutes."""

    def receive(self, patience: float = _IDLE) -> bytes:
        """Some bytes."""
        return super().receive(patience)


class Serving:
    """Answers on a connection until it ends. `tricks` is how often an answer goes wrong."""

    def __init__(self, where: str, books: Books, seed: int, tricks: float) -> None:
        self._where = where
        self._books = books
        self._random = random.Random(seed)
        self._tricks = tricks

    def serve(self, wire: Wire) -> None:
        """Until the connection ends, by either side."""
        while True:
            taken = read_request(wire)
            key = key_of(taken.target)
            self._books.ran.append(Ran(key=key, where=self._where))
            if not self._answer(wire, key, taken):
                return

    def _answer(self, wire: Wire, key: str, taken: Request) -> bool:
        pick = self._random.random()
        if pick < 0.2:
            time.sleep(self._random.uniform(0.05, 0.8))
        content = echo(key, self._random.choice((0, 0, 0, 2000, 50_000, 300_000)))
        if taken.method == "HEAD":
            content = b""
        if self._random.random() >= self._tricks:
            wire.send(response(content))
            return True
        match self._random.randrange(5):
            case 0:  # dies in the middle of its answer
                wire.send(response(content)[: 60 + len(content) // 2])
                return False
            case 1:  # dies without an answer
                return False
            case 2:  # bytes behind its answer
                wire.send(response(content) + b"\r\n")
                return True
            case 3:  # the last answer of this connection
                wire.send(response(content, "200 OK", "Connection: close"))
                return False
            case _:  # in pieces
                whole = response(content)
                for at in range(0, len(whole), max(1, len(whole) // 5)):
                    wire.send(whole[at : at + max(1, len(whole) // 5)])
                    time.sleep(0.01)
                return True


class Master:
    """A master on a port of its own; each connection in a thread."""

    def __init__(self, books: Books, seed: int) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self.port: int = self._listener.getsockname()[1]
        self._books = books
        self._seed = seed
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        number = 0
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            number += 1
            serving = Serving("jobs", self._books, self._seed + number, 0.02)
            threading.Thread(target=_serve, args=(serving, PatientWire(sock)), daemon=True).start()

    def close(self) -> None:
        """Accept no more."""
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


def _serve(serving: Serving, wire: Wire) -> None:
    with contextlib.suppress(*_LOST):
        serving.serve(wire)
    wire.close()


class ScriptedWorker(threading.Thread):
    """A worker of our own making, one connection at a time; it dials again whatever happens."""

    def __init__(
        self, name: str, bundle: Path, books: Books, stop: threading.Event, *, port: int, pool: str, seed: int
    ) -> None:
        super().__init__(name=name, daemon=True)
        self._worker = name
        self._books = books
        self._stop_asked = stop
        self._port = port
        self._target = f"/-/reverse/{pool}"
        self._random = random.Random(seed)
        self._wire: Wire | None = None
        self.take(bundle)

    def take(self, bundle: Path) -> None:
        """Use this bundle from now on."""
        self._tls = tls_context(bundle)
        self._digest = Digest(self._worker, (bundle / "password").read_text().strip())

    def run(self) -> None:
        """Until told to stop."""
        while not self._stop_asked.is_set():
            with contextlib.suppress(*_LOST, AssertionError):
                self._live()
            self._stop_asked.wait(self._random.uniform(0.3, 1.0))

    def _live(self) -> None:
        sock = socket.create_connection(("127.0.0.1", self._port), timeout=15)
        with PatientWire(sock, self._tls) as wire:
            self._wire = wire
            for _ in range(2):
                lines = ["Upgrade: PTTH/1.0", "Connection: Upgrade"]
                if self._digest.challenge:
                    lines.append(self._digest.line(self._target, "POST"))
                wire.send(request(self._target, "POST", *lines))
                answer = wire.one()
                if answer.status == 101:
                    Serving(self._worker, self._books, self._random.randrange(1 << 30), 0.05).serve(wire)
                    return
                if answer.status != 401:
                    return
                self._digest.challenged(answer)

    def hang_up(self) -> None:
        """End the connection from outside the thread."""
        wire = self._wire
        if wire is not None:
            with contextlib.suppress(OSError):
                wire.sock.shutdown(socket.SHUT_RDWR)


async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The application of a worker process (ASGI 3): writes down what ran, answers with its key."""
    if scope["type"] != "http":
        return
    more = True
    while more:
        more = (await receive()).get("more_body", False)
    key = key_of(scope["path"])
    book = os.open(os.environ[BOOK], os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(book, f"{key}\n".encode())
    os.close(book)
    content = b"" if scope["method"] == "HEAD" else echo(key, 500)
    fields = [(b"content-length", str(len(content)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": fields})
    await send({"type": "http.response.body", "body": content})
