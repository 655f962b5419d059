"""Other processes: writers that are killed in mid-line, and commands that append to ``cli`` at the same time."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest
from support.auditlogs import KEY, make_home, records, run_python, verified

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.cli_stream import append_cli
from gateway.audit.line import AuditUnavailable
from gateway.audit.stream_end import head_on_disk
from gateway.config.values import AuditConfig

KILLED = """
import sys
from pathlib import Path
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig
writer = AuditWriter.open(Path(sys.argv[1]), "p0", AuditConfig(max_bytes=50_000))
writer.write("gateway.start", {"previous": writer.previous})
print(writer.previous, flush=True)
number = 0
while True:
    number += 1
    writer.write("request", {"count": number, "target": "/" + "x" * (number % 1500)})
"""


def test_writer_killed_again_and_again_log_stays_sound(tmp_path: Path) -> None:
    """kill -9 in the middle of writing, over and over: every line up to the kill is there and the chain holds."""
    directory = tmp_path / "audit"
    for life in range(8):
        with run_python(KILLED, directory) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == (b"none\n" if life == 0 else b"unclean\n")
            while len(list(directory.glob("p0-*.jsonl"))) < 2 + life:  # let it write, by what it wrote
                assert process.poll() is None
            process.send_signal(signal.SIGKILL)
            process.wait(60)
        head = head_on_disk(directory, "p0")
        assert head is not None
        CheckpointLog(directory).append({"p0": head}, KEY)
        verified(directory)
    starts = [record for record in records(directory) if record["event"] == "gateway.start"]
    assert [record["previous"] for record in starts] == ["none"] + ["unclean"] * 7


CLI = """
import sys
from pathlib import Path
from gateway.audit.cli_stream import append_cli
for number in range(int(sys.argv[2])):
    append_cli(Path(sys.argv[1]), "admin.tested", process=sys.argv[3], count=number)
"""


def test_append_cli_many_processes_one_sound_chain(tmp_path: Path) -> None:
    """Commands that run at the same time queue up: no line is lost, and everything is signed."""
    home = make_home(tmp_path)
    processes = [run_python(CLI, home, 15, name) for name in "abcd"]
    for process in processes:
        with process:
            assert process.communicate(timeout=60)[1] == b""
        assert process.returncode == 0
    report = verified(home / "audit")
    assert report.streams[0].lines == 60
    assert report.streams[0].uncovered == 0
    for name in "abcd":
        assert [one["count"] for one in records(home / "audit", "cli") if one["process"] == name] == list(range(15))


def test_append_cli_sealed_key_line_chained_but_unsigned(tmp_path: Path) -> None:
    """Without the passphrase the line is there; the next holder of the key signs for it."""
    home = make_home(tmp_path)
    (home / "keys" / "checkpoint.key").write_bytes(b"RHTTPSEAL\x01" + b"\0" * 80)
    head = append_cli(home, "pki.issued", identity="client/alice", detail={"role": "client"})
    assert verified(home / "audit").checkpoints == 0
    CheckpointLog(home / "audit").append({"cli": head}, KEY)
    assert verified(home / "audit").streams[0].uncovered == 0


def test_append_cli_given_key_signs_and_sign_false_does_not(tmp_path: Path) -> None:
    """The supervisor's lines are signed by its own checkpoints; a command with a passphrase hands its key in."""
    home = make_home(tmp_path)
    append_cli(home, "gateway.start", sign=False)
    assert not (home / "audit" / "checkpoints.jsonl").exists()
    (home / "keys" / "checkpoint.key").unlink()
    append_cli(home, "user.added", key=KEY, identity="client/bob")
    report = verified(home / "audit")
    assert (report.checkpoints, report.streams[0].lines, report.streams[0].uncovered) == (1, 2, 0)


def test_append_cli_torn_line_of_a_killed_command_set_aside(tmp_path: Path) -> None:
    """A command that died in mid-line does not stop the next one."""
    home = make_home(tmp_path)
    append_cli(home, "user.added", identity="client/a")
    with open(home / "audit" / "cli-000001.jsonl", "ab") as file:
        file.write(b'{"stream":"cli","seq":2')
    append_cli(home, "user.added", identity="client/b")
    assert [record["seq"] for record in records(home / "audit", "cli")] == [1, 2]
    assert len(list((home / "audit").glob("*.torn"))) == 1
    verified(home / "audit")


def test_append_cli_rotates(tmp_path: Path) -> None:
    """The stream of the commands rotates like the others."""
    home = make_home(tmp_path)
    for number in range(12):
        append_cli(home, "user.added", config=AuditConfig(max_bytes=600), identity=f"client/{number}")
    assert len(list((home / "audit").glob("cli-*.jsonl"))) > 2
    assert verified(home / "audit").streams[0].lines == 12


def test_append_cli_unwritable_directory_unavailable(tmp_path: Path) -> None:
    """A log that cannot be written is an error of the command, never silence."""
    with pytest.raises(AuditUnavailable):
        append_cli(tmp_path / "missing", "user.added")


def test_append_cli_forged_checkpoints_not_built_on(tmp_path: Path) -> None:
    """The line is written, but nothing is signed on top of checkpoints that this key did not sign."""
    home = make_home(tmp_path)
    append_cli(home, "user.added", identity="client/a")
    path = home / "audit" / "checkpoints.jsonl"
    forged = path.read_bytes().replace(b'"seq":1,"ts"', b'"seq":9,"ts"')
    path.write_bytes(forged)
    append_cli(home, "user.added", identity="client/b")
    assert path.read_bytes() == forged
    assert len(records(home / "audit", "cli")) == 2
