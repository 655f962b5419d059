"""Admission as a truth table: state of the certificate, times what `Authorization` says, times what policy says."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Iterator
from typing import Any

import pytest
from support.bench import Answer, Bench, Requester, client_peer
from support.digests import PASSWORD, user

from auth.cedar import PolicyEngine
from auth.credentials import Credentials
from gateway.admission.checks import Refusal, admit_connection
from gateway.admission.request_record import Admitted, Question
from gateway.state.snapshot import StateSnapshot
from rhttp.digest.formula import DigestClient

CONFIG = """
[masters.jobs]
urls = ["http://127.0.0.1:1"]
[[routes]]
path = "/jobs/*"
master = "jobs"
[pools.render]
mode = "hosted"
"""
OPEN = '@id("open") permit (principal, action, resource);'
POLICIES = {
    "allow": OPEN,
    "digest": '@id("known") permit (principal, action, resource) when { context has digest };',
    "deny": OPEN + '\n@id("closed") forbid (principal, action, resource);',
    "silent": '@id("other") permit (principal == Client::"nobody", action, resource);',
    "broken": OPEN + '\n@id("bad") forbid (principal, action, resource) when { 9223372036854775807 + 1 > 0 };',
}


class Admissions:
    """A requester `alice` in front of one policy, and every kind of credentials."""

    def __init__(self, loop: asyncio.AbstractEventLoop, policy: str, **peer: Any) -> None:
        self.bench = Bench(CONFIG, policy=POLICIES[policy], loop=loop)
        process = self.bench.process
        self.realm = process.generation.config.digest.realm
        process.credentials = Credentials(
            [user(name, realm=self.realm, enabled=name != "off") for name in ("alice", "bob", "off")]
        )
        self.asked = 0
        engine = process.generation.engine
        decider = engine.decider

        class Spy:
            def decider(_, *question: Any) -> Any:  # noqa: N805 - the outer one is self
                self.asked += 1
                return decider(*question)

        process.generation.engine = Spy()
        self.peer = client_peer(**peer)
        self.requester: Requester = self.bench.requester(self.peer)
        self._numbers = 0

    def _entropy(self, size: int) -> bytes:
        self._numbers += 1
        return self._numbers.to_bytes(size, "big")

    def challenge(self, *, binding: bytes | None = None, listener: bytes = b"tls", age: float = 0.0) -> bytes:
        process = self.bench.process
        return process.generation.verifier.challenge(
            listener=listener,
            binding=self.peer.fingerprint if binding is None else binding,
            now=process.elapsed - age,
            entropy=self._entropy(12),
            stale=False,
        )

    def digest(self, target: str, name: str = "alice", password: str = PASSWORD, **challenge: Any) -> str:
        client = DigestClient(name, password, entropy=self._entropy)
        assert client.challenged([self.challenge(**challenge)])
        value = client.authorize(b"GET", target.encode())
        assert value is not None
        return value.decode()

    def lines(self, kind: str, target: str) -> list[str]:
        """The `Authorization` lines of one kind."""
        good = self.digest(target)
        values = {
            "absent": [],
            "valid": [good],
            "password": [self.digest(target, password="wrong")],
            "unknown": [self.digest(target, name="carol")],
            "disabled": [self.digest(target, name="off")],
            "another": [self.digest(target, name="bob")],
            "uri": [self.digest("/other")],
            "foreign": [self.digest(target, binding=b"z" * 32)],
            "listener": [self.digest(target, listener=b"dispatch")],
            "old": [self.digest(target, age=301.0)],
            "basic": ["Basic YWxpY2U6eA=="],
            "bearer": ["Bearer x"],
            "empty": [""],
            "garbage": ["Digest"],
            "twice": [good, good],
            "beside": [good, "Basic YWxpY2U6eA=="],
        }[kind]
        return [f"Authorization: {value}" for value in values]

    def ask(self, target: str, *lines: str) -> Answer:
        answer = self.requester.ask(target, "GET", *lines)
        assert answer is not None
        return answer

    def reason(self) -> tuple[str, str]:
        """The event and reason of the last audit line."""
        line = self.bench.audit.lines[-1]
        return line["event"], line.get("reason", "")


@pytest.fixture
async def make() -> Iterator[Any]:  # type: ignore[misc]  # an async fixture, so that a loop runs
    made: list[Admissions] = []
    loop = asyncio.get_running_loop()

    def build(policy: str, **peer: Any) -> Admissions:
        made.append(Admissions(loop, policy, **peer))
        return made[-1]

    yield build
    for session in made:
        session.bench.close()


WRONG = {
    "password": "bad_response",
    "unknown": "user_mismatch",
    "disabled": "user_mismatch",
    "another": "user_mismatch",
    "uri": "uri",
    "foreign": "nonce_forged",
    "listener": "nonce_forged",
    "old": "nonce_stale",
    "basic": "scheme",
    "bearer": "scheme",
    "empty": None,
    "garbage": None,
    "twice": "malformed",
    "beside": "malformed",
}
GOOD_OR_NONE = {
    ("allow", "absent"): 200,
    ("allow", "valid"): 200,
    ("digest", "absent"): 401,
    ("digest", "valid"): 200,
    ("deny", "absent"): 401,
    ("deny", "valid"): 403,
    ("silent", "absent"): 401,
    ("silent", "valid"): 403,
    ("broken", "absent"): 401,
    ("broken", "valid"): 403,
}


@pytest.mark.parametrize(("policy", "authorization"), GOOD_OR_NONE)
def test_admission_asks_policy_and_challenges_or_refuses(make: Any, policy: str, authorization: str) -> None:
    """Absent: Allow proceeds, otherwise 401. Valid: Allow proceeds, otherwise 403. One that errs allows nothing."""
    session = make(policy)
    answer = session.ask("/-/pools", *session.lines(authorization, "/-/pools"))
    assert answer.status == GOOD_OR_NONE[policy, authorization]
    assert session.asked > 0
    assert ("www-authenticate" in answer.fields) == (answer.status == 401)
    if answer.status == 401:
        assert session.reason() == ("auth.refused", "absent")
    elif answer.status == 403:
        assert session.reason()[0] == "policy.denied"
    assert not session.requester.link.eof


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("authorization", WRONG)
@pytest.mark.parametrize("target", ["/-/pools", "/jobs/1", "/nowhere", "/-/pools/nope"])
def test_admission_answers_wrong_credentials_with_401_and_asks_nobody(
    make: Any, policy: str, authorization: str, target: str
) -> None:
    """Present but wrong, in any way and any scheme: always 401, and policy is not asked, so nothing can be probed."""
    session = make(policy)
    answer = session.ask(target, *session.lines(authorization, target))
    assert (answer.status, answer.problem) == (401, "unauthenticated")
    assert answer.fields["www-authenticate"].startswith("Digest ")
    assert session.asked == 0
    event, reason = session.reason()
    assert event == "auth.refused"
    assert reason == (WRONG[authorization] or reason)
    assert reason.encode() not in answer.content


@pytest.mark.parametrize(
    ("users", "reason"),
    [([], "unknown_user"), ([("alice", False)], "user_disabled"), ([("bob", True)], "unknown_user")],
)
def test_admission_refuses_users_that_are_gone_or_disabled(make: Any, users: list[Any], reason: str) -> None:
    """At the next request of a live connection, whatever nonce it holds."""
    session = make("allow")
    lines = session.lines("valid", "/-/pools")
    session.bench.process.credentials = Credentials(
        [user(name, realm=session.realm, enabled=enabled) for name, enabled in users]
    )
    assert session.ask("/-/pools", *lines).status == 401
    assert session.reason() == ("auth.refused", reason)


def test_admission_says_the_same_to_all_who_are_not_authenticated(make: Any) -> None:
    """An unknown user, a wrong password and another's certificate look alike to the peer."""
    session = make("allow")
    seen = set()
    for kind in ("password", "unknown", "disabled", "another", "basic"):
        answer = session.ask("/-/pools", *session.lines(kind, "/-/pools"))
        shape = dict(answer.fields)
        for varying in ("rhttp-request-id", "www-authenticate"):
            shape.pop(varying)
        assert "stale=true" not in answer.fields["www-authenticate"]
        seen.add((answer.line, tuple(shape.items()), len(answer.content)))
    assert len(seen) == 1


