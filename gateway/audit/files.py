"""I/O: what the audit log's writers and readers share about its directory: names, tails, locks, whole writes.

Trust: trusted operator's directory, but what a crash or an intruder left in it is not trusted.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.line import AuditUnavailable

_SEGMENT: Final = re.compile(r"(cli|p(?:0|[1-9][0-9]{0,3})|checkpoints)-([0-9]{6,9})\.jsonl")
_FIRST_WINDOW: Final = 128 * 1024
_CHUNK: Final = 1024 * 1024
_LAST_WINDOW: Final = 4 * 1024 * 1024  # bytes at a file's end that are searched for a whole line


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Segment:
    """One file of a stream."""

    index: int
    path: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Tail:
    """The last well-formed line of a file (None: there is none), where it ends, and the file's size."""

    line: bytes | None
    end: int
    size: int


def segment_name(stream: str, index: int) -> str:
    """``p0-000001.jsonl``."""
    return f"{stream}-{index:06d}.jsonl"


def list_segments(directory: Path) -> dict[str, list[Segment]]:
    """The files of every stream in order (rotated checkpoint files under ``checkpoints``); other names are passed over.

    Raises:
        OSError: the directory cannot be read.
    """
    found: dict[str, list[Segment]] = {}
    with os.scandir(directory) as entries:
        for entry in entries:
            match = _SEGMENT.fullmatch(entry.name)
            if match is not None and segment_name(match[1], int(match[2])) == entry.name:
                found.setdefault(match[1], []).append(Segment(index=int(match[2]), path=directory / entry.name))
    for segments in found.values():
        segments.sort()
    return found


def read_tail(fd: int, is_line: Callable[[bytes], bool]) -> Tail:
    """Find the last whole line for which ``is_line`` holds; what stands behind it is torn.

    Raises:
        AuditUnavailable: the last 4 MiB hold no such line although the file is longer: not a torn write.
        OSError: the file cannot be read.
    """
    size = os.fstat(fd).st_size
    window = _FIRST_WINDOW
    while True:
        start = max(0, size - window)
        data = _read_at(fd, start, size - start)
        end = data.rfind(b"\n")
        while end >= 0:
            newline = data.rfind(b"\n", 0, end)
            if newline < 0 and start > 0:
                break
            line = data[newline + 1 : end]
            if is_line(line):
                return Tail(line=line, end=start + end + 1, size=size)
            end = newline
        if start == 0:
            return Tail(line=None, end=0, size=size)
        if window >= _LAST_WINDOW:
            raise AuditUnavailable("the end of the log holds no line of it; run `audit verify`, then move the log away")
        window *= 4


def _read_at(fd: int, start: int, length: int) -> bytes:
    parts: list[bytes] = []
    while length > 0:
        part = os.pread(fd, length, start)
        if not part:
            break
        parts.append(part)
        start += len(part)
        length -= len(part)
    return b"".join(parts)


def set_aside(directory: Path, fd: int, name: str, tail: Tail) -> str | None:
    """Move what stands behind the last whole line into a ``*.torn`` file, then cut it off; None when nothing does.

    The copy is on disk before the log is cut, so nothing is ever lost between the two.
    """
    if tail.end >= tail.size:
        return None
    stem = name.removesuffix(".jsonl")
    number = 0
    while True:
        torn = f"{stem}-{tail.end}{f'-{number}' if number else ''}.torn"
        try:
            copy = os.open(directory / torn, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            break
        except FileExistsError:
            number += 1
    try:
        write_all(copy, _read_at(fd, tail.end, tail.size - tail.end))
        os.fsync(copy)
    finally:
        os.close(copy)
    os.ftruncate(fd, tail.end)
    sync_directory(directory)
    return torn


def write_all(fd: int, data: bytes, done: int = 0) -> None:
    """Write ``data`` from ``done`` on, completing short writes; raises OSError."""
    while done < len(data):
        done += os.write(fd, data[done:])


def sync_directory(directory: Path) -> None:
    """Make names that were added or removed last; raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def make_directory(directory: Path) -> None:
    """The audit directory, 0700, when it is missing."""
    directory.mkdir(mode=0o700, exist_ok=True)


@contextmanager
def locked(path: Path) -> Iterator[int]:
    """Hold the lock file at ``path`` alone among processes and threads; the kernel frees it when a holder dies."""
    fd = open_lock(path, wait=True)
    try:
        yield fd
    finally:
        os.close(fd)


def open_lock(path: Path, *, wait: bool) -> int:
    """Like `locked`, for a holder that keeps it: closing the descriptor frees the lock.

    Raises:
        BlockingIOError: held by another one and ``wait`` is false.
    """
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BaseException:
        os.close(fd)
        raise
    return fd


def read_lines(path: Path, limit: int) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Whole lines of a file in large steps, with the number of the first; the last step also gives what has no newline.

    What grows past ``limit`` bytes without a newline is handed out as if it were a line, for the check to refuse.
    """
    number, rest = 1, b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > limit:
                lines.append(rest)
                rest = b""
            if lines:
                yield number, lines, b""
                number += len(lines)
    if rest:
        yield number, [], rest
