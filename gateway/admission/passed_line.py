"""The line ahead of a request that another process of this gateway sends: what goes over to it, and what it writes.

Only the process that holds the worker knows whose slot a request gets that was passed on without a reservation, and
`dispatch.sent` names the worker. So that process writes this one line; what is known of the request comes with it.

Trust: pure. What comes is of a process of this gateway, and is checked for shape all the same.
"""

from __future__ import annotations

from typing import Final

import orjson

from gateway.admission.request_record import RequestRecord
from gateway.audit.line import RenderedFields, is_plain, three_digits
from rhttp.memo import Memo

_REMEMBERED: Final = 1024
_GIVEN: Final = frozenset(
    {"request_id", "parent_id", "identity", "serial", "source", "listener", "outcome", "policy", "target", "pool"}
)
"""What the line says of the request; worker and time are added where it is written."""

_TARGET: Final = b',"target":"'

_checked: Final[Memo[bytes, bytes]] = Memo(_REMEMBERED)


def passed_line(record: RequestRecord) -> bytes | None:
    """Microseconds that the request took so far, a space, and the fields of the line; None: it needs care."""
    rendered = record.rendered_once()
    if rendered is None:
        return None
    pool = b"" if record.pool is None else b',"pool":"%b"' % record.pool.encode("ascii")
    return b"%d %bsent%b%b" % (record.spent(), rendered.head, rendered.tail, pool)


def is_passed_line(fields: bytes) -> bool:
    """Whether these are the fields of such a line, behind the request's id."""
    at = fields.find(_TARGET) + len(_TARGET)
    end = fields.find(b'"', at)
    if at < len(_TARGET) or end < 0:
        return False
    target = fields[at:end]
    if not is_plain(target) or 0x5C in target:
        return False
    rest = fields[:at] + fields[end:]  # no target is remembered
    if rest in _checked:
        return True
    if not (rest.startswith(b'",') and is_plain(rest)):
        return False
    try:
        given = orjson.loads(b'{"request_id":"%b}' % rest)
    except orjson.JSONDecodeError:
        return False
    if not (_GIVEN.issuperset(given) and given.get("outcome") == "sent"):
        return False
    _checked.remember(rest, rest)
    return True


def sent_fields(request_id: bytes, spent: int, fields: bytes, worker: bytes) -> RenderedFields:
    """The fields of the line: all that was given, the worker, and the time."""
    return RenderedFields(
        b'"request_id":"%b%b,"worker":"%b","ms":%d.%b'
        % (request_id, fields, worker, spent // 1000, three_digits(spent % 1000))
    )
