"""Peers that ask for their next certificate, or for the password of the one that a token gave; by a test issuer."""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from support.bench import POOL, Answer, Bench, client_peer, master_peer, worker_peer
from support.certs import requested
from support.policies import OPEN
from support.standinissuer import StandinIssuer

from auth.cedar import DEFAULT_POLICY
from gateway.core.peer import Peer

CONFIG = POOL + "\n[enroll]\nrenew = true\n"
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = base64.b64encode(requested(KEY, "w1"))


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(CONFIG, policy=OPEN)
    yield made
    made.close()


@pytest.fixture
def issuer(bench: Bench) -> StandinIssuer:
    made = StandinIssuer()
    bench.process.issue = made
    return made


async def asked(bench: Bench, who: Peer, target: str, method: str = "POST", content: bytes | None = CSR) -> Answer:
    requester = bench.requester(who)
    return requester.ask(target, method, content=content) or await requester.answered()


async def test_renewal_is_for_whoever_showed_the_certificate(bench: Bench, issuer: StandinIssuer) -> None:
    """The order names the serial of the certificate, and of the request the key alone."""
    answer = await asked(bench, worker_peer("w1"), "/.well-known/est/worker/simplereenroll")
    assert (answer.status, answer.fields["cache-control"]) == (200, "no-store")
    found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert {one.public_bytes(Encoding.DER) for one in found} == set(issuer.chain)
    (order,) = issuer.orders
    line = bench.audit.of("request")[-1]
    assert (order["kind"], order["serial"], order["listener"]) == ("renew", line["serial"], "tls")
    assert order["request_id"] == line["request_id"]
    assert "name" not in order
    assert line["outcome"] == "allowed"


@pytest.mark.parametrize(
    ("who", "role", "question"),
    [
        (worker_peer("w1"), "worker", "workers-renew"),
        (client_peer("w1"), "client", "clients-renew"),
        (master_peer("w1"), "master", "masters-renew"),
    ],
)
async def test_renewal_without_a_password_is_challenged(who: Peer, role: str, question: str) -> None:
    """The policy that init writes wants Digest for it, of every role."""
    bench = Bench(CONFIG, policy=DEFAULT_POLICY)
    try:
        bench.process.issue = issuer = StandinIssuer()
        answer = await asked(bench, who, f"/.well-known/est/{role}/simplereenroll")
        assert (answer.status, issuer.orders) == (401, [])
        assert question in DEFAULT_POLICY
    finally:
        bench.close()


async def test_renewal_in_another_role_is_refused(bench: Bench, issuer: StandinIssuer) -> None:
    """The role in the path is that of the certificate, or nothing."""
    answer = await asked(bench, worker_peer("w1"), "/.well-known/est/client/simplereenroll")
    assert (answer.status, issuer.orders) == (403, [])
    assert bench.audit.of("request")[-1]["reason"] == "wrong_role"


async def test_renewal_for_another_name_is_refused(bench: Bench, issuer: StandinIssuer) -> None:
    """Whoever asks for somebody else is told, not given its own."""
    answer = await asked(bench, worker_peer("w2"), "/.well-known/est/worker/simplereenroll")
    assert (answer.status, answer.problem, issuer.orders) == (400, "request-invalid", [])


async def test_renewal_of_what_ended_is_refused_by_the_issuer_too(bench: Bench, issuer: StandinIssuer) -> None:
    """The peer learns nothing but that it is refused."""
    issuer.result = {"refused": "revoked"}
    answer = await asked(bench, worker_peer("w1"), "/.well-known/est/worker/simplereenroll")
    assert answer.status == 403
    assert b"revoked" not in answer.content
    assert bench.audit.of("request")[-1]["reason"] == "revoked"


async def test_password_comes_with_the_certificate_alone(bench: Bench, issuer: StandinIssuer) -> None:
    """There is none yet that could be asked for; it is never in the log."""
    issuer.result = {"user": "w1", "password": "very-secret"}
    answer = await asked(bench, worker_peer("w1"), "/-/credentials", content=None)
    assert (answer.status, answer.content) == (200, b'{"user":"w1","password":"very-secret"}')
    assert answer.fields["cache-control"] == "no-store"
    assert issuer.orders[0]["kind"] == "credentials"
    assert "very-secret" not in repr(bench.audit.of("request"))


async def test_password_asked_for_with_content_is_refused(bench: Bench, issuer: StandinIssuer) -> None:
    """It would say nothing."""
    answer = await asked(bench, worker_peer("w1"), "/-/credentials", content=b"x")
    assert (answer.status, issuer.orders) == (400, [])


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/.well-known/est", "GET", 404),
        ("/.well-known/est/worker/simpleenroll", "POST", 404),
        ("/.well-known/est/server/cacerts", "GET", 404),
        ("/.well-known/est/server/simplereenroll", "POST", 404),
        ("/.well-known/est/worker/cacerts", "GET", 200),
        ("/.well-known/est/worker/csrattrs", "GET", 200),
        ("/.well-known/est/worker/cacerts", "POST", 405),
        ("/.well-known/est/worker/simplereenroll", "GET", 405),
        ("/-/credentials", "GET", 405),
    ],
)
async def test_paths_are_there_for_their_methods(
    bench: Bench, issuer: StandinIssuer, target: str, method: str, status: int
) -> None:
    """And no others; none is ever routed."""
    answer = await asked(bench, worker_peer("w1"), target, method, b"" if method == "POST" else None)
    assert answer.status == status
    assert issuer.orders == []


@pytest.mark.parametrize(
    ("target", "method"),
    [
        ("/.well-known/est/worker/cacerts", "GET"),
        ("/.well-known/est/worker/simplereenroll", "POST"),
        ("/-/credentials", "POST"),
    ],
)
async def test_without_the_table_none_of_them_is_there(target: str, method: str) -> None:
    """A gateway issues nothing unless it is told to."""
    bench = Bench(POOL, policy=OPEN)
    try:
        assert (await asked(bench, worker_peer("w1"), target, method, None)).status == 404
    finally:
        bench.close()
