"""The lock, the note and the folder of a running gateway."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest

from gateway.home import locks
from gateway.home.locks import (
    AlreadyRunning,
    GatewayLock,
    NameBusy,
    RunFolderUnsafe,
    holder_of,
    lock_name,
    remove_note,
    require_private,
    write_note,
)


def test_lock_held_is_refused_with_the_pid_of_its_holder(tmp_path: Path) -> None:
    """One gateway a home, and the message says which one it is."""
    path = tmp_path / "gateway.lock"
    first = GatewayLock(path, path.parent)
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        GatewayLock(path, path.parent)
    first.release()
    GatewayLock(path, path.parent).release()


def test_lock_of_a_killed_holder_is_free(tmp_path: Path) -> None:
    """However a gateway ended, the next one may start."""
    path = tmp_path / "gateway.lock"
    code = (
        "import sys, time; from pathlib import Path; from gateway.home.locks import GatewayLock\n"
        "lock = GatewayLock(Path(sys.argv[1]), Path(sys.argv[1]).parent); print('held', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", code, str(path)], stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == b"held\n"
        with pytest.raises(AlreadyRunning, match=f"pid {holder.pid} "):
            GatewayLock(path, path.parent)
        holder.kill()
        holder.wait(60)
    GatewayLock(path, path.parent).release()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A folder that only the owner may enter."""
    folder = tmp_path / "run"
    folder.mkdir(mode=0o700)
    return folder


@pytest.fixture
def holder(run: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process in whose turn `twin` is."""
    code = (
        "import sys, time; from pathlib import Path; from gateway.home.locks import lock_name\n"
        "with lock_name(Path(sys.argv[1]), 'twin'): print('held', flush=True); time.sleep(60)"
    )
    command = [sys.executable, "-c", code, str(run / "issuing.lock")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_turn_that_does_not_come_is_an_error_and_never_a_hang(
    run: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever waits too long says for what, and another name is not held up."""
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with pytest.raises(NameBusy, match=r"issuing for twin .*issuing\.lock"), lock_name(run / "issuing.lock", "twin"):
        pass
    with lock_name(run / "issuing.lock", "other"):
        assert holder.poll() is None
    assert (run / "issuing.lock").stat().st_mode & 0o777 == 0o600


def test_turn_of_a_killed_holder_goes_to_who_waits(
    run: Path, holder: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a command ended, the next one has its turn without being started again."""
    waits: list[float] = []

    def wait(seconds: float) -> None:
        waits.append(seconds)
        monkeypatch.undo()  # the wait below sleeps too, when the holder takes its time to end
        holder.kill()
        holder.wait(60)

    monkeypatch.setattr(locks.time, "sleep", wait)
    with lock_name(run / "issuing.lock", "twin"):
        assert len(waits) == 1


def test_turn_in_a_folder_open_to_others_is_refused(run: Path) -> None:
    """Another user's process could hold the lock for ever."""
    run.chmod(0o755)
    with pytest.raises(RunFolderUnsafe, match="chmod 700"), lock_name(run / "issuing.lock", "twin"):
        pass


def test_note_is_replaced_whole_and_private(tmp_path: Path) -> None:
    """A reader never sees half a note, and only the owner sees one."""
    path = tmp_path / "gateway.json"
    write_note(path, {"pid": 1, "more": "x" * 1000})
    write_note(path, {"pid": 2})
    assert orjson.loads(path.read_bytes()) == {"pid": 2}
    assert path.stat().st_mode & 0o777 == 0o600
    assert [entry.name for entry in tmp_path.iterdir()] == ["gateway.json"]
    remove_note(path)
    remove_note(path)
    assert not path.exists()


def test_folder_missing_is_made_private(tmp_path: Path) -> None:
    """The folder of the admin socket exists and is the owner's before anything is bound in it."""
    require_private(tmp_path / "run")
    assert (tmp_path / "run").stat().st_mode & 0o777 == 0o700


@pytest.mark.parametrize("mode", [0o750, 0o701, 0o777])
def test_folder_open_to_others_is_refused(tmp_path: Path, mode: int) -> None:
    """A folder that others may enter is no place for the admin socket."""
    folder = tmp_path / "run"
    folder.mkdir()
    folder.chmod(mode)
    with pytest.raises(RunFolderUnsafe, match="chmod 700"):
        require_private(folder)


def test_folder_that_is_a_link_is_refused(tmp_path: Path) -> None:
    """Where the socket really lies must be where it says."""
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "run").symlink_to(tmp_path / "real")
    with pytest.raises(RunFolderUnsafe, match="not a folder"):
        require_private(tmp_path / "run")


def test_lock_whose_file_was_deleted_is_held_by_the_home_itself(tmp_path: Path) -> None:
    """Who clears ``run`` takes away no gateway: no second one starts, and who asks hears of the first."""
    path = tmp_path / "gateway.lock"
    first = GatewayLock(path, tmp_path)
    path.unlink()
    assert holder_of(tmp_path) == str(os.getpid())
    with pytest.raises(AlreadyRunning, match=f"pid {os.getpid()} "):
        GatewayLock(path, tmp_path)
    first.release()
    assert holder_of(tmp_path) is None
    GatewayLock(path, tmp_path).release()


def test_holder_of_a_home_where_none_runs_is_nobody(tmp_path: Path) -> None:
    """Also of a home that is not there; and who looks keeps nobody from starting."""
    assert holder_of(tmp_path / "none") is None
    assert holder_of(tmp_path) is None
    GatewayLock(tmp_path / "gateway.lock", tmp_path).release()
