"""Files and directories appear whole or not at all."""

from __future__ import annotations

import errno
import os
import stat
import threading
from pathlib import Path

import pytest

from pki import files
from pki.files import DirectoryTaken, replace_files, require_vacant, staged_directory, write_atomic


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def fail_rename(monkeypatch: pytest.MonkeyPatch, *, at: int) -> None:
    """Let the renames before the `at`-th pass, and only that one fail."""
    real, calls = os.rename, iter(range(1, 1000))

    def rename(source: Path, target: Path) -> None:
        if next(calls) == at:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(target))
        real(source, target)

    monkeypatch.setattr(files.os, "rename", rename)


def test_write_atomic_makes_a_private_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    """A new file is 0600 and alone in its directory."""
    write_atomic(tmp_path / "key", b"secret")
    assert [path.name for path in tmp_path.iterdir()] == ["key"]
    assert (tmp_path / "key").read_bytes() == b"secret"
    assert mode_of(tmp_path / "key") == 0o600


def test_write_atomic_is_private_before_it_has_content(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No moment exists in which others could open the file: its mode is given when it is made."""
    seen = []
    real = os.fsync
    monkeypatch.setattr(files.os, "fsync", lambda fd: (seen.append(stat.S_IMODE(os.fstat(fd).st_mode)), real(fd))[1])
    write_atomic(tmp_path / "key", b"secret")
    assert seen[0] == 0o600


def test_write_atomic_replaces_a_symlink_and_not_what_it_points_to(tmp_path: Path) -> None:
    """A symbolic link put in the file's place does not lead the secret elsewhere."""
    (tmp_path / "other").write_bytes(b"old")
    (tmp_path / "key").symlink_to(tmp_path / "other")
    write_atomic(tmp_path / "key", b"secret")
    assert (tmp_path / "other").read_bytes() == b"old"
    assert not (tmp_path / "key").is_symlink()


def test_replace_files_replaces_all(tmp_path: Path) -> None:
    """All files have their new content and mode."""
    (tmp_path / "a").write_bytes(b"old")
    replace_files({tmp_path / "a": (b"1", 0o600), tmp_path / "b": (b"2", 0o644)})
    assert ((tmp_path / "a").read_bytes(), (tmp_path / "b").read_bytes()) == (b"1", b"2")
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "b")) == (0o600, 0o644)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]


@pytest.mark.parametrize("failing", [1, 2, 3])
def test_replace_files_failing_at_any_move_leaves_every_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Whichever move fails, the old files are back, new ones are gone, and nothing lies about."""
    (tmp_path / "a").write_bytes(b"old a")
    (tmp_path / "c").write_bytes(b"old c")
    fail_rename(monkeypatch, at=failing)
    with pytest.raises(OSError, match="Input/output"):
        replace_files({tmp_path / name: (b"new", 0o600) for name in "abc"})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old a", "c": b"old c"}


def test_replace_files_on_a_full_disk_leaves_every_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the second file finds no room, the first is not replaced either."""
    (tmp_path / "a").write_bytes(b"old")
    calls = iter(range(10))

    def fsync(_: int) -> None:
        if next(calls) == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files.os, "fsync", fsync)
    with pytest.raises(OSError, match="No space"):
        replace_files({tmp_path / "a": (b"new", 0o600), tmp_path / "b": (b"new", 0o600)})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"a": b"old"}


def test_replace_files_of_two_at_once_take_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A second writer waits for the first, so a key never stands beside another's certificate."""
    real = os.rename
    second = threading.Thread(
        target=lambda: replace_files({tmp_path / name: (b"2", 0o600) for name in ("key", "cert")})
    )

    def rename(source: Path, target: Path) -> None:
        real(source, target)
        if second.ident is None:
            second.start()
            second.join(0.2)
            assert second.is_alive()

    monkeypatch.setattr(files.os, "rename", rename)
    replace_files({tmp_path / name: (b"1", 0o600) for name in ("key", "cert")})
    second.join(60)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"key": b"2", "cert": b"2"}


