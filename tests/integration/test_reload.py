"""Reload from outside: a good configuration is taken up without dropping anyone, a bad one changes nothing."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from OpenSSL import SSL
from support.origins import Origin
from support.rig import JOBS, NotSwitched, Rig
from support.runhomes import new_ca
from support.wire import Wire, request, tls_context

from gateway.admin.client import call
from gateway.cli.main import cli
from pki.names import Role

CONFIG = f"""{JOBS}
[pools.spare]
[audit]
fold_after = 100000
"""
PEERS = (
    "issue-client alice",
    "issue-worker w1 --pool render",
    "issue-worker w2 --pool render",
    "issue-worker s1 --pool spare",
)
ANY = "/-/pools/render/any"


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture
def rig(tmp_path: Path, origin: Origin) -> Iterator[Rig]:
    with Rig(tmp_path, CONFIG.format(port=origin.port), peers=PEERS) as rig:
        yield rig


def edit(rig: Rig, old: str, new: str, name: str = "gateway.toml") -> None:
    """Change the file of a home."""
    path = rig.home / name
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def refused_reload(rig: Rig) -> str:
    """A reload that fails; what it says."""
    result = CliRunner(env={"RHTTP_PKI_HOME": str(rig.home)}).invoke(cli, ["reload"])
    assert result.exit_code == 1, result.output
    return result.output


def test_good_reload_takes_up_routes_pools_and_limits_without_dropping_anyone(rig: Rig, origin: Origin) -> None:
    """Open connections live on and see the new configuration with their next request."""
    with rig.connect("alice") as client, rig.worker("w1") as worker, rig.dispatch() as master:
        assert rig.ask("alice", "/more/x", wire=client).status == 404
        more = '[[routes]]\nname = "more"\npath = "/more/*"\nmaster = "jobs"\n'
        edit(rig, "[pools.spare]", more + "[pools.spare]\n[pools.new]")
        rig.run("reload")
        assert rig.ask("alice", "/more/x", wire=client).status == 200
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200
        assert master.ask("/-/pools/new").status == 200
        master.send(request(f"{ANY}/x"))
        worker.serve()
        assert master.answer().status == 200
        assert rig.wait_line(event="gateway.reload")["outcome"] == "done"


BAD = {
    "syntax": ("[pools.spare]", "[pools.spare"),
    "unknown key": ("[pools.spare]", "[pools.spare]\nquee = 5"),
    "unknown master": ('master = "jobs"', 'master = "nobody"'),
    "route under ours": ('path = "/jobs/*"', 'path = "/-/jobs/*"'),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_configuration_is_refused_and_the_old_one_stays(rig: Rig, name: str) -> None:
    """Nothing of it is taken up; connections do not notice."""
    with rig.connect("alice") as client, rig.worker("w1") as worker:
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200
        edit(rig, *BAD[name])
        assert refused_reload(rig)
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200
        assert worker.wire.is_quiet()
        assert rig.pool("spare")["pool"] == "spare"


def test_bad_policy_is_refused_and_the_old_one_stays(rig: Rig) -> None:
    """With its line; a policy that fails its schema is none."""
    with rig.connect("alice") as client:
        path = rig.home / "policy.cedar"
        path.write_text('@id("x") permit (principal is Nobody, action, resource);')
        assert "policy" in refused_reload(rig)
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200


def test_policy_change_drains_workers_that_are_no_longer_allowed(rig: Rig) -> None:
    """The idle one closes, the busy one after its answer; others stay, and the banned one does not come back."""
    with rig.worker("w1") as idle, rig.worker("w1") as busy, rig.worker("w2") as other, rig.dispatch() as master:
        master.send(request("/-/pools/render/workers/w1/x"))
        first, rest = (idle, busy) if not idle.wire.is_quiet(0.3) else (busy, idle)
        first.request()
        with (rig.home / "policy.cedar").open("a") as file:
            file.write('\n@id("ban") forbid (principal == Worker::"w1", action == Action::"reverse", resource);\n')
        rig.run("reload")
        assert rest.wire.rest() == b""
        assert first.wire.is_quiet()
        assert other.wire.is_quiet()
        first.reply()
        assert master.answer().status == 200
        assert first.wire.rest() == b""
        assert rig.pool()["slots"] == {"total": 1, "free": 1}
        reasons = [line["reason"] for line in rig.audit() if line["event"] == "reverse.closed"]
        assert reasons == ["policy", "policy"]
        with pytest.raises(NotSwitched) as refused:
            rig.worker("w1")
        assert refused.value.answer.status == 403


def test_policy_change_counts_for_the_next_request_of_an_open_connection(rig: Rig) -> None:
    """No decision of before is remembered."""
    with rig.connect("alice") as client:
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200
        text = (rig.home / "policy.cedar").read_text()
        ban = '\n@id("no") forbid (principal, action == Action::"request", resource);\n'
        (rig.home / "policy.cedar").write_text(text + ban)
        rig.run("reload")
        answer = rig.ask("alice", "/jobs/x", wire=client)
        assert answer.status == 403
        assert rig.line_of(answer)["policy"] == ["no"]
        (rig.home / "policy.cedar").write_text(text)
        rig.run("reload")
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200


def test_pool_that_is_gone_drains(rig: Rig) -> None:
    """Its workers close, its paths are 404; whoever waits there is not forgotten."""
    with rig.worker("s1", "spare") as worker, rig.dispatch() as master, rig.dispatch() as stream:
        stream.send(request("/-/pools/spare/events"))
        stream.until(b"\n\n")
        master.send(request("/-/pools/spare/workers/other/x", "GET", "Prefer: wait=2"))
        rig.wait_pool(lambda pool: pool["waiting"] == 1, "spare")
        edit(rig, "[pools.spare]\n", "")
        rig.run("reload")
        assert worker.wire.rest() == b""
        assert master.answer().status == 503
        assert master.ask("/-/pools/spare").status == 404
        stream.until(b"\r\n0\r\n\r\n")


def test_event_stream_ends_when_its_reader_may_no_longer_inspect(rig: Rig) -> None:
    """Live connections are cut the moment their permission ends; the reader of another keeps its stream."""
    target = "/-/pools/render/events"
    with rig.connect("alice") as banned, rig.dispatch() as other:
        banned.send(request(target, "GET", rig.authorized("alice", target)))
        other.send(request(target))
        for wire in (banned, other):
            wire.until(b"\n\n")
        with (rig.home / "policy.cedar").open("a") as file:
            file.write('\n@id("ban") forbid (principal == Client::"alice", action == Action::"inspect", resource);\n')
        rig.run("reload")
        banned.until(b"\r\n0\r\n\r\n")
        assert b"0\r\n\r\n" not in other.buffer + (b"" if other.is_quiet() else other.buffer)


def test_master_whose_address_changed_gets_the_next_request(rig: Rig, origin: Origin) -> None:
    """Kept connections to the old address are not used again."""
    with Origin() as other, rig.connect("alice") as client:
        assert rig.ask("alice", "/jobs/x", wire=client).status == 200
        edit(rig, f"127.0.0.1:{origin.port}", f"127.0.0.1:{other.port}")
        rig.run("reload")
        assert rig.ask("alice", "/jobs/y", wire=client).status == 200
        assert b"/jobs/y" not in origin.raw
        assert b"/jobs/y" in other.raw


def test_new_server_certificate_is_shown_to_new_connections_only(rig: Rig) -> None:
    """Taken up by `issue-server` itself; workers and clients stay."""

    def served() -> bytes:
        with rig.connect("alice") as wire:
            return wire.peer_certificate()

    with rig.worker("w1") as worker, rig.connect("alice") as client:
        assert client.ask("/-/health").status == 200
        before = served()
        rig.run("issue-server", "--san", "DNS:gateway.example")
        assert served() != before
        assert worker.wire.is_quiet()
        assert client.ask("/-/health").status == 200
        client.send(request("/-/health", host="gateway.example"))
        assert client.answer().status == 200


def test_reload_without_a_ca_ends_what_it_issued(rig: Rig) -> None:
    """A worker's CA that was exchanged: its workers, busy or idle, are cut and come in no more; clients stay."""
    with rig.connect("alice") as client, rig.worker("w1") as busy, rig.worker("w2") as idle, rig.dispatch() as master:
        master.send(request("/-/pools/render/workers/w1/x"))
        busy.request()
        (rig.home / "certs" / "worker-ca.pem").write_bytes(new_ca(rig.home, Role.WORKER))
        rig.run("reload")
        busy.wire.rest(5.0)
        idle.wire.rest(5.0)
        assert master.answer().status == 502
        assert rig.pool()["slots"] == {"total": 0, "free": 0}
        cut = [line["identity"] for line in rig.audit() if line["event"] == "connection.cut"]
        assert sorted(cut) == ["worker/w1", "worker/w2"]
        assert rig.wait_line(event="connection.cut")["reason"] == "issuer_gone"
        for chain, alert in (("whole", "alert internal error"), ("alone", "alert unknown ca")):
            context = tls_context(None, cert=presented(rig, "w2", chain), key=rig.bundle("w2") / "key.pem")
            with Wire(rig.tcp(), context) as again, pytest.raises(SSL.Error, match=alert):
                again.ask("/-/health")
        assert client.ask("/-/health").status == 200


