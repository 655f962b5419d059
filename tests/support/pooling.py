"""What the tests of hosted pools share: the bytes of a switch, a prefix, sums, and answers that are lies."""

from __future__ import annotations

from support.origins import response
from support.rig import Rig

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n"
ANY = "/-/pools/render/any"


LIES: dict[str, bytes] = {
    "junk": b"junk\r\n\r\n",
    "surplus": response(b"x") + b"y",
    "two answers": response(b"x") + response(b"y"),
    "101 unasked": SWITCH,
    "re-reversal": SWITCH + b"GET / HTTP/1.1\r\n\r\n",
    "conflicting lengths": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\nhello",
    "length and chunks": b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "request": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "HTTP/2": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "204 and more": b"HTTP/1.1 204 No Content\r\n\r\nx",
    "bad chunk": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
}


def slots(rig: Rig, name: str = "render") -> tuple[int, int]:
    """Total and free."""
    found = rig.pool(name)["slots"]
    return found["total"], found["free"]
