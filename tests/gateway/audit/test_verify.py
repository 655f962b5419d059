"""`audit verify` on real directories: every way to tamper with them, and what an honest crash leaves."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.auditlogs import FIELDS, KEY, OTHER_KEY, chain_again, edit_lines, head_of, make_log

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import Checkpoint, build_checkpoint, parse_checkpoint
from gateway.audit.line import GENESIS, line_hash
from gateway.audit.verify import AuditUnreadable, Report, verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig

P0 = "p0-000001.jsonl"
CHECKPOINTS = "checkpoints.jsonl"


def verify(directory: Path, *kept: Checkpoint) -> Report:
    return verify_directory(directory, KEY.public_key(), kept)


def said(directory: Path, *kept: Checkpoint) -> list[str]:
    return [str(finding) for finding in verify(directory, *kept).findings]


def stored(directory: Path) -> list[Checkpoint]:
    lines = (directory / CHECKPOINTS).read_bytes().splitlines()
    return [checkpoint for line in lines if (checkpoint := parse_checkpoint(line)) is not None]


def sign_again(directory: Path, start: int) -> None:
    """Chain and sign checkpoints again from index ``start`` on with a foreign key."""
    checkpoints = stored(directory)
    lines = [checkpoint.line for checkpoint in checkpoints[:start]]
    for checkpoint in checkpoints[start:]:
        prev = line_hash(lines[-1]) if lines else GENESIS
        fields = {"seq": checkpoint.seq, "ts": checkpoint.ts, "heads": checkpoint.heads}
        lines.append(build_checkpoint(Checkpoint(**fields, prev=prev.decode()), OTHER_KEY).line)  # type: ignore[arg-type]
    (directory / CHECKPOINTS).write_bytes(b"".join(line + b"\n" for line in lines))


def test_verify_log_as_written_sound_with_summary(tmp_path: Path) -> None:
    """An untouched log is sound, and the summary counts streams, lines, checkpoints and uncovered lines."""
    make_log(tmp_path, streams=2, rounds=3, each=4, tail=5)
    report = verify(tmp_path)
    assert (report.findings, report.notes, report.checkpoints) == ((), (), 3)
    assert [(one.stream, one.first, one.last, one.uncovered) for one in report.streams] == [
        ("p0", 1, 17, 5),
        ("p1", 1, 17, 5),
    ]


def test_verify_copy_elsewhere_and_foreign_key(tmp_path: Path) -> None:
    """A copy proves itself with the same key, and nothing with another one."""
    make_log(tmp_path / "a")
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    assert said(tmp_path / "b") == []
    report = verify_directory(tmp_path / "b", OTHER_KEY.public_key())
    assert str(report.findings[0]).startswith(f"{CHECKPOINTS}:1: checkpoint 1 is not signed by this key")


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(position=st.integers(0, 1 << 20), mask=st.integers(1, 255), name=st.sampled_from([P0, CHECKPOINTS]))
def test_verify_any_byte_flipped_found(tmp_path: Path, position: int, mask: int, name: str) -> None:
    """Any single changed byte of a covered log or of its checkpoints is found."""
    directory = tmp_path / "audit"
    if not directory.exists():
        make_log(directory)
    path = directory / name
    whole = path.read_bytes()
    data = bytearray(whole)
    data[position % len(data)] ^= mask
    path.write_bytes(data)
    # The last newline of the checkpoints turned into something else only tears the last checkpoint off: what is
    # signed before still holds, and the loss is told as a torn tail.
    report = verify(directory)
    assert report.findings or (name == CHECKPOINTS and position % len(data) == len(data) - 1 and report.notes)
    path.write_bytes(whole)


Edit = Callable[[list[bytes]], object]


@pytest.mark.parametrize(
    ("edit", "finding"),
    [
        pytest.param(lambda lines: lines.pop(5), "6: seq is 7 where 6 was expected: line 6 is missing", id="removed"),
        pytest.param(
            lambda lines: lines.insert(5, lines[4]),
            "6: seq is 5 where 6 was expected: repeated or inserted",
            id="inserted",
        ),
        pytest.param(
            lambda lines: lines.insert(5, lines.pop(6)),
            "6: seq is 7 where 6 was expected: line 6 is missing",
            id="swapped",
        ),
        pytest.param(
            lambda lines: lines.__delitem__(slice(9, 12)),
            "10: the log ends at line 9, but checkpoint 3 names line 12: lines 10 to 12 cut",
            id="tail",
        ),
        pytest.param(
            lambda lines: lines.clear(),
            " the log ends at line 0, but checkpoint 3 names line 12: lines 1 to 12 cut",
            id="all",
        ),
        pytest.param(
            lambda lines: lines.__setitem__(5, lines[5].replace(b"alice", b"mallo")),
            "6: line 6 has another hash than line 7 says: it was changed",
            id="edited",
        ),
        pytest.param(lambda lines: lines.insert(3, b"hello"), "4: not a line of the audit log", id="junk"),
        pytest.param(
            lambda lines: lines.__delitem__(slice(0, 4)),
            "1: seq is 5 where 1 was expected: lines 1 to 4 are missing",
            id="beginning",
        ),
    ],
)
def test_verify_edited_file_first_bad_line_named(tmp_path: Path, edit: Edit, finding: str) -> None:
    """Each kind of edit is found where it begins."""
    make_log(tmp_path)
    edit_lines(tmp_path / P0, edit)
    assert said(tmp_path) == [f"{P0}:{finding}"]


def test_verify_chain_computed_again_without_the_key_found(tmp_path: Path) -> None:
    """Whoever has no key can compute hashes, not signatures: the next checkpoint tells."""
    make_log(tmp_path)

    def forge(lines: list[bytes]) -> None:
        lines[5] = lines[5].replace(b"alice", b"mallo")
        chain_again(lines, 5)

    edit_lines(tmp_path / P0, forge)
    expected = f"{P0}:8: line 8 has another hash than checkpoint 2 says: a line from 5 to 8 was changed"
    assert said(tmp_path) == [expected]


def test_verify_whole_forgery_with_another_key_found(tmp_path: Path) -> None:
    """Log, chain and checkpoints all made new, but signed by a key that is not ours."""
    make_log(tmp_path)

    def forge(lines: list[bytes]) -> None:
        lines[5] = lines[5].replace(b"alice", b"mallo")
        chain_again(lines, 5)

    edit_lines(tmp_path / P0, forge)
    sign_again(tmp_path, 1)
    assert said(tmp_path)[0].startswith(f"{CHECKPOINTS}:2: checkpoint 2 is not signed by this key")


@pytest.mark.parametrize("index", [0, 1])
def test_verify_checkpoint_removed_found(tmp_path: Path, index: int) -> None:
    """A checkpoint that is missing in the chain is found; without the first none says that it was retired."""
    make_log(tmp_path)
    edit_lines(tmp_path / CHECKPOINTS, lambda lines: lines.pop(index))
    expected = [
        f"{CHECKPOINTS}:1: the first checkpoint is number 2, and none says that retention took the others away",
        f"{CHECKPOINTS}:2: seq is 3 where 2 was expected",
    ]
    assert said(tmp_path)[0] == expected[index]


@pytest.mark.parametrize("index", [0, 1, 2])
def test_verify_checkpoint_edited_found(tmp_path: Path, index: int) -> None:
    """An edited checkpoint is named itself, also when the chain behind it was computed again."""
    make_log(tmp_path)

    def forge(lines: list[bytes]) -> None:
        lines[index] = lines[index].replace(b'"ts":"20', b'"ts":"19')

    edit_lines(tmp_path / CHECKPOINTS, forge)
    assert said(tmp_path)[0].startswith(f"{CHECKPOINTS}:{index + 1}: checkpoint {index + 1} is not signed by this key")


def test_verify_checkpoint_forged_at_the_end_found_and_not_believed(tmp_path: Path) -> None:
    """A forged last checkpoint is the only finding: what it claims of the log is not looked at."""
    make_log(tmp_path)
    last = stored(tmp_path)[-1]
    heads = {"p0": last.heads["p0"].__class__(seq=99, hash="0" * 64, file=P0)}
    forged = Checkpoint(seq=4, ts=last.ts, heads=heads, prev=line_hash(last.line).decode())
    edit_lines(tmp_path / CHECKPOINTS, lambda lines: lines.append(build_checkpoint(forged, OTHER_KEY).line))
    assert [finding.split(":")[:2] for finding in said(tmp_path)] == [[CHECKPOINTS, "4"]]


def test_verify_all_checkpoints_removed_found(tmp_path: Path) -> None:
    """A gateway's log without any checkpoint is not sound, however well it is chained."""
    make_log(tmp_path)
    (tmp_path / CHECKPOINTS).unlink()
    assert said(tmp_path) == [f"{CHECKPOINTS}: no checkpoint at all, although a gateway wrote the log"]


