"""What every connection of one data process works with: the present generation of the configuration, shared parts.

A *generation* is everything that a reload replaces at once; a request reads it once and keeps it to its end.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from auth.cedar import Decider
from auth.credentials import Credentials
from auth.principal import Principal
from auth.verifier import DigestVerifier
from gateway.audit.checkpoints import Head
from gateway.audit.line import AuditUnavailable, Fields
from gateway.audit.writer import Recorded
from gateway.config.values import AuditConfig, Config
from gateway.core.counters import Counters, ListenerCounts
from gateway.core.peer import Peer
from gateway.core.registry import Registry
from gateway.state.lists import PublishedLists
from gateway.state.snapshot import StateSnapshot
from pki.verify import PeerVerifier
from rhttp.clock import elapsed
from rhttp.ends import SURPLUS
from rhttp.http1.limits import Http1Limits
from rhttp.message import FieldBlock
from rhttp.timers import TimerWheel
from rhttp.tls.link import Tally
from rhttp.tls.outbox import Outbox
from rhttp.tls.plain import PlainLink


class Policies(Protocol):
    """What a request is decided by; see `auth.cedar.PolicyEngine`."""

    def decider(self, principal: Principal, action: str, resource_type: str, resource: str, /) -> Decider:
        """Who answers this question in changing circumstances."""


@dataclass(slots=True, kw_only=True)
class Generation:
    """One configuration in force, as far as decisions, exchanges and pools know it."""

    number: int
    config: Config
    limits: Http1Limits
    engine: Policies
    verifier: DigestVerifier
    peers: PeerVerifier
    issuers: frozenset[bytes]
    """SHA-256 of each issuing CA in the store."""
    via: bytes
    """Our pseudonym in ``Via``, lower case."""
    via_received: bytes
    """``1.1 pseudonym``."""
    unsaid: frozenset[bytes]
    """Methods of requests that leave for a master without a line of their own in the audit log."""


class Stream(Protocol):
    """An answer that has no end of its own, such as a pool's events."""

    def close(self) -> None:
        """End it in order."""


class StatusService(Protocol):
    """Answers OCSP requests; see `gateway.ingress.ocsp_service`."""

    def answer(self, data: bytes, /) -> tuple[bytes, int]:
        """The response to these bytes, and for how many seconds a cache may keep it."""


class OtherProcesses(Protocol):
    """The other data processes of this gateway, as those see them who ask for an answer about all."""

    def gather(self, question: str, *, within: float, then: Callable[[Mapping[int, Any]], None]) -> None:
        """Ask all, and call ``then`` with the answers by index of those who gave one within that many seconds."""


_HEX: Final = tuple(format(number, "02x") for number in range(256))


class RequestIds:
    """Unique names for requests: 64 random bits of this process, then a counter."""

    __slots__ = ("_count", "_prefix")

    def __init__(self) -> None:
        self._prefix = os.urandom(8).hex()
        self._count = 0

    def next(self) -> str:
        """A name never given before."""
        count = self._count = self._count + 1
        if count >> 32:
            return self._prefix + format(count, "08x")
        low, high = count & 0xFFFF, count >> 16
        return f"{self._prefix}{_HEX[high >> 8]}{_HEX[high & 0xFF]}{_HEX[low >> 8]}{_HEX[low & 0xFF]}"


