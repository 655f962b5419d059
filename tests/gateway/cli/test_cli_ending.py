"""Certificates of the gateway's own that end: said in time, and refused where nothing of use would come of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from support.homes import leaf_of, refused, run_cli

from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home

YEARS = timedelta(days=730)


def aged(place: Path, left: timedelta) -> Home:
    """A home whose issuing CAs live so much longer."""
    home = Home(place)
    plan = HomePlan(trust_domain="example.internal", realm="rhttp@example.internal")
    make_home(home, plan, at=datetime.now(UTC) - YEARS + left)
    return home


def test_ca_that_ends_within_ninety_days_is_said_at_every_issue(tmp_path: Path) -> None:
    """What is issued is cut to the CA's end; who issues and who starts is told how long there is."""
    home = aged(tmp_path / "home", timedelta(days=20, hours=1))
    for command in (("issue-server",), ("issue-client", "alice"), ("renew", home.bundles / "alice")):
        result = run_cli(home, *command)
        assert result.exit_code == 0, result.output
        assert "in 20 days" in result.stderr, command
        assert "make a new home" in result.stderr
    assert leaf_of(home.bundles / "alice").not_valid_after_utc - datetime.now(UTC) < timedelta(days=20, hours=1)
    check = run_cli(home, "gateway --check")
    assert (check.exit_code, check.stdout) == (0, "gateway: everything is in order\n")
    assert [line for line in check.stderr.splitlines() if "certs/client-ca.pem" in line and "in 20 days" in line]


def test_ca_with_much_time_left_is_not_spoken_of(home: Home) -> None:
    """Silence while all is well."""
    for command in (("issue-client", "alice"), ("renew", home.bundles / "alice"), ("issue-server",)):
        assert run_cli(home, *command).stderr == ""
    assert run_cli(home, "gateway --check").stderr == ""


@pytest.mark.parametrize("left", [timedelta(minutes=59), timedelta(minutes=3), timedelta(minutes=-4), -YEARS / 2])
def test_ca_with_too_little_time_left_issues_nothing(tmp_path: Path, left: timedelta) -> None:
    """No certificate that has expired already, or is about to, is handed out; the refusal says why, and the mend."""
    home = aged(tmp_path / "home", left)
    for command in (("issue-worker", "w1", "--pool", "render"), ("issue-client", "alice"), ("issue-server",)):
        refused(run_cli(home, *command), "make a new home with `rhttp-pki init`")
    assert list(home.bundles.iterdir()) == []


def test_ca_with_little_time_left_still_issues_what_is_short(tmp_path: Path) -> None:
    """A lifetime that fits is given in full."""
    home = aged(tmp_path / "home", timedelta(minutes=20))
    assert run_cli(home, "issue-worker", "w1", "--pool", "render", "--ttl", "10m").exit_code == 0
    refused(run_cli(home, "renew", home.bundles / "w1", "--ttl", "30m"), "make a new home")


def test_revoke_of_the_certificate_that_is_served_says_so(home: Home) -> None:
    """The gateway goes on serving it until there is a new one: revoke, the check and the next start say the mend."""
    pem = home.server_cert.read_bytes()
    serial = f"{x509.load_pem_x509_certificate(pem).serial_number:x}"
    result = run_cli(home, "revoke", "--serial", serial)
    assert result.exit_code == 0
    assert "run: rhttp-pki issue-server" in result.stderr
    check = run_cli(home, "gateway --check")
    assert (check.exit_code, check.stdout) == (1, "")
    assert "certs/server.pem: was revoked; make a new one with `rhttp-pki issue-server`" in check.stderr
    assert run_cli(home, "issue-server").exit_code == 0
    assert run_cli(home, "gateway --check").exit_code == 0


def test_revoke_of_a_server_certificate_of_before_says_nothing(home: Home) -> None:
    """Only the one that is served matters."""
    serial = f"{x509.load_pem_x509_certificate(home.server_cert.read_bytes()).serial_number:x}"
    assert run_cli(home, "issue-server").exit_code == 0
    assert run_cli(home, "revoke", "--serial", serial).stderr == ""


@pytest.mark.parametrize("ttl", ["731d", "0s", "99999d"])
def test_ttl_out_of_range_says_the_range(home: Home, ttl: str) -> None:
    """Wrong usage, told before anything is opened."""
    for command in (("issue-client", "x"), ("issue-server",), ("renew", home.path)):
        result = run_cli(home, *command, "--ttl", ttl)
        assert result.exit_code == 2
        assert f"'{ttl}' is out of range; give 1s to 730d" in result.stderr
