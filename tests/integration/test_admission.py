"""Admission from outside: every refusal in the order of the contract, what the peer sees and what the log says."""

from __future__ import annotations

import base64
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from cryptography.x509 import Certificate, load_pem_x509_certificate
from OpenSSL import SSL
from support.certs import Pair, forge
from support.homes import new_home
from support.origins import Origin
from support.rig import Rig, run, upgrade, wait_for
from support.wire import Answer, Wire, request, tls_context

from pki.issue import IssuerKey
from pki.names import Role

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:{port}"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[[routes]]
name = "closed"
path = "/closed/*"
master = "jobs"
[[routes]]
name = "open"
path = "/open/*"
master = "jobs"
[pools.render]
[pools.other]
[audit]
fold_after = 100000
"""
POLICY = """
@id("clients") permit (principal is Client, action == Action::"request", resource) when { context has digest };
@id("inspect") permit (principal is Client, action == Action::"inspect", resource) when { context has digest };
@id("open") permit (principal is Client, action == Action::"request", resource == Route::"open");
@id("closed") forbid (principal, action, resource == Route::"closed");
@id("workers") permit (principal is Worker, action == Action::"reverse", resource)
when { context has digest && principal.pool == resource };
@id("masters") permit (principal is Master, action in [Action::"dispatch", Action::"inspect"], resource)
when { context has digest };
@id("local") permit (principal == Master::"local", action in [Action::"dispatch", Action::"inspect"], resource)
when { context.listener == "dispatch" };
"""
PEERS = (
    "issue-client alice",
    "issue-client bob",
    "issue-client carol",
    "issue-client mallory",
    "issue-worker w1 --pool render",
    "issue-worker w2 --pool other",
    "issue-master m1",
)


@pytest.fixture(scope="module")
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory, origin: Origin) -> Iterator[Rig]:
    place = tmp_path_factory.mktemp("admission")
    with Rig(place, CONFIG.format(port=origin.port), policy=POLICY, peers=PEERS) as rig:
        yield rig


@pytest.fixture(autouse=True)
def _nothing_reaches_the_origin(request: pytest.FixtureRequest, origin: Origin) -> Iterator[None]:
    """No byte of a refused request reaches the master."""
    origin.clear()
    yield
    if "reaches" not in request.fixturenames:
        assert origin.raw == b""


@pytest.fixture
def reaches() -> None:
    """For tests whose requests shall reach the master."""


# ---- certificate ----------------------------------------------------------------------------------------------------


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


def forged(rig: Rig, place: Path, uri: str, *, days: tuple[int, int] | None = None) -> SSL.Context:
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
    return save(place, pair.certificate, ca.certificate, key=pair.key)


def refused_line(rig: Rig, seen: int, reason: str) -> dict[str, Any]:
    """The ``tls.refused`` line written since `seen` lines."""
    found = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)
    assert [line["reason"] for line in found] == [reason]
    assert found[0]["listener"] == "tls"
    assert found[0]["source"] == "127.0.0.1"
    return dict(found[0])


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


def test_certificate_past_its_time_is_refused(rig: Rig, tmp_path: Path) -> None:
    """By our own CA, but of last week."""
    seen = len(rig.audit())
    context = forged(rig, tmp_path, "spiffe://test.internal/client/alice", days=(-7, -1))
    assert refusal(rig, context) == "tls alert certificate expired"
    refused_line(rig, seen, "expired")


def test_certificate_that_we_forge_by_the_rules_is_let_in(rig: Rig, tmp_path: Path) -> None:
    """The tests around this one are about what they change, not about the forger."""
    with Wire(rig.tcp(), forged(rig, tmp_path, "spiffe://test.internal/client/alice")) as wire:
        assert wire.ask("/-/health").status == 200


FOREIGN_IDS = {
    "role": "spiffe://test.internal/master/alice",
    "domain": "spiffe://elsewhere.internal/client/alice",
    "name": "spiffe://test.internal/client/Alice",
    "path": "spiffe://test.internal/client/alice/x",
}


@pytest.mark.parametrize("what", FOREIGN_IDS)
def test_certificate_whose_spiffe_id_does_not_fit_its_issuer_is_refused(rig: Rig, tmp_path: Path, what: str) -> None:
    """The client CA can make clients of its own domain only, whatever it signs."""
    seen = len(rig.audit())
    assert refusal(rig, forged(rig, tmp_path, FOREIGN_IDS[what])) == "tlsv1 alert internal error"
    line = wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)[0]
    assert line["reason"] in ("role", "profile", "name"), line


def test_server_certificate_is_no_client(rig: Rig) -> None:
    """The gateway's own certificate and key open nothing."""
    seen = len(rig.audit())
    home = rig.home
    context = tls_context(None, cert=home / "certs" / "server.pem", key=home / "keys" / "server.key")
    assert refusal(rig, context)
    assert wait_for(lambda: [x for x in rig.audit()[seen:] if x["event"] == "tls.refused"], bool)


