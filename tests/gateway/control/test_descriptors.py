"""What a data process is started with: descriptors with a known purpose, and nothing else."""

from __future__ import annotations

import os
import socket

import pytest

from gateway.control.descriptors import Inherited, Sockets, Tally, parse_arguments

OF_TWO = ["control=3", "tls=4,5", "dispatch=6", "mesh=7", "ledger=8", "tally=10", "index=1", "processes=2"]


def test_arguments_of_one_process_are_its_descriptors() -> None:
    """Without a word about others there is one process."""
    assert parse_arguments(["control=3", "tls=4", "dispatch=5"]) == Inherited(control=3, tls=(4,), dispatch=(5,))


def test_arguments_of_several_processes_name_every_listening_socket() -> None:
    """All sockets in the order of the processes, and which process this is."""
    inherited = parse_arguments([*OF_TWO, "metrics=9"])
    assert (inherited.tls, inherited.dispatch, inherited.metrics) == ((4, 5), (6,), 9)
    assert (inherited.mesh, inherited.ledger, inherited.tally) == (7, 8, 10)
    assert (inherited.index, inherited.processes) == (1, 2)
    assert parse_arguments(["control=3", "dispatch=4,5", "processes=2"]).dispatch == (4, 5)


@pytest.mark.parametrize(
    "argument",
    [
        "control=x",
        "control=-4",
        "control=",
        "control=4,5",
        "control=٣",  # a digit, but not of ours
        "control=12345678901",
        "control=4",  # twice
        "other=4",
        "tls",
        "tls=",
        "tls=4,",
        "tls=4,5",  # for one process
        "mesh=4,5",
        "index=1",  # of one process
        "processes=0",
        "processes=257",
    ],
)
def test_arguments_wrong_are_refused(argument: str) -> None:
    """Only descriptors with a known purpose are taken, each once, as many as there are processes."""
    with pytest.raises(ValueError, match=r"descriptor|process"):
        parse_arguments(["control=3", argument])


@pytest.mark.parametrize("instead", ["tls=4,5,6", "dispatch=6,7,8", "index=2", "processes=1", "processes=3"])
def test_arguments_that_contradict_each_other_are_refused(instead: str) -> None:
    """There are as many sockets as processes, or one for all of them."""
    name = instead.partition("=")[0]
    arguments = [argument for argument in OF_TWO if not argument.startswith(f"{name}=")]
    with pytest.raises(ValueError, match=r"descriptors for|there is no process"):
        parse_arguments([*arguments, instead])


def test_arguments_without_a_control_socket_say_who_starts_processes() -> None:
    """Who runs the module learns what to run instead."""
    with pytest.raises(ValueError, match="rhttp-pki gateway"):
        parse_arguments([])


def test_sockets_are_opened_by_number_and_never_block() -> None:
    """A data process's loop waits for nobody in an accept."""
    mine, other = (socket.create_server(("127.0.0.1", 0)) for _ in range(2))
    numbers = tuple(os.dup(sock.fileno()) for sock in (mine, other))
    opened = Inherited(control=-1, tls=numbers, mesh=os.dup(mine.fileno()), index=1, processes=2).sockets()
    assert [sock.getsockname() for sock in opened.tls] == [mine.getsockname(), other.getsockname()]
    assert (opened.index, opened.processes, opened.dispatch, opened.metrics) == (1, 2, (), None)
    assert opened.mesh is not None
    for sock in (*opened.tls, opened.mesh):
        assert not sock.getblocking()
    for sock in (*opened.tls, opened.mesh, mine, other):
        sock.close()


def test_sockets_whose_number_is_closed_are_refused() -> None:
    """A process that was handed nothing does not serve nothing."""
    with pytest.raises(OSError, match=r".*"):
        Inherited(control=-1, tls=(2**20,)).sockets()
    assert Inherited(control=-1).sockets() == Sockets()


@pytest.mark.parametrize("arguments", [["control=3"], ["control=3", "tls=4", "dispatch=5", "metrics=6"], OF_TWO])
def test_arguments_written_are_the_ones_that_are_read(arguments: list[str]) -> None:
    """Supervisor and process mean the same, and every descriptor that is named is handed over."""
    inherited = parse_arguments(arguments)
    assert inherited.arguments() == arguments
    numbers = [argument.partition("=")[2] for argument in arguments if argument[:5] not in ("index", "proce")]
    assert sorted(inherited.descriptors()) == sorted(int(number) for text in numbers for number in text.split(","))


def tallies(processes: int) -> list[Tally]:
    """One for each process, as if they were processes."""
    fd = Tally.make(processes)
    made = [Tally(os.dup(fd), index, processes) for index in range(processes)]
    os.close(fd)
    return made


def test_tally_says_who_is_ahead_of_the_others() -> None:
    """One more is no reason to wait for anybody, two more is; those that are gone do not count."""
    first, second, third = tallies(3)
    assert not first.is_ahead(1, ())
    assert first.is_ahead(2, ())
    assert not second.is_ahead(1, ())
    assert first.is_ahead(2, ())
    assert not first.is_ahead(2, {2})
    assert not third.is_ahead(1, ())
    assert not first.is_ahead(2, ())
    assert first.is_ahead(3, {2})
    assert not first.is_ahead(99, {1, 2})


def test_tally_of_a_process_that_begins_again_is_zero() -> None:
    """The connections of the process before it are gone."""
    fd = Tally.make(2)
    first, second = Tally(os.dup(fd), 0, 2), Tally(os.dup(fd), 1, 2)
    assert second.is_ahead(5, ())
    assert not first.is_ahead(6, ())
    Tally(fd, 1, 2)  # it begins again
    assert first.is_ahead(2, ())


def test_tally_of_memory_that_is_too_short_is_refused_and_no_descriptor_is_left() -> None:
    """A process never writes where nothing is."""
    fd = Tally.make(2)
    with pytest.raises((ValueError, OSError), match=r".+"):
        Tally(fd, 0, 3000)
    with pytest.raises(OSError, match=r".+"):
        os.fstat(fd)
