"""The workers of `bench/run polling`: real connections with mutual TLS and Digest, that poll or that were reversed."""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import ssl
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import Any

from rig.home import Bundle
from rig.pollmaster import OPENED_AT_A_TIME, Desk, Dispatcher, Ledger, close_all, field, read_head
from rig.pollmodel import Polling, phases
from rig.processes import BenchFailed
from rig.testbed import REVERSE_PATH

_PARAMETER = re.compile(rb'(\w+)="?([^",]*)"?')


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer: its status, its content, and when its first byte was there."""

    status: int
    content: bytes
    at: float


class Caller:
    """One TLS connection of one identity, which answers the Digest challenge of its gateway (SHA-256, qop auth)."""

    def __init__(self, bundle: Bundle, password: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter):
        self._bundle = bundle
        self._password = password
        self.reader = reader
        self.writer = writer
        self._challenge: dict[bytes, bytes] = {}
        self._count = 0

    async def ask(self, target: str, fields: str = "") -> Answer:
        """A GET; a challenge is answered once."""
        answer = await self._ask(target, fields)
        return await self._ask(target, fields) if answer.status == 401 else answer

    async def _ask(self, target: str, fields: str) -> Answer:
        lines = f"GET {target} HTTP/1.1\r\nHost: localhost\r\n{fields}{self._authorization(target)}\r\n"
        self.writer.write(lines.encode())
        head = await read_head(self.reader)
        at = asyncio.get_running_loop().time()
        content = await self.reader.readexactly(int(field(head, b"content-length") or 0))
        status = int(head.split(b" ", 2)[1])
        if status == 401:
            self._challenge = dict(_PARAMETER.findall(field(head, b"www-authenticate") or b""))
            self._count = 0
        return Answer(status, content, at)

    def _authorization(self, target: str) -> str:
        if not self._challenge:
            return ""
        self._count += 1
        realm, nonce = (self._challenge[name].decode() for name in (b"realm", b"nonce"))
        count, cnonce = f"{self._count:08x}", secrets.token_hex(8)
        secret = sha256(f"{self._bundle.name}:{realm}:{self._password}")
        response = sha256(f"{secret}:{nonce}:{count}:{cnonce}:auth:{sha256(f'GET:{target}')}")
        return (
            f'Authorization: Digest username="{self._bundle.name}", realm="{realm}", nonce="{nonce}", uri="{target}", '
            f'algorithm=SHA-256, qop=auth, nc={count}, cnonce="{cnonce}", response="{response}"\r\n'
        )


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
        self._callers: list[Caller] = []
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

    async def _dial(self, context: ssl.SSLContext, password: str) -> Caller:
        reader, writer = await asyncio.open_connection(
            "127.0.0.1", self._port, ssl=context, server_hostname="localhost"
        )
        caller = Caller(self._bundle, password, reader, writer)
        await self.ready(caller)
        return caller

    async def ready(self, caller: Caller) -> None:
        """What a new connection does first."""

    def start(self) -> None:
        """Let the workers begin; they begin idle."""
        for number, caller in enumerate(self._callers):
            self.run(self.work(number, caller))

    async def work(self, number: int, caller: Caller) -> None:
        """What the worker of this number does for ever."""
        raise NotImplementedError

    def submit(self, service: float) -> None:
        """A job arrives at the master, now."""
        raise NotImplementedError

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
        limit = asyncio.get_running_loop().time() + seconds
        while not true():
            if self._failed is not None and self._failed.done():
                self._failed.result()
            if asyncio.get_running_loop().time() > limit:
                raise BenchFailed(f"{what} took more than {seconds:.0f} s")
            await asyncio.sleep(0.05)

    def has_begun(self) -> bool:
        """Has every job of this phase reached a worker?"""
        return self.ledger.all_begun

    def is_idle(self) -> bool:
        """Is every job of this phase done?"""
        return self.ledger.all_finished

    async def done(self, number: int, begun: float, service: float) -> None:
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
        await close_all([caller.writer for caller in self._callers])


class Pollers(Crowd):
    """Workers that ask `GET /jobs/DESK/next`: in their own way, or, with None, again as soon as they are answered."""

    def __init__(self, bundle: Bundle, desk: Desk, way: Polling | None, *, workers: int, port: int, seed: int) -> None:
        super().__init__(bundle, workers=workers, port=port)
        self.desk = desk
        self._way = way
        self._target = f"/jobs/{bundle.name}/next"
        self._first = phases(seed=seed, workers=workers, interval=way.interval) if way else [0.0] * workers

    async def ready(self, caller: Caller) -> None:
        # Every poller has its nonce before it is measured.
        answer = await caller.ask("/-/health")
        if answer.status != 200:
            raise BenchFailed(f"a poller that asked for the gateway's health was answered {answer.status}")

    def submit(self, service: float) -> None:
        self.desk.put(b"%d %.6f" % (self.ledger.arrived(service), service))

    async def work(self, number: int, caller: Caller) -> None:
        clock = asyncio.get_running_loop().time
        ask_at = clock() + self._first[number]
        while True:
            await sleep_until(ask_at)
            answer = await caller.ask(self._target)
            if answer.status == 200:
                job, service = answer.content.split()
                await self.done(int(job), answer.at, float(service))
            elif answer.status != 204:
                raise BenchFailed(f"a poll was answered {answer.status}")
            if self._way is None:
                ask_at = clock()
            elif self._way.eager:
                ask_at = clock() + (self._way.interval if answer.status == 204 else 0)
            else:
                while ask_at <= clock():
                    ask_at += self._way.interval


class Reversed(Crowd):
    """Workers that switched roles: the gateway keeps their connections, and a master's jobs come down on them."""

    def __init__(self, bundle: Bundle, dispatcher: Dispatcher, *, workers: int, port: int) -> None:
        super().__init__(bundle, workers=workers, port=port)
        self._dispatcher = dispatcher

    async def ready(self, caller: Caller) -> None:
        answer = await caller.ask(REVERSE_PATH, "Connection: Upgrade\r\nUpgrade: PTTH/1.0\r\n")
        if answer.status != 101:
            raise BenchFailed(f"a worker that wanted to switch roles was answered {answer.status}")

    def submit(self, service: float) -> None:
        job = b"%d %.6f" % (self.ledger.arrived(service), service)
        self.run(self._dispatcher.send(job))

    async def work(self, number: int, caller: Caller) -> None:
        while True:
            head = await read_head(caller.reader)
            begun = asyncio.get_running_loop().time()
            _, job, service = head.split(b" ", 2)[1].rsplit(b"/", 2)
            await self.done(int(job), begun, float(service))
            caller.writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\ndone\n")


async def sleep_until(at: float) -> None:
    """Sleep until the loop's clock says `at`; at once when it does already."""
    pause = at - asyncio.get_running_loop().time()
    if pause > 0:
        await asyncio.sleep(pause)