def test_certificate_that_was_revoked_is_refused(rig: Rig) -> None:
    """Before the handshake is over, and with its reason in the log."""
    rig.run("issue-client", "dave")
    rig.run("revoke", "dave")
    seen = len(rig.audit())
    assert refusal(rig, tls_context(rig.bundle("dave")))
    refused_line(rig, seen, "revoked")


def test_peer_that_sends_only_its_leaf_is_let_in(rig: Rig, tmp_path: Path) -> None:
    """The gateway knows its own CAs."""
    leaf = load_pem_x509_certificate((rig.bundle("alice") / "cert.pem").read_bytes())
    key = load_pem_private_key((rig.bundle("alice") / "key.pem").read_bytes(), None)
    with Wire(rig.tcp(), save(tmp_path, leaf, key=key)) as wire:
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


def test_certificate_alone_opens_health_and_nothing_else(rig: Rig) -> None:
    """What you hold is not enough: what you know comes on top."""
    with rig.connect("alice") as wire:
        assert wire.ask("/-/health").json == {"status": "serving"}
        for target in ("/jobs/x", "/-/pools", "/-/pools/render", "/-/pools/nowhere", "/nowhere"):
            assert wire.ask(target).status == 401, target


# ---- Digest ---------------------------------------------------------------------------------------------------------


def is_challenge(answer: Answer, *, stale: bool = False) -> None:
    """One SHA-256 challenge without userhash, in a problem answer that says nothing else."""
    assert answer.status == 401
    assert answer.problem == "unauthenticated"
    assert set(answer.json) == {"type", "title", "status", "request_id"}
    (value,) = answer.challenges
    assert value.startswith("Digest ")
    assert value.count("algorithm=SHA-256") == 1
    assert value.count("nonce=") == 1
    assert 'realm="rhttp@test.internal"' in value
    assert 'qop="auth"' in value
    assert "userhash" not in value
    assert "MD5" not in value
    assert ("stale=true" in value) is stale, value
    assert answer["cache-control"] == "no-store"


