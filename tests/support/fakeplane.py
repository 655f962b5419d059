"""A data plane that serves nothing but shows what the supervisor did with it; run as a script it is a data process.

It is steered by words in the policy text: ``refuse`` (prepare finds a problem), ``crash-prepare``, ``crash-start``,
``hang-apply``, ``hang-drain``, ``many-lines``, each for all processes or, as ``p1:refuse``, for one. ``hold-prepare``
and ``hold-start`` make it wait while there is a file ``hold`` in the home, and say so by a file ``held``. Every
listening socket answers each connection with one line: its purpose, the process's pid, and whether it drains. With
``orders`` it reads a line first, an order, and the line that it says is what became of that.
"""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path
from types import SimpleNamespace

import orjson

from gateway.control.channel import Drained
from gateway.control.descriptors import Inherited, Sockets
from gateway.control.process_inputs import ProcessInputs
from gateway.dataplane.main import run
from gateway.state.lists import PublishedLists
from gateway.state.snapshot import StateSnapshot


def _is_told(inputs: ProcessInputs, word: str) -> bool:
    return not {word, f"{inputs.stream}:{word}"}.isdisjoint(inputs.policy_text.split())


async def _held(inputs: ProcessInputs, word: str) -> None:
    place = Path(inputs.home)
    while _is_told(inputs, word) and (place / "hold").exists():
        (place / "held").touch()
        await asyncio.sleep(0.01)


def own_of(sockets: tuple[socket.socket, ...], index: int) -> socket.socket:
    """This process's own of one socket for each, or the one that all share."""
    return sockets[index] if len(sockets) > 1 else sockets[0]


class FakeDataPlane:
    """In place of `gateway.dataplane.plane.DataPlane`."""

    def __init__(self, inherited: Inherited) -> None:
        self.inherited = inherited
        self.process = SimpleNamespace(issue=None)
        self.prepared: ProcessInputs | None = None
        self.live: ProcessInputs | None = None
        self.commits = 0
        self.rollbacks = 0
        self.states: list[int] = []
        self.newest: StateSnapshot | None = None
        self.started_with = 0
        self.fresh: list[float] = []
        self.lists = 0
        self.draining = False
        self.servers: list[asyncio.Server] = []
        self.mesh: socket.socket | None = None

    async def prepare(self, inputs: ProcessInputs) -> list[tuple[str, str]]:
        if _is_told(inputs, "crash-prepare"):
            raise RuntimeError("prepare was told to crash")
        if _is_told(inputs, "refuse"):
            return [("routes.0.path", "the policy text says refuse")]
        await _held(inputs, "hold-prepare")
        self.prepared = inputs
        return []

    def commit(self) -> None:
        assert self.prepared is not None
        self.live, self.prepared = self.prepared, None
        self.commits += 1
        self._take(self.live.snapshot)

    def rollback(self) -> None:
        self.prepared = None
        self.rollbacks += 1

    def _take(self, snapshot: StateSnapshot) -> bool:
        if self.newest is not None and snapshot.read < self.newest.read:
            return False
        self.newest = snapshot
        return True

    async def apply_state(self, snapshot: StateSnapshot) -> int:
        assert self.live is not None
        if _is_told(self.live, "hang-apply"):
            await asyncio.Event().wait()
        if not self._take(snapshot):
            return 0
        self.states.append(snapshot.version)
        return len(snapshot.revoked)

    def publish(self, lists: PublishedLists) -> None:
        self.lists = lists.version

    def state_fresh(self, at: float) -> None:
        self.fresh.append(at)

    async def start(self, sockets: Sockets) -> None:
        assert self.live is not None
        if _is_told(self.live, "crash-start"):
            raise RuntimeError("start was told to crash")
        await _held(self.live, "hold-start")
        assert self.newest is not None
        self.started_with = self.newest.version
        self.mesh = sockets.mesh
        if sockets.tls:
            await self._listen("tls", own_of(sockets.tls, sockets.index))
        if sockets.dispatch:
            await self._listen("dispatch", own_of(sockets.dispatch, sockets.index))
        if sockets.metrics is not None:
            await self._listen("metrics", sockets.metrics)
        if sockets.pki is not None:
            await self._listen("pki", sockets.pki)

    async def _listen(self, name: str, sock: socket.socket) -> None:
        self.servers.append(await asyncio.start_server(self._serve(name), sock=sock))

    def _serve(self, name: str):  # type: ignore[no-untyped-def]
        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            assert self.live is not None
            if _is_told(self.live, "orders"):
                said = await self.process.issue(orjson.loads(await reader.readline()))
                writer.write(orjson.dumps(said) + b"\n")
                writer.close()
                return
            writer.write(f"{name} {os.getpid()} {'draining' if self.draining else 'serving'}\n".encode())
            writer.close()

        return serve

    async def lame_duck(self, at_least: float, timeout: float) -> None:
        assert self.live is not None
        self.draining = True
        if _is_told(self.live, "hang-drain"):
            await asyncio.sleep(timeout)

    async def drain(self, _timeout: float) -> Drained:
        assert self.live is not None
        self.draining = True
        for server in self.servers:
            server.close()
        if _is_told(self.live, "cut-in-drain"):
            return Drained(cut={"requests": 2, "connections": 1}, problems=())
        if _is_told(self.live, "no-line"):
            return Drained(problems=(("audit", f"{self.live.stream} ends without its gateway.stop"),))
        return Drained()

    def status(self) -> dict[str, object]:
        inputs = self.live
        assert inputs is not None
        assert self.newest is not None
        return {
            "connections": {"open": 2, "workers": 1},
            "pools": [{"pool": "render", "mode": "hosted", "slots": {"total": 2, "free": 1}, "workers": []}],
            "draining": self.draining,
            "commits": self.commits,
            "rollbacks": self.rollbacks,
            "states": self.states,
            "fresh": len(self.fresh),
            "lists": self.lists,
            "policy": inputs.policy_text,
            "snapshot": self.newest.version,
            "started_with": self.started_with,
            "nonce_key": inputs.nonce_key.hex(),
            "arguments": sys.argv,
            "inherited": self.inherited.arguments(),
            "place": [self.inherited.index, self.inherited.processes],
            "mesh": None if self.mesh is None else self.mesh.getsockname(),
            "tally": self.inherited.tally is not None,
            "ledger": None if self.inherited.ledger is None else os.pread(self.inherited.ledger, 64, 0).decode(),
            "ignored": [str(signal.getsignal(number)) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)],
        }

    def audit_head(self) -> dict[str, object]:
        assert self.live is not None
        if _is_told(self.live, "many-lines"):
            return {
                "stream": self.live.stream,
                "seq": 5000,
                "hash": "ab" * 32,
                "file": f"{self.live.stream}-000001.jsonl",
            }
        return {"stream": self.live.stream, "seq": 1, "hash": "cd" * 32, "file": f"{self.live.stream}-000001.jsonl"}


if __name__ == "__main__":
    sys.exit(run(sys.argv[1:], FakeDataPlane))
