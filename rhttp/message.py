"""Messages of HTTP as values, whatever the version that they came by or leave in (RFC 9110 section 6).

Trust: pure; what is in them was parsed by whoever made them.
"""

from __future__ import annotations

import enum
from typing import Final

Field = tuple[bytes, bytes]
"""A field: its name and its value without surrounding white space. Names that a parser gives are in lower case; ours
are spelled as HTTP/1.1 writes them."""
Fields = list[Field]
SharedFields = tuple[Field, ...]
"""Of a head: equal heads are one object, on connections of different peers too, so nobody can change it."""

METHODS: Final = frozenset(
    (
        b"GET HEAD POST PUT DELETE OPTIONS PATCH COPY LOCK MKCOL MOVE PROPFIND PROPPATCH SEARCH UNLOCK BIND REBIND"
        b" UNBIND ACL REPORT MKACTIVITY CHECKOUT MERGE M-SEARCH NOTIFY SUBSCRIBE UNSUBSCRIBE PURGE MKCALENDAR LINK"
        b" UNLINK SOURCE QUERY"
    ).split()
)
"""Methods that we serve and forward. CONNECT and TRACE are not among them, on purpose."""
IDEMPOTENT: Final = frozenset(
    {b"GET", b"HEAD", b"PUT", b"DELETE", b"OPTIONS", b"PROPFIND", b"SEARCH", b"REPORT", b"QUERY"}
)
"""Methods whose request may be sent once more when the first try was lost (RFC 9110 section 9.2.2)."""
SAFE: Final = frozenset({b"GET", b"HEAD", b"OPTIONS", b"PROPFIND", b"SEARCH", b"REPORT", b"QUERY"})
"""Methods that ask for no change (RFC 9110 section 9.2.1)."""


class Extent(enum.Enum):
    """How much content follows a head, when that is no number of bytes."""

    NOTHING = "nothing"
    """None, and the head says nothing of it."""
    OPEN = "open"
    """Some, and where it ends shows when it ends."""


NOTHING: Final = Extent.NOTHING
OPEN: Final = Extent.OPEN
Length = int | Extent
"""How much content follows a head, in bytes when that is known."""


class FieldBlock:
    """Fields that go out together, in one message or in many, and room for the text that HTTP/1.1 makes of them.

    A head goes out as a few blocks, so that what repeats (from one request to the next, or for one second) is written
    out once. Values come from a parser or are our own: whoever sends them checks nothing.
    """

    __slots__ = ("fields", "text")

    def __init__(self, fields: SharedFields) -> None:
        self.fields = fields
        self.text: bytes | None = None
        """What HTTP/1.1 makes of them; its ends put it here."""


Blocks = tuple[FieldBlock, ...]


def one_field(name: bytes, value: bytes) -> FieldBlock:
    """A block of one field."""
    return FieldBlock(((name, value),))


class RequestHead:
    """One request head. Hot: a plain slotted class, since frozen dataclasses cost a microsecond to fill."""

    __slots__ = (
        "authority",
        "authorization",
        "connection",
        "expect",
        "fields",
        "forwarded",
        "is_last",
        "length",
        "method",
        "target",
        "upgrade",
        "version",
    )

    def __init__(self, forwarded: dict[str, FieldBlock] | None = None) -> None:
        self.method = b"GET"
        self.target = b""
        self.authority: bytes | None = None
        """The value of ``Host``; only HTTP/1.0 may leave it out."""
        self.version = "1.1"
        self.fields: SharedFields = ()
        """All but ``Authorization``, which stands in `authorization` alone."""
        self.length: Length = NOTHING
        self.is_last = False
        """Its sender says that no other follows on the connection."""
        self.connection: tuple[bytes, ...] = ()
        """Members of ``Connection``, lower case: what they name is for the next hop alone."""
        self.expect: tuple[bytes, ...] | None = None
        self.upgrade: tuple[bytes, ...] | None = None
        """Protocols that the connection could switch to, when the sender asks for that."""
        self.authorization: tuple[bytes, ...] | None = None
        self.forwarded: dict[str, FieldBlock] = {} if forwarded is None else forwarded
        """Room for whoever forwards heads to keep what is made of the fields; shared between heads that differ in
        target and ``Authorization`` only."""

    def at(self, target: bytes, authorization: tuple[bytes, ...] | None) -> RequestHead:
        """The same head for another target, with these values of ``Authorization``."""
        head = RequestHead(self.forwarded)
        head.method = self.method
        head.target = target
        head.authority = self.authority
        head.version = self.version
        head.fields = self.fields
        head.length = self.length
        head.is_last = self.is_last
        head.connection = self.connection
        head.expect = self.expect
        head.upgrade = self.upgrade
        head.authorization = authorization
        return head

    @property
    def all_fields(self) -> SharedFields:
        """The fields with ``Authorization``, for who is the last to read them."""
        given = self.authorization
        return self.fields if given is None else (*self.fields, *[(b"authorization", value) for value in given])

    @property
    def has_content(self) -> bool:
        """Whether content follows, even if none of it comes before its end."""
        return self.length is not NOTHING and self.length != 0

    def __repr__(self) -> str:
        return f"<RequestHead {self.method!r}>"  # no target and no fields: they may carry secrets


class ResponseHead:
    """One response head."""

    __slots__ = ("connection", "fields", "forwarded", "length", "reason", "status")

    def __init__(self) -> None:
        self.status = 0
        self.reason = b""
        """The reason phrase; only HTTP/1 has one."""
        self.fields: SharedFields = ()
        self.length: Length = OPEN
        """What is announced, whether or not content follows: to HEAD none does."""
        self.connection: tuple[bytes, ...] = ()
        """As in a request."""
        self.forwarded: dict[str, FieldBlock] = {}
        """As in a request; shared between equal heads."""


def response_has_content(method: bytes, status: int) -> bool:
    """Whether an answer with this status to this method carries content at all (RFC 9110 section 6.4.1)."""
    return not (method == b"HEAD" or status in (204, 304) or status < 200)
