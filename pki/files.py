"""Files and directories that appear whole or not at all (I/O).

Everything is written beside its place, synced to disk, moved there by one rename, and the rename synced too: a crash or
a full disk leaves the old state, never half of the new one. What is made is its owner's alone until it is whole; then
it has exactly the mode that was asked for, whatever the umask.

Trust: trusts the directories it writes to (they are the owner's); follows no symbolic link at the last component of
what it replaces. Every failure is an `OSError`.
"""

from __future__ import annotations

import errno
import fcntl
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["DirectoryTaken", "Staging", "replace_files", "require_vacant", "staged_directory", "write_atomic"]

FILE_MODE = 0o600
DIRECTORY_MODE = 0o700


class DirectoryTaken(FileExistsError):  # noqa: N818 - says what is the case, like every error of ours
    """The directory that was to be made exists and is not empty."""


def write_atomic(path: Path, data: bytes, *, mode: int = FILE_MODE) -> None:
    """Make or replace one file. A reader sees the old content or the new, whole."""
    replace_files({path: (data, mode)})


def replace_files(files: Mapping[Path, tuple[bytes, int]]) -> None:
    """Make or replace several files, each path with its content and mode, in the order given.

    All are on disk before the first is moved, and when a move fails those before it are undone, so an error leaves
    every file as it was. Two calls for the same files take turns, so that they never end up mixed. Only a crash of the
    machine or SIGKILL between two moves (microseconds) can leave some files new and some old: a directory cannot be
    swapped under those who work in it or mounted it, so there is no one move for several files. A reader of several
    should read again when they do not fit together.
    """
    staged: dict[Path, Path] = {}
    kept: dict[Path, Path | None] = {}
    try:
        for path, (data, mode) in files.items():
            staged[path] = beside = _beside(path)
            with _blamed_on(path):
                _write_new(beside, data, mode)
        with ExitStack() as locks:
            # In one order, so that two calls never wait for each other.
            for directory in sorted({path.parent for path in files}):
                locks.enter_context(_locked(directory))
            for path in files:
                kept[path] = _keep(path)
            _move_all(staged, kept)
            for directory in {path.parent for path in files}:
                _sync_directory(directory)
    finally:
        for leftover in (*staged.values(), *(old for old in kept.values() if old is not None)):
            with suppress(OSError):
                leftover.unlink()


def _move_all(staged: Mapping[Path, Path], kept: Mapping[Path, Path | None]) -> None:
    moved: list[Path] = []
    try:
        for path, beside in staged.items():
            # Noted before the move: an interrupt right after it must undo it too.
            moved.append(path)
            os.rename(beside, path)
    except BaseException:
        for path in reversed(moved):
            old = kept[path]
            with suppress(OSError):
                if old is not None:
                    os.rename(old, path)
                elif not staged[path].exists():
                    path.unlink()
        raise


def _keep(path: Path) -> Path | None:
    """A second link to the file that is there now, to put back; None when there is none."""
    old = _beside(path)
    try:
        os.link(path, old, follow_symlinks=False)
    except FileNotFoundError:
        return None
    except OSError:
        # A file system without hard links: a copy does.
        shutil.copy2(path, old, follow_symlinks=False)
    return old


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        # A file system without locks is one that nobody shares.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _blamed_on(path: Path) -> Iterator[None]:
    """Errors name the path that the user knows, not the temporary one beside it."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name[:200]}.{secrets.token_hex(8)}")


def _write_new(path: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, FILE_MODE)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(file.fileno(), mode)
        os.fsync(file.fileno())


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(slots=True)
class Staging:
    """A directory in the making: `path` is where it is built, `target` where it will be."""

    target: Path
    path: Path
    committed: bool = False

    def write(self, name: str, data: bytes, *, mode: int = FILE_MODE) -> None:
        """Write a new file at `name` (which may have directories in it, made by `directory` before)."""
        with _blamed_on(self.target / name):
            _write_new(self.path / name, data, mode)

    def directory(self, name: str) -> Path:
        """Make a directory (0700) and return where it is now, which is not where it will be."""
        place = self.path / name
        place.mkdir(mode=DIRECTORY_MODE)
        return place

    def commit(self) -> None:
        """Move everything into place; nothing was to be seen at `target` before, and all of it is afterwards.

        Raises:
            DirectoryTaken: somebody else filled the target in the meantime.
        """
        for directory, _, _ in os.walk(self.path):
            _sync_directory(Path(directory))
        if self.path.parent == self.target:
            self._fill()
        else:
            try:
                os.rename(self.path, self.target)
            except OSError as error:
                if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise DirectoryTaken(errno.EEXIST, os.strerror(errno.EEXIST), str(self.target)) from None
                raise
            self.committed = True
            _sync_directory(self.target.parent)

    def _fill(self) -> None:
        moved: list[Path] = []
        try:
            if [entry for entry in self.target.iterdir() if entry != self.path]:
                raise DirectoryTaken(errno.EEXIST, os.strerror(errno.EEXIST), str(self.target))
            os.chmod(self.target, DIRECTORY_MODE)
            for entry in sorted(self.path.iterdir()):
                place = self.target / entry.name
                moved.append(place)
                os.rename(entry, place)
        except BaseException:
            for place in moved:
                with suppress(OSError):
                    os.rename(place, self.path / place.name)
            raise
        self.committed = True
        _sync_directory(self.target)
        self.path.rmdir()


def require_vacant(target: Path) -> None:
    """Raise `DirectoryTaken` unless `target` does not exist or is an empty directory; other `OSError`s as they come."""
    try:
        with os.scandir(target) as entries:
            if next(entries, None) is None:
                return
    except FileNotFoundError:
        if not target.is_symlink():
            return
    except NotADirectoryError:
        if not os.path.lexists(target):  # a parent is no directory
            raise
    raise DirectoryTaken(errno.EEXIST, os.strerror(errno.EEXIST), str(target))


@contextmanager
def staged_directory(target: Path) -> Iterator[Staging]:
    """Build a directory (0700) that appears at `target` when `commit` is called, else nothing is left of it.

    A target that is missing appears by one rename, missing parents are made (and removed again on failure). A target
    that is an empty directory is kept and filled, `rename` by `rename`, because somebody may stand in it or have it
    mounted; on failure it is emptied again.

    Raises:
        DirectoryTaken: the target exists and is not empty (a broken-off attempt leaves a ``.staging`` in it).
    """
    require_vacant(target)
    made = [] if target.is_dir() else _make_parents(target.parent)
    staging: Staging | None = None
    try:
        if target.is_dir():
            # A fixed name: of two that fill the same directory at the same time, one fails here.
            place = target / ".staging"
            try:
                place.mkdir(mode=DIRECTORY_MODE)
            except FileExistsError:
                raise DirectoryTaken(errno.EEXIST, os.strerror(errno.EEXIST), str(target)) from None
        else:
            place = _beside(target)
            with _blamed_on(target):
                place.mkdir(mode=DIRECTORY_MODE)
        staging = Staging(target=target, path=place)
        yield staging
    finally:
        if staging is not None and not staging.committed:
            shutil.rmtree(staging.path, ignore_errors=True)
        if staging is None or not staging.committed:
            for parent in reversed(made):
                with suppress(OSError):
                    parent.rmdir()


def _make_parents(directory: Path) -> list[Path]:
    made: list[Path] = []
    missing = [directory, *directory.parents]
    for path in reversed(missing[: next((i for i, path in enumerate(missing) if path.is_dir()), len(missing))]):
        path.mkdir(mode=0o755, exist_ok=True)
        made.append(path)
    return made
