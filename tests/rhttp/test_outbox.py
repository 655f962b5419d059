"""The outbox: small writes leave together at the end of a turn."""

from __future__ import annotations

import asyncio

import pytest

from rhttp.outbox import Outbox


class Link:
    """Counts how often it was told to send."""

    def __init__(self, log: list[str], name: str, fault: Exception | None = None) -> None:
        self._log = log
        self._name = name
        self._fault = fault

    def send_held(self) -> None:
        self._log.append(self._name)
        if self._fault is not None:
            raise self._fault


async def test_outbox_at_the_end_of_the_turn_sends_in_order() -> None:
    """Nothing is sent before the turn is over; then all links are, in the order in which they came."""
    outbox, log = Outbox(asyncio.get_running_loop()), list[str]()
    outbox.add(Link(log, "a"))
    outbox.add(Link(log, "b"))
    assert log == []
    await asyncio.sleep(0)
    assert log == ["a", "b"]
    outbox.add(Link(log, "c"))
    await asyncio.sleep(0)
    assert log == ["a", "b", "c"]


async def test_outbox_with_a_faulty_link_sends_the_others() -> None:
    """A fault of one link is raised only when all others had their turn."""
    outbox, log = Outbox(asyncio.get_running_loop()), list[str]()
    outbox.add(Link(log, "a", ZeroDivisionError("first")))
    outbox.add(Link(log, "b", ValueError("second")))
    outbox.add(Link(log, "c"))
    with pytest.raises(ZeroDivisionError):
        outbox.flush()
    assert log == ["a", "b", "c"]


async def test_outbox_that_a_link_adds_to_while_it_is_flushed_flushes_again() -> None:
    """What a flush causes is sent in the turn that follows."""
    outbox, log = Outbox(asyncio.get_running_loop()), list[str]()

    class Chain(Link):
        def send_held(self) -> None:
            super().send_held()
            outbox.add(Link(log, "next"))

    outbox.add(Chain(log, "first"))
    outbox.flush()
    assert log == ["first"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert log == ["first", "next"]
