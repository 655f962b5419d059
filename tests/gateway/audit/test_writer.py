"""The writers: chains on disk through restarts, crashes, full disks, rotation and many processes at once."""

from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest
from support.auditlogs import FIELDS, KEY, head_of, records, run_python, verified

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.line import AuditUnavailable, FieldRefused, LineBuilder, line_hash
from gateway.audit.stream_end import head_on_disk
from gateway.audit.verify import verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig


def sign(directory: Path, writer: AuditWriter) -> None:
    CheckpointLog(directory).append({"p0": head_of(writer)}, KEY)


@pytest.fixture(name="directory")
def directory_fixture(tmp_path: Path) -> Path:
    path = tmp_path / "audit"
    path.mkdir()
    return path


def test_writer_line_in_the_file_before_write_returns(directory: Path) -> None:
    """Each line is in the kernel's hands at once: another reader sees it without close or flush."""
    writer = AuditWriter.open(directory, "p0")
    for number in range(1, 4):
        writer.write("request", {**FIELDS, "count": number})
        assert [record["count"] for record in records(directory)] == list(range(1, number + 1))
    line = (directory / "p0-000001.jsonl").read_bytes().split(b"\n")[-2]
    assert writer.head() == (3, line_hash(line).decode())
    assert (directory / "p0-000001.jsonl").stat().st_mode & 0o777 == 0o600
    writer.close()


