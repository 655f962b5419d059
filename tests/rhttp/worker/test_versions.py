"""The versions of a bundle: what belongs together changes at one moment, and whatever breaks off changes nothing."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import subprocess
import threading
import types
from pathlib import Path

import pytest

from rhttp.worker import versions
from rhttp.worker.versions import CERT, KEY, LEAF, TRUST, write_version

NAMES = (CERT, KEY, LEAF, TRUST)


def content(text: str) -> dict[str, bytes]:
    return {name: f"{text} {name}".encode() for name in NAMES}


def held(place: Path) -> dict[str, bytes]:
    """What readers of the public names find."""
    return {name: (place / name).read_bytes() for name in NAMES if (place / name).exists()}


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A bundle with one version."""
    bundle = tmp_path / "bundle"
    bundle.mkdir(mode=0o700)
    write_version(bundle, content("old"))
    return bundle


@pytest.fixture
def plain(tmp_path: Path) -> Path:
    """A bundle of plain files, without `leaf.pem`."""
    bundle = tmp_path / "plain"
    bundle.mkdir(mode=0o700)
    for name, data in content("old").items():
        if name != LEAF:
            (bundle / name).write_bytes(data)
    (bundle / KEY).chmod(0o600)
    return bundle


def numbers(place: Path) -> list[str]:
    return sorted(path.name for path in (place / "versions").iterdir())


def test_write_version_swaps_one_link(place: Path) -> None:
    """The public names lead where they always led; only `current` is another, and the version before is still whole."""
    links = {name: os.readlink(place / name) for name in NAMES}
    old = (place / "versions" / "current").resolve()
    write_version(place, content("new"))
    assert held(place) == content("new")
    assert {name: os.readlink(place / name) for name in NAMES} == links
    assert {name: (old / name).read_bytes() for name in NAMES} == content("old")
    assert numbers(place) == ["000001", "000002", "current"]


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_write_version_keeps_the_modes(place: Path, umask: int) -> None:
    """The key is its owner's alone, whatever the umask; what is public may be read once the bundle may be entered."""
    before = os.umask(umask)
    try:
        write_version(place, content("new"))
    finally:
        os.umask(before)
    modes = {name: stat.S_IMODE((place / name).stat().st_mode) for name in NAMES}
    assert modes == {CERT: 0o644, KEY: 0o600, LEAF: 0o644, TRUST: 0o644}
    assert stat.S_IMODE(place.stat().st_mode) == 0o700


def test_write_version_keeps_two_versions(place: Path) -> None:
    """However often it is renewed, there are the present version and the one before."""
    for turn in range(5):
        write_version(place, content(str(turn)))
    assert numbers(place) == ["000005", "000006", "current"]


def test_write_version_keeps_what_is_not_given(place: Path) -> None:
    """A renewal of the certificate alone leaves the key, in the same version."""
    write_version(place, {CERT: b"new"})
    assert held(place) == {**content("old"), CERT: b"new"}
    (place / "mine").write_bytes(b"mine")
    assert not (place / "versions" / "current" / "mine").exists()


def test_write_version_without_key_leaves_the_owners_key_alone(tmp_path: Path) -> None:
    """A bundle that was issued by a request has no link for a key; one that its owner put there is not touched."""
    without = {name: data for name, data in content("old").items() if name != KEY}
    write_version(tmp_path, without)
    assert not os.path.lexists(tmp_path / KEY)
    (tmp_path / "elsewhere").write_bytes(b"my key")
    (tmp_path / KEY).symlink_to(tmp_path / "elsewhere")
    write_version(tmp_path, {**without, CERT: b"new"})
    assert os.readlink(tmp_path / KEY) == str(tmp_path / "elsewhere")
    assert not (tmp_path / "versions" / "current" / KEY).exists()


def test_write_version_takes_over_plain_files(plain: Path) -> None:
    """A bundle of an earlier release gets versions: the old content is the first, the new one the second."""
    write_version(plain, content("new"))
    assert held(plain) == content("new")
    assert all((plain / name).is_symlink() for name in NAMES)
    first = plain / "versions" / "000001"
    assert {path.name: path.read_bytes() for path in first.iterdir()} == {
        name: data for name, data in content("old").items() if name != LEAF
    }
    assert stat.S_IMODE((first / KEY).stat().st_mode) == 0o600


def test_write_version_takes_over_a_file_that_was_put_in_a_links_place(place: Path) -> None:
    """Who moved a file of another bundle in has it renewed like the rest."""
    (place / "new").write_bytes(b"moved in")
    os.replace(place / "new", place / CERT)
    write_version(place, content("new"))
    assert held(place) == content("new")
    assert (place / "versions" / "000002" / CERT).read_bytes() == b"moved in"


class Failing:
    """The `os` of the module, with a call of this name that fails once; any but an `OSError` comes when it is done."""

    def __init__(self, name: str, at: int, fault: BaseException) -> None:
        self._real = getattr(os, name)
        self._at, self._fault = at, fault
        self.module = types.SimpleNamespace(**{**vars(os), name: self})

    def __call__(self, *arguments: object, **options: object) -> object:
        """The call."""
        self._at -= 1
        if self._at != 0:
            return self._real(*arguments, **options)
        if not isinstance(self._fault, OSError):
            self._real(*arguments, **options)
        raise self._fault


