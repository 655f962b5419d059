"""`audit tail` and `audit verify` as commands: what they print and how they end."""

from __future__ import annotations

import errno
import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.auditlogs import FIELDS, OTHER_KEY, edit_lines, make_home, make_log

from gateway.audit.cli_stream import append_cli
from gateway.audit.line import AuditUnavailable
from gateway.audit.writer import RETRY, AuditWriter
from gateway.cli.audit import audit
from gateway.config.values import AuditConfig

ROOT = Path(__file__).parents[3]


def run(home: Path, *arguments: str | Path) -> Result:
    return CliRunner().invoke(audit, [*map(str, arguments), "--home", str(home)])


@pytest.fixture(name="home")
def home_fixture(tmp_path: Path) -> Path:
    home = make_home(tmp_path / "home")
    make_log(home / "audit", streams=2, rounds=3, each=4, tail=1)
    return home


def test_verify_sound_log_exits_0_with_summary(home: Path) -> None:
    """A sound log ends with 0 and one line that counts everything."""
    result = run(home, "verify")
    assert (result.exit_code, result.stderr) == (0, "")
    last = result.stdout.splitlines()[-1]
    assert last.startswith("sound: 2 streams, 26 lines, 3 checkpoints, the last one number 3 of 20")
    assert last.endswith("; 2 lines behind the last checkpoint")


def test_verify_tampered_log_exits_1_and_names_the_line(home: Path) -> None:
    """A changed line ends with 1, and the file and line stand on stdout."""
    edit_lines(home / "audit" / "p1-000001.jsonl", lambda lines: lines.pop(2))
    result = run(home, "verify")
    assert result.exit_code == 1
    assert "BAD p1-000001.jsonl:3: seq is 4 where 3 was expected: line 3 is missing" in result.stdout.splitlines()
    assert result.stdout.splitlines()[-1].startswith("tampered with: ")


def test_verify_json_report(home: Path) -> None:
    """The report as JSON says the same."""
    edit_lines(home / "audit" / "p1-000001.jsonl", lambda lines: lines.pop(2))
    result = run(home, "verify", "--json")
    report = json.loads(result.stdout)
    assert result.exit_code == 1
    assert report["sound"] is False
    assert report["findings"][0] == {
        "file": "p1-000001.jsonl",
        "line": 3,
        "what": "seq is 4 where 3 was expected: line 3 is missing",
    }
    assert report["checkpoints"] == report["last_checkpoint"]["seq"] == 3
    assert report["streams"][0] == {"stream": "p0", "files": 1, "lines": 13, "first": 1, "last": 13, "uncovered": 1}


def test_verify_copy_with_key_and_kept_checkpoint(home: Path, tmp_path: Path) -> None:
    """A copy is proved with --key alone; a checkpoint kept elsewhere shows that the log was put back."""
    copy, kept = tmp_path / "copy", tmp_path / "kept"
    (home / "audit").rename(copy)
    kept.write_bytes((copy / "checkpoints.jsonl").read_bytes().splitlines(keepends=True)[-1])
    arguments = ("verify", copy, "--key", home / "certs" / "checkpoint.pub", "--checkpoint", kept)
    assert run(tmp_path / "nohome", *arguments).exit_code == 0
    for stream in ("p0", "p1"):
        edit_lines(copy / f"{stream}-000001.jsonl", lambda lines: lines.__delitem__(slice(8, None)))
    edit_lines(copy / "checkpoints.jsonl", lambda lines: lines.pop())
    assert run(tmp_path / "nohome", *arguments[:4]).exit_code == 0
    result = run(tmp_path / "nohome", *arguments)
    assert result.exit_code == 1
    assert "the log was put back: it ends at checkpoint 2, but checkpoint 3 was kept" in result.stdout


