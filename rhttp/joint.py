"""What joins a request end to a response end, whoever does it: content both ways, back-pressure, and what is kept.

Trust: pure; what passes through it is untrusted bytes.
"""

from __future__ import annotations

from rhttp.ends import Link, RequestEnd, ResponseEnd
from rhttp.errors import LocalProtocolError, Loss
from rhttp.message import Blocks, FieldBlock, Fields, RequestHead, ResponseHead


class Joint:
    """One request under way: the sink of both ends. Who makes one says where it goes, what passes, and what is said.

    What came of the content is kept as long as the request may have to be sent once more, and while nobody takes it;
    beyond ``retained`` bytes the requester is stopped, or the request cannot be sent once more.
    """

    __slots__ = (
        "_client",
        "_end",
        "_ended",
        "_head",
        "_holds",
        "_kept",
        "_kept_size",
        "_retained",
        "_trailers",
        "over",
    )

    def __init__(self, end: RequestEnd, head: RequestHead, *, retained: int) -> None:
        self._end = end
        self._head = head
        self._client: ResponseEnd | None = None
        self._ended = not head.has_content
        """All of the request is here."""
        self._trailers: Fields = []
        """Of the request, those that go on."""
        self._kept: list[bytes] | None = []
        """The content so far; None: more went on than is kept."""
        self._kept_size = 0
        self._retained = retained
        self._holds = False
        """The response end has the request, and nothing of it leaves yet."""
        self.over = False
        """Nothing more is said to the requester."""
        end.sink = self

    # ---- what differs ----

    def _onward(self, trailers: Fields) -> Fields:
        """The trailers of the request that go on."""
        raise NotImplementedError

    def _returned(self, head: ResponseHead) -> FieldBlock:
        """The fields of an answer that go back."""
        raise NotImplementedError

    def _requester_lost(self, detail: str) -> None:
        """Nobody is left to answer: be over. The response end is let go behind this."""
        raise NotImplementedError

    # ---- the way in ----

    def _give(self, client: ResponseEnd, target: bytes, authority: bytes, blocks: Blocks) -> None:
        """Give the request to a response end, with what is kept of its content; `_send` lets it leave."""
        head = self._head
        self._client = client
        client.head(self, head.method, target, authority, blocks, head.length)
        for data in self._kept or ():
            client.content(data)

    def _send(self, *, is_first: bool) -> None:
        """What the response end has of the request leaves, and more may come."""
        client = self._client
        assert client is not None
        self._holds = False
        head = self._head
        if not self._ended:
            client.flush()
            if is_first and head.expect is not None:
                self._end.interim(100)
            if not client.blocked:
                self._end.resume()
        elif head.has_content:
            client.end(self._trailers)
            if self._client is client and not client.blocked:
                self._end.resume()  # it waited for long and was stopped; now its end is to be heard
        else:
            client.flush()

    def _drop_client(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.release()

    # ---- RequestSink ----

    def request_content(self, data: bytes) -> None:
        """Forward request content, or keep it until somebody takes it."""
        client = self._client
        kept = self._kept
        if kept is not None:
            self._kept_size += len(data)
            if self._kept_size <= self._retained:
                kept.append(data)
            elif client is None:
                kept.append(data)
                self._end.pause()
            else:
                self._kept = None  # too much to send twice
        if client is not None:
            try:
                client.content(data)
            except LocalProtocolError:
                client.abort(Loss.ABORTED, "more content than was announced")

    def request_flush(self) -> None:
        """The batch is over."""
        if self._client is not None and not self._holds:
            self._client.flush()

    def request_end(self, trailers: Fields) -> None:
        """The request's content is complete."""
        self._ended = True
        self._trailers = self._onward(trailers)
        if self._client is not None and not self._holds:
            self._client.end(self._trailers)

    def request_half_closed(self) -> None:
        """The requester sent its last byte."""
        raise NotImplementedError

    def request_abort(self, detail: str) -> None:
        """The requester is gone; nobody is left to answer."""
        if not self.over:
            self._requester_lost(detail)
            self._drop_client()

    def response_blocked(self) -> None:
        """The requester reads too slowly."""
        if self._client is not None:
            self._client.pause()

    def response_unblocked(self) -> None:
        """The requester caught up."""
        if self._client is not None:
            self._client.resume()

    # ---- the way back ----

    def _answer(self, head: ResponseHead, blocks: Blocks, reason: bytes | None = None) -> None:
        """Begin the answer; a requester that reads too slowly already stops it."""
        self._end.head(head.status, blocks, head.length, reason=reason)
        if self._end.blocked and self._client is not None:
            self._client.pause()

    # ---- ResponseSink ----

    def response_interim(self, head: ResponseHead) -> None:
        """1xx: passed on, except 100, which is ours to send."""
        if head.status != 100:
            self._end.interim(head.status, (self._returned(head),))

    def response_switched(self, head: ResponseHead, link: Link, surplus: bytes) -> None:
        """Only for who asked to switch."""
        raise LocalProtocolError("a switch of protocols that was not asked for")

    def response_head(self, head: ResponseHead, has_content: bool) -> None:
        """The final answer begins."""
        raise NotImplementedError

    def response_content(self, data: bytes) -> None:
        """Content of the answer."""
        if not self.over:
            self._end.content(data)

    def response_flush(self) -> None:
        """The batch is over."""
        if not self.over:
            self._end.flush()

    def response_end(self, trailers: Fields) -> None:
        """The answer is complete."""
        raise NotImplementedError

    def response_abort(self, loss: Loss, detail: str) -> None:
        """No whole answer will come."""
        raise NotImplementedError

    def request_blocked(self) -> None:
        """Whoever is asked reads too slowly."""
        self._end.pause()

    def request_unblocked(self) -> None:
        """It caught up."""
        self._end.resume()
