"""What goes wrong: one trouble at a time or several at once, each written down with its span of time."""

from __future__ import annotations

import contextlib
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from chaos.books import Shut, Trouble
from chaos.stand import StandFailed

if TYPE_CHECKING:
    from chaos.play import Play

FLOOD = 400
# [limits] is the last table of the file.
GOOD_RELOADS = ("keep_alive_timeout = 60.0", "keep_alive_timeout = 75.0", "head_timeout = 9.0")
BAD_RELOADS = ('\n[nonsense]\nkey = "value"\n', "\nthis is no TOML\n", '\n[[routes]]\npath = "/-/x"\nmaster = "jobs"\n')


class Troubles:
    """Everything that can go wrong in one play."""

    def __init__(self, play: Play, seed: int) -> None:
        self._play = play
        self._random = random.Random(seed)
        self._issued = 1
        self.kinds: dict[str, Callable[[Trouble], None]] = {
            "kill-process": self._kill_process,
            "stop-process": self._stop_process,
            "kill-gateway": self._kill_gateway,
            "restart": self._restart,
            "revoke": self._revoke,
            "disable": self._disable,
            "reload": self._reload,
            "bad-reload": self._bad_reload,
            "full-disk": self._full_disk,
            "flood": self._flood,
            "kill-worker": self._kill_worker,
            "stop-worker": self._stop_worker,
        }

    def happen(self, name: str) -> None:
        """Let this happen, and write down from when to when."""
        trouble = Trouble(name=name, who="", began=time.monotonic(), ended=float("inf"))
        self._play.books.troubles.append(trouble)
        try:
            self.kinds[name](trouble)
        finally:
            trouble.ended = time.monotonic()

    # ---- the gateway's processes ----

    def _some_process(self) -> int | None:
        processes = self._play.stand.data_processes()
        return self._random.choice(processes) if processes else None

    def _kill_process(self, trouble: Trouble) -> None:
        pid = self._some_process()
        if pid is not None:
            trouble.who = str(pid)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            time.sleep(1.0)

    def _stop_process(self, trouble: Trouble) -> None:
        pid = self._some_process()
        if pid is None:
            return
        trouble.who = str(pid)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGSTOP)
            time.sleep(self._random.uniform(0.5, 4.0))
            os.kill(pid, signal.SIGCONT)

    def _kill_gateway(self, trouble: Trouble) -> None:
        self._play.stand.kill()
        self._play.stand.start()

    def _restart(self, trouble: Trouble) -> None:
        status = self._play.stand.end()
        if status not in (0, 1):
            raise StandFailed(f"SIGTERM ended the gateway with {status}")
        self._play.stand.start()

    # ---- who may ----

    def _revoke(self, trouble: Trouble) -> None:
        play = self._play
        name = trouble.who = self._random.choice(play.revocable)
        play.stand.cli("revoke", name, "--reason", "superseded")
        shut = Shut(who=name, since=time.monotonic())
        play.books.shut.append(shut)
        time.sleep(self._random.uniform(0.5, 2.0))
        self._issued += 1
        shut.until = time.monotonic()  # the new certificate works from here on
        role = "worker" if name in play.worker_names else "client"
        play.take_bundle(name, play.stand.issue(role, name, self._issued))

    def _disable(self, trouble: Trouble) -> None:
        play = self._play
        name = trouble.who = self._random.choice(play.revocable)
        play.stand.cli("user", "disable", name)
        shut = Shut(who=name, since=time.monotonic())
        play.books.shut.append(shut)
        time.sleep(self._random.uniform(0.5, 2.0))
        shut.until = time.monotonic()
        play.stand.cli("user", "enable", name)

    # ---- reloads ----

    def _reload(self, trouble: Trouble) -> None:
        stand = self._play.stand
        stand.configure(f"{stand.good}{self._random.choice(GOOD_RELOADS)}\n")
        stand.cli("reload")

    def _bad_reload(self, trouble: Trouble) -> None:
        stand = self._play.stand
        stand.configure(stand.good + self._random.choice(BAD_RELOADS))
        stand.cli("reload", statuses=(1,))
        stand.configure(stand.good)

    # ---- the disk ----

    def _full_disk(self, trouble: Trouble) -> None:
        """The audit files of the data processes may not grow: what a full disk says, EFBIG in place of ENOSPC."""
        pids = self._play.stand.data_processes()
        limit = (1, resource.RLIM_INFINITY)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, limit)
        time.sleep(self._random.uniform(0.5, 3.0))
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                resource.prlimit(pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    # ---- before TLS ----

    def _flood(self, trouble: Trouble) -> None:
        """Silent connections and garbage, far more than there are places for handshakes."""
        held: list[socket.socket] = []
        try:
            for number in range(FLOOD):
                sock = socket.socket()
                sock.setblocking(False)
                with contextlib.suppress(BlockingIOError):
                    sock.connect(("127.0.0.1", self._play.stand.port))
                held.append(sock)
                if number % 40 == 39:
                    time.sleep(0.1)
            for sock in held[::3]:
                with contextlib.suppress(OSError):
                    sock.send(self._random.randbytes(50))
            time.sleep(2.0)
        finally:
            for sock in held:
                sock.close()

    # ---- workers ----

    def _kill_worker(self, trouble: Trouble) -> None:
        if self._random.random() < 0.5:
            scripted = self._random.choice(self._play.scripted)
            trouble.who = scripted.name
            scripted.hang_up()
            return
        worker = self._random.choice(self._play.workers)
        trouble.who = worker.name
        worker.kill()
        time.sleep(0.5)
        worker.start()

    def _stop_worker(self, trouble: Trouble) -> None:
        worker = self._random.choice(self._play.workers)
        trouble.who = worker.name
        worker.pause(self._random.uniform(0.5, 3.0))
