"""What the supervisor hands to a data process when it starts it: descriptors by number, and the sockets behind them.

They come through a socket whose number is the process's only argument: nothing secret is ever in a command
line, and a process can be started before there is anything to inherit.
"""

from __future__ import annotations

import mmap
import os
import re
import socket
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from gateway.config.defaults import MAX_PROCESSES

_NUMBERS: Final = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*")
_SEVERAL: Final = frozenset({"tls", "dispatch"})
_SINGLE: Final = ("metrics", "pki", "enroll", "mesh", "ledger", "tally")
_ONE: Final = frozenset({"control", *_SINGLE, "index", "processes"})
_ENTRY: Final = 4
_AT_ONCE: Final = 128
"""Descriptors in one packet; Linux takes 253 (SCM_MAX_FD)."""
_TOLD: Final = 16 * 1024
"""Bytes of the last packet: two numbers for each process, and a few more."""


def mesh_path(folder: Path, index: int) -> Path:
    """The unix socket on which a data process hears the others, in the home's `run` folder."""
    return folder / f"p{index}.sock"


@dataclass(frozen=True, slots=True, kw_only=True)
class Inherited:
    """Descriptors, and which of how many processes this is.

    ``tls`` and ``dispatch`` name a listening socket for each process, in their order, the process's own at ``index``;
    a single one is shared by all. ``ledger`` is the table of spent counters that all processes share; None when there
    is one process, which keeps its own. ``tally`` is the memory of a `Tally`.
    """

    control: int
    tls: tuple[int, ...] = ()
    dispatch: tuple[int, ...] = ()
    metrics: int | None = None
    pki: int | None = None
    enroll: int | None = None
    mesh: int | None = None
    ledger: int | None = None
    tally: int | None = None
    index: int = 0
    processes: int = 1

    def arguments(self) -> list[str]:
        """What is what, as `parse_arguments` reads it."""
        told: dict[str, tuple[int, ...]] = {"control": (self.control,), "tls": self.tls, "dispatch": self.dispatch}
        some = {name: getattr(self, name) for name in _SINGLE}
        told |= {name: (number,) for name, number in some.items() if number is not None}
        if self.processes > 1:
            told |= {"index": (self.index,), "processes": (self.processes,)}
        return [f"{name}={','.join(map(str, numbers))}" for name, numbers in told.items() if numbers]

    def descriptors(self) -> tuple[int, ...]:
        """Every descriptor, in one order."""
        some = (getattr(self, name) for name in _SINGLE)
        return (self.control, *self.tls, *self.dispatch, *(number for number in some if number is not None))

    def sockets(self) -> Sockets:
        """The listening sockets, non-blocking; call it once.

        Raises:
            OSError: a number that is no open socket.
        """
        return Sockets(
            tls=tuple(_socket(number) for number in self.tls),
            dispatch=tuple(_socket(number) for number in self.dispatch),
            metrics=None if self.metrics is None else _socket(self.metrics),
            pki=None if self.pki is None else _socket(self.pki),
            enroll=None if self.enroll is None else _socket(self.enroll),
            mesh=None if self.mesh is None else _socket(self.mesh),
            tally=None if self.tally is None else Tally(self.tally, self.index, self.processes),
            index=self.index,
            processes=self.processes,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Sockets:
    """The listening sockets of `Inherited`: a purpose that is not served has none."""

    tls: tuple[socket.socket, ...] = ()
    dispatch: tuple[socket.socket, ...] = ()
    metrics: socket.socket | None = None
    pki: socket.socket | None = None
    enroll: socket.socket | None = None
    mesh: socket.socket | None = None
    tally: Tally | None = None
    index: int = 0
    processes: int = 1


class Tally:
    """How many connections each process has that came through a queue which all share, in memory that all have mapped.

    Each process writes its own number only, with one store; a reader may see the number before.
    """

    __slots__ = ("_index", "_numbers")

    def __init__(self, fd: int, index: int, processes: int) -> None:
        """Map the memory that `make` gave; ours is 0 until we say something else. ``fd`` is closed.

        Raises:
            OSError: it is no such descriptor.
            ValueError: it is too short for so many processes.
        """
        self._index = index
        try:
            self._numbers = memoryview(mmap.mmap(fd, _ENTRY * processes)).cast("I")
        finally:
            os.close(fd)
        self._numbers[index] = 0

    @staticmethod
    def make(processes: int) -> int:
        """The descriptor of memory for so many processes; it has no name and is closed on exec, unless passed on."""
        fd = os.memfd_create("rhttp-pki-tally", os.MFD_CLOEXEC)
        os.ftruncate(fd, _ENTRY * processes)
        return fd

    def is_ahead(self, count: int, gone: Collection[int]) -> bool:
        """Say that we have so many; whether a process that is not ``gone`` has fewer, by more than one."""
        self._numbers[self._index] = count
        return any(number + 1 < count for index, number in enumerate(self._numbers) if index not in gone)


def _socket(number: int) -> socket.socket:
    made = socket.socket(fileno=number)
    made.setblocking(False)
    return made


def send_descriptors(sock: socket.socket, inherited: Inherited) -> None:
    """Send the descriptors through a sequenced-packet socket; the last packet says what is what.

    Raises:
        OSError: the other process is gone, or the packets do not go in without waiting.
    """
    numbers = inherited.descriptors()
    for start in range(0, len(numbers), _AT_ONCE):
        socket.send_fds(sock, [b"+"], numbers[start : start + _AT_ONCE])
    sock.send("\n".join(inherited.arguments()).encode())


def receive_descriptors(sock: socket.socket) -> Inherited | None:
    """What `send_descriptors` sent, with the numbers that the descriptors have here; None: the socket was closed.

    Raises:
        ValueError: something else than `send_descriptors` sends.
        OSError: it is no such socket.
    """
    here: list[int] = []
    while True:
        told, numbers, flags, _ = socket.recv_fds(sock, _TOLD, _AT_ONCE)
        here += numbers
        for number in numbers:
            os.set_inheritable(number, False)  # recv_fds of Python 3.11 passes no MSG_CMSG_CLOEXEC on
        if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
            raise ValueError("a packet that was cut")
        if not told:
            return None
        if told != b"+":
            break
    there = parse_arguments(told.decode().split("\n"))
    if len(here) != len(there.descriptors()):
        raise ValueError(f"{len(here)} descriptors came, {len(there.descriptors())} were told of")
    as_here = dict(zip(there.descriptors(), here, strict=True))
    return replace(
        there,
        control=as_here[there.control],
        tls=tuple(as_here[number] for number in there.tls),
        dispatch=tuple(as_here[number] for number in there.dispatch),
        **{name: as_here[number] for name in _SINGLE if (number := getattr(there, name)) is not None},
    )


def parse_arguments(arguments: Sequence[str]) -> Inherited:
    """``control=FD``, ``tls=FD,FD``, ``dispatch=FD``, ``metrics=FD``, ``pki=FD``, ``enroll=FD``, ``mesh=FD``,
    ``ledger=FD``, ``tally=FD``, ``index=I``, ``processes=N``: the first is required, each stands at most once.

    Raises:
        ValueError: anything else.
    """
    found: dict[str, tuple[int, ...]] = {}
    for argument in arguments:
        name, _equals, text = argument.partition("=")
        numbers = tuple(map(int, text.split(","))) if _NUMBERS.fullmatch(text) else ()
        if not numbers or name in found or not (name in _SEVERAL or (name in _ONE and len(numbers) == 1)):
            raise ValueError(f"not an inherited descriptor: {argument!r}")
        found[name] = numbers
    if "control" not in found:
        raise ValueError("no control socket; data processes are started by `rhttp-pki gateway`")
    one = {name: numbers[0] for name, numbers in found.items() if name in _ONE}
    made = Inherited(tls=found.get("tls", ()), dispatch=found.get("dispatch", ()), **one)
    if not 0 <= made.index < made.processes <= MAX_PROCESSES:
        raise ValueError(f"there is no process {made.index} of {made.processes}")
    for name in _SEVERAL & found.keys():
        if len(found[name]) not in (1, made.processes):
            raise ValueError(f"{name} has {len(found[name])} descriptors for {made.processes} processes")
    return made
