"""One status out of several: sums where things add up, one copy where they are the same."""

from __future__ import annotations

from typing import Any

import pytest

from gateway.admin.status import merge, merge_pools, process_entry


@pytest.mark.parametrize(
    ("values", "merged"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([3], 3, id="one"),
        pytest.param([3, 4], 7, id="numbers add up"),
        pytest.param([[1], [2]], [1, 2], id="lists join"),
        pytest.param(["hosted", "hosted"], "hosted", id="text is the same everywhere"),
        pytest.param([True, True], True, id="flags are no numbers"),
        pytest.param([None, None], None, id="unknown stays unknown"),
        pytest.param([{"a": 1, "b": "x"}, {"a": 2, "c": 5}], {"a": 3, "b": "x", "c": 5}, id="objects merge by key"),
        pytest.param([{"a": 1}, "odd"], {"a": 1}, id="a value of another shape is left out"),
        pytest.param([1, "odd", 2], 3, id="text among numbers is left out"),
    ],
)
def test_merge_of_values(values: list[object], merged: object) -> None:
    """Whatever processes tell, the gateway tells once."""
    assert merge(values) == merged


def pool(name: str, free: int, worker: str) -> dict[str, Any]:
    return {"pool": name, "mode": "hosted", "slots": {"total": 2, "free": free}, "workers": [{"name": worker}]}


def test_pools_of_several_processes_are_merged_by_name() -> None:
    """A pool is one pool, wherever its workers are connected."""
    merged = merge_pools([[pool("a", 1, "w1"), pool("b", 2, "w2")], [pool("a", 0, "w3")], None])
    assert merged == [
        {"pool": "a", "mode": "hosted", "slots": {"total": 4, "free": 1}, "workers": [{"name": "w1"}, {"name": "w3"}]},
        pool("b", 2, "w2"),
    ]


def worker(name: str, **facts: Any) -> dict[str, Any]:
    values: dict[str, Any] = {"protocol": "ptth/1.0", "slots": 1, "busy": 0, "labels": {"gpu": "a100"}}
    return {"name": name} | values | facts


def test_worker_with_connections_to_several_processes_is_one_worker() -> None:
    """Slots add up, it is there since its first connection, and the newest says which instance it is."""
    old, new = "2026-11-24T04:17:07.365Z", "2026-11-24T04:17:08.001Z"
    first = worker("w1", slots=3, busy=1, since=new, instance="b")
    second = worker("w1", slots=2, busy=2, since=old, instance="a")
    alone = worker("w2", since=new, instance=None)
    third = worker("w1", since=old, instance="a")
    for processes in ([[first, alone], [second], [third]], [[second], [third], [first, alone]]):
        (merged,) = merge_pools([[{"pool": "a", "workers": workers}] for workers in processes])
        assert isinstance(merged, dict)
        assert merged["workers"][0] == worker("w1", slots=6, busy=3, since=old, instance="b")
        assert merged["workers"][1:] == [alone]


def test_worker_of_a_relay_pool_stays_without_what_only_its_master_knows() -> None:
    """None is not a number."""
    since = "2026-11-24T04:17:07.365Z"
    one = worker("w1", busy=None, since=since, instance=None)
    pools = [[{"pool": "a", "slots": {"total": 1, "free": None}, "workers": [one]}]] * 2
    assert merge_pools(pools) == [{"pool": "a", "slots": {"total": 2, "free": None}, "workers": [one | {"slots": 2}]}]


@pytest.mark.parametrize(
    ("pid", "status", "is_starting", "state", "answers"),
    [
        (None, None, False, "restarting", False),
        (7, None, True, "starting", False),
        (7, None, False, "silent", False),
        (7, {"draining": False, "audit_healthy": False}, False, "serving", True),
        (7, {"draining": True, "audit_healthy": True}, False, "draining", True),
    ],
)
def test_process_entry_says_what_the_process_does(
    pid: int | None, status: dict[str, object] | None, is_starting: bool, state: str, answers: bool
) -> None:
    """One that is down, and one that says nothing, look like none that serves."""
    entry = process_entry("p0", pid, 3, status, is_starting=is_starting)
    assert (entry["pid"], entry["restarts"], entry["state"], entry["answers"]) == (pid, 3, state, answers)
    assert ("audit_healthy" in entry) is answers
