"""One renewal in a process of its own (I/O), and the call that has it done.

`rhttp.tls` is for one thread of a process: its buffer and its place for what a handshake found belong to all
connections. So an agent, whose thread serves, has a child ask the gateway. The child gets a path, a URL and a serial;
secrets stay in the bundle.

Trust: the child is ours.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Final

from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.est_renewal import try_renewal

__all__ = ["RenewalChild", "main"]

_LONGEST: Final = 300.0
"""Seconds after which a child is ended; every step that it takes is bounded by less."""
_START: Final = (
    "import sys; sys.path.append(sys.argv.pop(1)); from rhttp.worker.renewal_child import main; main(*sys.argv[1:])"
)


class RenewalChild:
    """Renews a bundle once, unless its certificate is another than the one of this serial by then."""

    def __init__(self, place: Path, gateway: str | None, serial: str) -> None:
        """Starts it.

        Raises:
            OSError: it cannot be started.
        """
        ours = str(Path(__file__).parents[2])
        command = (sys.executable, "-P", "-c", _START, ours, str(place.absolute()), gateway or "", serial)
        self._process = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
        )

    def wait(self) -> None:
        """Wait for what comes of it.

        Raises:
            EnrolmentFailed: nothing was changed.
        """
        try:
            told, _ = self._process.communicate(timeout=_LONGEST)
        except subprocess.TimeoutExpired:
            self.end()
            raise EnrolmentFailed("timeout", "the renewal took too long", is_passing=True) from None
        try:
            found = json.loads(told)
        except ValueError:
            raise EnrolmentFailed(
                "internal", f"the process that renews ended with status {self._process.returncode}", is_passing=True
            ) from None
        if found:
            raise EnrolmentFailed(
                found["code"], found["message"], is_passing=found["is_passing"], retry_after=found["retry_after"]
            )

    def end(self) -> None:
        """End it, at any time: a bundle is whole whatever breaks off."""
        self._process.kill()


def main(place: str, gateway: str, serial: str) -> None:
    """What the child does: it says on stdout, in JSON, what failed, or nothing."""
    told: dict[str, object] = {}
    try:
        try_renewal(Path(place), gateway=gateway or None, is_due=lambda found: found.serial == serial)
    except EnrolmentFailed as error:
        told = {
            "code": error.code,
            "message": str(error),
            "is_passing": error.is_passing,
            "retry_after": error.retry_after,
        }
    sys.stdout.write(json.dumps(told))
