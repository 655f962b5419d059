"""The API over an engine: who gets which answer, when, and what is bounded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
from mapreduce import store as store_module
from mapreduce.api import Api, Slots
from mapreduce.orders import MAX_CONTENT, Order
from mapreduce.problems import refuse
from mapreduce.sse import EventParser
from mapreduce.store import Done, Job, JobStore
from support.mapreduces import ask

ORDER: dict[str, Any] = {"kind": "wordcount", "texts": [{"name": "a", "text": "b a b"}]}
WAIT = {"prefer": "wait=20"}


class HeldEngine:
    """Does the work itself, but not before it may."""

    def __init__(self) -> None:
        self.may = asyncio.Event()
        self.runs = 0
        self.error: Exception | None = None

    async def run(self, order: Order, job: Job) -> Done:
        self.runs += 1
        await self.may.wait()
        if self.error is not None:
            raise self.error
        return Done(order.kind.work(order.texts, order.options), 10)

    async def slots(self) -> Slots:
        return Slots(3, 2)


@pytest.fixture
def engine() -> HeldEngine:
    return HeldEngine()


@pytest.fixture
async def api(engine: HeldEngine) -> AsyncIterator[Api]:
    made = Api(engine)
    yield made
    await made.close()


async def test_job_without_wait_is_accepted_with_its_location(api: Api, engine: HeldEngine) -> None:
    """202 at once; the job is found at Location, first running, then done."""
    accepted = await ask(api, "POST", "/jobs", ORDER)
    assert (accepted.status, accepted.body["status"]) == (202, "running")
    location = accepted.headers["location"]
    assert location == f"/jobs/{accepted.body['id']}"
    assert (await ask(api, "GET", location)).status == 202
    engine.may.set()
    done = await ask(api, "GET", location, headers=WAIT)
    assert (done.status, done.body["status"]) == (200, "done")
    assert done.body["result"] == {"total": 3, "distinct": 2, "words": {"b": 2, "a": 1}}


@pytest.mark.parametrize("prefer", ["wait=20", 'respond-async, wait="20"', "Wait = 20; x=1"])
async def test_job_with_wait_is_answered_with_its_result(api: Api, engine: HeldEngine, prefer: str) -> None:
    """200 and everything in one exchange (RFC 7240)."""
    engine.may.set()
    done = await ask(api, "POST", "/jobs", ORDER, headers={"prefer": prefer})
    assert (done.status, done.body["result"]["total"]) == (200, 3)


async def test_wait_that_is_over_answers_what_there_is(api: Api) -> None:
    """The wait has an end, the job goes on."""
    accepted = await ask(api, "POST", "/jobs", ORDER, headers={"prefer": "wait=1"})
    assert (accepted.status, accepted.body["status"]) == (202, "running")


async def test_order_sent_twice_under_one_id_is_one_job(api: Api, engine: HeldEngine) -> None:
    """Running or done, it is worked on once."""
    order = {**ORDER, "id": "j1"}
    assert (await ask(api, "POST", "/jobs", order)).status == 202
    assert (await ask(api, "POST", "/jobs", order)).status == 202
    engine.may.set()
    first = await ask(api, "POST", "/jobs", order, headers=WAIT)
    second = await ask(api, "POST", "/jobs", order, headers=WAIT)
    assert first == second
    assert (first.status, engine.runs) == (200, 1)


async def test_other_order_under_the_same_id_is_refused(api: Api) -> None:
    """An id never stands for two orders."""
    await ask(api, "POST", "/jobs", {**ORDER, "id": "j1"})
    other = {**ORDER, "id": "j1", "texts": [{"name": "a", "text": "c"}]}
    refused = await ask(api, "POST", "/jobs", other)
    assert (refused.status, refused.body["type"]) == (409, "urn:mapreduce:problem:id-taken")


async def test_job_is_there_for_its_owner_only(api: Api) -> None:
    """Another client neither sees it nor meets its id."""
    alice, bob = {"rhttp-identity": "client/alice"}, {"rhttp-identity": "client/bob"}
    assert (await ask(api, "POST", "/jobs", {**ORDER, "id": "j1"}, headers=alice)).status == 202
    assert (await ask(api, "GET", "/jobs/j1", headers=alice)).status == 202
    assert (await ask(api, "GET", "/jobs/j1", headers=bob)).status == 404
    other = {**ORDER, "id": "j1", "texts": [{"name": "a", "text": "c"}]}
    assert (await ask(api, "POST", "/jobs", other, headers=bob)).status == 202


async def test_job_that_cannot_be_done_says_why_and_may_be_ordered_again(api: Api, engine: HeldEngine) -> None:
    """The problem is in the job; the same order makes a new try."""
    engine.may.set()
    engine.error = refuse("busy", 503, "Too much to do")
    order = {**ORDER, "id": "j1"}
    failed = await ask(api, "POST", "/jobs", order, headers=WAIT)
    assert (failed.status, failed.body["status"]) == (200, "failed")
    assert failed.body["problem"] == {"type": "urn:mapreduce:problem:busy", "title": "Too much to do", "status": 503}
    engine.error = None
    assert (await ask(api, "POST", "/jobs", order, headers=WAIT)).body["status"] == "done"
    assert engine.runs == 2


async def test_fault_in_the_engine_fails_the_job_without_its_text(api: Api, engine: HeldEngine) -> None:
    """The text of an exception may hold anything; it stays inside."""
    engine.may.set()
    engine.error = KeyError("secret")
    failed = await ask(api, "POST", "/jobs", ORDER, headers=WAIT)
    assert failed.body["problem"]["status"] == 500
    assert "secret" not in str(failed.body)


async def test_close_ends_what_runs(engine: HeldEngine) -> None:
    """No task is left behind."""
    api = Api(engine)
    waiting = asyncio.create_task(ask(api, "POST", "/jobs", ORDER, headers=WAIT))
    while not engine.runs:
        await asyncio.sleep(0)
    await api.close()
    assert (await waiting).body["status"] == "failed"


async def test_slots_are_told(api: Api) -> None:
    """The free sum of the engine."""
    assert (await ask(api, "GET", "/slots")).body == {"slots": {"total": 3, "free": 2}}


async def test_top_shortens_the_list_and_not_the_sums(api: Api, engine: HeldEngine) -> None:
    """A person wants the first few words, and the whole count."""
    engine.may.set()
    done = await ask(api, "POST", "/jobs?top=1", ORDER, headers=WAIT)
    assert done.body["result"] == {"total": 3, "distinct": 2, "words": {"b": 2}}
    again = await ask(api, "GET", f"{done.headers['location']}?top=0")
    assert again.body["result"]["words"] == {}


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/jobs/unknown", 404),
        ("GET", "/jobs/", 404),
        ("GET", "/jobs/a/b", 404),
        ("GET", "/jobs", 405),
        ("DELETE", "/jobs/a", 405),
        ("POST", "/slots", 405),
        ("POST", "/jobs?top=x", 422),
        ("POST", "/jobs?top=1&top=2", 422),
        ("POST", f"/jobs?kind={'x' * 5000}", 414),
    ],
)
async def test_request_for_nothing_is_a_problem(api: Api, method: str, target: str, status: int) -> None:
    """Every refusal has the same form (RFC 9457)."""
    refused = await ask(api, method, target)
    assert (refused.status, refused.body["status"]) == (status, status)
    assert refused.headers["content-type"] == "application/problem+json"
    assert refused.body["type"].startswith("urn:mapreduce:problem:")


async def test_content_is_limited_by_its_length_and_by_what_comes(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    """A length that is too large is refused unread; one that lies is cut off at the limit."""
    refused = await ask(api, "POST", "/jobs", ORDER, headers={"content-length": str(MAX_CONTENT + 1)})
    assert refused.status == 413
    monkeypatch.setattr("mapreduce.api.MAX_CONTENT", 100)
    headers = {"content-type": "text/plain"}
    assert (await ask(api, "POST", "/jobs?kind=wordcount", b"x" * 100, headers=headers, chunk=7)).status == 202
    assert (await ask(api, "POST", "/jobs?kind=wordcount", b"x" * 101, headers=headers, chunk=7)).status == 413


async def test_compressed_content_is_refused(api: Api) -> None:
    """No decompression, no bombs."""
    assert (await ask(api, "POST", "/jobs", ORDER, headers={"content-encoding": "gzip"})).status == 415


async def test_more_jobs_than_may_run_are_refused_with_a_time_to_come_again(engine: HeldEngine) -> None:
    """The table of running jobs is bounded in number and in size."""
    api = Api(engine, store=JobStore(max_running=2))
    assert [(await ask(api, "POST", "/jobs", ORDER)).status for _ in range(2)] == [202, 202]
    refused = await ask(api, "POST", "/jobs", ORDER)
    assert (refused.status, refused.body["type"]) == (503, "urn:mapreduce:problem:busy")
    assert refused.headers["retry-after"] == "1"
    await api.close()


async def test_running_jobs_are_bounded_in_size(engine: HeldEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Their orders together take no more than the limit."""
    monkeypatch.setattr(store_module, "MAX_RUNNING_SIZE", 250)
    api = Api(engine)
    headers = {"content-type": "text/plain"}
    statuses = [(await ask(api, "POST", "/jobs?kind=wordcount", b"x" * 100, headers=headers)).status for _ in range(3)]
    assert statuses == [202, 202, 503]
    await api.close()