def test_request_without_credentials_is_challenged_on_a_kept_connection(rig: Rig) -> None:
    """A first challenge: 401, one SHA-256 challenge, and the same connection serves the answer to it."""
    with rig.connect("alice") as wire:
        answer = wire.ask("/jobs/x?secret=1")
        is_challenge(answer)
        assert "upgrade" not in dict(answer.fields)
        line = rig.line_of(answer, "auth.refused")
        assert line["reason"] == "absent"
        assert line["identity"] == "client/alice"
        assert line["target"] == "/jobs/x"
        digest = rig.digest("alice").challenged(answer)
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools")).status == 200


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "wrong password": ({"password": "guess"}, "bad_response"),
    "wrong response": ({"response": "0" * 64}, "bad_response"),
    "other user, its password": ({"username": "bob"}, "user_mismatch"),
    "unknown user": ({"username": "nobody"}, "user_mismatch"),
    "wrong uri": ({"uri": "/jobs/other"}, "uri"),
    "uri without query": ({"uri": "/jobs"}, "uri"),
    "wrong method": ({"method": "PUT"}, "bad_response"),
    "MD5": ({"algorithm": "MD5"}, "algorithm"),
    "SHA-512-256": ({"algorithm": "SHA-512-256"}, "algorithm"),
    "wrong realm": ({"realm": "rhttp@elsewhere"}, "realm"),
    "auth-int": ({"qop": "auth-int"}, "qop"),
    "forged nonce": ({"nonce": base64.b64encode(b"x" * 40).decode()}, "nonce_forged"),
    "empty nonce": ({"nonce": ""}, "nonce_forged"),
    "nc of zero": ({"nc": "00000000"}, "malformed"),
    "nc too short": ({"nc": "1"}, "malformed"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_credentials_are_the_same_401_with_their_reason_in_the_log(rig: Rig, name: str) -> None:
    """The peer learns nothing from the kind of its mistake; the operator does."""
    replaced, reason = WRONG[name]
    wire, digest = rig.login("alice")
    with wire:
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x", **replaced))
        is_challenge(answer, stale=reason == "nonce_forged")
        line = rig.line_of(answer)
        assert (line["event"], line["reason"], line["outcome"]) == ("auth.refused", reason, "refused")
        assert "policy" not in line
        good = digest.challenged(answer)
        assert wire.ask("/-/pools", "GET", good.line("/-/pools")).status == 200


SCHEMES = {
    "Basic": ("Basic YWxpY2U6c2VjcmV0", "scheme"),
    "Bearer": ("Bearer abc", "scheme"),
    "empty": ("", "scheme"),
    "a scheme alone": ("Digest", "malformed"),
    "junk": ("Digest ,,,=", "malformed"),
    "long": ("Digest " + "a" * 7000, "malformed"),
}


@pytest.mark.parametrize("name", SCHEMES)
@pytest.mark.parametrize("target", ["/jobs/x", "/open/x", "/-/health"])
def test_authorization_of_another_scheme_or_form_is_401_even_where_none_is_needed(
    rig: Rig, name: str, target: str
) -> None:
    """Present but wrong is always 401, and policy is not asked: not even for what is open to everyone."""
    value, reason = SCHEMES[name]
    with rig.connect("alice") as wire:
        answer = wire.ask(target, "GET", f"Authorization: {value}")
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == reason


def test_two_authorization_fields_are_401(rig: Rig) -> None:
    """One of them would be enough for one reader, the other for another."""
    wire, digest = rig.login("alice")
    with wire:
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x"), digest.line("/jobs/x"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "malformed"


@pytest.mark.usefixtures("reaches")
def test_replayed_nonce_count_is_refused_as_stale(rig: Rig) -> None:
    """The same credentials twice: the second time is a replay, on the same connection or another."""
    wire, digest = rig.login("alice")
    with wire, rig.connect("alice") as other:
        line = digest.line("/jobs/x")
        assert wire.ask("/jobs/x", "GET", line).status == 200
        for place in (wire, other):
            answer = place.ask("/jobs/x", "GET", line)
            is_challenge(answer, stale=True)
            assert rig.line_of(answer)["reason"] == "replayed_nc"
        assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x")).status == 200


@pytest.mark.usefixtures("reaches")
def test_nonce_counts_in_any_order_are_taken_once_each(rig: Rig) -> None:
    """Connections share a nonce, so counts arrive out of order."""
    wire, digest = rig.login("alice")
    with wire:
        for nc in (5, 3, 9, 1, 1024):
            assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{nc:08x}")).status == 200
        for nc in (5, 3, 9, 1, 1024):
            assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{nc:08x}")).status == 401
        assert wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{3000:08x}")).status == 200
        answer = wire.ask("/jobs/x", "GET", digest.line("/jobs/x", nc=f"{2:08x}"))
        is_challenge(answer, stale=True)
        assert rig.line_of(answer)["reason"] == "nc_too_old"


def test_refused_guess_does_not_burn_the_count_of_its_owner(rig: Rig) -> None:
    """Counts are spent only after the response verified."""
    wire, digest = rig.login("alice")
    with wire:
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools", nc="00000001", password="guess")).status == 401
        assert wire.ask("/-/pools", "GET", digest.line("/-/pools", nc="00000001")).status == 200


def test_nonce_of_another_certificate_is_worthless(rig: Rig) -> None:
    """Even for the same user: the nonce is bound to the certificate that fetched it."""
    rig.run("issue-client", "alice", "--out", rig.home.parent / "alice2", "--no-user")
    wire, digest = rig.login("alice")
    with wire, Wire(rig.tcp(), tls_context(rig.home.parent / "alice2")) as other:
        answer = other.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer, stale=True)
        assert rig.line_of(answer)["reason"] == "nonce_forged"


