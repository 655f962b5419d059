"""A request that is passed on without a reservation: taken at once or not at all, its line written where it is sent."""

from __future__ import annotations

import pytest
from support.bench import Worker, make_inputs
from support.meshes import QUEUED_POOL, MeshBench, Meshed, request, until, with_a_worker_there

from gateway.admission import passed_line
from gateway.admission.passed_line import is_passed_line
from gateway.cluster.frames import WANT
from gateway.dataplane.generation import build_generation, read_config
from gateway.exchange.exchange import PASSED_CONTENT
from gateway.exchange.passed import Unreserved, read_slot, unreserved_text
from gateway.ingress.serving import serving_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
ANY = "/-/pools/render/any/job"
WAITING = "Prefer: wait=30"


def wants(bench: MeshBench) -> list[int]:
    """What the bench says to the other process from now on."""
    said: list[int] = []
    remote = bench.mesh.remotes[1 - bench.index]
    say = remote.say

    def listen(kind: int, number: int, content: bytes) -> None:
        said.append(kind)
        say(kind, number, content)

    remote.say = listen
    return said


def believe(here: MeshBench, free: int) -> None:
    """Let it think that the other process has so many free slots."""
    here.mesh.directory.peers[1 - here.index].pools["render"] = [free, free, 0]


async def occupied(two: Meshed) -> tuple[MeshBench, MeshBench, Worker]:
    """The only worker is taken in its own process, and the other one does not know that."""
    here, there, worker = await with_a_worker_there(two)
    busy = there.requester()
    assert busy.ask(ANY) is None
    await request(worker)
    await here.sees(1, 0)
    believe(here, 1)
    return here, there, worker


@pytest.mark.parametrize("target", [ANY, "/-/pools/render/workers/w1/job"])
async def test_request_is_passed_on_without_asking_for_a_slot(two: Meshed, target: str) -> None:
    """One way there and back, over one connection; `dispatch.sent` is written where the worker is, before a byte."""
    here, there, worker = await with_a_worker_there(two)
    said = wants(here)
    asker = here.requester()
    for number in range(3):
        there.log.clear()
        assert asker.ask(f"{target}?{number}") is None
        await request(worker)
        assert [what for what, _ in there.log] == ["audit dispatch.sent", "write w1"]
        worker.link.receive(OK)
        answer = await asker.answered()
        assert (answer.status, answer.fields["rhttp-worker"]) == (200, "w1")
        await until(lambda: here.mesh.directory.freest("render") == 1)
    assert said == []
    assert here.mesh.remotes[1].connections() == 1
    assert here.audit.of("dispatch.sent") == there.audit.of("dispatch") == []


async def test_line_that_the_other_process_writes_says_what_a_line_here_would(two: Meshed) -> None:
    """Whichever process writes it, `dispatch.sent` has the same fields."""
    here, there, worker = await with_a_worker_there(two)
    for bench in (there, here):
        asker = bench.requester()
        assert asker.ask(ANY + "?x=1", "POST", "Rhttp-Request-Id: p1", content=b"work") is None
        await request(worker)
        worker.link.receive(OK)
        assert (await asker.answered()).status == 200
        await until(lambda: there.pool.pool.free == 1)
    local, passed = there.audit.of("dispatch.sent")
    (done,) = here.audit.of("dispatch")
    assert passed["request_id"] == done["request_id"]
    assert isinstance(passed["ms"], float)
    for line in (local, passed):
        del line["request_id"], line["ms"]
    assert passed == local


async def test_content_that_is_short_goes_along_and_more_waits_for_a_slot(two: Meshed) -> None:
    """Up to the limit it leaves at once; beyond it, or of unknown length, or when it waits for a word, it does not."""
    here, _there, worker = await with_a_worker_there(two)
    said = wants(here)
    expected = "Expect: 100-continue"
    for size, lines, reserved in (
        (PASSED_CONTENT, (), False),
        (PASSED_CONTENT + 1, (), True),
        (1, (expected,), True),
        (0, ("Transfer-Encoding: chunked",), True),
    ):
        said.clear()
        asker = here.requester()
        content = b"x" * size if size else None
        assert asker.ask(ANY, "POST", *lines, content=content) is None
        if content is None:
            asker.send(b"0\r\n\r\n")
        end = b"x" * size if size else b"0\r\n\r\n"
        await worker.link.until(lambda end=end: worker.link.sent.endswith(end))  # type: ignore[misc]
        worker.taken()
        worker.link.receive(OK)
        await asker.link.until(lambda asker=asker: asker.link.sent.endswith(b"done"))  # type: ignore[misc]
        assert (WANT in said) is reserved
        await until(lambda: here.mesh.directory.freest("render") == 1)


