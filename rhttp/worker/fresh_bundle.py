"""A bundle in the making (I/O): it appears whole where it was asked for, or not at all.

What is under way lies in a folder of its own beside it, ``.NAME.enrolling``, or in it where an empty directory is there
already (somebody may have mounted it)::

    key.pem      0600, made first: a run that broke off is done again with the same key
    bundle/      what will be seen

The folder goes when the bundle is there, and when there is nothing that a second try could go on with.

Trust: the directory above is the owner's, or one where others can remove nothing of his (``/tmp``). A folder that
somebody else made, or others may enter, is refused: the key in it could be known.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from rhttp.errors import RhttpError
from rhttp.worker.bundle import PASSWORD, SETTINGS
from rhttp.worker.bundle_texts import CURL
from rhttp.worker.est import KEY_TYPES, PrivateKey
from rhttp.worker.secret_file import exposure
from rhttp.worker.versions import KEY, write_version

__all__ = ["FreshBundle", "PlaceTaken"]

_MODES = {SETTINGS: 0o644, PASSWORD: 0o600, CURL: 0o600}
"""Of what no renewal touches; the other files are a version."""
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_MAX_KEY = 1 << 16


class PlaceTaken(RhttpError):  # noqa: N818 - says what is the case, like every error of ours
    """The bundle cannot be made there; ``str()`` is one line with the mend."""

    def __init__(self, message: str) -> None:
        super().__init__("place", message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class FreshBundle:
    """The place for a bundle, held by one run at a time, from ``with`` on.

    Raises:
        PlaceTaken: at ``with`` or at `commit`: something is there, or another run is at it.
        OSError: from every method, as it comes; nothing is to be seen at the place then.
    """

    def __init__(self, place: Path) -> None:
        self.place = place
        self.is_kept = False
        """Whether the key stays when the block ends without `commit`: a certificate may have been made for it."""
        self._is_inside = place.is_dir()
        self._folder = place / ".enrolling" if self._is_inside else place.with_name(f".{place.name}.enrolling")
        self._made = self._folder / "bundle"
        self._lock = -1
        self._parents: list[Path] = []

    def __enter__(self) -> FreshBundle:
        self._require_vacant()
        self._parents = [parent for parent in self.place.parents if not parent.exists()]
        self.place.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with suppress(FileExistsError):
            self._folder.mkdir(mode=0o700)
        try:
            self._lock = os.open(self._folder, _FOLDER)
        except OSError as error:
            if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                raise
            raise PlaceTaken(f"{self._folder} is no folder; remove it, and run this again") from None
        try:
            self._require_ours()
        except BaseException:
            os.close(self._lock)
            raise
        shutil.rmtree(self._made, ignore_errors=True)  # of a run that was killed
        return self

    def __exit__(self, _kind: type[BaseException] | None, _error: object, _traceback: TracebackType | None) -> None:
        shutil.rmtree(self._made, ignore_errors=True)
        if not self.is_kept:
            shutil.rmtree(self._folder, ignore_errors=True)
            for parent in self._parents:
                with suppress(OSError):  # the bundle is in it, or what others put there
                    parent.rmdir()
        os.close(self._lock)

    def _require_vacant(self) -> None:
        try:
            there = {entry.name for entry in os.scandir(self.place)}
        except FileNotFoundError:
            if not self.place.is_symlink():
                return
            there = {self.place.name}
        except NotADirectoryError:
            there = {self.place.name}
        if there - {self._folder.name}:
            raise PlaceTaken(f"{self.place} is there and not empty; name a new directory with --out, or remove it")

    def _require_ours(self) -> None:
        found = os.fstat(self._lock)
        if found.st_uid != os.geteuid() or stat.S_IMODE(found.st_mode) & 0o077:
            raise PlaceTaken(
                f"{self._folder} is not yours alone, so no key is put there; remove it, and run this again"
            )
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise PlaceTaken(
                f"another run is enrolling into {self.place}; wait for it, or name another --out"
            ) from None
        except OSError:
            pass  # a file system without locks is one that nobody shares

    def key(self, kind: str) -> PrivateKey:
        """The key that a run before this one made, when it is of this kind, else a new one; it is on disk then."""
        place = self._folder / KEY
        new = KEY_TYPES[kind]()
        there = _read_key(place)
        if there is not None and _kind(there) == _kind(new):
            return there
        with suppress(FileNotFoundError):
            place.unlink()
        _write(place, key_pem(new), 0o600)
        os.fsync(self._lock)
        return new

    def add(self, files: Mapping[str, bytes]) -> None:
        """Write files, by the names that bundles have; nothing but this knows how a new bundle is laid out."""
        self._made.mkdir(mode=0o700, exist_ok=True)
        version = {name: data for name, data in files.items() if name not in _MODES}
        if version:
            write_version(self._made, version, known_as=self.place)
        for name in files.keys() & _MODES.keys():
            _write(self._made / name, files[name], _MODES[name])

    def commit(self) -> None:
        """Have the bundle appear, with the files that were added."""
        _sync(self._made)
        if self._is_inside:
            self._move_in(self._made)
        else:
            try:
                os.rename(self._made, self.place)
            except OSError as error:
                if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                    raise
                raise PlaceTaken(f"{self.place} was made by somebody else meanwhile; name another --out") from None
        self.is_kept = False
        with suppress(OSError):
            _sync(self.place if self._is_inside else self.place.parent)

    def _move_in(self, made: Path) -> None:
        self._require_vacant()
        os.chmod(self.place, 0o700)
        moved: list[Path] = []
        try:
            for entry in sorted(made.iterdir()):
                moved.append(self.place / entry.name)
                os.rename(entry, moved[-1])
        except BaseException:
            for place in moved:
                with suppress(OSError):
                    os.rename(place, made / place.name)
            raise


def key_pem(key: PrivateKey) -> bytes:
    """PKCS #8 in the clear: for a 0600 file."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def _kind(key: PrivateKey) -> tuple[object, object]:
    return type(key), getattr(getattr(key, "curve", None), "name", getattr(key, "key_size", None))


def _read_key(place: Path) -> PrivateKey | None:
    try:
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(descriptor, "rb") as file:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode) or exposure(place, descriptor) is not None:
            return None
        data = file.read(_MAX_KEY)
    try:
        found = load_pem_private_key(data, None)
    except (ValueError, TypeError):
        return None  # half written, when the run before was killed
    return found if isinstance(found, PrivateKey) else None


def _write(place: Path, data: bytes, mode: int) -> None:
    descriptor = os.open(place, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(data)
        file.flush()
        os.fchmod(descriptor, mode)
        os.fsync(descriptor)


def _sync(place: Path) -> None:
    descriptor = os.open(place, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
