"""A data process before it is one: started ahead, waiting for its descriptors."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest
from support.supervised import is_gone

from gateway.control.descriptors import Inherited, receive_descriptors, send_descriptors
from gateway.supervisor.launcher import Child, start_ahead

# Takes over like a data process, then says by its exit status how many descriptors came that are what they should be.
_TELL = """
import os, socket, sys
from gateway.control.descriptors import receive_descriptors
sock = socket.socket(fileno=int(sys.argv[1].partition("=")[2]))
got = receive_descriptors(sock)
if got is None:
    sys.exit(99)
sys.exit(sum(not os.get_inheritable(number) for number in got.descriptors()))
"""
TELL = (sys.executable, "-c", _TELL)
STAY = (sys.executable, "-c", "import signal; signal.pause()")


def socket_pair() -> tuple[socket.socket, socket.socket]:
    return socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)


def identity(number: int) -> tuple[int, int]:
    seen = os.fstat(number)
    return seen.st_dev, seen.st_ino


@pytest.mark.parametrize("processes", [1, 2, 127, 128, 256])
def test_descriptor_socket_passes_every_descriptor_to_its_place(processes: int) -> None:
    """The kernel numbers them anew; each is still what it was, however many packets they take."""
    ours, theirs = socket_pair()
    tls, dispatch = ([os.memfd_create(name) for _ in range(processes)] for name in ("tls", "dispatch"))
    single = [os.memfd_create(name) for name in ("control", "metrics", "pki", "mesh", "ledger", "tally")]
    sent = Inherited(
        control=single[0],
        tls=tuple(tls),
        dispatch=tuple(dispatch),
        metrics=single[1],
        pki=single[2],
        mesh=single[3],
        ledger=single[4],
        tally=single[5],
        index=processes - 1,
        processes=processes,
    )
    got = None
    try:
        send_descriptors(ours, sent)
        got = receive_descriptors(theirs)
        assert got is not None
        assert [identity(number) for number in got.descriptors()] == [identity(number) for number in sent.descriptors()]
        assert (got.index, got.processes) == (sent.index, sent.processes)
        assert not set(got.descriptors()) & set(sent.descriptors())
    finally:
        for number in (*sent.descriptors(), *(got.descriptors() if got else ())):
            os.close(number)
        ours.close()
        theirs.close()


def test_descriptor_socket_without_optional_descriptors_leaves_them_out() -> None:
    """A process that is alone has no mesh, no table and no tally."""
    ours, theirs = socket_pair()
    with ours, theirs:
        send_descriptors(ours, Inherited(control=theirs.fileno()))
        got = receive_descriptors(theirs)
        assert got is not None
        assert got == Inherited(control=got.control)
        os.close(got.control)


def test_descriptor_socket_that_closes_gives_nothing() -> None:
    """The supervisor had no need of the process, or died."""
    ours, theirs = socket_pair()
    with theirs:
        ours.close()
        assert receive_descriptors(theirs) is None


@pytest.mark.parametrize("told", [b"hello", b"control=3", b"control=3\ntls=4", b"\xff", b"control=" + b"3" * 20000])
def test_descriptor_socket_with_something_else_is_refused(told: bytes) -> None:
    """No process goes on with descriptors that it does not know the meaning of."""
    ours, theirs = socket_pair()
    with ours, theirs:
        ours.send(told)
        with pytest.raises(ValueError, match=r"descriptor|cut|codec"):
            receive_descriptors(theirs)


async def test_child_is_handed_its_descriptors_and_its_end_is_told_to_all_who_wait() -> None:
    """None of them survives an exec."""
    child = Child(TELL)
    with socket.socket() as control, socket.socket() as tls:
        child.inherit(Inherited(control=control.fileno(), tls=(tls.fileno(),)))
    async with asyncio.timeout(30):
        assert await asyncio.gather(child.wait(), child.wait()) == [2, 2]
    assert is_gone(child.pid)
    child.kill()  # nothing happens: it is gone, and nobody else has its number


async def test_child_that_was_killed_tells_the_signal() -> None:
    """As subprocesses do: negative."""
    child = Child(STAY)
    child.kill()
    async with asyncio.timeout(30):
        assert await child.wait() == -signal.SIGKILL
    child.discard()


def test_child_that_is_gone_takes_nothing() -> None:
    """It is told like every other start that failed."""
    child = Child((sys.executable, "-c", ""))
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    with pytest.raises(BrokenPipeError):
        child.inherit(Inherited(control=0))
    child.discard()


def test_child_that_is_not_needed_is_discarded() -> None:
    """A gateway that cannot start leaves no process."""
    child = Child(STAY)
    child.discard()
    assert is_gone(child.pid)


@pytest.mark.parametrize(
    ("text", "processes", "started"),
    [
        ("processes = 1", None, 1),
        ("", None, 1),
        ("processes = 256", None, 2),
        ("processes = 257", None, 1),
        ("processes = true", None, 1),
        ('processes = "2"', None, 1),
        ("processes = [", None, 1),
        ("processes = 1", 2, 2),
        (None, None, 1),
    ],
)
def test_children_ahead_are_as_many_as_are_needed_and_can_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, processes: int | None, started: int
) -> None:
    """What a configuration says that nobody has checked yet is worth a guess, not a fault."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1})
    monkeypatch.setattr("gateway.supervisor.launcher.Child", object)
    if text is not None:
        (tmp_path / "gateway.toml").write_text(text)
    assert len(start_ahead(tmp_path, processes)) == started