@pytest.mark.parametrize("content", [None, b"work"])
async def test_request_that_finds_the_slot_taken_waits_and_has_one_line(two: Meshed, content: bytes | None) -> None:
    """Nobody had it: it waits as if it had not been passed on, with its content, and is sent and written down once."""
    here, there, worker = await occupied(two)
    asker = here.requester()
    assert asker.ask(ANY, "POST", WAITING, content=content) is None
    await until(lambda: here.pool.pool.waiting == 1 and len(there.pool.pool.queued) == 1)
    assert here.mesh.directory.freest("render") is None
    worker.link.receive(OK)
    assert (await request(worker)).endswith(content or b"\r\n\r\n")
    worker.link.receive(OK)
    assert (await asker.answered()).status == 200
    (done,) = here.audit.of("dispatch")
    lines = [line for bench in two.benches for line in bench.audit.lines]
    ours = [line["event"] for line in lines if line.get("request_id") == done["request_id"]]
    assert sorted(ours) == ["dispatch", "dispatch.sent"]
    assert here.process.counters.retries == 0


async def test_request_that_finds_the_slot_taken_and_may_not_wait_is_told(two: Meshed) -> None:
    """As one for which nothing was free from the start; its connection between the processes serves the next one."""
    here, there, worker = await occupied(two)
    asker = here.requester()
    for _ in range(2):
        believe(here, 1)
        assert asker.ask(ANY) is None
        assert (await asker.answered()).problem == "no-slot"
    assert here.mesh.remotes[1].connections() == 1
    assert len(there.audit.of("dispatch.sent")) == 1, "that of its own request"
    worker.link.receive(OK)


async def test_request_that_comes_back_keeps_its_place_and_what_is_left_of_its_wait(two: Meshed) -> None:
    """Those that came later do not overtake it, and it does not wait longer than it said."""
    here, _there, worker = await occupied(two)
    askers = [here.requester() for _ in range(3)]
    for number, asker in enumerate(askers):
        believe(here, 1 if number == 0 else 0)
        assert asker.ask(f"{ANY}{number}", "GET", WAITING) is None
    await until(lambda: here.pool.pool.waiting == 3)
    worker.link.receive(OK)
    for number in range(2):
        assert b"/job%d " % number in await request(worker)
        worker.link.receive(OK)
        assert (await askers[number].answered()).status == 200
    assert b"/job2 " in await request(worker)
    late = here.requester()
    believe(here, 1)
    assert late.ask(ANY, "GET", WAITING) is None
    await until(lambda: here.pool.pool.waiting == 1)
    here.turn(29.0)
    assert not late.link.sent
    here.turn(31.0)
    assert (await late.answered()).problem == "no-slot"
    worker.link.receive(OK)


async def test_wait_is_over_for_a_request_that_was_taken(two: Meshed) -> None:
    """Its worker may take its time: the requester's patience was for a slot."""
    here, _there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY, "GET", "Prefer: wait=1") is None
    await request(worker)
    here.turn(5.0)
    assert not asker.link.sent
    worker.link.receive(OK)
    assert (await asker.answered()).status == 200


async def test_requester_that_ended_its_side_is_told_when_its_request_comes_back(two: Meshed) -> None:
    """It does not wait: whoever ended its side may be gone."""
    here, _there, worker = await occupied(two)
    asker = here.requester()
    assert asker.ask(ANY, "GET", WAITING) is None
    asker.link.finish()
    assert (await asker.answered()).problem == "no-slot"
    worker.link.receive(OK)


async def test_request_for_one_worker_takes_no_other(two: Meshed) -> None:
    """A free slot of another worker is not what was asked for."""
    here, there, worker = await occupied(two)
    other = there.worker("w2")
    await here.sees(2, 1)
    asker = here.requester()
    assert asker.ask("/-/pools/render/workers/w1/job") is None
    assert (await asker.answered()).problem == "no-slot"
    assert asker.ask("/-/pools/render/workers/w2/job") is None
    await request(other)
    for one in (worker, other):
        one.link.receive(OK)
    assert (await asker.answered()).fields["rhttp-worker"] == "w2"


