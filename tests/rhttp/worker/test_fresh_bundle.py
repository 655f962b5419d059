"""A bundle in the making: whole or not at all, one run at a time, and a key that nobody else could know."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.homes import mode_of

from rhttp.worker.est import KEY_TYPES
from rhttp.worker.fresh_bundle import FreshBundle, PlaceTaken, key_pem

FILES = {"cert.pem": b"c", "key.pem": b"k", "password": b"p"}


def content(place: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in place.iterdir() if path.name != "versions"}


@pytest.fixture(params=["missing", "empty", "deep", "linked"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """Where a bundle may be made."""
    made = tmp_path / "in" / "between" / "w1" if request.param == "deep" else tmp_path / "w1"
    if request.param == "empty":
        made.mkdir()
    if request.param == "linked":
        (tmp_path / "far").mkdir()
        (tmp_path / "far" / "w1").mkdir()
        made = tmp_path / "near" / "w1"
        made.parent.mkdir()
        made.symlink_to(tmp_path / "far" / "w1")
    return made


def test_bundle_appears_at_commit_and_leaves_nothing_else(place: Path) -> None:
    """Its secrets are the owner's alone."""
    with FreshBundle(place) as bundle:
        bundle.key("p256")
        assert not place.exists() or [path.name for path in place.iterdir()] == [".enrolling"]
        bundle.add(FILES)
        bundle.commit()
    assert content(place) == FILES
    assert [mode_of(place / name) for name in FILES] == [0o644, 0o600, 0o600]
    assert (mode_of(place), [path.name for path in place.parent.iterdir()]) == (0o700, ["w1"])


def test_bundle_that_is_not_committed_leaves_nothing(place: Path, tmp_path: Path) -> None:
    """Not even the directories above it that were made for it."""
    before = sorted(tmp_path.rglob("*"))
    with FreshBundle(place) as bundle:
        bundle.key("p256")
    assert sorted(tmp_path.rglob("*")) == before


def test_key_that_is_kept_is_the_next_runs(place: Path) -> None:
    """For the same place and the same kind; another kind gets another key."""
    with FreshBundle(place) as bundle:
        first = bundle.key("p256")
        bundle.is_kept = True
    with FreshBundle(place) as bundle:
        assert key_pem(bundle.key("p256")) == key_pem(first)
        other = bundle.key("p384")
        assert key_pem(other) != key_pem(first)
        bundle.is_kept = True
    with FreshBundle(place) as bundle:
        assert key_pem(bundle.key("p384")) == key_pem(other)
        bundle.add(FILES)
        bundle.commit()
    assert content(place) == FILES


@pytest.mark.parametrize("what", ["half", "readable", "link"])
def test_key_that_is_not_to_be_trusted_is_made_anew(what: str, tmp_path: Path) -> None:
    """Half written by a run that was killed, readable by others, or somewhere else."""
    place = tmp_path / "w1"
    with FreshBundle(place) as bundle:
        first = key_pem(bundle.key("p256"))
        bundle.is_kept = True
    kept = tmp_path / ".w1.enrolling" / "key.pem"
    match what:
        case "half":
            kept.write_bytes(first[:40])
        case "readable":
            kept.chmod(0o640)
        case "link":
            (tmp_path / "elsewhere").write_bytes(first)
            (tmp_path / "elsewhere").chmod(0o600)
            kept.unlink()
            kept.symlink_to(tmp_path / "elsewhere")
    with FreshBundle(place) as bundle:
        assert key_pem(bundle.key("p256")) != first
        assert mode_of(kept) == 0o600
        load_pem_private_key(kept.read_bytes(), None)
    if what == "link":
        assert (tmp_path / "elsewhere").read_bytes() == first


@pytest.mark.parametrize("what", ["open", "file", "link"])
def test_folder_that_somebody_else_could_enter_is_refused(what: str, tmp_path: Path) -> None:
    """A key in it could be known; it is left as it is, and named."""
    folder = tmp_path / ".w1.enrolling"
    match what:
        case "open":
            folder.mkdir()
            folder.chmod(0o750)
        case "file":
            folder.touch()
        case "link":
            (tmp_path / "elsewhere").mkdir(mode=0o700)
            folder.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(PlaceTaken, match="remove it") as caught, FreshBundle(tmp_path / "w1"):
        pytest.fail("it was taken")
    assert str(folder) in str(caught.value)
    assert os.path.lexists(folder)


def test_second_run_for_the_same_place_is_refused(place: Path) -> None:
    """Two would spend two uses of a token, and one would win."""
    with FreshBundle(place) as bundle:
        with pytest.raises(PlaceTaken, match="another run"), FreshBundle(place):
            pytest.fail("it was taken twice")
        bundle.add(FILES)
        bundle.commit()
    assert content(place) == FILES


def test_place_that_was_filled_meanwhile_is_left_alone(place: Path) -> None:
    """Whoever came first has it."""
    with FreshBundle(place) as bundle:
        place.mkdir(exist_ok=True)
        (place / "theirs").touch()
        bundle.add(FILES)
        with pytest.raises(PlaceTaken):
            bundle.commit()
    assert content(place) == {"theirs": b""}


def test_bundle_on_a_full_disk_leaves_what_was_there(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error in the middle of the writing, and nothing is to be seen; the key waits for the next run."""
    real, left = os.fsync, [3]

    def full(descriptor: int) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(descriptor)

    with FreshBundle(place) as bundle:
        key = key_pem(bundle.key("p256"))
        bundle.is_kept = True
        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", full)
            with pytest.raises(OSError, match="No space"):
                bundle.add(FILES)
    assert not place.exists() or [path.name for path in place.iterdir()] == [".enrolling"]
    with FreshBundle(place) as bundle:
        assert key_pem(bundle.key("p256")) == key
        bundle.add(FILES)
        bundle.commit()
    assert content(place) == FILES


def test_key_is_of_the_kind_that_was_asked_for(tmp_path: Path) -> None:
    """Each kind is told from each other one."""
    for kind in KEY_TYPES:
        with FreshBundle(tmp_path / "w1") as bundle:
            first = bundle.key(kind)
            assert key_pem(bundle.key(kind)) == key_pem(first)
            for other in KEY_TYPES.keys() - {kind}:
                assert key_pem(bundle.key(other)) != key_pem(first)
                first = bundle.key(kind)
