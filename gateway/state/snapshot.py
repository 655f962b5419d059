"""The snapshot of the state that is pushed to every data process: values and their wire form.

Pure, and apart from `gateway.state.database` so that a data process need not load the database library.

Trust: holds HA1 values, which equal passwords for Digest (RFC 7616 §3.4.2): no repr shows one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from auth.credentials import TokenGrant, UserCredentials

__all__ = ["StateSnapshot"]


@dataclass(frozen=True, slots=True, kw_only=True)
class StateSnapshot:
    """All state that a data process needs, at one moment; `version` grows with every change.

    `revoked` holds the serials (lower-case hex) of revoked certificates, `labels` those of certificates that have any,
    `tokens` the enrolment tokens that may have something to ask for, by id. `read` numbers what a supervisor read, in
    that order: a data process ignores a smaller one than it has. The version would not do for that, since a database
    that was restored goes back.
    """

    version: int
    users: Mapping[str, UserCredentials]
    revoked: frozenset[str]
    labels: Mapping[str, Mapping[str, str]]
    read: int = 0
    tokens: Mapping[str, TokenGrant] = field(default_factory=dict)

    def __repr__(self) -> str:
        counts = f"users={len(self.users)}, revoked={len(self.revoked)}, labels={len(self.labels)}"
        return f"StateSnapshot(version={self.version}, {counts})"

    def to_bytes(self) -> bytes:
        """JSON for the sockets between the gateway's own processes; holds HA1 values in the clear."""
        return orjson.dumps(
            {
                "version": self.version,
                "read": self.read,
                "users": [[user.name, user.enabled, dict(user.ha1)] for user in self.users.values()],
                "revoked": sorted(self.revoked),
                "labels": {serial: dict(labels) for serial, labels in self.labels.items()},
                "tokens": [
                    [one.id, dict(one.ha1), one.role, one.pool, dict(one.labels)] for one in self.tokens.values()
                ],
            }
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> StateSnapshot:
        """The snapshot that `to_bytes` wrote; ValueError for anything else (its text never quotes the data)."""
        try:
            table: dict[str, Any] = orjson.loads(data)
            return cls(
                version=int(table["version"]),
                read=int(table["read"]),
                users={
                    name: UserCredentials(name=name, enabled=enabled is True, ha1=ha1)
                    for name, enabled, ha1 in table["users"]
                },
                revoked=frozenset(table["revoked"]),
                labels=table["labels"],
                tokens={
                    id: TokenGrant(id=id, ha1=ha1, role=role, pool=pool, labels=labels)
                    for id, ha1, role, pool, labels in table["tokens"]
                },
            )
        except (KeyError, TypeError, ValueError):
            raise ValueError("not a state snapshot") from None