class AuditSink(Protocol):
    """What is asked of the audit log; see `gateway.audit.writer.AuditWriter`."""

    @property
    def healthy(self) -> bool:
        """Whether lines can be written and get to disk."""

    @property
    def writable(self) -> bool:
        """Whether lines can be written, as far as is known."""

    @property
    def previous(self) -> str:
        """How the stream ended the last time: none, clean or unclean."""

    @property
    def opened(self) -> int:
        """The number of the last line that was found at the start."""

    @property
    def lost(self) -> int:
        """Lines that could not be written since the last one that was."""

    @property
    def touched(self) -> bool:
        """Whether somebody else changed the stream's file."""

    def configure(self, config: AuditConfig, /) -> None:
        """Take up new bounds."""

    def write(self, event: str, fields: Fields, /) -> None:
        """Append one line; raises `AuditUnavailable`."""

    def write_soon(self, event: str, fields: Fields, who: Recorded, /) -> bool:
        """Append one line, now or with `flush`; ``who`` is told. Whether `flush` is needed."""

    def flush(self) -> None:
        """Append the lines that wait, and tell whoever waits for them."""

    def refusal(self, event: str, fields: Mapping[str, object], now: float, /) -> None:
        """Append a refusal, or fold it into a count; raises `AuditUnavailable`."""

    def tick(self, now: float, /) -> None:
        """Write counts whose time is over."""

    def flush_refusals(self) -> None:
        """Write all counts."""

    def durable(self) -> Head | None:
        """The last line that is on disk."""

    def close(self) -> None:
        """Write and sync what is left."""


