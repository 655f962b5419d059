"""The revocation lists that the data processes serve: values, and their wire form.

The supervisor has them signed; a data process gets the bytes, and never a CA's key.

Trust: pure; what it holds is public.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

__all__ = ["PublishedLists", "RevocationList"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RevocationList:
    """One list in DER; times are whole seconds since the epoch."""

    der: bytes
    number: int
    this_update: int
    next_update: int
    tag: str
    """Names these bytes and no others, in lower-case hex."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedLists:
    """The lists by the name of their CA (``root``, or a role). `version` grows: an older one is never taken up."""

    version: int = 0
    lists: Mapping[str, RevocationList] = field(default_factory=dict)

    def to_text(self) -> str:
        """JSON for the sockets between the gateway's own processes."""
        table = {
            name: [base64.b64encode(one.der).decode("ascii"), one.number, one.this_update, one.next_update, one.tag]
            for name, one in self.lists.items()
        }
        return orjson.dumps({"version": self.version, "lists": table}).decode()

    @classmethod
    def from_text(cls, text: str) -> PublishedLists:
        """What `to_text` wrote; ValueError for anything else."""
        try:
            table: dict[str, Any] = orjson.loads(text)
            return cls(
                version=int(table["version"]),
                lists={
                    name: RevocationList(
                        der=base64.b64decode(der, validate=True),
                        number=int(number),
                        this_update=int(this_update),
                        next_update=int(next_update),
                        tag=str(tag),
                    )
                    for name, (der, number, this_update, next_update, tag) in table["lists"].items()
                },
            )
        except (AttributeError, KeyError, TypeError, ValueError):
            raise ValueError("no revocation lists") from None
