"""The workers of `bench/run polling`: real connections with mutual TLS and Digest, that poll or that were reversed."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import ssl
from collections.abc import Callable, Coroutine, Mapping
from typing import Any

from rig.home import Bundle
from rig.pollmaster import JobQueue, Ledger, now, sleep_until
from rig.pollmodel import Polling, phases
from rig.processes import BenchFailed
from rig.testbed import JOB_PATH, REVERSE_PATH

OPENED_AT_A_TIME = 32
_PARAMETER = re.compile(rb'(\w+)="?([^",]*)"?')


class Wire:
    """A connection of the bench to the gateway; as an identity it answers Digest challenges (SHA-256, qop auth)."""

    def __init__(self, streams: tuple[asyncio.StreamReader, asyncio.StreamWriter], name: str = "", password: str = ""):
        self.reader, self.writer = streams
        self._name = name
        self._password = password
        self._challenge: Mapping[bytes, bytes] = {}
        self._count = 0

    async def read_head(self) -> bytes:
        """The next head.

        Raises:
            BenchFailed: the connection ended.
        """
        try:
            return await self.reader.readuntil(b"\r\n\r\n")
        except (asyncio.IncompleteReadError, OSError) as error:
            raise BenchFailed(f"a connection of the bench ended: {error}") from error

    async def get(self, target: str, fields: str = "") -> tuple[int, bytes, float]:
        """Status and content of the answer, and when its first byte was there; a challenge is answered once."""
        for _ in range(2):
            lines = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{self._authorization(target)}\r\n"
            self.writer.write(lines.encode())
            head = await self.read_head()
            at = now()
            content = await self.reader.readexactly(int(field(head, b"content-length") or 0))
            status = int(head.split(b" ", 2)[1])
            if status != 401:
                break
            self._challenge, self._count = dict(_PARAMETER.findall(field(head, b"www-authenticate"))), 0
        return status, content, at

    def _authorization(self, target: str) -> str:
        if not self._challenge:
            return ""
        self._count += 1
        name, cnonce = self._name, secrets.token_hex(8)
        realm, nonce = (self._challenge[key].decode() for key in (b"realm", b"nonce"))
        secret, request = sha256(f"{name}:{realm}:{self._password}"), sha256(f"GET:{target}")
        response = sha256(f"{secret}:{nonce}:{self._count:08x}:{cnonce}:auth:{request}")
        return (
            f'Authorization: Digest username="{name}", realm="{realm}", nonce="{nonce}", uri="{target}", '
            f'algorithm=SHA-256, qop=auth, nc={self._count:08x}, cnonce="{cnonce}", response="{response}"\r\n'
        )


def field(head: bytes, name: bytes) -> bytes:
    """The first value of a field in a head, or nothing."""
    lines = (line.partition(b":") for line in head.split(b"\r\n")[1:])
    return next((value.strip() for key, _, value in lines if key.lower() == name), b"")


def sha256(text: str) -> str:
    """The hexadecimal digest."""
    return hashlib.sha256(text.encode()).hexdigest()


class Crowd:
    """So many workers of one identity, each with one connection, and what they do on it, until the crowd is closed."""

    def __init__(self, bundle: Bundle, *, workers: int, port: int) -> None:
        self.workers = workers
        self.ledger = Ledger()
        self._bundle = bundle
        self._port = port
        self._callers: list[Wire] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._failed: asyncio.Future[None] | None = None

    async def connect(self) -> None:
        """Dial, a few at a time, and let each connection have what it needs to begin."""
        self._failed = asyncio.get_running_loop().create_future()
        context = ssl.create_default_context(cafile=str(self._bundle.folder / "trust.pem"))
        context.load_cert_chain(self._bundle.folder / "cert.pem", self._bundle.folder / "key.pem")
        password = self._bundle.password
        while missing := self.workers - len(self._callers):
            some = [self._dial(context, password) for _ in range(min(missing, OPENED_AT_A_TIME))]
            self._callers += await asyncio.gather(*some)

    async def _dial(self, context: ssl.SSLContext, password: str) -> Wire:
        streams = await asyncio.open_connection("127.0.0.1", self._port, ssl=context, server_hostname="localhost")
        caller = Wire(streams, self._bundle.name, password)
        await self.ready(caller)
        return caller

    async def ready(self, caller: Wire) -> None:
        """What a new connection does first."""
        raise NotImplementedError

    async def expect(self, jobs: int) -> None:
        """Be ready for so many jobs at one moment."""

    async def work(self, number: int, caller: Wire) -> None:
        """What the worker of this number does for ever."""
        raise NotImplementedError

    def submit(self, service: float) -> None:
        """A job arrives at the master, now."""
        raise NotImplementedError

    def start(self) -> None:
        """Let the workers begin; they begin idle."""
        for number, caller in enumerate(self._callers):
            self.run(self.work(number, caller))

    def run(self, what: Coroutine[Any, Any, None]) -> None:
        """A task of this crowd; when it fails, `until` does."""
        task = asyncio.get_running_loop().create_task(what)
        self._tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) and self._failed and not self._failed.done():
            self._failed.set_exception(error)

    async def until(self, true: Callable[[], bool], *, seconds: float, what: str) -> None:
        """Wait until something is so.

        Raises:
            BenchFailed: it is not within the time, or a worker or a dispatch failed.
        """
        limit = now() + seconds
        while not true():
            if self._failed is not None and self._failed.done():
                self._failed.result()
            if now() > limit:
                raise BenchFailed(f"{what} took more than {seconds:.0f} s")
            await asyncio.sleep(0.05)

    async def do(self, number: int, begun: float, service: float) -> None:
        """The work on a job, which is to wait for so long."""
        self.ledger.begun(number, begun)
        await sleep_until(begun + service)
        self.ledger.finished(number)

    async def close(self) -> None:
        """End everything."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._failed is not None and self._failed.done():
            self._failed.exception()  # it was told, or what ended the bench was told
        await self.close_all(self._callers)

    @staticmethod
    async def close_all(wires: list[Any]) -> None:
        """Cut connections and wait until they are gone."""
        for wire in wires:
            wire.writer.transport.abort()
        await asyncio.gather(*(wire.writer.wait_closed() for wire in wires), return_exceptions=True)


