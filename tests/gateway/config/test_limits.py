"""The limits beside each other: one default is never exceeded by another that it has to hold."""

from __future__ import annotations

import inspect

import pytest

import auth.nonces
import auth.sharedledger
from auth.nonces import NonceLedger
from auth.sharedledger import SharedLedger, create
from gateway.config.limits import Limits
from gateway.config.values import MAX_NONCES_PER_IDENTITY, DigestConfig
from gateway.state import watch
from gateway.supervisor.main import SPARE_DESCRIPTORS

LIMITS = Limits()
DIGEST = DigestConfig(realm="example")
FILES_OF_A_PROCESS = 20_000
"""What a service manager usually lets a process open."""


def default(function: object, name: str) -> int:
    """What an argument is when it is not given."""
    return int(inspect.signature(function).parameters[name].default)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("smaller", "bigger"),
    [
        pytest.param(LIMITS.request_line_bytes, LIMITS.head_bytes, id="a request line fits a head"),
        pytest.param(LIMITS.head_bytes, LIMITS.pipelined_bytes, id="the next head can be read ahead"),
        pytest.param(LIMITS.trailer_bytes, LIMITS.head_bytes, id="trailers are no larger than heads"),
        pytest.param(LIMITS.handshakes, LIMITS.connections, id="handshakes are connections"),
        pytest.param(LIMITS.event_streams, LIMITS.connections, id="event streams are connections"),
        pytest.param(LIMITS.connections_per_client, LIMITS.connections, id="one client does not fill a process"),
        pytest.param(LIMITS.connections_per_worker, LIMITS.connections, id="one worker does not fill a process"),
        pytest.param(LIMITS.connections + SPARE_DESCRIPTORS, FILES_OF_A_PROCESS, id="connections have descriptors"),
        pytest.param(LIMITS.master_idle_connections, LIMITS.master_connections, id="idle ones are of all"),
        pytest.param(LIMITS.connections_per_client, DIGEST.nonces_per_identity, id="a nonce for each of a client's"),
        pytest.param(LIMITS.connections_per_worker, DIGEST.nonces_per_identity, id="a nonce for each of a worker's"),
        pytest.param(DIGEST.nonces_per_identity, default(NonceLedger, "per_identity"), id="the ledger's own default"),
        pytest.param(DIGEST.nonces_per_identity, default(create, "per_identity"), id="the shared ledger's"),
        pytest.param(4 * MAX_NONCES_PER_IDENTITY, default(create, "total"), id="a stripe for four greedy identities"),
        pytest.param(DIGEST.nonces_per_identity, auth.nonces._MAX_VERDICTS, id="verdicts about an identity's nonces"),
        pytest.param(DIGEST.nonces_per_identity, auth.sharedledger._MAX_PLACES, id="places of an identity's nonces"),
        pytest.param(LIMITS.keep_alive_timeout, DIGEST.nonce_lifetime, id="an idle connection finds its nonce again"),
        pytest.param(LIMITS.content_timeout, LIMITS.liveness_timeout, id="a slow reader is not taken for dead"),
        pytest.param(
            LIMITS.liveness_idle + LIMITS.liveness_interval * LIMITS.liveness_count,
            LIMITS.liveness_timeout,
            id="probes come to their end",
        ),
        pytest.param(LIMITS.wait_max, LIMITS.answer_timeout, id="who waits for a slot is answered in time"),
        pytest.param(LIMITS.linger, LIMITS.refused_timeout, id="a linger is shorter than a refusal"),
        pytest.param(10 * watch.INTERVAL, LIMITS.state_stale, id="one slow look makes no state stale"),
    ],
)
def test_limits_by_default_agree(smaller: float, bigger: float) -> None:
    """Whoever keeps to one limit does not run into another."""
    assert smaller <= bigger


@pytest.mark.parametrize("per_identity", [1, DIGEST.nonces_per_identity, MAX_NONCES_PER_IDENTITY])
def test_shared_table_has_a_bounded_size_whatever_an_identity_may_hold(per_identity: int) -> None:
    """15 MiB, a little more or less by how stripes fill pages."""
    ledger = SharedLedger(create(per_identity=per_identity))
    try:
        assert len(ledger._memory) < 16 << 20
    finally:
        ledger.close()
