"""Requesters that keep books: clients on the TLS listener, and a master that dispatches."""

from __future__ import annotations

import contextlib
import json
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Protocol

from OpenSSL import SSL
from support.wire import Answer, Digest, Ended, Wire, chunked, request, tls_context

from chaos.books import Books, Sent

HUNG = 15.0
"""Seconds without a byte, while nothing is stopped, after which a request counts as hung."""
_LOST = (Ended, OSError, SSL.Error)


class Dial(Protocol):
    """How a requester reaches the gateway: a fresh connection, and a field line of credentials for a request."""

    def connect(self) -> Wire: ...

    def credentials(self, target: str, method: str) -> tuple[str, ...]: ...

    def refused(self, answer: Answer) -> None: ...


class ClientDial:
    """A client with its certificate and password; both may be replaced while it runs."""

    def __init__(self, port: int, name: str, bundle: Path) -> None:
        self._port = port
        self._name = name
        self.take(bundle)

    def take(self, bundle: Path) -> None:
        """Use this bundle from now on."""
        self._tls = tls_context(bundle)
        self._digest = Digest(self._name, (bundle / "password").read_text().strip())

    def connect(self) -> Wire:
        """A TLS connection."""
        return Wire(socket.create_connection(("127.0.0.1", self._port), timeout=HUNG), self._tls)

    def credentials(self, target: str, method: str) -> tuple[str, ...]:
        """The ``Authorization`` line, once there was a challenge."""
        return (self._digest.line(target, method),) if self._digest.challenge else ()

    def refused(self, answer: Answer) -> None:
        """Take the new challenge of a 401."""
        if answer.status == 401:
            self._digest.challenged(answer)


class MasterDial:
    """The dispatch socket: no credentials."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def connect(self) -> Wire:
        """A connection in the clear."""
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(HUNG)
        try:
            sock.connect(str(self._path))
        except BaseException:
            sock.close()
            raise
        return Wire(sock)

    def credentials(self, target: str, method: str) -> tuple[str, ...]:
        """None."""
        return ()

    def refused(self, answer: Answer) -> None:
        """Nothing to learn."""


class Requester(threading.Thread):
    """Sends requests one after the other, each with a key of its own, on kept and on fresh connections."""

    def __init__(
        self, who: str, dial: Dial, books: Books, stop: threading.Event, *, prefix: str, seed: int, pause: float
    ) -> None:
        super().__init__(name=who, daemon=True)
        self.who = who
        self.dial = dial
        self._books = books
        self._stop_asked = stop
        self._prefix = prefix
        self._random = random.Random(seed)
        self._pause = pause
        self._number = 0
        self._wire: Wire | None = None
        self.fault: BaseException | None = None

    def run(self) -> None:
        """Until told to stop."""
        try:
            while not self._stop_asked.is_set():
                self.ask()
                time.sleep(self._pause * self._random.uniform(0.5, 1.5))
        except BaseException as error:
            self.fault = error
            raise
        finally:
            self._drop()

    def _drop(self) -> None:
        if self._wire is not None:
            self._wire.close()
        self._wire = None

    def _connected(self) -> Wire | None:
        if self._wire is not None and self._random.random() < 0.1:
            self._drop()
        if self._wire is None:
            try:
                self._wire = self.dial.connect()
            except _LOST:  # refused, restarting, revoked: nothing was sent, so there is nothing to keep books of
                self._stop_asked.wait(0.2)
        return self._wire

    def ask(self) -> Sent | None:
        """One request; None: no connection was to be had."""
        wire = self._connected()
        if wire is None:
            return None
        self._number += 1
        key = f"{self.who}-{self._number}"
        method, lines, content = self._make()
        target = f"{self._prefix}{key}"
        lines += self.dial.credentials(target, method)
        sent = Sent(key=key, who=self.who, method=method, began=time.monotonic())
        self._books.sent.append(sent)
        with self._lost_is_told(sent):
            wire.send(request(target, method, *lines) + content)
            answer = wire.answer(method)
            sent.ended = time.monotonic()
            _take_answer(sent, answer, method)
            self.dial.refused(answer)
            if "close" in answer.all("connection"):
                self._drop()
        return sent

    @contextlib.contextmanager
    def _lost_is_told(self, sent: Sent) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            sent.ended, sent.how = time.monotonic(), "hung"
            self._drop()
        except _LOST as error:
            sent.ended = time.monotonic()
            sent.how = type(error).__name__ if self._wire is None or not self._wire.ended else self._wire.ended
            self._drop()

    def _make(self) -> tuple[str, tuple[str, ...], bytes]:
        """Method, field lines and content bytes of the next request."""
        kind = self._random.random()
        if kind < 0.4:
            return "GET", (), b""
        if kind < 0.5:
            return "DELETE", (), b""
        content = b"x" * self._random.choice((1, 100, 5000, 60_000, 200_000))
        if kind < 0.8:
            return "POST", (f"Content-Length: {len(content)}",), content
        return "PUT", ("Transfer-Encoding: chunked",), chunked(content[: len(content) // 2 + 1], content)


def _take_answer(sent: Sent, answer: Answer, method: str) -> None:
    sent.status = answer.status
    ids = answer.all("rhttp-request-id")
    sent.request_id = ids[0] if len(ids) == 1 else ""
    kind = answer.all("content-type")
    if kind == ["application/problem+json"]:
        sent.problem = answer.problem
    elif answer.status == 200 and method != "HEAD":
        sent.echo = str(json.loads(answer.content[: answer.content.index(b"}") + 1])["key"])


def every(seconds: float, stop: threading.Event, work: Callable[[], None]) -> None:
    """Do the work again and again until told to stop."""
    while not stop.wait(seconds):
        work()