class Pollers(Crowd):
    """Workers that ask `GET /jobs/QUEUE/next`: in their own way, or, with None, again as soon as they are answered."""

    def __init__(
        self, bundle: Bundle, queue: JobQueue, way: Polling | None, *, workers: int, port: int, seed: int
    ) -> None:
        super().__init__(bundle, workers=workers, port=port)
        self._queue = queue
        self._way = way
        self._first = phases(seed=seed, workers=workers, interval=way.interval) if way else [0.0] * workers

    async def ready(self, caller: Wire) -> None:
        status, _, _ = await caller.get("/-/health")  # every poller has its nonce before it is measured
        if status != 200:
            raise BenchFailed(f"a poller that asked for the gateway's health was answered {status}")

    def submit(self, service: float) -> None:
        self._queue.put(b"%d %.6f" % (self.ledger.arrived(service), service))

    async def work(self, number: int, caller: Wire) -> None:
        ask_at = now() + self._first[number]
        while True:
            await sleep_until(ask_at)
            status, content, at = await caller.get(f"/jobs/{self._bundle.name}/next")
            if status == 200:
                job, service = content.split()
                await self.do(int(job), at, float(service))
            elif status != 204:
                raise BenchFailed(f"a poll was answered {status}")
            if self._way is None or self._way.eager:
                ask_at = now() + (self._way.interval if self._way and status == 204 else 0)
            while ask_at <= now() and self._way and not self._way.eager:
                ask_at += self._way.interval


class Reversed(Crowd):
    """Workers that switched roles: the gateway keeps their connections, and a master's jobs come down on them.

    The master's end of it is here too: connections to the gateway's dispatch listener, kept for the next job.
    """

    def __init__(self, bundle: Bundle, *, dispatch: int, workers: int, port: int) -> None:
        super().__init__(bundle, workers=workers, port=port)
        self._dispatch = dispatch
        self._kept: list[Wire] = []
        self._opened: list[Wire] = []

    async def ready(self, caller: Wire) -> None:
        status, _, _ = await caller.get(REVERSE_PATH, "Connection: Upgrade\r\nUpgrade: PTTH/1.0\r\n")
        if status != 101:
            raise BenchFailed(f"a worker that wanted to switch roles was answered {status}")

    async def expect(self, jobs: int) -> None:
        # As a master with so many jobs at a time keeps connections.
        while missing := max(jobs - len(self._kept), 0):
            self._kept += await asyncio.gather(*(self._open() for _ in range(min(missing, OPENED_AT_A_TIME))))

    async def _open(self) -> Wire:
        self._opened.append(Wire(await asyncio.open_connection("127.0.0.1", self._dispatch)))
        return self._opened[-1]

    def submit(self, service: float) -> None:
        self.run(self._send(f"{self.ledger.arrived(service)}/{service:.6f}"))

    async def _send(self, job: str) -> None:
        """One job to any worker that is free, or becomes free within a minute."""
        wire = self._kept.pop() if self._kept else await self._open()
        status, *_ = await wire.get(f"{JOB_PATH}/{job}", "Prefer: wait=60\r\n")
        if status != 200:
            raise BenchFailed(f"a dispatch was answered {status}")
        self._kept.append(wire)

    async def work(self, number: int, caller: Wire) -> None:
        while True:
            head = await caller.read_head()
            begun = now()
            _, job, service = head.split(b" ", 2)[1].rsplit(b"/", 2)
            await self.do(int(job), begun, float(service))
            caller.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n")

    async def close(self) -> None:
        await super().close()
        await self.close_all(self._opened)
