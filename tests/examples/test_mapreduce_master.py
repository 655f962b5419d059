"""The master over a pool that loses, lies and refuses: every unit counts exactly once."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mapreduce import split as split_module
from mapreduce.api import Api, Slots
from mapreduce.door import Door, Failure, Pool, Reply
from mapreduce.master import MasterEngine, SlotFollower
from mapreduce.problems import GATEWAY, OURS, Problem, read_problem
from mapreduce.split import Lane, Rest, Unit, WorkerSlots
from mapreduce.texts import Text
from mapreduce.worker import LocalEngine
from support.mapreduces import ask

ORDER: dict[str, Any] = {"kind": "wordcount", "texts": [{"name": "a", "text": "the word\n" * 400}]}
WAIT = {"prefer": "wait=60"}


def failure(slug: str, status: int = 502) -> Failure:
    return Failure(problem=Problem(type=GATEWAY + slug, title="t", status=status))


class FakeDoor(Door):
    """A pool of real worker applications; `before` and `after` may take a dispatch away."""

    def __init__(self, *workers: Api, slots: Slots | None = None) -> None:
        self.workers = workers
        self.pool = Pool(slots=slots or Slots(4, 4), workers=())
        self.before: Callable[[int], Failure | None] = lambda number: None
        self.after: Callable[[int, Reply | Failure], Reply | Failure] = lambda number, reply: reply
        self.sent: list[tuple[dict[str, Any], str | None]] = []
        self.headers: dict[str, str] = dict(WAIT)

    async def look(self) -> Pool | Failure:
        return self.pool

    async def submit(self, order: bytes, label: str | None) -> Reply | Failure:
        number = len(self.sent)
        self.sent.append((json.loads(order), label))
        lost = self.before(number)
        if lost is not None:
            return lost
        which = number % len(self.workers)
        headers = {"content-type": "application/json", **self.headers}
        return self.after(number, await self._ask_worker(which, "POST", "/jobs", order, headers))

    async def follow_up(self, worker: str, id: str) -> Reply | Failure:
        return await self._ask_worker(int(worker[1:]), "GET", f"/jobs/{id}", b"", dict(WAIT))

    async def _ask_worker(
        self, which: int, method: str, target: str, content: bytes, headers: dict[str, str]
    ) -> Reply | Failure:
        answer = await ask(self.workers[which], method, target, content, headers=headers)
        if answer.status >= 400:
            return Failure(problem=read_problem(answer.body, answer.status))
        return Reply(status=answer.status, worker=f"w{which}", value=answer.body)


class QueueingDoor(FakeDoor):
    """A pool as a gateway has it: so many slots, units that find none wait for one, and what is free is counted."""

    def __init__(self, *workers: Api, total: int) -> None:
        super().__init__(*workers)
        self.total = total
        self.busy = 0
        self.most = 0
        self.hold = asyncio.Event()
        """Units are done from here on."""
        self._free = asyncio.Condition()

    async def look(self) -> Pool | Failure:
        return Pool(slots=Slots(self.total, max(0, self.total - self.busy)), workers=())

    async def grow(self, total: int) -> None:
        """More workers came."""
        async with self._free:
            self.total = total
            self._free.notify_all()

    async def submit(self, order: bytes, label: str | None) -> Reply | Failure:
        async with self._free:
            await self._free.wait_for(lambda: self.busy < self.total)
            self.busy += 1
            self.most = max(self.most, self.busy)
        try:
            await self.hold.wait()
            return await super().submit(order, label)
        finally:
            async with self._free:
                self.busy -= 1
                self._free.notify_all()


@pytest.fixture(autouse=True)
def small_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(split_module, "MIN_UNIT", 1)


def worker() -> Api:
    return Api(LocalEngine(64))


def master(door: FakeDoor, **options: Any) -> Api:
    async def no_pause(seconds: float) -> None:
        await asyncio.sleep(0)

    return Api(MasterEngine(door, sleep=no_pause, chance=lambda: 0.5, **options))


async def submit(door: FakeDoor, order: dict[str, Any] | None = None, **options: Any) -> dict[str, Any]:
    answer = await ask(master(door, **options), "POST", "/jobs", order or ORDER, headers=WAIT)
    assert answer.status == 200, answer
    return answer.body


async def test_job_is_split_by_slots_done_and_joined() -> None:
    """Units under ids of their own, done by both workers, and one result."""
    door = FakeDoor(worker(), worker(), slots=Slots(8, 5))
    done = await submit(door)
    assert done["result"] == {"total": 800, "distinct": 2, "words": {"the": 400, "word": 400}}
    assert done["units"]["done"] == done["units"]["total"] == len(door.sent) > 5
    assert done["progress"] == 1
    assert set(done["workers"]) == {"w0", "w1"}
    assert sum(done["workers"].values()) == len({order["id"] for order, _ in door.sent}) == len(door.sent)


async def test_job_with_all_slots_to_itself_has_one_unit_for_each() -> None:
    """Nobody else is there: nothing is left to plan later."""
    door = QueueingDoor(worker(), total=8)
    door.hold.set()
    assert (await submit(door))["units"] == {"total": 8, "done": 8, "retries": 0}


async def test_job_that_was_queued_behind_another_takes_slots_as_they_come_free() -> None:
    """It is planned again: what was submitted with no slot free runs on all of them in the end, and is done right."""
    door = QueueingDoor(worker(), total=8)
    api = master(door)
    first = asyncio.create_task(ask(api, "POST", "/jobs", ORDER, headers=WAIT))
    while door.busy < 8:
        await asyncio.sleep(0)
    second = asyncio.create_task(ask(api, "POST", "/jobs", ORDER, headers=WAIT))
    for _ in range(50):
        await asyncio.sleep(0)
    door.hold.set()
    answers = [(await task).body for task in (first, second)]
    assert [answer["result"]["total"] for answer in answers] == [800, 800]
    assert answers[0]["units"]["total"] == 8
    assert 8 <= answers[1]["units"]["total"] <= 40
    assert door.most == 8


async def test_workers_that_come_while_a_job_runs_get_a_part_of_it() -> None:
    """A job that began on one slot is spread when there are more, told by the pool's events."""
    door = QueueingDoor(worker(), total=1)
    engine = MasterEngine(door)
    api = Api(engine)
    blocker = asyncio.create_task(ask(api, "POST", "/jobs", {**ORDER, "id": "a"}, headers=WAIT))
    while door.busy < 1:
        await asyncio.sleep(0)
    job = asyncio.create_task(ask(api, "POST", "/jobs", {**ORDER, "id": "b"}, headers=WAIT))
    for _ in range(50):
        await asyncio.sleep(0)
    await door.grow(6)
    engine.slots_changed()
    door.hold.set()
    assert (await blocker).body["result"] == (await job).body["result"]
    assert door.most > 1


