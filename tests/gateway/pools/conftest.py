"""What the tests of relay pools stand on: a master of the test, and a gateway whose pool relays to it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from support.relays import Master, Rig


@pytest.fixture
async def master() -> AsyncIterator[Master]:
    made = Master()
    server = await asyncio.start_server(made.accept, "127.0.0.1", 0)
    made.port = server.sockets[0].getsockname()[1]
    yield made
    server.close()
    for writer in made.writers:
        writer.transport.abort()
    await asyncio.sleep(0)


@pytest.fixture
async def rig(master: Master) -> AsyncIterator[Rig]:
    made = Rig(master.port)
    yield made
    for live in tuple(made.bench.process.registry):
        live.disconnect("end of test")
    made.bench.close()
