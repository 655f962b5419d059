"""A command of ours in a process of its own."""

from __future__ import annotations

import signal
import subprocess
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

PATIENCE = 60.0


class Child:
    """A running command whose stdout is read by line and whose stderr goes to a file; leaves no process behind."""

    def __init__(self, command: Sequence[str | Path], errors: Path, **options: Any) -> None:
        self._errors = errors.open("a+b")
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=self._errors, text=True, **options)

    @property
    def pid(self) -> int:
        return self._process.pid

    def errors(self) -> str:
        """What it wrote on stderr so far."""
        return Path(self._errors.name).read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(PATIENCE)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()
