"""Real peers for tests: the npm package reverse-http as a worker, in a process of its own.

`npm_worker` starts `tests/peers/reverse-http-worker.js` and hands back an object that awaits what it tells on stdout.
Nothing here sleeps for readiness; every wait has a limit.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import hashlib
import json
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

PEERS = Path(__file__).resolve().parent.parent / "peers"
INSTALL_SECONDS = 300
EVENT_SECONDS = 20


def npm_peers() -> Path:
    """The folder `tests/peers` with its npm packages installed exactly as locked; installs them when they are not.

    Skips the calling test when this machine has no Node.js: `scripts/test` installs it where it may.
    """
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    want = hashlib.sha256((PEERS / "package-lock.json").read_bytes()).hexdigest()
    stamp = PEERS / "node_modules" / ".made-from"
    with (PEERS / "package-lock.json").open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not stamp.exists() or stamp.read_text() != want:
            subprocess.run(
                ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"],
                cwd=PEERS,
                check=True,
                timeout=INSTALL_SECONDS,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
            )
            stamp.write_text(want)
    return PEERS


class NpmWorker:
    """A running reverse-http worker; `events` keeps everything that it told so far."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def told(self, event: str) -> dict[str, Any]:
        """The next event of this name.

        Raises:
            AssertionError: the worker ended without telling it; what it told instead is in the message.
            TimeoutError: nothing came for 20 seconds.
        """
        assert self.process.stdout is not None
        while True:
            line = await asyncio.wait_for(self.process.stdout.readline(), EVENT_SECONDS)
            assert line, f"the worker ended before it told {event!r}: {self.events}"
            self.events.append(json.loads(line))
            if self.events[-1]["event"] == event:
                return self.events[-1]

    async def ended(self) -> int:
        """The exit status of the worker's process: 0 the reversed connection closed, 1 refused or failed."""
        return await asyncio.wait_for(self.process.wait(), EVENT_SECONDS)


@contextlib.asynccontextmanager
async def npm_worker(
    *, port: int, path: str, bundle: Path, host: str = "127.0.0.1", user: str | None = None
) -> AsyncIterator[NpmWorker]:
    """Start one life of the worker with a bundle's certificate (and, with `user`, its password); kill it at the end.

    Args:
        bundle: a folder with `cert.pem`, `key.pem`, `trust.pem` and, for Digest, `password`.
        user: the Digest user, or None to ask without credentials.
    """
    arguments = ["--host", host, "--port", str(port), "--path", path]
    arguments += [
        "--cert",
        str(bundle / "cert.pem"),
        "--key",
        str(bundle / "key.pem"),
        "--ca",
        str(bundle / "trust.pem"),
    ]
    if user is not None:
        arguments += ["--user", user, "--password-file", str(bundle / "password")]
    process = await asyncio.create_subprocess_exec(
        "node",
        str(npm_peers() / "reverse-http-worker.js"),
        *arguments,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield NpmWorker(process)
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