def test_verify_other_key_exits_1(home: Path, tmp_path: Path) -> None:
    """Another key proves nothing."""
    other = make_home(tmp_path / "other", key=OTHER_KEY)
    assert run(home, "verify", "--key", other / "certs" / "checkpoint.pub").exit_code == 1


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("verify", "--key", "/nonexistent"), "cannot read the public key"),
        (("verify", "/nonexistent"), "cannot check /nonexistent: there is no such directory"),
        (("verify", "--checkpoint", "/nonexistent"), "cannot read the kept checkpoint"),
        (("verify", "--checkpoint", __file__), "holds no checkpoint"),
        (("verify", "--key", __file__), "no Ed25519 public key"),
        (("verify", "--nonsense"), "No such option"),
    ],
)
def test_verify_unreadable_exits_2(home: Path, arguments: tuple[str, ...], message: str) -> None:
    """What cannot be read or understood is 2, never 0 or 1."""
    result = run(home, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr
    assert result.stdout == ""


def test_verify_in_a_wrong_place_asks_for_the_home(tmp_path: Path) -> None:
    """Nobody named a key, so it is the home that is not where it was looked for."""
    result = run(tmp_path / "nowhere", "verify")
    assert (result.exit_code, "name the home with --home" in result.stderr) == (2, True)


def test_tail_last_lines_of_all_streams_by_time(home: Path) -> None:
    """The last lines of all streams come in the order of their times."""
    append_cli(home, "user.added", identity="client/bob", detail={"user": "bob"})
    result = run(home, "tail", "-n", "3", "--json")
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert [line["stream"] for line in lines] == ["p0", "p1", "cli"]
    assert [line["ts"] for line in lines] == sorted(line["ts"] for line in lines)
    text = run(home, "tail", "-n", "1").stdout.splitlines()
    assert len(text) == 1
    assert text[0].endswith('cli/1 user.added identity=client/bob detail={"user": "bob"}')


@pytest.mark.parametrize(("count", "shown"), [("0", 0), ("1", 1), ("26", 26), ("100", 26)])
def test_tail_number_of_lines(home: Path, count: str, shown: int) -> None:
    """-n is the number of lines over all streams."""
    assert len(run(home, "tail", "-n", count, "--json").stdout.splitlines()) == shown


def test_tail_foreign_bytes_never_reach_the_terminal(home: Path) -> None:
    """Escapes that somebody wrote into the file are shown as text, in both forms."""
    with open(home / "audit" / "p0-000001.jsonl", "ab") as file:
        file.write(
            b'{"ts":"9999","stream":"p0","seq":1,"event":"\xc2\x9b2J","prev":"","target":"\\u001b[2J"}\n\x1b[2J\xff\n'
        )
    for form in ((), ("--json",)):
        result = run(home, "tail", "-n", "4", *form)
        assert result.exit_code == 0
        assert all(line.isascii() and line.isprintable() for line in result.stdout.splitlines())


def test_tail_no_log_exits_1(tmp_path: Path) -> None:
    """A home without a log is one clear line."""
    result = run(tmp_path, "tail")
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 1


def test_tail_follow_new_lines_and_files_until_interrupted(home: Path) -> None:
    """-f shows lines as they come, goes on into the next file and new streams, and an interrupt ends it with 0."""
    command = "from gateway.cli.audit import audit; audit()"
    arguments = [sys.executable, "-c", command, "tail", "-f", "-n", "1", "--json", "--home", str(home)]
    with subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert json.loads(process.stdout.readline())["seq"] == 13
            writer = AuditWriter.open(home / "audit", "p0", AuditConfig(max_bytes=6000))
            for number in range(20):
                writer.write("request", {**FIELDS, "count": number})
            writer.close()
            assert (home / "audit" / "p0-000002.jsonl").exists()
            assert [json.loads(process.stdout.readline())["count"] for _ in range(20)] == list(range(20))
            append_cli(home, "user.added", identity="client/bob")
            assert json.loads(process.stdout.readline())["stream"] == "cli"
        finally:
            process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0
        assert process.stderr.read() == b""


def test_verify_gap_is_told_and_is_no_tampering(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Lines that could not be written: counted, on standard error too, with status 0."""
    writer = AuditWriter.open(home / "audit", "p0")

    def full(fd: int, data: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gateway.audit.stream.os.write", full)
    for _ in range(2):
        with pytest.raises(AuditUnavailable):
            writer.write("request", FIELDS)
    monkeypatch.undo()
    time.sleep(RETRY)  # the writer leaves a full disk alone for so long
    writer.write("request", FIELDS)
    writer.close()
    result = run(home, "verify")
    assert result.exit_code == 0
    assert result.stderr == "warning: 2 lines could not be written and are missing (admin.audit_resumed)\n"
    assert json.loads(run(home, "verify", "--json").stdout)["missing"] == 2


def test_verify_while_the_gateway_cannot_write_exits_1(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is in the log may be sound; that nothing more gets in is told by the exit status."""
    faults = ["p0: lines cannot be written, 12 are lost"]
    monkeypatch.setattr("gateway.admin.client.call", lambda *_, **__: {"audit": {"healthy": False, "faults": faults}})
    result = run(home, "verify")
    assert result.exit_code == 1
    assert result.stderr == f"Error: the running gateway says: {faults[0]}\n"
    assert result.stdout.splitlines()[-1].startswith("sound: ")


def test_verify_tampered_says_so_on_standard_error(home: Path) -> None:
    """For whoever throws the report away."""
    edit_lines(home / "audit" / "p1-000001.jsonl", lambda lines: lines.pop(2))
    said = run(home, "verify").stderr
    assert said.startswith(f"Error: {home / 'audit'}: 1 finding(s), the first: p1-000001.jsonl:3: ")


def test_verify_copy_says_that_it_was_compared_with_nothing(home: Path, tmp_path: Path) -> None:
    """What the home keeps tells of its own log alone."""
    shutil.copytree(home / "audit", tmp_path / "copy")
    result = run(home, "verify", tmp_path / "copy")
    assert result.exit_code == 0
    assert "note: compared with nothing that is kept elsewhere" in result.stdout