@pytest.mark.parametrize("which", ["place", "plain"])
@pytest.mark.parametrize("call", ["mkdir", "open", "symlink", "rename", "fsync", "fchmod", "interrupt"])
def test_write_version_that_fails_anywhere_changes_nothing(
    which: str, call: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every call of its kind fails once, with a full disk or an interrupt: old content, and the next one works."""
    place: Path = request.getfixturevalue(which)
    before, failures = held(place), 0
    name, fault = ("rename", KeyboardInterrupt()) if call == "interrupt" else (call, OSError(errno.ENOSPC, "full"))
    for at in range(1, 100):
        with monkeypatch.context() as patch:
            patch.setattr(versions, "os", Failing(name, at, fault).module)
            try:
                write_version(place, content("new"))
                break
            except (OSError, KeyboardInterrupt):
                failures += 1
        assert held(place) == before
    assert failures >= 1
    assert held(place) == content("new")
    assert [entry for entry in os.listdir(place) if entry.startswith(".")] == []
    assert len(numbers(place)) <= 3


@pytest.mark.parametrize("call", ["mkdir", "open", "symlink", "rename", "fsync"])
def test_write_version_that_fails_names_the_bundle(place: Path, call: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody is told of a name inside a folder that was opened before, or of a bundle in the making."""
    monkeypatch.setattr(versions, "os", Failing(call, 1, OSError(errno.ENOSPC, "full", "000001")).module)
    with pytest.raises(OSError, match="full") as caught:
        write_version(place, content("new"), known_as=Path("/known/bundle"))
    assert caught.value.filename == "/known/bundle"


def test_write_version_removes_what_a_crash_left(place: Path) -> None:
    """A version that nobody was led to, and links that were to be moved into place, are gone with the next one."""
    shutil.copytree(place / "versions" / "000001", place / "versions" / "000002")
    (place / "versions" / f".current.{'0' * 16}").symlink_to("000002")
    (place / f".key.pem.{'f' * 16}").symlink_to("versions/current/key.pem")
    (place / "versions" / "mine").mkdir()
    write_version(place, content("new"))
    assert numbers(place) == ["000001", "000002", "current", "mine"]
    assert [entry for entry in os.listdir(place) if entry.startswith(".")] == []


def test_write_version_enters_no_link_in_the_place_of_its_folder(tmp_path: Path) -> None:
    """A bundle that somebody prepared leads nobody elsewhere: nothing is written or removed there."""
    elsewhere = tmp_path / "elsewhere"
    (elsewhere / "000001").mkdir(parents=True)
    bundle = tmp_path / "bundle"
    bundle.mkdir()
    (bundle / "versions").symlink_to(elsewhere)
    with pytest.raises(OSError, match="versions"):
        write_version(bundle, content("new"))
    assert [path.name for path in elsewhere.iterdir()] == ["000001"]


def test_write_version_does_not_wait_for_what_is_no_file(plain: Path) -> None:
    """A pipe where a file should be is an error, not a wait."""
    (plain / CERT).unlink()
    os.mkfifo(plain / CERT)
    with pytest.raises(OSError, match="no file"):
        write_version(plain, content("new"))


def test_write_version_of_two_at_once_take_turns(place: Path) -> None:
    """Two renewals at once: one version each, and what is there is one of them whole."""
    gate = threading.Barrier(2)

    def write(text: str) -> None:
        gate.wait(60)
        for turn in range(20):
            write_version(place, content(f"{text}{turn}"))

    writers = [threading.Thread(target=write, args=(text,)) for text in "ab"]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert held(place) in (content("a19"), content("b19"))
    assert len(numbers(place)) == 3


COPIES: dict[str, list[str]] = {
    "cp -r": ["cp", "-r", "FROM", "TO"],
    "cp -a": ["cp", "-a", "FROM", "TO"],
    "cp -rL, as scp -r does": ["cp", "-rL", "FROM", "TO"],
    "cp -r of what is in it": ["sh", "-c", "mkdir TO && cp -r FROM/* TO/"],
    "tar": ["sh", "-c", "mkdir TO && tar -C FROM -cf - . | tar -C TO -xf -"],
}


@pytest.mark.parametrize("how", COPIES)
def test_bundle_that_was_copied_holds_the_same_and_is_written_to(place: Path, tmp_path: Path, how: str) -> None:
    """Links kept or links followed, the folder or what is in it: the copy is a bundle."""
    write_version(place, content("new"))
    copy = tmp_path / "copy"
    command = [word.replace("FROM", str(place)).replace("TO", str(copy)) for word in COPIES[how]]
    subprocess.run(command, check=True, timeout=60)
    assert held(copy) == content("new")
    for text in ("newer", "newest"):
        write_version(copy, content(text))
        assert held(copy) == content(text)
    assert len(numbers(copy)) == 3
    assert held(place) == content("new")