def test_verify_file_in_the_middle_removed_found(tmp_path: Path) -> None:
    """A missing file is named, and the line that it began with."""
    make_log(tmp_path, rounds=6, max_bytes=2000)
    (tmp_path / "p0-000002.jsonl").unlink()
    assert said(tmp_path) == ["p0-000002.jsonl: the file is missing (line 6 of p0 on)"]


def test_verify_first_file_removed_found(tmp_path: Path) -> None:
    """The beginning may only be missing when a checkpoint says that it was retired."""
    make_log(tmp_path, rounds=6, max_bytes=2000)
    (tmp_path / P0).unlink()
    assert said(tmp_path) == [f"{P0}: the file is missing (line 1 of p0 on)"]


def test_verify_last_file_removed_found(tmp_path: Path) -> None:
    """A missing last file is a cut tail."""
    make_log(tmp_path, rounds=6, max_bytes=2000)
    last = sorted(tmp_path.glob("p0-*"))[-1]
    last.unlink()
    assert "names line 24" in said(tmp_path)[0]


def test_verify_stream_removed_found(tmp_path: Path) -> None:
    """All files of a stream gone: checkpoints still name it."""
    make_log(tmp_path, streams=2)
    for path in tmp_path.glob("p1-*"):
        path.unlink()
    assert said(tmp_path) == ["p1-*.jsonl: the log ends at line 0, but checkpoint 3 names line 12: lines 1 to 12 cut"]