async def test_request_does_not_pass_those_that_wait_here(two: Meshed) -> None:
    """While somebody waits, nothing is passed on ahead of it."""
    here, there, worker = await occupied(two)
    first, second = here.requester(), here.requester()
    assert first.ask(f"{ANY}1", "GET", WAITING) is None
    await until(lambda: here.pool.pool.waiting == 1 and len(there.pool.pool.queued) == 1)
    believe(here, 1)
    said = wants(here)
    assert second.ask(f"{ANY}2", "GET", WAITING) is None
    assert said == [WANT]
    await until(lambda: here.pool.pool.waiting == 2)
    worker.link.receive(OK)
    for number, asker in enumerate((first, second), 1):
        assert b"/job%d " % number in await request(worker)
        worker.link.receive(OK)
        assert (await asker.answered()).status == 200


async def test_worker_that_is_cut_before_the_line_is_written_gets_nothing(two: Meshed) -> None:
    """Its certificate ended in that turn: the requester is told, and the worker's name is in the line that says so."""
    here, there, worker = await with_a_worker_there(two)
    there.audit.stalls = True
    asker = here.requester()
    assert asker.ask(ANY, "POST", content=b"x") is None
    await until(lambda: there.audit._waiting)
    worker.reversed.disconnect("revoked")
    there.audit.stalls = False
    there.audit.flush()
    answer = await asker.answered()
    assert (answer.problem, answer.fields["rhttp-worker"]) == ("worker-lost", "w1")
    assert worker.taken() == b""
    (done,) = here.audit.of("dispatch")
    assert (done["reason"], done["worker"]) == ("cut: revoked", "w1")


async def test_request_whose_line_the_other_process_cannot_write_is_not_sent(two: Meshed) -> None:
    """The worker gets no byte of it, and no line says that it did; this process decides what follows."""
    here, there, worker = await with_a_worker_there(two)
    there.audit.waits = True
    there.audit.fails_on = "dispatch.sent"
    asker = here.requester()
    assert asker.ask(ANY, "POST", content=b"x") is None
    assert (await asker.answered()).problem == "no-slot"
    assert worker.taken() == b""
    assert there.audit.of("dispatch.sent") == here.audit.of("dispatch.sent") == []


async def test_process_whose_log_takes_no_lines_takes_no_request_without_a_reservation(two: Meshed) -> None:
    """It says so before it touches a worker; with a reservation the line is written here."""
    here, there, worker = await with_a_worker_there(two)
    there.audit.writable = False
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    worker.link.receive(OK)
    assert (await asker.answered()).status == 200
    assert [line["worker"] for line in here.audit.of("dispatch.sent")] == ["w1"]
    assert there.audit.of("dispatch.sent") == []


async def test_requester_that_leaves_before_the_line_is_written_costs_no_request(two: Meshed) -> None:
    """Nothing of it reaches the worker any more."""
    here, there, worker = await with_a_worker_there(two)
    there.audit.stalls = True
    asker = here.requester()
    assert asker.ask(ANY) is None
    await until(lambda: there.audit._waiting)
    asker.link.reset()
    await until(lambda: not there.process.exchanges)
    there.audit.stalls = False
    there.audit.flush()
    assert worker.taken() == b""
    assert [line["outcome"] for line in here.audit.of("dispatch")] == ["aborted"]


