"""Instances and caps of workers from outside."""

from __future__ import annotations

import pytest
from support.pooling import slots
from support.rig import NotSwitched, Rig, Worker, upgrade
from support.wire import Wire, request


def serve_one(rig: Rig, worker: Worker) -> None:
    """One request through this worker, which must be the only free one of its name."""
    with rig.dispatch() as wire:
        wire.send(request(f"/-/pools/render/workers/{worker.name}/x"))
        worker.serve()
        assert wire.answer().status == 200


def test_newer_instance_supersedes_an_older_one_once_it_served(rig: Rig, wire: Wire) -> None:
    """Idle old connections close, busy ones after their answer; not before the new one was seen serving."""
    with (
        rig.worker("w1", "render", "Rhttp-Instance: old") as idle,
        rig.worker("w1", "render", "Rhttp-Instance: old") as busy,
    ):
        wire.send(request("/-/pools/render/workers/w1/x"))
        first, rest = (idle, busy) if not idle.wire.is_quiet(0.3) else (busy, idle)
        first.request()
        with rig.worker("w1", "render", "Rhttp-Instance: new") as new:
            assert rig.pool()["slots"] == {"total": 3, "free": 2}
            assert rest.wire.is_quiet()
            with rig.dispatch() as one, rig.dispatch() as two:
                one.send(request("/-/pools/render/workers/w1/y"))
                two.send(request("/-/pools/render/workers/w1/y"))
                rest.serve()
                new.serve()
                assert one.answer().status == two.answer().status == 200
            assert rest.wire.rest() == b""
            assert rest.wire.ended == "notify"
            assert first.wire.is_quiet()
            first.reply()
            assert wire.answer().status == 200
            assert first.wire.rest() == b""
            pool = rig.wait_pool(lambda pool: pool["slots"]["total"] == 1)
            assert pool["workers"][0]["instance"] == "new"
            assert rig.wait_line(event="reverse.closed", reason="superseded")


def test_older_instance_stays_away_while_the_newer_one_is_there(rig: Rig) -> None:
    """It is told why, the log names both, and the pool keeps its slots; a third start is newer than both."""
    with rig.worker("w2", "render", "Rhttp-Instance: first") as first:
        serve_one(rig, first)
        with rig.worker("w2", "render", "Rhttp-Instance: second") as second:
            with rig.dispatch() as one, rig.dispatch() as two:
                for wire in (one, two):
                    wire.send(request("/-/pools/render/workers/w2/x"))
                first.serve()
                second.serve()
                assert one.answer().status == two.answer().status == 200
            assert first.wire.rest() == b""
            for _ in range(3):
                with pytest.raises(NotSwitched) as caught:
                    rig.worker("w2", "render", "Rhttp-Instance: first").wire.close()
                answer = caught.value.answer
                assert (answer.status, answer.problem, answer["retry-after"]) == (409, "superseded", "30")
                line = rig.line_of(answer)
                assert (line["reason"], line["detail"]) == ("superseded", {"instance": "first", "newer": "second"})
                serve_one(rig, second)
            assert slots(rig) == (1, 1)
            with rig.worker("w2", "render", "Rhttp-Instance: third"):
                assert slots(rig) == (2, 2)


def test_connections_without_an_instance_supersede_nothing(rig: Rig) -> None:
    """And are superseded by none."""
    with rig.worker("w1", "render", "Rhttp-Instance: a") as named, rig.worker("w1") as nameless:
        with rig.dispatch() as one, rig.dispatch() as two:
            for wire in (one, two):
                wire.send(request("/-/pools/render/workers/w1/x"))
            named.serve()
            nameless.serve()
            assert one.answer().status == two.answer().status == 200
        assert slots(rig) == (2, 2)
        assert named.wire.is_quiet()


def test_connections_of_one_worker_are_capped(rig: Rig) -> None:
    """Beyond the cap: told so, and closed; the others go on, and room is room again."""
    held = [rig.worker("w1") for _ in range(5)]
    target = "/-/reverse/render"
    with rig.connect("w1") as wire:
        wire.send(upgrade(target, rig.authorized("w2", target, "POST")))
        answer = wire.one()
        assert (answer.status, answer.problem) == (503, "overloaded")
        assert wire.rest() == b""
    assert slots(rig) == (5, 5)
    held.pop().wire.close()
    rig.wait_pool(lambda pool: pool["slots"]["total"] == 4)
    with rig.worker("w1"):
        assert slots(rig) == (5, 5)
    for worker in held:
        worker.wire.close()
