"""Reading the snapshot that the data processes get out of the database: users, revocations, labels, enrolment tokens.

Trust: trusts the database's owner.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import orjson
from sqlalchemy import Connection, Engine, select
from sqlalchemy.exc import SQLAlchemyError

from auth.errors import CredentialsUnavailable
from auth.store import read_users
from gateway.state.database import StateUnavailable, reading, state_version, unavailable
from gateway.state.snapshot import StateSnapshot
from gateway.state.tokens import read_grants
from pki.tables import certificates

__all__ = ["load_snapshot"]

_EXPIRED_SECONDS: Final = 86_400


def load_snapshot(engine: Engine, state_key: bytes, *, now: float | None = None) -> StateSnapshot:
    """Users, revocations, labels and enrolment tokens as one transaction sees them.

    Certificates that expired more than a day ago are left out: verification refuses them whatever stands here, and the
    snapshot must not grow for ever. `now` is seconds since the epoch, the clock's when not given.

    Raises:
        StateUnavailable: the database cannot be read, or its credentials do not open with `state_key`.
    """
    try:
        with reading(engine) as connection:
            return _read_snapshot(connection, state_key, int(time.time() if now is None else now))
    except SQLAlchemyError as error:
        raise unavailable(error) from error
    except CredentialsUnavailable as error:
        raise StateUnavailable(str(error)) from None


def _read_snapshot(connection: Connection, state_key: bytes, now: int) -> StateSnapshot:
    version = int(connection.execute(select(state_version.c.version)).scalar_one())
    columns = certificates.c
    query = select(columns.serial, columns.labels, columns.revoked_at).where(
        columns.not_after >= now - _EXPIRED_SECONDS, columns.revoked_at.is_not(None) | (columns.labels != "{}")
    )
    revoked: set[str] = set()
    labels: dict[str, Mapping[str, str]] = {}
    for serial, text_of_labels, revoked_at in connection.execute(query):
        if revoked_at is not None:
            revoked.add(serial)
        elif table := orjson.loads(text_of_labels):
            labels[serial] = table
    return StateSnapshot(
        version=version,
        users={user.name: user for user in read_users(connection, state_key)},
        revoked=frozenset(revoked),
        labels=labels,
        tokens={grant.id: grant for grant in read_grants(connection, state_key, at=now)},
    )