@given(
    st.lists(st.text("ab\n", max_size=60), min_size=1, max_size=5),
    st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=30),
)
def test_rest_gives_every_character_once_and_in_order(texts: list[str], steps: list[tuple[int, int]]) -> None:
    """Whatever slots come and go: the units put together are the texts, their numbers count on, and they end."""
    whole = [Text(name=f"t{number}", text=text) for number, text in enumerate(texts)]
    rest = Rest(whole)
    units: list[Unit] = []
    for number in range(2000):
        if rest.is_empty:
            break
        slots, total = steps[number % len(steps)]
        units += rest.take((Lane(label=None, slots=slots),), slots=slots, total=total)
    assert rest.is_empty
    assert [unit.index for unit in units] == list(range(len(units)))
    assert len(units) <= split_module.MAX_UNITS
    together: dict[str, str] = {}
    for unit in units:
        for text in unit.texts:
            together[text.name] = together.get(text.name, "") + text.text
    assert {name: text for name, text in together.items() if text} == {one.name: one.text for one in whole if one.text}


async def test_units_per_slot_make_more_units() -> None:
    """For pools whose workers are of different speed."""
    door = QueueingDoor(worker(), total=2)
    door.hold.set()
    assert (await submit(door, units_per_slot=3))["units"]["total"] == 6


@pytest.mark.parametrize("slug", ["no-slot", "not-sent", "worker-lost", "worker-invalid", "deadline"])
async def test_unit_that_is_lost_before_the_worker_saw_it_is_sent_again(slug: str) -> None:
    """Every problem type that says so leads to another try of the same unit."""
    door = FakeDoor(worker())
    door.before = lambda number: failure(slug) if number < 3 else None
    done = await submit(door)
    assert (done["result"]["total"], done["units"]) == (800, {"total": 4, "done": 4, "retries": 3})
    assert len({order["id"] for order, _ in door.sent}) == 4


