"""``rhttp-pki renew`` where there is no home, and ``rhttp-renew``: what they take and tell."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from support.enrolments import order
from support.estserver import PASSWORD, EstServer, est_server, problem
from support.homes import leaf_of, run_cli

from gateway.cli.main import cli
from gateway.home.layout import Home
from rhttp.worker.enrolment import enroll
from rhttp.worker.renew_command import renew_command


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


@pytest.fixture
def bundle(server: EstServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A worker's bundle on a machine without a home."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RHTTP_PKI_HOME", raising=False)
    return enroll(order(server, tmp_path)).place


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(cli, ["renew", *map(str, arguments)])
    assert PASSWORD not in result.output
    return result


def test_renew_without_a_home_asks_the_gateway_of_the_bundle(server: EstServer, bundle: Path) -> None:
    """One line on stdout, and another certificate in the bundle."""
    before = leaf_of(bundle).serial_number
    result = run(bundle)
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = result.stdout.splitlines()
    assert line.startswith(f"worker w1 of pool render: renewed at {server.gateway_url} until 20")
    assert line.endswith(f", in {bundle}")
    assert leaf_of(bundle).serial_number != before


def test_renew_alone_is_the_same_command(bundle: Path) -> None:
    """Where `rhttp` is installed alone."""
    result = CliRunner().invoke(renew_command, [str(bundle), "--expiring", "30m"])
    assert (result.exit_code, result.stdout, result.stderr) == (0, "0 renewed, 1 not due\n", "")
    result = CliRunner().invoke(renew_command, [str(bundle), "--expiring", "2h"])
    assert result.exit_code == 0
    assert result.stdout.splitlines()[-1] == "1 renewed, 0 not due"
    assert CliRunner().invoke(renew_command, [str(bundle), "--expiring", "soon"]).exit_code == 2


def test_renew_of_a_home_asks_the_gateway_when_told_to(home: Home, server: EstServer, bundle: Path) -> None:
    """`--est` beside a home; without it the home says that the bundle is not its own."""
    assert "was not issued by this home" in run_cli(home, "renew", bundle).stderr
    result = run_cli(home, "renew", "--est", bundle)
    assert (result.exit_code, result.stderr) == (0, "")
    assert server.seen[-1].step == "simplereenroll"


def test_renew_that_fails_says_why_in_one_line(server: EstServer, bundle: Path) -> None:
    """Exit status 1, and nothing on stdout."""
    server.replies["simplereenroll"] = [problem(403, "Forbidden")]
    result = run(bundle)
    assert (result.exit_code, result.stdout) == (1, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"Error: {server.gateway_url} does not renew {bundle}: worker w1 may not be renewed")


def test_renew_of_several_goes_on_after_a_failure(server: EstServer, bundle: Path, tmp_path: Path) -> None:
    """A line for what failed, and exit status 1 at the end."""
    result = run(tmp_path / "w1", "--expiring", "2h")
    assert result.exit_code == 0
    (bundle / "rhttp.toml").rename(tmp_path / "rhttp.toml")
    other = enroll(order(server, tmp_path, out=tmp_path / "w2")).place
    result = run(bundle, other)
    assert result.exit_code == 1
    assert result.stdout.startswith("worker w1 of pool render: renewed at")
    told, last = result.stderr.splitlines()
    assert told.startswith("not renewed: ")
    assert "rhttp.toml" in told
    assert last == "Error: 1 of 2 bundle(s) could not be renewed; the lines above say why"


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (("--ttl", "1h"), "--ttl is for the home"),
        (("--daemon", "--expiring", "1h"), "leave --expiring out"),
        (("--gateway", "http://gw"), "not of the form"),
    ],
)
def test_renew_refuses_what_only_a_home_can_do(arguments: tuple[str, ...], text: str, bundle: Path) -> None:
    """Wrong usage, exit status 2."""
    result = run(bundle, *arguments)
    assert result.exit_code == 2
    assert text in result.stderr


def test_renew_of_a_request_needs_the_home(bundle: Path) -> None:
    """A key that is kept elsewhere cannot be shown to the gateway."""
    result = run(bundle, "--csr", bundle / "cert.pem")
    assert result.exit_code == 2
    assert "--csr is for the home" in result.stderr


def test_renew_without_home_and_bundle_says_what_to_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There is no home to look for bundles in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RHTTP_PKI_HOME", raising=False)
    result = run("--expiring", "7d")
    assert result.exit_code == 2
    assert "name a BUNDLE" in result.stderr


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_renew_daemon_renews_until_a_signal_ends_it(number: signal.Signals, server: EstServer, bundle: Path) -> None:
    """Exit status 0; what it did is told, a line a renewal."""
    script = (
        "import sys; from rhttp.worker import renewal_schedule as s; s.SHORT = 1;"
        " from rhttp.worker.renew_command import main; sys.argv = ['rhttp-renew', *sys.argv[1:]]; main()"
    )
    command = [sys.executable, "-P", "-c", script, "--daemon", str(bundle)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as daemon:
        try:
            assert daemon.stdout is not None
            assert daemon.stderr is not None
            for _ in range(2):
                assert daemon.stdout.readline().startswith("worker w1 of pool render: renewed at"), daemon.stderr.read()
            daemon.send_signal(number)
            assert daemon.wait(30) == 0
            assert daemon.stderr.read() == ""
        finally:
            daemon.kill()
