"""The last `Authorization` value of one connection: the next one differs from it in ``nc`` and ``response`` only.

Posture: pure, meets bytes of untrusted clients. It is a short cut and nothing else: whatever it answers,
`parse_authorization` would have answered too.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import unhexlify

from rhttp.digest import HASHES, Algorithm, DigestCredentials, Malformed, parse_authorization


class RecentAuthorization:
    """Reads the values of one connection, quickly when they are alike. One for each connection, so it keeps little."""

    __slots__ = ("_cuts", "_first", "_ha2", "_ha2_of", "_known", "_length", "_response_first", "_second", "_third")

    def __init__(self) -> None:
        self._known: DigestCredentials | None = None
        self._length = 0
        self._cuts = (0, 0, 0, 0)
        self._first = self._second = self._third = b""
        self._response_first = True
        self._ha2_of: tuple[Algorithm, bytes, bytes] | None = None
        self._ha2 = b""

    def parse(self, value: bytes) -> DigestCredentials | Malformed:
        """What `rhttp.digest.parse_authorization` answers. The credentials are good until the next call."""
        known = self._known
        if known is not None and len(value) == self._length:
            a, b, c, d = self._cuts
            if value[:a] == self._first and value[b:c] == self._second and value[d:] == self._third:
                left, right = value[a:b], value[c:d]
                response, nc = (left, right) if self._response_first else (right, left)
                if response.isalnum():
                    try:
                        number = int.from_bytes(unhexlify(nc), "big")
                    except HexError:
                        number = 0
                    if number:
                        known.response = response
                        known.nc_text = nc
                        known.nc = number
                        return known
        found = parse_authorization(value)
        if isinstance(found, DigestCredentials):
            self._remember(value, found)
        return found

    def _remember(self, value: bytes, found: DigestCredentials) -> None:
        """Note where ``response`` and ``nc`` stand, if that is certain: each once, one in quotes, one not, no escapes.

        Letters and digits put in their places then change these two parameters and no structure.
        """
        self._known = None
        response, counter = found.response, b"nc=" + found.nc_text
        if len(found.nc_text) != 8 or len(response) < 32 or not response.isalnum() or 0x5C in value:
            return
        if value.count(response) != 1 or value.count(counter) != 1:
            return
        at, nc_at = value.find(response), value.find(counter) + 3
        if value[at - 1 : at] != b'"' or value[at + len(response) : at + len(response) + 1] != b'"':
            return
        if value.count(b'"', 0, at) % 2 == 0 or value.count(b'"', 0, nc_at) % 2:
            return  # inside of another parameter's quotes, or outside of all
        # The name and the counter must be whole tokens, not the end or the beginning of longer ones.
        if value[nc_at - 4 : nc_at - 3] not in (b",", b" ") or value[nc_at + 8 : nc_at + 9] not in (b",", b" ", b""):
            return
        self._response_first = at < nc_at
        spans = sorted(((at, at + len(response)), (nc_at, nc_at + 8)))
        (a, b), (c, d) = spans
        if b > c:
            return
        self._cuts = (a, b, c, d)
        self._first, self._second, self._third = value[:a], value[b:c], value[d:]
        self._length = len(value)
        self._known = found

    def ha2(self, algorithm: Algorithm, method: bytes, uri: bytes) -> bytes:
        """H(A2) in lower-case hex (RFC 7616 §3.4.3); remembered, since a connection often asks for the same thing."""
        of = (algorithm, method, uri)
        if of != self._ha2_of:
            self._ha2 = HASHES[algorithm](b"%b:%b" % (method, uri)).hexdigest().encode()
            self._ha2_of = of
        return self._ha2
