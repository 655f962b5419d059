"""Making a generation: all of it or nothing, and what stays the same is the same."""

from __future__ import annotations

import asyncio
import dataclasses
from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509
from OpenSSL import crypto
from support.bench import POOL, MemoryAudit, make_inputs
from support.certs import AT, DOMAIN, authority, peer, root
from support.digests import NOW, PASSWORD, user

from auth.credentials import Credentials
from auth.verifier import Authenticated, AuthReason, Unauthenticated
from gateway.config.limits import Limits
from gateway.control.process_inputs import ProcessInputs
from gateway.core.context import Generation, ProcessContext
from gateway.core.peer import SeenPath
from gateway.dataplane.generation import (
    Refusals,
    _verify,
    build_generation,
    http1_limits,
    make_digest_state,
    read_config,
    server_names,
)
from gateway.pools.hosted import HostedPool
from gateway.pools.relay import RelayPool
from gateway.state.snapshot import StateSnapshot
from pki.errors import CertificateInvalid
from pki.issue import certificate_pem
from pki.names import Role
from pki.trust import TrustStore
from pki.verify import PeerVerifier
from rhttp.digest.formula import DigestClient
from rhttp.http1.limits import Http1Limits
from rhttp.tls.handshake import PresentedPath

MASTER = '[masters.jobs]\nurls = ["http://127.0.0.1:1"]\n'


class Maker:
    """Builds generations one after the other, as reloads do."""

    def __init__(self) -> None:
        self.process = ProcessContext(asyncio.new_event_loop(), MemoryAudit([]))  # type: ignore[arg-type]
        self.previous: Generation | None = None
        first = make_inputs()
        self.digest_state = make_digest_state(read_config(first), first)

    def build(self, config: str = POOL, **changes: Any) -> Generation:
        inputs = make_inputs(config, **changes)
        self.previous = build_generation(self.process, read_config(inputs), inputs, self.digest_state, self.previous)
        return self.previous

    def refused(self, inputs: ProcessInputs) -> list[tuple[str, str]]:
        with pytest.raises(Refusals) as caught:
            build_generation(self.process, read_config(inputs), inputs, self.digest_state, self.previous)
        return caught.value.problems


@pytest.fixture
def maker() -> Any:
    made = Maker()
    yield made
    made.process.loop.close()


def test_generation_holds_what_the_configuration_says(maker: Maker) -> None:
    """Numbers from 1, the names of the server certificate and of the configuration, our pseudonym."""
    made = maker.build(POOL, limits="head_bytes = 4096")
    assert made.number == 1
    assert made.limits.head_bytes == 4096
    assert made.authorities.covers(b"localhost:8443")
    assert made.authorities.covers(b"127.0.0.1")
    assert made.authorities.covers(b"[::1]")
    assert made.authorities.covers(b"evil.example") is False
    assert made.via_received == b"1.1 " + made.via
    assert made.via == made.via.lower()
    assert maker.build().number == 2


def test_generation_keeps_pools_and_masters_that_stay(maker: Maker) -> None:
    """Slots, queue and connections are in them; what changed is new, what is gone is gone."""
    tables = MASTER + '[masters.more]\nurls = ["http://127.0.0.1:2"]\n' + POOL + '[pools.other]\nmode = "hosted"\n'
    first = maker.build(tables)
    second = maker.build(tables.replace("queue = 3", "queue = 4").replace("127.0.0.1:2", "127.0.0.1:3"))
    assert second.pools["render"] is first.pools["render"]
    assert second.masters["jobs"] is first.masters["jobs"]
    assert second.masters["more"] is not first.masters["more"]
    third = maker.build(MASTER + '[pools.render]\nmode = "relay"\nmaster = "jobs"\n')
    assert isinstance(second.pools["render"], HostedPool)
    assert isinstance(third.pools["render"], RelayPool)
    assert set(third.pools) == {"render"}


def test_generation_build_changes_nothing_that_runs(maker: Maker) -> None:
    """Until it is committed, a pool that stays has its old settings."""
    first = maker.build()
    pool = first.pools["render"]
    maker.build(POOL.replace("queue = 3", "queue = 4"))
    assert pool.config.queue == 3


def test_generation_accepts_the_nonces_of_the_one_before_and_knows_what_was_spent(maker: Maker) -> None:
    """A reload asks nobody for a password again, and lets nobody replay a request."""
    first, second = maker.build(), maker.build()
    credentials = Credentials([user(realm=first.config.digest.realm)])
    client = DigestClient("alice", PASSWORD, entropy=lambda size: b"e" * size)
    binding = b"b" * 32
    given = first.verifier.challenge(listener=b"tls", binding=binding, now=NOW, entropy=b"e" * 12, stale=False)
    assert client.challenged([given])

    def check(generation: Generation, value: bytes) -> object:
        return generation.verifier.check(
            [value],
            method=b"GET",
            uri=b"/x",
            listener=b"tls",
            binding=binding,
            expected_user="alice",
            credentials=credentials,
            now=NOW + 1,
        )

    values = [client.authorize(b"GET", b"/x") for _ in range(2)]
    assert values[0] is not None
    assert values[1] is not None
    assert isinstance(check(first, values[0]), Authenticated)
    assert isinstance(check(second, values[1]), Authenticated)
    replayed = check(second, values[0])
    assert isinstance(replayed, Unauthenticated)
    assert replayed.reason is AuthReason.REPLAYED_NC


