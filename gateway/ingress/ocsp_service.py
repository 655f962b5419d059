"""OCSP answers of a data process, out of the lists that it serves.

A signature costs some tens of microseconds, and anybody may ask for one: so many a second are made, and who comes
beyond that is told to try later. What has no nonce is signed once for each list, and kept for whoever asks the same.

Trust: meets bytes of strangers, and holds the keys of responders: short-lived, and good for nothing else.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Final, NamedTuple

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_der_private_key

from gateway.core.context import ProcessContext
from pki.ocsp import Responder, Responders
from pki.ocsp_codec import ResponseStatus, parse_request, unsuccessful

_KEPT: Final = 1024
"""Answers without a nonce that are kept."""


class Answered(NamedTuple):
    """A response, and for how many seconds a cache may keep it; 0: not at all."""

    der: bytes
    age: int


class OcspService:
    """Answers by one version of the published lists."""

    def __init__(self, process: ProcessContext) -> None:
        """Of the lists that ``process`` has now."""
        self._process = process
        self._kept: dict[tuple[bytes, ...], bytes] = {}
        self._second = 0
        self._signed = 0
        lists = process.lists
        responders = []
        self._ends: dict[int, int] = {}
        for name, lent in lists.responders.items():
            key, one = load_der_private_key(lent.key, None), lists.lists.get(name)
            if one is None or not isinstance(key, ec.EllipticCurvePrivateKey):
                continue
            responder = Responder(
                issuer=x509.load_der_x509_certificate(lent.issuer),
                certificate=x509.load_der_x509_certificate(lent.certificate),
                key=key,
                this_update=datetime.fromtimestamp(one.this_update, UTC),
                next_update=datetime.fromtimestamp(one.next_update, UTC),
                revoked=one.revoked,
            )
            responders.append(responder)
            last = int(responder.certificate.not_valid_after_utc.timestamp())
            self._ends[id(responder)] = min(one.next_update, last)
        self._responders = Responders(responders)

    def answer(self, data: bytes) -> tuple[bytes, int]:
        """The response to these bytes, whatever they are; see `Answered`."""
        try:
            return self._answer(data)
        except Exception as fault:  # whatever a stranger's bytes do, the answer says nothing of it
            self._process.loop.call_exception_handler({"message": "an OCSP answer failed", "exception": fault})
            return Answered(unsuccessful(ResponseStatus.INTERNAL_ERROR), 0)

    def _answer(self, data: bytes) -> Answered:
        request = parse_request(data)
        if request is None:
            return Answered(unsuccessful(ResponseStatus.MALFORMED_REQUEST), 0)
        at = datetime.fromtimestamp(int(self._process.epoch), UTC)
        found = self._responders.find(request, at)
        if isinstance(found, bytes):
            return Answered(found, 0)
        age = self._ends[id(found)] - int(self._process.epoch)
        asked = tuple(one.der for one in request.certs)
        kept = self._kept.get(asked) if request.nonce is None else None
        if kept is not None:
            return Answered(kept, age)
        if not self._may_sign():
            return Answered(unsuccessful(ResponseStatus.TRY_LATER), 0)
        made = found.answer(request, at)
        if request.nonce is not None:
            return Answered(made, 0)
        if len(self._kept) >= _KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[asked] = made
        return Answered(made, age)

    def _may_sign(self) -> bool:
        """Whether one more signature is within this second's bound."""
        process = self._process
        second = int(process.elapsed)
        if second != self._second:
            self._second, self._signed = second, 0
        if self._signed >= process.generation.config.limits.ocsp_signatures:
            process.counters.ocsp_deferred += 1
            return False
        self._signed += 1
        process.counters.ocsp_signed += 1
        return True
