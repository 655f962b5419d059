"""Which process runs a home: told by who holds its lock (proc(5), flock(2)), I/O.

Trust: the owner of the home.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path


def holder_of(home: Path) -> str | None:
    """The pid of the gateway that runs for this home, ``unknown`` if that cannot be told; None: none runs."""
    for place in (home, home / "run" / "gateway.lock"):
        try:
            fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return _pid_of(home, fd)
        except OSError:
            continue  # cannot be locked here, so nobody holds it
        finally:
            os.close(fd)
    return None


def _pid_of(home: Path, fd: int) -> str:
    """Who holds a lock: by the kernel's list (proc(5)), or by what the lock file says."""
    seen = os.fstat(fd)
    wanted = f"{os.major(seen.st_dev):02x}:{os.minor(seen.st_dev):02x}:{seen.st_ino}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/locks").read_text().splitlines():
            words = line.split()
            if len(words) > 5 and words[1] == "FLOCK" and words[3] == "WRITE" and words[5] == wanted:
                return words[4]
    with contextlib.suppress(OSError):
        return (home / "run" / "gateway.lock").read_text("ascii", "replace")[:32].strip() or "unknown"
    return "unknown"
