"""The worker: it works on units itself, a few at a time, and needs little."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from mapreduce import worker as module
from mapreduce.api import Api, Slots
from mapreduce.orders import Order
from mapreduce.store import Done
from mapreduce.worker import LocalEngine
from support.mapreduces import ask

ORDER = {"kind": "grep", "options": {"pattern": "b"}, "texts": [{"name": "a", "text": "x\nb\n", "line": 7}]}
WAIT = {"prefer": "wait=20"}


async def test_unit_is_worked_on_and_answered() -> None:
    """Line numbers go on from where the part begins."""
    done = await ask(Api(LocalEngine(1)), "POST", "/jobs", {**ORDER, "id": "j.0"}, headers=WAIT)
    assert done.body["result"] == {"total": 1, "lines": [{"name": "a", "line": 8, "text": "b"}]}
    assert (done.body["id"], done.body["units"]["done"], done.body["workers"]) == ("j.0", 1, {})


async def test_units_beyond_the_slots_wait_and_those_beyond_twice_of_them_are_sent_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The queue of a worker is short: another one may be free."""
    may = threading.Event()

    def held(order: Order) -> Done:
        may.wait(20)
        return Done(order.kind.work(order.texts, order.options), 1)

    monkeypatch.setattr(module, "_work", held)
    engine = LocalEngine(2)
    api = Api(engine)
    try:
        for _ in range(4):
            await ask(api, "POST", "/jobs", ORDER)
        await asyncio.sleep(0)
        assert await engine.slots() == Slots(2, 0)
        refused = await ask(api, "POST", "/jobs", ORDER, headers=WAIT)
        assert refused.body["problem"]["type"] == "urn:mapreduce:problem:busy"
    finally:
        may.set()
    while (await engine.slots()).free < 2:
        await asyncio.sleep(0.001)
    await api.close()


def test_worker_loads_no_package_but_the_standard_library() -> None:
    """A worker machine needs `rhttp` to serve it, and nothing else for the work."""
    code = (
        "import sys; import mapreduce.worker; "
        "print(sorted({name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names - {'__main__'}))"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={"PYTHONPATH": str(Path(module.__file__).parents[1])},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert (done.stdout.strip(), done.stderr) == ("['mapreduce']", "")


@pytest.mark.parametrize(("given", "slots"), [("", 4), ("3", 3), ("0", 4), ("-1", 4), ("x", 4), ("999999", 256)])
def test_slots_of_the_worker_come_from_the_environment(monkeypatch: pytest.MonkeyPatch, given: str, slots: int) -> None:
    """A number within bounds, or the default."""
    monkeypatch.setenv(module.SLOTS, given)
    assert module._slots() == slots