def test_user_of_another_certificate_is_a_mismatch_though_the_password_is_right(rig: Rig) -> None:
    """Bob's password does not help with alice's certificate."""
    with rig.connect("alice") as wire:
        digest = rig.digest("bob").challenged(wire.ask("/-/pools"))
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "user_mismatch"


def test_disabled_and_removed_users_are_refused(rig: Rig) -> None:
    """With the right password, over a new connection."""
    rig.run("user", "disable", "carol")
    wire, digest = rig.login("carol")
    with wire:
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "user_disabled"
    rig.run("user", "remove", "carol")
    wire, digest = rig.login("carol")
    with wire:
        answer = wire.ask("/-/pools", "GET", digest.line("/-/pools"))
        is_challenge(answer)
        assert rig.line_of(answer)["reason"] == "unknown_user"


def test_master_on_tls_needs_digest_like_everyone(rig: Rig) -> None:
    """Its certificate alone dispatches nothing."""
    wire, digest = rig.login("m1")
    with wire:
        is_challenge(wire.ask("/-/pools/render/any/x"))
        answer = wire.ask("/-/pools/render/any/x", "GET", digest.line("/-/pools/render/any/x"))
        assert (answer.status, answer.problem) == (503, "no-slot")


# ---- policy, route, pool ---------------------------------------------------------------------------------------------


def test_policy_that_denies_is_403_for_credentials_that_are_right(rig: Rig) -> None:
    """Who you are is known, what you may is not this. The connection is kept."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", "/closed/x", wire=wire)
        assert (answer.status, answer.problem) == (403, "forbidden")
        assert not answer.challenges
        line = rig.line_of(answer)
        assert (line["event"], line["policy"]) == ("policy.denied", ["closed"])
        assert wire.ask("/-/health").status == 200


def test_policy_denial_without_credentials_is_a_challenge(rig: Rig) -> None:
    """Nobody learns what is forbidden before they said who they are."""
    with rig.connect("alice") as wire:
        is_challenge(wire.ask("/closed/x"))


@pytest.mark.usefixtures("reaches")
def test_policy_that_asks_for_no_digest_lets_the_certificate_do(rig: Rig) -> None:
    """Absent credentials: policy is asked, and what it allows proceeds."""
    with rig.connect("alice") as wire:
        answer = wire.ask("/open/x")
        assert answer.status == 200
        assert rig.line_of(answer)["policy"] == ["open"]


def test_unknown_route_and_pool_say_404_only_to_whom_policy_would_allow(rig: Rig) -> None:
    """Undecided policy first, then 404."""
    with rig.connect("alice") as wire:
        for target in ("/nowhere", "/", "/jobs", "/-/pools/nowhere"):
            is_challenge(wire.ask(target))
            answer = rig.ask("alice", target, wire=wire)
            assert (answer.status, answer.problem) == (404, "not-found"), target
            assert rig.line_of(answer)["outcome"] == "refused"
        assert wire.ask("/-/health").status == 200
    with rig.connect("w1") as wire:
        answer = rig.ask("w1", "/nowhere", wire=wire)
        assert (answer.status, answer.problem) == (403, "forbidden")


@pytest.mark.parametrize(
    "target", ["/-", "/-/", "/-/x", "/-/pools/", "/-/pools/render/", "/-/pools/render/any", "/-/reverse"]
)
def test_unlisted_paths_of_our_own_are_404_and_never_routed(rig: Rig, target: str) -> None:
    """Everything under /-/ is the gateway's."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", target, wire=wire)
        assert (answer.status, answer.problem) == (404, "not-found")