async def test_unit_whose_answer_is_lost_counts_once() -> None:
    """The worker did it, nobody heard, it is sent again: counted once, and the worker knew it."""
    door = FakeDoor(worker())
    door.after = lambda number, reply: failure("worker-lost") if number < 4 else reply
    done = await submit(door)
    assert done["result"]["total"] == 800
    assert done["units"]["retries"] == 4


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["before", "after", "wrong-id", "nonsense", "ok"]), min_size=1, max_size=12))
def test_result_is_right_whatever_is_lost(fates: list[str]) -> None:
    """Any sequence of losses: the job is done with the right result, or failed; never with a wrong one."""
    door = FakeDoor(worker(), worker())
    door.before = lambda n: failure("worker-lost") if n < len(fates) and fates[n] == "before" else None

    def after(number: int, reply: Reply | Failure) -> Reply | Failure:
        fate = fates[number] if number < len(fates) else "ok"
        if fate == "ok" or isinstance(reply, Failure):
            return reply
        if fate == "after":
            return failure("deadline", 504)
        wrong = {"id": "other"} if fate == "wrong-id" else {"result": {"words": {"x": -1}}}
        return Reply(status=200, worker="w0", value={**reply.value, **wrong})

    door.after = after
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split_module, "MIN_UNIT", 1)
        body = asyncio.run(submit(door))
    assert body["status"] == "failed" or body["result"]["words"] == {"the": 400, "word": 400}
    if len(fates) < 4:
        assert body["status"] == "done"


async def test_refusal_of_a_worker_fails_the_job_at_once() -> None:
    """A 4xx is about the order, so no other worker is bothered."""
    door = FakeDoor(worker(), slots=Slots(1, 1))
    door.before = lambda number: Failure(problem=Problem(type=OURS + "order-invalid", title="t", status=422))
    body = await submit(door)
    assert (body["status"], body["problem"]["status"]) == ("failed", 422)
    assert len(door.sent) == 1


async def test_unit_that_every_worker_is_lost_with_fails_the_job_soon() -> None:
    """The whole pool is not given to one bad unit."""
    door = FakeDoor(worker(), slots=Slots(1, 1))
    door.before = lambda number: failure("worker-lost")
    body = await submit(door)
    assert body["problem"]["type"] == GATEWAY + "worker-lost"
    assert len(door.sent) == 4


async def test_answer_that_comes_later_is_fetched_from_the_worker() -> None:
    """A worker that answers 202 is asked again, itself and not another."""
    door = FakeDoor(worker(), worker())
    door.headers = {}
    done = await submit(door)
    assert (done["result"]["total"], done["units"]["retries"], len(door.sent)) == (800, 0, 4)


async def test_worker_that_forgot_its_unit_is_a_lost_try() -> None:
    """It said 202 and was started anew: the unit is sent again."""
    door = FakeDoor(worker(), slots=Slots(1, 1))
    door.after = lambda number, reply: (
        Reply(status=202, worker="w0", value={"status": "running"}) if number == 0 else reply
    )
    forgets = iter([True])

    async def follow_up(worker: str, id: str) -> Reply | Failure:
        assert next(forgets)
        return Failure(problem=Problem(type=OURS + "not-found", title="t", status=404))

    door.follow_up = follow_up  # type: ignore[method-assign]
    done = await submit(door)
    assert (done["result"]["total"], done["units"]["retries"]) == (800, 1)


async def test_units_of_a_spread_job_ask_for_their_place() -> None:
    """Racks and regions: each unit carries the label of its lane, and the key goes on to the tier below."""
    door = FakeDoor(worker())
    door.pool = Pool(
        slots=Slots(4, 4),
        workers=(
            WorkerSlots(name="w1", free=3, labels={"rack": "a"}),
            WorkerSlots(name="w2", free=1, labels={"rack": "b"}),
        ),
    )
    await submit(door, {**ORDER, "spread": ["region", "rack"]})
    assert [label for _, label in door.sent] == ["rack=a"] * 3 + ["rack=b"]
    assert all(order["spread"] == ["region", "rack"] for order, _ in door.sent)


