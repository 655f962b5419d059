"""Homes for tests: made by the code that `init` runs, or by the real command."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from click.testing import CliRunner, Result
from cryptography import x509

from gateway.cli.main import cli
from gateway.config.defaults import DEFAULT_STATE_URL
from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home
from gateway.state.database import open_state
from gateway.state.snapshot import StateSnapshot
from gateway.state.snapshot_query import load_snapshot
from pki.pem import read_certificates


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


def mode_of(path: Path) -> int:
    """The permissions of a file."""
    return stat.S_IMODE(path.stat().st_mode)


def leaf_of(bundle: Path) -> x509.Certificate:
    """The end-entity certificate of a bundle."""
    return read_certificates((bundle / "cert.pem").read_bytes())[0]


def plain_copy(bundle: Path, place: Path) -> Path:
    """A copy as an earlier release made bundles: plain files, no versions."""
    place.mkdir(mode=0o700)
    for path in bundle.iterdir():
        if path.is_file():
            shutil.copy(path, place)
    return place


def uri_of(certificate: x509.Certificate) -> str:
    """Its one URI."""
    sans = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    (uri,) = sans.get_values_for_type(x509.UniformResourceIdentifier)
    return uri


def listed(home: Home, *arguments: str) -> list[dict[str, object]]:
    """The entries of `list --json`, without the gateway's own."""
    result = run_cli(home, "list", "--json", *arguments)
    assert result.exit_code == 0, result.stderr
    found = json.loads(result.stdout)["certificates"]
    return [entry for entry in found if entry["role"] != "server"]


def snapshot_of(home: Home) -> StateSnapshot:
    """What a gateway would be told of an unsealed home."""
    engine = open_state(home, DEFAULT_STATE_URL)
    try:
        return load_snapshot(engine, home.state_key.read_bytes())
    finally:
        engine.dispose()


def refused(result: Result, said: str) -> None:
    """Exit status 1, nothing on stdout, one line on stderr that says it, no traceback."""
    assert result.exit_code == 1, result.output
    assert result.stdout == ""
    assert said in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert "Traceback" not in result.output
