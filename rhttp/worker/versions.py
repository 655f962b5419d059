"""The versions of a bundle: what belongs together changes by one rename (I/O).

Certificate, key and trust lie in a folder of their own, and a renewal puts a new folder beside it::

    BUNDLE/cert.pem          -> versions/current/cert.pem      so do key.pem, leaf.pem, trust.pem
    BUNDLE/versions/current  -> 000002                         the one link that a renewal swaps
    BUNDLE/versions/000002/cert.pem, key.pem, leaf.pem, trust.pem
    BUNDLE/versions/000001/...                                 the one before, for who reads it now
    BUNDLE/password, curl.conf, rhttp.toml                     no renewal touches them

Everything of a version is on disk before the link leads to it, so whatever breaks off, a full disk, a crash, leaves the
bundle as it was. What it leaves behind is removed by the next renewal, as are versions older than the one before. Two
that write at once take turns. Bundles of plain files (made by an earlier release, or copied with their links followed)
are read like others, and get their versions when they are written to next.

Trust: the bundle is its owner's. Nothing is removed or written but through the folder ``versions`` itself, which is
never entered by a link, so a bundle that somebody else prepared leads nobody elsewhere.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import secrets
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

CERT: Final = "cert.pem"
KEY: Final = "key.pem"
LEAF: Final = "leaf.pem"
TRUST: Final = "trust.pem"
VERSIONS: Final = "versions"
CURRENT: Final = "current"

_MODES: Final = {CERT: 0o644, KEY: 0o600, LEAF: 0o644, TRUST: 0o644}
_FOLDER_MODE: Final = 0o755
"""Of what is inside: who may enter the bundle is said by the bundle's own mode, and the key has one of its own."""
_NUMBER: Final = re.compile(r"[0-9]{6,9}")
_DRAFT: Final = re.compile(r"\.(current|(cert|key|leaf|trust)\.pem)\.[0-9a-f]{16}")
_MAX_BYTES: Final = 1 << 20
_FOLDER: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def write_version(place: Path, files: Mapping[str, bytes], *, known_as: Path | None = None) -> None:
    """Put new content into the bundle's `CERT`, `KEY`, `LEAF` and `TRUST`, those that are given, all at one moment.

    What is not given stays as it is. A reader that opens a file gets the old one or the new one whole; one that reads
    several and must not have a mixture resolves ``versions/current`` once, or looks afterwards whether it still leads
    to the same (`rhttp.worker.bundle.load_bundle` does that).

    Raises:
        OSError: nothing was changed. Its ``filename`` is the bundle's, or `known_as`: a bundle in the making has no
            name yet that the user knows.
    """
    with _blamed_on(known_as or place), _opened(place) as bundle:
        with suppress(OSError):  # a file system without locks is one that nobody shares
            fcntl.flock(bundle, fcntl.LOCK_EX)
        with _open_versions(known_as or place, bundle) as versions:
            _clear(bundle, versions)
            _take_over(bundle, versions, files)
            kept = {name: _read(bundle, name) for name in _MODES if name not in files and _is_linked(bundle, name)}
            _replace(bundle, versions, {**{name: data for name, data in kept.items() if data is not None}, **files})


def _replace(bundle: int, versions: int, content: Mapping[str, bytes]) -> None:
    """Add a version and have all names lead to it; on any failure, an interrupt included, they lead where they did."""
    before = _target(versions, CURRENT)
    made = [name for name in content if not _is_linked(bundle, name)]
    number = ""
    try:
        number = _add(versions, content)
        for name in made:
            _link(bundle, name)
        os.fsync(bundle)
        _swap(versions, CURRENT, number)
        os.fsync(versions)
    except BaseException:
        with suppress(OSError):
            if before is None:
                os.unlink(CURRENT, dir_fd=versions)
            elif _target(versions, CURRENT) != before:
                _swap(versions, CURRENT, before)
        for name in made:
            with suppress(OSError):
                os.unlink(name, dir_fd=bundle)
        if number:
            shutil.rmtree(number, ignore_errors=True, dir_fd=versions)
        raise