async def test_jobs_that_come_together_share_the_slots() -> None:
    """Free slots that are meant for units on their way are not planned with twice."""
    door = QueueingDoor(worker(), total=4)
    api = master(door)
    jobs = [asyncio.create_task(ask(api, "POST", "/jobs", ORDER, headers=WAIT)) for _ in range(3)]
    for _ in range(100):
        await asyncio.sleep(0)
    assert door.busy == 4
    assert len(door.sent) == 0
    waiting = sum(not job.done() for job in jobs)
    door.hold.set()
    answers = [await job for job in jobs]
    assert waiting == 3
    assert min(answer.body["units"]["total"] for answer in answers) == 4
    again = await ask(api, "POST", "/jobs", ORDER, headers=WAIT)
    assert again.body["units"]["total"] == 4


async def test_masters_stack_and_credit_goes_to_who_did_the_work() -> None:
    """The tier above calls the same API, and its answer names the workers of the tier below."""
    lower = master(FakeDoor(worker(), worker()))
    top = FakeDoor(lower, worker(), slots=Slots(2, 2))
    done = await submit(top)
    assert done["result"] == {"total": 800, "distinct": 2, "words": {"the": 400, "word": 400}}
    assert done["workers"] == {"w0/w0": 2, "w0/w1": 2, "w1": 1}


async def test_tier_below_that_lost_its_workers_is_tried_again() -> None:
    """A job that failed there for want of workers is no failure here."""
    below = FakeDoor(worker())
    below.before = lambda number: failure("worker-lost") if number < 4 else None
    done = await submit(FakeDoor(master(below), slots=Slots(1, 1)), {**ORDER, "texts": [{"name": "a", "text": "b"}]})
    assert (done["status"], done["units"]["retries"]) == ("done", 1)


async def test_gateway_that_cannot_be_reached_fails_the_job_in_the_end() -> None:
    """Bounded patience, and a clear problem."""
    door = FakeDoor(worker())
    unreachable = Failure(problem=Problem(type=OURS + "gateway-unreachable", title="t", status=503))
    door.pool = unreachable  # type: ignore[assignment]
    assert (await submit(door))["problem"]["type"] == OURS + "gateway-unreachable"
    slots = await ask(master(door), "GET", "/slots")
    assert (slots.status, slots.headers["retry-after"]) == (503, "1")


async def test_job_has_a_time_limit() -> None:
    """A unit that never ends does not keep the job for ever."""
    door = FakeDoor(worker())

    async def never(order: bytes, label: str | None) -> Reply | Failure:
        await asyncio.Event().wait()
        raise AssertionError

    door.submit = never  # type: ignore[method-assign]
    assert (await submit(door, timeout=0.05))["problem"]["type"] == GATEWAY + "deadline"


async def test_claims_of_a_tier_below_about_its_workers_are_bounded() -> None:
    """A worker that names a million workers, or minus one unit, is not believed."""
    door = FakeDoor(worker(), slots=Slots(1, 1))
    claims = {"a": -1, "b": "x", "n" * 300: 1, **{f"x{index}": 1 for index in range(5000)}}
    door.after = lambda number, reply: (
        Reply(status=200, worker="w0", value={**reply.value, "workers": claims}) if isinstance(reply, Reply) else reply
    )
    workers = (await submit(door))["workers"]
    assert 0 < len(workers) <= 1000
    assert all(count > 0 for count in workers.values())


async def test_follower_knows_the_slots_while_the_stream_lasts() -> None:
    """Slots follow every event; without a gateway there are none to promise."""
    events: asyncio.Queue[Slots | None] = asyncio.Queue()
    seen = asyncio.Queue[Slots]()

    class EventDoor(FakeDoor):
        async def events(self) -> AsyncGenerator[Slots, None]:
            while (slots := await events.get()) is not None:
                yield slots
                seen.put_nowait(follower.slots)
            raise OSError("gone")

    async def pause(seconds: float) -> None:
        seen.put_nowait(follower.slots)
        await asyncio.sleep(0)

    follower = SlotFollower(EventDoor(), sleep=pause)
    task = asyncio.create_task(follower.run())
    for slots in (Slots(3, 3), Slots(3, 1), None, Slots(2, 2)):
        events.put_nowait(slots)
    assert [await seen.get() for _ in range(4)] == [Slots(3, 3), Slots(3, 1), Slots(0, 0), Slots(2, 2)]
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
