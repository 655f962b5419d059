"""The revocation lists that the data processes serve, and the keys of OCSP responders: values, and their wire form.

The supervisor has them signed; a data process gets the bytes, and never a CA's key.

Trust: pure. Lists are public, the keys of responders are not: no repr shows one.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = ["PublishedLists", "ResponderKey", "RevocationList"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One list in DER; times are whole seconds since the epoch."""

    der: bytes
    number: int
    this_update: int
    next_update: int
    tag: str
    """Names these bytes and no others, in lower-case hex."""
    revoked: Mapping[str, Sequence[int]] = field(default_factory=dict, repr=False)
    """What it says, when a responder has to know: see `pki.ocsp.Revoked`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponderKey:
    """A key that a CA lends for OCSP, with the certificate that says so and the CA's own; all in DER."""

    certificate: bytes
    issuer: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLists:
    """The lists, and the responders if there is to be OCSP, by the name of their CA (``root``, or a role).

    `version` grows: an older one is never taken up.
    """

    version: int = 0
    lists: Mapping[str, RevocationList] = field(default_factory=dict)
    responders: Mapping[str, ResponderKey] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON for the sockets between the gateway's own processes; it holds keys."""
        lists = {
            name: [_text(one.der), one.number, one.this_update, one.next_update, one.tag, dict(one.revoked)]
            for name, one in self.lists.items()
        }
        responders = {
            name: [_text(one.certificate), _text(one.issuer), _text(one.key)] for name, one in self.responders.items()
        }
        return orjson.dumps({"version": self.version, "lists": lists, "responders": responders}).decode()

    @classmethod
    def from_text(cls, text: str) -> PublishedLists:
        """What `to_text` wrote; ValueError for anything else."""
        try:
            table: dict[str, Any] = orjson.loads(text)
            return cls(
                version=int(table["version"]),
                lists={
                    name: RevocationList(
                        der=_bytes(der),
                        number=int(number),
                        this_update=int(this_update),
                        next_update=int(next_update),
                        tag=str(tag),
                        revoked=dict(revoked),
                    )
                    for name, (der, number, this_update, next_update, tag, revoked) in table["lists"].items()
                },
                responders={
                    name: ResponderKey(certificate=_bytes(certificate), issuer=_bytes(issuer), key=_bytes(key))
                    for name, (certificate, issuer, key) in table["responders"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError("no revocation lists") from None


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)
