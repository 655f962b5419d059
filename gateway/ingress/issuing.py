"""Requests for certificates and passwords by peers that have a certificate: what they are for, and their answers.

Trust: meets clients, workers and masters that showed a certificate.
"""

from __future__ import annotations

from gateway.admission.checks import Refusal
from gateway.admission.request_record import Question, RequestRecord
from gateway.core.context import ProcessContext
from gateway.core.peer import CertifiedPeer, Peer
from gateway.enrolment.est import CERTS_ONLY
from gateway.enrolment.issuance import Outcome, Unissued, credentials_order, renew_order
from gateway.http.responses import answer_certificate, answer_json, refuse
from gateway.ingress.outcomes import Issue
from rhttp.ends import RequestEnd


def renewal_question(peer: Peer) -> Question:
    """What policy is asked about the next certificate of a peer: always its own pool, or its role."""
    if peer.principal.pool is not None:
        return "enroll", "Pool", peer.principal.pool
    return "enroll", "Role", peer.role


def renewal(question: Question) -> Issue:
    """The outcome of a request for the next certificate, once policy allowed what is in `question`."""

    def order(content: bytes, record: RequestRecord) -> dict[str, object]:
        peer = _certified(record)
        return renew_order(content, name=peer.name, serial=peer.serial, common=common_of(record))

    return Issue(order, question)


def _credentials(content: bytes, record: RequestRecord) -> dict[str, object]:
    return credentials_order(content, serial=_certified(record).serial, common=common_of(record))


CREDENTIALS = Issue(_credentials, None)
"""The outcome of a request for the password of a peer that has just enrolled; policy allowed it that."""


def common_of(record: RequestRecord) -> dict[str, object]:
    """What every order says of the request."""
    return {"request_id": record.request_id, "source": record.peer.source or "", "listener": record.listener}


def _certified(record: RequestRecord) -> CertifiedPeer:
    peer = record.peer
    if not isinstance(peer, CertifiedPeer):
        raise PermissionError("an order for a peer without a certificate")
    return peer


class IssueAnswer:
    """Answers one of them. It is the requester of its issuance."""

    __slots__ = ("_end", "_process", "_record")

    def __init__(self, process: ProcessContext, end: RequestEnd, record: RequestRecord) -> None:
        self._process = process
        self._end = end
        self._record = record

    def answer(self, outcome: Outcome) -> None:
        """It came to this."""
        process, end, record = self._process, self._end, self._record
        if isinstance(outcome, Unissued):
            refuse(process, end, record, refusal_of(outcome))
        elif outcome.chain:
            answer_certificate(process, end, record, CERTS_ONLY, outcome.certificates(), outcome.name)
        else:
            answer_json(process, end, record, 200, {"user": outcome.name, "password": outcome.password})

    def gone(self, detail: str) -> None:
        """Nobody is there to be answered."""
        self._process.record("request", self._record.audit("aborted", reason=detail))


def refusal_of(unissued: Unissued) -> Refusal:
    """What came of it, as every refusal is answered."""
    return Refusal(status=unissued.status, slug=unissued.slug, reason=unissued.reason, said=unissued.said)
