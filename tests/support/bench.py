"""A data process's shared parts without sockets: requesters and workers on fake links, an audit log in memory.

Everything between the links is the real thing: connections, admission, pools, exchanges. `Bench.log` holds what was
written to links and to the audit log in the order in which it happened.
"""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import json
import re
import socket
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from support.links import FakeLink
from support.runhomes import copy_home, new_ca

from auth.policy import Context
from auth.principal import Principal
from gateway.audit.line import AuditUnavailable
from gateway.audit.writer import Recorded
from gateway.control.descriptors import Inherited
from gateway.control.process_inputs import ProcessInputs
from gateway.core.context import ProcessContext
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.dataplane.generation import build_generation, make_digest_state, read_config
from gateway.dataplane.plane import DataPlane
from gateway.exchange.exchange import Exchange
from gateway.ingress.connection import Connection
from gateway.pools.hosted import HostedPool, ReversedConnection
from gateway.supervisor.load import load
from pki.names import Role
from rhttp.message import one_field

POOL = '[pools.render]\nmode = "hosted"\nqueue = 3\n'


@functools.cache
def _loaded() -> tuple[tempfile.TemporaryDirectory[str], ProcessInputs]:
    folder = tempfile.TemporaryDirectory(prefix="rhttp-bench-")
    loaded = load(copy_home(Path(folder.name) / "home"), overrides={}, passphrase=None)
    return folder, loaded.inputs("p0", snapshot=loaded.snapshot, nonce_key=b"n" * 32)


def make_inputs(config: str = POOL, *, policy: str | None = None, limits: str = "", **changes: Any) -> ProcessInputs:
    """What the supervisor would send: a fresh home with these tables in its configuration."""
    inputs = _loaded()[1]
    text = f"{inputs.config_text}\n{config}\n"
    if limits:
        text += f"[limits]\n{limits}\n"
    changes["policy_text"] = inputs.policy_text if policy is None else policy
    return dataclasses.replace(inputs, config_text=text, **changes)


class MemoryAudit:
    """What `ProcessContext` asks of an `AuditWriter`; `full` makes every write fail."""

    previous = "none"
    healthy = True
    writable = True
    opened = lost = 0
    touched = False

    def __init__(self, log: list[tuple[str, Any]]) -> None:
        self._log = log
        self.lines: list[dict[str, Any]] = []
        self.full = False
        self.fails_on: str | None = None
        self.waits = False
        self.stalls = False
        """Lines that wait go on waiting, whatever is flushed."""
        self._waiting: list[tuple[str, Mapping[str, object] | bytes, Recorded]] = []

    def write(self, event: str, fields: Mapping[str, object] | bytes) -> None:
        self.writable = not self.full and event != self.fails_on
        if not self.writable:
            raise AuditUnavailable("the disk is full")
        values = json.loads(b"{%b}" % fields) if isinstance(fields, bytes) else dict(fields)
        self.lines.append({"event": event, **values})
        self._log.append((f"audit {event}", values))

    def write_soon(self, event: str, fields: Mapping[str, object] | bytes, who: Recorded) -> bool:
        """At once, as a writer may; `waits` holds the lines back as a real one does."""
        if self.waits or self.stalls:
            self._waiting.append((event, fields, who))
            return True
        try:
            self.write(event, fields)
        except AuditUnavailable:
            who.recorded(False)
        else:
            who.recorded(True)
        return False

    def flush(self) -> None:
        while self._waiting and not self.stalls:
            waiting, self._waiting = self._waiting, []
            verdicts = []
            for event, fields, who in waiting:
                try:
                    self.write(event, fields)
                except AuditUnavailable:
                    verdicts.append((who, False))
                else:
                    verdicts.append((who, True))
            for who, done in verdicts:
                who.recorded(done)

    def refusal(self, event: str, fields: Mapping[str, object], now: float) -> None:
        self.write(event, fields)

    def tick(self, now: float) -> None:
        pass

    def configure(self, config: object) -> None:
        pass

    def flush_refusals(self) -> None:
        pass

    def close(self) -> None:
        pass

    def durable(self) -> None:
        """Nothing of it is on a disk."""

    def of(self, event: str) -> list[dict[str, Any]]:
        """The lines of one event."""
        return [line for line in self.lines if line["event"] == event]


