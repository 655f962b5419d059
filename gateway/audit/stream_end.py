"""I/O: the end of a stream that nobody writes, compared with the line that it is known to have.

Trust: trusts the line that is known (signed, or kept in ``keys/``); what stands behind it may be anybody's.
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gateway.audit.checkpoints import Head
from gateway.audit.files import Segment, list_segments, read_tail, sync_directory, write_all
from gateway.audit.line import MAX_LINE, AuditUnavailable, ParsedLine, line_hash, parse_line

_STEP: Final = 1 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A position between two lines: behind ``head``, at ``offset`` of the file number ``index``."""

    head: Head
    index: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Surplus:
    """The lines behind a place that go on from it: how many, where they end, and whether more stands behind them."""

    lines: int
    end: Place
    more: bool


def head_on_disk(directory: Path, stream: str) -> Head | None:
    """The last whole line of a stream that nobody writes; what a killed process left to the kernel is on disk then.

    Raises:
        AuditUnavailable, OSError: the stream's end cannot be read.
    """
    for segment in reversed(list_segments(directory).get(stream, [])):
        fd = os.open(segment.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fdatasync(fd)
            line = read_tail(fd, lambda line: _parsed(line, stream) is not None).line
        finally:
            os.close(fd)
        parsed = _parsed(line, stream) if line is not None else None
        if parsed is not None and line is not None:
            return Head(seq=parsed.seq, hash=line_hash(line).decode(), file=segment.path.name)
    return None


def last_line(directory: Path, stream: str) -> bytes | None:
    """The last line that ends in a newline, whatever it says; None: there is none. Empty: it is none of any log.

    Raises:
        OSError: a file cannot be read.
    """
    for segment in reversed(list_segments(directory).get(stream, [])):
        with open(segment.path, "rb") as file:
            try:
                line = read_tail(file.fileno(), lambda line: True).line
            except AuditUnavailable:  # megabytes without a newline
                return b""
        if line is not None:
            return line
    return None


def find_line(directory: Path, stream: str, head: Head) -> Place | None:
    """The place behind the line that ``head`` names; None when its file does not hold it.

    Raises:
        OSError: the file is there and cannot be read.
    """
    segment = next((one for one in list_segments(directory).get(stream, []) if one.path.name == head.file), None)
    if segment is None:
        return None
    opening = b'{"stream":"%b","seq":%d,"' % (stream.encode(), head.seq)
    with open(segment.path, "rb") as file:
        if os.fstat(file.fileno()).st_size == 0:
            return None
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            at = data.rfind(opening)  # mostly near the end
            while at >= 0:
                end = data.find(b"\n", at, at + MAX_LINE + 1)
                whole = end >= 0 and (at == 0 or data[at - 1 : at] == b"\n")
                if whole and line_hash(data[at:end]).decode() == head.hash:
                    return Place(head=head, index=segment.index, offset=end + 1)
                at = data.rfind(opening, 0, at)
    return None


def find_surplus(directory: Path, stream: str, place: Place) -> Surplus:
    """What stands behind a place of a stream.

    Raises:
        OSError: a file cannot be read.
    """
    count, end = 0, place
    segments = [one for one in list_segments(directory).get(stream, []) if one.index >= place.index]
    for segment in segments:
        offset = end.offset if segment.index == end.index else 0
        with open(segment.path, "rb") as file:
            file.seek(offset)
            while (line := file.readline(MAX_LINE + 2)).endswith(b"\n"):
                parsed = _parsed(line[:-1], stream)
                head = end.head
                if parsed is None or parsed.seq != head.seq + 1 or parsed.prev.decode() != head.hash:
                    return Surplus(lines=count, end=end, more=True)
                count += 1
                offset += len(line)
                head = Head(seq=parsed.seq, hash=line_hash(line[:-1]).decode(), file=segment.path.name)
                end = Place(head=head, index=segment.index, offset=offset)
            if line and segment is not segments[-1]:
                return Surplus(lines=count, end=end, more=True)
    return Surplus(lines=count, end=end, more=False)


def set_surplus_aside(directory: Path, stream: str, place: Place, suffix: str) -> tuple[str, int]:
    """Move everything behind a place out of the stream, into files that end in ``suffix``; nothing is deleted.

    Answers the name of the first such file and how many lines there are in all of them. Each copy is on disk before
    the log is cut.

    Raises:
        OSError: it could not be moved, or not all of it; the next call takes the rest.
    """
    names: list[str] = []
    lines = 0
    for segment in reversed([one for one in list_segments(directory).get(stream, []) if one.index > place.index]):
        lines += _count(segment)
        names.append(_vacant(directory, segment.path.stem, suffix))
        os.rename(segment.path, directory / names[-1])
    sync_directory(directory)
    segment = next(one for one in list_segments(directory)[stream] if one.index == place.index)
    with open(segment.path, "r+b") as file:
        file.seek(place.offset)
        rest = file.read()
        if rest:
            lines += rest.count(b"\n") + (not rest.endswith(b"\n"))
            names.append(_vacant(directory, f"{segment.path.stem}-{place.offset}", suffix))
            copy = os.open(directory / names[-1], os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            try:
                write_all(copy, rest)
                os.fsync(copy)
            finally:
                os.close(copy)
            sync_directory(directory)
            os.ftruncate(file.fileno(), place.offset)
            os.fdatasync(file.fileno())
    return names[-1] if names else "", lines


def first_place(directory: Path, stream: str, head: Head) -> Place:
    """The beginning of a stream's first file; ``head`` is the line before it, which retention took away, or none."""
    segments = list_segments(directory).get(stream, [])
    return Place(head=head, index=segments[0].index if segments else 1, offset=0)


def _count(segment: Segment) -> int:
    with open(segment.path, "rb") as file:
        return sum(chunk.count(b"\n") for chunk in iter(lambda: file.read(_STEP), b""))


def _vacant(directory: Path, stem: str, suffix: str) -> str:
    number = 0
    while True:
        name = f"{stem}{f'-{number}' if number else ''}.{suffix}"
        if not (directory / name).exists():
            return name
        number += 1


def _parsed(line: bytes, stream: str) -> ParsedLine | None:
    parsed = parse_line(line)
    return parsed if parsed is not None and parsed.stream == stream else None
