"""Certificates as text: nothing that the next command needs is ever cut."""

from __future__ import annotations

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios

import pytest
from support.homes import run_cli

from gateway.cli.listing import certificate_lines
from gateway.home.layout import Home
from pki.inventory import CertificateRecord
from pki.names import Role

NOW = 1_800_000_000


def record(name: str | None = "w1", pool: str | None = "render", **changes: object) -> CertificateRecord:
    values: dict[str, object] = {
        "serial": "7f" * 20,
        "name": name,
        "role": Role.SERVER if name is None else Role.CLIENT if pool is None else Role.WORKER,
        "pool": pool,
        "labels": {},
        "fingerprint": "00" * 32,
        "issuer": "11" * 32,
        "not_before": NOW - 60,
        "not_after": NOW + 60,
        "pem": "",
        "issued_at": NOW,
    }
    return CertificateRecord(**(values | changes))  # type: ignore[arg-type]


LONGEST = record(
    "n" * 63,
    "p" * 63,
    labels={f"key{number}": "v" * 60 for number in range(4)},
    revoked_at=NOW,
    reason="cessationOfOperation",
)


@pytest.mark.parametrize("width", [None, 200, 120, 80, 40])
def test_listing_keeps_names_and_serials_whole_at_any_width(width: int | None) -> None:
    """Each stands in one line, whatever stands beside it; up to 80 columns no line of the longest is cut by them."""
    records = [record(None, None), record("alice", None), record(), LONGEST]
    lines = certificate_lines(records, NOW, width)
    for one in records:
        assert any(one.serial in line for line in lines)
        assert one.name is None or any(one.name in line for line in lines)
        assert one.pool is None or any(one.pool in line for line in lines)
        for key, value in one.labels.items():
            assert any(f"{key}={value}" in line for line in lines)
    if width == 80:
        assert max(map(len, lines)) <= 80


def test_listing_that_fits_is_a_line_each() -> None:
    """A table with its titles; exactly as wide as the screen still fits, a column less does not."""
    lines = certificate_lines([record(None, None), record()], NOW, None)
    assert [line.split()[0] for line in lines] == ["NAME", "-", "w1"]
    wide = max(map(len, lines))
    assert certificate_lines([record(None, None), record()], NOW, wide) == lines
    assert len(certificate_lines([record(None, None), record()], NOW, wide - 1)) == 8


def test_listing_of_none_says_so() -> None:
    """Silence would look like a failure."""
    assert certificate_lines([], NOW, 80) == ["no certificates"]


def test_list_and_show_on_a_terminal_of_80_columns_hold_whole_serials(home: Home) -> None:
    """The real commands on a real terminal."""
    assert run_cli(home, "issue-worker", "worker-with-a-rather-long-name", "--pool", "render").exit_code == 0
    serials = [line.split()[5] for line in run_cli(home, "list").stdout.splitlines()[1:]]
    assert len(serials) == 2
    for arguments, expected in ((("list",), serials), (("show", "worker-with-a-rather-long-name"), serials[1:])):
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
        environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
        command = [sys.executable, "-P", "-m", "gateway.cli.main", *arguments, "--home", str(home.path)]
        done = subprocess.run(command, stdin=slave, stdout=slave, stderr=slave, env=environment, timeout=60)
        os.close(slave)
        text = os.read(master, 1 << 16).decode()
        os.close(master)
        assert done.returncode == 0, text
        assert [serial for serial in expected if serial in text] == expected
        assert "worker-with-a-rather-long-name" in text
        assert max(map(len, text.splitlines())) <= 80
