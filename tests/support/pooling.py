"""What the tests of hosted pools share: the bytes of a switch, a prefix, sums, and answers that are lies."""

from __future__ import annotations

from support.origins import response
from support.rig import Rig

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
ANY = "/-/pools/render/any"


LIES: dict[str, bytes] = {
    "junk": b"junk\r\n\r\n",
    "101 unasked": SWITCH,
    "re-reversal": SWITCH + b"GET / HTTP/1.1\r\n\r\n",
    "conflicting lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
    "LF only": b"HTTP/1.1 200 OK\nContent-Length: 1\n\nx",
    "LF in trailers": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: y\n\n",
    "interim answers": b"HTTP/1.1 102 Processing\r\n\r\n" * 101,
}
SURPLUS: dict[str, bytes] = {
    "a byte": response(b"x") + b"y",
    "an empty line": response(b"x") + b"\r\n",
    "an answer": response(b"x") + response(b"y"),
    "a request": response(b"x") + b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "a switch": response(b"x") + SWITCH,
    "content of a 204": b"HTTP/1.1 204 No Content\r\n\r\nx",
    "chunks of a 304": b"HTTP/1.1 304 Not Modified\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
}
"""A whole answer, and more behind it."""


def slots(rig: Rig, name: str = "render") -> tuple[int, int]:
    """Total and free."""
    found = rig.pool(name)["slots"]
    return found["total"], found["free"]
