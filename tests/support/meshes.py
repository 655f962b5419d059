"""Several data processes' worth of shared parts in one event loop, joined by a real mesh over unix sockets."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from support.bench import POOL, Bench, Worker, make_inputs

from gateway.cluster.peers import Mesh
from gateway.control.descriptors import Inherited, mesh_path
from gateway.core.context import ProcessContext
from gateway.dataplane.generation import build_generation, make_digest_state, read_config
from gateway.dataplane.wiring import join

QUEUED_POOL = '[pools.render]\nmode = "hosted"\nqueue = 8\n'


class MeshBench(Bench):
    """One process of several."""

    def __init__(self, folder: Path, index: int, processes: int, sock: socket.socket, config: str, limits: str) -> None:
        super().__init__(config, limits=limits)
        self.folder = folder
        self.index = index
        self.peers: dict[int, bool] = {}
        self.mesh_socket = sock
        process = ProcessContext(asyncio.get_running_loop(), self.audit)  # type: ignore[arg-type]
        inherited = Inherited(control=-1, index=index, processes=processes)
        mesh = join(process, inherited, folder, b"n" * 32, self.peers.__setitem__)
        assert mesh is not None
        self.mesh: Mesh = mesh
        process.update_clocks()
        process.state_at = process.elapsed
        process.date = self.process.date
        inputs = make_inputs(config, limits=limits)
        parsed = read_config(inputs)
        self.process = process
        process.generation = build_generation(
            process, parsed, inputs, make_digest_state(parsed, inputs), None, join=mesh.pool
        )

    def sums(self) -> tuple[int, int]:
        """Slots in all processes, free ones, as this one sees them."""
        return self.pool.sums()

    async def sees(self, total: int, free: int) -> None:
        """Wait until this process sees so many slots."""
        await until(lambda: self.sums() == (total, free))

    def die(self) -> None:
        """As a process that is killed: every connection of its mesh is gone, and its workers'."""
        self.mesh.close()
        for live in tuple(self.process.registry):
            live.disconnect("killed")


async def until(condition: Callable[[], Any]) -> None:
    """Wait until it holds; the other processes' turns are on this very loop."""
    async with asyncio.timeout(20):
        while not condition():
            await asyncio.sleep(0.001)


class Meshed:
    """N processes that know of each other."""

    def __init__(self, benches: list[MeshBench]) -> None:
        self.benches = benches

    def __getitem__(self, index: int) -> MeshBench:
        return self.benches[index]

    @classmethod
    async def start(cls, folder: Path, count: int = 2, *, config: str = POOL, limits: str = "") -> Self:
        """Make them and wait until each has heard of all others."""
        made = []
        for index in range(count):
            sock = listening(str(mesh_path(folder, index)))
            made.append(MeshBench(folder, index, count, sock, config, limits))
        for bench in made:
            await bench.mesh.start(bench.mesh_socket)
        meshed = cls(made)
        for bench in made:
            await until(lambda bench=bench: len(bench.mesh.directory.peers) == count - 1)  # type: ignore[misc]
        return meshed

    def close(self) -> None:
        for bench in self.benches:
            bench.mesh.close()
            bench.close()


def listening(path: str) -> socket.socket:
    """A unix socket that listens."""
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(path)
    sock.listen()
    sock.setblocking(False)
    return sock


async def with_a_worker_there(two: Meshed) -> tuple[MeshBench, MeshBench, Worker]:
    """Both processes, and the one worker that there is, in the second; the first has heard of it."""
    here, there = two.benches
    worker = there.worker("w1")
    await here.sees(1, 1)
    return here, there, worker


async def request(worker: Worker) -> bytes:
    """The request that reaches the worker."""
    await worker.link.until(lambda: bool(worker.link.sent))
    return worker.taken()
