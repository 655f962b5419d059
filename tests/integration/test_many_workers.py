"""Many idle workers: they are held in silence, a request finds a free one at once, a revoked one goes at once."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from support.rig import Rig, data_pid

import rhttp

SLOTS = 50


def bytes_read(pid: int) -> int:
    """What a process has read so far, from sockets too."""
    for line in Path(f"/proc/{pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


async def app(scope: Any, receive: Callable[[], Awaitable[Any]], send: Callable[[Any], Awaitable[None]]) -> None:
    """Answers with the path."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": scope["path"].encode()})


async def until(check: Callable[[], bool], patience: float = 60.0) -> None:
    async with asyncio.timeout(patience):
        while not check():
            await asyncio.sleep(0.05)


async def test_many_idle_workers_are_silent_and_a_request_finds_one_at_once(tmp_path: Path, long_run: bool) -> None:
    """1,000 slots at full size: no polling, an answer in milliseconds, a revoked worker's sockets closed at once."""
    names = [f"many{number}" for number in range(20 if long_run else 4)]
    orders = tuple(f"issue-worker {name} --pool render" for name in names)
    with Rig(tmp_path / "home", config="[pools.render]", peers=orders) as rig:
        host, port = rig.address
        async with contextlib.AsyncExitStack() as stack:
            workers = [
                await stack.enter_async_context(
                    rhttp.Worker(app, rig.bundle(name), gateway=f"https://{host}:{port}", slots=SLOTS)
                )
                for name in names
            ]
            total = SLOTS * len(names)
            pool = await asyncio.to_thread(rig.wait_pool, lambda pool: pool["slots"]["free"] == total)
            assert len(pool["workers"]) == len(names)

            # Nobody polls: the smallest TLS record with a question in it has more than 20 bytes.
            await asyncio.sleep(1.0)
            pid = data_pid(rig)
            before = bytes_read(pid)
            await asyncio.sleep(2.0)
            assert bytes_read(pid) - before < 20 * total

            def ask_all() -> list[float]:
                times = []
                with rig.dispatch() as master:
                    for number in range(200):
                        began = time.perf_counter()
                        answer = master.ask(f"/-/pools/render/any/{number}")
                        times.append(time.perf_counter() - began)
                        assert (answer.status, answer.content) == (200, f"/{number}".encode())
                return sorted(times)

            times = await asyncio.to_thread(ask_all)
            print(f"{total} idle slots; dispatch p50 {times[100] * 1e3:.2f} ms, p99 {times[197] * 1e3:.2f} ms")
            assert times[100] < 1.0

            gone = workers[0]
            began = time.monotonic()
            revoked = asyncio.create_task(asyncio.to_thread(rig.run, "revoke", names[0]))
            await until(lambda: gone.status().open == 0)
            closed = time.monotonic() - began
            assert f"cut {SLOTS} connection(s)" in await revoked
            print(f"revoked to closed: {closed:.2f} s, the command's start included")
            left = await asyncio.to_thread(rig.pool)
            assert left["slots"]["total"] == total - SLOTS
