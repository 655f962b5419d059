"""Revocation lists of a running gateway, as others fetch them: in the clear, and over TLS."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from email.utils import format_datetime
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from click.testing import CliRunner
from cryptography import x509
from support.rig import Rig, wait_for
from support.wire import Answer, Wire

from gateway.cli.main import cli

CONFIG = """
[pki]
listen = "127.0.0.1:0"
"""
NAMES = ("root", "client", "worker", "master", "server")


@pytest.fixture(
    scope="module",
    params=[pytest.param(1, marks=pytest.mark.long, id="one-process"), pytest.param(2, id="two-processes")],
)
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway that publishes lists; alice is good, eve was revoked before it started."""
    peers = ("issue-client alice", "issue-client eve", "revoke eve --reason keyCompromise")
    with Rig(tmp_path_factory.mktemp("lists"), CONFIG, peers=peers, processes=request.param) as rig:
        yield rig


def plain(rig: Rig) -> Wire:
    """A connection to the plain listener."""
    url = urlsplit(rig.served.listeners["pki"])
    assert url.hostname is not None
    assert url.port is not None
    return Wire(rig.tcp_to((url.hostname, url.port)))


def fetch(rig: Rig, target: str, method: str = "GET", *lines: str) -> Answer:
    with plain(rig) as wire:
        return wire.ask(target, method, *lines)


def read(answer: Answer) -> x509.CertificateRevocationList:
    assert answer.status == 200, answer
    assert answer["content-type"] == "application/pkix-crl"
    return x509.load_der_x509_crl(answer.content)


def number(found: x509.CertificateRevocationList) -> int:
    return found.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number


def serial_of(rig: Rig, name: str) -> int:
    return x509.load_pem_x509_certificate((rig.bundle(name) / "cert.pem").read_bytes()).serial_number


def is_listed(rig: Rig, serial: int) -> bool:
    found = read(fetch(rig, "/-/pki/client.crl"))
    return found.get_revoked_certificate_by_serial_number(serial) is not None


@pytest.mark.parametrize("name", NAMES)
def test_list_is_there_when_the_gateway_is_ready_and_openssl_verifies_it(rig: Rig, tmp_path: Path, name: str) -> None:
    """Every CA has a list from the first moment on, signed by it, with number, key identifier and end."""
    answer = fetch(rig, f"/-/pki/{name}.crl")
    found = read(answer)
    assert len(found) == (name == "client")
    (tmp_path / "list.crl").write_bytes(answer.content)
    issuer = rig.home / "certs" / ("root.pem" if name == "root" else f"{name}-ca.pem")
    command = ["openssl", "crl", "-inform", "DER", "-in", tmp_path / "list.crl", "-CAfile", issuer, "-noout"]
    checked = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert "verify OK" in checked.stderr, checked.stderr


def test_list_tells_caches_how_long_it_is_good(rig: Rig) -> None:
    """Caches keep it until its end and not longer; its times are those in it."""
    answer = fetch(rig, "/-/pki/client.crl")
    found = read(answer)
    assert found.next_update_utc is not None
    public, age = answer["cache-control"].split(", max-age=")
    assert (public, 0 < int(age) <= 86400) == ("public", True)
    assert answer["last-modified"] == format_datetime(found.last_update_utc, usegmt=True)
    assert answer["expires"] == format_datetime(found.next_update_utc, usegmt=True)


@pytest.mark.parametrize("over", ["plain", "tls"])
def test_list_that_the_peer_has_is_not_sent_again(rig: Rig, over: str) -> None:
    """304 by tag or date, without content; by another tag it is sent, whatever the date says."""
    wire = plain(rig) if over == "plain" else rig.connect("alice")
    with wire:
        target = "/-/pki/client.crl"
        answer = wire.ask(target)
        tag, date = answer["etag"], answer["last-modified"]
        for lines, status in (
            ([f"If-None-Match: {tag}"], 304),
            ([f'If-None-Match: "x", W/{tag}'], 304),
            (["If-None-Match: *"], 304),
            ([f"If-Modified-Since: {date}"], 304),
            (['If-None-Match: "x"', f"If-Modified-Since: {date}"], 200),
            (["If-Modified-Since: Thu, 01 Jan 1970 00:00:00 GMT"], 200),
            (["If-Modified-Since: yesterday"], 200),
        ):
            again = wire.ask(target, "GET", *lines)
            assert (again.status, len(again.content)) == (status, len(answer.content) * (status == 200)), lines
            assert again["etag"] == tag


