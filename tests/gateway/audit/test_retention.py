"""Retention: files go only when a signed checkpoint says so, and verification accepts exactly that."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from support.auditlogs import FIELDS, KEY, edit_lines, head_of, make_log

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import parse_checkpoint
from gateway.audit.line import AuditUnavailable
from gateway.audit.retention import retire_files
from gateway.audit.verify import Report, verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig

KEEP_TWO = AuditConfig(max_bytes=2000, keep=2)


def said(directory: Path) -> list[str]:
    return [str(finding) for finding in verify(directory).findings]


def verify(directory: Path) -> Report:
    return verify_directory(directory, KEY.public_key())


def names(directory: Path, pattern: str = "p0-*.jsonl") -> list[str]:
    return sorted(path.name for path in directory.glob(pattern))


def test_retire_oldest_files_gone_and_log_still_sound(tmp_path: Path) -> None:
    """Beyond the files to keep the oldest go; the rest proves itself from the signed base on, and goes on."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    gone = retire_files(tmp_path, KEEP_TWO, log, KEY)
    assert gone == ["p0-000001.jsonl", "p0-000002.jsonl", "p0-000003.jsonl", "p0-000004.jsonl"]
    assert names(tmp_path) == ["p0-000005.jsonl", "p0-000006.jsonl", "p0-000007.jsonl"]
    report = verify(tmp_path)
    assert (report.findings, report.streams[0].first, report.streams[0].last) == ((), 21, 32)
    writer = AuditWriter.open(tmp_path, "p0", KEEP_TWO)
    for _ in range(20):
        writer.write("request", FIELDS)
    log.append({"p0": head_of(writer)}, KEY)
    writer.close()
    assert len(retire_files(tmp_path, KEEP_TWO, log, KEY)) == 4
    assert said(tmp_path) == []


@pytest.mark.parametrize("keep", [0, 6, 100])
def test_retire_nothing_to_take(tmp_path: Path, keep: int) -> None:
    """Zero keeps all; as many files as are kept are all kept, and nothing is signed."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    assert retire_files(tmp_path, AuditConfig(keep=keep), log, KEY) == []
    assert verify(tmp_path).checkpoints == 8


def test_retire_file_behind_the_last_checkpoint_kept(tmp_path: Path) -> None:
    """Lines that no checkpoint covers are never taken away."""
    log = make_log(tmp_path, rounds=1, tail=30, max_bytes=2000)
    assert retire_files(tmp_path, KEEP_TWO, log, KEY) == []


def test_retire_file_with_a_wrong_end_kept(tmp_path: Path) -> None:
    """Evidence of tampering is not retired."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    edit_lines(tmp_path / "p0-000004.jsonl", lambda lines: lines.__setitem__(-1, lines[-1].replace(b"alice", b"mallo")))
    assert retire_files(tmp_path, KEEP_TWO, log, KEY) == []


def test_retire_then_more_files_removed_by_hand_found(tmp_path: Path) -> None:
    """A base allows the beginning that it names and no later one."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    retire_files(tmp_path, KEEP_TWO, log, KEY)
    (tmp_path / "p0-000005.jsonl").unlink()
    assert said(tmp_path) == ["p0-000006.jsonl:1: seq is 26 where 21 was expected: lines 21 to 25 are missing"]


def test_retire_first_lines_cut_by_hand_found(tmp_path: Path) -> None:
    """Lines cut without a checkpoint that says so are missed, in a retired log too."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    retire_files(tmp_path, KEEP_TWO, log, KEY)
    edit_lines(tmp_path / "p0-000005.jsonl", lambda lines: lines.pop(0))
    assert said(tmp_path) == ["p0-000005.jsonl:1: seq is 22 where 21 was expected: line 21 is missing"]


@pytest.mark.parametrize("done", [0, 1, 3])
def test_retire_interrupted_still_sound_and_finished_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int
) -> None:
    """A crash between the checkpoint and the last removal leaves a sound log, and the next run goes on."""
    log = make_log(tmp_path, rounds=8, max_bytes=2000)
    real, count = os.unlink, 0

    def dies(path: Path) -> None:
        nonlocal count
        if count == done:
            raise OSError(5, "Input/output error")
        count += 1
        real(path)

    monkeypatch.setattr("gateway.audit.retention.os.unlink", dies)
    with pytest.raises(AuditUnavailable):
        retire_files(tmp_path, KEEP_TWO, log, KEY)
    monkeypatch.undo()
    assert said(tmp_path) == []
    retire_files(tmp_path, KEEP_TWO, log, KEY)
    assert names(tmp_path)[0] == "p0-000005.jsonl"
    assert said(tmp_path) == []


def test_retire_checkpoints_too(tmp_path: Path) -> None:
    """The oldest files of checkpoints go the same way, and their absence is signed for."""
    config = AuditConfig(max_bytes=900, keep=2)
    log, writer = CheckpointLog(tmp_path, config), AuditWriter.open(tmp_path, "p0", config)
    for _ in range(12):
        writer.write("request", FIELDS)
        log.append({"p0": head_of(writer)}, KEY)
    writer.close()
    before = tmp_path / "before"
    shutil.copytree(tmp_path, before)
    retire_files(tmp_path, config, log, KEY)
    assert names(tmp_path, "checkpoints-*.jsonl")[0] == "checkpoints-000004.jsonl"
    assert said(tmp_path) == []
    for name in names(before, "checkpoints-*.jsonl")[:2]:
        (before / name).unlink()
    assert said(before)[0].startswith("checkpoints-000003.jsonl:1: the first checkpoint is number")


def test_retire_kept_checkpoint_older_than_the_log_told(tmp_path: Path) -> None:
    """A kept checkpoint from before the retained ones cannot be compared, and that is not called sound."""
    config = AuditConfig(max_bytes=900, keep=1)
    log, writer = CheckpointLog(tmp_path, config), AuditWriter.open(tmp_path, "p0", config)
    for _ in range(12):
        writer.write("request", FIELDS)
        log.append({"p0": head_of(writer)}, KEY)
    writer.close()
    kept = parse_checkpoint((tmp_path / "checkpoints-000001.jsonl").read_bytes().splitlines()[0])
    assert kept is not None
    retire_files(tmp_path, config, log, KEY)
    report = verify_directory(tmp_path, KEY.public_key(), [kept])
    assert "older than the first one here" in str(report.findings[0])