async def test_finished_jobs_are_forgotten_oldest_first(engine: HeldEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was looked at last stays longest; number and size of what is kept are bounded."""
    engine.may.set()
    api = Api(engine, store=JobStore(max_finished=2))

    async def submit(id: str) -> None:
        assert (await ask(api, "POST", "/jobs", {**ORDER, "id": id}, headers=WAIT)).status == 200

    async def known(*ids: str) -> list[bool]:
        return [(await ask(api, "GET", f"/jobs/{id}")).status == 200 for id in ids]

    await submit("a")
    await submit("b")
    assert await known("a") == [True]
    await submit("c")
    assert await known("b", "a", "c") == [False, True, True]
    monkeypatch.setattr(store_module, "MAX_FINISHED_SIZE", 15)
    await submit("d")
    assert await known("a", "c", "d") == [False, False, True]


ALICE = {"rhttp-identity": "client/alice"}


async def follow(api: Api, receive: Callable[[], Awaitable[Any]]) -> list[Any]:
    """Everything that is sent to who follows the job j."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(name.encode(), value.encode()) for name, value in ALICE.items()]
    scope = {"type": "http", "method": "GET", "path": "/jobs/j/events", "query_string": b"", "headers": headers}
    await asyncio.wait_for(api(scope, receive, send), 20)
    return sent


async def nothing_more() -> Any:
    """The requester waits."""
    await asyncio.Event().wait()


async def test_events_of_a_job_tell_its_progress_and_its_end(api: Api, engine: HeldEngine) -> None:
    """Server-sent events: the state now, at each change, and the end; without the result, which stays at the job."""
    await ask(api, "POST", "/jobs", {**ORDER, "id": "j"}, headers=ALICE)
    following = asyncio.create_task(follow(api, nothing_more))
    await asyncio.sleep(0)
    engine.may.set()
    sent = await following
    assert sent[0]["status"] == 200
    assert (b"content-type", b"text/event-stream") in sent[0]["headers"]
    parser = EventParser()
    events = [event for message in sent[1:] for event in parser.feed(message["body"])]
    told = [json.loads(event.data) for event in events]
    assert [event.name for event in events] == ["progress", "ended"]
    assert [(each["status"], each["progress"]) for each in told] == [("running", 0), ("done", 1)]
    assert all("result" not in each for each in told)


async def test_events_end_when_the_requester_leaves(api: Api) -> None:
    """Nobody is told what nobody reads."""
    await ask(api, "POST", "/jobs", {**ORDER, "id": "j"}, headers=ALICE)

    async def gone() -> Any:
        return {"type": "http.disconnect"}

    assert (await follow(api, gone))[-1] == {"type": "http.response.body", "body": b""}


async def test_events_of_another_ones_job_are_not_there(api: Api) -> None:
    """As the job itself is not."""
    await ask(api, "POST", "/jobs", {**ORDER, "id": "j"}, headers=ALICE)
    assert (await ask(api, "GET", "/jobs/j/events", headers={"rhttp-identity": "client/bob"})).status == 404
    assert (await ask(api, "POST", "/jobs/j/events", headers=ALICE)).status == 405


async def test_close_answers_who_still_sends_an_order(api: Api) -> None:
    """503 at once, so that no server has to wait for the rest and cut."""
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    headers = [(b"content-type", b"text/plain"), (b"content-length", b"100")]
    scope = {"type": "http", "method": "POST", "path": "/jobs", "query_string": b"kind=wordcount", "headers": headers}
    task = asyncio.create_task(api(scope, nothing_more, send))
    await asyncio.sleep(0)
    await api.close()
    await asyncio.wait_for(task, 20)
    assert sent[0]["status"] == 503