def test_list_by_head_is_its_head(rig: Rig) -> None:
    """HEAD tells the length and sends nothing."""
    answer, head = fetch(rig, "/-/pki/root.crl"), fetch(rig, "/-/pki/root.crl", "HEAD")
    assert (head.status, head.content, head["content-length"]) == (200, b"", str(len(answer.content)))


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/", 404),
        ("GET", "/-/pki/nobody.crl", 404),
        ("GET", "/-/pki/root.crl/", 404),
        ("GET", "/-/pki/root.crl?x", 404),
        ("GET", "/-/pki/Root.crl", 404),
        ("GET", "//-/pki/root.crl", 404),
        ("GET", "/-/health", 404),
        ("GET", "/-/pools", 404),
        ("GET", "/metrics", 404),
        ("PUT", "/-/pki/root.crl", 405),
    ],
)
def test_plain_listener_serves_nothing_else(rig: Rig, method: str, target: str, status: int) -> None:
    """What is not a list is not there, and a list is only read."""
    assert fetch(rig, target, method).status == status


def test_list_over_tls_needs_a_certificate_and_no_more(rig: Rig) -> None:
    """Whoever gets in may read it; it is written down, and a CA that there is not is 404."""
    with rig.connect("alice") as wire:
        answer = wire.ask("/-/pki/client.crl")
        assert read(answer) == read(fetch(rig, "/-/pki/client.crl"))
        assert wire.ask("/-/pki/nobody.crl").problem == "not-found"
    line = rig.line_of(answer)
    assert (line["event"], line["outcome"], line["target"]) == ("request", "allowed", "/-/pki/client.crl")


def test_list_follows_a_revocation_with_a_higher_number(rig: Rig) -> None:
    """What is revoked while the gateway runs is listed soon, by the CA that issued it; the others' lists stay."""
    rig.run("issue-client", "mallory")
    before = {name: read(fetch(rig, f"/-/pki/{name}.crl")) for name in NAMES}
    serial = serial_of(rig, "mallory")
    rig.run("revoke", "mallory")
    wait_for(lambda: is_listed(rig, serial), bool)
    after = {name: read(fetch(rig, f"/-/pki/{name}.crl")) for name in NAMES}
    assert number(after.pop("client")) > number(before.pop("client"))
    assert after == before
    lines = [
        json.loads(line)
        for file in sorted((rig.home / "audit").glob("cli-*.jsonl"))
        for line in file.read_text().splitlines()
    ]
    told = [line["detail"] for line in lines if line["event"] == "pki.list_signed"]
    assert {"name": "client", "version": number(read(fetch(rig, "/-/pki/client.crl"))), "count": 2} in told
    assert rig.run("audit", "verify").startswith("cli: ")


def test_list_that_was_fetched_is_what_verify_takes(rig: Rig, tmp_path: Path) -> None:
    """`curl` and `verify --crl`, and nothing between them."""
    place = tmp_path / "client.crl"
    url = f"{rig.served.listeners['pki']}/-/pki/client.crl"
    subprocess.run(["curl", "-sS", "--fail", "-o", str(place), url], timeout=60, check=True)
    for name, expected in (("alice", (0, "valid\n")), ("eve", (1, "revoked\n"))):
        bundle = rig.bundle(name)
        arguments = ["--role", "client", "--trust", bundle / "trust.pem", "--crl", place, bundle / "cert.pem"]
        result = CliRunner().invoke(cli, ["verify", *map(str, arguments)])
        assert (result.exit_code, result.stdout) == expected, result.output


def test_process_that_is_started_again_serves_the_lists(rig: Rig) -> None:
    """A new data process has what the others have before it serves."""
    before = rig.status()["processes"][0]
    os.kill(before["pid"], signal.SIGKILL)
    wait_for(
        lambda: rig.status()["processes"][0],
        lambda one: one["pid"] not in (None, before["pid"]) and one["state"] == "serving",
    )
    with rig.connect("alice") as wire:
        read(wire.ask("/-/pki/client.crl"))
