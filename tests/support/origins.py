"""Requests as they arrive at a master or worker, byte for byte, and masters that run a script."""

from __future__ import annotations

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Self

from support.wire import PATIENCE, Ended, Wire


class Request:
    """A request as it arrived at an origin or worker, byte for byte."""

    def __init__(self, head: bytes, content: bytes, trailers: tuple[str, ...]) -> None:
        self.head = head
        self.content = content
        self.trailers = trailers
        line, *lines = head[:-4].decode("latin-1").split("\r\n")
        self.method, self.target, self.version = line.split(" ")
        pairs = (field.partition(":") for field in lines)
        self.fields = [(name.lower(), value.strip()) for name, _, value in pairs]
        self.names = [name for name, _ in self.fields]

    def all(self, name: str) -> list[str]:
        """Every value of a field."""
        return [value for field, value in self.fields if field == name]

    def __getitem__(self, name: str) -> str:
        (value,) = self.all(name)
        return value


def read_head(wire: Wire) -> Request:
    """The head of the next request; its content stays on the wire."""
    return Request(wire.until(b"\r\n\r\n"), b"", ())


def read_request(wire: Wire) -> Request:
    """The next request with its content."""
    head = read_head(wire)
    content = b""
    trailers: tuple[str, ...] = ()
    if "transfer-encoding" in head.names:
        content, pairs = wire._chunks()
        trailers = tuple(f"{name}: {value}" for name, value in pairs)
    elif "content-length" in head.names:
        content = wire.read(int(head["content-length"]))
    return Request(head.head, content, trailers)


def response(content: bytes = b"done", status: str = "200 OK", *lines: str) -> bytes:
    """The bytes of an answer with a length."""
    head = [f"HTTP/1.1 {status}", *lines, f"Content-Length: {len(content)}", "", ""]
    return "\r\n".join(head).encode("latin-1") + content


Script = Callable[[Wire], object]


def serve_forever(wire: Wire) -> None:
    """The usual origin: reads requests, answers each with what it is."""
    while True:
        taken = read_request(wire)
        content = json.dumps({"method": taken.method, "target": taken.target, "length": len(taken.content)}).encode()
        wire.send(response(b"" if taken.method == "HEAD" else content))


class Origin:
    """A master: a TCP server whose connections run a script. `requests` and `raw` are exactly what arrived.

    `script` may be replaced between requests; it is taken when a connection begins and when a new request comes in on
    the usual one.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.script: Script = serve_forever
        self.wires: list[RecordingWire] = []
        self.faults: list[BaseException] = []
        self._threads: list[threading.Thread] = []
        self._turn = threading.Lock()
        self._accepting = threading.Thread(target=self._accept, daemon=True)
        self._accepting.start()

    @property
    def raw(self) -> bytes:
        """Every byte that arrived on any connection."""
        return b"".join(bytes(wire.received) for wire in self.wires)

    def clear(self) -> None:
        """Forget what arrived, and let go of every connection, so that the next request meets the present script."""
        until = time.monotonic() + PATIENCE
        while True:
            with self._turn:
                alive = [thread for thread in self._threads if thread.is_alive()]
                if not alive or time.monotonic() > until:
                    self.wires.clear()
                    self._threads.clear()
                    return
                for wire in self.wires:
                    with contextlib.suppress(OSError):
                        wire.sock.shutdown(socket.SHUT_RDWR)
            for thread in alive:
                thread.join(0.05)

    def _accept(self) -> None:
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            wire = RecordingWire(sock)
            thread = threading.Thread(target=self._serve, args=(wire, self.script), daemon=True)
            with self._turn:  # or a connection that comes in while others are cleared away would never be recorded
                self.wires.append(wire)
                self._threads.append(thread)
                thread.start()

    def _serve(self, wire: Wire, script: Script) -> None:
        try:
            script(wire)
        except (Ended, OSError, ValueError):
            pass
        except BaseException as error:
            self.faults.append(error)
        finally:
            wire.sock.close()

    @contextlib.contextmanager
    def scripted(self, script: Script) -> Iterator[Self]:
        """Another script for a while; connections of before are closed, as are those of the script afterwards."""
        self.clear()
        self.script = script
        try:
            yield self
        finally:
            self.script = serve_forever
            self.clear()
            faults, self.faults = self.faults, []
            if faults:
                raise faults[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.clear()


class RecordingWire(Wire):
    """Keeps every byte that it received."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self.received = bytearray()
        self.records = True

    def receive(self, patience: float = 600.0) -> bytes:
        """Some bytes; an idle master waits for long."""
        data = super().receive(patience)
        if self.records:
            self.received += data
        return data
