"""What the audit log knows before a request leaves for a master, and what happens when it takes no line."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from support.bench import POOL, Answer, Bench, BenchLink, Requester, client_peer

from gateway.exchange.masters import MasterPool
from rhttp.http1.client import ClientEnd
from rhttp.message import IDEMPOTENT, METHODS, SAFE

OPEN = '@id("open") permit (principal, action, resource);'
ROUTE = '[masters.jobs]\nurls = ["http://127.0.0.1:9"]\n[[routes]]\npath = "/jobs/*"\nmaster = "jobs"\n'
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\ndone"
JOB = "/jobs/1?secret=x"
SENT = "audit request.sent"


class Plant:
    """A bench with a route; its connections to the master are fake links that lie idle in the pool."""

    def __init__(self, ahead: str | None = None, when_full: str = "refuse") -> None:
        audit = f'[audit]\nwhen_full = "{when_full}"\n'
        if ahead is not None:
            audit += f'ahead = "{ahead}"\n'
        self.bench = Bench(POOL + ROUTE + audit, policy=OPEN)
        self.log = self.bench.audit
        pool = self.bench.process.generation.masters["jobs"]
        assert isinstance(pool, MasterPool)
        self.pool = pool
        self.target = pool._targets[0]  # the only way to idle connections without a socket

    def master(self) -> Any:
        """An idle connection to the master; the one made last is used first."""
        link = BenchLink("jobs", self.bench)
        self.bench.links.append(link)
        process = self.bench.process
        end = ClientEnd(self.target, process.generation.limits, process.wheel)
        end.connection_made(link)  # type: ignore[arg-type]
        link.set_protocol(end)
        self.target.open += 1
        self.target.client_idle(end)
        return link

    def client(self) -> Requester:
        return self.bench.requester(client_peer())

    def lines(self, event: str) -> list[tuple[object, ...]]:
        """Outcome and status of the lines of an event."""
        return [(line["outcome"], line.get("status")) for line in self.log.of(event)]

    def happened(self) -> list[str]:
        """What happened, by kind; several writes behind each other are one."""
        return [kind for kind, _ in itertools.groupby(self.bench.events())]

    def check_at_rest(self) -> None:
        assert self.bench.process.exchanges == 0


@pytest.fixture
async def plant() -> Iterator[Plant]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made = Plant()
    yield made
    made.check_at_rest()
    made.bench.close()


def is_problem(answer: Answer | None, status: int, slug: str) -> None:
    assert answer is not None
    assert (answer.status, answer.problem) == (status, slug)
    assert ("retry-after" in answer.fields) is (status == 503)


# ---- the line ahead ----


@pytest.mark.parametrize("waits", [False, True])
@pytest.mark.parametrize("ahead", [None, "unsafe", "all", "none"])
async def test_request_over_a_route_has_its_line_before_its_first_byte(ahead: str | None, waits: bool) -> None:
    """Unsafe methods by default, all or none when told; the closing line comes in any case."""
    plant = Plant(ahead)
    plant.log.waits = waits
    link, client = plant.master(), plant.client()
    for method in sorted(METHODS):
        plant.bench.log.clear()
        plant.log.lines.clear()
        client.ask(JOB, method.decode(), content=b"hello")
        said = ahead == "all" or (ahead != "none" and method not in SAFE)
        if waits and said:
            assert plant.bench.events() == []
            plant.log.flush()
        assert plant.happened() == ([SENT] if said else []) + ["write jobs"]
        assert link.take().endswith(b"\r\n\r\nhello")
        link.owner.data_received(OK if method != b"HEAD" else OK[:-4])
        plant.log.flush()
        assert plant.happened()[1 + said :] == ["audit request", "write alice"]
        if said:
            sent, done = plant.log.lines
            assert (sent["event"], sent["outcome"], sent["target"]) == ("request.sent", "sent", "/jobs/1")
            assert sent["request_id"] == done["request_id"]
            assert sent["policy"] == done["policy"]
            assert "status" not in sent
    plant.check_at_rest()
    plant.bench.close()


@pytest.mark.parametrize("content", [None, b"hello"])
def test_request_whose_line_cannot_be_written_does_not_leave(plant: Plant, content: bytes | None) -> None:
    """503 with Retry-After, and that is true: nothing ran."""
    link = plant.master()
    plant.log.fails_on = "request.sent"
    is_problem(plant.client().ask(JOB, "POST", content=content), 503, "audit-unavailable")
    assert link.take() == b""
    assert plant.lines("request") == [("failed", 503)]


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("ahead", ["unsafe", "all", "none"])
async def test_request_is_refused_while_the_log_is_known_to_take_no_line(ahead: str, method: str) -> None:
    """Safe ones too, whatever is written ahead; no connection is spent on it, and the log is tried with the refusal."""
    plant = Plant(ahead)
    link, client = plant.master(), plant.client()
    plant.log.full = True
    plant.bench.process.record("request", {"outcome": "refused"})
    for _ in range(3):
        is_problem(client.ask(JOB, method), 503, "audit-unavailable")
    plant.log.full = False
    is_problem(client.ask(JOB, method), 503, "audit-unavailable")
    assert plant.lines("request") == [("failed", 503)]
    assert link.take() == b""
    assert not link.is_closing()
    assert client.ask(JOB, method) is None
    link.owner.data_received(OK)
    answer = client.answer()
    assert answer is not None
    assert answer.status == 200
    plant.check_at_rest()
    plant.bench.close()


def test_dispatch_is_refused_while_the_log_is_known_to_take_no_line(plant: Plant) -> None:
    """No worker is lost by it."""
    worker, master = plant.bench.worker(), plant.bench.requester()
    plant.log.full = True
    plant.bench.process.record("request", {"outcome": "refused"})
    for _ in range(3):
        is_problem(master.ask("/-/pools/render/any/x", "POST", content=b"x"), 503, "audit-unavailable")
    assert worker.taken() == b""
    assert plant.bench.pool.pool.free == 1


def test_request_that_waited_while_the_log_failed_does_not_leave(plant: Plant) -> None:
    """A safe one, which has no line of its own: it is looked at again before it leaves."""
    link, served, waits = plant.master(), plant.client(), plant.client()
    assert served.ask(JOB) is None
    link.take()
    plant.target.open = plant.bench.process.generation.config.limits.master_connections  # so the next one waits
    assert waits.ask(JOB) is None
    plant.log.full = True
    link.owner.data_received(OK)
    is_problem(served.answer(), 500, "answer-withheld")
    is_problem(waits.answer(), 503, "audit-unavailable")
    assert link.take() == b""


@pytest.mark.parametrize("method", ["GET", "POST"])
async def test_request_goes_on_unrecorded_when_told_so(method: str) -> None:
    """`when_full = "continue"`: the operator prefers service to a whole log."""
    plant = Plant(when_full="continue")
    link, client = plant.master(), plant.client()
    plant.log.full = True
    for _ in range(2):
        assert client.ask(JOB, method, content=b"hello") is None
        assert link.take().endswith(b"hello")
        link.owner.data_received(OK)
        answer = client.answer()
        assert answer is not None
        assert (answer.status, answer.content) == (200, b"done")
    assert plant.bench.process.counters.audit_lost >= 2
    plant.check_at_rest()
    plant.bench.close()


# ---- the closing line ----


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_answer_whose_line_cannot_be_written_is_withheld_and_says_that_it_ran(plant: Plant, method: str) -> None:
    """Not 503, not Retry-After: who asks again runs it twice. An unsafe one left its line before it left."""
    link, client = plant.master(), plant.client()
    plant.log.fails_on = "request"
    assert client.ask(JOB, method, content=b"hello") is None
    link.owner.data_received(OK)
    answer = client.answer()
    is_problem(answer, 500, "answer-withheld")
    assert answer is not None
    assert b"done" not in answer.content
    assert plant.lines("request.sent") == ([("sent", None)] if method == "POST" else [])


# ---- a second time ----


@pytest.mark.parametrize("ahead", ["unsafe", "all", "none"])
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH"])
async def test_request_that_is_sent_a_second_time_has_a_line_for_each_time(ahead: str, method: str) -> None:
    """Whatever may have run twice is visible, also where requests like it have no line ahead."""
    plant = Plant(ahead)
    second, first = plant.master(), plant.master()
    client = plant.client()
    assert client.ask(JOB, method) is None
    assert first.take()
    first.owner.connection_lost(None)
    ahead_of_it = ahead == "all" or (ahead == "unsafe" and method.encode() not in SAFE)
    if method.encode() in IDEMPOTENT:
        assert second.take()
        assert plant.lines("request.sent") == [("sent" if ahead_of_it else "lost", None), ("sent", None)]
        assert plant.bench.events()[-2:] == [SENT, "write jobs"]
        if not ahead_of_it:
            assert plant.log.of("request.sent")[0]["reason"] == "connection lost"
        second.owner.data_received(OK if method != "HEAD" else OK[:-4])
        assert plant.lines("request") == [("allowed", 200)]
    else:
        assert second.take() == b""
        assert plant.lines("request.sent") == ([("sent", None)] if ahead_of_it else [])
        assert plant.lines("request") == [("failed", 502)]
    plant.check_at_rest()
    plant.bench.close()


def test_request_that_never_left_is_sent_elsewhere_without_another_line(plant: Plant) -> None:
    """Nothing of it was handed to the kernel: that is the first time."""
    second, first = plant.master(), plant.master()
    first.waiting = 1 << 20
    client = plant.client()
    assert client.ask(JOB) is None
    first.owner.data_received(b"x")
    assert plant.lines("request.sent") == []
    assert plant.log.of("connection.cut")[0]["reason"] == "surplus"
    assert second.take()
    second.owner.data_received(OK)
    answer = client.answer()
    assert answer is not None
    assert answer.status == 200


@pytest.mark.parametrize("fails", [1, 2])
def test_request_whose_second_time_cannot_be_said_is_not_sent_again(plant: Plant, fails: int) -> None:
    """The first time may have run: 502, which says so, and no Retry-After."""
    second, first = plant.master(), plant.master()
    client = plant.client()
    assert client.ask(JOB) is None
    if fails == 1:
        plant.log.fails_on = "request.sent"
    else:
        real = plant.log.write_soon

        def full(event: str, fields: Any, who: Any) -> bool:
            plant.log.full = event == "request.sent"
            done = real(event, fields, who)
            plant.log.full = False
            return done

        plant.log.write_soon = full  # type: ignore[method-assign]
    first.owner.connection_lost(None)
    is_problem(client.answer(), 502, "master-lost")
    assert second.take() == b""
