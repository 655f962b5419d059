"""A link in other hands: no pause, resume, end or loss falls between an owner and the next, at any moment."""

from __future__ import annotations

import asyncio

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from support.links import FakeLink

from rhttp.timers import TimerWheel
from rhttp.tls.link import CLOSED, OPEN

PIECE = b"x" * 700


class Tally:
    """Counts links."""

    def __init__(self) -> None:
        self.open = 0

    def opened(self) -> None:
        self.open += 1

    def closed(self) -> None:
        self.open -= 1


class Owner(asyncio.Protocol):
    """Keeps what it was told, and whether it is the one to be told."""

    def __init__(self, *, keeps_half: bool = True) -> None:
        self.is_blocked = False
        self.ends = 0
        self.losses = 0
        self.received = bytearray()
        self._keeps_half = keeps_half

    def data_received(self, data: bytes) -> None:
        assert not self.ends, "bytes behind the last one"
        assert not self.losses, "bytes of a link that is gone"
        self.received += data

    def eof_received(self) -> bool:
        self.ends += 1
        return self._keeps_half

    def pause_writing(self) -> None:
        assert not self.is_blocked, "told twice"
        self.is_blocked = True

    def resume_writing(self) -> None:
        assert self.is_blocked, "told for nothing"
        self.is_blocked = False

    def connection_lost(self, exc: Exception | None) -> None:
        self.losses += 1
        self.is_blocked = False  # as of every transport: there is nothing left to wait for


def handed() -> tuple[FakeLink, Owner, Owner]:
    """A link, its owner, and the next one."""
    link, old = FakeLink(high_water=1000), Owner()
    link.set_protocol(old)
    return link, old, Owner()


def block(link: FakeLink) -> None:
    link.block()
    link.write(PIECE * 2)


def test_blocked_link_tells_its_new_owner_and_releases_the_old_one() -> None:
    """Whatever the old one stopped elsewhere goes on; the new one writes no more than it must."""
    link, old, new = handed()
    block(link)
    assert old.is_blocked
    link.set_protocol(new)
    assert (old.is_blocked, new.is_blocked) == (False, True)
    link.drain()
    assert not new.is_blocked
    assert link.take() == PIECE * 2


def test_paused_link_is_read_again_by_its_new_owner() -> None:
    """Whoever paused it is not there any more to go on."""
    link, old, new = handed()
    link.pause_reading()
    link.receive(b"early")
    link.set_protocol(new)
    link.settle()
    assert (bytes(old.received), bytes(new.received)) == (b"", b"early")


def test_end_that_came_before_is_told_to_the_new_owner() -> None:
    """A peer that sends no more is one that does so for everybody."""
    link, old, new = handed()
    link.finish()
    link.set_protocol(new)
    assert (old.ends, new.ends) == (1, 1)
    assert not link.is_closing()
    link.set_protocol(last := Owner(keeps_half=False))
    assert last.ends == 1
    assert link.is_closing()


def test_end_is_told_once_however_often_reading_goes_on() -> None:
    """An owner that resumes, because the other side caught up, does not hear of a second end."""
    link, old, _ = handed()
    link.finish()
    for _ in range(3):
        link.pause_reading()
        link.resume_reading()
        link.settle()
    assert old.ends == 1
    link.write(b"answer")
    assert link.take() == b"answer"


def test_link_lost_in_the_turn_of_the_hand_over_tells_the_new_owner() -> None:
    """The reset and the switch in one turn: whoever has the link by then hears of it, and only it."""
    link, old, new = handed()
    link.abort()
    link.set_protocol(new)
    link.settle()
    assert (old.losses, new.losses) == (0, 1)


def test_link_lost_long_ago_tells_its_new_owner() -> None:
    """Nobody waits for a link that is gone."""
    link, old, new = handed()
    link.reset()
    link.set_protocol(new)
    assert new.losses == 0, "not within the call"
    link.settle()
    assert (old.losses, new.losses) == (1, 1)


def test_blocked_link_that_is_lost_releases_its_old_owner() -> None:
    """What it stopped elsewhere goes on, also when nothing is left to hand over."""
    link, old, new = handed()
    block(link)
    link.abort()
    link.set_protocol(new)
    assert (old.is_blocked, new.is_blocked) == (False, False)


def test_links_own_deadline_stays() -> None:
    """The time that a peer has for its last bytes is the link's, whoever closed it."""
    wheel = TimerWheel(100.0)
    tally = Tally()
    link = FakeLink(wheel=wheel, tally=tally, high_water=1000)
    link.set_protocol(Owner())
    block(link)
    link.close()
    link.set_protocol(new := Owner())
    assert tally.open == 1
    wheel.turn(103.0)
    link.settle()
    assert new.losses == 1
    assert tally.open == 0
    assert len(wheel) == 0


