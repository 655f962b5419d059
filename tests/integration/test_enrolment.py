"""A machine with a token and a fingerprint: from nothing to a worker that serves, and on to its next certificate.

Everything is real: gateway, issuer, both commands, and curl with openssl for whoever speaks EST by hand.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from support.origins import Origin
from support.rig import JOBS, Rig, wait_for

CONFIG = f'{JOBS}\n[enroll]\nlisten = "127.0.0.1:0"\n'
RHTTP_PKI = (sys.executable, "-m", "gateway.cli.main")


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module", params=[pytest.param(1, marks=pytest.mark.long), 2])
def rig(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    place = tmp_path_factory.mktemp("enrolment")
    with Rig(place, CONFIG.format(port=origin.port), processes=request.param) as rig:
        yield rig


def token(rig: Rig, place: Path, *arguments: str) -> Path:
    """A new token in a file."""
    file = place / "token"
    file.unlink(missing_ok=True)
    rig.run("token", "create", *arguments, "--out", file)
    return file


def fingerprint(rig: Rig) -> str:
    said = subprocess.run(
        ["openssl", "x509", "-in", rig.home / "certs/root.pem", "-noout", "-fingerprint", "-sha256"],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return said.stdout.strip().partition("=")[2]


def enroll(
    rig: Rig, file: Path, out: Path, *arguments: str, expect: str | None = None
) -> subprocess.CompletedProcess[str]:
    """``rhttp-pki enroll`` in a process of its own, with no home."""
    command = [*RHTTP_PKI, "enroll", "--gateway", rig.served.listeners["enroll"], "--token-file", str(file)]
    command += ["--fingerprint", expect or fingerprint(rig), "--out", str(out), *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=out.parent)


@contextmanager
def working(bundle: Path, application: Origin) -> Iterator[None]:
    """``rhttp-pki worker`` in front of an application, for the block."""
    worker = subprocess.Popen(
        [*RHTTP_PKI, "worker", str(bundle), "--forward", f"http://127.0.0.1:{application.port}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield
    finally:
        worker.send_signal(signal.SIGTERM)
        worker.wait(30)


def leaf(bundle: Path) -> x509.Certificate:
    return x509.load_pem_x509_certificates((bundle / "cert.pem").read_bytes())[0]


def lines(rig: Rig, event: str) -> list[dict[str, Any]]:
    """Audit lines of an event, of data processes and of the stream that commands and issuer share."""
    text = "".join(path.read_text() for path in sorted((rig.home / "audit").glob("cli-*.jsonl")))
    return [line for line in (*rig.audit(), *map(json.loads, text.splitlines())) if line["event"] == event]


def test_machine_with_a_token_enrols_and_serves(rig: Rig, tmp_path: Path) -> None:
    """One command to enrol, one to serve; the bundle is whole, and a request reaches the worker."""
    file = token(rig, tmp_path, "--role", "worker", "--pool", "render", "--name", "w1", "--label", "gpu=a100")
    done = enroll(rig, file, tmp_path / "w1")
    assert done.returncode == 0, done.stderr
    bundle = tmp_path / "w1"
    uri = leaf(bundle).extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [name.value.rpartition("/worker/")[2] for name in uri] == ["render/w1"]
    secret = file.read_text().strip().partition(".")[2]
    password = (bundle / "password").read_text().strip()
    with Origin() as application, working(bundle, application):
        wait_for(
            lambda: sum(pool["slots"]["total"] for pool in rig.status()["pools"] if pool["pool"] == "render"), bool
        )
        with rig.dispatch() as master:
            assert master.ask("/-/pools/render/workers/w1/hello").status == 200
    (issued,) = [line for line in lines(rig, "pki.issued") if line["identity"] == "worker/w1"]
    assert issued["detail"]["token"] == file.read_text().partition(".")[0]
    (requested,) = [line for line in lines(rig, "request") if line["listener"] == "enroll" and "detail" in line]
    assert (requested["detail"]["name"], requested["policy"]) == ("w1", ["tokens-enroll"])
    log = "".join(path.read_text() for path in (rig.home / "audit").glob("*.jsonl"))
    assert secret not in log
    assert password not in log


@pytest.mark.parametrize("kind", ["rsa3072", "mldsa65"])
def test_keys_of_other_kinds_enrol(rig: Rig, tmp_path: Path, kind: str) -> None:
    """The password comes over mutual TLS with the new key, so the bundle is whole only if all of it works."""
    file = token(rig, tmp_path, "--role", "worker", "--pool", "render")
    done = enroll(rig, file, tmp_path / kind, "--key-type", kind)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / kind / "password").exists()
    assert "worker-" in leaf(tmp_path / kind).subject.rfc4514_string()


def test_worker_renews_its_certificate_and_loses_nothing(rig: Rig, tmp_path: Path) -> None:
    """With a life of half a minute, of the gateway that it serves, while requests come without a pause."""
    bundle = tmp_path / "brief"
    rig.run("issue-worker", "brief", "--pool", "render", "--ttl", "30s", "--out", bundle)
    settings = (bundle / "rhttp.toml").read_text().splitlines()
    gateway = f'gateway = "{rig.served.listeners["tls"]}"'
    told = [gateway if line.startswith("gateway") else line for line in settings]
    (bundle / "rhttp.toml").write_text("\n".join(told) + "\n")
    seen = [leaf(bundle).serial_number]
    changed = 0.0
    with Origin() as application, working(bundle, application):
        wait_for(lambda: [pool for pool in rig.status()["pools"] if pool["slots"]["total"]], bool)
        deadline = time.monotonic() + 60
        with rig.dispatch() as master:
            while len(seen) == 1 or time.monotonic() < changed + 3:
                assert time.monotonic() < deadline, "it was not renewed"
                answer = master.ask("/-/pools/render/workers/brief/hello", "GET", "Prefer: wait=5")
                assert answer.status == 200, answer.content
                if (serial := leaf(bundle).serial_number) not in seen:
                    seen.append(serial)
                    changed = time.monotonic()
    assert [line for line in lines(rig, "pki.renewed") if line["listener"] == "tls"]


def test_token_is_used_as_often_as_it_may_be(rig: Rig, tmp_path: Path) -> None:
    """A third machine gets nothing from a token for two, and is not told why."""
    file = token(rig, tmp_path, "--role", "worker", "--pool", "render", "--name-prefix", "many-", "--uses", "2")
    done = [enroll(rig, file, tmp_path / f"m{number}") for number in range(3)]
    assert [one.returncode for one in done] == [0, 0, 1], [one.stderr for one in done]
    names = {leaf(tmp_path / f"m{number}").subject.rfc4514_string() for number in range(2)}
    assert len(names) == 2
    assert not (tmp_path / "m2").exists()
    refused = [line for line in rig.audit() if line.get("listener") == "enroll" and line["outcome"] == "refused"]
    assert refused[-1]["reason"] in ("used_up", "unknown_user", "user_mismatch")


def test_root_that_is_not_the_expected_one_stops_everything(rig: Rig, tmp_path: Path) -> None:
    """The token is never shown to a server that is not known."""
    file = token(rig, tmp_path, "--role", "client", "--name", "carol")
    before = len([line for line in rig.audit() if line["event"] == "auth.refused"])
    done = enroll(rig, file, tmp_path / "carol", "--role", "client", expect="00" * 32)
    assert (done.returncode, (tmp_path / "carol").exists()) == (1, False)
    assert "fingerprint" in done.stderr
    assert len([line for line in rig.audit() if line["event"] == "auth.refused"]) == before
    assert enroll(rig, file, tmp_path / "carol", "--role", "client").returncode == 0


def test_est_by_hand_enrols_and_renews(rig: Rig, tmp_path: Path) -> None:
    """curl and openssl, by RFC 7030: cacerts, simpleenroll with the token, the password, simplereenroll."""
    file = token(rig, tmp_path, "--role", "client", "--name", "dora")
    user, _, secret = file.read_text().strip().partition(".")
    base = f"{rig.served.listeners['enroll']}/.well-known/est/client"
    root = rig.home / "certs/root.pem"
    key, request = tmp_path / "key.pem", tmp_path / "request.b64"
    shell(
        f"openssl ecparam -name prime256v1 -genkey -noout -out {key} && "
        f"openssl req -new -key {key} -subj /CN=dora -outform DER | openssl base64 > {request}"
    )
    ca = shell(f"curl -sS --cacert {root} {base}/cacerts | openssl base64 -d | openssl pkcs7 -inform DER -print_certs")
    assert ca.count("BEGIN CERTIFICATE") == 2
    (tmp_path / "login").write_text(f'user = "{user}:{secret}"\ndigest\n')
    post = f"curl -sS --fail --cacert {root} -H 'Content-Type: application/pkcs10' --data-binary @{request}"
    unpack = "openssl base64 -d | openssl pkcs7 -inform DER -print_certs"
    (tmp_path / "cert.pem").write_text(
        leaf_first(shell(f"{post} -K {tmp_path / 'login'} {base}/simpleenroll | {unpack}"))
    )
    tls = rig.served.listeners["tls"]
    mutual = f"--cacert {root} --cert {tmp_path / 'cert.pem'} --key {key}"
    told = json.loads(shell(f"curl -sS --fail {mutual} -X POST {tls}/-/credentials"))
    assert told["user"] == "dora"
    again = shell(f"curl -sS -o /dev/null -w '%{{http_code}}' {mutual} -X POST {tls}/-/credentials")
    assert again == "403"
    (tmp_path / "password").write_text(f'user = "dora:{told["password"]}"\ndigest\n')
    renew = f"{post} {mutual} -K {tmp_path / 'password'} {tls}/.well-known/est/client/simplereenroll | {unpack}"
    first = x509.load_pem_x509_certificate((tmp_path / "cert.pem").read_bytes())
    second = x509.load_pem_x509_certificate(leaf_first(shell(renew)).encode())
    assert second.serial_number != first.serial_number
    assert second.subject == first.subject
    assert second.not_valid_after_utc >= first.not_valid_after_utc
    rig.run("revoke", "dora")
    assert subprocess.run(["bash", "-c", f"set -o pipefail; {renew}"], capture_output=True, timeout=60).returncode != 0


def test_issuer_that_was_killed_comes_back(rig: Rig, tmp_path: Path) -> None:
    """Nothing that was issued is lost, and the next enrolment waits no longer than for its start."""
    file = token(rig, tmp_path, "--role", "worker", "--pool", "render", "--uses", "2", "--name-prefix", "killed-")
    assert enroll(rig, file, tmp_path / "first").returncode == 0
    before = rig.status()["issuer"]["pid"]
    os.kill(before, signal.SIGKILL)
    done = enroll(rig, file, tmp_path / "second")
    assert done.returncode == 0, done.stderr
    assert rig.status()["issuer"]["pid"] != before
    rig.run("audit", "verify")


def leaf_first(text: str) -> str:
    """The PEM of the certificate that is no CA."""
    found = x509.load_pem_x509_certificates(text.encode())
    (one,) = [each for each in found if not each.extensions.get_extension_for_class(x509.BasicConstraints).value.ca]
    return one.public_bytes(Encoding.PEM).decode()


def shell(script: str) -> str:
    done = subprocess.run(["bash", "-c", f"set -eo pipefail; {script}"], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout
