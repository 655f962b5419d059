"""The supervisor's part of the audit log, held against the verifier that operators use."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.auditlogs import KEY, OTHER_KEY, make_home, records

from gateway.audit.anchor import Anchor
from gateway.audit.checkpoint_log import last_checkpoint
from gateway.audit.checkpoints import CheckpointRefused
from gateway.audit.cli_stream import append_cli
from gateway.audit.line import LogBroken
from gateway.audit.supervisor_log import RETIRE_EVERY, HeadMalformed, SupervisorLog
from gateway.audit.verify import Report, verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig

CONFIG = AuditConfig()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return make_home(tmp_path)


def report(home: Path) -> Report:
    found = verify_directory(home / "audit", KEY.public_key())
    assert found.findings == ()
    return found


def uncovered(home: Path) -> dict[str, int]:
    return {stream.stream: stream.uncovered for stream in report(home).streams}


def write_lines(home: Path, count: int, config: AuditConfig = CONFIG) -> dict[str, object]:
    """Lines in p0; the head as a data process tells it."""
    writer = AuditWriter.open(home / "audit", "p0", config)
    for _ in range(count):
        writer.write("request", {"outcome": "allowed"})
    writer.sync()
    head = writer.durable()
    writer.close()
    assert head is not None
    return {"stream": "p0", "seq": head.seq, "hash": head.hash, "file": head.file}


def test_checkpoint_covers_processes_and_commands(home: Path) -> None:
    """The lines of a command in a sealed home, which cannot sign, are signed by the running gateway."""
    trail = SupervisorLog(home, CONFIG, KEY)
    append_cli(home, "user.added", sign=False, outcome="done")
    trail.checkpoint([write_lines(home, 3)])
    assert uncovered(home) == {"p0": 0, "cli": 0}
    append_cli(home, "user.removed", sign=False, outcome="done")
    assert uncovered(home)["cli"] == 1
    trail.checkpoint([])
    assert uncovered(home)["cli"] == 0


def test_record_is_covered_by_the_next_checkpoint(home: Path) -> None:
    """The supervisor's own acts are lines like all others."""
    trail = SupervisorLog(home, CONFIG, KEY)
    trail.record("admin.reload", "refused", {"count": 2})
    trail.record("admin.drain", "done", {})
    trail.checkpoint([])
    assert uncovered(home) == {"cli": 0}
    lines = (home / "audit" / "cli-000001.jsonl").read_text().splitlines()
    assert '"event":"admin.reload","outcome":"refused","detail":{"count":2}' in lines[0]
    assert '"event":"admin.drain","outcome":"done"' in lines[1]


def test_checkpoint_without_news_writes_nothing(home: Path) -> None:
    """An idle gateway does not fill its disk with signatures."""
    trail = SupervisorLog(home, CONFIG, KEY)
    head = write_lines(home, 1)
    for _ in range(3):
        trail.checkpoint([head])
    assert report(home).checkpoints == 1


def test_settle_covers_what_a_crash_left_unsigned(home: Path) -> None:
    """The next start signs what the last run could not."""
    SupervisorLog(home, CONFIG, KEY).checkpoint([write_lines(home, 2)])
    write_lines(home, 5)
    append_cli(home, "user.added", sign=False, outcome="done")
    assert uncovered(home) == {"p0": 5, "cli": 1}
    SupervisorLog(home, CONFIG, KEY).settle()
    assert uncovered(home) == {"p0": 0, "cli": 0}


def test_settle_on_nothing_writes_and_signs_the_first_line(home: Path) -> None:
    """Before a data process writes there is a checkpoint, so that its absence always shows."""
    SupervisorLog(home, CONFIG, KEY).settle()
    assert uncovered(home) == {"cli": 0}
    assert [line["event"] for line in records(home / "audit", "cli")] == ["admin.audit_begun"]


def test_settle_on_checkpoints_of_another_key_is_refused(home: Path) -> None:
    """Nothing is signed on top of what is not ours."""
    SupervisorLog(home, CONFIG, OTHER_KEY).settle()
    write_lines(home, 1)
    with pytest.raises(CheckpointRefused):
        SupervisorLog(home, CONFIG, KEY).settle()


@pytest.mark.parametrize("head", [{}, {"stream": "p0", "seq": "1", "hash": "", "file": ""}, {"stream": "p0"}])
def test_head_malformed_is_refused(home: Path, head: dict[str, object]) -> None:
    """A head that is none is a bug, and no checkpoint."""
    with pytest.raises(HeadMalformed):
        SupervisorLog(home, CONFIG, KEY).checkpoint([head])


def test_files_beyond_those_kept_go_after_a_checkpoint_says_so(home: Path) -> None:
    """Retention runs by itself, and what is left still verifies."""
    config = AuditConfig(max_bytes=4096, keep=1)
    trail = SupervisorLog(home, config, KEY)
    trail.checkpoint([write_lines(home, 200, config)])
    for _ in range(RETIRE_EVERY):
        trail.checkpoint([])
    files = sorted(path.name for path in (home / "audit").glob("p0-*.jsonl"))
    assert len(files) == 2
    assert uncovered(home)["p0"] == 0


def test_lines_of_a_process_that_was_replaced_are_told_apart(home: Path) -> None:
    """Its successor found them, nobody had signed them: said once, and signed with its own."""
    trail = SupervisorLog(home, CONFIG, KEY)
    trail.settle()
    trail.checkpoint([write_lines(home, 2)])
    write_lines(home, 3)  # killed before it told of them
    head = write_lines(home, 1) | {"opened": 5}
    trail.checkpoint([head])
    trail.checkpoint([head])
    adopted = [line for line in records(home / "audit", "cli") if line["event"] == "admin.audit_adopted"]
    assert [line["detail"] for line in adopted] == [{"name": "p0", "count": 3, "version": 5}]
    assert uncovered(home) == {"p0": 0, "cli": 0}


def test_settle_moves_what_a_power_failure_left_in_the_middle(home: Path) -> None:
    """Zeros where a page was not written, and whole lines behind them: kept aside, said, and the chain goes on."""
    trail = SupervisorLog(home, CONFIG, KEY)
    trail.settle()
    trail.checkpoint([write_lines(home, 2)])
    path = home / "audit" / "p0-000001.jsonl"
    before = path.stat().st_size
    write_lines(home, 3)
    data = bytearray(path.read_bytes())
    middle = data.index(b"\n", before) + 1
    data[middle : middle + 40] = bytes(40)
    path.write_bytes(data)
    SupervisorLog(home, CONFIG, KEY).settle()
    events = [(line["event"], line["detail"]) for line in records(home / "audit", "cli")][1:]
    torn = f"p0-000001-{middle}.torn"
    assert events == [
        ("admin.audit_torn", {"name": "p0", "file": torn, "count": 2}),
        ("admin.audit_adopted", {"name": "p0", "count": 1, "version": 3}),
    ]
    assert (home / "audit" / torn).read_bytes() == data[middle:]
    assert uncovered(home) == {"p0": 0, "cli": 0}


def test_checkpoint_of_the_processes_does_not_wait_for_a_broken_stream_of_commands(home: Path) -> None:
    """Whoever cuts ``cli`` keeps no other line unsigned; that it was cut is told."""
    append_cli(home, "user.added", sign=False, outcome="done")
    trail = SupervisorLog(home, CONFIG, KEY)
    trail.settle()
    (home / "audit" / "cli-000001.jsonl").write_bytes(b"")
    with pytest.raises(LogBroken, match="cli stream does not hold its last line"):
        trail.checkpoint([write_lines(home, 2)])
    last = last_checkpoint(home / "audit", KEY.public_key())
    assert last is not None
    assert last.heads["p0"].seq == 2


@pytest.mark.parametrize("killed_after", ["keep_cli", "write_added", "fdatasync"])
def test_command_killed_at_any_step_leaves_an_end_that_is_known(
    home: Path, monkeypatch: pytest.MonkeyPatch, killed_after: str
) -> None:
    """The next line is kept before it is written: one of both is the stream's last, nothing is taken for foreign."""
    append_cli(home, "user.added", outcome="done")

    class Killed(BaseException):
        """Nothing runs any more."""

    def kill(*_: object, **__: object) -> None:
        raise Killed

    steps = {
        "keep_cli": "gateway.audit.stream.StreamFile.write_added",
        "write_added": "gateway.audit.cli_stream.os.fdatasync",
        "fdatasync": "gateway.audit.cli_stream.CheckpointLog.append",
    }
    monkeypatch.setattr(steps[killed_after], kill)
    with pytest.raises(Killed):
        append_cli(home, "user.disabled", outcome="done")
    monkeypatch.undo()
    append_cli(home, "user.enabled", outcome="done")
    events = [line["event"] for line in records(home / "audit", "cli")]
    written = [] if killed_after == "keep_cli" else ["user.disabled"]
    assert events == ["user.added", *written, "user.enabled"]
    assert uncovered(home) == {"cli": 0}
    assert verify_directory(home / "audit", KEY.public_key(), anchor=Anchor(home / "keys")).findings == ()
