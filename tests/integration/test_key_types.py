"""Whole homes of other keys than P-256: a gateway, a worker, masters and clients, from `init` to the revocation."""

from __future__ import annotations

import json
import shutil
import socket
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from cryptography.x509 import load_pem_x509_certificates
from support.rig import Rig, run, upgrade
from support.runhomes import append, set_key
from support.serving import Served
from support.wire import Wire, tls_context
from support.workers import WorkerProcess, dispatch, eventually

import rhttp
from pki.keys import KeyType, key_type

APP = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": b"served"})
"""
HOMES = {
    "post-quantum": ("--key-type mldsa65 --ca-key-type mldsa65", "mldsa65"),
    "largest": ("--key-type mldsa87 --ca-key-type mldsa87", "mldsa87"),
    "rsa": ("--key-type rsa3072 --ca-key-type rsa3072", "rsa3072"),
    "ed25519": ("--key-type ed25519 --ca-key-type ed25519", "ed25519"),
    "mixed": ("--ca-key-type mldsa65 --ca-key-type server=p256 --ca-key-type root=mldsa87", "p256"),
    "post-quantum-leaf": ("", "mldsa44"),
}


def make(place: Path, options: str, *more: str | Path) -> Path:
    run(place, "init", "--trust-domain", "test.internal", *options.split(), *more)
    set_key(place, "listen", '"127.0.0.1:0"')
    append(place, "[pools.render]")
    return place


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        pytest.param(*home, id=name, marks=() if name in ("post-quantum", "rsa", "mixed") else pytest.mark.long)
        for name, home in HOMES.items()
    ],
)
def test_home_of_each_mixture_serves_a_worker_until_it_is_revoked(options: str, kind: str, tmp_path: Path) -> None:
    """`init`, `issue-worker`, `gateway`, `worker`, a dispatch, `verify --crl`, `revoke`: all with keys of the types."""
    secret = tmp_path / "passphrase"
    secret.write_bytes(b"correct horse battery staple")
    secret.chmod(0o600)
    sealed = ("--passphrase-file", secret)
    home = make(tmp_path / "home", options, *sealed)
    run(home, "issue-worker", "w1", "--pool", "render", "--key-type", kind, *sealed)
    bundle = home / "bundles" / "w1"
    assert key_type(load_pem_x509_certificates((bundle / "cert.pem").read_bytes())[0].public_key()) is KeyType(kind)
    issued = [json.loads(line) for line in run(home, "audit", "tail", "--json").splitlines()]
    assert [line["detail"]["key_type"] for line in issued if line["event"] == "pki.issued"][-1] == kind
    (tmp_path / "app.py").write_text(APP)
    with Served(home, *map(str, sealed)) as gateway:
        url = gateway.listeners["tls"]
        with WorkerProcess(bundle, url, "--app", "app:app", cwd=tmp_path) as worker:
            assert worker.line() == f"worker w1: 1 slot connected to {url} pool render"
            assert dispatch(home, "/-/pools/render/any/x") == (200, b"served")
            run(home, "renew", bundle, *sealed)
            verify(home, "worker", bundle, *sealed)
            run(home, "revoke", "w1", *sealed)
            eventually(lambda: json.loads(dispatch(home, "/-/pools/render")[1])["slots"]["total"] == 0)
        assert "Traceback" not in gateway.errors()
    assert key_type(load_pem_x509_certificates((bundle / "cert.pem").read_bytes())[0].public_key()) is KeyType(kind)


def verify(home: Path, role: str, bundle: Path, *sealed: str | Path) -> None:
    """Both profiles take the bundle's path, with the list of its CA."""
    place = home.parent / "lists"
    place.mkdir()
    for ca in (role, "root"):
        run(home, "crl", "--role", ca, "--out", place / ca, *sealed)
    lists = place / "both"
    lists.write_bytes((place / role).read_bytes() + (place / "root").read_bytes())
    for profile in ("rhttp", "rfc5280"):
        arguments = ("--role", role, "--trust", bundle / "trust.pem", "--crl", lists, "--profile", profile)
        assert run(home, "verify", *arguments, bundle / "cert.pem") == "valid\n"


