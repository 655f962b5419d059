"""Master and workers with a real gateway between them, and workers that fail in every way it has a word for."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from mapreduce import split as split_module
from mapreduce.api import Api, Message, Receive, Scope, Send
from mapreduce.door import Door
from mapreduce.master import MasterEngine, SlotFollower
from mapreduce.orders import Order
from mapreduce.store import Done, Job
from mapreduce.worker import LocalEngine
from support.mapreduces import ask
from support.runhomes import append, copy_home
from support.serving import Served

import rhttp

ORDER: dict[str, Any] = {"kind": "wordcount", "texts": [{"name": "a", "text": "the word\n" * 40_000}]}
WAIT = {"prefer": "wait=60"}
POOL = "[pools.text]"
PATIENCE = 60.0

Application = Callable[[Scope, Receive, Send], Awaitable[None]]


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "MIN_UNIT", 1)


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = copy_home(tmp_path / "home")
    append(place, POOL)
    return place


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    with Served(home) as gateway:
        yield gateway


async def command(home: Path, *arguments: str) -> str:
    """A command that succeeds."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "gateway.cli.main", *arguments, "--home", str(home)),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    said = (await asyncio.wait_for(process.communicate(), PATIENCE))[0].decode()
    assert process.returncode == 0, said
    return said


@asynccontextmanager
async def worker(
    served: Served, home: Path, name: str, application: Application, slots: int = 1
) -> AsyncIterator[rhttp.Worker]:
    """A worker that is connected with all its slots."""
    await command(home, "issue-worker", name, "--pool", "text")
    made = rhttp.Worker(
        application, home / "bundles" / name, gateway=served.listeners["tls"], slots=slots, drain_timeout=1.0
    )
    async with made:
        await asyncio.wait_for(made.connected(), PATIENCE)
        yield made


@asynccontextmanager
async def door(home: Path) -> AsyncIterator[Door]:
    async with Door(f"unix:{home}/run/dispatch.sock", "text") as made:
        yield made


def good() -> Api:
    return Api(LocalEngine(8))


async def submit(master: Application, order: dict[str, Any] | None = None) -> dict[str, Any]:
    answer = await asyncio.wait_for(ask(master, "POST", "/jobs", order or ORDER, headers=WAIT), PATIENCE)
    assert answer.status == 200
    return answer.body


def first_answer(fails: Callable[[Scope, Receive, Send], Awaitable[None]]) -> tuple[Application, list[str]]:
    """A worker that fails its first unit and is a good one afterwards; the list tells how often it was asked."""
    api, asked = good(), list[str]()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await api(scope, receive, send)
        asked.append(scope["path"])
        return await (fails if len(asked) == 1 else api)(scope, receive, send)

    return application, asked


async def answers(send: Send, status: int, body: bytes) -> None:
    await send({"type": "http.response.start", "status": status, "headers": [(b"content-type", b"application/json")]})
    await send({"type": "http.response.body", "body": body})


async def nonsense(scope: Scope, receive: Receive, send: Send) -> None:
    """Answers something else."""
    await answers(send, 200, b'{"id": "other", "status": "done", "result": {"words": {"x": 7}}}')


async def breaks(scope: Scope, receive: Receive, send: Send) -> None:
    """Is lost in the middle of its answer."""
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"1000")]})
    await send({"type": "http.response.body", "body": b"{", "more_body": True})
    raise ConnectionError("the worker breaks")


async def crashes(scope: Scope, receive: Receive, send: Send) -> None:
    """Has a fault."""
    raise RuntimeError("the worker crashes")


async def does_it_for_nothing(scope: Scope, receive: Receive, send: Send) -> None:
    """Does the unit, and its answer is lost on the way."""

    async def silent(message: Message) -> None:
        if message["type"] == "http.response.body":
            raise ConnectionError("lost on the way")

    await good()(scope, receive, silent)


@pytest.mark.parametrize("fails", [nonsense, breaks, crashes, does_it_for_nothing])
async def test_job_is_right_though_a_worker_failed_a_unit(
    served: Served, home: Path, fails: Callable[[Scope, Receive, Send], Awaitable[None]]
) -> None:
    """Each unit counts once, and the pool does all of them."""
    application, asked = first_answer(fails)
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(served, home, "w1", application))
        await stack.enter_async_context(worker(served, home, "w2", good()))
        master = Api(MasterEngine(await stack.enter_async_context(door(home)), units_per_slot=4))
        job = await submit(master)
        assert asked
        assert (job["status"], job["result"]["words"]) == ("done", {"the": 40_000, "word": 40_000})
        assert (job["units"]["done"], job["units"]["total"]) == (8, 8)
        assert job["units"]["retries"] >= 1
        assert sum(job["workers"].values()) == 8


