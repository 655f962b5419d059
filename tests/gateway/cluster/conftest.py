"""Two processes that are joined by a mesh, each with the same pool."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from support.meshes import QUEUED_POOL, Meshed, until


@pytest.fixture
async def two() -> AsyncIterator[Meshed]:
    with tempfile.TemporaryDirectory(prefix="mesh") as folder:
        meshed = await Meshed.start(Path(folder), config=QUEUED_POOL)
        yield meshed
        for bench in meshed.benches:
            await until(lambda bench=bench: not bench.process.exchanges)  # type: ignore[misc]
            assert bench.pool.pool.total == bench.pool.pool.free
            assert not bench.pool.pool.queued
        meshed.close()
        for _ in range(10):  # closed connections tell their owners
            await asyncio.sleep(0)
