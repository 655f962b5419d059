"""One gateway's status out of its processes' statuses."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import UTC, datetime


def merge(values: Iterable[object]) -> object:
    """One value out of several of the same shape: numbers add up, lists join, objects merge key by key.

    Anything else (names, modes, flags, None) is the same in every process, so the first one counts.
    """
    found = list(values)
    first = found[0] if found else None
    if isinstance(first, Mapping):
        tables = [value for value in found if isinstance(value, Mapping)]
        keys = dict.fromkeys(key for table in tables for key in table)
        return {key: merge(table[key] for table in tables if key in table) for key in keys}
    if isinstance(first, list):
        return [item for value in found if isinstance(value, list) for item in value]
    if isinstance(first, int | float) and not isinstance(first, bool):
        return sum(value for value in found if isinstance(value, int | float) and not isinstance(value, bool))
    return first


def merge_pools(statuses: Iterable[object]) -> list[object]:
    """The pools of several processes, each process giving a list of objects with a ``pool``, merged by that name."""
    by_name: dict[str, list[object]] = {}
    for pools in statuses:
        for pool in pools if isinstance(pools, list) else ():
            if isinstance(pool, Mapping):
                by_name.setdefault(str(pool.get("pool")), []).append(pool)
    return [_with_workers(merge(same)) if len(same) > 1 else same[0] for same in by_name.values()]


def _with_workers(pool: object) -> object:
    """The pool with one entry for each worker, whose connections may be spread over processes."""
    if not isinstance(pool, dict) or not isinstance(pool.get("workers"), list):
        return pool
    by_name: dict[str, list[Mapping[str, object]]] = {}
    for worker in pool["workers"]:
        if isinstance(worker, Mapping):
            by_name.setdefault(str(worker.get("name")), []).append(worker)
    return pool | {"workers": [_worker(same) for same in by_name.values()]}


def _worker(same: list[Mapping[str, object]]) -> object:
    """Slots add up; it is there since its first connection, and the instance is that of the newest."""
    if len(same) == 1:
        return same[0]
    by_age = sorted(same, key=lambda worker: str(worker.get("since")))  # RFC 3339 in UTC: text sorts as time does
    merged = merge(by_age)
    return merged | {"instance": by_age[-1].get("instance")} if isinstance(merged, dict) else merged


def cut_in_words(cut: object) -> list[str]:
    """What a drain cut, as `gateway.control.channel.Drained` counts it: one sentence, or none when there was
    nothing.
    """
    counts = [(kind, count) for kind, count in cut.items() if count] if isinstance(cut, Mapping) else []
    if not counts:
        return []
    words = (f"{count} {kind.removesuffix('s') if count == 1 else kind}" for kind, count in counts)
    return ["cut when its time was up: " + ", ".join(words)]


def process_entry(
    stream: str, pid: int | None, restarts: int, status: Mapping[str, object] | None, *, is_starting: bool = False
) -> dict[str, object]:
    """One line of ``processes``: what only this process knows.

    Its ``state`` is ``restarting`` without a ``pid``, ``starting`` until it takes connections, ``silent`` without a
    status (it is stopped, hangs, or died just now), else ``serving`` or ``draining``.
    """
    entry: dict[str, object] = {"stream": stream, "pid": pid, "restarts": restarts}
    if status is None:
        state = "restarting" if pid is None else "starting" if is_starting else "silent"
        return entry | {"state": state, "answers": False}
    # Pools are shown once, for the whole gateway.
    entry |= {"state": "draining" if status.get("draining") is True else "serving"}
    return entry | {"answers": True} | {key: value for key, value in status.items() if key not in entry | {"pools": 0}}


def stamp(at: float) -> str:
    """RFC 3339 in UTC, to the millisecond; ``at`` in epoch seconds."""
    return datetime.fromtimestamp(at, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