ROLES = [
    ("w1", "GET", "/jobs/x"),
    ("w1", "GET", "/-/pools"),
    ("w1", "GET", "/-/pools/render/any/x"),
    ("m1", "GET", "/jobs/x"),
    ("alice", "GET", "/-/pools/render/any/x"),
    ("alice", "GET", "/-/pools/render/workers/w1/x"),
]


@pytest.mark.parametrize(("name", "method", "target"), ROLES)
def test_role_may_do_only_what_is_its_own(rig: Rig, name: str, method: str, target: str) -> None:
    """A worker requests nothing, a client dispatches nothing, a master requests no routes."""
    answer = rig.ask(name, target, method)
    assert (answer.status, answer.problem) == (403, "forbidden")
    assert rig.line_of(answer)["event"] == "policy.denied"


# ---- upgrades --------------------------------------------------------------------------------------------------------


def test_upgrade_without_credentials_is_kept_for_one_more_request(rig: Rig) -> None:
    """401 with the tokens on offer; with credentials the same connection switches."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        answer = wire.one()
        is_challenge(answer)
        assert answer["upgrade"] == "PTTH/1.0"
        assert "upgrade" in answer["connection"].lower()
        assert "close" not in answer["connection"].lower()
        digest = rig.digest("w1").challenged(answer)
        wire.send(upgrade("/-/reverse/render", digest.line("/-/reverse/render", "POST")))
        assert wire.one().status == 101


def test_upgrade_refused_twice_closes(rig: Rig) -> None:
    """One more request means one."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        assert wire.one().status == 401
        wire.send(upgrade("/-/reverse/render", "Authorization: Basic eDp5"))
        answer = wire.one()
        assert answer.status == 401
        assert "close" in answer.all("connection")
        assert wire.rest() == b""


def test_upgrade_refused_is_not_waited_for_longer_than_five_seconds(rig: Rig) -> None:
    """Some workers abandon the socket without closing it."""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render"))
        assert wire.one().status == 401
        start = time.monotonic()
        assert wire.rest() == b""
        assert 4 < time.monotonic() - start < 6


