"""What issuing a certificate rests on: whose a name is, and what a renewal may follow; in the caller's transactions.

It is asked twice: before anything is signed, and in the transaction that enters the certificate, since others revoke
and remove meanwhile. Commands and the issuer ask the same.
"""

from __future__ import annotations

from enum import StrEnum

from sqlalchemy import Connection

from auth.principal import LOCAL_MASTER
from auth.store import has_user
from pki.errors import NameInvalid
from pki.inventory import (
    CertificateRecord,
    Identity,
    NameTaken,
    RevokedMeanwhile,
    count_revocations,
    find_identity,
    require_free,
    revoked_since,
    was_revoked_after,
)

__all__ = ["Claim", "Hindrance", "judge_renewal"]


class Claim:
    """What issuing for a name rests on, noted before anything is signed, and asked again when it is entered."""

    __slots__ = ("_owner", "_revoked", "_user", "formerly")

    def __init__(self, connection: Connection, owner: Identity, *, at: int) -> None:
        """Raise `NameTaken` when the name is somebody else's at this time, `NameInvalid` for the one nobody gets."""
        if owner.name == LOCAL_MASTER.name:
            raise NameInvalid(f"the name {owner.name} stands for whoever opens the dispatch listener; choose another")
        self._owner = owner
        self._revoked = count_revocations(connection, owner.name)
        self._user = has_user(connection, owner.name)
        self.formerly = self._former(connection)
        """Whose the name was, when it now goes to another role or pool."""
        require_free(connection, owner, at)

    def check(self, connection: Connection) -> None:
        """Raise `RevokedMeanwhile` or `NameTaken` when it no longer holds in this transaction."""
        name = self._owner.name
        if revoked_since(connection, name, self._revoked) or (self._user and not has_user(connection, name)):
            raise RevokedMeanwhile(
                f"{name} was revoked, or its user removed, while this certificate was being made, so none was issued; "
                "if it is to have one all the same, issue again"
            )
        self.formerly = self._former(connection)

    def _former(self, connection: Connection) -> Identity | None:
        there = find_identity(connection, self._owner.name)
        if there is None or there == self._owner:
            return None
        if has_user(connection, there.name):
            raise NameTaken(
                f"the name {there.name} belongs to {there} and has a Digest user, so it cannot be {self._owner}; "
                "choose another name, or end that one: "
                f"rhttp-pki revoke {there.name}, and rhttp-pki user remove {there.name}"
            )
        return there


class Hindrance(StrEnum):
    """Why a certificate is not followed by another one."""

    REVOKED = "revoked"
    NAME_TAKEN = "name_taken"
    """The name is somebody else's by now."""
    NAME_REVOKED = "name_revoked"
    """It has expired, so that a later end of its name passed it over."""


def judge_renewal(connection: Connection, record: CertificateRecord, at: int) -> Hindrance | None:
    """Why the certificate with this record, as it stands in the same transaction, may not be renewed at this time.

    Whether it has expired hinders nothing here: that is the caller's to say.
    """
    if record.revoked_at is not None:
        return Hindrance.REVOKED
    if record.name is None:
        return None
    if find_identity(connection, record.name) != Identity(name=record.name, role=record.role, pool=record.pool):
        return Hindrance.NAME_TAKEN
    # One that has not expired is revoked with its name.
    if record.not_after < at and was_revoked_after(connection, record.name, record.issued_at):
        return Hindrance.NAME_REVOKED
    return None
