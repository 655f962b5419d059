"""Certificates from outside: whom the handshake refuses, with which alert, and what the log says."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificate, load_pem_x509_certificates
from OpenSSL import SSL
from support.certs import Pair, forge
from support.homes import new_home
from support.rig import Rig, run, wait_for
from support.wire import Wire, request, tls_context

from pki.issue import IssuerKey
from pki.names import Role


def refusal(rig: Rig, context: SSL.Context) -> str:
    """The alert that a handshake with these settings meets, in OpenSSL's words."""
    try:
        with Wire(rig.tcp(), context) as wire:  # TLS 1.3 tells after the client's handshake is done
            wire.send(request("/-/health"))
            data = wire.receive()
    except SSL.Error as error:
        return str(error.args[0][-1][2])
    raise AssertionError(f"it was let in: {data!r}")


def save(place: Path, *chain: Certificate, key: Any) -> SSL.Context:
    """TLS settings with this certificate."""
    pem = b"".join(one.public_bytes(Encoding.PEM) for one in chain)
    (place / "cert.pem").write_bytes(pem)
    (place / "key.pem").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return tls_context(place)


def issuer(rig: Rig, role: Role) -> IssuerKey:
    """The home's own issuing CA."""
    certificate = load_pem_x509_certificate((rig.home / "certs" / f"{role.value}-ca.pem").read_bytes())
    key = load_pem_private_key((rig.home / "keys" / f"{role.value}-ca.key").read_bytes(), None)
    return IssuerKey(certificate=certificate, key=key)  # type: ignore[arg-type]


def forged(rig: Rig, place: Path, uri: str, *, days: tuple[int, int] | None = None, alone: bool = False) -> SSL.Context:
    """A certificate by the home's own client CA, with any name and time."""
    ca = issuer(rig, Role.CLIENT)
    now = datetime.now(UTC)
    start = now + timedelta(days=days[0]) if days else ca.certificate.not_valid_before_utc
    pair = forge(
        "alice",
        Pair(certificate=ca.certificate, key=ca.key),
        extensions=[(x509.SubjectAlternativeName([x509.UniformResourceIdentifier(uri)]), False)],
        not_before=start,
        not_after=now + timedelta(days=days[1] if days else 1),
    )
    return save(place, pair.certificate, *(() if alone else (ca.certificate,)), key=pair.key)


def bundled(bundle: Path, place: Path, *, alone: bool) -> SSL.Context:
    """TLS settings with a bundle's certificate: with its issuing CA behind it, or alone as our agents send it."""
    chain = load_pem_x509_certificates((bundle / "cert.pem").read_bytes())
    key = load_pem_private_key((bundle / "key.pem").read_bytes(), None)
    return save(place, *chain[: 1 if alone else None], key=key)


def refused_line(rig: Rig, seen: int, reason: str) -> dict[str, Any]:
    """The ``tls.refused`` line written since `seen` lines."""
    found = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)
    assert [line["reason"] for line in found] == [reason]
    assert found[0]["listener"] == "tls"
    assert found[0]["source"] == "127.0.0.1"
    return dict(found[0])


alone_and_with_its_issuer = pytest.mark.parametrize("alone", [True, False], ids=["leaf alone", "with its issuer"])


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_handshake_without_certificate_is_refused_with_its_alert(rig: Rig, version: str) -> None:
    """No certificate, no TLS; the alert arrives in both versions."""
    seen = len(rig.audit())
    alert = refusal(rig, tls_context(None, version=version))
    assert alert in ("tlsv13 alert certificate required", "tls alert handshake failure"), alert
    refused_line(rig, seen, "peer did not return a certificate")


def test_certificate_of_an_unknown_root_is_refused(rig: Rig, tmp_path: Path) -> None:
    """A look-alike of the whole chain, made by somebody else."""
    seen = len(rig.audit())
    now = datetime.now(UTC)
    span = {"not_before": now - timedelta(days=1), "not_after": now + timedelta(days=1)}
    root = forge("test.internal root", ca=True, **span)  # type: ignore[arg-type]
    ca = forge("test.internal client CA", root, ca=True, path_length=0, **span)  # type: ignore[arg-type]
    leaf = forge("alice", ca, **span)  # type: ignore[arg-type]
    alert = refusal(rig, save(tmp_path, leaf.certificate, ca.certificate, root.certificate, key=leaf.key))
    assert alert == "tlsv1 alert unknown ca"
    refused_line(rig, seen, "untrusted")


def test_certificate_signed_by_itself_is_refused(rig: Rig, tmp_path: Path) -> None:
    """Nobody vouches for it."""
    seen = len(rig.audit())
    now = datetime.now(UTC)
    pair: Pair = forge("alice", not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))
    assert refusal(rig, save(tmp_path, pair.certificate, key=pair.key)) == "tlsv1 alert unknown ca"
    refused_line(rig, seen, "untrusted")


