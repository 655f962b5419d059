"""Locks in memory that several processes have mapped: the C library's robust mutexes.

To take one that nobody holds, and to let it go, costs no system call. The kernel keeps a list of those that a thread
holds, and releases them however it ends; who comes next is told so by the library.

They are only ever tried, never waited for in the library: how long somebody may wait is not decided here, and no
wake-up can get lost. One thread of a process uses them.

Trust: every byte of a mutex was written by the C library in a process of this gateway. The library follows pointers
in it, so whoever can write the memory can harm all processes that use the locks: data processes, which hold the same
keys anyway, and never the supervisor, which makes the memory but maps none of it.
"""

from __future__ import annotations

from ctypes import PyDLL, addressof, c_char, c_int, c_void_p, create_string_buffer
from errno import EOWNERDEAD
from mmap import mmap
from typing import Final

LOCK_BYTES: Final = 48
"""Room of a lock, aligned to 8: what pthread_mutex_t has at most on any Linux (glibc on 64-bit Arm; 40 on x86-64)."""

_SHARED: Final = 1  # PTHREAD_PROCESS_SHARED
_ROBUST: Final = 1  # PTHREAD_MUTEX_ROBUST

_LIBRARY: Final = PyDLL(None)  # keeps the interpreter's lock: these calls never block
# Without a declared signature the arguments are taken as they are, which is half the price of a call.
_try: Final = _LIBRARY.pthread_mutex_trylock
_unlock: Final = _LIBRARY.pthread_mutex_unlock
_repair: Final = _LIBRARY.pthread_mutex_consistent


def fresh_lock() -> bytes:
    """The bytes of a lock that nobody holds, to be written wherever one shall be.

    POSIX has no word for a copy of a mutex; glibc's and musl's are plain numbers until they are first taken.

    Raises:
        OSError: the C library has none of that kind.
    """
    kind, mutex = create_string_buffer(64), create_string_buffer(128)
    wrong = (
        _LIBRARY.pthread_mutexattr_init(kind)
        or _LIBRARY.pthread_mutexattr_setpshared(kind, c_int(_SHARED))
        or _LIBRARY.pthread_mutexattr_setrobust(kind, c_int(_ROBUST))
        or _LIBRARY.pthread_mutex_init(mutex, kind)
    )
    if wrong:
        raise OSError(wrong, "no robust mutexes")
    if any(mutex.raw[LOCK_BYTES:]):
        raise OSError(0, "a mutex is larger than its room")
    return mutex.raw[:LOCK_BYTES]


class LockMemory:
    """Where locks lie: a lock is good until `close`, and whoever uses one later ends the process."""

    def __init__(self, memory: mmap) -> None:
        self._first: c_char | None = c_char.from_buffer(memory)  # while it lives, nobody unmaps the memory
        self._address = addressof(self._first)

    def lock_at(self, offset: int) -> c_void_p:
        """The lock that lies there.

        Raises:
            ValueError: the memory was let go of.
        """
        if self._first is None:
            raise ValueError("the memory is closed")
        return c_void_p(self._address + offset)

    def close(self) -> None:
        """Let go of the memory."""
        self._first = None


def take(lock: c_void_p) -> bool:
    """Take a lock if it is to be had now. Whoever died with it may have left half of what it was about to write.

    Anything else that the C library says (a lock that is none any more) is a lock that is not to be had.
    """
    code = int(_try(lock))
    if code == EOWNERDEAD:
        code = int(_repair(lock))  # dying before this is done leaves it as it was
    return code == 0


def release(lock: c_void_p) -> None:
    """Let go of a lock that this process took."""
    _unlock(lock)
