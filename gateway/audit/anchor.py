"""I/O: what is kept of the audit log where the log is not: in ``keys/``, where only the home's owner may write.

Trust: trusts ``keys/``. Whoever can write there holds the home; who can write the log alone can rewrite it, take its
end away, or add to it, but not what is kept here, and that is how it shows.

``keys/audit-checkpoint.jsonl`` is the last checkpoint that was signed, as its line, followed by ``{"settled":true}``
when every process had told its last line and ended: until the next start nobody but commands may add to the log.
``keys/audit-cli.json`` says how the ``cli`` stream ends: its last line, and those that were to be written next. It is
on disk before they are, so one of them always is the stream's last line, whenever a writer was killed.

Each file is replaced by one rename, by whoever holds the lock of what it tells of.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import orjson

from gateway.audit.checkpoints import Checkpoint, Head, parse_checkpoint
from gateway.audit.files import sync_directory, write_all
from gateway.audit.line import GENESIS, AuditUnavailable

CHECKPOINT: Final = "audit-checkpoint.jsonl"
CLI: Final = "audit-cli.json"
NOTHING: Final = Head(seq=0, hash=GENESIS.decode(), file="")
"""The end of a stream without lines."""
_SETTLED: Final = b'{"settled":true}'
_MAX: Final = 2 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCheckpoint:
    """The last checkpoint, and whether all writers but commands had ended with it."""

    checkpoint: Checkpoint
    settled: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class KeptCli:
    """How the ``cli`` stream may end, oldest first; the checkpoint behind which this log began anew, if it did."""

    ends: tuple[Head, ...]
    begun: int | None = None


class Anchor:
    """The two files in the ``keys`` directory of a home."""

    __slots__ = ("_keys",)

    def __init__(self, keys: Path) -> None:
        self._keys = keys

    def checkpoint(self) -> KeptCheckpoint | None:
        """The checkpoint that is kept, its signature not looked at; None when none is.

        Raises:
            AuditUnavailable: what is kept cannot be read.
        """
        data = self._read(CHECKPOINT)
        if data is None:
            return None
        line, _, rest = data.partition(b"\n")
        checkpoint = parse_checkpoint(line)
        if checkpoint is None or rest not in (b"", _SETTLED + b"\n"):
            raise self._unreadable(CHECKPOINT)
        return KeptCheckpoint(checkpoint=checkpoint, settled=bool(rest))

    def keep_checkpoint(self, kept: KeptCheckpoint) -> None:
        """Keep this one from now on; raises OSError."""
        # Not the folder: after a power failure an older checkpoint is as good, since the log must hold that one too.
        rest = _SETTLED + b"\n" if kept.settled else b""
        self._replace(CHECKPOINT, kept.checkpoint.line + b"\n" + rest)

    def cli(self) -> KeptCli | None:
        """How ``cli`` may end; None when that was never kept.

        Raises:
            AuditUnavailable: what is kept cannot be read.
        """
        data = self._read(CLI)
        if data is None:
            return None
        try:
            match orjson.loads(data):
                case {"ends": [*ends], "begun": int() | None as begun} if ends:
                    return KeptCli(ends=tuple(_head(end) for end in ends), begun=begun)
        except ValueError:
            pass
        raise self._unreadable(CLI)

    def keep_cli(self, kept: KeptCli) -> None:
        """Keep this from now on, on disk when this returns; raises OSError."""
        ends = [{"seq": end.seq, "hash": end.hash, "file": end.file} for end in kept.ends]
        self._replace(CLI, orjson.dumps({"ends": ends, "begun": kept.begun}) + b"\n")
        sync_directory(self._keys)

    def _read(self, name: str) -> bytes | None:
        try:
            with open(self._keys / name, "rb") as file:
                return file.read(_MAX)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise AuditUnavailable(f"{self._keys / name}: {error.strerror}") from error

    def _replace(self, name: str, data: bytes) -> None:
        path = self._keys / name
        beside = self._keys / f".{name}.new"
        try:
            fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            try:
                write_all(fd, data)
                os.fsync(fd)
            finally:
                os.close(fd)
            os.rename(beside, path)
        except OSError as error:
            with suppress(OSError):
                beside.unlink()
            raise OSError(error.errno, error.strerror, str(path)) from None

    def _unreadable(self, name: str) -> AuditUnavailable:
        return AuditUnavailable(
            f"{self._keys / name} does not say how the audit log ended; restore it from a backup, or move it and the"
            " audit directory away, keep both, and begin a new log"
        )


def _head(value: object) -> Head:
    match value:
        case {"seq": int(seq), "hash": str(digest), "file": str(file)} if seq >= 0:
            return Head(seq=seq, hash=digest, file=file)
    raise ValueError("not the end of a stream")
