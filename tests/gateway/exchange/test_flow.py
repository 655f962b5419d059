"""Whatever peers do and in whatever order, nobody is left deaf: who waits is told, who is paused goes on, time runs."""

from __future__ import annotations

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule
from support.flows import SIZES, Flow

PIECE = st.sampled_from([1, 100, 3000, 20_000, 70_000])


class Peers(RuleBasedStateMachine):
    """A requester and a worker that send, read, stall, end and vanish at will."""

    is_remote = False

    @initialize(
        sizes=st.lists(st.tuples(st.sampled_from(SIZES), st.sampled_from(SIZES)), min_size=1, max_size=3),
        roughness=st.sampled_from([0, 0, 1, 2, 3]),
        is_silent=st.booleans(),
    )
    def begin(self, sizes: list[tuple[int, int]], roughness: int, is_silent: bool) -> None:
        self.flow = Flow(is_remote=self.is_remote, sizes=sizes)
        self.flow.requester.link.block()
        self.was_disturbed = False
        self.roughness = roughness
        """0: nothing goes wrong; 1: time passes; 2: peers end in order, too; 3: and vanish."""
        self.is_silent = is_silent
        """At last nobody sends or reads any more; else everybody does its part."""

    @rule(size=PIECE)
    def requester_sends(self, size: int) -> None:
        self.flow.ask(size)

    @rule(size=PIECE)
    def requester_reads(self, size: int) -> None:
        self.flow.requester.link.drain(size)
        self.flow.settle()

    @rule(size=PIECE)
    def worker_sends(self, size: int) -> None:
        self.flow.answer(size)

    @rule(size=PIECE)
    def worker_reads(self, size: int) -> None:
        self.flow.workers[-1].link.drain(size)
        self.flow.settle()

    @precondition(lambda self: self.is_remote)
    @rule(size=PIECE, ways=st.sampled_from(["there", "back", "there and back"]))
    def processes_talk(self, size: int, ways: str) -> None:
        self.flow.pump(size, ways)

    @precondition(lambda self: self.roughness >= 1)
    @rule(seconds=st.sampled_from([1.0, 20.0]))
    def time_passes(self, seconds: float) -> None:
        self.was_disturbed = True  # some of it may be too much
        self.flow.wait(seconds)

    @precondition(lambda self: self.roughness >= 2)
    @rule()
    def requester_ends(self) -> None:
        link = self.flow.requester.link
        self.was_disturbed = True
        self.flow.asked = len(self.flow.requests)
        if not link.is_closing() and b"" not in link.socket.coming and not link.real._eof:
            link.finish()
            self.flow.settle()

    @precondition(lambda self: self.roughness >= 2)
    @rule()
    def worker_ends(self) -> None:
        link = self.flow.workers[-1].link
        self.was_disturbed = True
        if not link.is_closing() and b"" not in link.socket.coming and not link.real._eof:
            link.finish()
            self.flow.settle()

    @precondition(lambda self: self.roughness >= 3)
    @rule()
    def requester_vanishes(self) -> None:
        self.was_disturbed = True
        if not self.flow.requester.link.is_closing():
            self.flow.requester.link.reset()
            self.flow.settle()

    @precondition(lambda self: self.roughness >= 3)
    @rule()
    def worker_vanishes(self) -> None:
        self.was_disturbed = True
        if not self.flow.workers[-1].link.is_closing():
            self.flow.workers[-1].link.reset()
            self.flow.settle()

    @rule()
    def worker_comes_back(self) -> None:
        self.flow.come()

    def teardown(self) -> None:
        flow = self.flow
        try:
            if self.is_silent:
                flow.fall_silent()
                assert flow.requester.link.is_closing(), "a requester that neither sends nor reads stays for ever"
            else:
                flow.finish()
                link = flow.requester.link
                if not self.was_disturbed:
                    assert not link.is_closing()
                if not (link.is_closing() or link.eof or link.real._eof):
                    assert flow.answers_seen() == flow.count
                    assert flow.requester.end.is_idle
                    assert not flow.requester.end.blocked
                    assert link.reading
            flow.check_over()
        finally:
            flow.close()


class PeersOfTwoProcesses(Peers):
    """The same, with the worker in another process."""

    is_remote = True


MANY = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck), print_blob=True
)
Peers.TestCase.settings = MANY
PeersOfTwoProcesses.TestCase.settings = MANY
TestPeers = Peers.TestCase
TestPeersOfTwoProcesses = PeersOfTwoProcesses.TestCase
