"""I/O: the end of one stream on disk, found again after a crash and written line by line.

Trust: untrusted client + untrusted worker in what is written; what a crash left is looked at first.
"""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from pathlib import Path
from typing import Final, NoReturn

from gateway.audit.files import list_segments, read_tail, segment_name, set_aside, write_all
from gateway.audit.line import (
    MAX_LINE,
    AuditUnavailable,
    Fields,
    LineBuilder,
    ParsedLine,
    Previous,
    line_hash,
    parse_line,
)
from gateway.config.values import AuditConfig

_EXTEND: Final = 16  # when a new file cannot be made, the old one may grow by a 16th before the next try
_MAX_ADDED: Final = 1 << 18  # bytes of lines that wait to be written together
_FLAGS: Final = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC


class StreamFile:
    """The end of one stream on disk: its open file, its size and its chain. The caller holds the stream's lock."""

    __slots__ = (
        "_added",
        "_added_size",
        "_broken",
        "_directory",
        "_max_bytes",
        "_rotate_at",
        "_stream",
        "builder",
        "fd",
        "head",
        "index",
        "previous",
        "replaced",
        "size",
        "torn",
    )

    def __init__(self, directory: Path, stream: str, config: AuditConfig) -> None:
        self._directory = directory
        self._stream = stream
        self._max_bytes = self._rotate_at = config.max_bytes
        self._broken = False
        self._added: list[bytes] = []
        self._added_size = 0
        self.replaced: deque[int] = deque()  # descriptors of full files, to be synced and closed by the owner
        segments = list_segments(directory).get(stream, [])
        self.index = segments[-1].index if segments else 1
        self.size = 0
        self.fd = os.open(directory / self._name(), _FLAGS, 0o600)
        try:
            tail = read_tail(self.fd, self._is_line)
            self.torn = set_aside(directory, self.fd, self._name(), tail)
            self.size = tail.end
            last = _parsed(tail.line)
            if last is None and len(segments) > 1:
                last = self._last_of(segments[-2].path)
            if last is None and self.index > 1:
                raise AuditUnavailable(f"{stream} has no line to go on from; run `audit verify`, then move it away")
        except BaseException:
            os.close(self.fd)
            raise
        self.previous: Previous = "none" if last is None and self.torn is None else "unclean"
        self.builder = LineBuilder(stream, file=self._name())
        self.head = self.builder.head
        """Number, hash and file of the last line that was written; `builder` may be some lines ahead of it."""
        if last is None:
            return
        parsed, line = last
        digest = line_hash(line)
        self.builder = LineBuilder(stream, seq=parsed.seq, digest=digest, last_us=parsed.stamp_us, file=self._name())
        self.head = self.builder.head
        if parsed.event == "gateway.stop" and self.torn is None:
            self.previous = "clean"

    def configure(self, config: AuditConfig) -> None:
        """Begin new files at another size."""
        self._max_bytes = self._rotate_at = config.max_bytes

    def append(self, event: str, fields: Fields, now_us: int) -> None:
        """Write one line, and those that were added before it, with ``write(2)``.

        Raises:
            FieldRefused: see `gateway.audit.line`; nothing is written.
            AuditUnavailable: see `write_added`.
        """
        self.add(event, fields, now_us)
        self.write_added()

    def add(self, event: str, fields: Fields, now_us: int) -> bool:
        """Put one line behind those that the next `write_added` writes. True: those were so many that they are written.

        Raises:
            FieldRefused: see `gateway.audit.line`; nothing changes.
            AuditUnavailable: so many wait that they had to be written, and were not; neither will this one be.
        """
        builder = self.builder
        line = builder.build(event, fields, now_us)
        added = self._added_size + len(line)
        written = False
        if added > _MAX_ADDED or self.size + added > self._rotate_at:
            if self._added:
                self.write_added()
                written = True
            if self.size + len(line) > self._rotate_at and self.size:
                self._rotate()
            added = len(line)
        self._added.append(line)
        self._added_size = added
        builder.commit(line)
        return written

    def has_room(self) -> bool:
        """Whether the next `add` neither writes what was added before it nor begins another file, whatever its line."""
        added = self._added_size + MAX_LINE
        return added <= _MAX_ADDED and self.size + added <= self._rotate_at

    def write_added(self) -> None:
        """Write what was added with one ``write(2)``; the chain moves on only when all of it is in the file.

        Raises:
            AuditUnavailable: no added line is in the log, nor a part of one once the file could be cut again. They are
                dropped, and the chain goes on from the last line that was written.
        """
        added = self._added
        if not added:
            return
        data = added[0] if len(added) == 1 else b"".join(added)
        added.clear()
        self._added_size = 0
        try:
            if self._broken:
                self._mend()
            written = os.write(self.fd, data)
            if written != len(data):
                write_all(self.fd, data, written)
        except OSError as error:
            self._broken = True
            self.builder.go_back(self.head)
            self._fail(error)
        except AuditUnavailable:
            self.builder.go_back(self.head)
            raise
        self.size += len(data)
        self.head = self.builder.head

    def difference(self) -> int:
        """Bytes that the file has more (less: negative) than were written to it here; from now on they count as ours.

        A file whose name was removed is followed by the next one. Raises AuditUnavailable when it cannot be looked at.
        """
        if self._broken:
            return 0
        try:
            seen = os.fstat(self.fd)
        except OSError as error:
            raise AuditUnavailable(f"{self._name()}: {error.strerror}") from error
        if seen.st_nlink == 0:
            gone = self.size
            self._rotate()
            return -gone
        more = seen.st_size - self.size
        self.size = seen.st_size
        return more

    def _fail(self, error: OSError) -> NoReturn:
        with suppress(AuditUnavailable):  # the next append tries again before it writes anything
            self._mend()
        raise AuditUnavailable(f"{self._name()}: {error.strerror}") from error

    def _mend(self) -> None:
        try:
            os.ftruncate(self.fd, self.size)
        except OSError as error:
            raise AuditUnavailable(f"{self._name()}: {error.strerror}; a torn line cannot be cut off") from error
        self._broken = False

    def _rotate(self) -> None:
        try:
            name = segment_name(self._stream, self.index + 1)
            fd = os.open(self._directory / name, _FLAGS | os.O_EXCL, 0o600)
        except OSError:
            # The line itself may still fit: a log that grows too long is better than one that stops.
            self._rotate_at = self.size + max(4096, self._max_bytes // _EXTEND)
            return
        self.replaced.append(self.fd)
        self.fd = fd
        self.index += 1
        self.size = 0
        self._rotate_at = self._max_bytes
        self.builder.file = name

    def _last_of(self, path: Path) -> tuple[ParsedLine, bytes] | None:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return _parsed(read_tail(fd, self._is_line).line)
        finally:
            os.close(fd)

    def _is_line(self, line: bytes) -> bool:
        parsed = parse_line(line)
        return parsed is not None and parsed.stream == self._stream

    def _name(self) -> str:
        return segment_name(self._stream, self.index)


def _parsed(line: bytes | None) -> tuple[ParsedLine, bytes] | None:
    parsed = parse_line(line) if line is not None else None
    return (parsed, line) if parsed is not None and line is not None else None