@pytest.mark.parametrize("kind", ["old", "foreign"])
def test_admission_calls_a_nonce_stale_when_a_new_one_would_do(make: Any, kind: str) -> None:
    """RFC 7616 section 3.3: the client goes on without asking its user."""
    session = make("allow")
    assert "stale=true" in session.ask("/-/pools", *session.lines(kind, "/-/pools")).fields["www-authenticate"]


def test_admission_spends_a_counter_once(make: Any) -> None:
    """A replayed request is 401, whatever else is right."""
    session = make("allow")
    lines = session.lines("valid", "/-/pools")
    assert session.ask("/-/pools", *lines).status == 200
    answer = session.ask("/-/pools", *lines)
    assert answer.status == 401
    assert session.reason() == ("auth.refused", "replayed_nc")


@pytest.mark.parametrize("policy", ["allow", "deny"])
@pytest.mark.parametrize("authorization", ["absent", "valid", "password", "basic"])
@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [("revoked", 403, "revoked"), ("expired", 403, "expired"), ("stale", 503, "state_stale")],
)
def test_admission_looks_at_the_certificate_first(
    make: Any, policy: str, authorization: str, state: str, status: int, reason: str
) -> None:
    """A certificate that ended, or of which we know too little, is refused before anything else; the first closes."""
    session = make(policy, expires=1000.0) if state == "expired" else make(policy)
    process = session.bench.process
    if state == "revoked":
        process.snapshot = StateSnapshot(version=1, users={}, revoked=frozenset({session.peer.serial}), labels={})
    elif state == "stale":
        process.state_at = process.elapsed - process.generation.config.limits.state_stale - 1
    answer = session.ask("/-/pools", *session.lines(authorization, "/-/pools"))
    assert answer.status == status
    assert session.reason() == ("auth.refused", reason)
    assert session.asked == 0
    assert "www-authenticate" not in answer.fields
    assert session.requester.link.eof == (status == 403)


