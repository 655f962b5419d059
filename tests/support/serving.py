"""A gateway over a real home in a process of its own, awaited by its lines.

`Served` starts the real one; as a script (``serving.py [PASSPHRASE-FILE]``) this is one with the fake data plane.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from support.children import PATIENCE, Child

REAL = (sys.executable, "-P", "-m", "gateway.cli.main", "gateway")
FAKE = (sys.executable, str(Path(__file__)))


class Served(Child):
    """A running gateway: `listeners` maps purpose to URL; a context manager that leaves no process behind."""

    def __init__(self, home: Path, *arguments: str, command: Sequence[str] = REAL) -> None:
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parent.parent), "RHTTP_PKI_HOME": str(home)}
        super().__init__([*command, *arguments], home.parent / f"{home.name}.stderr", env=environment)
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
        self._process.wait(PATIENCE)
        raise AssertionError(f"the gateway ended with {self._process.returncode} before it was ready: {self.errors()}")


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