def test_writer_one_write_call_a_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line is one write(2) of the whole line."""
    writer = AuditWriter.open(directory, "p0")
    written: list[bytes] = []
    real = os.write
    monkeypatch.setattr("gateway.audit.stream.os.write", lambda fd, data: (written.append(data), real(fd, data))[1])
    writer.write("request", FIELDS)
    monkeypatch.undo()
    assert len(written) == 1
    assert written[0].endswith(b"\n")
    writer.close()


def test_writer_restarts_tell_how_the_run_before_ended(directory: Path) -> None:
    """none for a new stream, unclean without gateway.stop, clean after it; the chain goes on each time."""
    seen = []
    for events in (["gateway.start", "request"], ["gateway.start", "gateway.stop"], ["gateway.start"]):
        writer = AuditWriter.open(directory, "p0")
        seen.append(writer.previous)
        for event in events:
            writer.write(event, {"previous": writer.previous} if event == "gateway.start" else {})
        sign(directory, writer)
        writer.close()
    assert seen == ["none", "unclean", "clean"]
    assert [record["seq"] for record in records(directory)] == [1, 2, 3, 4, 5]
    verified(directory)


def test_writer_torn_line_set_aside_and_unclean(directory: Path) -> None:
    """Half a line at the end moves to *.torn, whole; the run before counts as unclean even after gateway.stop."""
    writer = AuditWriter.open(directory, "p0")
    writer.write("gateway.stop", {})
    sign(directory, writer)
    writer.close()
    path = directory / "p0-000001.jsonl"
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"stream":"p0","se')
    assert verified(directory).notes == ("p0-000001.jsonl:2: torn tail, 18 bytes",)
    writer = AuditWriter.open(directory, "p0")
    assert (writer.previous, writer.torn) == ("unclean", f"p0-000001-{len(whole)}.torn")
    assert (directory / str(writer.torn)).read_bytes() == b'{"stream":"p0","se'
    writer.write("gateway.start", {"previous": writer.previous})
    writer.close()
    assert verified(directory).streams[0].lines == 2


@pytest.mark.parametrize("garbage", [b"\0" * 5000, b"\0" * 300_000, b"x\ny\n", b"{}\n" * 10])
def test_writer_garbage_after_a_power_failure_set_aside(directory: Path, garbage: bytes) -> None:
    """Zeros or foreign lines behind the last line do not stop the gateway, and nothing of them is thrown away."""
    writer = AuditWriter.open(directory, "p0")
    writer.write("request", FIELDS)
    writer.close()
    with open(directory / "p0-000001.jsonl", "ab") as file:
        file.write(garbage)
    writer = AuditWriter.open(directory, "p0")
    assert writer.previous == "unclean"
    assert (directory / str(writer.torn)).read_bytes() == garbage
    assert writer.head()[0] == 1
    writer.close()


def test_writer_torn_first_line_after_rotation_chain_goes_on(directory: Path) -> None:
    """A crash within the first line of a new file: the chain goes on from the file before."""
    writer = AuditWriter.open(directory, "p0")
    writer.write("request", FIELDS)
    head = writer.head()
    writer.close()
    (directory / "p0-000002.jsonl").write_bytes(b'{"str')
    writer = AuditWriter.open(directory, "p0")
    assert writer.head() == head
    writer.write("request", FIELDS)
    sign(directory, writer)
    writer.close()
    assert verified(directory).streams[0].files == 2


def test_writer_stream_without_any_line_but_later_file_refused(directory: Path) -> None:
    """When the lines to go on from are gone the writer does not start a second beginning."""
    (directory / "p0-000005.jsonl").write_bytes(b"")
    with pytest.raises(AuditUnavailable, match="audit verify"):
        AuditWriter.open(directory, "p0")


def test_writer_second_one_on_a_stream_refused(directory: Path) -> None:
    """Two processes can never write one chain."""
    writer = AuditWriter.open(directory, "p0")
    with pytest.raises(AuditUnavailable, match="another process"):
        AuditWriter.open(directory, "p0")
    writer.close()
    AuditWriter.open(directory, "p0").close()


def test_writer_directory_missing_parent_one_clear_error(tmp_path: Path) -> None:
    """A directory that cannot be made is AuditUnavailable, not an OSError."""
    with pytest.raises(AuditUnavailable, match="No such file"):
        AuditWriter.open(tmp_path / "a" / "b", "p0")


def test_writer_rotates_by_size_and_the_chain_goes_on(directory: Path) -> None:
    """No file grows past the limit, files are numbered without gaps, checkpoints in between hold."""
    writer = AuditWriter.open(directory, "p0", AuditConfig(max_bytes=2000))
    for number in range(40):
        writer.write("request", FIELDS)
        if number % 7 == 0:
            sign(directory, writer)
    sign(directory, writer)
    writer.close()
    files = sorted(directory.glob("p0-*.jsonl"))
    assert len(files) == 8  # five lines fit into each
    assert [file.name for file in files] == [f"p0-{number:06d}.jsonl" for number in range(1, 9)]
    assert all(file.stat().st_size <= 2000 for file in files)
    assert verified(directory).streams[0].lines == 40


def test_writer_line_larger_than_a_file_still_written(directory: Path) -> None:
    """A limit below one line does not lose the line nor make empty files."""
    writer = AuditWriter.open(directory, "p0", AuditConfig(max_bytes=10))
    writer.write("request", FIELDS)
    writer.write("request", FIELDS)
    sign(directory, writer)
    writer.close()
    assert [file.read_bytes().count(b"\n") for file in sorted(directory.glob("p0-*.jsonl"))] == [1, 1]
    verified(directory)


def test_writer_new_file_impossible_old_one_goes_on(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When rotation fails the log grows on rather than stop, and rotates when it can again."""
    writer = AuditWriter.open(directory, "p0", AuditConfig(max_bytes=2000))
    real = os.open

    def no_new_files(path: object, flags: int, *more: object, **named: object) -> int:
        if flags & os.O_EXCL:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path, flags, *more, **named)  # type: ignore[arg-type]

    monkeypatch.setattr("gateway.audit.stream.os.open", no_new_files)
    for _ in range(10):
        writer.write("request", FIELDS)
    monkeypatch.undo()
    assert len(list(directory.glob("p0-*.jsonl"))) == 1
    for _ in range(20):
        writer.write("request", FIELDS)
    sign(directory, writer)
    writer.close()
    assert len(list(directory.glob("p0-*.jsonl"))) > 1
    assert verified(directory).streams[0].lines == 30