async def test_job_goes_on_when_a_worker_is_revoked_in_the_middle_of_its_unit(served: Served, home: Path) -> None:
    """The cut loses the unit; another worker does it, and the result is whole."""
    has_unit = asyncio.Event()

    async def holds(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            has_unit.set()
            await asyncio.Event().wait()

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(served, home, "w1", holds))
        await stack.enter_async_context(worker(served, home, "w2", good()))
        master = Api(MasterEngine(await stack.enter_async_context(door(home))))
        running = asyncio.create_task(submit(master))
        await asyncio.wait_for(has_unit.wait(), PATIENCE)
        assert "cut 1 connection" in await command(home, "revoke", "w1")
        job = await running
    assert (job["result"]["total"], job["units"]["retries"], job["workers"]) == (80_000, 1, {"w2": 2})


async def test_unit_that_takes_long_is_asked_for_again_at_its_worker(served: Served, home: Path) -> None:
    """The worker answers 202 when the wait is over, and the master comes back for the result."""
    asked_again = asyncio.Event()

    class Slow(LocalEngine):
        async def run(self, order: Order, job: Job) -> Done:
            await asked_again.wait()
            return await super().run(order, job)

    api = Api(Slow(8))

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope.get("method") == "GET":
            asked_again.set()
        await api(scope, receive, send)

    async with AsyncExitStack() as stack:
        await stack.enter_async_context(worker(served, home, "w1", application))
        await stack.enter_async_context(worker(served, home, "w2", application))
        opened = await stack.enter_async_context(Door(f"unix:{home}/run/dispatch.sock", "text", wait=1))
        job = await submit(Api(MasterEngine(opened)))
    assert (job["result"]["total"], job["units"]) == (80_000, {"total": 2, "done": 2, "retries": 0})


async def test_refusal_of_a_worker_is_the_end_of_the_job(served: Served, home: Path) -> None:
    """A 4xx fails the job, with the worker's own problem."""

    async def refuses(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            await answers(send, 422, b'{"type": "urn:example:no", "title": "No", "status": 422}')

    async with worker(served, home, "w1", refuses), door(home) as opened:
        job = await submit(Api(MasterEngine(opened)))
    assert (job["status"], job["problem"]["type"]) == ("failed", "urn:example:no")


async def test_job_waits_for_the_first_worker(served: Served, home: Path) -> None:
    """Submitted to an empty pool, it is done when a worker comes."""
    async with door(home) as opened:
        running = asyncio.create_task(submit(Api(MasterEngine(opened))))
        while not await waiting(home):
            assert not running.done()
        async with worker(served, home, "w1", good()):
            assert (await running)["result"]["total"] == 80_000


async def waiting(home: Path) -> bool:
    """Is there a request that waits for a slot?"""
    return '"waiting": 1' in await command(home, "status", "--json")


async def test_pool_that_is_not_there_fails_the_job(served: Served, home: Path) -> None:
    """A wrong name is a 404 of the gateway, and no reason to wait."""
    async with Door(f"unix:{home}/run/dispatch.sock", "other") as opened:
        job = await submit(Api(MasterEngine(opened)))
    assert job["problem"]["type"] == "urn:rhttp:problem:not-found"


async def test_slots_of_a_joined_master_follow_its_workers(tmp_path: Path, home: Path, served: Served) -> None:
    """Above, the master below has as many slots as are free below, and they come and go with its workers."""
    below = copy_home(tmp_path / "below")
    append(below, POOL)
    async with AsyncExitStack() as stack:
        lower = stack.enter_context(Served(below))
        upper_door = await stack.enter_async_context(door(home))
        lower_door = await stack.enter_async_context(door(below))
        follower = SlotFollower(lower_door)
        following = asyncio.create_task(follower.run())
        stack.callback(following.cancel)
        api = Api(MasterEngine(lower_door))
        await command(home, "issue-worker", "lower", "--pool", "text")
        joined = rhttp.Worker(
            api,
            home / "bundles" / "lower",
            gateway=served.listeners["tls"],
            slots=rhttp.FreeSlots(lambda: follower.slots.free),
            drain_timeout=1.0,
        )
        await stack.enter_async_context(joined)
        await stack.enter_async_context(worker(served, home, "direct", good(), slots=2))
        async with worker(lower, below, "w1", good(), slots=3):
            await until_free(upper_door, 5)
            async with worker(lower, below, "w2", good(), slots=1):
                await until_free(upper_door, 6)
                job = await submit(Api(MasterEngine(upper_door)))
                assert job["result"]["words"] == {"the": 40_000, "word": 40_000}
                assert {"lower/w1", "direct"} <= job["workers"].keys()
            await until_free(upper_door, 5)
        await until_free(upper_door, 2)


async def until_free(opened: Door, free: int) -> None:
    """Follow the events of the pool until so many slots are free."""
    async with asyncio.timeout(PATIENCE):
        async for slots in opened.events():
            if slots.free == slots.total == free:
                return