def test_errors_name_the_path_that_was_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of a temporary file that is gone already."""

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS), "/temporary")

    monkeypatch.setattr(files.os, "open", fail)
    with pytest.raises(OSError, match="Read-only") as caught:
        write_atomic(tmp_path / "key", b"secret")
    assert caught.value.filename == str(tmp_path / "key")
    monkeypatch.undo()
    monkeypatch.setattr(Path, "mkdir", fail)
    with pytest.raises(OSError, match="Read-only") as caught, staged_directory(tmp_path / "bundle"):
        pass
    assert caught.value.filename == str(tmp_path / "bundle")


def test_staged_directory_appears_whole_at_commit(tmp_path: Path) -> None:
    """Before commit nothing is to be seen at the target; after it everything is, privately."""
    target = tmp_path / "bundle"
    with staged_directory(target) as staging:
        staging.write("key.pem", b"k")
        staging.directory("sub")
        staging.write("sub/cert.pem", b"c", mode=0o644)
        assert not target.exists()
        staging.commit()
    assert (target / "sub" / "cert.pem").read_bytes() == b"c"
    assert (mode_of(target), mode_of(target / "key.pem"), mode_of(target / "sub")) == (0o700, 0o600, 0o700)
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_staged_directory_fills_an_empty_directory_in_place(tmp_path: Path) -> None:
    """An empty target keeps its inode, because somebody may stand in it or have it mounted; it becomes private."""
    target = tmp_path / "bundle"
    target.mkdir(mode=0o755)
    inode = target.stat().st_ino
    with staged_directory(target) as staging:
        staging.write("key.pem", b"k")
        staging.commit()
    assert [path.name for path in target.iterdir()] == ["key.pem"]
    assert (target.stat().st_ino, mode_of(target)) == (inode, 0o700)


def test_staged_directory_without_commit_leaves_nothing(tmp_path: Path) -> None:
    """A body that raises leaves neither the target nor parents that were made for it."""

    def break_off() -> None:
        with staged_directory(tmp_path / "a" / "b" / "bundle") as staging:
            staging.write("key.pem", b"k")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        break_off()
    assert list(tmp_path.iterdir()) == []


def test_staged_directory_makes_parents(tmp_path: Path) -> None:
    """Missing parents of a committed directory are made."""
    with staged_directory(tmp_path / "a" / "b" / "bundle") as staging:
        staging.commit()
    assert (tmp_path / "a" / "b" / "bundle").is_dir()


@pytest.mark.parametrize("failing", [1, 2])
def test_staged_directory_failing_in_place_leaves_it_empty(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: int
) -> None:
    """Filling an empty directory that breaks off half-way empties it again."""
    fail_rename(monkeypatch, at=failing)

    def fill() -> None:
        with staged_directory(tmp_path) as staging:
            staging.write("a", b"1")
            staging.write("b", b"2")
            staging.commit()

    with pytest.raises(OSError, match="Input/output"):
        fill()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", ["file", "full", "link to file", "dangling link"])
def test_staged_directory_refuses_what_is_there(tmp_path: Path, make: str) -> None:
    """Anything but nothing or an empty directory is refused and left alone."""
    target = tmp_path / "target"
    match make:
        case "file":
            target.write_bytes(b"mine")
        case "full":
            target.mkdir()
            (target / "mine").touch()
        case "link to file":
            (tmp_path / "file").touch()
            target.symlink_to(tmp_path / "file")
        case "dangling link":
            target.symlink_to(tmp_path / "gone")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DirectoryTaken):
        require_vacant(target)
    with pytest.raises(DirectoryTaken), staged_directory(target):
        pass
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("is_there", [True, False])
def test_staged_directory_of_two_at_once_one_wins_whole(tmp_path: Path, is_there: bool) -> None:
    """Of two that make the same directory at once, one is there whole; the other is refused and leaves nothing."""
    target = tmp_path / "target"
    if is_there:
        target.mkdir()

    def make_second(first: files.Staging) -> None:
        with staged_directory(target) as second:
            second.write("a", b"second")
            first.commit()
            second.commit()

    with staged_directory(target) as first:
        first.write("a", b"first")
        with pytest.raises(DirectoryTaken):
            make_second(first)
        if not first.committed:
            first.commit()
    assert (target / "a").read_bytes() == b"first"
    assert [path.name for path in tmp_path.iterdir()] == ["target"]
    assert [path.name for path in target.iterdir()] == ["a"]
