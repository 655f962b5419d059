"""I/O: the file of checkpoints, and the number of the last one, which is kept where the log is not.

Trust: trusted key holder (the supervisor, a command); what stands in the directory is verified before it is built on.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from gateway.audit.anchor import Anchor, KeptCheckpoint
from gateway.audit.checkpoints import (
    FILE,
    LOG,
    Checkpoint,
    CheckpointRefused,
    Head,
    are_heads,
    build_checkpoint,
    parse_checkpoint,
    verify_signature,
)
from gateway.audit.files import (
    list_segments,
    locked,
    make_directory,
    read_tail,
    segment_name,
    set_aside,
    sync_directory,
    write_all,
)
from gateway.audit.line import GENESIS, AuditUnavailable, format_stamp, line_hash
from gateway.config.values import AuditConfig

_MEND = (
    "run `rhttp-pki audit verify`. When they are lost for good, move the whole audit directory away and keep it as it"
    " is: the next start begins a new log, which says so"
)


def last_checkpoint(directory: Path, key: Ed25519PublicKey) -> Checkpoint | None:
    """The last checkpoint on disk; None when there is none.

    Raises:
        CheckpointRefused: it is not signed by this key.
        AuditUnavailable, OSError: the file cannot be read.
    """
    try:
        fd = os.open(directory / FILE, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        line = None
    else:
        try:
            line = read_tail(fd, _is_checkpoint).line
        finally:
            os.close(fd)
    return _genuine(line or _rotated_line(directory), key)


def _is_checkpoint(line: bytes) -> bool:
    return parse_checkpoint(line) is not None


def _rotated_line(directory: Path) -> bytes | None:
    rotated = list_segments(directory).get(LOG)
    if not rotated:
        return None
    fd = os.open(rotated[-1].path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return read_tail(fd, _is_checkpoint).line
    finally:
        os.close(fd)


def _genuine(line: bytes | None, key: Ed25519PublicKey) -> Checkpoint | None:
    if line is None:
        return None
    checkpoint = parse_checkpoint(line)
    if checkpoint is None or not verify_signature(line, key):
        raise CheckpointRefused(f"the last checkpoint in {FILE} is not signed by this key; {_MEND}")
    return checkpoint


class CheckpointLog:
    """The file of checkpoints. Every append takes a lock and reads the end again, so commands and the supervisor may
    both write. That the file was put back shows by the supervisor's memory, and after a restart by the ``anchor``.
    """

    def __init__(self, directory: Path, config: AuditConfig | None = None, anchor: Anchor | None = None) -> None:
        self._directory = directory
        self._config = config or AuditConfig()
        self._anchor = anchor
        self._last: Checkpoint | None = None
        self.regressed: frozenset[str] = frozenset()

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint that this object wrote or verified."""
        return self._last

    def configure(self, config: AuditConfig) -> None:
        """Begin new files at another size."""
        self._config = config

    def is_settled(self) -> bool:
        """Whether every data process had told its last line and ended when the last checkpoint was kept.

        Raises:
            AuditUnavailable: what is kept cannot be read.
        """
        kept = self._anchor.checkpoint() if self._anchor is not None else None
        return kept is not None and kept.settled

    def read(self, key: Ed25519PrivateKey) -> Checkpoint | None:
        """The last checkpoint, when it is the one that must be there; None when there never was one.

        Raises:
            CheckpointRefused: as `append`.
            AuditUnavailable: the file, or what is kept of it, cannot be read.
        """
        try:
            make_directory(self._directory)
            with locked(self._directory / "checkpoints.lock"):
                self._last = self._trusted(last_checkpoint(self._directory, key.public_key()), self._known(key))
        except OSError as error:
            raise AuditUnavailable(f"{self._directory / FILE}: {error.strerror}") from error
        return self._last

    def append(
        self,
        heads: Mapping[str, Head],
        key: Ed25519PrivateKey,
        *,
        bases: Mapping[str, Head] | None = None,
        settled: bool | None = None,
        now_us: int | None = None,
    ) -> Checkpoint | None:
        """Sign and store one checkpoint, on disk when this returns; None when it would say nothing new.

        Streams that ``heads`` does not name keep the head they had; a head with number 0 (no line yet) is passed over.
        A head behind the stored one is not taken (lines were lost or cut; ``regressed`` names the streams, `audit
        verify` will say where). ``settled`` is kept beside the checkpoint; None: as it was.

        Raises:
            ValueError: a head that no checkpoint may have; nothing is signed.
            CheckpointRefused: the file's last checkpoint has not this key's signature, or is older than the one known.
            AuditUnavailable: the file cannot be read or written; nothing of the new line stays in it. Or the new
                checkpoint cannot be kept outside of the log: it is signed, and the next call tries again.
        """
        heads = {name: head for name, head in heads.items() if head.seq != 0}
        if not are_heads(heads):
            raise ValueError(f"not heads: {heads!r}")  # signed, it would be a checkpoint that nobody can read
        try:
            make_directory(self._directory)
            with locked(self._directory / "checkpoints.lock"):
                made = self._append(heads, bases or {}, key, now_us)
                self._keep(settled)
        except OSError as error:
            raise AuditUnavailable(f"{error.filename or self._directory / FILE}: {error.strerror}") from error
        return made

    def _append(
        self, heads: Mapping[str, Head], bases: Mapping[str, Head], key: Ed25519PrivateKey, now_us: int | None
    ) -> Checkpoint | None:
        known = self._known(key)
        path = self._directory / FILE
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            tail = read_tail(fd, _is_checkpoint)
            set_aside(self._directory, fd, FILE, tail)
            line = tail.line or _rotated_line(self._directory)
            if known is not None and known.line == line:
                last: Checkpoint | None = known
            else:
                last = self._trusted(_genuine(line, key.public_key()), known)
            before = last if last is not None else known
            merged = dict(last.heads) if last else {}
            self.regressed = frozenset(name for name, head in heads.items() if _is_behind(head, merged.get(name)))
            merged.update({name: head for name, head in heads.items() if name not in self.regressed})
            kept = {**(last.bases if last else _bases_of(known)), **bases}
            if (merged, kept) == ((last.heads, last.bases) if last else ({}, _bases_of(known))):
                self._last = before
                return None
            stamp = format_stamp(time.time_ns() // 1000 if now_us is None else now_us)
            checkpoint = build_checkpoint(
                Checkpoint(
                    seq=before.seq + 1 if before else 1,
                    ts=max(stamp, before.ts) if before else stamp,
                    heads=merged,
                    bases=kept,
                    prev=line_hash(before.line).decode() if before else GENESIS.decode(),
                ),
                key,
            )
            fd = self._rotate(fd, tail.end, len(checkpoint.line))
            self._store(fd, checkpoint.line)
            self._last = checkpoint
            return checkpoint
        finally:
            os.close(fd)

    def _known(self, key: Ed25519PrivateKey) -> Checkpoint | None:
        """The newest checkpoint that must be in the file: the one in our memory, or the one that is kept."""
        kept = self._anchor.checkpoint() if self._anchor is not None else None
        if kept is None or (self._last is not None and self._last.seq >= kept.checkpoint.seq):
            return self._last
        if not verify_signature(kept.checkpoint.line, key.public_key()):
            raise CheckpointRefused("the checkpoint that is kept in keys/ is not signed by this key; put both back")
        return kept.checkpoint

    def _trusted(self, last: Checkpoint | None, known: Checkpoint | None) -> Checkpoint | None:
        if known is None or last == known:
            return last
        if last is None:
            begun = cli.begun if self._anchor is not None and (cli := self._anchor.cli()) is not None else None
            if begun == known.seq:  # the log was moved away, and the new one says so in its first line
                return None
            raise CheckpointRefused(f"{FILE} lost its checkpoints, {known.seq} in number; {_MEND}")
        if last.seq < known.seq:
            raise CheckpointRefused(f"{FILE} went back from {known.seq} to {last.seq}; {_MEND}")
        if last.seq == known.seq:
            raise CheckpointRefused(f"checkpoint {last.seq} in {FILE} is another one than was signed; {_MEND}")
        return last

    def _keep(self, settled: bool | None) -> None:
        if self._anchor is None or self._last is None:
            return
        kept = self._anchor.checkpoint()
        wanted = KeptCheckpoint(
            checkpoint=self._last, settled=settled if settled is not None else kept is not None and kept.settled
        )
        if kept != wanted:
            self._anchor.keep_checkpoint(wanted)

    def _rotate(self, fd: int, size: int, more: int) -> int:
        if size == 0 or size + more < self._config.max_bytes:
            return fd
        rotated = list_segments(self._directory).get(LOG)
        index = rotated[-1].index + 1 if rotated else 1
        path = self._directory / FILE
        os.rename(path, self._directory / segment_name(LOG, index))
        fresh = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(fd)
        return fresh

    def _store(self, fd: int, line: bytes) -> None:
        size = os.fstat(fd).st_size
        try:
            write_all(fd, line + b"\n")
            os.fdatasync(fd)
            if size == 0:
                sync_directory(self._directory)
        except OSError:
            os.ftruncate(fd, size)
            raise


def _bases_of(known: Checkpoint | None) -> dict[str, Head]:
    """What the first checkpoint of a log says that goes on from one which was moved away."""
    if known is None:
        return {}
    # No file has the number 0: it is none of this directory.
    return {LOG: Head(seq=known.seq, hash=line_hash(known.line).decode(), file=segment_name(LOG, 0))}


def _is_behind(head: Head, known: Head | None) -> bool:
    return known is not None and (head.seq < known.seq or (head.seq == known.seq and head.hash != known.hash))
