"""I/O: taking away the oldest files of the log, only after a signed checkpoint says so.

Trust: trusted key holder; a file whose end the next file does not continue is never taken away.
"""

from __future__ import annotations

import os
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import LOG, MAX_CHECKPOINT, Head, parse_checkpoint
from gateway.audit.files import Segment, list_segments, read_tail, sync_directory
from gateway.audit.line import AuditUnavailable, line_hash, parse_line
from gateway.config.values import AuditConfig


def retire_files(directory: Path, config: AuditConfig, log: CheckpointLog, key: Ed25519PrivateKey) -> list[str]:
    """Take away the finished files of every stream beyond ``config.keep`` (0: none); the names of those that went.

    A file goes when the last checkpoint covers its last line; a checkpoint that names this line as the new base is on
    disk before. A crash in between leaves files that the next call takes.

    Raises:
        CheckpointRefused, AuditUnavailable: nothing was taken away.
    """
    if config.keep <= 0:
        return []
    try:
        bases: dict[str, Head] = {}
        doomed: list[Path] = []
        for stream, segments in list_segments(directory).items():
            finished = segments if stream == LOG else segments[:-1]
            old = finished[: max(0, len(finished) - config.keep)]
            base = _base(stream, old, segments, log)
            if base is not None:
                bases[stream] = base
                doomed += [segment.path for segment in old]
        if not doomed:
            return []
        log.append({}, key, bases=bases)
        for path in doomed:
            os.unlink(path)
        sync_directory(directory)
    except OSError as error:
        raise AuditUnavailable(f"{directory}: {error.strerror}") from error
    return [path.name for path in doomed]


def _base(stream: str, old: list[Segment], segments: list[Segment], log: CheckpointLog) -> Head | None:
    if not old or log.last is None:
        return None
    path = old[-1].path
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        line = read_tail(fd, lambda line: True).line
    finally:
        os.close(fd)
    if line is None:
        return None
    base = Head(seq=0, hash=line_hash(line).decode(), file=path.name)
    if stream == LOG:
        checkpoint = parse_checkpoint(line)
        following = parse_checkpoint(_first_line(segments, len(old), MAX_CHECKPOINT) or b"")
        if checkpoint is None or (following is not None and following.prev != base.hash):
            return None
        return Head(seq=checkpoint.seq, hash=base.hash, file=base.file)
    parsed, covered = parse_line(line), log.last.heads.get(stream)
    following_line = parse_line(_first_line(segments, len(old), 1 << 16) or b"")
    if parsed is None or covered is None or covered.seq < parsed.seq:
        return None
    if following_line is None or following_line.prev != base.hash.encode():
        return None
    return Head(seq=parsed.seq, hash=base.hash, file=base.file)


def _first_line(segments: list[Segment], index: int, limit: int) -> bytes | None:
    if index >= len(segments):
        return None
    with open(segments[index].path, "rb") as file:
        line = file.readline(limit + 2)
    return line[:-1] if line.endswith(b"\n") else None
