"""Ways of tampering with the log of a home, by somebody who can write ``audit/`` and has neither key nor ``keys/``.

Each is found by `audit verify`, and not made good by the next start: that refuses, or the log names it for ever.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from support.auditlogs import FIELDS, KEY, chain_again, edit_lines, lines_of, make_home, records

from gateway.audit.anchor import Anchor
from gateway.audit.checkpoints import CheckpointRefused
from gateway.audit.cli_stream import append_cli
from gateway.audit.line import AuditUnavailable, line_hash
from gateway.audit.supervisor_log import SupervisorLog
from gateway.audit.verify import Report, verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig

CONFIG = AuditConfig(max_bytes=4096)
P0, P1, CLI = "p0-000002.jsonl", "p1-000001.jsonl", "cli-000001.jsonl"
Tamper = Callable[[Path], object]


def told(writer: AuditWriter, stream: str) -> dict[str, object]:
    """The head as a data process tells it."""
    head = writer.durable()
    assert head is not None
    return {"stream": stream, "seq": head.seq, "hash": head.hash, "file": head.file, "opened": writer.opened}


def run_gateway(home: Path, *, killed: bool = False, lines: int = 20) -> None:
    """What a gateway with two processes leaves behind: several files each, checkpoints, an orderly end or none."""
    trail = SupervisorLog(home, CONFIG, KEY)
    trail.settle()
    writers = {stream: AuditWriter.open(home / "audit", stream, CONFIG) for stream in ("p0", "p1")}
    for stream, writer in writers.items():
        writer.write("gateway.start", {"outcome": "started", "process": stream, "previous": writer.previous})
    for number in range(lines):
        for writer in writers.values():
            writer.write("request", {**FIELDS, "count": number})
        if number % 5 == 0:
            for writer in writers.values():
                writer.sync()
            trail.checkpoint([told(writer, stream) for stream, writer in writers.items()])
    for stream, writer in writers.items():
        if not killed:
            writer.write("gateway.stop", {"outcome": "stopped", "process": stream})
        writer.close()
    if not killed:
        trail.finish([told(writer, stream) for stream, writer in writers.items()], complete=True)


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    append_cli(home, "user.added", outcome="done", detail={"user": "alice"})
    run_gateway(home)
    append_cli(home, "user.disabled", outcome="done", detail={"user": "alice"})
    shutil.copytree(home / "audit", tmp_path / "earlier")
    run_gateway(home)
    append_cli(home, "user.enabled", outcome="done", detail={"user": "alice"})
    assert verify(home).findings == ()
    return home


def verify(home: Path) -> Report:
    return verify_directory(home / "audit", KEY.public_key(), anchor=Anchor(home / "keys"))


def next_line(path: Path, event: str) -> bytes:
    """A line that goes on from the last one of a file, as anyone can write it."""
    last = path.read_bytes().splitlines()[-1]
    record = json.loads(last)
    frame = {"stream": record["stream"], "seq": record["seq"] + 1, "ts": record["ts"], "event": event}
    text = json.dumps({**frame, "outcome": "done", "prev": line_hash(last).decode()}, separators=(",", ":"))
    return text.encode() + b"\n"


def add_line(path: Path, event: str = "request") -> None:
    with path.open("ab") as file:
        file.write(next_line(path, event))


def change_byte(audit: Path) -> None:
    data = bytearray((audit / P0).read_bytes())
    data[len(data) // 2] ^= 1
    (audit / P0).write_bytes(data)


def compute_again(audit: Path) -> None:
    """Change a line, then every hash behind it, in every file of the stream."""
    files = sorted(audit.glob("p0-*.jsonl"))
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    counts = [len(file.read_bytes().splitlines()) for file in files]
    lines[3] = lines[3].replace(b"client/alice", b"client/mallo")
    chain_again(lines, 3)
    for file, count in zip(files, counts, strict=True):
        file.write_bytes(b"".join(line + b"\n" for line in lines[:count]))
        del lines[:count]


def remove_checkpoints(audit: Path) -> None:
    for file in audit.glob("checkpoints*"):
        file.unlink()


def compute_again_without_checkpoints(audit: Path) -> None:
    compute_again(audit)
    remove_checkpoints(audit)


def put_back(audit: Path) -> None:
    """Log and checkpoints together, to an earlier state that was sound."""
    shutil.rmtree(audit)
    shutil.copytree(audit.parents[1] / "earlier", audit)


def swap_files(audit: Path) -> None:
    one, two, aside = audit / "p0-000001.jsonl", audit / P0, audit / "aside"
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def cut_files(audit: Path) -> None:
    """The end of a stream, whole files of it, and every checkpoint that names their lines."""
    for file in sorted(audit.glob("p1-*.jsonl"))[1:]:
        file.unlink()
    kept = max(json.loads(line)["seq"] for line in (audit / P1).read_bytes().splitlines())
    covers = [
        json.loads(line)["heads"].get("p1", {}).get("seq", 0) <= kept
        for line in (audit / "checkpoints.jsonl").read_bytes().splitlines()
    ]
    edit_lines(audit / "checkpoints.jsonl", lambda lines: lines.__delitem__(slice(covers.index(False), None)))


def rename_stream(audit: Path) -> None:
    for file in sorted(audit.glob("p1-*.jsonl")):
        file.rename(audit / file.name.replace("p1-", "p7-"))


WAYS: dict[str, Tamper] = {
    "byte changed": change_byte,
    "line removed": lambda audit: edit_lines(audit / P0, lambda lines: lines.pop(2)),
    "line inserted": lambda audit: edit_lines(audit / P0, lambda lines: lines.insert(2, lines_of(1)[0])),
    "line repeated": lambda audit: edit_lines(audit / P0, lambda lines: lines.insert(2, lines[2])),
    "line moved": lambda audit: edit_lines(audit / P0, lambda lines: lines.insert(4, lines.pop(2))),
    "end cut": lambda audit: edit_lines(sorted(audit.glob("p0-*"))[-1], lambda lines: lines.pop()),
    "end cut with its checkpoints": cut_files,
    "end of the commands cut": lambda audit: edit_lines(audit / CLI, lambda lines: lines.pop()),
    "beginning cut": lambda audit: edit_lines(audit / "p0-000001.jsonl", lambda lines: lines.__delitem__(slice(3))),
    "first file removed": lambda audit: (audit / "p0-000001.jsonl").unlink(),
    "middle file removed": lambda audit: (audit / P0).unlink(),
    "files swapped": swap_files,
    "stream renamed": rename_stream,
    "stream removed": lambda audit: [file.unlink() for file in audit.glob("p1-*.jsonl")],
    "hashes computed again": compute_again,
    "hashes computed again, checkpoints removed": compute_again_without_checkpoints,
    "checkpoints removed": remove_checkpoints,
    "last checkpoint removed": lambda audit: edit_lines(audit / "checkpoints.jsonl", lambda lines: lines.pop()),
    "all put back": put_back,
    "directory removed": shutil.rmtree,
    "all removed": lambda audit: [file.unlink() for file in audit.iterdir()],
    "line added to a process": lambda audit: add_line(sorted(audit.glob("p0-*.jsonl"))[-1]),
    "start added to a process": lambda audit: add_line(sorted(audit.glob("p0-*.jsonl"))[-1], "gateway.start"),
    "line added to the commands": lambda audit: add_line(audit / CLI, "user.enabled"),
    "file added to a process": lambda audit: (audit / "p0-000099.jsonl").write_bytes(
        next_line(sorted(audit.glob("p0-*.jsonl"))[-1], "request")
    ),
}
UNCOVERED = {"line added to a process", "start added to a process"}
"""What only the next start tells: until then these lines might be those of a gateway that runs."""


@pytest.mark.parametrize("way", WAYS)
def test_tampering_is_found_and_no_start_makes_it_good(home: Path, way: str) -> None:
    """Found at once; after a start that was refused it still is, and after one that was not the log itself says so."""
    WAYS[way](home / "audit")
    if way not in UNCOVERED:
        assert verify(home).findings
    refused = False
    try:
        run_gateway(home)
    except (AuditUnavailable, CheckpointRefused):
        refused = True
    report = verify(home)
    if way in ("all removed", "directory removed"):  # an operator may do that; the new log names what was before it
        assert not refused
        assert any("this log began anew; the one before ended with checkpoint" in note for note in report.notes)
    else:
        assert report.findings
    if not refused:  # nothing of it is what the next checkpoints build on
        append_cli(home, "user.disabled", outcome="done")
        assert all(stream.uncovered == 0 for stream in verify(home).streams)


def test_lines_that_a_killed_gateway_left_are_kept_and_told_apart(home: Path) -> None:
    """They say what happened; nobody but the chain speaks for them, and the log says which they are."""
    run_gateway(home, killed=True, lines=24)
    before = len(records(home / "audit", "p0"))
    run_gateway(home)
    assert verify(home).findings == ()
    adopted = [line for line in records(home / "audit", "cli") if line["event"] == "admin.audit_adopted"]
    details = [line["detail"] for line in adopted]
    assert details == [{"name": stream, "count": 3, "version": before} for stream in ("p0", "p1")]
    assert any(f"3 lines of p0, up to number {before}, were found" in note for note in verify(home).notes)


def test_directory_moved_away_begins_a_new_log_whose_checkpoints_go_on(home: Path) -> None:
    """The documented way on after a disk has really lost lines: explicit, told for ever, proved again from there."""
    last = Anchor(home / "keys").checkpoint()
    assert last is not None
    change_byte(home / "audit")
    (home / "audit").rename(home / "audit-broken")
    run_gateway(home)
    report = verify(home)
    assert report.findings == ()
    number = last.checkpoint.seq
    assert f"cli-000001.jsonl:1: this log began anew; the one before ended with checkpoint {number}" in report.notes
    first = json.loads((home / "audit" / "checkpoints.jsonl").read_bytes().splitlines()[0])
    assert (first["seq"], first["prev"]) == (number + 1, line_hash(last.checkpoint.line).decode())
    remove_checkpoints(home / "audit")
    assert verify(home).findings
    with pytest.raises(CheckpointRefused, match="lost its checkpoints"):
        run_gateway(home)


def test_new_log_begun_by_a_command_that_cannot_sign(home: Path) -> None:
    """In a sealed home the next start signs it; lines of processes cannot be there then."""
    shutil.rmtree(home / "audit")
    append_cli(home, "user.disabled", sign=False, outcome="done")
    events = [line["event"] for line in records(home / "audit", "cli")]
    assert events == ["admin.audit_begun", "user.disabled"]
    assert verify(home).findings == ()
    (home / "audit" / "p0-000001.jsonl").write_bytes(b"".join(line + b"\n" for line in lines_of(3)))
    with pytest.raises(AuditUnavailable, match="p0 has lines, and the checkpoints that must cover them are not there"):
        run_gateway(home)
    (home / "audit" / "p0-000001.jsonl").unlink()
    run_gateway(home)
    assert verify(home).findings == ()


def test_copy_elsewhere_proves_itself_without_the_home(home: Path, tmp_path: Path) -> None:
    """And cannot tell that it was cut together with its checkpoints; the home can."""
    shutil.copytree(home / "audit", tmp_path / "copy")
    assert verify_directory(tmp_path / "copy", KEY.public_key()).findings == ()
    put_back(home / "audit")
    assert verify_directory(home / "audit", KEY.public_key()).findings == ()
    said = [str(finding) for finding in verify(home).findings]
    assert any("the log was put back: it ends at checkpoint" in line for line in said)


def test_keys_of_a_backup_older_than_the_log_are_caught_up(home: Path, tmp_path: Path) -> None:
    """A checkpoint in the log proves what the backup does not know yet."""
    shutil.copytree(home / "keys", tmp_path / "keys")
    append_cli(home, "user.disabled", outcome="done")
    append_cli(home, "user.enabled", outcome="done")
    shutil.copytree(tmp_path / "keys", home / "keys", dirs_exist_ok=True)
    run_gateway(home)
    assert verify(home).findings == ()
    assert not list((home / "audit").glob("*.foreign"))


def test_log_of_a_home_that_kept_nothing_is_taken_over_and_says_so(home: Path) -> None:
    """A home that an earlier version made."""
    for name in ("audit-cli.json", "audit-checkpoint.jsonl"):
        (home / "keys" / name).unlink()
    run_gateway(home)
    report = verify(home)
    assert report.findings == ()
    assert any("from here on keys/ says how cli ends" in note for note in report.notes)
