"""What lies in ``HOME/run`` beside sockets: the lock that makes a gateway the only one, the note of its addresses, and
the lock by which commands that issue for one name take turns."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import time
from collections.abc import Iterator, Mapping
from hashlib import sha256
from pathlib import Path

import orjson

from gateway.admin.holder import holder_of

PATIENCE = 10.0
"""Seconds that a command waits for its turn; what is done in a turn takes a few syncs to disk."""
_PAUSE = 0.02
_GLANCE = 0.5
"""Seconds within which whoever only looks lets go again."""


class AlreadyRunning(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """Another gateway holds the home's lock."""


class RunFolderUnsafe(Exception):  # noqa: N818
    """``HOME/run`` is not a folder that only its owner may enter."""


class NameBusy(Exception):  # noqa: N818
    """Another command that issues for the same name did not end in time."""


def require_private(folder: Path) -> None:
    """Make the folder if it is missing, and insist that it is ours and 0700.

    Raises:
        RunFolderUnsafe: it is no folder, another user's, or open to others.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
    except OSError as error:
        raise RunFolderUnsafe(f"cannot make the folder {folder}: {error.strerror}") from None
    if not stat.S_ISDIR(found.st_mode):
        raise RunFolderUnsafe(f"{folder} is not a folder; move it away")
    if found.st_uid != os.geteuid():
        raise RunFolderUnsafe(f"{folder} belongs to uid {found.st_uid}, not to this process's user; chown it")
    if stat.S_IMODE(found.st_mode) & 0o077:
        raise RunFolderUnsafe(f"{folder} is open to other users; chmod 700 {folder}")


class GatewayLock:
    """``run/gateway.lock`` and the home's folder itself, held by ``flock``: the kernel lets go however the holder ends.

    The file alone is gone when somebody clears ``run``; the folder is there as long as there is a home.
    """

    def __init__(self, path: Path, home: Path) -> None:
        """Take both at once.

        Raises:
            AlreadyRunning: somebody holds one of them; the text names the pid.
            OSError: the file or the folder cannot be opened.
        """
        with contextlib.ExitStack() as undo:
            self._home = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            undo.callback(os.close, self._home)
            self._fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            undo.callback(os.close, self._fd)
            for fd, place in ((self._home, home), (self._fd, path)):
                if not _taken(fd):
                    raise AlreadyRunning(
                        f"a gateway with pid {holder_of(home) or 'unknown'} already runs for this home (it holds "
                        f"{place}); end it first or use another home"
                    )
            undo.pop_all()
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode("ascii"), 0)

    def release(self) -> None:
        """Let go. The file stays: unlinking it would let two holders lock two files of one name."""
        with contextlib.suppress(OSError):
            os.ftruncate(self._fd, 0)
        os.close(self._fd)
        os.close(self._home)


def _taken(fd: int) -> bool:
    """Take a lock alone. A command that looks who holds it has it for a moment, so once is not enough."""
    until = time.monotonic() + _GLANCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= until:
                return False
            time.sleep(_PAUSE)
        except OSError as error:
            # A folder on NFS, where flock wants a file that is open for writing: the lock file has to do.
            return error.errno in (errno.EBADF, errno.EINVAL, errno.ENOTSUP, errno.ENOLCK)
        else:
            return True


@contextlib.contextmanager
def lock_name(path: Path, name: str) -> Iterator[None]:
    """Hold what stands for `name` in ``run/issuing.lock`` alone among processes, not among threads of one.

    A POSIX record lock on one byte, chosen by a hash: other names do not wait (but for two in 2^56), and the kernel
    lets go of it however the holder ends. The file is made when it is missing and stays.

    Raises:
        NameBusy: another process held it for `PATIENCE` seconds.
        RunFolderUnsafe: others could hold it too, and for ever.
        OSError: the file cannot be opened or locked.
    """
    require_private(path.parent)
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        place = int.from_bytes(sha256(name.encode()).digest()[:7], "big")
        until = time.monotonic() + PATIENCE
        while not _locked(fd, path, place):
            if time.monotonic() >= until:
                raise NameBusy(
                    f"another command has been issuing for {name} for {PATIENCE:.0f} s (it holds {path}); "
                    "let it end, or end it, and try again"
                )
            time.sleep(_PAUSE)
        yield
    finally:
        os.close(fd)


def _locked(fd: int, path: Path, place: int) -> bool:
    try:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, place)
    except (BlockingIOError, PermissionError):  # POSIX lets a system say either
        return False
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from None
    return True


def write_note(path: Path, value: Mapping[str, object]) -> None:
    """Write the JSON file in one step: a reader sees the whole of it or the file before it."""
    content = orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    fd = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(fd, content)
    finally:
        os.close(fd)
    beside.replace(path)


def remove_note(path: Path) -> None:
    """Remove the note; it may be gone already."""
    path.unlink(missing_ok=True)