def test_writer_short_writes_completed(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel that takes a few bytes at a time gets all of them."""
    writer = AuditWriter.open(directory, "p0")
    real = os.write
    monkeypatch.setattr("gateway.audit.stream.os.write", lambda fd, data: real(fd, data[:7]))
    writer.write("request", FIELDS)
    monkeypatch.undo()
    writer.write("request", FIELDS)
    sign(directory, writer)
    writer.close()
    assert verified(directory).streams[0].lines == 2


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO])
def test_writer_disk_full_partial_line_cut_and_gap_told(
    directory: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """A line that does not fit raises, leaves nothing behind, and once there is room the gap is told with its size."""
    writer = AuditWriter.open(directory, "p0")
    writer.retry_after = 0.0
    writer.write("request", FIELDS)
    whole = (directory / "p0-000001.jsonl").read_bytes()
    real = os.write
    calls = 0

    def fills_up(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        if calls % 2 == 0:
            raise OSError(code, os.strerror(code))
        return real(fd, data[:40])

    monkeypatch.setattr("gateway.audit.stream.os.write", fills_up)
    for lost in range(1, 4):
        with pytest.raises(AuditUnavailable):
            writer.write("request", FIELDS)
        assert (writer.healthy, writer.lost) == (False, lost)
        assert (directory / "p0-000001.jsonl").read_bytes() == whole
    monkeypatch.undo()
    writer.write("request", {"status": 200})
    assert (writer.healthy, writer.lost) == (True, 0)
    sign(directory, writer)
    writer.close()
    assert [(one["event"], one.get("count")) for one in records(directory)[1:]] == [
        ("admin.audit_resumed", 3),
        ("request", None),
    ]
    verified(directory)


def test_writer_asks_a_disk_that_takes_no_line_only_so_often(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A write that fails can take long, so not every line tries; none is forgotten, and the last ones are tried."""
    writer = AuditWriter.open(directory, "p0")
    writer.retry_after = 3600.0
    real, calls = os.write, 0

    def full(fd: int, data: bytes) -> int:
        nonlocal calls
        calls += 1
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("gateway.audit.stream.os.write", full)
    assert writer.writable
    for lost in range(1, 6):
        with pytest.raises(AuditUnavailable):
            writer.write("request", FIELDS)
        assert (writer.writable, writer.lost, calls) == (False, lost, 1)
    monkeypatch.setattr("gateway.audit.stream.os.write", real)
    with pytest.raises(AuditUnavailable, match="a moment ago"):
        writer.write("request", FIELDS)
    writer.flush_refusals()
    writer.write("gateway.stop", {})
    assert (writer.writable, writer.lost) == (True, 0)
    writer.close()
    assert [(one["event"], one.get("count")) for one in records(directory)] == [
        ("admin.audit_resumed", 6),
        ("gateway.stop", None),
    ]


def test_writer_torn_line_that_cannot_be_cut_blocks_until_it_can(
    directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ever appended to half a line: first the half is cut off."""
    writer = AuditWriter.open(directory, "p0")
    writer.retry_after = 0.0
    writer.write("request", FIELDS)
    real = os.write
    calls = iter([40])

    def breaks(fd: int, data: bytes) -> int:
        for count in calls:
            return real(fd, data[:count])
        raise OSError(errno.EIO, "Input/output error")

    def no_truncate(_fd: int, _size: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr("gateway.audit.stream.os.write", breaks)
    monkeypatch.setattr("gateway.audit.stream.os.ftruncate", no_truncate)
    with pytest.raises(AuditUnavailable):
        writer.write("request", FIELDS)
    monkeypatch.setattr("gateway.audit.stream.os.write", real)
    with pytest.raises(AuditUnavailable, match="torn line"):
        writer.write("request", FIELDS)
    monkeypatch.undo()
    writer.write("request", FIELDS)
    sign(directory, writer)
    writer.close()
    assert verified(directory).streams[0].lines == 3


FULL = """
import resource, sys
from pathlib import Path
from gateway.audit.line import AuditUnavailable
from gateway.audit.writer import AuditWriter
from gateway.audit.verify import verify_directory
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))
writer = AuditWriter.open(Path(sys.argv[1]), "p0")
refused = 0
for number in range(100):
    try:
        writer.write("request", {"count": number, "target": "/" + "x" * 100})
    except AuditUnavailable:
        refused += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
writer.flush_refusals()  # the end has come: the last line is tried, however short ago another one failed
writer.write("gateway.stop", {})
writer.close()
print(refused)
"""


def test_writer_file_size_limit_of_the_kernel_chain_sound(directory: Path) -> None:
    """The same with a real limit of the kernel: part of a line is written, cut off again, and the log goes on."""
    with run_python(FULL, directory) as process:
        out, err = process.communicate(timeout=60)
    assert (process.returncode, err) == (0, b"")
    refused = int(out)
    lines = records(directory)
    assert 0 < refused < 100
    assert len(lines) == 100 - refused + 2
    assert (lines[-2]["event"], lines[-2]["count"]) == ("admin.audit_resumed", refused)
    CheckpointLog(directory).append({"p0": head_on_disk(directory, "p0") or pytest.fail("no head")}, KEY)
    verified(directory)


def test_writer_field_refused_writes_nothing_and_counts_nothing(directory: Path) -> None:
    """A caller's bug is not a fault of the log."""
    writer = AuditWriter.open(directory, "p0")
    with pytest.raises(FieldRefused):
        writer.write("request", {"authorization": "x"})
    assert (writer.healthy, writer.lost, records(directory)) == (True, 0, [])
    writer.close()


