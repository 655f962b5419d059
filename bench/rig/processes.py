"""Processes of the bench: started pinned, watched, ended by their own id, never by name.

Every server gets a folder of its own and a log in it; the last lines of that log explain a start that failed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

SERVER_CORE = 0
RIG_CORE = 1
START_SECONDS = 30.0
READY_SECONDS = 300.0
STAND_SECONDS = 3600.0
STOP_SECONDS = 20.0
TICK = os.sysconf("SC_CLK_TCK")


class BenchFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The measurement cannot be made or cannot be believed; the text is one clear line."""


def pinned(core: int | None, command: Sequence[str | Path]) -> list[str]:
    """The command, bound to one core (None: to both): what it starts stays there too."""
    cores = f"{SERVER_CORE},{RIG_CORE}" if core is None else str(core)
    return ["taskset", "-c", cores, *map(str, command)]


def free_port() -> int:
    """A loopback port that is free now (nothing holds it for us until the server binds it)."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def need(present: object, *packages: str) -> None:
    """Install Debian packages unless what they bring is present already; only root gets that done.

    Raises:
        BenchFailed: it is missing and we may not or cannot install it.
    """
    if present:
        return
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise BenchFailed(f"missing, by their Debian names: {' '.join(packages)}; install them and run this again")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for step in (["update"], ["install", "--no-install-recommends", "-y", *packages]):
        subprocess.run(
            ["apt-get", "-qq", *step], env=environment, check=True, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL
        )


class Server:
    """One running server; `pid` is the process that we started, its children are found in /proc."""

    def __init__(self, name: str, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.name = name
        self.process = process
        self.port = port
        self.log = log
        self.relay_port = port  # where it takes reversed connections, when that is another port

    @property
    def pid(self) -> int:
        return self.process.pid

    def complaint(self) -> str:
        """The end of the server's log, in one line."""
        lines = self.log.read_text(errors="replace").strip().splitlines()[-5:] if self.log.exists() else []
        return " | ".join(lines)

    def wait_until(self, is_ready: Callable[[], bool]) -> None:
        """Return when `is_ready` says so.

        Raises:
            BenchFailed: the server ended, or 30 s went by.
        """
        limit = time.monotonic() + START_SECONDS
        while not is_ready():
            if self.process.poll() is not None:
                raise BenchFailed(
                    f"{self.name} ended at once with status {self.process.returncode}: {self.complaint()}"
                )
            if time.monotonic() > limit:
                raise BenchFailed(f"{self.name} was not ready within {START_SECONDS:.0f} s: {self.complaint()}")
            time.sleep(0.05)

    def stop(self) -> None:
        """End it by its id: SIGTERM, and SIGKILL to it and its children when it does not go."""
        family = tree(self.pid)
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, 9)
            self.process.wait()


def start(
    name: str,
    command: Sequence[str | Path],
    *,
    port: int,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    core: int | None = SERVER_CORE,
) -> Server:
    """Start a server on the server core (None: on both), its output going to `folder/NAME.log`."""
    log = folder / f"{name}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            pinned(core, command),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=folder,
            env={**os.environ, **(environment or {})},
        )
    return Server(name, process, port, log)


def accepts(port: int) -> bool:
    """Does something on the loopback interface accept connections on this port?"""
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


def _stat(pid: int) -> list[str]:
    """The fields of /proc/PID/stat behind the command name; empty when the process is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return []


def tree(pid: int) -> list[int]:
    """The process and all its living descendants."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            parents.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for member in found:
        found.extend(parents.get(member, []))
    return found


def cpu_by_process(pid: int) -> dict[int, float]:
    """User and system time of the process and of each descendant, in seconds (resolution: one tick, 10 ms)."""
    times = {member: _stat(member) for member in tree(pid)}
    return {member: (int(fields[11]) + int(fields[12])) / TICK for member, fields in times.items() if fields}


def cpu_seconds(pid: int) -> float:
    """User and system time that the process and its descendants have used, in seconds (resolution: one tick, 10 ms)."""
    return sum(cpu_by_process(pid).values())


def cpu_since(pid: int, before: Mapping[int, float]) -> float:
    """What the tree used since `before` was taken; one that has been replaced since counts from its own start."""
    return sum(now - before.get(member, 0.0) for member, now in cpu_by_process(pid).items())


