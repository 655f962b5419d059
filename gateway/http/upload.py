"""The content of a small request to the gateway itself, as a whole.

Trust: meets bytes of strangers; keeps no more than it was told to.
"""

from __future__ import annotations

from collections.abc import Callable

from rhttp.ends import RequestEnd
from rhttp.message import Fields, RequestHead


class Upload:
    """The sink of one request: calls back once, with the content, or with None when it is longer than that."""

    __slots__ = ("_aborted", "_content", "_most", "_then")

    def __init__(
        self, most: int, then: Callable[[bytes | None], None], aborted: Callable[[str], None] = lambda _: None
    ) -> None:
        self._most = most
        self._content = bytearray()
        self._then: Callable[[bytes | None], None] | None = then
        self._aborted = aborted

    def begin(self, end: RequestEnd, head: RequestHead) -> None:
        """Take the content of the request that the end has just received."""
        if isinstance(head.length, int) and head.length > self._most:
            self._finish(None)
        elif head.has_content:
            if head.expect is not None:
                end.interim(100)
            end.sink = self
        else:
            self._finish(b"")

    def _finish(self, content: bytes | None) -> None:
        then, self._then = self._then, None
        if then is not None:
            then(content)

    def request_content(self, data: bytes) -> None:
        """Keep it, or give up."""
        if self._then is None:
            return
        self._content += data
        if len(self._content) > self._most:
            self._content.clear()
            self._finish(None)

    def request_end(self, trailers: Fields) -> None:
        """It is complete."""
        self._finish(bytes(self._content))

    def request_abort(self, detail: str) -> None:
        """Half a request is not answered."""
        if self._then is not None:
            self._then = None
            self._aborted(detail)

    def request_flush(self) -> None:
        """Nothing is kept back."""

    request_half_closed = response_blocked = response_unblocked = request_flush