def test_writer_refusals_folded_in_the_log(directory: Path) -> None:
    """More than ten refusals of one kind in a second: ten lines, then one with the count of the others."""
    writer = AuditWriter.open(directory, "p0")
    for _ in range(25):
        writer.refusal("auth.refused", {"source": "192.0.2.1:5", "reason": "bad_response"}, 7.5)
    writer.tick(7.9)
    assert len(records(directory)) == 10
    writer.tick(8.0)
    assert [record.get("count") for record in records(directory)] == [None] * 10 + [15]
    for _ in range(12):
        writer.refusal("auth.refused", {"source": "192.0.2.1:5", "reason": "bad_response"}, 8.5)
    writer.flush_refusals()
    assert records(directory)[-1]["count"] == 2
    writer.close()


def test_writer_durable_head_follows_in_the_background(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written reaches the disk, and durable() the head, without anybody asking."""
    synced = threading.Event()
    real = os.fdatasync

    def sync(fd: int) -> None:
        real(fd)
        synced.set()

    monkeypatch.setattr(os, "fdatasync", sync)
    writer = AuditWriter.open(directory, "p0")
    writer.write("request", FIELDS)
    writer.write("request", FIELDS)
    while (durable := writer.durable()) is None or durable.seq < 2:
        assert synced.wait(10)
        synced.clear()
        with writer._syncing:
            pass  # the sync is over, and what it reached is told
    assert (durable.seq, durable.hash) == writer.head()
    writer.close()


def test_writer_sync_failure_unhealthy_and_durable_stays(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that could not be brought to disk are never called durable."""
    writer = AuditWriter.open(directory, "p0")
    writer.write("request", FIELDS)
    before = head_of(writer)

    def fails(_fd: int) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(os, "fdatasync", fails)
    writer.write("request", FIELDS)
    with pytest.raises(AuditUnavailable):
        writer.sync()
    assert writer.durable() == before
    assert not writer.healthy
    monkeypatch.undo()
    writer.sync()
    assert writer.healthy
    writer.close()


class Waiter:
    """Notes what it was told, and how many lines were in the log then."""

    def __init__(self, directory: Path, told: list[tuple[str, bool, int]], name: str) -> None:
        self._directory = directory
        self._told = told
        self._name = name

    def recorded(self, done: bool) -> None:
        self._told.append((self._name, done, len(records(self._directory))))
        if self._name == "faulty":
            raise ZeroDivisionError


def test_writer_lines_that_wait_are_one_write(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is written before `flush`; then all lines with one write(2), and only then their waiters are told."""
    writer, told = AuditWriter.open(directory, "p0"), list[tuple[str, bool, int]]()
    written: list[bytes] = []
    real = os.write
    monkeypatch.setattr("gateway.audit.stream.os.write", lambda fd, data: (written.append(data), real(fd, data))[1])
    for name in ("a", "faulty", "c"):
        assert writer.write_soon("request", FIELDS, Waiter(directory, told, name))
    assert (records(directory), told, writer.head()[0]) == ([], [], 0)
    with pytest.raises(ZeroDivisionError):  # when all were told
        writer.flush()
    assert told == [("a", True, 3), ("faulty", True, 3), ("c", True, 3)]
    assert len(written) == 1
    writer.flush()
    assert len(told) == 3
    monkeypatch.undo()
    assert writer.head() == (3, line_hash(written[0].split(b"\n")[-2]).decode())
    sign(directory, writer)
    writer.close()
    verified(directory)


def test_writer_line_written_at_once_takes_those_that_wait_along(directory: Path) -> None:
    """The order of the log is the order in which lines came; whoever waits is told at the end of the turn as ever."""
    writer, told = AuditWriter.open(directory, "p0"), list[tuple[str, bool, int]]()
    writer.write_soon("request", {**FIELDS, "count": 1}, Waiter(directory, told, "a"))
    writer.write("request", {**FIELDS, "count": 2})
    assert [record["count"] for record in records(directory)] == [1, 2]
    assert told == []
    writer.flush()
    assert told == [("a", True, 2)]
    writer.close()


def test_writer_lines_that_cannot_be_written_are_all_told(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No line of a failed write is in the log or the chain; the next ones go one by one until one can be written."""
    writer, told = AuditWriter.open(directory, "p0"), list[tuple[str, bool, int]]()
    writer.retry_after = 0.0
    writer.write("request", FIELDS)
    real = os.write

    def full(fd: int, data: bytes) -> int:
        real(fd, data[:100])
        raise OSError(errno.ENOSPC, "no space")

    monkeypatch.setattr("gateway.audit.stream.os.write", full)
    for name in ("a", "b"):
        assert writer.write_soon("request", FIELDS, Waiter(directory, told, name))
    writer.flush()
    assert [(name, done) for name, done, _ in told] == [("a", False), ("b", False)]
    assert not writer.healthy
    assert not writer.write_soon("request", FIELDS, Waiter(directory, told, "c"))
    assert told[-1][:2] == ("c", False)
    assert writer.lost == 3
    monkeypatch.undo()
    assert not writer.write_soon("request", FIELDS, Waiter(directory, told, "d"))
    assert told[-1] == ("d", True, 3)
    assert writer.write_soon("request", FIELDS, Waiter(directory, told, "e"))
    writer.flush()
    assert [record["event"] for record in records(directory)] == [
        "request",
        "admin.audit_resumed",
        "request",
        "request",
    ]
    sign(directory, writer)
    writer.close()
    verified(directory)


def test_writer_lines_that_wait_keep_to_the_size_of_files(directory: Path) -> None:
    """A file is followed by the next one where it would grow past its size, whether lines wait or not."""
    writer, told = AuditWriter.open(directory, "p0", AuditConfig(max_bytes=4096)), list[tuple[str, bool, int]]()
    for number in range(40):
        writer.write_soon("request", FIELDS, Waiter(directory, told, str(number)))
    writer.flush()
    assert [(name, done) for name, done, _ in told] == [(str(number), True) for number in range(40)]
    sizes = [path.stat().st_size for path in sorted(directory.glob("p0-*.jsonl"))]
    assert len(sizes) > 2
    assert max(sizes) <= 4096
    assert len(records(directory)) == 40
    sign(directory, writer)
    writer.close()
    verified(directory)


def test_writer_finds_what_somebody_else_added_and_signs_none_of_it(tmp_path: Path) -> None:
    """Once a second: a line says so, the head stays the writer's own, and verification names the place."""
    writer = AuditWriter.open(tmp_path, "p0")
    writer.write("request", FIELDS)
    writer.tick(1.0)
    assert not writer.touched
    path = tmp_path / "p0-000001.jsonl"
    head = writer.head()
    forged = LineBuilder("p0", seq=head[0], digest=head[1].encode()).build("request", FIELDS, 2_000_000_000_000_000)
    with path.open("ab") as file:
        file.write(forged)
    writer.tick(2.0)
    assert writer.touched
    writer.tick(3.0)
    found = [record for record in records(tmp_path) if record["event"] == "admin.audit_foreign"]
    assert [record["detail"] for record in found] == [{"name": "p0", "file": path.name, "count": len(forged)}]
    assert writer.head()[0] == 2
    writer.sync()
    durable = writer.durable()
    assert durable is not None
    CheckpointLog(tmp_path).append({"p0": durable}, KEY)
    writer.close()
    assert verify_directory(tmp_path, KEY.public_key()).findings


def test_writer_whose_file_was_removed_goes_on_in_the_next_one(tmp_path: Path) -> None:
    """What is written now can be read; what is gone is found missing."""
    writer = AuditWriter.open(tmp_path, "p0")
    writer.write("request", FIELDS)
    (tmp_path / "p0-000001.jsonl").unlink()
    writer.tick(1.0)
    writer.write("request", FIELDS)
    writer.close()
    assert writer.touched
    assert [record["seq"] for record in records(tmp_path)] == [2, 3]
    assert "p0-000001.jsonl: the file is missing" in str(verify_directory(tmp_path, KEY.public_key()).findings[0])
