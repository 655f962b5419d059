"""Constant load of real clients on a gateway, and how each request of it ended."""

from __future__ import annotations

import subprocess
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from support.rig import Rig
from support.wire import Ended, Wire

REFUSED = 7
"""curl's exit status when it could not connect: nothing was sent."""
TIMED_OUT = 28


@dataclass
class Load:
    """``curl`` processes one after the other in some threads, and connections that are kept. A context manager.

    What ends a request well is an answer of 200, or that the port was closed before anything was sent.
    """

    rig: Rig
    name: str
    path: str
    curls: int = 2
    kept: int = 2
    outcomes: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    refused_at: list[float] = field(default_factory=list)
    served_at: list[float] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._over = threading.Event()
        self._address = self.rig.address
        self._threads = [threading.Thread(target=self._curl) for _ in range(self.curls)]
        self._threads += [threading.Thread(target=self._keep) for _ in range(self.kept)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join(60)

    def longest_gap(self) -> float:
        """The longest time in which the port was refused, until a request was answered again; for a person to read."""
        longest, begun = 0.0, 0.0
        for at, is_served in sorted([(at, False) for at in self.refused_at] + [(at, True) for at in self.served_at]):
            if is_served and begun:
                longest, begun = max(longest, at - begun), 0.0
            elif not is_served and not begun:
                begun = at
        return longest

    def _curl(self) -> None:
        config: Path = self.rig.bundle(self.name) / "curl.conf"
        url = f"https://localhost:{self._address[1]}{self.path}"
        command = ["curl", "-sS", "--max-time", "30", "-K", config, "-o", "/dev/null", "-w", "%{http_code}", url]
        while not self._over.is_set():
            done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == REFUSED:
                self._count("refused", self.refused_at)
                time.sleep(0.02)  # a loop that is refused would take the processor from whom it waits for
            elif (done.returncode, done.stdout) == (0, "200"):
                self._count("curl", self.served_at)
            else:
                self._fault(f"curl: {done.returncode} {done.stdout} {done.stderr.strip()}")

    def _keep(self) -> None:
        while not self._over.is_set():
            try:
                sock = self.rig.tcp_to(self._address)
            except OSError:
                self._count("refused", self.refused_at)
                time.sleep(0.02)
                continue
            try:
                with Wire(sock, self.rig.tls(self.name)) as wire:
                    self._ask_on(wire)
            except (OSError, Ended, AssertionError) as error:
                self._fault(f"kept: {type(error).__name__}: {error}")

    def _ask_on(self, wire: Wire) -> None:
        digest = self.rig.digest(self.name).challenged(wire.ask(self.path))
        is_closing = False
        while not self._over.is_set() and not is_closing:
            answer = wire.ask(self.path, "GET", digest.line(self.path, "GET"))
            if answer.status == 200:
                self._count("kept", self.served_at)
            elif answer.status == 401:
                digest.challenged(answer)
            else:
                self._fault(f"kept: {answer.status} {answer.content[:200]!r}")
            is_closing = "close" in answer.all("connection")
            time.sleep(0.005)

    def _count(self, kind: str, times: list[float]) -> None:
        self.outcomes[kind] += 1
        times.append(time.monotonic())

    def _fault(self, text: str) -> None:
        self.outcomes["faults"] += 1
        self.faults.append(text)
