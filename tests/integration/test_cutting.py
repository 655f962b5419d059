"""Cutting from outside: when a certificate, user or password ends, so do live connections, in mid-exchange, at once."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from OpenSSL import SSL
from support.certs import Pair, forge
from support.origins import Origin, read_head, read_request, response
from support.rig import JOBS, Rig, Worker, upgrade
from support.wire import Wire, request, tls_context

CONFIG = f"""{JOBS}
[audit]
fold_after = 100000
"""
ANY = "/-/pools/render/any"


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    peers = ("issue-client bystander", "issue-worker steady --pool render")
    with Rig(tmp_path_factory.mktemp("cutting"), CONFIG.format(port=origin.port), peers=peers) as rig:
        yield rig


WAYS = {
    "revoked": ("revoke", "NAME"),
    "user_disabled": ("user", "disable", "NAME"),
    "user_removed": ("user", "remove", "NAME"),
    "password_changed": ("user", "passwd", "NAME", "--generate"),
}
_count = [0]


def fresh(rig: Rig, command: str) -> str:
    """A new identity, made while the gateway runs."""
    _count[0] += 1
    name = f"n{_count[0]}"
    rig.run(*command.format(name).split())
    return name


def do(rig: Rig, way: str, name: str) -> float:
    """End this identity; when the command came back."""
    words = [name if word == "NAME" else word for word in WAYS[way]]
    rig.run(*words)
    return time.monotonic()


def is_cut(wire: Wire, since: float) -> bytes:
    """The connection ends within a second; what came before its end."""
    rest = wire.rest(1.0)
    assert time.monotonic() - since < 1.0
    return rest


@pytest.mark.parametrize("way", WAYS)
def test_idle_and_busy_connections_of_a_client_end_at_once(rig: Rig, origin: Origin, way: str) -> None:
    """Idle ones, one in mid-upload, one in mid-download; those of others do not."""
    name = fresh(rig, "issue-client {}")

    def script(peer: Wire) -> None:
        head = read_head(peer)
        if head.method == "GET":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nfirst")
        peer.rest(30)

    with (
        origin.scripted(script),
        rig.connect(name) as idle,
        rig.connect(name) as up,
        rig.connect(name) as down,
        rig.connect("bystander") as other,
    ):
        assert idle.ask("/-/health").status == 200
        up.send(request("/jobs/up", "POST", "Content-Length: 100", rig.authorized(name, "/jobs/up", "POST")) + b"x")
        down.send(request("/jobs/down", "GET", rig.authorized(name, "/jobs/down")))
        down.until(b"first")
        assert other.ask("/-/health").status == 200
        seen = len(rig.audit())
        when = do(rig, way, name)
        for wire in (idle, up, down):
            assert is_cut(wire, when) == b""
        assert other.ask("/-/health").status == 200
        lines = rig.audit()[seen:]
        cuts = [line for line in lines if line["event"] == "connection.cut"]
        assert len(cuts) == 3
        assert {(line["identity"], line["reason"], line["outcome"]) for line in cuts} == {
            (f"client/{name}", way, "cut")
        }
        ends = [line for line in lines if line["event"] == "request" and line.get("outcome") != "allowed"]
        assert sorted(line["target"] for line in ends) == ["/jobs/down", "/jobs/up"]
        assert {line["outcome"] for line in ends} == {"aborted"}


@pytest.mark.parametrize("way", WAYS)
def test_reversed_connections_of_a_worker_end_at_once(rig: Rig, way: str) -> None:
    """The idle one is no slot any more; who waited for the busy one is told 502."""
    name = fresh(rig, "issue-worker {} --pool render")
    with rig.worker(name) as one, rig.worker(name) as two, rig.worker("steady") as steady, rig.dispatch() as wire:
        wire.send(request(f"/-/pools/render/workers/{name}/x", "POST", content=b"job"))
        busy, idle = (one, two) if not one.wire.is_quiet(0.3) else (two, one)
        busy.request()
        when = do(rig, way, name)
        assert is_cut(busy.wire, when) == b""
        assert is_cut(idle.wire, when) == b""
        answer = wire.answer()
        assert (answer.status, answer.problem) == (502, "worker-lost")
        assert rig.pool()["slots"] == {"total": 1, "free": 1}
        assert steady.wire.is_quiet()
        reasons = [x["reason"] for x in rig.audit() if x["event"] == "reverse.closed" and x["identity"].endswith(name)]
        assert reasons == [way, way]
    rig.wait_pool(lambda pool: not pool["workers"])


def test_worker_in_mid_answer_is_cut_and_the_requester_too(rig: Rig) -> None:
    """Half an answer of a revoked worker ends as half an answer."""
    name = fresh(rig, "issue-worker {} --pool render")
    with rig.worker(name) as worker, rig.dispatch() as wire:
        wire.send(request(f"{ANY}/x"))
        worker.request()
        worker.wire.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
        wire.until(b"hello")
        when = do(rig, "revoked", name)
        assert not is_cut(wire, when).endswith(b"0\r\n\r\n")
        assert is_cut(worker.wire, when) == b""


def test_master_on_tls_is_cut_and_its_worker_let_go(rig: Rig) -> None:
    """The worker's connection ends with the exchange, since its answer has no reader."""
    name = fresh(rig, "issue-master {}")
    with rig.worker("steady") as worker, rig.connect(name) as wire:
        wire.send(request(f"{ANY}/x", "POST", rig.authorized(name, f"{ANY}/x", "POST"), content=b"job"))
        worker.request()
        when = do(rig, "revoked", name)
        assert is_cut(wire, when) == b""
        assert is_cut(worker.wire, when) == b""
    rig.wait_pool(lambda pool: not pool["workers"])