@pytest.mark.parametrize("target", ["/nowhere", "/-/pools/nope", "/-/pools/nope/events"])
@pytest.mark.parametrize(
    ("policy", "authorization", "status"),
    [("allow", "absent", 404), ("allow", "valid", 404), ("digest", "absent", 401), ("deny", "valid", 403)],
)
def test_admission_tells_of_what_is_not_there_only_to_the_allowed(
    make: Any, target: str, policy: str, authorization: str, status: int
) -> None:
    """Policy decides first, undecided is no; then 404."""
    session = make(policy)
    assert session.ask(target, *session.lines(authorization, target)).status == status


@pytest.mark.parametrize("target", ["/-/", "/-", "/-/nope", "/-/pools/render/nope", "/-/reverse/"])
def test_admission_never_routes_what_is_reserved(make: Any, target: str) -> None:
    """Unlisted paths under `/-/` are 404 for everybody."""
    assert make("allow").ask(target).status == 404


@pytest.mark.parametrize("policy", POLICIES)
def test_health_needs_a_certificate_and_nothing_else(make: Any, policy: str) -> None:
    """Load balancers have no password; wrong credentials are wrong here, too."""
    session = make(policy)
    assert session.ask("/-/health").status == 200
    assert session.asked == 0
    assert session.ask("/-/health", *session.lines("password", "/-/health")).status == 401


QUESTION: Question = ("inspect", "Pool", "render")


def admit(admissions: Any) -> Admitted | Refusal:
    return admit_connection(
        admissions.bench.process,
        admissions.peer,
        QUESTION,
        listener="tls",
        protocol="h2-reverse",
        tls_version="TLSv1.3",
    )


@pytest.mark.parametrize(("policy", "status"), [("allow", None), ("digest", 403), ("deny", 403), ("silent", 403)])
def test_connection_without_a_request_is_admitted_by_certificate_and_policy(
    make: Any, policy: str, status: int | None
) -> None:
    """It has no credentials to give, so a policy that wants them refuses for good; undecided is no."""
    outcome = admit(make(policy))
    if status is None:
        assert isinstance(outcome, Admitted)
        outcome.require(QUESTION)
    else:
        assert isinstance(outcome, Refusal)
        assert (outcome.status, outcome.event) == (status, "policy.denied")


@pytest.mark.parametrize(
    ("state", "status", "reason"),
    [("revoked", 403, "revoked"), ("expired", 403, "expired"), ("stale", 503, "state_stale")],
)
def test_connection_without_a_request_needs_a_certificate_that_holds(
    make: Any, state: str, status: int, reason: str
) -> None:
    """The same order as for a request: policy is not asked about who may not be here."""
    admissions = make("allow", expires=1000.0) if state == "expired" else make("allow")
    process = admissions.bench.process
    if state == "revoked":
        serials = frozenset({admissions.peer.serial})
        process.snapshot = StateSnapshot(version=1, users={}, revoked=serials, labels={})
    elif state == "stale":
        process.state_at = process.elapsed - process.generation.config.limits.state_stale - 1
    outcome = admit(admissions)
    assert isinstance(outcome, Refusal)
    assert (outcome.status, outcome.reason) == (status, reason)
    assert admissions.asked == 0


def test_dispatch_listener_asks_for_no_credentials(make: Any) -> None:
    """Whoever may open it is `Master::"local"`; policy still decides, and its no is final."""
    for policy, status in (("allow", 200), ("deny", 403), ("silent", 403)):
        session = make(policy)
        answer = session.bench.requester().ask("/-/pools")
        assert answer is not None
        assert answer.status == status
        assert "www-authenticate" not in answer.fields


def test_admission_remembers_nothing_across_a_reload(make: Any) -> None:
    """What a connection keeps of its last question is of the engine that answered it."""
    session = make("allow")
    assert session.ask("/-/pools").status == 200
    process = session.bench.process
    process.generation = dataclasses.replace(
        process.generation, engine=PolicyEngine.load(POLICIES["deny"], groups={}), number=2
    )
    assert session.ask("/-/pools").status == 401
    assert session.ask("/-/pools", *session.lines("valid", "/-/pools")).status == 403


def test_admission_shows_the_deciding_policies_in_the_log(make: Any) -> None:
    """By their ids; the peer learns none of it."""
    session = make("deny")
    answer = session.ask("/-/pools", *session.lines("valid", "/-/pools"))
    assert session.bench.audit.lines[-1]["policy"] == ("closed",)
    assert b"closed" not in answer.content
    session = make("allow")
    session.ask("/-/pools", *session.lines("valid", "/-/pools"))
    assert tuple(session.bench.audit.lines[-1]["policy"]) == ("open",)


def test_admission_counts_what_it_refuses(make: Any) -> None:
    """For status and metrics."""
    session = make("deny")
    session.ask("/-/pools")
    session.ask("/-/pools", *session.lines("valid", "/-/pools"))
    counters = session.bench.process.counters
    assert (counters.refused, counters.unauthenticated, counters.policy_denied) == (2, 1, 1)