class BenchLink(FakeLink):
    """A fake link that also notes its writes in the common log, and has a socket for options."""

    def __init__(self, name: str, bench: Bench) -> None:
        # Counted as the acceptors count theirs, and paused as early.
        process = bench.process
        super().__init__(
            wheel=process.wheel,
            tally=process.counters,
            high_water=process.generation.config.limits.buffer_bytes,
        )
        self.name = name
        self._log = bench.log
        self._socket = socket.socket()
        self._changed = asyncio.Event()

    def write(self, data: bytes) -> None:
        super().write(data)
        self._log.append((f"write {self.name}", bytes(data)))
        self._changed.set()

    def close(self) -> None:
        super().close()
        self._changed.set()

    def abort(self) -> None:
        super().abort()
        self._changed.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until a write, close or abort makes the condition true."""
        async with asyncio.timeout(20):
            while not condition():
                self._changed.clear()
                await self._changed.wait()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self._socket if name == "socket" else super().get_extra_info(name, default)

    def release(self) -> None:
        self._socket.close()


class Answer:
    """One answer, taken apart without our own parser."""

    def __init__(self, data: bytes) -> None:
        head, _, self.content = data.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        self.line = line
        self.status = int(line.split()[1])
        self.fields = {name.lower(): value.strip() for name, _, value in (field.partition(":") for field in lines)}

    @property
    def problem(self) -> str:
        """The slug of a problem answer."""
        assert self.fields["content-type"] == "application/problem+json", self.line
        return str(json.loads(self.content)["type"]).removeprefix("urn:rhttp:problem:")


class Requester:
    """A client, worker or master on a fake link."""

    def __init__(self, bench: Bench, peer: Peer, listener: str) -> None:
        self.link = BenchLink(peer.name, bench)
        bench.links.append(self.link)
        self.connection = Connection(
            bench.process, peer, listener, "TLSv1.3" if isinstance(peer, CertifiedPeer) else None
        )
        bench.process.registry.add(self.connection)
        self.end = self.connection.end
        self.end.connection_made(self.link)  # type: ignore[arg-type]
        self.link.set_protocol(self.end)

    def send(self, data: bytes) -> None:
        self.end.data_received(data)

    def ask(self, target: str, method: str = "GET", *lines: str, content: bytes | None = None) -> Answer | None:
        """Send a request; its answer when there is one at once."""
        head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
        if content is not None:
            head.append(f"Content-Length: {len(content)}")
        self.link.take()
        self.send(("\r\n".join([*head, "", ""])).encode("latin-1") + (content or b""))
        return self.answer()

    async def answered(self) -> Answer:
        """The next answer, when it is there."""
        await self.link.until(lambda: bool(self.link.sent) or self.link.is_closing())
        answer = self.answer()
        assert answer is not None, "closed without an answer"
        return answer

    def answer(self) -> Answer | None:
        """What was written since the last look, as an answer."""
        data = self.link.take()
        return Answer(data) if data else None


class Worker:
    """A reversed connection whose worker is the test."""

    def __init__(
        self, bench: Bench, name: str, pool: str, instance: str | None, labels: tuple[tuple[str, str], ...]
    ) -> None:
        self.link = BenchLink(name, bench)
        bench.links.append(self.link)
        hosted = bench.process.generation.pools[pool]
        assert isinstance(hosted, HostedPool)
        self.peer = worker_peer(name, pool, labels)
        hosted.host(
            self.peer,
            self.link,  # type: ignore[arg-type]
            protocol="ptth/1.0",
            instance=instance,
            request_id="r",
            asked=Context("tls", "ptth/1.0", "SHA-256", now=bench.process.epoch),
        )
        # Not the link's owner when the slot was lent at once.
        ends: list[Any] = [live.client for live in bench.process.registry if isinstance(live, ReversedConnection)]
        self.end: Any = next((end for end in ends if end.link is self.link), self.link.owner)
        self.reversed: ReversedConnection = self.end.owner

    def taken(self) -> bytes:
        """The request bytes that arrived since the last look."""
        return self.link.take()

    def reply(self, data: bytes = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone") -> None:
        self.end.data_received(data)

    def reset(self) -> None:
        """The connection is lost."""
        self.link.reset()


@functools.cache
def issuer_of(role: str) -> bytes:
    """SHA-256 of the role's CA in the benches' home."""
    return x509.load_pem_x509_certificate(_loaded()[1].trust[role]).fingerprint(hashes.SHA256())


def other_ca(role: Role) -> Mapping[str, bytes]:
    """The trust of the benches' home, with another CA for this role under the same root."""
    folder, inputs = _loaded()
    return {**inputs.trust, role.value: new_ca(Path(folder.name) / "home", role)}


def worker_peer(name: str, pool: str = "render", labels: tuple[tuple[str, str], ...] = ()) -> Peer:
    return CertifiedPeer(
        principal=Principal(kind="Worker", name=name, pool=pool, labels=labels),
        serial=f"aa{name}",
        fingerprint=b"f" * 32,
        issuer=issuer_of("worker"),
        expires=1e12,
        source="192.0.2.7",
    )


