"""The gateway of the tests of admission; nothing that it refuses may reach its master."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.origins import Origin
from support.rig import JOBS, Rig

CONFIG = f"""{JOBS}
[[routes]]
name = "closed"
path = "/closed/*"
master = "jobs"
[[routes]]
name = "open"
path = "/open/*"
master = "jobs"
[pools.other]
[audit]
fold_after = 100000
"""
POLICY = """
@id("clients") permit (principal is Client, action == Action::"request", resource) when { context has digest };
@id("inspect") permit (principal is Client, action == Action::"inspect", resource) when { context has digest };
@id("open") permit (principal is Client, action == Action::"request", resource == Route::"open");
@id("closed") forbid (principal, action, resource == Route::"closed");
@id("workers") permit (principal is Worker, action == Action::"reverse", resource)
when { context has digest && principal.pool == resource };
@id("masters") permit (principal is Master, action in [Action::"dispatch", Action::"inspect"], resource)
when { context has digest };
@id("local") permit (principal == Master::"local", action in [Action::"dispatch", Action::"inspect"], resource)
when { context.listener == "dispatch" };
"""
PEERS = (
    "issue-client alice",
    "issue-client bob",
    "issue-client carol",
    "issue-client mallory",
    "issue-worker w1 --pool render",
    "issue-worker w2 --pool other",
    "issue-master m1",
)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    place = tmp_path_factory.mktemp("admission")
    with Rig(place, CONFIG.format(port=origin.port), policy=POLICY, peers=PEERS) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _nothing_reaches_the_origin(request: pytest.FixtureRequest, origin: Origin) -> Iterator[None]:
    """No byte of a refused request reaches the master."""
    origin.clear()
    yield
    if "reaches" not in request.fixturenames:
        assert origin.raw == b""


@pytest.fixture
def reaches() -> None:
    """For tests whose requests shall reach the master."""
