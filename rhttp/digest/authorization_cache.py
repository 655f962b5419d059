"""The last `Authorization` value of one connection: the next one differs in ``uri``, ``nc`` and ``response`` only.

It is kept with its connection, for the peer that sent it, and goes with it; nothing of it is shared.

Trust: pure, meets bytes of untrusted clients. It is a short cut and nothing else: whatever it answers,
`parse_authorization` would have answered too.
"""

from __future__ import annotations

from binascii import Error as HexError
from binascii import unhexlify
from typing import Final

from rhttp.digest.formula import HASHES, MAX_AUTHORIZATION, Algorithm, DigestCredentials, Malformed, parse_authorization

_PLAIN: Final = bytes(byte for byte in range(0x21, 0x7F) if byte not in b'"\\')
"""What may stand in a quoted string as it is, of what a request target can hold."""


class AuthorizationCache:
    """Reads the values of one connection, quickly when they are alike. One for each connection, so it keeps little."""

    __slots__ = (
        "_at",
        "_before",
        "_cuts",
        "_first",
        "_ha2",
        "_ha2_of",
        "_known",
        "_length",
        "_response_first",
        "_second",
        "_third",
    )

    def __init__(self) -> None:
        self._known: DigestCredentials | None = None
        self._length = 0
        """Of the value without its ``uri``."""
        self._at = 0
        """Where the ``uri`` begins."""
        self._cuts = (0, 0, 0, 0)
        """Behind its end: where ``response`` and ``nc`` begin and end."""
        self._before = self._first = self._second = self._third = b""
        self._response_first = True
        self._ha2_of: tuple[Algorithm, bytes, bytes] | None = None
        self._ha2 = b""

    def parse(self, value: bytes, target: bytes) -> DigestCredentials | Malformed:
        """What `rhttp.digest.formula.parse_authorization` answers. The credentials are good until the next call.

        ``target`` is the request's: a value whose ``uri`` is another one is read the long way.
        """
        known = self._known
        if known is not None and len(value) - len(target) == self._length:
            at = self._at
            end = at + len(target)
            if value[at:end] == target and value[:at] == self._before:
                a, b, c, d = self._cuts
                a, b, c, d = a + end, b + end, c + end, d + end
                if value[end:a] == self._first and value[b:c] == self._second and value[d:] == self._third:
                    left, right = value[a:b], value[c:d]
                    response, nc = (left, right) if self._response_first else (right, left)
                    if response.isalnum() and (target == known.uri or _is_plain(value, target)):
                        try:
                            number = int.from_bytes(unhexlify(nc), "big")
                        except HexError:
                            number = 0
                        if number:
                            known.uri = target
                            known.response = response
                            known.nc_text = nc
                            known.nc = number
                            return known
        found = parse_authorization(value)
        if isinstance(found, DigestCredentials):
            self._remember(value, found)
        return found

    def _remember(self, value: bytes, found: DigestCredentials) -> None:
        """Note where ``uri``, and behind it ``response`` and ``nc`` stand, if that is certain: each once, the first two
        in quotes, the third not, no escapes.

        Letters and digits put in the places of the two, and what needs no escape in that of ``uri``, then change these
        parameters and no structure.
        """
        self._known = None
        response, counter = found.response, b"nc=" + found.nc_text
        if len(found.nc_text) != 8 or len(response) < 32 or not response.isalnum() or 0x5C in value:
            return
        uri = b'uri="%b"' % found.uri
        if value.count(uri) != 1 or value.count(response) != 1 or value.count(counter) != 1:
            return
        uri_at, at, nc_at = value.find(uri), value.find(response), value.find(counter) + 3
        end = uri_at + len(uri) - 1
        if at < end or nc_at < end:
            return
        if value[at - 1 : at] != b'"' or value[at + len(response) : at + len(response) + 1] != b'"':
            return
        if value.count(b'"', 0, at) % 2 == 0 or value.count(b'"', 0, nc_at) % 2 or value.count(b'"', 0, uri_at) % 2:
            return  # inside of another parameter's quotes, or outside of all
        # Names and the counter must be whole tokens, not the end or the beginning of longer ones.
        if value[uri_at - 1 : uri_at] not in (b",", b" ") or value[nc_at - 4 : nc_at - 3] not in (b",", b" "):
            return
        if value[nc_at + 8 : nc_at + 9] not in (b",", b" ", b""):
            return
        self._response_first = at < nc_at
        (a, b), (c, d) = sorted(((at, at + len(response)), (nc_at, nc_at + 8)))
        if b > c:
            return
        self._at = uri_at + 5
        self._cuts = (a - end, b - end, c - end, d - end)
        self._before, self._first, self._second, self._third = value[: self._at], value[end:a], value[b:c], value[d:]
        self._length = len(value) - len(found.uri)
        self._known = found

    def ha2(self, algorithm: Algorithm, method: bytes, uri: bytes) -> bytes:
        """H(A2) in lower-case hex (RFC 7616 §3.4.3); remembered, since a connection often asks for the same thing."""
        of = (algorithm, method, uri)
        if of != self._ha2_of:
            self._ha2 = HASHES[algorithm](b"%b:%b" % (method, uri)).hexdigest().encode()
            self._ha2_of = of
        return self._ha2


def _is_plain(value: bytes, target: bytes) -> bool:
    """Whether another target in the place of ``uri`` changes nothing else about the value."""
    return len(value) <= MAX_AUTHORIZATION and not target.translate(None, _PLAIN)
