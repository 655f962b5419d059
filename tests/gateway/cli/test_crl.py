"""`crl` for others: lists of every CA, and the servers that take them."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.homes import listed, mode_of, refused, run_cli

from gateway.home import revocation_lists
from gateway.home.layout import Home
from pki.pem import read_certificates, read_crls

NGINX = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin") or ""


@pytest.fixture
def served(home: Home) -> Home:
    """A home with a client, and one that was revoked."""
    for name in ("alice", "bob"):
        assert run_cli(home, "issue-client", name, "--no-user").exit_code == 0
    assert run_cli(home, "revoke", "bob").exit_code == 0
    return home


def test_crl_of_all_holds_a_list_of_every_ca(served: Home, tmp_path: Path) -> None:
    """One file with the lists of the root and of each role; what each signed is told, and by whom."""
    out = tmp_path / "all.crl"
    result = run_cli(served, "crl", "--role", "all", "--out", out)
    assert result.exit_code == 0, result.output
    assert len(result.stdout.splitlines()) == 5
    issuers = {
        certificate.subject: certificate
        for path in (served.root_cert, *served.certs.glob("*-ca.pem"))
        for certificate in read_certificates(path.read_bytes())
    }
    lists = {found.issuer: found for found in read_crls(out.read_bytes())}
    assert lists.keys() == issuers.keys()
    for name, found in lists.items():
        assert found.is_signature_valid(issuers[name].public_key())  # type: ignore[arg-type]
    assert sorted(len(found) for found in lists.values()) == [0, 0, 0, 0, 1]
    (root,) = read_crls(run_cli(served, "crl", "--role", "root").stdout.encode())
    assert root.issuer == read_certificates(served.root_cert.read_bytes())[0].subject


def test_crl_begins_before_now_and_ends_when_told(served: Home) -> None:
    """A server whose clock runs five minutes late takes it; --ttl says how long it is good."""
    before = datetime.now(UTC).replace(microsecond=0)
    (found,) = read_crls(run_cli(served, "crl", "--role", "client", "--ttl", "6h").stdout.encode())
    assert timedelta(minutes=4) <= before - found.last_update_utc <= timedelta(minutes=5)
    assert timedelta(hours=6) <= found.next_update_utc - before <= timedelta(hours=6, minutes=1)  # type: ignore[operator]
    refused = run_cli(served, "crl", "--role", "client", "--ttl", "366d")
    assert refused.exit_code == 2
    assert "give 1m to 365d" in refused.stderr


def test_crl_file_may_be_read_by_a_web_server_whatever_the_umask(served: Home, tmp_path: Path) -> None:
    """The list is public, so its file is 0644, although everything else that is made is the owner's alone."""
    out = tmp_path / "client.crl"
    before = os.umask(0o077)
    try:
        assert run_cli(served, "crl", "--role", "client", "--out", out).exit_code == 0
    finally:
        os.umask(before)
    assert mode_of(out) == 0o644
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_crl_of_all_lets_openssl_look_up_the_whole_path(served: Home, tmp_path: Path) -> None:
    """With the root's list in it the path of a good certificate is found good, and a revoked one revoked."""
    lists = tmp_path / "all.crl"
    assert run_cli(served, "crl", "--role", "all", "--out", lists).exit_code == 0
    for name, expected in (("alice", 0), ("bob", 2)):
        bundle = served.bundles / name
        command = ["openssl", "verify", "-crl_check_all", "-CAfile", bundle / "trust.pem", "-CRLfile", lists]
        command += ["-untrusted", bundle / "cert.pem", bundle / "cert.pem"]
        result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        assert result.returncode == expected, result.stderr


FILES = {f"{name}.{form}" for name in ("root", "client", "worker", "master", "server") for form in ("crl", "pem")}


def test_crl_all_fills_a_folder_for_everybody(served: Home, tmp_path: Path) -> None:
    """DER and PEM of every CA and all of them in one file, each file whole and public whatever the umask; a second
    time they are replaced, with higher numbers."""
    out = tmp_path / "lists"
    before = os.umask(0o077)
    try:
        assert run_cli(served, "crl", "--all", "--out", out).exit_code == 0
        first = {path.name: path.read_bytes() for path in out.iterdir()}
        assert run_cli(served, "crl", "--all", "--out", out).exit_code == 0
    finally:
        os.umask(before)
    assert first.keys() == FILES | {"all.pem"}
    assert mode_of(out) == 0o755
    for path in out.iterdir():
        assert mode_of(path) == 0o644
        assert path.read_bytes() != first[path.name]
    for name in FILES:
        if name.endswith(".crl"):
            der = (out / name).read_bytes()
            (same,) = read_crls((out / name).with_suffix(".pem").read_bytes())
            assert same.public_bytes(Encoding.DER) == der
            old = x509.load_der_x509_crl(first[name]).extensions.get_extension_for_class(x509.CRLNumber).value
            new = same.extensions.get_extension_for_class(x509.CRLNumber).value
            assert new.crl_number == old.crl_number + 1
    assert len(read_crls((out / "all.pem").read_bytes())) == 5


