"""A gateway over a real home in a process of its own, awaited by its lines.

`Served` starts the real one; as a script (``serving.py [PASSPHRASE-FILE]``) this is one with the fake data plane.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

REAL = (sys.executable, "-P", "-m", "gateway.cli.main", "gateway")
FAKE = (sys.executable, str(Path(__file__)))
_PATIENCE = 60.0


class Served:
    """A running gateway: `listeners` maps purpose to URL; a context manager that leaves no process behind."""

    def __init__(self, home: Path, *arguments: str, command: Sequence[str] = REAL) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "RHTTP_PKI_HOME": str(home)}
        self._errors = (home.parent / f"{home.name}.stderr").open("a+b")
        self._process = subprocess.Popen(
            [*command, *arguments], stdout=subprocess.PIPE, stderr=self._errors, env=environment, text=True
        )
        assert self._process.stdout is not None
        self.listeners: dict[str, str] = {}
        self.lines: list[str] = []
        for line in self._process.stdout:
            self.lines.append(line.rstrip("\n"))
            words = line.split()
            if words[2:4] == ["listener", "on"]:
                self.listeners[words[1].lower()] = words[4]
            if words[:2] == ["gateway:", "ready"]:
                return
        self._process.wait(_PATIENCE)
        raise AssertionError(f"the gateway ended with {self._process.returncode} before it was ready: {self.errors()}")

    @property
    def pid(self) -> int:
        return self._process.pid

    def errors(self) -> str:
        """What it wrote on stderr so far."""
        self._errors.flush()
        return Path(self._errors.name).read_text()

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def ended(self) -> int:
        """Wait for its end; the exit status."""
        return self._process.wait(_PATIENCE)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self._errors.close()


def _main(home: Path, passphrase: bytes | None) -> int:
    from support.fakegateway import COMMAND

    from gateway.config.values import LoadFailed
    from gateway.supervisor.main import serve

    try:
        return serve(
            home,
            overrides={},
            passphrase=passphrase,
            say=lambda line: print(f"gateway: {line}", flush=True),
            log=lambda line: print(f"gateway: {line}", file=sys.stderr, flush=True),
            command=COMMAND,
        )
    except LoadFailed as error:
        for problem in error.problems:
            print(f"gateway: {problem}", file=sys.stderr, flush=True)
        return 1


if __name__ == "__main__":
    sys.exit(_main(Path(os.environ["RHTTP_PKI_HOME"]), Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else None))
