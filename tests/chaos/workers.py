"""The product's own workers, each a process: started, stopped, killed, and started again."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import threading
import time
from pathlib import Path

from chaos.books import Books, Ran
from chaos.master import BOOK


class WorkerProcess:
    """``rhttp-pki worker`` with the application that keeps books. It is started again when it was killed."""

    def __init__(self, name: str, bundle: Path, binaries: Path, place: Path, *, slots: int = 2) -> None:
        self.name = name
        self.bundle = bundle
        self._program = str(binaries / "rhttp-pki")
        self._slots = slots
        self._place = place
        self._book = place / f"{name}.book"
        self._log = (place / f"{name}.log").open("ab")
        self._process: subprocess.Popen[bytes] | None = None
        self._turn = threading.Lock()

    def start(self) -> None:
        """Start it; one that runs already, since two troubles met here, is ended first."""
        with self._turn:
            if self._process is not None and self._process.poll() is None:
                self._process.kill()
                self._process.wait(30)
            self._process = subprocess.Popen(
                [self._program, "worker", str(self.bundle), "--app", "chaos.master:app", "--slots", str(self._slots)],
                cwd=self._place,  # which `--app` looks in, too
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env=os.environ | {BOOK: str(self._book)},
                start_new_session=True,
            )

    def signal(self, number: signal.Signals) -> None:
        """Tell it something."""
        with self._turn, contextlib.suppress(ProcessLookupError):
            if self._process is not None and self._process.poll() is None:
                self._process.send_signal(number)

    def kill(self) -> None:
        """End it at once."""
        self.signal(signal.SIGKILL)
        if self._process is not None:
            self._process.wait(30)

    def pause(self, seconds: float) -> None:
        """Stop it for a while."""
        self.signal(signal.SIGSTOP)
        time.sleep(seconds)
        self.signal(signal.SIGCONT)

    def close(self) -> None:
        """Leave nothing behind."""
        self.kill()
        self._log.close()

    def write_down(self, books: Books) -> None:
        """Put what ran in it into the books."""
        if self._book.exists():
            books.ran += [Ran(key=line, where=self.name) for line in self._book.read_text().splitlines()]
