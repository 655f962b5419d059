"""The enrolment listener: what a stranger gets with a token, and without; the issuer is the test's."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, pkcs7
from support.bench import POOL, Answer, Bench, BenchLink
from support.certs import requested
from support.standinissuer import StandinIssuer
from support.wire import Digest

from auth.cedar import DEFAULT_POLICY
from auth.credentials import TokenGrant, token_credentials
from gateway.enrolment.est import MAX_REQUEST
from gateway.ingress.enrolment_handler import EnrolmentHandler
from gateway.ingress.listener import Arrival
from rhttp.digest.formula import Algorithm, ha1

CONFIG = POOL + '\n[enroll]\nlisten = "127.0.0.1:0"\n'
ID, SECRET = "et_0123456789abcdef", "correct-horse"
EST = "/.well-known/est/worker/"
KEY = ec.generate_private_key(ec.SECP256R1())
CSR = base64.b64encode(requested(KEY, "w1"))


@dataclass(frozen=True)
class _Challenged:
    challenges: list[str]


class Applicant:
    """A stranger on a fake link."""

    def __init__(self, bench: Bench, realm: str) -> None:
        self.link = BenchLink("stranger", bench)
        bench.links.append(self.link)
        handler = EnrolmentHandler(bench.process, lambda: b"https://gateway.test:8443")
        self.end = handler.serve(self.link, Arrival("192.0.2.7", None, "TLSv1.3"))  # type: ignore[arg-type]
        self.digest = Digest(ID, SECRET)

    async def ask(self, target: str, method: str = "GET", *lines: str, content: bytes | None = None) -> Answer:
        """A request and its answer."""
        head = [f"{method} {target} HTTP/1.1", "Host: localhost", *lines]
        if content is not None:
            head.append(f"Content-Length: {len(content)}")
        self.link.take()
        self.end.data_received("\r\n".join([*head, "", ""]).encode("latin-1") + (content or b""))
        await self.link.until(lambda: bool(self.link.sent) or self.link.is_closing())
        return Answer(self.link.take())

    def challenged(self, answer: Answer) -> None:
        """Answer this challenge from now on."""
        self.digest.challenged(_Challenged([answer.fields["www-authenticate"]]))  # type: ignore[arg-type]

    async def enroll(self, target: str = EST + "simpleenroll", content: bytes = CSR, **replaced: Any) -> Answer:
        """A challenge, and the request once more with credentials."""
        first = await self.ask(target, "POST", content=content)
        assert first.status == 401
        self.challenged(first)
        return await self.ask(target, "POST", self.digest.line(target, "POST", **replaced), content=content)


@pytest.fixture
async def bench() -> AsyncIterator[Bench]:
    made = Bench(CONFIG, policy=DEFAULT_POLICY)
    realm = made.process.generation.config.digest.realm
    hashed = {"SHA-256": ha1(ID, realm, SECRET, Algorithm.SHA_256)}
    grant = TokenGrant(id=ID, ha1=hashed, role="worker", pool="render", labels={"gpu": "a100"})
    made.process.snapshot = replace(made.process.snapshot, tokens={ID: grant})
    made.process.token_credentials = token_credentials([grant])
    yield made
    made.close()


@pytest.fixture
def issuer(bench: Bench) -> StandinIssuer:
    made = StandinIssuer()
    bench.process.issue = made
    return made


@pytest.fixture
def applicant(bench: Bench) -> Applicant:
    return Applicant(bench, bench.process.generation.config.digest.realm)


async def test_enrolment_gives_the_path_that_the_issuer_made(
    bench: Bench, issuer: StandinIssuer, applicant: Applicant
) -> None:
    """The order holds the key and name of the request and who asks; the line says which token and policy."""
    answer = await applicant.enroll()
    assert answer.status == 200
    assert answer.fields["content-type"] == "application/pkcs7-mime; smime-type=certs-only"
    assert answer.fields["rhttp-gateway"] == "https://gateway.test:8443"
    found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert {one.public_bytes(Encoding.DER) for one in found} == set(issuer.chain)
    (order,) = issuer.orders
    line = bench.audit.of("request")[-1]
    assert order == {
        "kind": "enroll",
        "token": ID,
        "role": "worker",
        "name": "w1",
        "key": order["key"],
        "request_id": line["request_id"],
        "source": "192.0.2.7",
        "listener": "enroll",
    }
    assert (line["identity"], line["outcome"], line["policy"]) == (f"token/{ID}", "allowed", ("tokens-enroll",))
    assert line["detail"] == {"name": "w1", "serial": "0a"}


@pytest.mark.parametrize("role", ["client", "worker", "master"])
async def test_ca_certificates_need_no_credentials(applicant: Applicant, role: str) -> None:
    """Who enrols compares the root's fingerprint before it shows anything."""
    answer = await applicant.ask(f"/.well-known/est/{role}/cacerts")
    found = pkcs7.load_der_pkcs7_certificates(base64.b64decode(answer.content))
    assert answer.status == 200
    assert len(found) == 2
    assert sum(one.issuer == one.subject for one in found) == 1


