"""The gateway of the tests of hosted pools, and a master on its host."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.rig import Rig
from support.wire import Wire

CONFIG = """
[pools.render]
[pools.tiny]
queue = 2
[audit]
fold_after = 100000
[limits]
answer_timeout = 3.0
connections_per_worker = 5
"""
PEERS = (
    "issue-client alice",
    "issue-master m1",
    "issue-worker w1 --pool render --label gpu=a100 --label zone=b",
    "issue-worker w2 --pool render --label gpu=none",
    "issue-worker w3 --pool render",
    "issue-worker t1 --pool tiny",
)


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    with Rig(tmp_path_factory.mktemp("pools"), CONFIG, peers=PEERS) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _empty(rig: Rig) -> Iterator[None]:
    """Every test leaves empty pools and nobody waiting."""
    yield
    for name in ("render", "tiny"):
        rig.wait_pool(lambda pool: not pool["workers"] and not pool["waiting"], name)


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    """A master on this host."""
    with rig.dispatch() as wire:
        yield wire
