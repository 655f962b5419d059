"""What each process that the supervisor starts does first (I/O): it ends with its parent, and takes what it is handed.

Trust: trusted parent.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import resource
import signal
import socket
import sys
from collections.abc import Sequence
from typing import Final, NoReturn

from gateway.control.descriptors import Inherited, receive_descriptors

_ARGUMENT: Final = re.compile(r"descriptors=([0-9]{1,9})")
_PR_SET_PDEATHSIG: Final = 1
_PR_SET_DUMPABLE: Final = 4
BROKEN: Final = 70
"""The exit status of a process that cannot go on."""


def die_with_parent() -> None:
    """Have the kernel kill this process when its parent ends (prctl(2), ``PR_SET_PDEATHSIG``).

    The control socket tells it too, but only a loop that still turns. A parent that ended before this call is seen
    through the control socket.
    """
    with contextlib.suppress(OSError, AttributeError):  # not Linux: the control socket alone has to do
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def prepare_process() -> None:
    """What a process does before anything else, loading our code included. Twice does no harm."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a terminal or a service manager tells the whole group; we are drained
    die_with_parent()
    os.umask(0o077)
    # Whoever started us ahead of time has not raised it yet; how many are needed is said by the supervisor.
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def withhold_memory() -> None:
    """Leave no core dump, and let no other process of this user read our memory (prctl(2), ``PR_SET_DUMPABLE``)."""
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        ctypes.CDLL(None).prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


class ProcessLog:
    """What a process says on stderr, and how it ends when it cannot go on."""

    def __init__(self, name: str) -> None:
        self._name = name

    def say(self, text: str) -> None:
        """One line."""
        with contextlib.suppress(OSError, ValueError):  # nobody reads it: whoever logs still has to act
            print(f"{self._name}[{os.getpid()}]: {' '.join(text.split())}", file=sys.stderr, flush=True)  # noqa: T201

    def break_off(self, text: str) -> NoReturn:
        """Say why, and end now; the supervisor starts another."""
        self.say(f"{text}; ending, the supervisor starts another")
        os._exit(BROKEN)


def read_inherited(arguments: Sequence[str]) -> Inherited | None:
    """What the supervisor hands over, once it does; None: it has no need of this process, or is gone.

    Raises:
        ValueError: the arguments, or what came, are not the supervisor's.
        OSError: the socket that they name is none.
    """
    argument = _ARGUMENT.fullmatch(arguments[0]) if len(arguments) == 1 else None
    if argument is None:
        raise ValueError("no socket for descriptors; this is started by `rhttp-pki gateway`")
    with socket.socket(fileno=int(argument[1])) as sock:
        return receive_descriptors(sock)
