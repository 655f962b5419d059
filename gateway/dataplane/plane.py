"""The data plane of one process: listeners, connections, pools, and what the supervisor asks of it."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from email.utils import formatdate
from pathlib import Path
from typing import Any, Final

from auth.credentials import Credentials, token_credentials
from auth.policy import Allowed
from gateway.admission.checks import circumstances
from gateway.audit.line import AuditUnavailable
from gateway.audit.writer import AuditWriter
from gateway.cluster.peers import Mesh
from gateway.config.values import Config
from gateway.control.channel import Drained
from gateway.control.descriptors import Inherited, Sockets
from gateway.control.process_inputs import ProcessInputs
from gateway.core.context import ProcessContext
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.dataplane.draining import Draining
from gateway.dataplane.generation import (
    DigestState,
    Refusals,
    build_generation,
    load_policy,
    make_digest_state,
    read_config,
)
from gateway.dataplane.metrics import measure, metrics_text
from gateway.dataplane.wiring import join
from gateway.ingress.acceptor import Acceptor
from gateway.ingress.connection import Connection
from gateway.ingress.event_stream import EventStream
from gateway.ingress.gather import ask_all
from gateway.ingress.handlers import dispatch_listener, tls_listener
from gateway.ingress.metrics_handler import metrics_listener
from gateway.ingress.serving import Serving, serving_of
from gateway.pools.hosted import ReversedConnection
from gateway.pools.relayed import Relayed
from gateway.state.lists import PublishedLists
from gateway.state.snapshot import StateSnapshot
from rhttp.http1.server import ServerEnd
from rhttp.message import one_field

_TICK: Final = 0.25


class DataPlane:
    """One data process's work. Every method belongs to its event loop."""

    def __init__(self, inherited: Inherited) -> None:
        self._inherited = inherited
        self._process: ProcessContext | None = None
        self._digest_state: DigestState | None = None
        self._prepared: tuple[Serving, StateSnapshot] | None = None
        self._newest: StateSnapshot | None = None
        """The state that was read last of all that came, in force from the first commit on."""
        self._mesh: Mesh | None = None
        """None: this process is the only one."""
        self._stream = ""
        self._acceptors: list[Acceptor] = []
        self._ticker: asyncio.TimerHandle | None = None
        self._second = 0

    @property
    def process(self) -> ProcessContext:
        """The shared parts; there are none before the first `prepare`."""
        assert self._process is not None
        return self._process

    # ---- configuration ----

    async def prepare(self, inputs: ProcessInputs) -> list[tuple[str, str]]:
        """Build a generation beside the one that runs; answer what is wrong with it, as (key path, message)."""
        try:
            config = read_config(inputs)
            if self._process is None:
                self._stream = inputs.stream
                self._digest_state = make_digest_state(config, inputs, self._inherited.ledger)
                audit = AuditWriter.open(Path(inputs.home) / "audit", inputs.stream, config.audit)
                loop = asyncio.get_running_loop()
                self._process = ProcessContext(loop, audit)
                run = Path(inputs.home) / "run"
                self._mesh = join(self._process, self._inherited, run, inputs.nonce_key, self._peer)
            # Thousands of policies take seconds; meanwhile this process serves, and takes up what is revoked.
            engine = await asyncio.to_thread(load_policy, config, inputs)
            process = self.process
            assert self._digest_state is not None
            previous = serving_of(process.generation) if process.has_generation else None
            remote = self._mesh.pool if self._mesh is not None else None
            generation = build_generation(
                process, config, inputs, self._digest_state, previous, engine=engine, join=remote
            )
        except Refusals as refusals:
            return refusals.problems
        self._prepared = (generation, inputs.snapshot)
        return []

    def rollback(self) -> None:
        """Forget what was prepared."""
        self._prepared = None

    def commit(self) -> None:
        """Use what was prepared: new requests see it, running ones keep what they began with."""
        if self._prepared is None:
            raise RuntimeError("nothing was prepared")
        process = self.process
        (generation, snapshot), self._prepared = self._prepared, None
        if self._newest is None or snapshot.read >= self._newest.read:
            self._newest = snapshot
        previous = serving_of(process.generation) if process.has_generation else None
        process.generation = generation
        self._configure(generation.config)
        process.update_clocks()
        self._use(self._newest)
        if previous is None:
            return
        if previous.issuers - generation.issuers:
            self._cut_orphans(generation.issuers)
        for live in process.registry:
            if isinstance(live, Connection):
                live.ask_again()
        for name, master in previous.masters.items():
            if generation.masters.get(name) is not master:
                master.close()
        for name, pool in previous.pools.items():
            if generation.pools.get(name) is pool:
                pool.adopt(generation.config.pools[name])
            else:
                pool.stop()
        self._ask_again(previous, generation)
        process.record(
            "gateway.reload", {"outcome": "done", "process": self._stream, "detail": {"version": generation.number}}
        )

    def _configure(self, config: Config) -> None:
        """Tell the parts that outlive every reload."""
        assert self._digest_state is not None
        digest = config.digest
        self._digest_state.ledger.configure(digest.window, digest.nonces_per_identity, digest.nonce_lifetime)
        self.process.audit.configure(config.audit)

    def _cut_orphans(self, issuers: frozenset[bytes]) -> None:
        """Cut the connections whose certificate was issued by a CA that is no longer in the store."""

        def reason_of(peer: Peer) -> str | None:
            return "issuer_gone" if isinstance(peer, CertifiedPeer) and peer.issuer not in issuers else None

        self.process.registry.cut_where(reason_of)

    def _ask_again(self, previous: Serving, generation: Serving) -> None:
        """Live reversed connections and event streams are asked again; those no longer allowed drain or end."""
        for live in self.process.registry:
            if not isinstance(live, ReversedConnection | Relayed):
                continue
            name = live.pool_name
            if generation.pools.get(name) is not previous.pools.get(name):
                live.drain("pool_gone")
                continue
            decider = generation.engine.decider(live.peer.principal, "reverse", "Pool", name)
            if not isinstance(decider.decide(live.asked._replace(now=self.process.epoch)), Allowed):
                live.drain("policy")
        for stream in tuple(self.process.streams):
            assert isinstance(stream, EventStream)
            name, record = stream.pool_name, stream.record
            decider = generation.engine.decider(record.peer.principal, "inspect", "Pool", name)
            assert record.admitted is not None
            context = circumstances(record, record.admitted.digest, self.process.epoch)
            if generation.pools.get(name) is not previous.pools.get(name) or not isinstance(
                decider.decide(context), Allowed
            ):
                stream.close()

    # ---- state ----

    async def apply_state(self, snapshot: StateSnapshot) -> int:
        """Use a snapshot and cut whoever it ends; answer how many. Their sockets are closed when this returns.

        One that was read before what is here already is ignored: the push of another one overtook it.
        """
        if self._newest is not None and snapshot.read < self._newest.read:
            return 0
        self._newest = snapshot
        if self._process is None or not self._process.has_generation:
            return 0  # nobody is connected; the first commit takes it up
        return self._use(snapshot)

    def _use(self, snapshot: StateSnapshot) -> int:
        process = self.process
        old, process.snapshot = process.snapshot, snapshot
        process.credentials = Credentials(snapshot.users.values())
        if snapshot.tokens != old.tokens:
            process.token_credentials = token_credentials(snapshot.tokens.values())
        changed: dict[str, str] = {}
        for name, user in old.users.items():
            now = snapshot.users.get(name)
            if now is None:
                changed[name] = "user_removed"
            elif user.enabled and not now.enabled:
                changed[name] = "user_disabled"
            elif now.ha1 != user.ha1:
                changed[name] = "password_changed"
        revoked = snapshot.revoked
        if not changed and not revoked - old.revoked:
            return 0

        def reason_of(peer: Peer) -> str | None:
            if isinstance(peer, LocalPeer):
                return None
            return "revoked" if peer.serial in revoked else changed.get(peer.name)

        return process.registry.cut_where(reason_of)

    def state_fresh(self, at: float) -> None:
        """State was read successfully at this second of `rhttp.clock`."""
        self.process.state_at = at

    def publish(self, lists: PublishedLists) -> None:
        """Serve these revocation lists, unless newer ones are here, and answer OCSP requests by them."""
        process = self.process
        if lists.version > process.lists.version:
            process.lists = lists
            process.ocsp = None
            if lists.responders:
                from gateway.ingress.ocsp_service import OcspService  # here, as in `start`

                process.ocsp = OcspService(process)

    # ---- serving ----

    async def start(self, sockets: Sockets) -> None:
        """Serve on the listening sockets."""
        process = self.process
        fields: dict[str, object] = {"outcome": "started", "process": self._stream, "previous": process.audit.previous}
        process.audit.write("gateway.start", fields)
        self._tick()
        if self._mesh is not None and sockets.mesh is not None:
            await self._mesh.start(sockets.mesh)
            await self._mesh.complete()
        if sockets.tls:
            self._acceptors.append(Acceptor(process, tls_listener(process, sockets)))
        if sockets.dispatch:
            self._acceptors.append(Acceptor(process, dispatch_listener(process, sockets)))
        if sockets.metrics is not None:
            self._acceptors.append(Acceptor(process, metrics_listener(process, sockets.metrics, self._scrape)))
        # Few gateways have these listeners, and every start would load their code.
        if sockets.pki is not None:
            from gateway.ingress.pki_handler import pki_listener

            self._acceptors.append(Acceptor(process, pki_listener(process, sockets.pki)))
        if sockets.enroll is not None:
            from gateway.ingress.enrolment_handler import enrolment_listener

            self._acceptors.append(Acceptor(process, enrolment_listener(process, sockets)))
        for acceptor in self._acceptors:
            acceptor.start()
        if self._mesh is not None:
            for index in self._mesh.missing():
                self._peer(index, False)

    def _peer(self, index: int, is_up: bool) -> None:
        """Another process is there or gone: while it is gone, its listening sockets are served here."""
        for acceptor in self._acceptors:
            if is_up:
                acceptor.peer_up(index)
            else:
                acceptor.peer_down(index)

    def _tick(self) -> None:
        process = self.process
        self._ticker = process.loop.call_later(_TICK, self._tick)
        process.update_clocks()
        now = process.epoch
        process.wheel.turn(process.loop.time())
        if int(now) != self._second:
            self._second = int(now)
            process.date = one_field(b"Date", formatdate(now, usegmt=True).encode("ascii"))
            process.registry.cut_expired(now)
            process.tick_audit()

    async def lame_duck(self, at_least: float, timeout: float) -> None:  # noqa: ASYNC109 - what is late goes on
        """Health 503 at once; accept and serve for so long, and until what ran before is over."""
        await Draining(self.process, self._acceptors).lame_duck(at_least, timeout)

    async def drain(self, timeout: float) -> Drained:  # noqa: ASYNC109 - not a cancellation: what is left is cut
        """Take nothing more; returns when nothing runs any more, at the latest when the time is up."""
        process = self.process
        cut = await Draining(process, self._acceptors).close(timeout)
        if self._mesh is not None:
            self._mesh.close()
        if self._ticker is not None:
            self._ticker.cancel()
        problems: list[tuple[str, str]] = []
        try:
            process.audit.flush_refusals()
            process.audit.write("gateway.stop", {"outcome": "stopped", "process": self._stream})
        except AuditUnavailable:
            problems.append(("audit", f"{self._stream} ends without its gateway.stop: no line can be written"))
        try:
            await asyncio.get_running_loop().run_in_executor(None, process.audit.close)
        except (AuditUnavailable, OSError) as error:
            problems.append(("audit", f"the log of {self._stream} could not be closed: {type(error).__name__}"))
        return Drained(cut=cut, problems=tuple(problems))

    # ---- telling ----

    def status(self) -> dict[str, object]:
        """What is connected now, as JSON values."""
        process = self.process
        generation = serving_of(process.generation)
        return {
            "stream": self._stream,
            "pid": os.getpid(),
            "generation": generation.number,
            "draining": process.draining,
            "connections": {"total": process.counters.connections, **process.registry.by_role()},
            "listeners": {purpose: counts.as_dict() for purpose, counts in process.listeners.items()},
            "exchanges": process.exchanges,
            "pools": [pool.describe() for pool in generation.pools.values()],
            "masters": {name: master.status() for name, master in generation.masters.items()},
            "counters": process.counters.as_dict(),
            "state_version": process.snapshot.version,
            "audit_healthy": process.audit.healthy,
        }

    def _scrape(self, end: ServerEnd, then: Callable[[bytes], None]) -> None:
        """The metrics of all processes."""
        process = self.process
        if self._mesh is None:
            then(metrics_text({"": measure(process)}))
            return

        def answered(told: Mapping[int, Any]) -> None:
            by_process = {self._stream: measure(process)} | {f"p{index}": families for index, families in told.items()}
            then(metrics_text(dict(sorted(by_process.items()))))

        ask_all(process, end, "metrics", answered, lambda _: None)

    def audit_head(self) -> dict[str, object]:
        """The audit stream's name, number and hash of its last line that is known to be on disk, and how it fares."""
        audit = self.process.audit
        head = audit.durable()
        told: dict[str, object] = {
            "stream": self._stream,
            "opened": audit.opened,
            "healthy": audit.healthy,
            "lost": audit.lost,
            "touched": audit.touched,
        }
        if head is None:
            return told | {"seq": 0, "hash": "", "file": ""}
        return told | {"seq": head.seq, "hash": head.hash, "file": head.file}
