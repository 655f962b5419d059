"""Who may read a secret's file: its owner, and a group that root gave it to."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rhttp.worker import secret_file
from rhttp.worker.secret_file import exposure

US, ROOT, OTHER = 1000, 0, 2000


def judge(monkeypatch: pytest.MonkeyPatch, *, owner: int, mode: int, us: int, kind: int = 0o100000) -> str | None:
    """What is said of an open file that the system describes so."""
    seen = os.stat_result((kind | mode, 1, 1, 1, owner, 3000, 10, 0, 0, 0))
    monkeypatch.setattr(secret_file.os, "fstat", lambda _: seen)
    monkeypatch.setattr(secret_file.os, "geteuid", lambda: us)
    return exposure(Path("/x/key.pem"), 3)


@pytest.mark.parametrize(
    ("owner", "mode", "us"),
    [
        (US, 0o600, US),
        (US, 0o400, US),
        (ROOT, 0o440, US),  # Kubernetes with fsGroup, systemd's credentials
        (ROOT, 0o640, US),
        (ROOT, 0o400, ROOT),
        (ROOT, 0o600, ROOT),
        (ROOT, 0o440, ROOT),
    ],
)
def test_secret_of_its_owner_or_a_group_that_root_chose_is_taken(
    monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, us: int
) -> None:
    """Nobody reads it but who should."""
    assert judge(monkeypatch, owner=owner, mode=mode, us=us) is None


@pytest.mark.parametrize(
    ("owner", "mode", "us"),
    [
        (US, 0o640, US),
        (US, 0o440, US),
        (US, 0o604, US),
        (US, 0o601, US),
        (OTHER, 0o440, US),
        (ROOT, 0o444, US),
        (ROOT, 0o644, US),
        (ROOT, 0o460, US),
        (ROOT, 0o450, US),
        (ROOT, 0o640, ROOT),
        (ROOT, 0o444, ROOT),
    ],
)
def test_secret_that_others_can_use_is_told_with_the_mend(
    monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, us: int
) -> None:
    """The message names the file, its mode, and what whoever runs this can do about it."""
    said = judge(monkeypatch, owner=owner, mode=mode, us=us)
    assert said is not None
    assert said.startswith(f"/x/key.pem is open to others (mode {mode:04o}); ")
    assert ("chmod 600 /x/key.pem" in said) is (owner == us)


def test_secret_out_of_a_pipe_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--passphrase-file <(…)` and a terminal have modes that say nothing about readers."""
    assert judge(monkeypatch, owner=US, mode=0o660, us=US, kind=0o010000) is None
    assert judge(monkeypatch, owner=ROOT, mode=0o620, us=US, kind=0o020000) is None