async def test_idempotent_request_goes_to_a_worker_here_when_the_other_process_dies(two: Meshed) -> None:
    """Nobody knows whose it was; it may have run, is safe to repeat, and has a line for each time."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY) is None
    await request(worker)
    near = here.worker("w2")
    there.die()
    await request(near)
    near.link.receive(OK)
    answer = await asker.answered()
    assert (answer.status, answer.fields["rhttp-worker"]) == (200, "w2")
    sent = [bench.audit.of("dispatch.sent")[0]["worker"] for bench in (there, here)]
    assert sent == ["w1", "w2"]
    assert here.process.counters.retries == 1


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_that_was_with_a_process_that_died_does_not_wait(two: Meshed, method: str) -> None:
    """It may have run: without another worker its requester is told so, whatever it was willing to wait before."""
    here, there, worker = await with_a_worker_there(two)
    asker = here.requester()
    assert asker.ask(ANY, method, WAITING) is None
    await request(worker)
    there.die()
    assert (await asker.answered()).problem == "worker-lost"
    assert here.pool.pool.waiting == 0


async def test_request_is_not_passed_to_a_process_that_drains(two: Meshed) -> None:
    """It hands out nothing more, whatever others believe."""
    here, there, _worker = await with_a_worker_there(two)
    there.process.draining = True
    asker = here.requester()
    assert asker.ask(ANY) is None
    assert (await asker.answered()).problem == "no-slot"
    assert there.audit.of("dispatch.sent") == []


async def test_request_that_is_no_longer_allowed_is_not_sent_once_it_comes_back(two: Meshed) -> None:
    """Policy is asked again before it goes anywhere else."""
    here, there, worker = await occupied(two)
    asker = here.requester()
    assert asker.ask(ANY, "GET", WAITING) is None
    forbidden = here.inputs.policy_text + '@id("no") forbid (principal, action == Action::"dispatch", resource);'
    inputs = make_inputs(QUEUED_POOL, policy=forbidden)
    before = serving_of(here.process.generation)
    here.process.generation = build_generation(
        here.process, read_config(inputs), inputs, here.digest_state, before, join=here.mesh.pool
    )
    assert (await asker.answered()).problem == "not-sent"
    assert here.pool.pool.waiting == len(there.pool.pool.queued) == 0
    worker.link.receive(OK)


LINE = b'","identity":"master/local","listener":"local","outcome":"sent","policy":["p"],"target":"/x/any"'


@pytest.mark.parametrize("worker", [None, "w1"])
def test_slot_without_a_reservation_is_read_as_it_was_written(worker: str | None) -> None:
    """Pool, worker, time and line."""
    read = read_slot(unreserved_text("render", worker, b"1234 " + LINE))
    assert isinstance(read, Unreserved)
    assert (read.pool, read.worker, read.spent, read.line) == ("render", worker, 1234, LINE)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"12345678901",
        b"-1",
        b"1 2",
        b"render * 1",
        b"render * x " + LINE,
        b"render * 1234567890123456 " + LINE,
        b"Render * 1 " + LINE,
        b"render w.1 1 " + LINE,
        b" * 1 " + LINE,
        b"render * 1 " + LINE[1:],
        b"render * 1 " + LINE + b',"worker":"w1"',
        b"render * 1 " + LINE + b',"status":200',
        b"render * 1 " + LINE + b',"event":"dispatch"',
        b"render * 1 " + LINE.replace(b'"sent"', b'"allowed"'),
        b"render * 1 " + LINE + b',"detail":{"name":"x"}',
        b"render * 1 " + LINE + b"}",
        b"render * 1 " + LINE + b',"pool":"\xc3\xa4"',
    ],
)
def test_slot_of_another_shape_is_refused(value: bytes) -> None:
    """No process of ours writes that, and nothing of it gets into the log."""
    assert read_slot(value) is None


def test_line_is_checked_again_when_it_was_refused_before() -> None:
    """What was found out is remembered of good ones only."""
    assert not is_passed_line(LINE + b"}")
    assert not is_passed_line(LINE + b"}")
    assert is_passed_line(LINE)
    assert is_passed_line(LINE)


def test_passed_line_is_remembered_without_its_target() -> None:
    """What stands in a target is gone with its request, and ever new ones crowd nothing out."""
    passed_line._checked.clear()
    for number in range(10):
        assert is_passed_line(LINE.replace(b"/x/any", b"/t0p5ecret/%d" % number))
    assert len(passed_line._checked) == 1
    assert b"5ecret" not in b"".join(passed_line._checked)


@pytest.mark.parametrize("target", [b"/x?k=5ecret", b"/{", b"/x\\", b'/x"', b"/\x00", b"/\xff", b'/x","pool":"p'])
def test_passed_line_whose_target_is_none_is_refused(target: bytes) -> None:
    """Whatever was remembered of lines like it."""
    assert is_passed_line(LINE)
    assert is_passed_line(LINE.replace(b"/x/any", target)) is (target == b'/x","pool":"p')
