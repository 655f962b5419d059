"""The outbox: small writes leave together at the end of a turn."""

from __future__ import annotations

import asyncio

import pytest

from rhttp.tls.outbox import MANY, Outbox


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


async def test_outbox_with_many_links_sends_between_two_reads() -> None:
    """One link less waits for the end of the turn; what must come first comes first here as well, and nothing twice."""
    log = list[str]()
    outbox = Outbox(asyncio.get_running_loop(), lambda: log.append("first"))
    for number in range(MANY - 1):
        outbox.add(Link(log, str(number)))
    outbox.between_reads()
    assert log == []
    outbox.add(Link(log, "last"))
    assert log == []
    outbox.between_reads()
    sent = ["first", *map(str, range(MANY - 1)), "last"]
    assert log == sent
    outbox.add(Link(log, "more"))
    outbox.between_reads()
    assert log == sent
    await asyncio.sleep(0)
    assert log == [*sent, "first", "more"]


async def test_outbox_with_a_faulty_link_between_two_reads_sends_the_others() -> None:
    """As at the end of the turn."""
    outbox, log = Outbox(asyncio.get_running_loop()), list[str]()
    outbox.add(Link(log, "a", ZeroDivisionError("first")))
    for _ in range(MANY):
        outbox.add(Link(log, "b"))
    with pytest.raises(ZeroDivisionError):
        outbox.between_reads()
    assert log == ["a", *"b" * MANY]
    await asyncio.sleep(0)


async def test_outbox_with_something_to_come_first_does_that_before_links_send() -> None:
    """What must have happened is done before any link sends; links that it adds go with the same flush."""
    log = list[str]()

    def first() -> None:
        log.append("first")
        outbox.add(Link(log, "added"))

    outbox = Outbox(asyncio.get_running_loop(), first)
    outbox.add(Link(log, "a"))
    await asyncio.sleep(0)
    assert log == ["first", "a", "added"]
    outbox.soon()
    outbox.soon()
    await asyncio.sleep(0)
    assert log == ["first", "a", "added", "first", "added"]
    await asyncio.sleep(0)
    assert len(log) == 5


async def test_outbox_whose_first_step_fails_sends_all_the_same() -> None:
    """A fault of the first step is raised when the links had their turn."""
    log = list[str]()

    def first() -> None:
        raise ZeroDivisionError

    outbox = Outbox(asyncio.get_running_loop(), first)
    outbox.add(Link(log, "a"))
    with pytest.raises(ZeroDivisionError):
        outbox.flush()
    assert log == ["a"]