def test_waiting_request_of_a_revoked_master_leaves_the_queue(rig: Rig) -> None:
    """It holds no place for anyone."""
    name = fresh(rig, "issue-master {}")
    with rig.connect(name) as wire:
        wire.send(request(f"{ANY}/x", "GET", "Prefer: wait=30", rig.authorized(name, f"{ANY}/x")))
        rig.wait_pool(lambda pool: pool["waiting"] == 1)
        assert is_cut(wire, do(rig, "user_disabled", name)) == b""
        assert rig.pool()["waiting"] == 0


def test_event_stream_of_a_revoked_client_ends(rig: Rig) -> None:
    """It is a connection like any other."""
    name = fresh(rig, "issue-client {}")
    with rig.connect(name) as wire:
        wire.send(request("/-/pools/render/events", "GET", rig.authorized(name, "/-/pools/render/events")))
        wire.until(b"\n\n")
        assert is_cut(wire, do(rig, "revoked", name)).strip() == b""


def test_one_serial_is_revoked_without_the_others(rig: Rig) -> None:
    """Two certificates of one name: only the revoked one ends."""
    name = fresh(rig, "issue-client {}")
    rig.run("issue-client", name, "--out", rig.home.parent / f"{name}-2", "--no-user")
    with rig.connect(name) as first, Wire(rig.tcp(), tls_context(rig.home.parent / f"{name}-2")) as second:
        assert first.ask("/-/health").status == second.ask("/-/health").status == 200
        serial = x509.load_pem_x509_certificate((rig.bundle(name) / "cert.pem").read_bytes()).serial_number
        rig.run("revoke", "--serial", f"{serial:x}")
        assert first.rest(1.0) == b""
        assert second.ask("/-/health").status == 200


def test_user_that_is_enabled_again_comes_back(rig: Rig) -> None:
    """Disabled is not for ever."""
    name = fresh(rig, "issue-client {}")
    rig.run("user", "disable", name)
    rig.run("user", "enable", name)
    wire, digest = rig.login(name)
    with wire:
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools")).status == 200


def test_new_password_counts_at_once_and_the_old_one_never_again(rig: Rig) -> None:
    """For new connections too."""
    name = fresh(rig, "issue-client {}")
    old = rig.digest(name)
    new = rig.run("user", "passwd", name, "--generate").split()[-1]
    wire, _ = rig.login(name)
    with wire:
        answer = wire.ask("/-/pools", "GET", old.challenged(wire.ask("/-/pools")).line("/-/pools"))
        assert answer.status == 401
        old.password = new
        assert wire.ask("/-/pools", "GET", old.challenged(answer).line("/-/pools")).status == 200


