"""Homes for tests: made by the code that `init` runs, or by the real command."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner, Result

from gateway.cli.main import cli
from gateway.home import Home
from gateway.homemaker import HomePlan, make_home


def new_home(
    place: Path, *, trust_domain: str = "example.internal", sans: tuple[str, ...] = (), passphrase: bytes | None = None
) -> Home:
    """A complete home at `place`."""
    home = Home(place)
    plan = HomePlan(trust_domain=trust_domain, realm=f"rhttp@{trust_domain}", sans=sans, passphrase=passphrase)
    make_home(home, plan, at=datetime.now(UTC))
    return home


def run_cli(home: Home | Path, command: str, *arguments: str | Path) -> Result:
    """Run a command (``list``, ``audit verify``) in this process. No exception but SystemExit may ever leave it."""
    place = home.path if isinstance(home, Home) else home
    result = CliRunner().invoke(cli, [*command.split(), "--home", str(place), *map(str, arguments)])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start_cli(home: Home | Path, command: str, *arguments: str | Path) -> subprocess.Popen[str]:
    """Start a command as a process of its own, as a user would."""
    place = home.path if isinstance(home, Home) else home
    return subprocess.Popen(
        [sys.executable, "-m", "gateway.cli.main", *command.split(), "--home", str(place), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={key: value for key, value in os.environ.items() if not key.startswith("RHTTP_PKI_")},
    )
