"""A signing request, with HTTP Digest credentials where they are asked for (I/O): asked, challenged, asked again.

The credentials are an enrolment token, or a bundle's user and password. SHA-256 and ``qop=auth`` alone. The secret goes
into the formula, never onto the wire.
"""

from __future__ import annotations

import os
from typing import Final

from cryptography import x509
from OpenSSL import SSL

from rhttp.digest.formula import Algorithm, DigestClient
from rhttp.worker.bundle import GatewayAddress
from rhttp.worker.est import MAX_MESSAGE, EstInvalid, read_certificates
from rhttp.worker.https import Answer, HttpsConnection

CERTIFICATES: Final = "application/pkcs7-mime"
"""The media type of what is asked for."""
_MAX_TRIES: Final = 3
"""The first request, one after a challenge, one after a stale nonce."""


class DigestPost:
    """Asks with these credentials; without a user, with none."""

    def __init__(self, user: str | None, secret: str | None) -> None:
        self._digest: DigestClient | None = None
        if user is not None and secret is not None:
            self._digest = DigestClient(user, secret, entropy=os.urandom, algorithms=(Algorithm.SHA_256,))

    def ask(self, peer: GatewayAddress, context: SSL.Context, target: str, content: bytes) -> Answer:
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
                fields = {"Content-Type": "application/pkcs10", "Accept": CERTIFICATES}
                digest = self._digest
                authorization = None if digest is None else digest.authorize(b"POST", target.encode("ascii"))
                if authorization is not None:
                    fields["Authorization"] = authorization.decode("ascii")
                answer = connection.ask("POST", target, fields, content, limit=MAX_MESSAGE)
                if answer.status != 401 or not left or digest is None:
                    break
                if not digest.challenged(answer.values("WWW-Authenticate"), answered=authorization is not None):
                    break
            return answer
        finally:
            connection.close()


def certificates_of(answer: Answer) -> tuple[x509.Certificate, ...]:
    """What is in an answer of the status 200.

    Raises:
        EstInvalid: it is of another media type, or no message of certificates.
    """
    if answer.fields.get_content_type() != CERTIFICATES:
        raise EstInvalid(f"came as another content type than {CERTIFICATES}")
    return read_certificates(answer.content)
