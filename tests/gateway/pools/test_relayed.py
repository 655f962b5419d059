"""Two links joined: whatever either peer does before and after, bytes pass in order and no side is left deaf."""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from support.bench import worker_peer
from support.links import FakeLink

from auth.policy import Context
from gateway.pools.relayed import Relayed
from rhttp.timers import TimerWheel

Steps = list[tuple[str, int, int]]
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["send", "read", "end", "reset", "time"]), st.integers(0, 1), st.sampled_from([1, 700, 3000])
    ),
    max_size=30,
)


class Former(asyncio.Protocol):
    """Whoever had the link before: keeps what it was given."""

    def __init__(self) -> None:
        self.received = bytearray()

    def data_received(self, data: bytes) -> None:
        self.received += data

    def eof_received(self) -> bool:
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        pass


class Pool:
    """What a relayed connection asks of its pool."""

    def __init__(self, wheel: TimerWheel) -> None:
        self.wheel = wheel
        self.is_open = True

    def forget(self, relayed: Relayed) -> bool:
        was_open, self.is_open = self.is_open, False
        self.wheel.forget(relayed)
        return was_open

    def limit_half(self, relayed: Relayed) -> None:
        self.wheel.set(relayed, 60.0)


def play(before: Steps, after: Steps) -> None:
    """Steps of the two peers before the join and after it, then an end in which both do their part."""
    wheel = TimerWheel(100.0)
    links = [FakeLink(wheel=wheel, high_water=1000) for _ in range(2)]
    said = [bytearray(), bytearray()]
    is_ended = [False, False]
    is_cut = False
    pool: Any = Pool(wheel)
    former = [Former(), Former()]
    for link, one in zip(links, former, strict=True):
        link.set_protocol(one)
        link.block()

    def step(what: str, index: int, size: int) -> bool:
        link = links[index]
        if link.is_closing():
            return False
        if what == "send" and not is_ended[index]:
            said[index] += (data := bytes([65 + len(said[index]) % 26]) * size)
            link.receive(data)
        elif what == "read":
            link.drain(size)
        elif what == "end" and not is_ended[index]:
            is_ended[index] = True
            link.finish()
        elif what == "reset":
            link.reset()
            return True
        elif what == "time":
            wheel.turn(wheel.now + 25.0)
        for one in links:
            one.settle()
        return what == "time" and any(is_ended)

    for what, index, size in before:
        is_cut |= step(what, index, size)
    early = [bytes(one.received) for one in former]
    relayed = Relayed(
        pool,
        worker_peer("w1"),
        "ptth/1.0",
        "r",
        0.0,
        Context("tls", "ptth/1.0"),
        worker=links[0],
        master=links[1],  # type: ignore[arg-type]
    )
    relayed.join(b"")
    for what, index, size in after:
        is_cut |= step(what, index, size)
    for _ in range(20):
        for link in links:
            link.drain()
            link.settle()
    if is_cut or all(is_ended):
        return
    assert not any(link.is_closing() for link in links)
    for index, link in enumerate(links):
        passed = bytes(links[1 - index].sent)
        assert passed == bytes(said[index])[len(early[index]) :]
        assert link.reading or is_ended[index], "nobody hears it any more"
        assert links[1 - index].eof == is_ended[index], "an end that did not pass"
    assert bool(relayed.deadline) == any(is_ended), "half of a connection is bounded"


@settings(max_examples=300, deadline=None)
@given(before=STEPS, after=STEPS)
def test_relayed_connection_leaves_no_side_deaf(
    before: list[tuple[str, int, int]], after: list[tuple[str, int, int]]
) -> None:
    """Pauses, ends and losses from before the switch are those of after it."""
    play(before, after)


def test_relayed_connection_joined_to_a_full_link_stops_the_other_side() -> None:
    """And has it go on when there is room."""
    wheel = TimerWheel(100.0)
    full, free = (FakeLink(wheel=wheel, high_water=1000) for _ in range(2))
    for link in (full, free):
        link.set_protocol(Former())
    full.block()
    full.write(b"x" * 3000)
    pool: Any = Pool(wheel)
    for pair in ((full, free), (free, full)):
        relayed = Relayed(
            pool,
            worker_peer("w1"),
            "ptth/1.0",
            "r",
            0.0,
            Context("tls", "ptth/1.0"),
            worker=pair[0],
            master=pair[1],  # type: ignore[arg-type]
        )
        relayed.join(b"")
        assert (full.reading, free.reading) == (True, False)
    full.drain()
    assert free.reading