class Hands(RuleBasedStateMachine):
    """One link, its peer and any number of owners, in any order of what can happen to them."""

    def __init__(self) -> None:
        super().__init__()
        self.wheel = TimerWheel(100.0)
        self.tally = Tally()
        self.link = FakeLink(wheel=self.wheel, tally=self.tally, high_water=1000)
        self.owner = Owner()
        self.former: list[Owner] = []
        self.sent = b""
        self.written = 0
        self.has_finished = False
        self.is_reset = False
        self.link.set_protocol(self.owner)

    def is_open(self) -> bool:
        return self.link.real._state == OPEN

    def may_write(self) -> bool:
        return self.is_open() and not self.link.real._eof_wanted

    @rule(keeps_half=st.booleans())
    def send_descriptors(self, keeps_half: bool) -> None:
        self.former.append(self.owner)
        self.owner = Owner(keeps_half=keeps_half)
        self.link.set_protocol(self.owner)

    @precondition(may_write)
    @rule(count=st.integers(1, 3))
    def write(self, count: int) -> None:
        self.link.write(PIECE * count)
        self.written += len(PIECE) * count

    @rule(room=st.sampled_from([0, 1, 300, 1500, None]))
    def drain(self, room: int | None) -> None:
        self.link.drain(room)

    @precondition(lambda self: not self.has_finished and not self.is_reset)
    @rule(data=st.sampled_from([b"a", b"bc" * 50]))
    def receive(self, data: bytes) -> None:
        self.sent += data
        self.link.receive(data)

    @precondition(lambda self: not self.has_finished and not self.is_reset)
    @rule()
    def finish(self) -> None:
        self.has_finished = True
        self.link.finish()

    @rule()
    def pause(self) -> None:
        self.link.pause_reading()

    @rule()
    def resume(self) -> None:
        self.link.resume_reading()
        self.link.settle()

    @precondition(is_open)
    @rule()
    def half_close(self) -> None:
        self.link.write_eof()

    @precondition(lambda self: self.link.real._state != CLOSED)
    @rule()
    def close(self) -> None:
        self.link.close()

    @precondition(lambda self: self.link.real._state != CLOSED)
    @rule()
    def reset_and_hand_over(self) -> None:
        """In one turn: the loss is not told yet when the link changes hands."""
        self.is_reset = True
        self.link.abort()
        self.send_descriptors(True)

    @precondition(lambda self: self.link.real._state != CLOSED)
    @rule()
    def reset(self) -> None:
        self.is_reset = True
        self.link.reset()

    @rule()
    def time(self) -> None:
        self.wheel.turn(self.wheel.now + 3.0)
        self.link.settle()

    @invariant()
    def nobody_is_left_deaf(self) -> None:
        real = self.link.real
        assert not any(owner.is_blocked for owner in self.former), "a former owner waits for ever"
        if self.is_open():
            assert self.owner.is_blocked == real._blocked
            assert self.owner.ends == real._eof, "an end that its owner does not know, or knows twice"
            assert self.link.reading == real._reading
            if real._blocked:
                assert self.link.loop.writer is not None, "blocked, and nothing tells when there is room"
        assert self.tally.open == (real._state != CLOSED)
        if real._out and real._state != OPEN:
            assert self.link.real.deadline, "the last bytes have no deadline"

    @invariant()
    def bytes_arrive_once_and_in_order(self) -> None:
        got = b"".join(bytes(owner.received) for owner in (*self.former, self.owner))
        assert self.sent.startswith(got)
        assert self.written - len(self.link.sent) in range(self.written + 1)

    def teardown(self) -> None:
        """Whoever has it at last hears how it ended, and gets what it can still get."""
        self.link.drain()
        if self.is_open():
            self.send_descriptors(True)
            self.link.settle()
            assert self.link.reading or self.owner.ends
            assert len(self.link.sent) == self.written
            got = b"".join(bytes(owner.received) for owner in (*self.former, self.owner))
            assert got == self.sent
            assert self.owner.ends == self.has_finished
            self.link.abort()
        self.time()
        assert self.owner.losses == 1
        assert all(owner.losses <= 1 for owner in self.former)
        assert self.tally.open == 0
        assert len(self.wheel) == 0


Hands.TestCase.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
TestHands = Hands.TestCase
