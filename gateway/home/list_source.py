"""The lists of a running gateway (I/O): signed anew when something was revoked, and before they run out.

The key of a CA is read, unsealed and used for one list, and kept no longer. That takes a while, so callers give it a
thread. A CA whose key is not in the home has no list here.

Trust: the operator is trusted. Nothing that a stranger sent comes here.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from gateway.home.layout import Home, HomeInvalid
from gateway.home.revocation_lists import KEPT, SignedList, sign_lists
from gateway.home.session import HomeSession
from gateway.state.database import StateUnavailable
from gateway.state.lists import PublishedLists, RevocationList
from pki.errors import PkiError
from pki.inventory import fingerprint_of
from pki.names import Role
from pki.pem import read_certificates
from pki.revocation import RevokedEntry

__all__ = ["ListSource", "Renewed"]

AGE: Final = 2
"""A list is replaced when this part of its time is over: a half leaves time to mend what keeps us from signing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What was signed now, all that is to be served, and what went wrong, a line each."""

    signed: Sequence[SignedList] = ()
    published: PublishedLists
    problems: Sequence[str] = ()


@dataclass(slots=True)
class _Kept:
    """What the present list of a CA was made of."""

    fingerprint: str
    entries: Sequence[RevokedEntry]
    renew_at: datetime


@dataclass(slots=True)
class ListSource:
    """Signs the lists of one home. Not for two threads at once."""

    home: Home
    passphrase: bytes | None = field(repr=False)
    _kept: dict[str, _Kept] = field(default_factory=dict, repr=False)
    _published: PublishedLists = field(default_factory=PublishedLists, repr=False)

    def renew(self, lifetime: timedelta) -> Renewed:
        """Sign what is due: lists that lack a revocation, that are of another CA, or half of whose time is over.

        What cannot be signed keeps the list that it has.
        """
        signed: list[SignedList] = []
        problems: list[str] = []
        try:
            with HomeSession(self.home, self.passphrase, locks_out=True) as session:
                for role in (None, *Role):
                    try:
                        signed += self._renew_one(session, role, lifetime)
                    except (HomeInvalid, OSError, PkiError) as error:
                        whose = "root" if role is None else f"{role.value} CA"
                        problems.append(f"the revocation list of the {whose} cannot be signed: {error}")
        except (HomeInvalid, StateUnavailable) as error:
            problems.append(f"no revocation list can be signed: {error}")
        if signed:
            lists: Mapping[str, RevocationList] = {one.name: _published(one) for one in signed}
            version = self._published.version + 1
            self._published = PublishedLists(version=version, lists={**self._published.lists, **lists})
        return Renewed(signed=signed, published=self._published, problems=problems)

    def _renew_one(self, session: HomeSession, role: Role | None, lifetime: timedelta) -> tuple[SignedList, ...]:
        name = "root" if role is None else role.value
        at = datetime.now(UTC)
        place = self.home.root_cert if role is None else self.home.ca_cert(role)
        issuer = read_certificates(place.read_bytes(), what=f"file of the {name} CA")[0]
        fingerprint = fingerprint_of(issuer)
        entries = session.inventory.revoked_by(fingerprint, valid_at=int((at - KEPT).timestamp()))
        kept = self._kept.get(name)
        # Of a shorter lifetime that was configured meanwhile the old list may know nothing: half of the new one counts.
        if (
            kept is not None
            and kept.fingerprint == fingerprint
            and set(entries) <= set(kept.entries)
            and at < kept.renew_at
            and kept.renew_at - at <= lifetime / AGE
        ):
            return ()
        signed = sign_lists(session, (role,), lifetime)
        self._kept[name] = _Kept(fingerprint, entries, at + lifetime / AGE)
        return signed


def _published(signed: SignedList) -> RevocationList:
    return RevocationList(
        der=signed.der,
        number=signed.number,
        this_update=int(signed.this_update.timestamp()),
        next_update=int(signed.next_update.timestamp()),
        tag=hashlib.sha256(signed.der).hexdigest()[:32],
    )