async def test_attributes_are_told(applicant: Applicant) -> None:
    """RFC 7030 section 4.5."""
    answer = await applicant.ask(EST + "csrattrs")
    assert (answer.status, answer.fields["content-type"]) == (200, "application/csrattrs")


@pytest.mark.parametrize(
    ("replaced", "reason"),
    [
        ({"response": "0" * 64}, "bad_response"),
        ({"username": "et_ffffffffffffffff"}, "user_mismatch"),
        ({"username": "alice"}, "user_mismatch"),
        ({"realm": "elsewhere"}, "realm"),
    ],
)
async def test_wrong_secret_is_one_401(
    bench: Bench, issuer: StandinIssuer, applicant: Applicant, replaced: dict[str, str], reason: str
) -> None:
    """The peer never learns what was wrong; the log does, and nothing is ordered."""
    answer = await applicant.enroll(**replaced)
    assert (answer.status, answer.problem, issuer.orders) == (401, "unauthenticated", [])
    line = bench.audit.of("auth.refused")[-1]
    assert (line["reason"], line["listener"], line["status"]) == (reason, "enroll", 401)


async def test_nonce_of_the_enrolment_listener_is_spent_once(issuer: StandinIssuer, applicant: Applicant) -> None:
    """The very same credentials again are a replay."""
    assert (await applicant.enroll()).status == 200
    line = applicant.digest.line(EST + "simpleenroll", "POST", nc="00000001")
    answer = await applicant.ask(EST + "simpleenroll", "POST", line, content=CSR)
    assert answer.status == 401
    assert len(issuer.orders) == 1


async def test_token_of_another_role_is_refused(bench: Bench, issuer: StandinIssuer, applicant: Applicant) -> None:
    """Its secret is right, what it is asked for is not."""
    answer = await applicant.enroll("/.well-known/est/client/simpleenroll")
    assert (answer.status, issuer.orders) == (403, [])
    assert bench.audit.of("auth.refused")[-1]["reason"] == "wrong_role"


async def test_policy_that_does_not_permit_it_refuses(issuer: StandinIssuer) -> None:
    """A home whose policy is of an earlier release lets no token enrol."""
    bench = Bench(CONFIG, policy='@id("x") permit (principal is Worker, action, resource);')
    try:
        realm = bench.process.generation.config.digest.realm
        hashed = {"SHA-256": ha1(ID, realm, SECRET, Algorithm.SHA_256)}
        grant = TokenGrant(id=ID, ha1=hashed, role="worker", pool="render", labels={})
        bench.process.snapshot = replace(bench.process.snapshot, tokens={ID: grant})
        bench.process.token_credentials = token_credentials([grant])
        bench.process.issue = issuer
        answer = await Applicant(bench, realm).enroll()
        assert (answer.status, issuer.orders) == (403, [])
        assert bench.audit.of("policy.denied")[-1]["reason"] == "not_permitted"
    finally:
        bench.close()


@pytest.mark.parametrize(
    ("result", "status", "slug", "reason"),
    [
        ({"refused": "used_up"}, 403, "forbidden", "used_up"),
        ({"refused": "name_held"}, 403, "forbidden", "name_held"),
        ({"unavailable": "busy"}, 503, "issuer-unavailable", "issuer: busy"),
        ({}, 503, "issuer-unavailable", "issuer: an answer that is none"),
        ({"chain": ["*", "*"], "serial": "1", "name": "w1"}, 503, "issuer-unavailable", "issuer: a chain that is none"),
    ],
)
async def test_refusal_of_the_issuer_is_told_to_the_log_alone(
    bench: Bench,
    issuer: StandinIssuer,
    applicant: Applicant,
    result: dict[str, object],
    status: int,
    slug: str,
    reason: str,
) -> None:
    """The peer gets one answer for all of a kind."""
    issuer.result = result
    answer = await applicant.enroll()
    assert (answer.status, answer.problem) == (status, slug)
    assert reason.encode() not in answer.content
    line = bench.audit.of("request")[-1]
    assert (line["outcome"], line["reason"], line["status"]) == ("refused", reason, status)


