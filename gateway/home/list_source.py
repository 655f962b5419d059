"""The lists of a running gateway (I/O): signed anew when something was revoked, and before they run out.

The key of a CA is read, unsealed and used for one list, and kept no longer. That takes a while, so callers give it a
thread. A CA whose key is not in the home has no list here.

Trust: the operator is trusted. Nothing that a stranger sent comes here.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from gateway.home.layout import Home, HomeInvalid
from gateway.home.revocation_lists import KEPT, SignedList, sign_lists
from gateway.home.session import HomeSession
from gateway.state.database import StateUnavailable
from gateway.state.lists import PublishedLists, ResponderKey, RevocationList
from pki.errors import PkiError
from pki.inventory import fingerprint_of
from pki.keys import generate_key
from pki.names import Role
from pki.ocsp import build_responder, revoked_in
from pki.pem import read_certificates
from pki.revocation import RevokedEntry
from pki.template import SERIAL_ENTROPY

__all__ = ["ListSource", "Renewed"]

AGE: Final = 2
"""A list is replaced when this part of its time is over: a half leaves time to mend what keeps us from signing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Renewed:
    """What was signed now, all that is to be served, and what went wrong, a line each."""

    signed: Sequence[SignedList] = ()
    lent: Mapping[str, x509.Certificate] = field(default_factory=dict)
    """Certificates of OCSP responders that were issued now, by their CA."""
    published: PublishedLists
    problems: Sequence[str] = ()


@dataclass(slots=True)
class _Kept:
    """What the present list or responder of a CA was made of."""

    fingerprint: str
    renew_at: datetime
    entries: Sequence[RevokedEntry] = ()

    def holds(self, fingerprint: str, at: datetime, lifetime: timedelta) -> bool:
        """Whether it is of this CA and not due; a shorter lifetime that was configured meanwhile counts from now."""
        return self.fingerprint == fingerprint and timedelta(0) < self.renew_at - at <= lifetime / AGE


@dataclass(slots=True)
class ListSource:
    """Signs the lists of one home. Not for two threads at once."""

    home: Home
    passphrase: bytes | None = field(repr=False)
    _kept: dict[str, _Kept] = field(default_factory=dict, repr=False)
    _lent: dict[str, _Kept] = field(default_factory=dict, repr=False)
    _signed: dict[str, SignedList] = field(default_factory=dict, repr=False)
    _published: PublishedLists = field(default_factory=PublishedLists, repr=False)

    def renew(self, lifetime: timedelta, *, ocsp: bool = False) -> Renewed:
        """Sign what is due: lists that lack a revocation, that are of another CA, or half of whose time is over.

        With ``ocsp`` each CA also lends a key to a responder, for as long as a list is good; half of that time later
        it is another one. What cannot be signed keeps what it has.
        """
        signed: list[SignedList] = []
        lent: dict[str, tuple[ResponderKey, x509.Certificate]] = {}
        problems: list[str] = []
        try:
            with HomeSession(self.home, self.passphrase, locks_out=True) as session:
                for role in (None, *Role):
                    try:
                        signed += self._renew_one(session, role, lifetime)
                        if ocsp:
                            lent |= self._lend(session, role, lifetime)
                    except (HomeInvalid, OSError, PkiError) as error:
                        whose = "root" if role is None else f"{role.value} CA"
                        what = "revocation list and OCSP responder" if ocsp else "revocation list"
                        problems.append(f"the {what} of the {whose} cannot be signed: {error}")
        except (HomeInvalid, StateUnavailable) as error:
            problems.append(f"no revocation list can be signed: {error}")
        before = self._published
        self._signed |= {one.name: one for one in signed}
        responders = {**before.responders, **{name: key for name, (key, _) in lent.items()}}
        if not ocsp:
            responders = {}
            self._lent.clear()
        if signed or responders != before.responders:
            lists = {name: _published(one, with_entries=ocsp) for name, one in self._signed.items()}
            self._published = PublishedLists(version=before.version + 1, lists=lists, responders=responders)
        certificates = {name: certificate for name, (_, certificate) in lent.items()}
        return Renewed(signed=signed, lent=certificates, published=self._published, problems=problems)

    def _renew_one(self, session: HomeSession, role: Role | None, lifetime: timedelta) -> tuple[SignedList, ...]:
        name = "root" if role is None else role.value
        at = datetime.now(UTC)
        place = self.home.root_cert if role is None else self.home.ca_cert(role)
        issuer = read_certificates(place.read_bytes(), what=f"file of the {name} CA")[0]
        fingerprint = fingerprint_of(issuer)
        entries = session.inventory.revoked_by(fingerprint, valid_at=int((at - KEPT).timestamp()))
        kept = self._kept.get(name)
        if kept is not None and kept.holds(fingerprint, at, lifetime) and set(entries) <= set(kept.entries):
            return ()
        signed = sign_lists(session, (role,), lifetime)
        self._kept[name] = _Kept(fingerprint, at + lifetime / AGE, entries)
        return signed

    def _lend(
        self, session: HomeSession, role: Role | None, lifetime: timedelta
    ) -> dict[str, tuple[ResponderKey, x509.Certificate]]:
        name = "root" if role is None else role.value
        at = datetime.now(UTC)
        lent = self._lent.get(name)
        if lent is not None and lent.holds(self._kept[name].fingerprint, at, lifetime):
            return {}
        issuer = session.root() if role is None else session.authority(role).issuer
        key = generate_key()
        certificate = build_responder(
            issuer, key.public_key(), at=at, lifetime=lifetime, entropy=os.urandom(SERIAL_ENTROPY)
        )
        self._lent[name] = _Kept(fingerprint_of(issuer.certificate), at + lifetime / AGE)
        made = ResponderKey(
            certificate=certificate.public_bytes(Encoding.DER),
            issuer=issuer.certificate.public_bytes(Encoding.DER),
            key=key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
        )
        return {name: (made, certificate)}


def _published(signed: SignedList, *, with_entries: bool) -> RevocationList:
    return RevocationList(
        der=signed.der,
        number=signed.number,
        this_update=int(signed.this_update.timestamp()),
        next_update=int(signed.next_update.timestamp()),
        tag=hashlib.sha256(signed.der).hexdigest()[:32],
        revoked=revoked_in(signed.entries) if with_entries else {},
    )
