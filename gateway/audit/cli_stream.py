"""I/O: the ``cli`` stream: what commands and the supervisor did, each line by a writer that lives for a moment.

Trust: trusted operator; what stands in the file is not trusted. No process remembers the stream's end, so ``keys/``
does (`gateway.audit.anchor`): every writer, and whoever signs the stream's head, looks first whether the file ends
with the line that one of ours wrote last. Lines behind it were put there by somebody else: they are moved into a
``*.foreign`` file, a line says so, and nothing of ours ever goes on from them. A file that lacks the line is not
written to.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.anchor import NOTHING, Anchor, KeptCli
from gateway.audit.checkpoint_log import CheckpointLog, last_checkpoint
from gateway.audit.checkpoints import FILE, CheckpointRefused, Head, read_public_key, read_signing_key
from gateway.audit.files import list_segments, locked, make_directory, sync_directory
from gateway.audit.line import GENESIS, AuditUnavailable, Fields, LogBroken, line_hash
from gateway.audit.stream import StreamFile
from gateway.audit.stream_end import Place, find_line, first_place, head_on_disk, last_line, set_surplus_aside
from gateway.config.values import AuditConfig

CLI: Final = "cli"
FOREIGN: Final = "foreign"
_now_ns: Final = time.time_ns


def append_cli(
    home: Path,
    event: str,
    *,
    config: AuditConfig | None = None,
    key: Ed25519PrivateKey | None = None,
    sign: bool = True,
    **fields: object,
) -> Head:
    """Append one line to the ``cli`` stream of a home, on disk when this returns; safe from many processes at once.

    It is signed at once with ``key``, or with the home's key when that opens without a passphrase; when it cannot be,
    the running gateway or the next start does.

    Raises:
        FieldRefused: a bug of the caller; nothing is written.
        LogBroken: the stream on disk is not the one that was written; nothing is added to it.
        AuditUnavailable: the line is not in the log.
    """
    config = config or AuditConfig()
    head = CliStream(home, config).append(event, fields)
    signing = key or (read_signing_key(home / "keys" / "checkpoint.key") if sign else None)
    if signing is not None and sign:
        # When this fails the line is in the log and chained; `audit verify` tells what is wrong with the checkpoints.
        with suppress(CheckpointRefused, AuditUnavailable):
            CheckpointLog(home / "audit", config, Anchor(home / "keys")).append({CLI: head}, signing)
    return head


def _warn(text: str) -> None:
    with suppress(OSError, AttributeError):  # no standard error: the log says it too
        sys.stderr.write(f"warning: {text}\n")


class CliStream:
    """The ``cli`` stream of a home. Each call takes the stream's lock, and lets it go."""

    def __init__(self, home: Path, config: AuditConfig, say: Callable[[str], None] = _warn) -> None:
        """``say`` gets a line for what was found and was not ours."""
        self._directory = home / "audit"
        self._public = home / "certs" / "checkpoint.pub"
        self._anchor = Anchor(home / "keys")
        self._config = config
        self._say = say

    def configure(self, config: AuditConfig) -> None:
        """Write by these settings from now on."""
        self._config = config

    def append(self, event: str, fields: Fields) -> Head:
        """Append one line; see `append_cli`."""
        return self.append_all([(event, fields)])

    def append_all(self, lines: Sequence[tuple[str, Fields]]) -> Head:
        """Append these lines, at least one, as one step as far as the disk lets it; see `append_cli`."""
        try:
            make_directory(self._directory)
            with locked(self._directory / "cli.lock"):
                self._look()
                return self._append_all(lines)
        except OSError as error:
            raise AuditUnavailable(f"{error.filename or self._directory}: {error.strerror}") from error

    def end(self) -> Head | None:
        """The last line that one of ours wrote, on disk, so that it may be signed; None when there is none.

        Raises:
            LogBroken: the stream does not hold it.
            AuditUnavailable: it cannot be read, or what was found cannot be recorded.
        """
        try:
            make_directory(self._directory)
            with locked(self._directory / "cli.lock"):
                self._look()
                return head_on_disk(self._directory, CLI)
        except OSError as error:
            raise AuditUnavailable(f"{error.filename or self._directory}: {error.strerror}") from error

    def _look(self) -> None:
        """See to it that the stream ends with a line of ours, and record what had to be done for that."""
        kept = self._anchor.cli()
        line = last_line(self._directory, CLI)
        if line is None and self._is_empty():
            self._begin(kept)
        elif kept is None:
            if line is not None:  # a log of before, or somebody took away what was kept of it
                self._append("admin.audit_anchored", {"outcome": "taken_over", "detail": {"name": CLI}})
        elif (line_hash(line).decode() if line is not None else GENESIS.decode()) not in {e.hash for e in kept.ends}:
            self._clear(kept, line)

    def _begin(self, kept: KeptCli | None) -> None:
        """The log was moved away as a whole, or is a new one; the first line of one that had a past says so."""
        last = self._anchor.checkpoint()
        begun = kept.begun if kept is not None else None
        if (kept is None and last is not None) or (kept is not None and all(end.seq for end in kept.ends)):
            begun = last.checkpoint.seq if last is not None else 0
            self._anchor.keep_cli(KeptCli(ends=(NOTHING,), begun=begun))
        if begun is not None:
            self._say(f"a new audit log begins; the one before ended with checkpoint {begun}")
            fields: dict[str, object] = {"outcome": "begun", "detail": {"name": "checkpoints", "count": begun}}
            self._append("admin.audit_begun", fields)

    def _clear(self, kept: KeptCli, line: bytes | None) -> None:
        """Move what stands behind our last line out of the stream."""
        most = max(end.seq for end in kept.ends)
        # A checkpoint in the log itself may know more, when what is kept was put back from a backup.
        ends = [*kept.ends, *(end for end in self._signed() if end.seq > most)]
        place = next((found for end in sorted(ends, key=lambda end: -end.seq) if (found := self._find(end))), None)
        if place is None:
            raise LogBroken(f"the audit log's {CLI} stream does not hold its last line, number {most}")
        self._anchor.keep_cli(KeptCli(ends=(place.head,), begun=kept.begun))
        if line is not None and line_hash(line).decode() == place.head.hash:
            return
        file, lines = set_surplus_aside(self._directory, CLI, place, FOREIGN)
        self._say(f"{lines} lines in the audit log's {CLI} stream are not ours; they are in audit/{file} now")
        detail = {"name": CLI, "file": file, "count": lines}
        self._append("admin.audit_foreign", {"outcome": "set_aside", "detail": detail})

    def _find(self, end: Head) -> Place | None:
        if end.seq:
            return find_line(self._directory, CLI, end)
        place = first_place(self._directory, CLI, NOTHING)
        return place if place.index == 1 else None

    def _signed(self) -> list[Head]:
        try:
            checkpoint = last_checkpoint(self._directory, read_public_key(self._public))
        except (OSError, ValueError, CheckpointRefused, AuditUnavailable):
            return []
        return [checkpoint.heads[CLI]] if checkpoint is not None and CLI in checkpoint.heads else []

    def _is_empty(self) -> bool:
        """Whether there is no log at all: no line of any stream, no checkpoint."""
        paths = [segment.path for segments in list_segments(self._directory).values() for segment in segments]
        return not any(path.exists() and path.stat().st_size for path in (*paths, self._directory / FILE))

    def _append(self, event: str, fields: Fields) -> Head:
        return self._append_all([(event, fields)])

    def _append_all(self, lines: Sequence[tuple[str, Fields]]) -> Head:
        file = StreamFile(self._directory, CLI, self._config)
        kept = self._anchor.cli()
        begun = kept.begun if kept is not None else None
        ends = [_head(file.head)]
        try:
            for event, fields in lines:
                if len(ends) > 1 and not file.has_room():
                    ends = [self._write(file, ends, begun)]
                file.add(event, fields, _now_ns() // 1000)
                ends.append(_head(file.builder.head))
            return self._write(file, ends, begun)
        finally:
            os.close(file.fd)
            for fd in file.replaced:
                os.close(fd)

    def _write(self, file: StreamFile, ends: Sequence[Head], begun: int | None) -> Head:
        """Write what was added. Whatever stops it, the stream then ends with one of ``ends``, which are kept before."""
        self._anchor.keep_cli(KeptCli(ends=tuple(ends), begun=begun))
        file.write_added()
        os.fdatasync(file.fd)
        if ends[1].seq == 1 or file.replaced:
            sync_directory(self._directory)
        self._anchor.keep_cli(KeptCli(ends=(ends[-1],), begun=begun))
        return ends[-1]


def _head(head: tuple[int, bytes, str]) -> Head:
    seq, digest, file = head
    return Head(seq=seq, hash=digest.decode(), file=file)
