"""Errors of the HTTP layer: what a peer did wrong, and what to answer.

Trust: pure.
"""

from __future__ import annotations

import enum


class RhttpError(Exception):
    """Base of this package's errors. ``code`` is a stable slug; ``detail`` is for logs, never for a peer."""

    def __init__(self, code: str, detail: str = "") -> None:
        super().__init__(f"{code}: {detail}" if detail else code)
        self.code = code
        self.detail = detail


class RemoteProtocolError(RhttpError):
    """The peer broke a rule of RFC 9110 or 9112, or a limit of ours; ``status`` is what a server owes it."""

    def __init__(self, status: int, code: str, detail: str = "") -> None:
        super().__init__(code, detail)
        self.status = status


class LocalProtocolError(RhttpError):
    """Our side used an end out of order: a bug, never the peer's doing."""

    def __init__(self, detail: str) -> None:
        super().__init__("local", detail)


class UnfitLibrary(Exception):  # noqa: N818 - says what is the case
    """A library that is installed lacks what we need of it. Its text says what, and what is known to be good."""


class Loss(enum.StrEnum):
    """Why a client-side end could not deliver a whole answer."""

    NOT_SENT = "not-sent"
    """No byte of the request was handed to the connection."""
    SENT_NO_ANSWER = "sent"
    """Bytes of the request were handed over and no byte of an answer came."""
    CUT = "cut"
    """The connection ended in mid-answer."""
    INVALID = "invalid"
    """The peer's bytes are no valid answer."""
    DEADLINE = "deadline"
    """The time for the answer, or for its progress, ran out."""
    ABORTED = "aborted"
    """Our own side ended the exchange."""
