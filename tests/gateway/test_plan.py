"""A request that repeats the last one of its connection: what is remembered of it changes no answer."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Any

import pytest
from support.bench import POOL, Answer, Bench, Requester, Worker, issuer_of, make_inputs
from support.digests import PASSWORD, user
from support.policies import OPEN

from auth.credentials import Credentials
from auth.principal import Principal
from gateway.core.peer import CertifiedPeer
from gateway.dataplane.generation import build_generation, read_config
from gateway.state.snapshot import StateSnapshot
from rhttp.digest.formula import DigestClient

ANY = "/-/pools/render/any/job?x=1"
NOON = 1_800_000_000.0 // 60 * 60
LINE = "X-Kind: same"


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

    def ask(self, *lines: str) -> Answer:
        """One request, served when it comes to the worker."""
        answer = self.asker.ask(ANY, "GET", LINE, *lines)
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
    assert pair.asker.connection._plan is not None
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
    process.generation = build_generation(process, read_config(inputs), inputs, pair.bench.lasting, process.generation)
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
