"""Connections to a gateway of two data processes, one to each: which one has a connection is in its audit log."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from support.rig import Rig
from support.wire import Wire


def stream_of(rig: Rig, wire: Wire) -> str:
    """The stream of the process that has this connection of alice's, by the audit line of a request on it."""
    answer = rig.ask("alice", "/jobs/x", wire=wire)
    assert answer.status == 200
    return str(rig.line_of(answer, "request")["stream"])


def clients(rig: Rig, stack: ExitStack) -> dict[str, Wire]:
    """One of alice's connections to each process."""
    return _one_each(lambda: rig.connect("alice"), lambda wire: stream_of(rig, wire), stack)


def masters(rig: Rig, stack: ExitStack) -> dict[str, Wire]:
    """One connection to the dispatch listener to each process."""
    return _one_each(rig.dispatch, lambda wire: str(rig.line_of(wire.ask("/-/pools"), "request")["stream"]), stack)


def _one_each(connect: Callable[[], Wire], stream: Callable[[Wire], str], stack: ExitStack) -> dict[str, Wire]:
    found: dict[str, Wire] = {}
    with ExitStack() as spare:  # they stay until both are found: what is closed may be given out anew
        for _ in range(64):
            wire = connect()
            name = stream(wire)
            (stack if name not in found else spare).enter_context(wire)
            found.setdefault(name, wire)
            if len(found) == 2:
                return found
    raise AssertionError("64 connections were all for one process")
