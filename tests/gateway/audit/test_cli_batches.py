"""Several lines of the ``cli`` stream as one step: whole after a crash anywhere in it, and across files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from support.homes import new_home, run_cli

from gateway.audit.cli_stream import CliStream
from gateway.audit.line import Fields
from gateway.config.values import AuditConfig


class Killed(BaseException):
    """Ends the writer where it stands, as a signal does."""


def lines(count: int) -> list[tuple[str, Fields]]:
    return [("pki.issued", {"serial": f"{number:04x}", "outcome": "done"}) for number in range(count)]


def serials(home: Path) -> list[str]:
    texts = "".join(file.read_text() for file in sorted((home / "audit").glob("cli-*.jsonl")))
    return [f"{number:04x}" for number in range(1000) if f'"serial":"{number:04x}"' in texts]


@pytest.mark.parametrize("whole", [0, 1, 2, 3])
@pytest.mark.parametrize("torn", [0, 20])
def test_lines_of_a_writer_that_was_killed_are_whole_or_torn_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, whole: int, torn: int
) -> None:
    """Whatever of one step is on disk, the stream goes on from its last whole line, which is one of ours."""
    home = new_home(tmp_path / "home")
    stream = CliStream(home.path, AuditConfig())
    write = os.write

    def cut(fd: int, data: bytes) -> int:
        if b'"serial":"0000"' in data:
            first = b"".join(data.splitlines(keepends=True)[:whole])
            write(fd, data[: len(first) + torn])
            raise Killed
        return write(fd, data)

    monkeypatch.setattr(os, "write", cut)
    with pytest.raises(Killed):
        stream.append_all(lines(3))
    monkeypatch.setattr(os, "write", write)
    assert serials(home.path) == [f"{number:04x}" for number in range(whole)]
    stream.append("pki.issued", {"serial": "00ff"})
    assert serials(home.path)[-1] == "00ff"
    assert run_cli(home, "audit verify").exit_code == 0, run_cli(home, "audit verify").output
    assert not list(home.audit.glob("*.foreign"))


def test_lines_that_fill_more_than_one_file_are_one_chain(tmp_path: Path) -> None:
    """A file that is full is followed by the next one in the middle of a step."""
    home = new_home(tmp_path / "home")
    stream = CliStream(home.path, AuditConfig(max_bytes=1 << 16))
    assert stream.append_all(lines(900)).seq >= 900
    assert len(list(home.audit.glob("cli-*.jsonl"))) > 1
    assert len(serials(home.path)) == 900
    assert run_cli(home, "audit verify").exit_code == 0
