"""What a command of ours prints when it fails, and when nobody reads it any more.

``rhttp-pki audit tail | head`` is no error, for any command: output to a pipe whose reader went away is dropped. The
command goes on to its own end and exit status, so that no act is broken off in its middle, and no proof counts as good,
because somebody had seen enough.
"""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

import click

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer

__all__ = [
    "DEBUG",
    "describe_failure",
    "fail",
    "is_unread",
    "run_program",
    "stop_on_sigterm",
    "tolerate_closed_pipes",
    "version_option",
]

F = TypeVar("F", bound=Callable[..., Any])

DEBUG = "RHTTP_PKI_DEBUG"
"""The environment variable that shows a traceback, when it is 1."""


def fail(message: str) -> NoReturn:
    """End a command with one line on stderr and exit status 1."""
    raise click.ClickException(" ".join(message.split()))


def stop_on_sigterm() -> None:
    """From now on SIGTERM ends the process as an exception, so that what is half made is cleaned up."""

    def terminated(_signal: int, _frame: object) -> NoReturn:
        raise SystemExit(128 + signal.SIGTERM)

    signal.signal(signal.SIGTERM, terminated)


def run_program(command: click.Command, name: str) -> None:
    """Be the program of this name in the worker's distribution, which is this command alone.

    A traceback is never shown: its frames may hold keys and passwords. What is made without a mode is its owner's.
    """
    os.umask(0o077)
    tolerate_closed_pipes()
    try:
        command(prog_name=name)
    except Exception as error:
        if os.environ.get(DEBUG) == "1":
            raise
        click.echo(f"Error: {describe_failure(error, install='rhttp')}", err=True)
        sys.exit(1)


def describe_failure(error: Exception, *, install: str) -> str:
    """What one line can say of a failure that nobody expected; `install` is what to install when a module is missing.

    Only texts written for people are shown: others may quote their input.
    """
    if isinstance(error, OSError):
        place = error.filename if isinstance(error.filename, str) else "a file"
        why = error.strerror or type(error).__name__
        return f"cannot use {place}: {why}; check its permissions and the disk"
    if isinstance(error, ModuleNotFoundError):
        return f"the module {error.name} is not installed; install {install} again, with its dependencies"
    return f"internal error ({type(error).__name__}), a bug; run it again with {DEBUG}=1 and report what that prints"


def version_option(program: str) -> Callable[[F], F]:
    """Add ``--version`` to the command of this name."""

    def tell(context: click.Context, _parameter: click.Parameter, is_asked: bool) -> None:
        if is_asked and not context.resilient_parsing:
            from rhttp import build  # here: it takes a while, and nobody else asks

            click.echo(f"{program} {build.version()} ({build.describe()})")
            context.exit()

    what = "Show the version, and whether it is the compiled build, and exit."
    return click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=tell, help=what)


class _Pipe(io.FileIO):
    """Standard output or error of this process, which may lose its reader at any time."""

    unread = False

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except BrokenPipeError:
            self.unread = True
            return memoryview(data).nbytes


def tolerate_closed_pipes() -> None:
    """From now on `sys.stdout` and `sys.stderr` take what nobody reads. For a process of its own: see `main`."""
    sys.stdout = _tolerant(sys.stdout)
    sys.stderr = _tolerant(sys.stderr)


def _tolerant(stream: TextIO) -> TextIO:
    # Without the stream (closed by whoever started us), or replaced by something else: nothing to take care of.
    if not isinstance(stream, io.TextIOWrapper) or stream.isatty():
        return stream
    stream.flush()
    return io.TextIOWrapper(
        io.BufferedWriter(_Pipe(stream.fileno(), "wb", closefd=False)),
        encoding=stream.encoding,
        errors=stream.errors,
        line_buffering=stream.line_buffering,
        write_through=stream.write_through,
    )


def is_unread() -> bool:
    """Whether standard output is a pipe whose reader is gone: for a command that would go on for ever."""
    raw = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    if not isinstance(raw, _Pipe):
        return False
    if not raw.unread:
        look = select.poll()
        look.register(raw.fileno(), 0)
        raw.unread = any(event & select.POLLERR for _, event in look.poll(0))
    return raw.unread