REFUSED_UPGRADES = {
    "pool of another": ("w1", "/-/reverse/other", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "pool that is not": ("w1", "/-/reverse/nowhere", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "client": ("alice", "/-/reverse/render", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "master": ("m1", "/-/reverse/render", "PTTH/1.0", 403, "forbidden", "policy.denied"),
    "unknown token": ("w1", "/-/reverse/render", "websocket", 426, "upgrade-required", "request"),
    "old version": ("w1", "/-/reverse/render", "PTTH/0.9", 426, "upgrade-required", "request"),
}


@pytest.mark.parametrize("name", REFUSED_UPGRADES)
def test_every_other_refusal_of_an_upgrade_closes(rig: Rig, name: str) -> None:
    """With good credentials the answer is final."""
    who, target, token, status, slug, event = REFUSED_UPGRADES[name]
    with rig.connect(who) as wire:
        wire.send(upgrade(target, rig.authorized(who, target, "POST"), token=token))
        answer = wire.one()
        assert (answer.status, answer.problem) == (status, slug)
        assert any("close" in value for value in answer.all("connection"))
        assert wire.rest() == b""
        assert wire.ended == "notify"
        assert rig.line_of(answer)["event"] == event
        if status == 426:
            assert answer["upgrade"] == "PTTH/1.0"


def test_reverse_without_an_upgrade_is_426_and_names_the_token(rig: Rig) -> None:
    """Anyone who asks in plain HTTP is told what to ask for."""
    with rig.connect("w1") as wire:
        answer = rig.ask("w1", "/-/reverse/render", "POST", wire=wire)
        assert (answer.status, answer.problem) == (426, "upgrade-required")
        assert answer["upgrade"] == "PTTH/1.0"
        assert wire.rest() == b""


def test_tokens_are_on_offer_where_roles_switch_and_nowhere_else(rig: Rig) -> None:
    """A 401 names them to whoever asks at /-/reverse/, with an upgrade or without; a route has none to offer."""
    with rig.connect("w1") as wire:
        assert wire.ask("/-/reverse/render", "POST")["upgrade"] == "PTTH/1.0"
    with rig.connect("alice") as wire:
        answer = wire.ask("/jobs/x", "GET", "Upgrade: websocket", "Connection: Upgrade")
        assert answer.status == 401
        assert not answer.all("upgrade")


@pytest.mark.parametrize("method", ["PUT", "HEAD", "OPTIONS", "DELETE"])
def test_reverse_with_another_method_is_refused_and_closes(rig: Rig, method: str) -> None:
    """POST or GET, nothing else."""
    with rig.connect("w1") as wire:
        target = "/-/reverse/render"
        wire.send(upgrade(target, rig.authorized("w1", target, method), method=method))
        answer = wire.one(method)
        assert answer.status == 405
        assert answer["allow"] == "GET, POST"
        assert wire.rest() == b""


@pytest.mark.parametrize("lines", [("Content-Length: 3",), ("Transfer-Encoding: chunked",)])
def test_upgrade_with_content_is_refused_and_closes(rig: Rig, lines: tuple[str, ...]) -> None:
    """What would the content be: the request's or the reversed connection's?"""
    with rig.connect("w1") as wire:
        wire.send(upgrade("/-/reverse/render", *lines) + b"0\r\n\r\nGET /-/pools HTTP/1.1\r\nHost: localhost\r\n\r\n")
        answer = wire.one()
        assert (answer.status, answer.problem) == (400, "bad-request")
        assert wire.rest() == b""


def test_upgrade_of_http_1_0_never_switches(rig: Rig) -> None:
    """HTTP/1.0 is served with close and never upgraded."""
    with rig.connect("w1") as wire:
        line = rig.authorized("w1", "/-/reverse/render", "POST")
        wire.send(upgrade("/-/reverse/render", line).replace(b"HTTP/1.1", b"HTTP/1.0"))
        answer = wire.one()
        assert answer.status == 426
        assert wire.rest() == b""


def test_upgrade_on_a_route_is_served_as_a_plain_request(rig: Rig, origin: Origin) -> None:
    """A client cannot make a master switch: neither field nor token reaches it."""
    with rig.connect("alice") as wire:
        answer = rig.ask("alice", "/jobs/x", "GET", "Upgrade: PTTH/1.0", "Connection: Upgrade", wire=wire)
        assert answer.status == 200
    assert b"ptth" not in origin.raw.lower()
    origin.clear()


def test_certificate_of_another_gateway_is_refused_though_every_name_is_the_same(rig: Rig, tmp_path: Path) -> None:
    """Another home's alice, of the same trust domain."""
    fresh = new_home(tmp_path / "fresh", trust_domain="test.internal")
    run(fresh.path, "issue-client", "alice")
    seen = len(rig.audit())
    assert refusal(rig, tls_context(fresh.path / "bundles" / "alice")) == "tlsv1 alert unknown ca"
    refused_line(rig, seen, "untrusted")


def test_no_secret_reaches_the_log(rig: Rig) -> None:
    """After all of the above: no password, nonce, Authorization value or query."""
    text = "".join(path.read_text() for path in (rig.home / "audit").glob("*.jsonl"))
    for name in ("alice", "bob", "w1", "m1"):
        assert rig.digest(name).password not in text
    assert "response=" not in text
    assert "secret=1" not in text
