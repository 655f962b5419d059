"""A request with an enrolment token as its HTTP Digest credentials (I/O): asked, challenged, asked again.

SHA-256 and ``qop=auth`` alone. The secret goes into the formula, never onto the wire.
"""

from __future__ import annotations

import os
from typing import Final

from OpenSSL import SSL

from rhttp.digest.formula import Algorithm, DigestClient
from rhttp.worker.bundle import GatewayAddress
from rhttp.worker.est import MAX_MESSAGE, Token
from rhttp.worker.https import Answer, HttpsConnection

_MAX_TRIES: Final = 3
"""The first request, one after a challenge, one after a stale nonce."""


class TokenDigest:
    """Asks in the name of a token."""

    def __init__(self, token: Token) -> None:
        self._digest = DigestClient(token.id, token.secret, entropy=os.urandom, algorithms=(Algorithm.SHA_256,))

    def ask(self, peer: GatewayAddress, context: SSL.Context, target: str, content: bytes, *, accept: str) -> Answer:
        """POST a signing request; the answer to the credentials, or a 401 that they cannot help.

        The peer may close its connection after the challenge: then another is made.

        Raises:
            HttpsFailed: no whole answer came.
        """
        connection = HttpsConnection(peer, context)
        try:
            for left in reversed(range(_MAX_TRIES)):
                if not connection.is_open:
                    connection.close()
                    connection = HttpsConnection(peer, context)
                fields = {"Content-Type": "application/pkcs10", "Accept": accept}
                authorization = self._digest.authorize(b"POST", target.encode("ascii"))
                if authorization is not None:
                    fields["Authorization"] = authorization.decode("ascii")
                answer = connection.ask("POST", target, fields, content, limit=MAX_MESSAGE)
                if answer.status != 401 or not left:
                    break
                if not self._digest.challenged(answer.values("WWW-Authenticate"), answered=authorization is not None):
                    break
            return answer
        finally:
            connection.close()