def presented(rig: Rig, name: str, chain: str) -> Path:
    """A file with what a peer presents: its chain, or its leaf alone as our agents do."""
    whole = rig.bundle(name) / "cert.pem"
    end = "-----END CERTIFICATE-----\n"
    alone = rig.home / f"{name}-alone.pem"
    alone.write_text(whole.read_text().partition(end)[0] + end)
    return whole if chain == "whole" else alone


def test_revocation_does_not_wait_for_a_reload(rig: Rig) -> None:
    """Thousands of policies take seconds to be read, in the supervisor and in each process; who is revoked is out."""
    policy = rig.home / "policy.cedar"
    more = [
        f'@id("more-{number}") permit (principal == Client::"c{number}", action == Action::"request", resource);'
        for number in range(2000)
    ]
    with rig.worker("w1") as worker, rig.worker("w2") as other:
        policy.write_text("\n".join([policy.read_text(), *more]))
        reload = threading.Thread(target=call, args=(rig.home, "POST", "/reload"))
        reload.start()
        rig.run("revoke", "w1")
        assert worker.wire.rest(1.0) == b""
        assert reload.is_alive()
        reload.join(60)
        assert rig.status()["config"]["generation"] == 2
        assert other.wire.is_quiet()
        with rig.connect("w1") as again, pytest.raises(SSL.Error, match="alert"):
            again.ask("/-/health")


def test_nonce_survives_a_reload(rig: Rig) -> None:
    """Nobody has to log in again."""
    wire, digest = rig.login("alice")
    with wire:
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools")).status == 200
        spent = digest.line("/-/pools")
        assert wire.ask("/-/pools", "GET", spent).status == 200
        rig.run("reload")
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools")).status == 200
        assert wire.ask("/-/pools", "GET", spent).status == 401


def test_nonce_of_before_a_restart_is_stale_once(rig: Rig) -> None:
    """The key is never stored; the client gets on by itself."""
    wire, digest = rig.login("alice")
    wire.close()
    rig.served.signal(signal.SIGTERM)
    assert rig.served.ended() == 0
    rig.start()
    with rig.connect("alice") as wire:
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        assert answer.status == 401
        assert "stale=true" in answer.challenges[0]
        assert wire.ask("/-/pools", "GET", digest.challenged(answer).line("/-/pools")).status == 200
