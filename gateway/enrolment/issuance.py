"""One request for a certificate: its content is collected and parsed, its key given to the issuer; then the answer.

What is asked of the issuer is a value (`Order`), and so is what it says. It asks everything about tokens and
certificates once more; what was decided here is who asks, and that policy allows it.

Trust: meets the content of strangers who have a token, and of peers. The issuer is ours.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from gateway.core.context import ProcessContext
from gateway.enrolment.est import MAX_REQUEST, certs_only, read_enrolment
from gateway.http.upload import Upload
from pki.errors import RequestInvalid
from rhttp.ends import RequestEnd
from rhttp.message import Fields, RequestHead

Order = dict[str, object]
"""What the issuer is asked for; its shapes stand in `gateway.issuer.orders`."""

_FORBIDDEN: Final = (403, "forbidden")
_NO_ISSUER: Final = (503, "issuer-unavailable")


class Issued:
    """The answer to be given: a certificate's path (DER, leaf first), or a user with its password."""

    __slots__ = ("chain", "name", "password", "serial")

    def __init__(self, name: str, *, serial: str = "", chain: tuple[bytes, ...] = (), password: str = "") -> None:
        self.name = name
        self.serial = serial
        self.chain = chain
        self.password = password

    def certificates(self) -> bytes:
        """The content of the answer in EST."""
        return certs_only(self.chain)


class Unissued:
    """None was issued: what the peer is told, and why, for the audit log."""

    __slots__ = ("reason", "said", "slug", "status")

    def __init__(self, status: int, slug: str, reason: str, said: str | None = None) -> None:
        self.status = status
        self.slug = slug
        self.reason = reason
        self.said = said
        """What is wrong with the content that it sent."""


Outcome = Issued | Unissued
_TOO_LARGE: Final = Unissued(413, "content-too-large", "content")


class Requester(Protocol):
    """Who asked: it answers, and writes the line. One of the two is called, once."""

    def answer(self, outcome: Outcome, /) -> None:
        """It came to this."""

    def gone(self, detail: str, /) -> None:
        """Nobody is there to be answered. What was issued stays in the inventory."""


class Issuance:
    """Has one request's content collected, asks the issuer, and tells. Meanwhile it is the request sink of its end."""

    __slots__ = ("_end", "_is_over", "_order", "_process", "_requester", "_task")

    def __init__(
        self, process: ProcessContext, end: RequestEnd, order: Callable[[bytes], Order], requester: Requester
    ) -> None:
        """``order`` makes an order of the content, or raises `RequestInvalid`."""
        self._process = process
        self._end = end
        self._order = order
        self._requester = requester
        self._is_over = False
        """It was answered, or whoever asked is gone."""
        self._task: asyncio.Task[None] | None = None
        """With the issuer: what the loop alone would forget."""

    def start(self, head: RequestHead) -> None:
        """Take the content, and go on when all of it is here."""
        self._process.exchanges += 1
        Upload(MAX_REQUEST, self._collected, self._left).begin(self._end, head)

    def _collected(self, content: bytes | None) -> None:
        if content is None:
            self._tell(_TOO_LARGE)
            return
        try:
            order = self._order(content)
        except RequestInvalid as error:
            self._tell(Unissued(400, "request-invalid", "request_invalid", str(error)))
            return
        issue = self._process.issue
        if issue is None:
            self._tell(Unissued(*_NO_ISSUER, "no_issuer"))
            return
        self._end.sink = self
        self._task = self._process.loop.create_task(self._ask(issue(order)))

    def _left(self, detail: str) -> None:
        """Whoever asked is gone before the issuer was asked."""
        self._process.exchange_over()
        self._requester.gone(detail)

    # ---- RequestSink, while the issuer is asked ----

    def request_content(self, data: bytes) -> None:
        """There is none any more."""

    def request_end(self, trailers: Fields) -> None:
        """It has ended."""

    def request_abort(self, detail: str) -> None:
        """Whoever asked is gone. The order is carried out; what it gives may be asked for again."""
        if not self._is_over:
            self._is_over = True
            self._requester.gone(detail)

    def request_flush(self) -> None:
        """Nothing is kept back."""

    request_half_closed = response_blocked = response_unblocked = request_flush

    # ---- the issuer ----

    async def _ask(self, answer: Awaitable[Mapping[str, object]]) -> None:
        try:
            outcome = read_result(await answer)
        except Exception as fault:  # a fault of ours: nobody gets anything, and the line says so
            outcome = Unissued(*_NO_ISSUER, f"fault: {type(fault).__name__}")
        self._tell(outcome)

    def _tell(self, outcome: Outcome) -> None:
        self._process.exchange_over()
        if self._is_over:
            return
        self._is_over = True
        self._end.sink = None
        try:
            self._requester.answer(outcome)
        except Exception:  # nobody shall wait for an answer that cannot be given
            self._end.abort()
            raise


def read_result(result: Mapping[str, object]) -> Outcome:
    """What the issuer said, as a value; anything that is none of its results is a fault that issues nothing."""
    match result:
        case {"refused": str(reason)}:
            return Unissued(*_FORBIDDEN, reason)
        case {"unavailable": str(reason)}:
            return Unissued(*_NO_ISSUER, f"issuer: {reason}")
        case {"chain": [_, *_] as chain, "serial": str(serial), "name": str(name)}:
            try:
                ders = tuple(base64.b64decode(str(one), validate=True) for one in chain)
            except binascii.Error:
                return Unissued(*_NO_ISSUER, "issuer: a chain that is none")
            return Issued(name, serial=serial, chain=ders)
        case {"user": str(name), "password": str(password)}:
            return Issued(name, password=password)
    return Unissued(*_NO_ISSUER, "issuer: an answer that is none")


def enroll_order(content: bytes, *, token: str, role: str, common: Mapping[str, object]) -> Order:
    """The order for a first certificate, out of the request's content.

    Raises:
        RequestInvalid: see `gateway.enrolment.est.read_enrolment`.
    """
    wanted = read_enrolment(content)
    key = base64.b64encode(wanted.spki).decode("ascii")
    return {"kind": "enroll", "token": token, "role": role, "name": wanted.name, "key": key, **common}


def renew_order(content: bytes, *, name: str, serial: str, common: Mapping[str, object]) -> Order:
    """The order for the next certificate of a peer, by the one that it showed. A name in the request must be its own.

    Raises:
        RequestInvalid: see `gateway.enrolment.est.read_enrolment`, or the request is for another name.
    """
    wanted = read_enrolment(content)
    if wanted.name not in ("", name):
        raise RequestInvalid("the request names somebody else than the certificate that it came with")
    return {"kind": "renew", "serial": serial, "key": base64.b64encode(wanted.spki).decode("ascii"), **common}


def credentials_order(content: bytes, *, serial: str, common: Mapping[str, object]) -> Order:
    """The order for the password of a peer that enrolled.

    Raises:
        RequestInvalid: there is content, which says nothing.
    """
    if content:
        raise RequestInvalid("this request takes no content")
    return {"kind": "credentials", "serial": serial, **common}
