"""I/O: writing the audit log: one stream for each data process, one for commands and the supervisor.

Trust: untrusted client + untrusted worker in what is written; see `gateway.audit.line` for the lines themselves.

Promised: a line is handed to the kernel whole, with ``write(2)``, before `AuditWriter.write` returns, so it survives
the death of the process. Not promised: that it survives a power failure within the second that ``fdatasync`` may take.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final, Protocol, Self

from gateway.audit.checkpoints import Head
from gateway.audit.files import make_directory, open_lock, sync_directory
from gateway.audit.folding import RefusalFolder
from gateway.audit.line import AuditUnavailable, Fields
from gateway.audit.stream import StreamFile
from gateway.config.values import AuditConfig

SYNC_INTERVAL: Final = 1.0  # seconds between two fdatasync at most
RETRY: Final = 0.1  # seconds: a disk that takes no line is not asked for each, since a write that fails can take long
_now_ns: Final = time.time_ns
_monotonic: Final = time.monotonic


class Recorded(Protocol):
    """Waits for its line to be in the log."""

    def recorded(self, done: bool, /) -> None:
        """The kernel has the line; or it could not be written, and what it tells of must not happen."""


class AuditWriter:
    """The writer of one data process's stream. Used by one thread; a thread of its own syncs to disk.

    `previous` tells how the stream's last run ended (for the `gateway.start` line), `torn` the file a half line was
    moved to, `opened` the number of the last line that was found. `touched` says whether somebody else changed the file
    since. `lost` counts lines that could not be written; the first line after a gap is preceded by one
    ``admin.audit_resumed`` whose ``count`` says so.
    """

    def __init__(self, directory: Path, stream: str, config: AuditConfig, lock: int) -> None:
        self._directory = directory
        self._stream = stream
        self._lock = lock
        self._file = StreamFile(directory, stream, config)
        self._folder = RefusalFolder(config.fold_after)
        self._waiting: list[Recorded] = []
        self._written: list[Recorded] = []
        self._failed: list[Recorded] = []
        self.retry_after = RETRY
        self._faulty = False
        self._retry_at = 0.0
        self._sync_failed = False
        self._dirty = False
        self._closed = False
        self._wake = threading.Event()
        self._wake.set()  # what an earlier run left may not be on disk yet
        self._stop = threading.Event()
        self._durable: Head | None = None
        self._syncing = threading.Lock()
        self.previous = self._file.previous
        self.torn = self._file.torn
        self.opened = self._file.head[0]
        self.touched = False
        self.lost = 0
        self._syncer = threading.Thread(target=self._sync_loop, name=f"audit-{stream}", daemon=True)
        self._syncer.start()

    @classmethod
    def open(cls, directory: Path, stream: str, config: AuditConfig | None = None) -> Self:
        """Go on where the stream ended, with what a crash left behind its last line set aside as ``*.torn``.

        Raises:
            AuditUnavailable: the directory cannot be used, the stream's end cannot be read, or another process writes.
        """
        try:
            make_directory(directory)
            lock = open_lock(directory / f"{stream}.lock", wait=False)
        except BlockingIOError as held:
            raise AuditUnavailable(f"another process writes {stream} in {directory}; stop it first") from held
        except OSError as error:
            raise AuditUnavailable(f"{directory}: {error.strerror}") from error
        try:
            return cls(directory, stream, config or AuditConfig(), lock)
        except OSError as error:
            os.close(lock)
            raise AuditUnavailable(f"{directory}: {error.strerror}") from error
        except BaseException:
            os.close(lock)
            raise

    def configure(self, config: AuditConfig) -> None:
        """Go on under another configuration."""
        self._file.configure(config)
        self._folder.configure(config.fold_after)

    def write(self, event: str, fields: Fields) -> None:
        """Write one line; when this returns the kernel has all of it, and of those that came before.

        Raises:
            FieldRefused: a bug of the caller; nothing is written and nothing counts as lost.
            AuditUnavailable: the line is not in the log. The chain is sound; a call after `retry_after` tries again.
        """
        try:
            if self._faulty:
                self._resume()
            self._add(event, fields)
            self._file.write_added()
            self._are_written()
        except AuditUnavailable:
            self._fail(1)
            raise

    def write_soon(self, event: str, fields: Fields, who: Recorded) -> bool:
        """Write one line with the next `write` or `flush`; ``who`` is told by `flush`.

        False: it was told already, because it goes line by line while the log cannot be written. True: it waits, and
        the caller sees to it that `flush` is called before anything that was not told becomes of the line.

        Raises:
            FieldRefused: a bug of the caller; nothing is written and ``who`` is not told.
        """
        if self._faulty:
            try:
                self.write(event, fields)
            except AuditUnavailable:
                who.recorded(False)
            else:
                who.recorded(True)
            return False
        try:
            self._add(event, fields)
        except AuditUnavailable:
            self._fail(1)
            who.recorded(False)
            return False
        self._waiting.append(who)
        return True

    def flush(self) -> None:
        """Write the lines that wait, and tell whoever waits for them.

        A fault of one costs the others nothing: the first is raised when all were told.
        """
        fault: Exception | None = None
        while self._waiting or self._written or self._failed:
            if self._waiting:
                try:
                    self._file.write_added()
                except AuditUnavailable:
                    self._fail(0)
                else:
                    self._are_written()
            written, self._written = self._written, []
            failed, self._failed = self._failed, []
            for who in written:
                try:
                    who.recorded(True)
                except Exception as error:
                    fault = fault or error
            for who in failed:
                try:
                    who.recorded(False)
                except Exception as error:
                    fault = fault or error
        if fault is not None:
            raise fault

    def _add(self, event: str, fields: Fields) -> None:
        if self._file.add(event, fields, _now_ns() // 1000):
            self._are_written()

    def _are_written(self) -> None:
        if self._waiting:
            self._written += self._waiting
            self._waiting.clear()
        if not self._dirty:
            self._dirty = True
            self._wake.set()

    def _fail(self, lines: int) -> None:
        """So many lines, and all that waited, are not in the log."""
        if not self._faulty:
            self._faulty = True
            self._retry_at = _monotonic() + self.retry_after
        self.lost += lines + len(self._waiting)
        self._failed += self._waiting
        self._waiting.clear()

    def refusal(self, event: str, fields: Mapping[str, object], now: float) -> None:
        """Write a refusal, or count it: see `RefusalFolder`. Raises like `write`; ``now`` in seconds."""
        for due, entry in self._folder.refuse(event, fields, now):
            self.write(due, entry)

    def tick(self, now: float) -> None:
        """Write the refusals that were counted in seconds that are over, and look whether the file is as we left it.

        The owner calls it once a second. Raises like `write`.
        """
        more = self._file.difference()
        if more:
            self.touched = True
            name = self._file.head[2]
            detail = {"name": self._stream, "file": name, "count": more}
            self.write("admin.audit_foreign", {"outcome": "found", "reason": "bytes", "detail": detail})
        for event, entry in self._folder.due(now):
            self.write(event, entry)

    def flush_refusals(self) -> None:
        """Write every counted refusal, the running second's too: before ``gateway.stop``. The last lines are tried."""
        self.retry_after = self._retry_at = 0.0
        for event, entry in self._folder.flush():
            self.write(event, entry)

    @property
    def writable(self) -> bool:
        """Whether lines can be written, as far as is known: the last one was, or none was tried yet."""
        return not self._faulty

    @property
    def healthy(self) -> bool:
        """Whether the last write and the last sync to disk worked."""
        return not self._faulty and not self._sync_failed

    def head(self) -> tuple[int, str]:
        """Number and hash (lower hex) of the last line written; (0, 64 zeros) for a stream without lines."""
        seq, digest, _ = self._file.head
        return seq, digest.decode()

    def durable(self) -> Head | None:
        """The last line known to be on disk, with its file; None when there is none.

        A checkpoint should name this one: after a power failure the log may end before `head`, and a checkpoint that
        names a line which the disk never saw looks like tampering for ever.
        """
        return self._durable

    def sync(self) -> None:
        """Bring everything written so far to disk now (blocks); raises AuditUnavailable."""
        try:
            self._sync()
        except OSError as error:
            raise AuditUnavailable(f"{self._directory}: {error.strerror}") from error

    def close(self) -> None:
        """Sync and let the stream go. `flush_refusals` and ``gateway.stop`` before it are the owner's business.

        Raises:
            AuditUnavailable: the sync failed; everything was let go all the same.
        """
        if self._closed:
            return
        self._closed = True
        self._stop.set()
        self._wake.set()
        self._syncer.join()
        try:
            self.sync()
        finally:
            os.close(self._file.fd)
            os.close(self._lock)

    def _resume(self) -> None:
        now = _monotonic()
        if now < self._retry_at:
            raise AuditUnavailable("the log could not be written a moment ago")
        self._retry_at = now + self.retry_after
        fields: dict[str, object] = {"count": self.lost, "outcome": "resumed"}
        self._file.append("admin.audit_resumed", fields, _now_ns() // 1000)
        self._faulty = False
        self.lost = 0

    def _head(self) -> Head:
        seq, digest, file = self._file.head
        return Head(seq=seq, hash=digest.decode(), file=file)

    def _sync_loop(self) -> None:
        while not self._stop.is_set():
            self._wake.wait()
            self._wake.clear()
            self._dirty = False
            with suppress(OSError):  # healthy says so, and the next line starts the next try
                self._sync()
            self._stop.wait(SYNC_INTERVAL)

    def _sync(self) -> None:
        with self._syncing:
            # The head is taken before anything is synced, and the full files come before the current one, so that a
            # rotation in between cannot make it wrong. Only here are descriptors of full files closed.
            head = self._head()
            try:
                self._sync_files()
            except OSError:
                self._sync_failed = True
                raise
            self._sync_failed = False
            if head.seq:
                self._durable = head

    def _sync_files(self) -> None:
        replaced = self._file.replaced
        rotated = bool(replaced)
        while replaced:
            os.fdatasync(replaced[0])
            os.close(replaced.popleft())
        os.fdatasync(self._file.fd)
        if rotated or self._durable is None:
            sync_directory(self._directory)
