"""Whether lines are the lines that were written: one stream's chain checked as data, and what was found.

Trust: trusts nothing but the heads it is given. Pure: lines come in as bytes, nothing is opened.

Checked for every line: its frame, ``stream``, ``seq`` without gap or repetition, ``prev``, a ``ts`` that never goes
back; and that every head of a checkpoint is found with its number, hash and file. Lines behind the last head must also
be JSON whose names are the log's; those before it are proved to be the writer's own bytes, and looking costs a third.
"""

from __future__ import annotations

import re
from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import Final

import orjson

from gateway.audit.line import FIELDS, GENESIS, MAX_LINE, is_event, line_hash, parse_line

_FRAME: Final = frozenset(("stream", "seq", "ts", "event", "prev"))
_NAMES: Final = FIELDS | _FRAME
_STAMP: Final = re.compile(rb'[0-9]{4}-[01][0-9]-[0-3][0-9]T[0-2][0-9]:[0-5][0-9]:[0-6][0-9]\.[0-9]{6}Z"')
_STAMP_LENGTH: Final = 28  # with the closing quote
_ABOUT_THE_LOG: Final = b',"event":"admin.audit_'
_MAX_STATEMENTS: Final = 1000  # of a stream; a log with more of them has other troubles than the ones left out


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """Something that is not as it was written: the file, the line in it (0: the file as a whole), and what."""

    file: str
    line: int
    what: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}: {self.what}" if self.line else f"{self.file}: {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Statement:
    """A line in which the log speaks of itself (``admin.audit_*``), as JSON."""

    file: str
    line: int
    record: Mapping[str, object]


class HeadTable:
    """What checkpoints say of one stream, by line number; 48 bytes a head, so that years of them fit."""

    __slots__ = ("_digests", "_files", "_names", "_seqs", "_signers")

    def __init__(self) -> None:
        self._seqs = array("Q")
        self._digests = bytearray()
        self._signers = array("Q")
        self._files = array("L")
        self._names: list[str] = []

    def __len__(self) -> int:
        return len(self._seqs)

    def add(self, *, seq: int, digest: str, file: str, checkpoint: int) -> str | None:
        """Take the next checkpoint's head (0: the one that is kept outside of the log, last of all).

        Says what is wrong when it goes back or contradicts the one before.
        """
        if self._seqs:
            last = len(self._seqs) - 1
            if seq < self._seqs[last]:
                return f"goes back from line {self._seqs[last]} to {seq}"
            if seq == self._seqs[last]:
                return None if digest == self.digest(last).decode() else f"names another hash for line {seq}"
        self._seqs.append(seq)
        self._digests += bytes.fromhex(digest)
        self._signers.append(checkpoint)
        if not self._names or self._names[-1] != file:
            self._names.append(file)
        self._files.append(len(self._names) - 1)
        return None

    def seq(self, index: int) -> int:
        """The line number that the head names; 0 behind the last."""
        return self._seqs[index] if index < len(self._seqs) else 0

    def digest(self, index: int) -> bytes:
        """The line's hash, lower hex."""
        return self._digests[index * 32 : index * 32 + 32].hex().encode()

    def file(self, index: int) -> str:
        """The file that holds the line."""
        return self._names[self._files[index]]

    def signer(self, index: int) -> str:
        """Who names the line, in words."""
        number = self._signers[index]
        return f"checkpoint {number}" if number else "what is kept in keys/"

    def last(self) -> int:
        """The number of the last line that must be there; 0: none."""
        return self._seqs[-1] if self._seqs else 0

    def signed(self) -> int:
        """The number of the last line that a checkpoint proves; 0 without one."""
        return next((self._seqs[at] for at in range(len(self._seqs) - 1, -1, -1) if self._signers[at]), 0)


class ChainChecker:
    """Follows one stream line by line; stops at the first thing that is wrong."""

    def __init__(self, stream: str, heads: HeadTable, *, seq: int = 0, digest: bytes = GENESIS) -> None:
        """``seq`` and ``digest`` are those of the line before the first one: the genesis, or a signed base."""
        self.stream = stream
        self.seq = seq
        self.first = seq + 1
        self.lines = 0
        self._heads = heads
        self._digest = digest
        self._opening = b'{"stream":"%b","seq":' % stream.encode()
        self._stamp = b""
        self._next = 0
        self._before = ("", 0)  # file and line of the last good line
        self._events: set[str] = set()
        self.statements: list[Statement] = []
        while self._next < len(heads) and heads.seq(self._next) < seq:
            self._next += 1

    def start(self) -> str | None:
        """Whether a checkpoint contradicts the base that the stream goes on from."""
        heads, index = self._heads, self._next
        if self.seq and heads.seq(index) == self.seq:
            self._next += 1
            if heads.digest(index) != self._digest:
                return f"{heads.signer(index)} names another hash for line {self.seq} before it"
        return None

    def feed(self, file: str, number: int, lines: Sequence[bytes]) -> Finding | None:
        """Take whole lines (without newline), the first of them being line ``number`` of ``file``."""
        seq, digest, stamp, opening = self.seq, self._digest, self._stamp, self._opening
        due, covered = self._heads.seq(self._next), self._heads.signed()
        for index, line in enumerate(lines):
            seq += 1
            start = b'%b%d,"ts":"' % (opening, seq)
            if not line.startswith(start) or not line.endswith(b',"prev":"%b"}' % digest) or len(line) > MAX_LINE:
                return self._diagnose(file, number, lines, index, seq)
            at = len(start)
            now = line[at : at + _STAMP_LENGTH]
            if (
                now < stamp
                or (now[:20] != stamp[:20] and _STAMP.fullmatch(now) is None)
                or now[26:] != b'Z"'
                or not now[20:26].isdigit()
            ):
                what = "ts is earlier than the line before" if _STAMP.fullmatch(now) else "ts is not a time stamp"
                return Finding(file=file, line=number + index, what=what)
            wrong = self._shape(line) if seq > covered else None
            if wrong is not None:
                return Finding(file=file, line=number + index, what=wrong)
            if line.startswith(_ABOUT_THE_LOG, at + _STAMP_LENGTH):
                self._state(file, number + index, line)
            stamp = now
            digest = sha256(line).hexdigest().encode()
            if seq == due:
                wrong = self._compare(seq, digest, file)
                if wrong is not None:
                    return Finding(file=file, line=number + index, what=wrong)
                due = self._heads.seq(self._next)
        if lines:
            self._before = (file, number + len(lines) - 1)
            self.lines += len(lines)
        self.seq, self._digest, self._stamp = seq, digest, stamp
        return None

    def end(self, file: str) -> Finding | None:
        """Whether the lines that checkpoints name are all there; ``file`` is the stream's last one."""
        last = self._heads.last()
        if last <= self.seq:
            return None
        index = len(self._heads) - 1
        missing = f"line {last}" if last == self.seq + 1 else f"lines {self.seq + 1} to {last}"
        what = f"the log ends at line {self.seq}, but {self._heads.signer(index)} names line {last}"
        return Finding(
            file=file, line=self._before[1] + 1 if self._before[0] == file else 0, what=f"{what}: {missing} cut"
        )

    def uncovered(self) -> int:
        """Lines behind the last checkpoint: only the chain, which anyone can compute, speaks for them."""
        return max(0, min(self.lines, self.seq - self._heads.signed()))

    @property
    def signed(self) -> int:
        """The number of the last line that a checkpoint proves."""
        return self._heads.signed()

    @property
    def head(self) -> tuple[int, str]:
        """Number and hash of the last good line."""
        return self.seq, self._digest.decode()

    def _state(self, file: str, number: int, line: bytes) -> None:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return
        if isinstance(record, dict):
            self.statements.append(Statement(file=file, line=number, record=record))
            del self.statements[_MAX_STATEMENTS:]

    def _shape(self, line: bytes) -> str | None:
        try:
            record = orjson.loads(line)
        except orjson.JSONDecodeError:
            return "not JSON"
        if not record.keys() <= _NAMES:
            return f"unknown names: {ascii(sorted(record.keys() - _NAMES))[:200]}"
        event = record.get("event")
        if event not in self._events:
            if not isinstance(event, str) or not is_event(event):
                return "unknown event"
            self._events.add(event)
        return None

    def _compare(self, seq: int, digest: bytes, file: str) -> str | None:
        index = self._next
        self._next += 1
        heads = self._heads
        name = heads.signer(index)
        if heads.digest(index) != digest:
            since = heads.seq(index - 1) if index else 0
            return f"line {seq} has another hash than {name} says: a line from {since + 1} to {seq} was changed"
        if heads.file(index) != file:
            return f"{name} saw line {seq} in {heads.file(index)}"
        return None

    def _diagnose(self, file: str, number: int, lines: Sequence[bytes], index: int, seq: int) -> Finding:
        line, at = lines[index], number + index
        parsed = parse_line(line)
        if parsed is None:
            return Finding(file=file, line=at, what="not a line of the audit log")
        if parsed.stream != self.stream:
            return Finding(file=file, line=at, what=f"a line of stream {parsed.stream}, not of {self.stream}")
        if parsed.seq < seq:
            return Finding(
                file=file, line=at, what=f"seq is {parsed.seq} where {seq} was expected: repeated or inserted"
            )
        if parsed.seq > seq:
            gone = f"line {seq} is" if parsed.seq == seq + 1 else f"lines {seq} to {parsed.seq - 1} are"
            return Finding(file=file, line=at, what=f"seq is {parsed.seq} where {seq} was expected: {gone} missing")
        if len(line) > MAX_LINE:
            return Finding(file=file, line=at, what="too long for a line of the audit log")
        before = (file, at - 1) if index else self._before
        if not before[0]:
            return Finding(file=file, line=at, what=f"prev is not the hash of what stood before line {seq}")
        # prev and the line before disagree: whoever vouches for this line says which of both was changed.
        following = parse_line(lines[index + 1]) if index + 1 < len(lines) else None
        vouched = following.prev if following is not None else None
        if self._heads.seq(self._next) == seq:
            vouched = self._heads.digest(self._next)
        if vouched is not None and vouched != line_hash(line):
            return Finding(file=file, line=at, what=f"prev is not the hash of line {seq - 1}: this line was changed")
        both = "" if vouched is not None else ", or this is not the line that followed it"
        what = f"line {seq - 1} has another hash than line {seq} says: it was changed{both}"
        return Finding(file=before[0], line=before[1], what=what)