class ProcessContext:
    """The shared parts. One object a process, so a plain class with slots for quick attributes."""

    __slots__ = (
        "_entropy",
        "_entropy_at",
        "audit",
        "counters",
        "credentials",
        "date",
        "draining",
        "elapsed",
        "epoch",
        "exchanges",
        "generation",
        "ids",
        "issue",
        "listeners",
        "lists",
        "loop",
        "ocsp",
        "others",
        "outbox",
        "registry",
        "snapshot",
        "state_at",
        "streams",
        "token_credentials",
        "wheel",
    )

    def __init__(self, loop: asyncio.AbstractEventLoop, audit: AuditSink) -> None:
        self.loop = loop
        self.audit = audit
        self.generation: Generation
        """Set by the first commit."""
        self.wheel = TimerWheel(loop.time())
        self.outbox = Outbox(loop, audit.flush)
        self.registry = Registry()
        self.others: OtherProcesses | None = None
        """The other data processes of this gateway; None: there are none."""
        self.issue: Callable[[Mapping[str, object]], Awaitable[Mapping[str, object]]] | None = None
        """Gives an order to the issuer and waits for what becomes of it; never raises. None: nobody takes any."""
        self.counters = Counters()
        self.listeners: dict[str, ListenerCounts] = {}
        """What each listener counts, by its purpose."""
        self.lists = PublishedLists()
        """The revocation lists that are served."""
        self.ocsp: StatusService | None = None
        """Who answers OCSP requests by them; None: nobody."""
        self.ids = RequestIds()
        self.credentials = Credentials()
        self.token_credentials = Credentials()
        """Those of enrolment tokens, whose ids are no names of users."""
        self.snapshot = StateSnapshot(version=0, users={}, revoked=frozenset(), labels={})
        self.epoch = 0.0
        """The time of day in epoch seconds, a quarter second coarse. It may jump: see `elapsed`."""
        self.elapsed = 0.0
        """Seconds of `rhttp.clock`, a quarter second coarse: for everything that asks how long ago."""
        self.date = FieldBlock(())
        """The field ``Date``, a second coarse."""
        self.state_at = 0.0
        """When the state was read last, in seconds of `rhttp.clock`."""
        self.draining = False
        self.streams: set[Stream] = set()
        """Open now; a drain ends them."""
        self.exchanges = 0
        """Requests that are being forwarded or wait for a slot."""
        self._entropy = b""
        self._entropy_at = 0

    @property
    def has_generation(self) -> bool:
        """Whether a configuration is in force."""
        return hasattr(self, "generation")

    def tick_audit(self) -> None:
        """Once a second: refusals that were counted become lines."""
        try:
            self.audit.tick(self.elapsed)
        except AuditUnavailable:
            self.counters.audit_lost += 1

    def open_plain(self, sock: socket.socket, tally: Tally | None = None) -> PlainLink:
        """A link on a connected socket in the clear, without an owner yet; the socket does not block."""
        high_water = self.generation.config.limits.buffer_bytes
        return PlainLink(self.loop, sock, wheel=self.wheel, outbox=self.outbox, high_water=high_water, tally=tally)

    @staticmethod
    def now() -> datetime:
        """The precise time, for certificates."""
        return datetime.now(UTC)

    @staticmethod
    def now_seconds() -> float:
        """The same in epoch seconds, without making a date of it."""
        return time.time()

    @staticmethod
    def precise() -> float:
        """The precise time in seconds of `rhttp.clock`."""
        return elapsed()

    def update_clocks(self) -> None:
        """Take the times: four times a second, and before anything is served."""
        self.epoch = time.time()
        self.elapsed = elapsed()

    def time_of_day(self, at: float) -> float:
        """The epoch second of what was at ``at`` seconds of `rhttp.clock`, by today's setting of the clock."""
        return self.epoch - (self.elapsed - at)

    def entropy(self) -> bytes:
        """Twelve unpredictable bytes, never given twice."""
        at = self._entropy_at
        if at >= len(self._entropy):
            self._entropy, at = os.urandom(1536), 0
        self._entropy_at = at + 12
        return self._entropy[at : at + 12]

    def exchange_over(self) -> None:
        """One exchange less."""
        self.exchanges -= 1

    def state_is_stale(self) -> bool:
        """Whether state was unreadable for so long that nobody new may be admitted."""
        return self.elapsed - self.state_at > self.generation.config.limits.state_stale

    def record(self, event: str, fields: Fields) -> bool:
        """Write one audit line; False when it could not be written and the exchange must therefore not succeed."""
        try:
            self.audit.write(event, fields)
        except AuditUnavailable:
            return self.may_go_unrecorded()
        return True

    def record_soon(self, event: str, fields: Fields, who: Recorded) -> None:
        """Write one audit line before this turn is over, with others, and tell ``who``: before any byte leaves."""
        if self.audit.write_soon(event, fields, who):
            self.outbox.soon()

    def may_send(self) -> bool:
        """Whether a request may be sent on: the log is known to take lines, or it may go unrecorded.

        The answer to one that may not is what tries the log again.
        """
        return self.audit.writable or self.generation.config.audit.when_full == "continue"

    def may_go_unrecorded(self) -> bool:
        """An audit line could not be written: whether what it tells of may happen all the same."""
        self.counters.audit_lost += 1
        return self.generation.config.audit.when_full == "continue"

    def record_cut(self, peer: Peer, listener: str, reason: str) -> None:
        """Audit that a live connection was ended by us."""
        self.counters.cut += 1
        fields = peer.audit() | {"listener": listener, "outcome": "cut", "reason": reason}
        self.record("connection.cut", fields)

    def record_surplus(self, master: str | None, source: str | None, request_id: str | None) -> None:
        """Audit that a connection to a master was ended for bytes that no request had asked for.

        ``request_id`` names the request behind whose answer they came; None: they came before any.
        """
        self.counters.cut += 1
        fields: dict[str, object] = {} if request_id is None else {"request_id": request_id}
        fields |= {"source": source, "outcome": "cut", "reason": SURPLUS, "detail": {"name": master}}
        self.record("connection.cut", fields)

    def record_closed(self, peer: Peer, pool: str, request_id: str, opened: float, reason: str) -> None:
        """Audit that a reversed connection is gone; ``opened`` in seconds of `rhttp.clock`."""
        fields: dict[str, object] = {"request_id": request_id}
        fields |= peer.audit()
        fields |= {"listener": "tls", "outcome": "closed", "reason": reason, "target": f"/-/reverse/{pool}"}
        fields["ms"] = round((self.elapsed - opened) * 1000, 3)
        self.record("reverse.closed", fields)

    def record_refusal(self, event: str, fields: Mapping[str, object]) -> None:
        """Write a refusal, or count it among many alike."""
        try:
            self.audit.refusal(event, fields, self.elapsed)
        except AuditUnavailable:
            self.counters.audit_lost += 1
