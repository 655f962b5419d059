"""A whole gateway, as `rhttp-pki gateway` starts it: supervisor and data process, real home, real TLS."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import socket
import ssl
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from cryptography import x509
from support.runhomes import copy_home
from support.serving import Served

from gateway.cli.main import cli
from pki.issue import serial_hex


def run(home: Path, *arguments: str) -> str:
    """A command that succeeds; what it said on stdout."""
    result = CliRunner(env={"RHTTP_PKI_HOME": str(home)}).invoke(cli, arguments)
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture
def home(tmp_path: Path) -> Path:
    place = copy_home(tmp_path / "home")
    run(place, "issue-client", "alice")
    return place


@pytest.fixture
def served(home: Path) -> Iterator[Served]:
    with Served(home) as gateway:
        yield gateway


def connect(served: Served, bundle: Path) -> ssl.SSLSocket:
    """A TLS connection with the certificate of a bundle, handshake done and the server's first bytes awaited."""
    context = ssl.create_default_context(cafile=str(bundle / "trust.pem"))
    context.load_cert_chain(bundle / "cert.pem", bundle / "key.pem")
    url = urlsplit(served.listeners["tls"])
    assert url.hostname is not None
    sock = socket.create_connection((url.hostname, url.port or 443), timeout=20)
    try:
        return context.wrap_socket(sock, server_hostname="localhost")
    except BaseException:
        sock.close()
        raise


def status_of(sock: socket.socket, target: str) -> int:
    """The status of the answer to a GET."""
    sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
    with contextlib.closing(http.client.HTTPResponse(sock)) as response:
        response.begin()
        response.read()
        return response.status


def dispatch_health(home: Path) -> int:
    """The status of ``/-/health`` on the dispatch socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.settimeout(20)
        sock.connect(str(home / "run" / "dispatch.sock"))
        return status_of(sock, "/-/health")


def ended(pid: int) -> bool:
    """Wait for the end of a process that is nobody's child here."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([descriptor], [], [], 20)[0])
    finally:
        os.close(descriptor)


def status(home: Path) -> dict[str, Any]:
    return dict(json.loads(run(home, "status", "--json")))


def lines(home: Path, stream: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (home / "audit" / f"{stream}-000001.jsonl").read_text().splitlines()]


def test_gateway_serves_and_status_shows_it(served: Served, home: Path) -> None:
    """From `init` to a served request there is nothing in between but the documented commands."""
    assert dispatch_health(home) == 200
    with connect(served, home / "bundles" / "alice") as client:
        assert status_of(client, "/-/pools") == 401
        assert status(home)["connections"]["total"] == 1


def test_revoke_returns_when_live_connections_are_cut(served: Served, home: Path) -> None:
    """When `revoke` is back, the connection is closed; no poll, no grace."""
    with connect(served, home / "bundles" / "alice") as client:
        assert status_of(client, "/-/pools") == 401
        assert "cut 1 connection" in run(home, "revoke", "alice")
        client.settimeout(5)
        try:
            rest = client.recv(1)
        except (ConnectionResetError, ssl.SSLError):
            rest = b""
        assert rest == b""
    assert_refused_by_tls(served, home / "bundles" / "alice")


def assert_refused_by_tls(served: Served, bundle: Path) -> None:
    """The handshake itself is refused; in TLS 1.3 a client learns that with its first read."""
    with pytest.raises((ssl.SSLError, ConnectionResetError)), connect(served, bundle) as client:
        status_of(client, "/-/pools")


def test_certificate_whose_serial_begins_with_a_zero_is_revoked_like_any_other(served: Served, home: Path) -> None:
    """Serials are numbers here and text there; both mean the same certificate."""
    for number in range(300):
        bundle = home / "bundles" / f"try-{number}"
        run(home, "issue-client", "alice", "--out", str(bundle))
        serial = x509.load_pem_x509_certificate((bundle / "cert.pem").read_bytes()).serial_number
        if len(f"{serial:x}") % 2:
            break
    else:
        raise AssertionError("no such serial among 300 random ones")
    run(home, "revoke", "--serial", serial_hex(serial))
    assert_refused_by_tls(served, bundle)


def test_server_certificate_is_renewed_without_dropping_anyone(served: Served, home: Path) -> None:
    """New connections see the new certificate, old ones live on."""
    bundle = home / "bundles" / "alice"
    with connect(served, bundle) as before:
        old = before.getpeercert(binary_form=True)
        run(home, "issue-server")
        with connect(served, bundle) as after:
            assert after.getpeercert(binary_form=True) != old
        assert status_of(before, "/-/pools") == 401


def test_data_process_that_is_killed_comes_back_and_says_so(served: Served, home: Path) -> None:
    """The listeners outlive it, and the audit log tells of its end."""
    (process,) = status(home)["processes"]
    os.kill(process["pid"], signal.SIGKILL)
    assert dispatch_health(home) == 200
    starts = [line["previous"] for line in lines(home, "p0") if line["event"] == "gateway.start"]
    assert starts == ["none", "unclean"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_gateway_ended_by_a_signal_leaves_a_sound_log_and_nothing_else(
    served: Served, home: Path, number: signal.Signals
) -> None:
    """Status 0, nothing left in `run` but locks, every line under a signature."""
    served.signal(number)
    assert served.ended() == 0
    assert {path.name for path in (home / "run").iterdir()} == {"gateway.lock", "issuing.lock"}
    assert lines(home, "p0")[-1]["event"] == "gateway.stop"
    assert "0 lines behind the last checkpoint" in run(home, "audit", "verify")


def test_gateway_killed_takes_its_data_process_along(served: Served, home: Path) -> None:
    """Nothing serves on without a supervisor: its socket refuses at once."""
    (process,) = status(home)["processes"]
    served.signal(signal.SIGKILL)
    served.ended()
    assert ended(process["pid"])
    with socket.socket(socket.AF_UNIX) as sock, pytest.raises(ConnectionRefusedError):
        sock.connect(str(home / "run" / "dispatch.sock"))
