"""One request as the audit log sees it: the short way to its line says what the long way says."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bench import client_peer, worker_peer

from auth.policy import Allowed
from gateway.admission.request_record import Admitted, RequestRecord
from gateway.audit.line import MAX_STRING
from gateway.core.context import Generation
from gateway.core.peer import LocalPeer, Peer
from rhttp.message import RequestHead

PEERS: tuple[Peer, ...] = (LocalPeer(None), LocalPeer("127.0.0.1"), client_peer(), worker_peer("w1"))


def record_of(peer: Peer, target: bytes, parent: str | None, policies: tuple[str, ...]) -> RequestRecord:
    record = RequestRecord(RequestHead(), peer, "tls", "0a1b", Generation.__new__(Generation))
    record.target = target
    record.parent_id = parent
    record.admitted = Admitted(None, Allowed(policies), ("request", "Route", "jobs"))
    return record


def read(fields: Any) -> dict[str, Any]:
    """A line's fields, without the one that is another each time."""
    values = json.loads(b"{%b}" % fields) if isinstance(fields, bytes) else json.loads(json.dumps(fields))
    assert values.pop("ms") >= 0
    return dict(values)


@given(
    peer=st.sampled_from(PEERS),
    target=st.from_regex(rb"/[A-Za-z0-9/._~%-]{0,40}", fullmatch=True),
    parent=st.none() | st.from_regex(r"[A-Za-z0-9!#$&'*+.^_`|~-]{1,20}", fullmatch=True),
    policies=st.lists(st.from_regex(r"[ -~]{1,12}", fullmatch=True), min_size=1, max_size=3),
    outcome=st.sampled_from(["allowed", "sent"]),
    status=st.sampled_from([0, 200, 404]),
    worker=st.sampled_from(["", "w1"]),
)
def test_rendered_line_says_what_the_plain_one_says(
    peer: Peer,
    target: bytes,
    parent: str | None,
    policies: list[str],
    outcome: str,
    status: int,
    worker: str,
) -> None:
    """Field by field, whoever asks and for what."""
    record = record_of(peer, target, parent, tuple(policies))
    plain = record.audit(outcome, status=status or None)
    if worker:
        plain["worker"] = worker
    for _ in range(2):  # the second time from what the first one rendered
        assert read(
            record.audit_of(outcome.encode(), status=status or None, worker=worker.encode() if worker else None)
        ) == read(plain)


@pytest.mark.parametrize("size", [MAX_STRING, MAX_STRING + 1])
def test_target_of_any_length_has_its_line(size: int) -> None:
    """One that the log shortens goes the long way."""
    record = record_of(client_peer(), b"/" + b"a" * (size - 1), None, ("p",))
    assert read(record.audit_of(b"allowed", status=200, worker=None)) == read(record.audit("allowed", status=200))
    assert (record.rendered is None) == (size > MAX_STRING)


def test_refused_request_tells_its_reason_and_no_policy() -> None:
    """Nothing was decided; what is not known is not there."""
    record = RequestRecord(RequestHead(), LocalPeer(None), "dispatch", "0a1b", Generation.__new__(Generation))
    assert read(record.audit("refused", status=400, reason="target_empty")) == {
        "request_id": "0a1b",
        "identity": "master/local",
        "listener": "dispatch",
        "outcome": "refused",
        "reason": "target_empty",
        "status": 400,
    }