@alone_and_with_its_issuer
def test_certificate_past_its_time_is_refused(rig: Rig, tmp_path: Path, alone: bool) -> None:
    """By our own CA, but of last week."""
    seen = len(rig.audit())
    context = forged(rig, tmp_path, "spiffe://test.internal/client/alice", days=(-7, -1), alone=alone)
    assert refusal(rig, context) == "tls alert certificate expired"
    refused_line(rig, seen, "expired")


@alone_and_with_its_issuer
def test_certificate_that_we_forge_by_the_rules_is_let_in(rig: Rig, tmp_path: Path, alone: bool) -> None:
    """The tests around this one are about what they change, not about the forger."""
    with Wire(rig.tcp(), forged(rig, tmp_path, "spiffe://test.internal/client/alice", alone=alone)) as wire:
        assert wire.ask("/-/health").status == 200


FOREIGN_IDS = {
    "role": "spiffe://test.internal/master/alice",
    "domain": "spiffe://elsewhere.internal/client/alice",
    "name": "spiffe://test.internal/client/Alice",
    "path": "spiffe://test.internal/client/alice/x",
}


@alone_and_with_its_issuer
@pytest.mark.parametrize("what", FOREIGN_IDS)
def test_certificate_whose_spiffe_id_does_not_fit_its_issuer_is_refused(
    rig: Rig, tmp_path: Path, what: str, alone: bool
) -> None:
    """The client CA can make clients of its own domain only, whatever it signs."""
    seen = len(rig.audit())
    assert refusal(rig, forged(rig, tmp_path, FOREIGN_IDS[what], alone=alone)) == "tlsv1 alert internal error"
    line = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)[0]
    assert line["reason"] in ("role", "profile", "name"), line


def test_server_certificate_is_no_client(rig: Rig) -> None:
    """The gateway's own certificate and key open nothing."""
    seen = len(rig.audit())
    home = rig.home
    context = tls_context(None, cert=home / "certs" / "server.pem", key=home / "keys" / "server.key")
    assert refusal(rig, context)
    assert wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)


@alone_and_with_its_issuer
def test_certificate_that_was_revoked_is_refused(rig: Rig, tmp_path: Path, alone: bool) -> None:
    """Before the handshake is over, with its reason in the log and in the alert: who holds it may read *revoked*."""
    name = f"dave-{alone:d}"
    rig.run("issue-client", name)
    rig.run("revoke", name)
    seen = len(rig.audit())
    assert refusal(rig, bundled(rig.bundle(name), tmp_path, alone=alone)).endswith("alert certificate revoked")
    refused_line(rig, seen, "revoked")


def test_peer_that_sends_only_its_leaf_is_let_in(rig: Rig, tmp_path: Path) -> None:
    """The gateway knows its own CAs."""
    with Wire(rig.tcp(), bundled(rig.bundle("alice"), tmp_path, alone=True)) as wire:
        assert wire.ask("/-/health").status == 200


@pytest.mark.parametrize("version", ["1.2", "1.3"])
def test_session_is_never_resumed(rig: Rig, version: str) -> None:
    """Every connection shows its certificate anew."""
    context = tls_context(rig.bundle("alice"), version=version)
    context.set_session_cache_mode(SSL.SESS_CACHE_CLIENT)
    with Wire(rig.tcp(), context) as wire:
        wire.ask("/-/health")
        session = wire.session()
    with Wire(rig.tcp(), context, session=session) as again:
        assert again.ask("/-/health").status == 200
        assert not again.was_resumed()


def test_gateway_names_the_authorities_that_it_takes(rig: Rig) -> None:
    """By this our agents know that their leaf is enough: every issuing CA of peers, not the one of servers."""
    with rig.connect("alice") as wire:
        named = wire.authorities()
    cas = {role: issuer(rig, role).certificate.subject for role in Role}
    assert {cas[Role.CLIENT], cas[Role.WORKER], cas[Role.MASTER]} <= set(named)
    assert cas[Role.SERVER] not in named


def test_certificate_alone_opens_health_and_nothing_else(rig: Rig) -> None:
    """What you hold is not enough: what you know comes on top."""
    with rig.connect("alice") as wire:
        assert wire.ask("/-/health").json == {"status": "serving"}
        for target in ("/jobs/x", "/-/pools", "/-/pools/render", "/-/pools/nowhere", "/nowhere"):
            assert wire.ask(target).status == 401, target


@alone_and_with_its_issuer
def test_certificate_of_another_gateway_is_refused_though_every_name_is_the_same(
    rig: Rig, tmp_path: Path, alone: bool
) -> None:
    """Another home's alice, of the same trust domain: the gateway names the very name of the CA that issued it."""
    fresh = new_home(tmp_path / "fresh", trust_domain="test.internal")
    run(fresh.path, "issue-client", "alice")
    seen = len(rig.audit())
    context = bundled(fresh.path / "bundles" / "alice", tmp_path, alone=alone)
    assert refusal(rig, context) == "tlsv1 alert unknown ca"
    refused_line(rig, seen, "untrusted")
