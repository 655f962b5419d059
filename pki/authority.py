"""The home's authorities: a root and one issuing CA per role, made once, and each issuing for its role only.

No files, no state, no clock: PEM, times and entropy come as arguments, certificates go out as answers. What was issued
is entered in the inventory by the caller, before anybody gets to see it.

Not checked here: whether a name is free, and whether who asks for a certificate should have it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509

from pki.errors import AuthorityEnding, StoreError
from pki.issue import IssuerKey, issue_ca, issue_leaf, issue_root, stamp
from pki.keys import KeyType, PublicKey, generate_key, load_private_key
from pki.names import Role, SpiffeId, parse_trust_domain
from pki.pem import read_certificates
from pki.profiles import LEAF_PROFILES
from pki.template import HostName, Pointers

__all__ = ["Authority", "Hierarchy", "HierarchyKeys", "make_hierarchy"]

_SERIAL_BYTES = 20
USEFUL = timedelta(hours=1)
"""What a CA that is about to end must still have, for a certificate that is to live so long or longer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hierarchy:
    """A new root and its issuing CAs, with their keys."""

    root: IssuerKey
    issuing: Mapping[Role, IssuerKey]


@dataclass(frozen=True, slots=True, kw_only=True)
class HierarchyKeys:
    """Of which type the keys of a new hierarchy are to be: those of all CAs, and of single ones (None: the root)."""

    usual: KeyType = KeyType.P256
    special: Mapping[Role | None, KeyType] = field(default_factory=dict)

    def of(self, role: Role | None) -> KeyType:
        return self.special.get(role, self.usual)


def make_hierarchy(
    trust_domain: str, *, at: datetime, entropy: Callable[[int], bytes], keys: HierarchyKeys | None = None
) -> Hierarchy:
    """A root and an issuing CA for every role, with the default lifetimes of their profiles (10 and 2 years).

    Keys are drawn from the system's randomness, serial numbers from `entropy`. Without `keys` all are P-256. Raises
    `NameInvalid` for a trust domain that is none.
    """
    parse_trust_domain(trust_domain)
    keys = keys or HierarchyKeys()
    root_key = generate_key(keys.of(None))
    root_certificate = issue_root(key=root_key, trust_domain=trust_domain, at=at, entropy=entropy(_SERIAL_BYTES))
    root = IssuerKey(certificate=root_certificate, key=root_key)
    issuing: dict[Role, IssuerKey] = {}
    for role in Role:
        key = generate_key(keys.of(role))
        certificate = issue_ca(
            role,
            root=root,
            public_key=key.public_key(),
            trust_domain=trust_domain,
            at=at,
            entropy=entropy(_SERIAL_BYTES),
        )
        issuing[role] = IssuerKey(certificate=certificate, key=key)
    return Hierarchy(root=root, issuing=issuing)


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """One issuing CA at work; `pointers` go into what it issues, but for what is short-lived."""

    role: Role
    issuer: IssuerKey
    pointers: Pointers | None = None

    @classmethod
    def from_pem(cls, role: Role, *, certificate: bytes, key: bytes, pointers: Pointers | None = None) -> Authority:
        """The CA of `role` from its certificate and its unsealed key.

        Raises:
            InputUnreadable, CertificateInvalid: one of them is not what it should be.
            StoreError: they do not belong together.
        """
        found = read_certificates(certificate, what=f"file of the {role.value} CA")
        if len(found) != 1:
            raise StoreError(f"the {role.value} CA's file holds {len(found)} certificates, not one")
        return cls(role=role, issuer=IssuerKey(certificate=found[0], key=load_private_key(key)), pointers=pointers)

    def _require_life(self, at: datetime, lifetime: timedelta | None) -> None:
        """Raise `AuthorityEnding` when what is issued now would end before it is of use, or is before the CA's time."""
        certificate = self.issuer.certificate
        begins, ends = certificate.not_valid_before_utc, certificate.not_valid_after_utc
        wanted = LEAF_PROFILES[self.role].lifetime if lifetime is None else lifetime
        if at < begins:
            raise AuthorityEnding(f"the {self.role.value} CA begins on {stamp(begins)}; set this machine's clock right")
        if ends - at < min(wanted, USEFUL):
            raise AuthorityEnding(
                f"the {self.role.value} CA {'ends' if at < ends else 'ended'} on {stamp(ends)}, and nothing that it "
                "issues outlives it; make a new home with `rhttp-pki init` and move over to it"
            )

    def issue(
        self,
        owner: SpiffeId | Sequence[HostName],
        *,
        public_key: PublicKey,
        at: datetime,
        entropy: Callable[[int], bytes],
        lifetime: timedelta | None = None,
    ) -> tuple[x509.Certificate, ...]:
        """A certificate for a client, worker or master, or for the gateway's TLS listener under these names.

        Answers its path, leaf first, without the root.

        Raises:
            AuthorityEnding: the CA has too little time left.
            ProfileViolation: it would not be one that our verification accepts.
            ValueError: the owner has another role than this CA.
        """
        role = owner.role if isinstance(owner, SpiffeId) else Role.SERVER
        if role is not self.role:
            raise ValueError(f"the {self.role.value} CA issues nothing for a {role.value}")
        self._require_life(at, lifetime)
        leaf = issue_leaf(
            owner,
            issuer=self.issuer,
            public_key=public_key,
            at=at,
            entropy=entropy(_SERIAL_BYTES),
            lifetime=lifetime,
            pointers=self.pointers,
        )
        return leaf, self.issuer.certificate
