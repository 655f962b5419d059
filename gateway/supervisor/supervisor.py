"""The supervisor: one process that owns the sockets, the admin socket, the state and the data processes of a gateway.

It serves nobody itself and holds what a data process must not: the state's key, the key that signs checkpoints, the
passphrase. Changes (reload, restarts of a process, the beginning of a drain) pass one at a time under one lock; state
waits for none of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import signal
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final

from gateway.admin.server import AdminServer, Answer
from gateway.admin.status import cut_in_words, merge, merge_pools, process_entry, stamp
from gateway.audit.supervisor_log import SupervisorLog
from gateway.config.values import LoadFailed
from gateway.control.channel import ApplyState, Ask, Question, StateFresh
from gateway.control.process_inputs import ProcessInputs
from gateway.home.locks import remove_note, write_note
from gateway.state.snapshot import StateSnapshot
from gateway.state.watch import StateUnreadable, StateWatch
from gateway.supervisor.child import Problem
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.fleet_drain import drain_fleet
from gateway.supervisor.issuer import IssuerKeeper
from gateway.supervisor.launcher import COMMAND, Child
from gateway.supervisor.list_publisher import ListPublisher, SignLists
from gateway.supervisor.load import Loaded, fixed_changes
from gateway.supervisor.server_renewal import ServerRenewal
from gateway.supervisor.signer import Signer
from gateway.supervisor.sockets import Listener, Purpose
from rhttp import build
from rhttp.clock import elapsed

STATUS_TIMEOUT: Final = 1.0
"""Seconds that each process has to tell its status; all are asked at once, and who does not is shown as silent."""
TELL_TIMEOUT: Final = 2.0
"""Seconds at the end for whoever said that he would ask how the drain went."""
HEAD_PATIENCE: Final = 0.5
"""Seconds that the lines of all processes wait for one that is slow to tell its audit head."""
HEAD_TIMEOUT: Final = 30.0
"""A process that cannot tell its audit head for so long is wedged: it cuts nobody either, so it is killed."""


class Supervisor:
    """One gateway from its bound sockets to its end."""

    def __init__(
        self,
        loaded: Loaded,
        load_again: Callable[[], Loaded],
        listeners: Mapping[Purpose, Listener],
        admin: Listener,
        supervisor_log: SupervisorLog,
        *,
        sign_lists: SignLists | None = None,
        renew_server: Callable[[], object] | None = None,
        say: Callable[[str], None],
        log: Callable[[str], None],
        version: str,
        command: Sequence[str] = COMMAND,
        ahead: list[Child] | None = None,
        ledger: int | None = None,
        with_issuer: bool = False,
        passphrase: bytes | None = None,
    ) -> None:
        """``load_again`` blocks and raises `LoadFailed`; ``say`` gets a line at readiness, ``log`` everything else.

        ``command`` starts a data process, those ``ahead`` were started by it already and are taken first. Each is
        handed the descriptors, that of the ``ledger`` which several processes share among them. ``sign_lists`` signs
        revocation lists, when the configuration wants any; ``renew_server`` issues the next server certificate.
        ``passphrase`` is for the issuer alone, and not held unless the gateway is to have one (``with_issuer``).
        """
        self._loaded = loaded
        self._load_again = load_again
        self._listeners = listeners
        self._admin_listener = admin
        self._signer = Signer(supervisor_log, log)
        self._say = say
        self._log = log
        self._version = version
        self._started = time.time()
        self._generation = 1
        self._generation_at = self._started
        self._nonce_key = secrets.token_bytes(32)
        self._lock = asyncio.Lock()
        self._draining = False
        self._signalled = False
        self._drain_asked = asyncio.Event()
        self._drain_over = asyncio.Event()
        self._drained: dict[str, object] = {}
        self._told: asyncio.Event | None = None
        """Somebody waits to be told how the drain went; set when it was told."""
        self._places: dict[str, object] = {}
        self._now_asked = asyncio.Event()
        self._failed = False
        self._background: set[asyncio.Task[None]] = set()
        self._watch = StateWatch(
            loaded.state,
            loaded.snapshot,
            push=self._push,
            fresh=lambda at: self._fleet.send(StateFresh(at=at)),
            log=log,
        )
        home, url, refresh = str(loaded.home.path), loaded.config.state.url, self._watch.refresh_shared
        self._issuer = IssuerKeeper(home, url, passphrase, log, wanted=with_issuer, refresh=refresh)
        self._fleet = Fleet(
            listeners,
            loaded.config.processes,
            command=command,
            ahead=ahead,
            ledger=ledger,
            inputs=lambda stream: self._inputs(self._loaded, stream),
            state=lambda: (self._watch.snapshot, self._watch.fresh_at),
            lists=lambda: self._lists.published,
            lock=self._lock,
            log=log,
            on_due=self._signer.due.set,
            on_order=self._issuer.take,
        )
        record, send = self._signer.record, self._fleet.send
        self._lists = ListPublisher(sign_lists, lambda: self._loaded.config.pki, send=send, record=record, log=log)
        self._server = ServerRenewal(renew_server, lambda: self._loaded.shared.server_cert, self._reload_and_tell, log)
        self._admin = AdminServer(
            {
                "/status": {"GET": self._get_status},
                "/reload": {"POST": self._post_reload},
                "/drain": {"GET": self._get_drain, "POST": self._post_drain},
                "/revoke": {"POST": self._post_revoke},
                "/refresh": {"POST": self._post_refresh},
            },
            log=log,
            most=lambda: self._loaded.config.limits.admin_connections,
        )

    def _inputs(self, loaded: Loaded, stream: str) -> ProcessInputs:
        return loaded.inputs(stream, snapshot=self._watch.snapshot, nonce_key=self._nonce_key)

    async def run(self) -> int:
        """Serve until drained or told to end; returns the exit status. Sockets stay open: the caller closes them."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end_signal)
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self._reload_and_tell()))
        note = self._loaded.home.run / "gateway.json"
        try:
            if not await self._start():
                return 1
            self._places = self._addresses()
            write_note(note, {"pid": os.getpid(), "version": self._version, "listeners": self._places})
            for purpose, listener in self._public():
                self._say(f"{'TLS' if purpose == 'tls' else purpose} listener on {listener.url}")
            self._say(f"ready ({build.describe()})")
            return await self._until_ended()
        finally:
            for task in self._background:
                task.cancel()
            await self._fleet.stop()
            await self._issuer.stop()
            await self._signer.finish(self._fleet.streams)
            await self._admin.close(grace=1.0)
            remove_note(note)

    async def _start(self) -> bool:
        if not await self._signer.settle():
            return False
        self._spawn(self._watch.run(), vital=True)  # before they serve: what is revoked meanwhile is told them first
        self._spawn(self._lists.run())
        self._spawn(self._server.run())
        start = asyncio.create_task(self._start_processes())
        asked = asyncio.create_task(self._drain_asked.wait())
        await asyncio.wait({start, asked}, return_when=asyncio.FIRST_COMPLETED)
        asked.cancel()
        if not start.done():
            start.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await start
            self._log("ended before it was ready")
            return False
        problems = start.result()
        for path, message in problems:
            self._log(f"{path}: {message}" if path else message)
        if problems:
            return False
        await self._lists.begun()
        await self._admin.start(self._admin_listener.sock)
        self._spawn(self._signer.run(self._heads), vital=True)
        return True

    async def _start_processes(self) -> tuple[Problem, ...]:
        """The issuer first: who cannot enrol anybody, and is to, serves nobody."""
        return await self._issuer.start() or await self._fleet.start()

    def _spawn(self, work: Awaitable[object], *, vital: bool = False) -> None:
        async def guarded() -> None:
            try:
                await work
            except Exception as error:
                self._log(f"failed inside: {type(error).__name__}: {error}")
                if vital:  # without its state watch or its checkpoints a gateway must not go on
                    self._failed = True
                    self._drain_asked.set()

        task = asyncio.create_task(guarded())
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def _public(self) -> list[tuple[Purpose, Listener]]:
        """What somebody else may connect to."""
        return [(purpose, listener) for purpose, listener in self._listeners.items() if purpose != "mesh"]

    def _addresses(self) -> dict[str, object]:
        listeners: dict[str, object] = {purpose: one.facts() for purpose, one in self._public()}
        return listeners | {"admin": self._admin_listener.facts()}

    # -- the end -----------------------------------------------------------------------------------------------------

    def _end_signal(self) -> None:
        if self._signalled:
            self._now_asked.set()
        self._signalled = True
        self._drain_asked.set()

    async def _until_ended(self) -> int:
        await self._drain_asked.wait()
        timeout = self._loaded.config.limits.drain_timeout
        self._log(f"draining for at most {timeout:g} s")
        drained = asyncio.create_task(self._drain(timeout))
        now = asyncio.create_task(self._now_asked.wait())
        await asyncio.wait({drained, now}, return_when=asyncio.FIRST_COMPLETED)
        now.cancel()
        if not drained.done():
            self._fleet.kill()
            drained.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await drained
            self._log("ended before it was drained")
            self._drained = {"cut": {}, "problems": ["it was told to end before that"]}
            self._drain_over.set()
            return 1
        await drained
        if self._told is not None:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(TELL_TIMEOUT):
                    await self._told.wait()
        return 1 if self._failed else 0

    async def _drain(self, seconds: float) -> None:
        async with self._lock:  # behind a reload that is under way; from here on reloads are refused
            self._draining = True
            self._fleet.release()
        # Not under the lock: a revocation during the drain still cuts at once.
        drained = await drain_fleet(
            self._fleet,
            [listener for _, listener in self._public()],
            lambda: self._signer.record("admin.drain"),
            seconds=seconds,
            lame_duck=self._loaded.config.limits.lame_duck,
        )
        self._signer.ended(drained.heads)
        self._failed = self._failed or bool(drained.problems)
        for _, text in drained.problems:
            self._log(f"drain: {text}")
        for text in cut_in_words(drained.cut):
            self._log(f"drain: {text}")
        self._drained = {"cut": drained.cut, "problems": [text for _, text in drained.problems]}
        self._drain_over.set()

    # -- state -------------------------------------------------------------------------------------------------------

    async def _push(self, snapshot: StateSnapshot) -> int:
        self._lists.changed()
        text = snapshot.to_bytes().decode()
        answers = await self._fleet.command(lambda number: ApplyState(id=number, snapshot=text))
        return sum(done.cut for done in answers.values())

    async def _heads(self) -> list[Mapping[str, object]]:
        answers = await self._fleet.collect(
            lambda number: Ask(id=number, question=Question.AUDIT_HEAD), patience=HEAD_PATIENCE, within=HEAD_TIMEOUT
        )
        return [done.value for done in answers.values()]

    # -- reload ------------------------------------------------------------------------------------------------------

    async def _reload(self) -> tuple[Problem, ...]:
        """Take up configuration, policy and certificates in every process, or in none and say why."""
        async with self._lock:
            if self._draining:
                return (("", "the gateway is draining; it takes up nothing any more"),)
            try:
                loaded = await asyncio.to_thread(self._load_again)
                if problems := fixed_changes(self._loaded.config, loaded.config):
                    return problems
                await self._watch.refresh()
            except LoadFailed as error:
                return tuple((problem.path, problem.message) for problem in error.problems)
            except StateUnreadable as error:
                return (("state", str(error)),)
            problems = await self._fleet.reconfigure(lambda stream: self._inputs(loaded, stream))
            if problems:
                return problems
            self._loaded = loaded
            self._signer.configure(loaded.config.audit)
            self._lists.changed()
            self._generation += 1
            self._generation_at = time.time()
        return ()

    async def _reload_and_tell(self) -> tuple[Problem, ...]:
        problems = await self._reload()
        if problems:
            for path, message in problems:
                self._log(f"reload refused: {path}: {message}" if path else f"reload refused: {message}")
        else:
            self._log(f"reloaded; generation {self._generation}")
        if problems:
            await self._signer.record("admin.reload", "refused", count=len(problems))
        else:
            await self._signer.record("admin.reload")
        return problems

    # -- the admin socket's answers ----------------------------------------------------------------------------------

    async def _post_reload(self, _body: Mapping[str, object]) -> Answer:
        problems = await self._reload_and_tell()
        if not problems:
            notices = self._loaded.notices(self._watch.snapshot)
            return Answer(body={"reloaded": True, "generation": self._generation, "notices": notices})
        told = [{"path": path, "message": message} for path, message in problems]
        return Answer(
            status=409, body={"error": "the reload is refused; the old configuration stays", "problems": told}
        )

    async def _post_drain(self, body: Mapping[str, object]) -> Answer:
        if body.get("wait") is True:
            self._told = self._told or asyncio.Event()
        self._drain_asked.set()
        return Answer(status=202, body={"draining": True, "timeout": self._loaded.config.limits.drain_timeout})

    async def _get_drain(self, _body: Mapping[str, object]) -> Answer:
        """Answered when the drain is over: what it cut, and what went wrong."""
        if not self._drain_asked.is_set():
            return Answer(status=409, body={"error": "the gateway does not drain"})
        await self._drain_over.wait()
        if self._told is not None:
            self._told.set()
        return Answer(body=self._drained)

    async def _post_refresh(self, _body: Mapping[str, object]) -> Answer:
        try:
            pushed = await self._watch.refresh()
        except StateUnreadable as error:
            return Answer(status=503, body={"error": str(error)})
        return Answer(body={"version": pushed.version, "cut": pushed.cut, "processes": len(self._fleet.members)})

    async def _post_revoke(self, body: Mapping[str, object]) -> Answer:
        answer = await self._post_refresh(body)
        done = answer.status == 200
        await self._signer.record("admin.revoke", "done" if done else "failed", connections=answer.body.get("cut", 0))
        return answer

    async def _get_status(self, _body: Mapping[str, object]) -> Answer:
        pids = {one.stream: one.pid for one in self._fleet.members}
        starting = {one.stream for one in self._fleet.members if not one.serves}
        answers = await self._fleet.ask(Question.STATUS, within=STATUS_TIMEOUT)
        statuses = {stream: done.value for stream, done in answers.items() if stream not in starting}
        state = {
            "version": self._watch.snapshot.version,
            # Not while a look at it is under way that takes too long, either: by then requests are refused.
            "readable": self._watch.readable
            and elapsed() - self._watch.fresh_at <= self._loaded.config.limits.state_stale,
            "fresh_at": stamp(time.time() - (elapsed() - self._watch.fresh_at)),
        }
        return Answer(
            body={
                "version": self._version,
                "pid": os.getpid(),
                "home": str(self._loaded.home.path),
                "started": stamp(self._started),
                "draining": self._draining,
                "listeners": self._places,
                "config": {"generation": self._generation, "since": stamp(self._generation_at)},
                "state": state,
                "notices": self._loaded.notices(self._watch.snapshot),
                "audit": self._signer.status(),
                "processes": [
                    process_entry(s, pids.get(s), self._fleet.restarts[s], statuses.get(s), is_starting=s in starting)
                    for s in self._fleet.streams
                ],
                "issuer": self._issuer.status(),
                "connections": merge(status.get("connections", {}) for status in statuses.values()) or {},
                "pools": merge_pools(status.get("pools") for status in statuses.values()),
            }
        )