def short_lived(rig: Rig, uri: str, role: str, seconds: float) -> tuple[Wire, datetime]:
    """A connection whose certificate ends soon, by the home's own CA."""
    ca = x509.load_pem_x509_certificate((rig.home / "certs" / f"{role}-ca.pem").read_bytes())
    key = load_pem_private_key((rig.home / "keys" / f"{role}-ca.key").read_bytes(), None)
    end = (datetime.now(UTC) + timedelta(seconds=seconds)).replace(microsecond=0)
    pair = forge(
        uri.rpartition("/")[2],
        Pair(certificate=ca, key=key),  # type: ignore[arg-type]
        extensions=[(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)],
        not_before=ca.not_valid_before_utc,
        not_after=end,
    )
    place = rig.home.parent / f"short-{role}"
    place.mkdir(exist_ok=True)
    pem = pair.certificate.public_bytes(Encoding.PEM) + ca.public_bytes(Encoding.PEM)
    (place / "cert.pem").write_bytes(pem)
    (place / "key.pem").write_bytes(pair.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return Wire(rig.tcp(), tls_context(place)), end


def test_connection_ends_with_its_certificate_in_mid_exchange(rig: Rig, origin: Origin) -> None:
    """Within a second of its last one, idle or not, without anyone doing anything."""
    wire, end = short_lived(rig, "spiffe://test.internal/client/bystander", "client", 3.0)
    with origin.scripted(lambda peer: (read_request(peer), peer.rest(30))), wire:
        digest = rig.digest("bystander").challenged(wire.ask("/-/pools"))
        wire.send(request("/jobs/x", "GET", digest.line("/jobs/x")))
        assert wire.rest(10) == b""
        late = (datetime.now(UTC) - end).total_seconds()
        assert -0.3 < late < 1.3, late
        assert rig.wait_line(event="connection.cut")["reason"] == "expired"


def test_reversed_connection_ends_with_its_certificate(rig: Rig) -> None:
    """As any other."""
    wire, end = short_lived(rig, "spiffe://test.internal/worker/render/steady", "worker", 3.0)
    target = "/-/reverse/render"
    with wire:
        wire.send(upgrade(target))
        digest = rig.digest("steady").challenged(wire.one())
        wire.send(upgrade(target, digest.line(target, "POST")))
        answer = wire.one()
        assert answer.status == 101
        worker = Worker("steady", wire, answer)
        with rig.dispatch() as one:
            one.send(request(f"{ANY}/x"))
            worker.request()
            worker.wire.send(response(b"x"))
            assert one.answer().status == 200
        assert wire.rest(10) == b""
        late = (datetime.now(UTC) - end).total_seconds()
        assert -0.3 < late < 1.3, late
    rig.wait_pool(lambda pool: not pool["workers"])


def test_revoking_a_label_of_a_pool_cuts_all_that_have_it_and_no_other(rig: Rig) -> None:
    """One command ends many workers at once, and counts what it cut; the pool goes on with the others."""
    names = [fresh(rig, "issue-worker {} --pool render --label site=cellar") for _ in range(3)]
    kept = fresh(rig, "issue-worker {} --pool render --label site=attic")
    with ExitStack() as stack:
        workers = [stack.enter_context(rig.worker(name)) for name in names]
        other = stack.enter_context(rig.worker(kept))
        said = rig.run("revoke", "--pool", "render", "--label", "site=cellar", "--yes")
        when = time.monotonic()
        assert "3 certificate(s) revoked; the gateway cut 3 connection(s)" in said
        for worker in workers:
            is_cut(worker.wire, when)
        with rig.dispatch() as wire:
            wire.send(request(f"/-/pools/render/workers/{kept}/x", "GET"))
            other.serve()
            assert wire.one().status == 200
        for name in names:
            with pytest.raises((AssertionError, OSError, SSL.Error)), rig.connect(name) as refused:
                refused.ask("/-/health")
