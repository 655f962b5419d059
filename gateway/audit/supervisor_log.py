"""What the supervisor does to the audit log: its own acts in the ``cli`` stream, and the signature under all streams.

What is signed comes from a writer's own memory: data processes tell their heads, and ``keys/`` remembers that of
``cli``. Lines that a killed process left behind its last signed one have nobody to speak for them; they are signed all
the same, since they tell what happened, and a line says which they are.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.anchor import NOTHING, Anchor
from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import LOG, Checkpoint, Head
from gateway.audit.cli_stream import CLI, FOREIGN, CliStream
from gateway.audit.files import list_segments, make_directory
from gateway.audit.line import AuditUnavailable, LogBroken
from gateway.audit.retention import retire_files
from gateway.audit.stream_end import Place, find_line, find_surplus, first_place, set_surplus_aside
from gateway.config.values import AuditConfig

RETIRE_EVERY: Final = 60
"""Checkpoints between two looks at files that are older than what is kept."""
_TORN: Final = "torn"


class HeadMalformed(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """A data process named a head that is none: a bug."""


class SupervisorLog:
    """The audit log of one home. All calls but `configure` and `found` block on the disk; one at a time."""

    def __init__(self, home: Path, config: AuditConfig, key: Ed25519PrivateKey) -> None:
        self._directory = home / "audit"
        self._config = config
        self._key = key
        self._found: list[str] = []
        self._say = self._found.append
        self._log = CheckpointLog(self._directory, config, Anchor(home / "keys"))
        self._cli = CliStream(home, config, self._say)
        self._cli_size = -1
        self._opened: dict[str, int] = {}
        self._signatures = 0
        self._turn = threading.Lock()
        self._finished = False

    def configure(self, config: AuditConfig) -> None:
        """Keep the log by these settings from now on."""
        self._config = config
        self._log.configure(config)
        self._cli.configure(config)

    def found(self) -> tuple[str, ...]:
        """What was found in the log since this was made, and is not as it was written."""
        lost = [f"signed lines of {stream} are not in the log any more" for stream in sorted(self._log.regressed)]
        return (*self._found, *lost)

    def record(self, event: str, outcome: str, detail: Mapping[str, object]) -> None:
        """Append to the ``cli`` stream; the next checkpoint signs it. Raises as `append_cli` does."""
        fields: dict[str, object] = {"detail": detail} if detail else {}
        self._cli.append(event, {"outcome": outcome, **fields})

    def settle(self) -> None:
        """Before the data processes start: see that the log is the one that was written, and sign where it ends.

        Raises:
            LogBroken, CheckpointRefused: it is not; nothing was signed, and no gateway may go on with it.
            AuditUnavailable, OSError: it cannot be read or written.
        """
        make_directory(self._directory)
        began = self._cli_head()  # first: a log that begins anew says so, and only then may its checkpoints be missing
        last = self._log.read(self._key)
        streams = list_segments(self._directory).keys() - {LOG, CLI}
        signed = dict(last.heads) if last is not None else {}
        cli = signed.pop(CLI, None)
        named = {stream: self._taken_up(stream, signed.get(stream), last) for stream in sorted(streams | signed.keys())}
        head = self._cli_head() or began
        if cli is not None and head is not None and head.seq < cli.seq:
            raise LogBroken(f"{CLI} ends with line {head.seq}, but line {cli.seq} was signed")
        if head is None:  # a log has a signed line before a data process writes one, so that its absence always shows
            self.record("admin.audit_begun", "begun", {"name": LOG, "count": 0})
            head = self._cli_head()
        if head is not None:
            named[CLI] = head
        self._log.append(named, self._key, settled=False)

    def checkpoint(self, heads: Sequence[Mapping[str, object]]) -> None:
        """Sign these heads and that of ``cli``, whose lines the commands of a sealed home leave unsigned.

        Raises:
            HeadMalformed, AuditUnavailable, CheckpointRefused, OSError: nothing was signed.
        """
        with self._turn:
            if self._finished:  # the one that was under way when the gateway ended
                return
            self._sign(heads, settled=False)
            self._signatures += 1
            if self._signatures % RETIRE_EVERY == 1:
                retire_files(self._directory, self._config, self._log, self._key)

    def finish(self, heads: Sequence[Mapping[str, object]], *, complete: bool) -> None:
        """Sign the last heads of processes that ended. ``complete``: all told theirs, so no line may follow.

        Raises:
            HeadMalformed, AuditUnavailable, CheckpointRefused, OSError: nothing was signed.
        """
        with self._turn:
            self._finished = True
            self._sign(heads, settled=complete)

    def _sign(self, heads: Sequence[Mapping[str, object]], *, settled: bool) -> None:
        named = dict(_head(value) for value in heads)
        fault: AuditUnavailable | None = None
        try:
            for value in heads:
                self._note_taken_up(value)
            cli = self._cli_head()
            if cli is not None:
                named[CLI] = cli
        except AuditUnavailable as error:  # one stream that is broken leaves no other one unsigned
            fault = error
        self._log.append(named, self._key, settled=settled and fault is None)
        if fault is not None:
            raise fault

    def _note_taken_up(self, value: Mapping[str, object]) -> None:
        """A process that was started again found lines of the one before it, which died before it had told of them."""
        stream, opened = value.get("stream"), value.get("opened", 0)
        if not isinstance(stream, str) or not isinstance(opened, int) or self._opened.get(stream) == opened:
            return
        last = self._log.last
        signed = last.heads.get(stream, NOTHING).seq if last is not None else 0
        if opened > signed:
            self._record_taken_up(stream, opened - signed, opened)
        self._opened[stream] = opened

    def _record_taken_up(self, stream: str, lines: int, until: int) -> None:
        self.record("admin.audit_adopted", "adopted", {"name": stream, "count": lines, "version": until})

    def _taken_up(self, stream: str, signed: Head | None, last: Checkpoint | None) -> Head:
        """The end of a data process's stream that nobody writes, to be signed."""
        place = self._signed_place(stream, signed, last)
        surplus = find_surplus(self._directory, stream, place)
        if not surplus.lines and not surplus.more:
            return place.head
        if last is None:
            raise LogBroken(f"{stream} has lines, and the checkpoints that must cover them are not there")
        if self._log.is_settled():
            file, lines = set_surplus_aside(self._directory, stream, place, FOREIGN)
            self._say(f"{lines} lines in the audit log's stream {stream} are not ours; they are in audit/{file} now")
            self.record("admin.audit_foreign", "set_aside", {"name": stream, "file": file, "count": lines})
            return place.head
        if surplus.more:
            file, lines = set_surplus_aside(self._directory, stream, surplus.end, _TORN)
            self._say(f"what a crash left behind the last whole line of {stream} is in audit/{file} now")
            self.record("admin.audit_torn", "set_aside", {"name": stream, "file": file, "count": lines})
        if surplus.lines:
            self._record_taken_up(stream, surplus.lines, surplus.end.head.seq)
        return surplus.end.head

    def _signed_place(self, stream: str, signed: Head | None, last: Checkpoint | None) -> Place:
        if signed is None:
            return first_place(self._directory, stream, NOTHING)
        base = last.bases.get(stream) if last is not None else None
        if base is not None and (base.seq, base.hash) == (signed.seq, signed.hash):
            return first_place(self._directory, stream, signed)
        place = find_line(self._directory, stream, signed)
        if place is None:
            raise LogBroken(f"{stream} does not hold line {signed.seq} as it was signed: it was cut or changed")
        return place

    def _cli_head(self) -> Head | None:
        """The end of ``cli`` when its files changed since the last look."""
        segments = list_segments(self._directory).get(CLI)
        size = segments[-1].path.stat().st_size + (segments[-1].index << 40) if segments else 0
        if size == self._cli_size:
            return None
        head = self._cli.end()
        self._cli_size = size  # of before: what came meanwhile is looked at the next time
        return head


def _head(value: Mapping[str, object]) -> tuple[str, Head]:
    match value:
        case {"stream": str(stream), "seq": int(seq), "hash": str(digest), "file": str(file)}:
            return stream, Head(seq=seq, hash=digest, file=file)
        case _:
            raise HeadMalformed("a data process named an audit head that is none")
