"""What a forwarded request meant, kept for the next one on its connection that is like it.

Trust: pure; it changes no answer.
"""

from __future__ import annotations

from auth.verifier import Authenticated
from gateway.admission.checks import admit_again
from gateway.admission.request_record import Admitted, Question, Rendered, RequestRecord
from gateway.exchange.ends import Inbound


class Plan:
    """What the last forwarded request meant: everything about it that does not depend on the moment.

    It was made of the head without ``Authorization``, the peer and the generation, so it holds for the next request
    that has the very same head (see `rhttp.http1.head_cache`) under the same generation. The decision about it holds
    for a minute at most. A plain slotted class.
    """

    __slots__ = (
        "_admitted",
        "_algorithm",
        "_minute",
        "dispatch",
        "generation",
        "inbound",
        "label",
        "lines",
        "memo",
        "parent_id",
        "path",
        "query",
        "rendered",
        "target",
        "wait",
        "worker",
    )

    def __init__(
        self,
        record: RequestRecord,
        admitted: Admitted,
        epoch: float,
        inbound: Inbound,
        target: bytes,
        lines: bytes,
        *,
        worker: str | None,
        label: tuple[str, str] | None,
        wait: float,
        dispatch: bool,
    ) -> None:
        self.memo = record.head.forwarded
        """What equal heads share, and nothing else does: by its identity the head is known."""
        self.generation = record.generation
        self.path = record.target
        self.query = record.query
        self.parent_id = record.parent_id
        self.inbound = inbound
        self.target = target
        self.lines = lines
        self.worker = worker
        self.label = label
        self.wait = wait
        self.dispatch = dispatch
        self.keep(admitted, epoch)

    def keep(self, admitted: Admitted, epoch: float) -> None:
        """Remember the decision about a request, for those that differ from it in nothing that a policy can see."""
        self._admitted = admitted
        self._algorithm = None if admitted.digest is None else admitted.digest.algorithm
        self._minute = int(epoch) // 60
        self.rendered: Rendered | None = None

    @property
    def question(self) -> Question:
        """What policy is asked about a request like this one."""
        return self._admitted.question

    def renew(self, digest: Authenticated | None, epoch: float) -> Admitted | None:
        """The proof for a request that differs from the kept one in its moment only; None: policy is to be asked.

        Policies see the time to the minute, so a decision holds until that is over.
        """
        if self._minute != int(epoch) // 60:
            return None
        if (None if digest is None else digest.algorithm) != self._algorithm:
            return None
        return admit_again(self._admitted, digest)
