"""The testbed of the demo: a temporary folder, commands, processes, and the promise that nothing of it stays.

Every command is shown as a user would type it, with the folder as ``$DEMO``. None takes a secret as an argument.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

ROOT = Path(__file__).resolve().parent.parent
_COMMAND_TIMEOUT = 120.0
_READY_TIMEOUT = 60.0
_END_TIMEOUT = 45.0
_POLL = 0.1
_MAX_SOCKET_PATH = 107
_LONGEST_SOCKET = "/upper/run/dispatch.sock"
_LOG_LINES = 30
_REMOVALS = 50
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class DemoFailed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """Something is not as it was promised."""


def say(text: str = "") -> None:
    """A line for the one who watches."""
    print(text, flush=True)


def require(condition: bool, promise: str) -> None:
    """Show a promise that holds; fail with it when it does not."""
    if not condition:
        raise DemoFailed(f"not so: {promise}")
    say(f"   ok: {promise}")


class Running:
    """A process that was started: its lines are kept, and waited for."""

    def __init__(self, name: str, arguments: Sequence[str], environment: Mapping[str, str]) -> None:
        self.name = name
        self.lines: list[str] = []
        self._changed = threading.Condition()
        # In a session of its own, so that Ctrl-C is for the demo, which then ends everything in order.
        self._process = subprocess.Popen(
            arguments,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            start_new_session=True,
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()
        with self._changed:
            self._changed.notify_all()

    def find(self, pattern: str) -> re.Match[str] | None:
        """The first line so far that has this in it."""
        return next((match for line in list(self.lines) if (match := re.search(pattern, line))), None)

    def ready(self, pattern: str, timeout: float = _READY_TIMEOUT) -> re.Match[str]:
        """Wait for a line."""
        ends = time.monotonic() + timeout
        with self._changed:
            while (found := self.find(pattern)) is None:
                if not self._reader.is_alive():
                    raise DemoFailed(f"{self.name} ended before it was ready")
                if time.monotonic() > ends:
                    raise DemoFailed(f"{self.name} was not ready within {timeout:g} s")
                self._changed.wait(_POLL)
        return found

    def end(self) -> int:
        """Ask it to end, and wait; the exit status."""
        if self._process.poll() is None:
            self._process.terminate()
        try:
            status = self._process.wait(_END_TIMEOUT)
        except subprocess.TimeoutExpired:
            self.kill()
            raise DemoFailed(f"{self.name} did not end within {_END_TIMEOUT:g} s") from None
        self._reader.join(_END_TIMEOUT)
        return status

    def kill(self) -> None:
        """End it, and what it may have started, at once."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # its session is its own, so this group is its own, too
        self._process.wait(60)
        self._reader.join(_END_TIMEOUT)


