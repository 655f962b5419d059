"""The end of a gateway, as the supervisor leads it: all processes are lame ducks together, then comes the last call.

They do it together because each has a listening socket of its own on one port: a process that closed its own before the
others would refuse a part of all newcomers.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import socket
import struct
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Final

from gateway.control.channel import Drain, LameDuck
from gateway.supervisor.fleet import Fleet
from gateway.supervisor.sockets import Listener

SETTLE: Final = 0.05
"""Seconds for TCP handshakes that were under way when the last call came."""
DRAIN_SLACK: Final = 5.0
"""Seconds that a process may take beyond the drain's own timeout before it is killed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetEnd:
    """How all processes ended: what was cut, by kind, what went wrong, and the last lines of those that told them."""

    cut: Mapping[str, int]
    problems: tuple[tuple[str, str], ...]
    heads: Mapping[str, Mapping[str, object]]


async def drain_fleet(
    fleet: Fleet,
    listeners: Sequence[Listener],
    record: Callable[[], Awaitable[bool]],
    *,
    seconds: float,
    lame_duck: float,
) -> FleetEnd:
    """Lead all processes to their end within so many seconds; the listeners' handles are closed here.

    ``record`` enters the act in the audit log and says whether it is there.
    """
    loop = asyncio.get_running_loop()
    until = loop.time() + seconds
    _, is_recorded = await asyncio.gather(
        fleet.command(
            lambda number: LameDuck(id=number, at_least=lame_duck, timeout=seconds), within=seconds + DRAIN_SLACK
        ),
        record(),
    )
    last_call(listeners)
    await asyncio.sleep(SETTLE)
    left = max(0.0, until - loop.time())
    told = {process.stream for process in fleet.members}
    answers = await fleet.command(lambda number: Drain(id=number, timeout=left), within=left + DRAIN_SLACK)
    problems = [] if is_recorded else [("audit", "admin.drain is not in the audit log")]
    problems += [problem for done in answers.values() for problem in done.problems]
    problems += [
        (stream, f"{stream} did not end in order; what it served was cut") for stream in sorted(told - answers.keys())
    ]
    cut: dict[str, int] = {}
    for done in answers.values():
        for kind, count in _object(done.value.get("cut")).items():
            cut[kind] = cut.get(kind, 0) + (count if isinstance(count, int) else 0)
    heads = {stream: _object(done.value.get("head")) for stream, done in answers.items()}
    return FleetEnd(cut=cut, problems=tuple(problems), heads=heads)


def _object(value: object) -> Mapping[str, object]:
    return value if isinstance(value, dict) else {}


def last_call(listeners: Iterable[Listener]) -> None:
    """Let nobody come any more, but lose nobody who came: data processes still accept what waits in the queues.

    New TCP connections are dropped before they begin, so their peers try again a second later and find the next
    gateway; those whose handshake is under way complete. The file of a unix socket goes. Our handles are closed.
    """
    for listener in listeners:
        for one in (listener, *listener.more):
            if one.path is None:
                with contextlib.suppress(OSError):  # not Linux: the queue's last moment is lost, as it always was
                    one.sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, _no_newcomers())
        listener.close()


class _Step(ctypes.Structure):
    """``struct sock_filter`` (linux/filter.h)."""

    _fields_: ClassVar = [
        ("code", ctypes.c_uint16),
        ("jt", ctypes.c_uint8),
        ("jf", ctypes.c_uint8),
        ("k", ctypes.c_uint32),
    ]


_FILTER: Final = (_Step * 5)(
    _Step(0x30, 0, 0, 13),  # load the byte of TCP's flags
    _Step(0x54, 0, 0, 0x12),  # SYN and ACK
    _Step(0x15, 0, 1, 0x02),  # only SYN: go on, else over the next
    _Step(0x06, 0, 0, 0),  # drop
    _Step(0x06, 0, 0, 0xFFFFFFFF),  # take all of it
)
_SO_ATTACH_FILTER: Final = 26


def _no_newcomers() -> bytes:
    """``struct sock_fprog``: the kernel copies the program that it points to."""
    return struct.pack("@HP", len(_FILTER), ctypes.addressof(_FILTER))
