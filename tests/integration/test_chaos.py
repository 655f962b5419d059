"""Everything around a gateway fails under load, and its peers' books agree with its audit log (`tests/chaos`)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

MINUTES = 1
LONG_MINUTES = 10
"""With ``--long``; ``scripts/chaos MINUTES`` runs it for as long as you like."""
_SLACK = 480
"""Seconds for making the home, for the last wait until everything stands again, and for the books."""


def test_gateway_keeps_its_books_while_everything_around_it_fails(long_run: bool, tmp_path: Path) -> None:
    """Every answer has its line, every line its counterpart, nothing ran twice unsaid, who was shut out stays out."""
    minutes = LONG_MINUTES if long_run else MINUTES
    done = subprocess.run(
        [sys.executable, "-B", "-m", "chaos", str(minutes), "--bin", str(Path(sys.executable).parent)],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=minutes * 60 + _SLACK,
        check=False,
    )
    assert done.stdout.endswith("chaos: ok\n"), done.stdout[-8000:]
    assert done.returncode == 0