class Testbed:
    """The temporary folder and all that runs. When the context is left, whatever happened in it, both are gone."""

    def __init__(self, *, timeout: int) -> None:
        self._timeout = timeout
        self._running: list[Running] = []
        self._step = 0
        self._is_held = False
        self._held_back = 0
        self.place = Path()
        self.environment: dict[str, str] = {}

    def __enter__(self) -> Self:
        self._is_held = True
        for number in (*_SIGNALS, signal.SIGALRM):
            signal.signal(number, self._interrupted)
        signal.alarm(self._timeout)
        self.place = _make_place()
        self.environment = _environment(self.place)
        self._is_held = False
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        signal.alarm(0)
        for number in _SIGNALS:
            signal.signal(number, signal.SIG_IGN)  # what is begun here is finished
        try:
            if error is not None:
                self._tell_failure(error)
        finally:
            for running in reversed(self._running):
                running.kill()
            _remove(self.place)

    @contextlib.contextmanager
    def _held(self) -> Iterator[None]:
        """Let no signal in between making something and knowing of it."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False
        if self._held_back:
            self._interrupted(self._held_back, None)

    def _interrupted(self, number: int, frame: FrameType | None) -> None:
        if self._is_held:
            self._held_back = number
        elif number == signal.SIGALRM:
            raise DemoFailed(f"this took longer than {self._timeout} s")
        else:
            raise KeyboardInterrupt(signal.Signals(number).name)

    def _tell_failure(self, error: BaseException) -> None:
        if isinstance(error, KeyboardInterrupt):
            say("\ndemo: interrupted")
            return
        say(f"\ndemo: failed: {self.short(str(error))}")
        if isinstance(error, KeyboardInterrupt):
            return
        for running in self._running:
            say(f"--- the last lines of {running.name}")
            for line in running.lines[-_LOG_LINES:]:
                say(f"    {line}")

    # ---- what happens on it ----

    def step(self, title: str) -> None:
        """Begin a part of the story."""
        self._step += 1
        say(f"\n== {self._step}. {title}")

    def show(self, arguments: Sequence[str], variables: Mapping[str, str] | None = None, behind: str = "") -> None:
        """The command as a user would type it."""
        words = [f"{name}={value}" for name, value in (variables or {}).items()]
        words += [shlex.quote(word) for word in arguments]
        say(f" $ {self.short(' '.join(words))}{behind}")

    def short(self, text: str) -> str:
        """The text with the folder's name in place of its path."""
        return text.replace(str(self.place), "$DEMO").replace(f"{ROOT}/", "")

    def run(self, *arguments: str, status: int = 0, home: Path | None = None, quiet: bool = False) -> str:
        """Run a command that must end with this status; what it says on stdout."""
        variables = {"RHTTP_PKI_HOME": str(home)} if home is not None else {}
        if not quiet:
            self.show(arguments, variables)
        try:
            done = subprocess.run(
                arguments,
                env=self.environment | variables,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_COMMAND_TIMEOUT,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise DemoFailed(f"{arguments[0]} did not end within {_COMMAND_TIMEOUT:g} s") from None
        except OSError as error:
            raise DemoFailed(f"{arguments[0]} cannot be run: {error.strerror}") from None
        if done.returncode != status:
            said = self.short(f"{done.stdout}{done.stderr}").strip()[-4000:]
            raise DemoFailed(f"{arguments[0]} ended with {done.returncode} and not {status}:\n{said}")
        return done.stdout

    def start(self, name: str, *arguments: str, home: Path | None = None) -> Running:
        """Start a process that goes on."""
        variables = {"RHTTP_PKI_HOME": str(home)} if home is not None else {}
        self.show(arguments, variables, " &")
        with self._held():
            running = Running(name, arguments, self.environment | variables)
            self._running.append(running)
        return running

    def end(self, *processes: Running) -> None:
        """End processes in order; each must say that all was well."""
        for running in processes:
            say(f" $ kill {running.pid}  # {running.name}")
            status = running.end()
            if status != 0:
                raise DemoFailed(f"{running.name} ended with {status}")
            self._running.remove(running)

    def until(self, promise: str, look: Callable[[], bool], timeout: float = _READY_TIMEOUT) -> None:
        """Look again and again until a promise holds."""
        ends = time.monotonic() + timeout
        while not look():
            if time.monotonic() > ends:
                raise DemoFailed(f"not so within {timeout:g} s: {promise}")
            time.sleep(_POLL)
        say(f"   ok: {promise}")


def _make_place() -> Path:
    made = tempfile.mkdtemp(prefix="rhttp-demo-")
    if len(made + _LONGEST_SOCKET) > _MAX_SOCKET_PATH:  # the path of a unix socket is short
        os.rmdir(made)
        made = tempfile.mkdtemp(prefix="rhttp-demo-", dir="/tmp")
    return Path(made)


def _remove(place: Path) -> None:
    """Remove the folder; a process that was just ended may still be writing there for a moment."""
    for _ in range(_REMOVALS):
        with contextlib.suppress(OSError):
            shutil.rmtree(place)
            return
        time.sleep(_POLL)
    shutil.rmtree(place)


def _environment(place: Path) -> dict[str, str]:
    """What the commands see: our own programs first, and nothing of the home, passphrase or proxy of who watches."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("RHTTP_PKI_") and not name.lower().endswith("_proxy")
    }
    programs = [str(Path(sys.executable).parent), kept.get("PATH", os.defpath)]
    return kept | {
        "PATH": os.pathsep.join(programs),
        "PYTHONPATH": str(ROOT / "examples"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "TMPDIR": str(place),
    }