def client_peer(name: str = "alice", **changes: Any) -> Peer:
    values: dict[str, Any] = {"serial": "0a", "fingerprint": b"c" * 32, "expires": 1e12, "source": "192.0.2.1"}
    values["issuer"] = issuer_of("client")
    return CertifiedPeer(principal=Principal(kind="Client", name=name), **(values | changes))


def master_peer(name: str = "m1", **changes: Any) -> Peer:
    values: dict[str, Any] = {"serial": "0b", "fingerprint": b"m" * 32, "expires": 1e12, "source": "192.0.2.2"}
    values["issuer"] = issuer_of("client")
    return CertifiedPeer(principal=Principal(kind="Master", name=name), **(values | changes))


class Bench:
    """`ProcessContext` with one generation in force. Make it inside a running event loop or give it one; `close` it."""

    def __init__(
        self,
        config: str = POOL,
        *,
        policy: str | None = None,
        limits: str = "",
        loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        self.log: list[tuple[str, Any]] = []
        self.links: list[BenchLink] = []
        self.audit = MemoryAudit(self.log)
        self.inputs = make_inputs(config, policy=policy, limits=limits)
        self.process = ProcessContext(loop or asyncio.get_running_loop(), self.audit)  # type: ignore[arg-type]
        self.join: Any = None
        """What a hosted pool has to do with other processes; see `build_generation`."""
        self._prepare()
        parsed = read_config(self.inputs)
        self.digest_state = make_digest_state(parsed, self.inputs)
        self.process.generation = build_generation(
            self.process, parsed, self.inputs, self.digest_state, None, join=self.join
        )
        self.process.update_clocks()
        self.process.state_at = self.process.elapsed
        self.process.date = one_field(b"Date", b"Thu, 01 Jan 2026 00:00:00 GMT")

    def _prepare(self) -> None:
        """For what is to be in place before the first generation is."""

    def requester(self, peer: Peer | None = None) -> Requester:
        """A connection of this peer; without one, of the master on the dispatch listener."""
        return Requester(self, peer or LocalPeer(None), "dispatch" if peer is None else "tls")

    def worker(
        self,
        name: str = "w1",
        pool: str = "render",
        *,
        instance: str | None = None,
        labels: tuple[tuple[str, str], ...] = (),
    ) -> Worker:
        """A worker's connection, its slot free."""
        return Worker(self, name, pool, instance, labels)

    @property
    def pool(self) -> HostedPool:
        """The pool ``render``."""
        pool = self.process.generation.pools["render"]
        assert isinstance(pool, HostedPool)
        return pool

    def turn(self, seconds: float) -> None:
        """Let time pass."""
        self.process.wheel.turn(self.process.wheel.now + seconds)

    def events(self) -> list[str]:
        """What happened, by kind."""
        return [kind for kind, _ in self.log]

    def close(self) -> None:
        for link in self.links:
            link.release()


class PlaneBench(Bench):
    """A `DataPlane` with a first configuration in force, its audit log in memory. Make it with `start`."""

    def __init__(self, plane: DataPlane, inputs: ProcessInputs) -> None:
        self.log = []
        self.links = []
        self.audit = MemoryAudit(self.log)
        self.plane = plane
        self.inputs = inputs
        self.process = plane.process
        self.process.audit.close()
        self.process.audit = self.audit  # type: ignore[assignment]
        self.process.state_at = self.process.elapsed

    @classmethod
    async def start(cls, home: Path, config: str = POOL, *, policy: str | None = None, limits: str = "") -> Self:
        """The audit log's folder is made in `home` and not used any further."""
        inputs = make_inputs(config, policy=policy, limits=limits, home=str(home))
        plane = DataPlane(Inherited(control=-1))
        assert await plane.prepare(inputs) == []
        plane.commit()
        return cls(plane, inputs)

    async def reload(self, config: str = POOL, **changes: Any) -> list[tuple[str, str]]:
        """Prepare another configuration, and commit it when nothing is wrong with it."""
        problems = await self.plane.prepare(make_inputs(config, **{"home": self.inputs.home, **changes}))
        if not problems:
            self.plane.commit()
        return problems


def sink_of(requester: Requester) -> Exchange:
    """The exchange that a requester's end feeds."""
    sink = requester.end.sink
    assert isinstance(sink, Exchange)
    return sink


def request_id_of(data: bytes) -> str:
    """The ``Rhttp-Request-Id`` of a forwarded request or of an answer."""
    found = re.search(rb"(?i)\r\nrhttp-request-id: ([0-9a-f]+)\r\n", data)
    assert found is not None
    return found[1].decode()
