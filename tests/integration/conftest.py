"""After every test: no gateway that runs has written a traceback. And the gateway that the tests of requests share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from support.origins import Origin
from support.rig import LIVE, Rig
from support.routing import CONFIG, OPEN
from support.wire import Wire


@pytest.fixture(autouse=True)
def _no_tracebacks() -> Iterator[None]:
    """Whatever came in, it was answered by rule."""
    yield
    for rig in tuple(LIVE):
        rig.check_stderr()


# Modules with a configuration of their own have fixtures of these names.


@pytest.fixture(scope="session")
def origin() -> Iterator[Origin]:
    """The master behind every route."""
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="session")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    """Policy asks for no Digest here, so that a request is exactly the bytes that a test is about."""
    config = CONFIG.format(port=origin.port)
    with Rig(tmp_path_factory.mktemp("routes"), config, policy=OPEN, peers=("issue-client alice",)) as rig:
        yield rig


@pytest.fixture(scope="session")
def hasty(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    """The same with little patience."""
    limits = "[limits]\nhead_timeout = 1.0\nkeep_alive_timeout = 2.0\ncontent_timeout = 2.0\nanswer_timeout = 2.0\n"
    config = CONFIG.format(port=origin.port) + limits + "master_connect_timeout = 1.0\n"
    with Rig(tmp_path_factory.mktemp("hasty"), config, policy=OPEN, peers=("issue-client alice",)) as rig:
        yield rig


@pytest.fixture
def fresh(origin: Origin) -> None:
    """The master has seen nothing yet."""
    origin.clear()


@pytest.fixture
def wire(rig: Rig) -> Iterator[Wire]:
    """A client."""
    with rig.connect("alice") as wire:
        yield wire