async def test_bundle_with_an_ml_dsa_key_is_loaded_by_an_application(tmp_path: Path) -> None:
    """`rhttp.load_bundle` takes it as it takes any other."""
    home = make(tmp_path / "home", "")
    run(home, "issue-worker", "w1", "--pool", "render", "--key-type", "mldsa87")
    assert rhttp.load_bundle(home / "bundles" / "w1", gateway="https://localhost:8443").key.startswith(
        b"-----BEGIN PRIVATE KEY-----"
    )


@pytest.mark.skipif(shutil.which("curl") is None, reason="no curl command")
@pytest.mark.parametrize("version", [("--tlsv1.2", "--tls-max", "1.2"), ("--tlsv1.3",)], ids=["1.2", "1.3"])
def test_curl_is_served_with_an_rsa_certificate(version: Sequence[str], tmp_path: Path) -> None:
    """A whole RSA home, PSS signatures of its CAs included, met by a client that is not ours."""
    home = make(tmp_path / "home", "--key-type rsa3072 --ca-key-type rsa3072")
    run(home, "issue-client", "alice", "--key-type", "rsa3072")
    with Served(home) as gateway:
        port = gateway.listeners["tls"].rpartition(":")[2]
        command = ["curl", "-sS", "--noproxy", "*", *version, "-K", str(home / "bundles" / "alice" / "curl.conf")]
        done = subprocess.run(
            [*command, f"https://localhost:{port}/-/pools"], capture_output=True, text=True, timeout=60, check=False
        )
    assert done.returncode == 0, done.stderr
    assert [pool["pool"] for pool in json.loads(done.stdout)["pools"]] == ["render"]


def test_revoked_ml_dsa_client_is_cut_and_not_let_in_again(tmp_path: Path) -> None:
    """Revocation knows no types of key."""
    home = make(tmp_path / "home", "--ca-key-type client=mldsa44")
    run(home, "issue-client", "alice", "--key-type", "mldsa44")
    with Served(home) as gateway:
        host, _, port = gateway.listeners["tls"].removeprefix("https://").rpartition(":")
        with Wire(
            socket.create_connection((host, int(port)), timeout=30), tls_context(home / "bundles" / "alice")
        ) as wire:
            assert wire.ask("/-/health").status in {200, 401}
            run(home, "revoke", "alice")
            assert wire.rest() == b""


POLICY = """
@id("digest") permit (principal is Worker, action == Action::"reverse", resource) when { context has digest };
@id("post-quantum") forbid (principal is Worker, action == Action::"reverse", resource)
unless {
  context has key_type && context.key_type == "mldsa65" && context has group && context.group == "X25519MLKEM768"
};
@id("local") permit (principal == Master::"local", action, resource) when { context.listener == "dispatch" };
"""


def test_policy_lets_only_post_quantum_workers_into_a_pool(tmp_path: Path) -> None:
    """`context.key_type` and `context.group` are those of the worker's certificate and connection."""
    peers = ("issue-worker old --pool render", "issue-worker new --pool render --key-type mldsa65")
    with Rig(tmp_path, "[pools.render]", policy=POLICY, peers=peers) as rig:
        with WorkerProcess(rig.bundle("new"), rig.served.listeners["tls"], "--forward", "http://127.0.0.1:9") as worker:
            assert worker.line().startswith("worker new: 1 slot connected")
        line = rig.authorized("old", "/-/reverse/render", "POST")
        with rig.connect("old") as wire:
            wire.send(upgrade("/-/reverse/render", line))
            assert wire.one().status == 403
        assert rig.wait_line(event="policy.denied", identity="worker/old")["policy"] == ["post-quantum"]