def test_verify_swapped_files_found(tmp_path: Path) -> None:
    """Two files that changed names, in one stream or between two."""
    make_log(tmp_path, streams=2, rounds=6, max_bytes=2000)
    first, second = tmp_path / P0, tmp_path / "p0-000002.jsonl"
    one, two = first.read_bytes(), second.read_bytes()
    first.write_bytes(two)
    second.write_bytes(one)
    assert said(tmp_path) == [f"{P0}:1: seq is 6 where 1 was expected: lines 1 to 5 are missing"]
    first.write_bytes((tmp_path / "p1-000001.jsonl").read_bytes())
    second.write_bytes(two)
    assert said(tmp_path) == [f"{P0}:1: a line of stream p1, not of p0"]


def test_verify_torn_tail_noted_not_a_finding(tmp_path: Path) -> None:
    """A line that is being written is told as a note; the same at a covered line is a cut."""
    make_log(tmp_path, tail=2)
    path = tmp_path / P0
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    report = verify(tmp_path)
    assert report.findings == ()
    assert report.notes[0].startswith(f"{P0}:14: torn tail, ")
    assert report.streams[0].uncovered == 1
    covered = b"\n".join(whole.split(b"\n")[:11])
    path.write_bytes(covered + b"\n" + whole.split(b"\n")[11][:30])
    assert said(tmp_path)[0] == f"{P0}:12: the log ends at line 11, but checkpoint 3 names line 12: line 12 cut"


def test_verify_half_a_line_within_the_log_found(tmp_path: Path) -> None:
    """Only the last file may end in half a line."""
    make_log(tmp_path, rounds=6, max_bytes=2000)
    path = tmp_path / "p0-000002.jsonl"
    path.write_bytes(path.read_bytes()[:-1])
    assert said(tmp_path) == ["p0-000002.jsonl:5: half a line within the log"]


def test_verify_torn_checkpoint_noted(tmp_path: Path) -> None:
    """A checkpoint that was being written when the power went is a note."""
    make_log(tmp_path)
    with open(tmp_path / CHECKPOINTS, "ab") as file:
        file.write(b'{"seq":4')
    report = verify(tmp_path)
    assert (report.findings, report.notes) == ((), (f"{CHECKPOINTS}:4: torn tail, 8 bytes",))


def test_verify_rollback_found_only_by_a_kept_checkpoint(tmp_path: Path) -> None:
    """Log and checkpoints put back together look sound; a checkpoint kept elsewhere shows it."""
    make_log(tmp_path)
    kept = stored(tmp_path)
    assert said(tmp_path, *kept) == []
    edit_lines(tmp_path / P0, lambda lines: lines.__delitem__(slice(8, 12)))
    edit_lines(tmp_path / CHECKPOINTS, lambda lines: lines.pop())
    assert said(tmp_path) == []
    assert said(tmp_path, kept[1]) == []
    assert said(tmp_path, kept[2]) == [
        f"{CHECKPOINTS}: the log was put back: it ends at checkpoint 2, but checkpoint 3 was kept"
    ]


def test_verify_rewritten_with_the_key_found_only_by_a_kept_checkpoint(tmp_path: Path) -> None:
    """Even the key's holder cannot write a log anew that fits a checkpoint kept elsewhere."""
    make_log(tmp_path / "a")
    make_log(tmp_path / "b", each=5)
    kept = stored(tmp_path / "a")[-1]
    assert said(tmp_path / "b") == []
    assert said(tmp_path / "b", kept) == [
        f"{CHECKPOINTS}: checkpoint 3 is another one than the kept: the log was written anew"
    ]


def test_verify_kept_checkpoint_of_another_key_found(tmp_path: Path) -> None:
    """A kept checkpoint proves nothing when it has another signature."""
    make_log(tmp_path)
    kept = stored(tmp_path)[-1]
    foreign = build_checkpoint(kept, OTHER_KEY)
    assert said(tmp_path, foreign) == [f"{CHECKPOINTS}: the kept checkpoint 3 is not signed by this key"]


def test_verify_rotated_checkpoints_sound_and_guarded(tmp_path: Path) -> None:
    """The checkpoint log goes on across its files; a missing one is found."""
    config = AuditConfig(max_bytes=900)
    log, writer = CheckpointLog(tmp_path, config), AuditWriter.open(tmp_path, "p0")
    for _ in range(9):
        writer.write("request", FIELDS)
        log.append({"p0": head_of(writer)}, KEY)
    writer.close()
    assert (said(tmp_path), verify(tmp_path).checkpoints) == ([], 9)
    (tmp_path / "checkpoints-000002.jsonl").unlink()
    assert "seq is 5 where 3 was expected" in said(tmp_path)[0]


def test_verify_while_a_writer_writes_always_sound(tmp_path: Path) -> None:
    """Between any two lines, checkpoints and rotations a reader finds a sound log."""
    log, writer = (
        CheckpointLog(tmp_path, AuditConfig(max_bytes=900)),
        AuditWriter.open(tmp_path, "p0", AuditConfig(max_bytes=1500)),
    )
    for number in range(20):
        writer.write("request", FIELDS)
        if number % 3 == 0:
            log.append({"p0": head_of(writer)}, KEY)
        assert said(tmp_path) == []
    writer.close()


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_text("x")])
def test_verify_no_log_unreadable(tmp_path: Path, make: Callable[[Path], object]) -> None:
    """No directory, an empty one, or a file are no logs."""
    make(tmp_path / "audit")
    with pytest.raises(AuditUnreadable):
        verify(tmp_path / "audit")


def test_verify_of_a_directory_that_is_not_there_says_so(tmp_path: Path) -> None:
    """A misspelt path is no log that went away."""
    with pytest.raises(AuditUnreadable, match="there is no such directory"):
        verify(tmp_path / "adit")


def test_verify_endless_line_bounded(tmp_path: Path) -> None:
    """A file without any newline is refused after 64 KiB and never read whole."""
    make_log(tmp_path)
    with open(tmp_path / P0, "ab") as file:
        file.truncate(64 << 20)
    assert said(tmp_path) == [f"{P0}:13: not a line of the audit log"]
