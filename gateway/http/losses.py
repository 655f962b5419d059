"""What a requester is told when a master or worker gave no whole answer (RFC 9110 section 15.6).

Trust: pure.
"""

from __future__ import annotations

from typing import Final

from rhttp.errors import Loss

_WORKER_FAILURES: Final = {
    Loss.NOT_SENT: (503, "not-sent"),
    Loss.SENT_NO_ANSWER: (502, "worker-lost"),
    Loss.CUT: (502, "worker-lost"),
    Loss.INVALID: (502, "worker-invalid"),
    Loss.DEADLINE: (504, "deadline"),
    Loss.ABORTED: (502, "worker-lost"),
}
_MASTER_FAILURES: Final = _WORKER_FAILURES | {
    Loss.SENT_NO_ANSWER: (502, "master-lost"),
    Loss.CUT: (502, "master-lost"),
    Loss.INVALID: (502, "master-invalid"),
    Loss.ABORTED: (502, "master-lost"),
}


def failure(loss: Loss, *, dispatch: bool) -> tuple[int, str]:
    """Status and problem of a loss; ``dispatch``: of a worker's answer, else of a master's."""
    return (_WORKER_FAILURES if dispatch else _MASTER_FAILURES)[loss]
