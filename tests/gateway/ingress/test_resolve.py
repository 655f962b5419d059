"""What a request is about: the same whether it was known already or not, and what is for the moment is asked anew."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import (
    POOL,
    Answer,
    Bench,
    Requester,
    Worker,
    client_peer,
    issuer_of,
    make_inputs,
    master_peer,
    worker_peer,
)
from support.digests import PASSWORD, user
from support.policies import OPEN
from support.slots import attributes

from auth.credentials import Credentials
from auth.principal import Principal
from gateway.admission.checks import Refusal
from gateway.core.context import Generation
from gateway.core.peer import CertifiedPeer, LocalPeer, Peer
from gateway.dataplane.generation import build_generation, read_config
from gateway.ingress.connection import Connection
from gateway.ingress.field_section import FieldSection, Wishes
from gateway.ingress.outcomes import Dispatch, Forward, Gather, Later
from gateway.ingress.resolve import Resolved, Resolver, resolve
from gateway.state.snapshot import StateSnapshot
from rhttp.digest.formula import DigestClient
from rhttp.http1.head import parse_request_head
from rhttp.http1.head_cache import read_request_head
from rhttp.message import FieldBlock

ANY = "/-/pools/render/any/job?x=1"
NOON = 1_800_000_000.0 // 60 * 60
LINE = "X-Kind: same"
ONE = 'context.path == "/-/pools/render/any/one"'
ROUTE = '[[routes]]\npath = "/jobs/*"\nmaster = "jobs"\n[masters.jobs]\nurls = ["http://127.0.0.1:1"]\n'


class Pair:
    """A master that asks for the same thing again and again, and the worker that serves it."""

    def __init__(self, policy: str = OPEN, **peer: Any) -> None:
        self.bench = Bench(policy=policy)
        self.process = self.bench.process
        self.process.epoch = NOON
        values: dict[str, Any] = {"serial": "0a", "fingerprint": b"m" * 32, "expires": 1e12, "source": "192.0.2.1"}
        values["issuer"] = issuer_of("master")
        self.asker: Requester = self.bench.requester(
            CertifiedPeer(principal=Principal(kind="Master", name="m1"), **(values | peer))
        )
        self.worker: Worker = self.bench.worker()
        self.taken = b""

    def ask(self, *lines: str, target: str = ANY) -> Answer:
        """One request, served when it comes to the worker."""
        answer = self.asker.ask(target, "GET", LINE, *lines)
        if answer is None:
            self.taken = self.worker.taken()
            self.worker.reply()
            answer = self.asker.answer()
        assert answer is not None
        return answer

    def reason(self) -> object:
        """Why the last request was refused."""
        return self.bench.audit.lines[-1]["reason"]


@pytest.fixture
async def pair() -> AsyncIterator[Pair]:
    made = Pair()
    assert made.ask().status == 200
    yield made
    made.bench.close()


@pytest.fixture
async def closing() -> AsyncIterator[list[Pair]]:
    pairs: list[Pair] = []
    yield pairs
    for made in pairs:
        made.bench.close()


def without(data: bytes, name: bytes) -> bytes:
    return b"\r\n".join(line for line in data.split(b"\r\n") if not line.lower().startswith(name))


async def test_repeated_request_is_the_same_to_worker_requester_and_log(pair: Pair) -> None:
    """Only its id and its duration are its own."""
    first, lines = pair.taken, pair.bench.audit.lines[-2:]
    assert pair.ask().status == 200
    assert without(pair.taken, b"rhttp-request-id") == without(first, b"rhttp-request-id")
    assert pair.taken != first
    own = {"request_id": 0, "ms": 0}
    assert [line | own for line in pair.bench.audit.lines[-2:]] == [line | own for line in lines]
    ids = [line["request_id"] for line in (*lines, *pair.bench.audit.lines[-2:])]
    assert (ids[0] == ids[1], ids[2] == ids[3], ids[0] == ids[2]) == (True, True, False)


async def test_certificate_that_was_revoked_meanwhile_is_refused(pair: Pair) -> None:
    """The certificate is looked at every time."""
    pair.process.snapshot = StateSnapshot(version=2, users={}, revoked=frozenset({"0a"}), labels={})
    assert pair.ask().status == 403
    assert pair.reason() == "revoked"


async def test_certificate_that_ran_out_meanwhile_is_refused(closing: list[Pair]) -> None:
    """So is the time."""
    pair = Pair(expires=NOON + 5)
    closing.append(pair)
    assert pair.ask().status == 200
    pair.process.epoch = NOON + 6
    assert pair.ask().status == 403
    assert pair.reason() == "expired"


async def test_state_that_went_stale_meanwhile_refuses(pair: Pair) -> None:
    """Who cannot hear of revocations admits nobody."""
    pair.process.elapsed += 11
    assert pair.ask().status == 503
    assert pair.reason() == "state_stale"


async def test_new_policy_is_asked_about_the_next_request(pair: Pair) -> None:
    """A reload reaches connections that are open."""
    inputs = make_inputs(POOL, policy=OPEN + '@id("no") forbid (principal, action, resource);')
    process = pair.process
    process.generation = build_generation(
        process, read_config(inputs), inputs, pair.bench.digest_state, process.generation
    )
    assert pair.ask().status == 401  # denied without credentials: a challenge, not a final word
    assert pair.reason() == "absent"


async def test_policy_that_reads_the_time_is_asked_again_in_the_next_minute(closing: list[Pair]) -> None:
    """And not before: it sees the time to the minute."""
    when = f'when {{ context has now && context.now >= datetime("{stamp(NOON + 60)}") }}'
    late = f'@id("late") forbid (principal, action, resource) {when};'
    pair = Pair(OPEN + late)
    closing.append(pair)
    for seconds, status in ((0, 200), (59, 200), (60, 401), (61, 401)):
        pair.process.epoch = NOON + seconds
        assert pair.ask().status == status


async def test_request_with_another_head_is_read_anew(pair: Pair) -> None:
    """One more field line makes it another request."""
    assert pair.ask("X-More: yes").status == 200
    assert b"\r\nx-more: yes\r\n" in pair.taken.lower()
    assert pair.ask().status == 200
    assert b"x-more" not in pair.taken.lower()


async def test_drain_refuses_the_repeated_request(pair: Pair) -> None:
    """Nothing new goes to workers."""
    pair.process.draining = True
    assert pair.ask().problem == "draining"


def reload(pair: Pair, policy: str) -> None:
    """Put a generation with this policy in force, and ask whoever waits again."""
    inputs = make_inputs(POOL, policy=policy)
    process = pair.process
    process.generation = build_generation(
        process, read_config(inputs), inputs, pair.bench.digest_state, process.generation
    )
    for live in process.registry:
        if isinstance(live, Connection):
            live.ask_again()


@pytest.mark.parametrize(("target", "stays"), [("/-/pools/render/any/one", False), ("/-/pools/render/any/two", True)])
async def test_repeated_request_that_waits_is_asked_again_by_a_reload(pair: Pair, target: str, *, stays: bool) -> None:
    """By the new policies, which may look at what the old ones did not: at its own path, for one."""
    for known in ("/-/pools/render/any/one", "/-/pools/render/any/two", target):
        assert pair.asker.ask(known, "GET", "Prefer: wait=9") is None
        pair.worker.reply()
        assert pair.asker.answer() is not None
    other = pair.bench.requester()
    assert other.ask(ANY) is None  # it has the only worker
    assert pair.asker.ask(target, "GET", "Prefer: wait=9") is None
    reload(pair, OPEN + f'@id("no") forbid (principal, action, resource) when {{ context has path && {ONE} }};')
    answer = pair.asker.answer()
    assert (answer is None) is stays
    assert answer is None or (answer.status, pair.reason()) == (401, "absent")


async def test_request_for_another_path_is_asked_about_when_policies_look_at_paths(closing: list[Pair]) -> None:
    """A decision is reused where policy can see no difference, and nowhere else."""
    pair = Pair(OPEN + f'@id("no") forbid (principal, action, resource) when {{ context has path && {ONE} }};')
    closing.append(pair)
    for target, status in (("two", 200), ("three", 200), ("one", 401), ("two", 200), ("one", 401)):
        assert pair.ask(target=f"/-/pools/render/any/{target}").status == status


async def test_request_for_another_path_has_its_own_path_everywhere(pair: Pair) -> None:
    """What went to the worker before is not sent again, and the log tells the path that was asked for."""
    for number in (1, 2, 1):
        target = f"/-/pools/render/any/job/{number}"
        assert pair.ask(target=f"{target}?q={number}").status == 200
        assert pair.taken.startswith(b"GET /job/%d?q=%d HTTP/1.1\r\n" % (number, number))
        assert [line["target"] for line in pair.bench.audit.lines[-2:]] == [target, target]


TARGETS = [
    "/jobs/a",
    "/jobs/b?x",
    "/jobs/../a",
    "/other",
    "/-/health",
    "/-/pools",
    "/-/pools/render",
    "/-/pools/render/any/x",
    "/-/pools/render/any/y",
    "/-/pools/render/workers/w1/x",
    "/-/pools/none/any/x",
    "/-/reverse/render",
    "/-/nothing",
    "*",
    "http://localhost/jobs/a",
    "http://elsewhere/jobs/a",
]
LINES = [
    (),
    ("X-Kind: a",),
    ("Via: 1.1 x",),
    ("Prefer: wait=5", "Rhttp-Prefer-Label: a=b"),
    ("Origin: https://elsewhere",),
    ("Expect: 200-ok",),
    ("Upgrade: PTTH/1.0", "Connection: Upgrade"),
    ("Max-Forwards: 0",),
    ("Max-Forwards: 7",),
    ("Rhttp-Request-Id: abc",),
]


@pytest.fixture(scope="module")
def generations() -> Iterator[list[Generation]]:
    """Two that are alike, and one with another pool."""
    loop = asyncio.new_event_loop()
    bench = Bench(POOL + ROUTE, policy=OPEN, loop=loop)
    process = bench.process
    made = [process.generation]
    for config in (POOL + ROUTE, POOL + ROUTE + '[pools.none]\nmode = "hosted"\n'):
        inputs = make_inputs(config, policy=OPEN)
        made.append(build_generation(process, read_config(inputs), inputs, bench.digest_state, process.generation))
    yield made
    bench.close()
    loop.close()


asked = st.tuples(
    st.sampled_from(["GET", "POST", "OPTIONS"]), st.sampled_from(TARGETS), st.sampled_from(LINES), st.integers(0, 2)
)


@given(peer=st.sampled_from([client_peer(), worker_peer("w1"), master_peer(), LocalPeer(None)]), many=st.lists(asked))
def test_what_a_request_is_about_does_not_depend_on_those_before_it(
    generations: list[Generation], peer: Peer, many: list[tuple[str, str, tuple[str, ...], int]]
) -> None:
    """Whatever was asked on a connection before, and under which generation: the same as on a new one."""
    resolver = Resolver(peer)
    for method, target, lines, number in many:
        block = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: localhost", *lines, "", ""]).encode()
        generation = generations[number]
        head, _form = read_request_head(block, max_fields=100, max_line=8192)
        fresh = parse_request_head(block)
        assert facts(resolver.resolve(head, generation)) == facts(resolve(fresh, peer, generation))


def facts(value: object) -> object:
    """Everything that it says, as plain values; what is shared between heads is no fact, and a function has a name."""
    match value:
        case FieldBlock():
            return value.fields
        case Refusal():
            return replace(value, extra=()), [block.fields for block in value.extra]
        case Resolved() | Forward() | Dispatch() | FieldSection() | Wishes():
            names = [name for name in attributes(type(value)) if name not in ("memo", "_wishes")]
            return type(value), {name: facts(getattr(value, name)) for name in names}
        case Later():
            return Later, value.decide.__qualname__
        case _ if callable(value) and not isinstance(value, type):
            return value.__qualname__
        case Gather():
            return value.question
        case _:
            return value


@pytest.fixture
async def digested() -> AsyncIterator[tuple[Pair, DigestClient]]:
    """With Digest demanded by policy, and a first request that was served."""
    pair = Pair('@id("known") permit (principal, action, resource) when { context has digest };')
    enable(pair, enabled=True)
    client = DigestClient("m1", PASSWORD, entropy=os.urandom)
    challenged = pair.ask()
    assert challenged.status == 401
    assert client.challenged([challenged.fields["www-authenticate"].encode()])
    yield pair, client
    pair.bench.close()


def enable(pair: Pair, *, enabled: bool) -> None:
    realm = pair.process.generation.config.digest.realm
    pair.process.credentials = Credentials([user("m1", realm=realm, enabled=enabled)])


def line_of(client: DigestClient) -> str:
    value = client.authorize(b"GET", ANY.encode())
    assert value is not None
    return f"Authorization: {value.decode()}"


async def test_digest_is_checked_every_time(digested: tuple[Pair, DigestClient]) -> None:
    """A count is spent once, credentials that are missing are asked for, and a user that was disabled is nobody."""
    pair, client = digested
    first = line_of(client)
    assert [pair.ask(first).status, pair.ask(line_of(client)).status] == [200, 200]
    assert pair.ask(first).status == 401
    assert pair.reason() == "replayed_nc"
    assert pair.ask().status == 401
    assert pair.reason() == "absent"
    assert pair.ask(line_of(client)).status == 200
    enable(pair, enabled=False)
    assert pair.ask(line_of(client)).status == 401
    assert pair.reason() == "user_disabled"


def stamp(epoch: float) -> str:
    return datetime.fromtimestamp(epoch, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
