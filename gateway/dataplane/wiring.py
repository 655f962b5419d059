"""What joins one data process to the others: its mesh, wired to its pools, its registry and its listeners.

Trust: pure but for the mesh that it makes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from gateway.cluster.directory import Learned, whole
from gateway.cluster.peers import Mesh
from gateway.control.descriptors import Inherited
from gateway.core.context import ProcessContext
from gateway.dataplane.metrics import measure
from gateway.ingress.serving import serving_of
from gateway.pools.hosted import HostedPool


def join(
    process: ProcessContext, inherited: Inherited, run: Path, secret: bytes, on_peer: Callable[[int, bool], None]
) -> Mesh | None:
    """Make this process's part of the mesh, to be started later; None when there is one process only.

    ``secret`` is what the processes of this gateway share and nobody else knows. ``on_peer`` hears of each other
    process when it is there (True) and when it is gone.
    """
    if inherited.processes == 1:
        return None

    def hosted(name: str) -> HostedPool | None:
        pool = serving_of(process.generation).pools.get(name)
        return pool if isinstance(pool, HostedPool) else None

    def all_news() -> bytes:
        pools = [pool.pool for pool in serving_of(process.generation).pools.values() if isinstance(pool, HostedPool)]
        return whole(pools, process.registry.counts())

    def tell(question: str) -> object:
        word, _, name = question.partition(" ")
        match word:
            case "pools":
                return [pool.describe() for pool in serving_of(process.generation).pools.values()]
            case "pool":
                found = serving_of(process.generation).pools.get(name)
                return [] if found is None else [found.describe()]
            case "metrics":
                return measure(process)
        return None

    def learned(told: Learned) -> None:
        for happened in told.happened:
            if (pool := hosted(happened.pool)) is not None:
                pool.happened(happened)
        # Who came and what is remembered first: what serves supersedes what is known to be older.
        for started in told.started:
            if (pool := hosted(started.pool)) is not None:
                pool.started(started)
        for ordered in told.ordered:
            if (pool := hosted(ordered.pool)) is not None:
                pool.ordered(ordered)
        for superseded in told.superseded:
            if (pool := hosted(superseded.pool)) is not None:
                pool.superseded(superseded)

    mesh = process.others = Mesh(
        process,
        index=inherited.index,
        processes=inherited.processes,
        run=run,
        secret=secret,
        hosted=hosted,
        whole=all_news,
        tell=tell,
        learned=learned,
        on_peer=on_peer,
    )
    process.registry.others = mesh.directory
    process.registry.watcher = mesh.news
    return mesh
