"""A revocation list as an answer (RFC 2585, RFC 9110): whole, or 304 to who has it already.

Trust: pure, meets bytes of strangers.
"""

from __future__ import annotations

from email.utils import formatdate, parsedate_to_datetime
from typing import Final

from gateway.core.context import ProcessContext
from gateway.ingress.outcomes import Raw
from rhttp.message import Extent, FieldBlock, SharedFields, one_field

LIST_NAMES: Final = ("root", "client", "worker", "master", "server")
"""The CAs that have a list."""
_RETRY: Final = (one_field(b"Retry-After", b"10"), one_field(b"Cache-Control", b"no-store"))
_MAX_TAGS: Final = 32


def list_document(process: ProcessContext, name: str, asked: SharedFields) -> Raw | None:
    """The list of a CA for a request with these fields; None: there is no such list. One that is over is 503."""
    found = process.lists.lists.get(name)
    if found is None:
        return None
    left = found.next_update - int(process.epoch)
    if left <= 0:
        return Raw(503, _RETRY, 0, b"")
    tag = b'"%b"' % found.tag.encode("ascii")
    blocks = (
        FieldBlock(
            (
                (b"Content-Type", b"application/pkix-crl"),
                (b"Cache-Control", b"public, max-age=%d" % left),
                (b"ETag", tag),
                (b"Last-Modified", formatdate(found.this_update, usegmt=True).encode("ascii")),
                (b"Expires", formatdate(found.next_update, usegmt=True).encode("ascii")),
                (b"X-Content-Type-Options", b"nosniff"),
            )
        ),
    )
    if _has_it(asked, tag, found.this_update):
        return Raw(304, blocks, Extent.NOTHING, b"")
    return Raw(200, blocks, len(found.der), found.der)


def _has_it(asked: SharedFields, tag: bytes, modified: int) -> bool:
    """Whether the peer has these bytes already. A tag decides alone (RFC 9110 §13.2.2); what cannot be read is not."""
    tags = [value for name, value in asked if name == b"if-none-match"]
    if tags:
        given = b",".join(tags).split(b",", _MAX_TAGS)[:_MAX_TAGS]
        return any(one.strip() in (b"*", tag, b"W/" + tag) for one in given)
    dates = [value for name, value in asked if name == b"if-modified-since"]
    if len(dates) != 1:
        return False
    try:
        return parsedate_to_datetime(dates[0].decode("ascii")).timestamp() >= modified
    except (ValueError, TypeError, OverflowError, IndexError):
        return False