def test_generation_tells_all_that_is_wrong_at_once(maker: Maker) -> None:
    """Policy, certificates of authorities, our own certificate: one list, nothing taken up."""
    good = make_inputs()
    bad = dataclasses.replace(
        good, policy_text="permit (", trust={**good.trust, "client": b"no PEM"}, server_cert=b"no PEM"
    )
    assert {path for path, _ in maker.refused(bad)} == {"policy", "certs"}
    bad = dataclasses.replace(good, policy_text="permit (", server_key=b"no PEM")
    assert {path for path, _ in maker.refused(bad)} == {"policy", "certs/server.pem"}
    assert maker.previous is None


@pytest.mark.parametrize("missing", ["root", "client", "worker", "master", "server"])
def test_generation_without_one_of_its_authorities_is_refused(maker: Maker, missing: str) -> None:
    """No role can be told without its certificate."""
    good = make_inputs()
    trust = {name: pem for name, pem in good.trust.items() if name != missing}
    assert [path for path, _ in maker.refused(dataclasses.replace(good, trust=trust))] == ["certs"]


def test_generation_refusals_never_quote_a_key(maker: Maker) -> None:
    """Problems are shown to the operator and logged."""
    good = make_inputs()
    other = make_inputs(server_key=good.server_key.replace(b"A", b"B"))
    text = repr(maker.refused(other))
    for line in good.server_key.splitlines()[1:-1]:
        assert line.decode() not in text


def test_configuration_that_is_invalid_is_refused_with_its_key_paths() -> None:
    """As `--check` tells it."""
    with pytest.raises(Refusals) as caught:
        read_config(make_inputs('[pools.render]\nmode = "loose"\n[nonsense]\n'))
    paths = {path for path, _ in caught.value.problems}
    assert {"pools.render.mode", "nonsense"} <= paths


def test_limits_of_the_configuration_reach_the_ends() -> None:
    """Every limit of the HTTP/1.1 ends has its key, none is forgotten."""
    names = [field.name for field in dataclasses.fields(Http1Limits)]
    changed = Limits(**{name: type(getattr(Limits(), name))(number + 500) for number, name in enumerate(names)})
    made = http1_limits(changed)
    assert {name: getattr(made, name) for name in names} == {name: getattr(changed, name) for name in names}
    assert made != Http1Limits()


def test_limits_have_the_same_defaults_on_both_sides() -> None:
    """An end that is made without limits behaves as the documentation of the gateway says."""
    assert http1_limits(Limits()) == Http1Limits()


@pytest.mark.parametrize(
    ("dispatch", "host", "covered"),
    [("unix:run/dispatch.sock", b"x", None), ("127.0.0.1:0", b"evil", False), ("127.0.0.1:0", b"localhost:1", True)],
)
def test_dispatch_listener_answers_for_its_address_only(
    maker: Maker, dispatch: str, host: bytes, covered: bool | None
) -> None:
    """On TCP, where web pages could reach it; a unix socket has no names."""
    inputs = make_inputs(overrides={"dispatch": dispatch})
    made = build_generation(maker.process, read_config(inputs), inputs, maker.digest_state, None)
    names = made.dispatch_authorities
    assert (None if names is None else names.covers(host)) == covered


def test_server_names_are_those_of_the_leaf() -> None:
    """DNS names and addresses, of the first certificate of the chain."""
    assert set(server_names(make_inputs().server_cert)) == {"localhost", "127.0.0.1", "::1"}
    assert server_names(certificate_pem(root().certificate)) == []


@pytest.mark.parametrize("forward", [True, False])
def test_verify_answers_the_proof_and_the_certificate_when_it_is_forwarded(
    maker: Maker, forward: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And looks at the revocations of the present snapshot, whichever that is."""
    process = maker.process
    monkeypatch.setattr(ProcessContext, "now", staticmethod(lambda: AT + timedelta(minutes=1)))
    store = TrustStore.from_pem(
        certificate_pem(root().certificate),
        {role: [certificate_pem(authority(role).certificate)] for role in Role},
        trust_domain=DOMAIN,
    )
    verify = _verify(process, PeerVerifier(store), forward=forward)
    leaf = peer(Role.CLIENT, "alice")
    above = (authority(Role.CLIENT).certificate, root().certificate)
    path = PresentedPath([crypto.X509.from_cryptography(certificate)._x509 for certificate in (leaf, *above)])
    seen = verify(path)
    assert isinstance(seen, SeenPath)
    again = verify(path)
    assert isinstance(again, SeenPath)
    assert again.peer is seen.peer
    assert (seen.peer.role, seen.peer.name) == (Role.CLIENT, "alice")
    assert (seen.der is not None) is forward
    if seen.der is not None:
        assert x509.load_der_x509_certificate(seen.der) == leaf
    process.snapshot = StateSnapshot(version=2, users={}, revoked=frozenset({seen.peer.serial_hex}), labels={})
    with pytest.raises(CertificateInvalid) as caught:
        verify(path)
    assert caught.value.reason == "revoked"