async def test_without_an_issuer_nothing_is_issued(bench: Bench, applicant: Applicant) -> None:
    """It says so and when to come again."""
    answer = await applicant.enroll()
    assert (answer.status, answer.fields["retry-after"]) == (503, "5")
    assert bench.audit.of("request")[-1]["reason"] == "no_issuer"


async def test_content_that_is_no_request_is_explained(
    bench: Bench, issuer: StandinIssuer, applicant: Applicant
) -> None:
    """What is wrong with what it sent is no secret."""
    answer = await applicant.enroll(content=b"MIIB*")
    assert (answer.status, answer.problem, issuer.orders) == (400, "request-invalid", [])
    assert b"no base64" in answer.content
    assert bench.audit.of("request")[-1]["reason"] == "request_invalid"


@pytest.mark.parametrize(("size", "status"), [(MAX_REQUEST, 400), (MAX_REQUEST + 1, 413)])
async def test_content_is_bounded(issuer: StandinIssuer, applicant: Applicant, size: int, status: int) -> None:
    """To 16 KiB."""
    assert (await applicant.enroll(content=b"A" * size)).status == status


async def test_chunks_are_bounded_too(issuer: StandinIssuer, applicant: Applicant) -> None:
    """A length that nobody told is counted."""
    target = EST + "simpleenroll"
    applicant.challenged(await applicant.ask(target, "POST", content=b""))
    line = applicant.digest.line(target, "POST")
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n{line}\r\n\r\n"
    applicant.end.data_received(head.encode() + b"1000\r\n" + b"A" * 4096 + b"\r\n")
    assert not applicant.link.sent
    for _ in range(4):
        applicant.end.data_received(b"1000\r\n" + b"A" * 4096 + b"\r\n")
    assert Answer(applicant.link.take()).status == 413


async def test_applicant_that_leaves_has_its_line(bench: Bench, issuer: StandinIssuer, applicant: Applicant) -> None:
    """The order is carried out all the same, and the process counts nothing twice."""
    issuer.may_answer.clear()
    target = EST + "simpleenroll"
    applicant.challenged(await applicant.ask(target, "POST", content=CSR))
    line = applicant.digest.line(target, "POST")
    head = f"POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(CSR)}\r\n{line}\r\n\r\n"
    applicant.end.data_received(head.encode() + CSR)
    await asyncio.sleep(0)
    assert (len(issuer.orders), bench.process.exchanges) == (1, 1)
    applicant.link.reset()
    assert bench.audit.of("request")[-1]["outcome"] == "aborted"
    issuer.may_answer.set()
    while bench.process.exchanges:
        await asyncio.sleep(0)
    assert len(bench.audit.of("request")) == 1


@pytest.mark.parametrize(
    ("target", "method", "status"),
    [
        ("/", "GET", 404),
        ("/-/health", "GET", 404),
        ("/.well-known/est/cacerts", "GET", 404),
        ("/.well-known/est/server/cacerts", "GET", 404),
        (EST + "simplereenroll", "POST", 404),
        (EST + "serverkeygen", "POST", 404),
        (EST + "cacerts?x", "GET", 404),
        (EST + "%63acerts", "GET", 404),
        (EST + "cacerts", "POST", 405),
        (EST + "simpleenroll", "GET", 405),
        ("http://localhost" + EST + "cacerts", "GET", 400),
    ],
)
async def test_other_paths_and_methods_are_refused(
    bench: Bench, applicant: Applicant, target: str, method: str, status: int
) -> None:
    """Each with its line."""
    assert (await applicant.ask(target, method)).status == status
    assert bench.audit.of("request")[-1]["status"] == status


@pytest.mark.parametrize(
    ("lines", "status"), [(("Origin: https://page.test",), 403), (("Sec-Fetch-Site: same-origin",), 403)]
)
async def test_web_page_gets_nothing(applicant: Applicant, lines: tuple[str, ...], status: int) -> None:
    """Not even what is public."""
    assert (await applicant.ask(EST + "cacerts", "GET", *lines)).status == status


async def test_stale_state_admits_nobody(bench: Bench, applicant: Applicant) -> None:
    """A token that was revoked meanwhile might still be in it."""
    bench.process.state_at = bench.process.elapsed - 3600
    answer = await applicant.ask(EST + "simpleenroll", "POST", content=CSR)
    assert (answer.status, answer.problem) == (503, "state-stale")
