"""OCSP over HTTP (RFC 6960 appendix A, RFC 5019 §5): requests out of targets and content, answers as HTTP has them.

Trust: pure, meets bytes of strangers.
"""

from __future__ import annotations

import base64
import binascii
from typing import Final
from urllib.parse import unquote_to_bytes

from gateway.ingress.outcomes import Raw
from pki.ocsp_codec import MAX_REQUEST
from rhttp.message import FieldBlock, SharedFields

OCSP: Final = b"/-/pki/ocsp"
OCSP_GET: Final = OCSP + b"/"
"""What a request stands behind, in base64 and percent-encoded, when it comes by GET."""
_TYPE: Final = (b"Content-Type", b"application/ocsp-response")


def is_ocsp(asked: SharedFields) -> bool:
    """Whether the content is said to be an OCSP request."""
    types = [value.partition(b";")[0].strip().lower() for name, value in asked if name == b"content-type"]
    return types == [b"application/ocsp-request"]


def request_in(target: bytes) -> bytes:
    """The request in a target that begins with `OCSP_GET`; empty for what is no base64."""
    text = unquote_to_bytes(target[len(OCSP_GET) :])
    if len(text) > MAX_REQUEST * 4 // 3 + 4:
        return b""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error):
        return b""


def ocsp_answer(answered: tuple[bytes, int]) -> Raw:
    """The response in HTTP: 200, whatever it says (a refusal is one of OCSP, not of HTTP)."""
    der, age = answered
    kept = b"public, max-age=%d" % age if age > 0 else b"no-store"
    return Raw(200, (FieldBlock((_TYPE, (b"Cache-Control", kept))),), len(der), der)
