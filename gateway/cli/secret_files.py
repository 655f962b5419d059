"""Secrets that come from a file, or go into a new one."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

import click

from gateway.cli.common import fail
from rhttp.worker.text_file import NotText, decode_text, first_line

__all__ = ["new_file", "read_password", "told_once"]

_MAX_PASSWORD_FILE = 4096


def read_password(path: Path) -> str:
    """The first line of a file, or of standard input (``-``)."""
    try:
        if str(path) == "-":
            data = sys.stdin.buffer.read(_MAX_PASSWORD_FILE + 1)
        else:
            with path.open("rb") as file:
                data = file.read(_MAX_PASSWORD_FILE + 1)
    except OSError as error:
        fail(f"cannot read the password file {path}: {error.strerror}; name a readable file")
    try:
        return decode_text(first_line(data))
    except NotText as error:
        fail(f"the password file {path} {error}")


@contextmanager
def new_file(path: Path, option: str = "--out") -> Iterator[BinaryIO]:
    """A new file with mode 0600, never an old one; it is gone again if the block fails."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        fail(f"{path} exists; nothing is overwritten: name a new file with {option}")
    except OSError as error:
        fail(f"cannot make {path}: {error.strerror}; name another file with {option}")
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def told_once(secret: str, out: Path | None) -> Iterator[None]:
    """Tell a secret that was just made, if the block goes well: in a new file, or on standard output behind it."""
    if out is None:
        yield
        click.echo(secret)
        return
    with new_file(out) as file:
        file.write(f"{secret}\n".encode())
        file.flush()
        yield