@pytest.mark.parametrize("role", ["root", "client", "worker", "master", "server"])
def test_crl_is_read_by_openssl(served: Home, tmp_path: Path, role: str) -> None:
    """Another implementation reads every list, verifies who signed it, and finds number, key identifier and end."""
    out = tmp_path / "list.crl"
    assert run_cli(served, "crl", "--role", role, "--der", "--out", out).exit_code == 0
    issuer = served.root_cert if role == "root" else served.certs / f"{role}-ca.pem"
    command = ["openssl", "crl", "-inform", "DER", "-in", out, "-CAfile", issuer, "-noout", "-text"]
    result = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    assert result.returncode == 0, result.stderr
    assert "verify OK" in result.stderr
    for said in ("X509v3 CRL Number", "X509v3 Authority Key Identifier", "Next Update: "):
        assert said in result.stdout
    assert result.stdout.count("Serial Number:") == (role == "client")


def test_crl_leaves_out_what_expired_long_ago(served: Home, monkeypatch: pytest.MonkeyPatch) -> None:
    """A revoked certificate is listed until a week after its end, so that lists do not grow for ever."""
    (bob,) = [entry for entry in listed(served) if entry["name"] == "bob"]
    end = datetime.fromisoformat(str(bob["not_after"]))
    for late, count in ((timedelta(0), 1), (timedelta(days=7), 1), (timedelta(days=7, seconds=1), 0)):

        class Later(datetime):
            @classmethod
            def now(cls, tz: object = None, at: datetime = end + late) -> datetime:  # type: ignore[override]
                return at

        monkeypatch.setattr(revocation_lists, "datetime", Later)
        (found,) = read_crls(run_cli(served, "crl", "--role", "client").stdout.encode())
        assert len(found) == count


@pytest.mark.parametrize(
    "arguments",
    ["", "--all", "--all --role client --out x", "--all --der --out x", "--role all --der", "--role client --out ."],
)
def test_crl_of_what_is_unclear_is_wrong_usage(home: Home, arguments: str) -> None:
    """One CA or all; DER holds one list; a folder is for all and a file for one."""
    assert run_cli(home, f"crl {arguments}").exit_code == 2


def test_crl_all_into_no_folder_is_refused(served: Home, tmp_path: Path) -> None:
    """A file in the way, or a place that cannot be made, is one clear line, and nothing is written."""
    (tmp_path / "file").write_text("mine")
    refused(run_cli(served, "crl", "--all", "--out", tmp_path / "file"), "is no folder")
    refused(run_cli(served, "crl", "--all", "--out", tmp_path / "no" / "such"), "cannot make the folder")
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.skipif(not NGINX, reason="nginx is not installed")
def test_crl_of_all_lets_nginx_tell_clients_apart(served: Home, tmp_path: Path) -> None:
    """nginx with `ssl_crl` serves the good client and refuses the revoked one, as docs/operations.md sets it up."""
    lists, socket = tmp_path / "all.crl", tmp_path / "s"
    assert run_cli(served, "crl", "--role", "all", "--out", lists).exit_code == 0
    (tmp_path / "nginx.conf").write_text(
        f"""
        daemon off; master_process off; pid {tmp_path}/pid; error_log {tmp_path}/error.log;
        events {{ }}
        http {{
            access_log off;
            client_body_temp_path {tmp_path}/t1; proxy_temp_path {tmp_path}/t2; fastcgi_temp_path {tmp_path}/t3;
            uwsgi_temp_path {tmp_path}/t4; scgi_temp_path {tmp_path}/t5;
            server {{
                listen unix:{socket} ssl;
                ssl_certificate {served.server_cert}; ssl_certificate_key {served.server_key};
                ssl_client_certificate {served.root_cert}; ssl_verify_client on; ssl_verify_depth 2;
                ssl_crl {lists};
                location / {{ return 204; }}
            }}
        }}
        """
    )
    nginx = subprocess.Popen([NGINX, "-p", str(tmp_path), "-c", str(tmp_path / "nginx.conf")])
    try:
        until = time.monotonic() + 20
        while not socket.exists() and nginx.poll() is None and time.monotonic() < until:
            time.sleep(0.02)
        for name, expected in (("alice", "204"), ("bob", "400")):
            config = served.bundles / name / "curl.conf"
            command = ["curl", "-s", "-K", str(config), "--unix-socket", str(socket), "-o", os.devnull]
            result = subprocess.run(
                [*command, "-w", "%{http_code}", "https://localhost/"], capture_output=True, text=True, timeout=60
            )
            assert result.stdout == expected, (tmp_path / "error.log").read_text()
    finally:
        nginx.terminate()
        nginx.wait(10)
