"""A data process as the operating system sees it: started ahead of time, handed what it inherits, waited for, killed.

It loads its code while the supervisor still reads the home, which is most of what a start takes, and then waits for
its descriptors on a socket. So this module loads next to nothing itself: it is the first thing
that a starting gateway needs.
"""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.config.defaults import MAX_PROCESSES
from gateway.control.descriptors import Inherited, send_descriptors

if TYPE_CHECKING:
    import asyncio

COMMAND: Final = (
    sys.executable,
    "-P",
    "-m",
    "gateway.dataplane.main",
)  # -P: the working directory is no place for our code
ISSUER: Final = (sys.executable, "-P", "-m", "gateway.issuer.main")
_MAX_CONFIG: Final = 4 << 20


class Child:
    """A process that waits for its descriptors.

    The parent-death signal follows the thread that makes it: call from the main one.

    Raises:
        OSError: it could not be started.
    """

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket.setblocking(False)
        self._status: asyncio.Future[int] | None = None
        try:
            self._process = subprocess.Popen(  # noqa: S603 - our own code
                [*command, f"descriptors={theirs.fileno()}"],
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno() if _has_descriptor(sys.stderr) else subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                env=environment(os.environ),
            )
        except BaseException:
            self._socket.close()
            raise
        finally:
            theirs.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def inherit(self, inherited: Inherited) -> None:
        """Give it what it inherits; it goes on with that. Once only.

        Raises:
            OSError: it is gone, or takes nothing.
        """
        with self._socket:
            send_descriptors(self._socket, inherited)

    async def wait(self) -> int:
        """Its exit status, when it has ended; negative: the signal that ended it."""
        import asyncio
        import threading

        if self._status is None:
            loop = asyncio.get_running_loop()
            self._status = status = loop.create_future()

            def reap() -> None:
                if not status.done():
                    status.set_result(self._process.wait())

            def watch() -> None:
                # It is taken off the process table by the loop's thread only, where `kill` is: no other process can
                # have its number by then.
                with contextlib.suppress(ChildProcessError):
                    os.waitid(os.P_PID, self._process.pid, os.WEXITED | os.WNOWAIT)
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits
                    loop.call_soon_threadsafe(reap)

            threading.Thread(target=watch, name=f"wait for {self._process.pid}", daemon=True).start()
        return await asyncio.shield(self._status)

    def kill(self) -> None:
        """End it now."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    def discard(self) -> None:
        """End one that was handed nothing, and wait for its end."""
        self._socket.close()
        self.kill()
        self._process.wait()


def start_ahead(home: Path, processes: int | None) -> list[Child]:
    """The data processes that a gateway of this home will need: as many as can run at once, at least one.

    Without a number the home's configuration is asked, which nobody has checked yet: what it says elsewhere is of no
    matter here, and if it cannot be read at all one will do.
    """
    if processes is None:
        processes = 1
        with contextlib.suppress(OSError, ValueError, RecursionError):
            with (home / "gateway.toml").open("rb") as file:
                found = tomllib.loads(file.read(_MAX_CONFIG).decode()).get("processes")
            if type(found) is int and 1 <= found <= MAX_PROCESSES:
                processes = found
    made: list[Child] = []
    with contextlib.suppress(OSError):  # whoever needs one starts it, and says why that cannot be
        while len(made) < min(processes, len(os.sched_getaffinity(0))):
            made.append(Child())
    return made


def environment(ours: Mapping[str, str]) -> dict[str, str]:
    """What a data process gets of our environment: all, and OpenSSL's settings file unless somebody named another.

    OpenSSL reads it when it is loaded, so it cannot be set later on.
    """
    return {"OPENSSL_CONF": str(Path(__file__).with_name("openssl.cnf")), **ours}


def _has_descriptor(stream: object) -> bool:
    try:
        os.fstat(stream.fileno())  # type: ignore[attr-defined]
    except (AttributeError, OSError, ValueError):
        return False
    return True