def _take_over(bundle: int, versions: int, files: Mapping[str, bytes]) -> None:
    """Make the plain files that are to change a version of what they hold now; no reader sees a difference."""
    there = {name: _read(bundle, name) for name in _MODES if name in files or _is_linked(bundle, name)}
    content = {name: data for name, data in there.items() if data is not None}
    plain = [name for name in content if not _is_linked(bundle, name)]
    if not plain:
        return
    _swap(versions, CURRENT, _add(versions, content))
    os.fsync(versions)
    for name in plain:
        _link(bundle, name)
    os.fsync(bundle)


def _add(versions: int, content: Mapping[str, bytes]) -> str:
    """Write a version that nothing leads to yet, and its name."""
    number = f"{max((int(name) for name in os.listdir(versions) if _NUMBER.fullmatch(name)), default=0) + 1:06d}"
    os.mkdir(number, 0o700, dir_fd=versions)
    try:
        folder = os.open(number, _FOLDER | os.O_NOFOLLOW, dir_fd=versions)
        try:
            for name, data in content.items():
                flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
                with os.fdopen(os.open(name, flags, 0o600, dir_fd=folder), "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fchmod(file.fileno(), _MODES[name])
                    os.fsync(file.fileno())
            os.fchmod(folder, _FOLDER_MODE)
            os.fsync(folder)
        finally:
            os.close(folder)
        os.fsync(versions)
    except BaseException:
        shutil.rmtree(number, ignore_errors=True, dir_fd=versions)
        raise
    return number


def _swap(folder: int, name: str, target: str) -> None:
    """Put a symbolic link there by one rename."""
    draft = f".{name}.{secrets.token_hex(8)}"
    os.symlink(target, draft, dir_fd=folder)
    try:
        try:
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
        except IsADirectoryError:
            # A copy whose links were followed has a folder there, which nothing leads through.
            os.rename(name, f".{name}.{secrets.token_hex(8)}", src_dir_fd=folder, dst_dir_fd=folder)
            os.rename(draft, name, src_dir_fd=folder, dst_dir_fd=folder)
    except BaseException:
        with suppress(OSError):
            os.unlink(draft, dir_fd=folder)
        raise


def _link(bundle: int, name: str) -> None:
    _swap(bundle, name, _path(name))


def _path(name: str) -> str:
    return f"{VERSIONS}/{CURRENT}/{name}"


def _is_linked(bundle: int, name: str) -> bool:
    return _target(bundle, name) == _path(name)


def _target(folder: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=folder)
    except OSError:
        return None


def _clear(bundle: int, versions: int) -> None:
    """Remove the versions that nobody is led to, and what broken-off writers left."""
    current = _target(versions, CURRENT)
    drafts = [(folder, name) for folder in (bundle, versions) for name in os.listdir(folder) if _DRAFT.fullmatch(name)]
    older = [(versions, name) for name in os.listdir(versions) if _NUMBER.fullmatch(name) and name != current]
    for folder, name in drafts + older:
        with suppress(OSError):
            try:
                os.unlink(name, dir_fd=folder)
            except IsADirectoryError:
                shutil.rmtree(name, dir_fd=folder)


def _read(bundle: int, name: str) -> bytes | None:
    """The content of a file as a reader of the bundle gets it; None when there is none."""
    try:
        descriptor = os.open(name, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=bundle)
    except FileNotFoundError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is no file", name)
        data = file.read(_MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise OSError(errno.EFBIG, os.strerror(errno.EFBIG), name)
    return data


@contextmanager
def _opened(place: Path) -> Iterator[int]:
    descriptor = os.open(place, _FOLDER)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _open_versions(place: Path, bundle: int) -> Iterator[int]:
    """The folder ``versions``, made when it is missing; a link or a file in its place is an error."""
    with suppress(FileExistsError):
        os.mkdir(VERSIONS, 0o700, dir_fd=bundle)
    try:
        descriptor = os.open(VERSIONS, _FOLDER | os.O_NOFOLLOW, dir_fd=bundle)
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(place / VERSIONS)) from None
    try:
        os.fchmod(descriptor, _FOLDER_MODE)
        yield descriptor
    finally:
        os.close(descriptor)


@contextmanager
def _blamed_on(place: Path) -> Iterator[None]:
    """Errors name a path that the user knows, not a name inside a folder that was opened before."""
    try:
        yield
    except OSError as error:
        if isinstance(error.filename, str) and os.path.isabs(error.filename):
            raise
        raise OSError(error.errno, error.strerror, str(place)) from None
