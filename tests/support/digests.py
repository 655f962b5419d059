"""A verifier with everything that it needs, and the credentials of one user, for tests of Digest."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import count

from auth.credentials import Credentials, UserCredentials
from auth.nonces import NonceIssuer, NonceKey, NonceLedger
from auth.verifier import Authenticated, DigestVerifier, Unauthenticated
from rhttp.digest.formula import Algorithm, DigestClient, ha1

REALM = "rhttp@example.internal"
PASSWORD = "correct horse"
NOW = 1_700_000_000.0
LISTENER = b"tls"
BINDING = b"\x01" * 32


def user(
    name: str = "alice",
    password: str = PASSWORD,
    *,
    realm: str = REALM,
    enabled: bool = True,
    algorithms: Sequence[Algorithm] = (Algorithm.SHA_256,),
) -> UserCredentials:
    """A user with that password."""
    return UserCredentials(
        name=name, enabled=enabled, ha1={one.value: ha1(name, realm, password, one) for one in algorithms}
    )


def entropy() -> Callable[[int], bytes]:
    """Bytes that differ at every call, the same in every run."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


class Verification:
    """One verifier on one listener for one peer; every argument of a check can be replaced."""

    def __init__(
        self,
        *users: UserCredentials,
        realm: str = REALM,
        algorithms: Sequence[str] = ("SHA-256",),
        key: bytes = b"k" * 32,
        ledger: NonceLedger | None = None,
    ) -> None:
        self.ledger = NonceLedger() if ledger is None else ledger
        issuer = NonceIssuer(NonceKey(key), realm.encode())
        self.verifier = DigestVerifier(realm, algorithms, issuer, self.ledger)
        self.credentials = Credentials(users or [user(realm=realm)])
        self.entropy = entropy()

    def challenge(
        self, *, listener: bytes = LISTENER, binding: bytes = BINDING, now: float = NOW, stale: bool = False
    ) -> bytes:
        """A challenge for the peer."""
        return self.verifier.challenge(
            listener=listener, binding=binding, now=now, entropy=self.entropy(12), stale=stale
        )

    def client(self, name: str = "alice", password: str = PASSWORD, **options: Sequence[Algorithm]) -> DigestClient:
        """A client that has seen a challenge."""
        made = DigestClient(name, password, entropy=self.entropy, **options)
        assert made.challenged([self.challenge()])
        return made

    def check(
        self,
        *values: bytes,
        method: bytes = b"GET",
        uri: bytes = b"/x",
        listener: bytes = LISTENER,
        binding: bytes = BINDING,
        expected_user: str = "alice",
        now: float = NOW,
    ) -> Authenticated | Unauthenticated:
        """What the verifier says."""
        return self.verifier.check(
            list(values),
            method=method,
            uri=uri,
            listener=listener,
            binding=binding,
            expected_user=expected_user,
            credentials=self.credentials,
            now=now,
        )