def pss_kib(pid: int) -> int:
    """Proportional memory of one process, in KiB."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise BenchFailed(f"the kernel tells no PSS for process {pid}")


class Standing:
    """A rig that works, or is cut and comes again, or tells what it counted, each time when it is asked."""

    def __init__(self, mode: str, process: subprocess.Popen[bytes], port: int) -> None:
        self.mode = mode
        self.process = process
        self.port = port  # where an origin or a master listens

    def round(self, seconds: float, *, allow: frozenset[str] = frozenset()) -> dict[str, Any]:
        """Ask, and the counts that it then prints within `seconds` and some; errors other than `allow` are no result.

        Raises:
            BenchFailed: it ended, or something failed.
        """
        self.process.send_signal(signal.SIGUSR1)
        line = told_line(self.process, seconds + 10, stdout=True)
        if not line:
            raise BenchFailed(f"the rig ended within a round in mode {self.mode}, or it took over {seconds + 15:.0f} s")
        return counts_of(self.mode, line, allow)


def counts_of(mode: str, line: str | bytes, allow: frozenset[str] = frozenset()) -> dict[str, Any]:
    """The counts of one line of the rig.

    Raises:
        BenchFailed: a request failed: numbers with errors in them are not comparable.
    """
    counts: dict[str, Any] = json.loads(line)
    if any(value for name, value in counts["errors"].items() if name not in allow):
        raise BenchFailed(f"the rig counted errors in mode {mode}: {counts['errors']}")
    return counts


class Rig:
    """The load rig, built once into `bench/build`, run on the rig core unless told otherwise.

    `chain` is how its clients and workers present themselves: `named`, the leaf alone where the server names its
    issuing CA, as our agents do, or `whole`, always all of the file.
    """

    def __init__(self, bench: Path, *, chain: str = "named") -> None:
        self.binary = bench / "build" / "mtlsload"
        self._chain = chain
        source = bench / "rig" / "mtlsload.c"
        if not self.binary.exists() or self.binary.stat().st_mtime < source.stat().st_mtime:
            need(shutil.which("gcc"), "gcc")
            need(Path("/usr/include/stdio.h").exists(), "libc6-dev")
            need(Path("/usr/include/openssl/ssl.h").exists(), "libssl-dev")
            self.binary.parent.mkdir(exist_ok=True)
            made = self.binary.with_suffix(f".{os.getpid()}")  # a run beside this one may be using the old one
            build = ["gcc", "-O2", "-Wall", "-Wextra", "-o", str(made), str(source), "-lssl", "-lcrypto", "-lm"]
            subprocess.run(build, check=True, stdin=subprocess.DEVNULL)
            made.replace(self.binary)

    def _command(self, mode: str, arguments: Sequence[str | Path], seconds: float, core: int | None) -> list[str]:
        return pinned(core, [self.binary, mode, *arguments, "--chain", self._chain, "--seconds", str(seconds)])

    def run(self, mode: str, arguments: Sequence[str | Path], *, seconds: float) -> dict[str, Any]:
        """One bounded run; its counts.

        Raises:
            BenchFailed: it said nothing, or a request failed.
        """
        command = self._command(mode, arguments, seconds, RIG_CORE)
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, timeout=seconds + 60, check=False)
        if not done.stdout:
            raise BenchFailed(f"the rig said nothing in mode {mode}: {done.stderr.decode(errors='replace').strip()}")
        return counts_of(mode, done.stdout)

    @contextlib.contextmanager
    def standing(
        self, mode: str, arguments: Sequence[str | Path], *, seconds: float = STAND_SECONDS, core: int | None = RIG_CORE
    ) -> Iterator[Standing]:
        """A rig that stands while the block runs and tells its counts when it is asked; ready on entry.

        `seconds` is how long a round lasts, or with modes that know no rounds how long it may stand.
        """
        command = self._command(mode, arguments, seconds, core)
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        try:
            told = told_line(process, READY_SECONDS)
            if told != "ready" and not told.startswith("port "):
                out, err = process.communicate()
                said = f"{told} {(out or err).decode().strip()}, status {process.returncode}"
                raise BenchFailed(f"the rig is not ready in mode {mode}: {said}")
            yield Standing(mode, process, int(told.removeprefix("port ")) if told != "ready" else 0)
        finally:
            end(process)

    def origin(self, *, reply: int = 16) -> contextlib.AbstractContextManager[Standing]:
        """The fast origin in the clear; its port is the result's."""
        return self.standing("origin", ["--port", "0", "--conns", "8192", "--reply", str(reply)])


def end(process: subprocess.Popen[bytes]) -> None:
    """Kill a child of ours, reap it and close its pipes."""
    process.kill()
    process.wait()
    for pipe in (process.stdout, process.stderr):
        if pipe is not None:
            pipe.close()


def told_line(process: subprocess.Popen[bytes], seconds: float, *, stdout: bool = False) -> str:
    """The next line on a child's stderr, or stdout; empty when it ended. It is killed when none comes in time."""
    pipe = process.stdout if stdout else process.stderr
    assert pipe is not None
    limit = threading.Timer(seconds + 5, process.kill)
    limit.start()
    try:
        line: bytes = pipe.readline()
        return line.decode().strip()
    finally:
        limit.cancel()
