"""Digest verification (RFC 7616): from the `Authorization` fields of a request to a proof or a reason. Pure.

Trust: untrusted client. Every bad input is a value; the peer is told the same 401 for all of them, the audit log the
reason.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from hmac import compare_digest
from typing import Final

from auth.credentials import DUMMY_HA1, Credentials
from auth.nonces import Ledger, NonceIssuer, NonceStatus, Spend
from rhttp.digest.authorization_cache import AuthorizationCache
from rhttp.digest.formula import OTHER_SCHEME, Algorithm, Malformed, build_challenge, response_of


class AuthReason(StrEnum):
    """Why a request is not authenticated. For the audit log, never for the peer."""

    ABSENT = "absent"
    MALFORMED = "malformed"
    SCHEME = "scheme"
    REALM = "realm"
    URI = "uri"
    ALGORITHM = "algorithm"
    QOP = "qop"
    NONCE_FORGED = "nonce_forged"
    NONCE_STALE = "nonce_stale"
    NONCE_BUSY = "nonce_busy"
    UNKNOWN_USER = "unknown_user"
    USER_DISABLED = "user_disabled"
    USER_MISMATCH = "user_mismatch"
    BAD_RESPONSE = "bad_response"
    REPLAYED_NC = "replayed_nc"
    NC_TOO_OLD = "nc_too_old"


class Authenticated:
    """Proof that the peer answered with the user's password, fresh, for this request. Made by `DigestVerifier` only.

    A plain class with slots: one is made for every request, and a frozen dataclass costs more.
    """

    __slots__ = ("algorithm", "user")

    def __init__(self, user: str, algorithm: str) -> None:
        self.user: Final = user
        self.algorithm: Final = algorithm

    def __repr__(self) -> str:
        return f"Authenticated(user={self.user!r}, algorithm={str(self.algorithm)!r})"


@dataclass(frozen=True, slots=True)
class Unauthenticated:
    """No proof: ``reason`` for the audit log, ``stale`` for the challenge (RFC 7616 §3.3).

    ``stale`` is set where a peer that knows the password succeeds with a new nonce. A forged nonce is one of those:
    after a restart the nonces of the run before look forged, and their owners shall get on by themselves.
    """

    reason: AuthReason
    stale: bool = False


_STALE_REASONS: Final = frozenset(
    {
        AuthReason.NONCE_FORGED,
        AuthReason.NONCE_STALE,
        AuthReason.NONCE_BUSY,
        AuthReason.REPLAYED_NC,
        AuthReason.NC_TOO_OLD,
    }
)
_REFUSALS: Final = {reason: Unauthenticated(reason, reason in _STALE_REASONS) for reason in AuthReason}
_UNSPENT: Final = {
    Spend.REPLAYED: _REFUSALS[AuthReason.REPLAYED_NC],
    Spend.TOO_OLD: _REFUSALS[AuthReason.NC_TOO_OLD],
    Spend.STALE: _REFUSALS[AuthReason.NONCE_STALE],
    Spend.BUSY: _REFUSALS[AuthReason.NONCE_BUSY],
}


class DigestVerifier:
    """Checks credentials and makes challenges for one realm.

    Args:
        algorithms: what is offered, in the order of the challenges; everything else is refused.

    Raises:
        ValueError: no algorithm, or a realm that is not visible ASCII.
    """

    def __init__(self, realm: str, algorithms: Sequence[str], issuer: NonceIssuer, ledger: Ledger) -> None:
        if not algorithms or not realm or not realm.isascii() or not realm.isprintable():
            raise ValueError("a verifier needs an algorithm and a realm of visible ASCII")
        self._realm = realm
        self._realm_bytes = realm.encode()
        self._algorithms = tuple(Algorithm(name) for name in algorithms)
        # An absent parameter means MD5 (RFC 7616 §3.4).
        self._offered: dict[bytes | None, Algorithm] = {name.encode(): name for name in self._algorithms}
        if Algorithm.MD5 in self._algorithms:
            self._offered[None] = Algorithm.MD5
        self._issuer = issuer
        self._ledger = ledger

    def check(
        self,
        values: Sequence[bytes],
        *,
        method: bytes,
        uri: bytes,
        listener: bytes,
        binding: bytes,
        expected_user: str,
        credentials: Credentials,
        now: float,
        recent: AuthorizationCache | None = None,
    ) -> Authenticated | Unauthenticated:
        """Decide about one request. Total: never raises for anything that a peer sends.

        Not checked here: whether the certificate still holds, and what the user may do. ``opaque`` is ignored, since
        our challenges carry none.

        Args:
            values: the values of all `Authorization` fields of the request.
            method: as it stands in the request line.
            uri: the target exactly as it stands in the request line. The parameter must be the same bytes: nothing is
                decoded or made equal, so a request in absolute-form must carry the absolute form there as well.
            listener: the purpose of the listener that the request came in by.
            binding: the fingerprint of the peer's certificate.
            expected_user: the NAME of the peer's certificate.
            now: seconds, of the clock that the nonces are minted by (see `auth.nonces`).
            recent: the connection's last value, which makes the next one cheaper; it changes no answer.
        """
        # 1. Exactly one field.
        if len(values) != 1:
            return _REFUSALS[AuthReason.MALFORMED if values else AuthReason.ABSENT]
        # 2. Digest credentials by the grammar, no parameter twice.
        recent = recent or AuthorizationCache()
        sent = recent.parse(values[0], uri)
        if isinstance(sent, Malformed):
            return _REFUSALS[AuthReason.SCHEME if sent is OTHER_SCHEME else AuthReason.MALFORMED]
        # 3. They answer a challenge of ours and are for this very target.
        if sent.realm != self._realm_bytes:
            return _REFUSALS[AuthReason.REALM]
        if sent.uri != uri:
            return _REFUSALS[AuthReason.URI]
        algorithm = self._offered.get(sent.algorithm) or self._other_spelling(sent.algorithm)
        if algorithm is None:
            return _REFUSALS[AuthReason.ALGORITHM]
        if sent.qop != b"auth":
            return _REFUSALS[AuthReason.QOP]
        # 4. The nonce is ours, for this listener and certificate, and young.
        nonce = sent.nonce
        status = self._issuer.inspect(nonce, listener=listener, binding=binding, now=now)
        if status is not NonceStatus.CURRENT:
            return _REFUSALS[AuthReason.NONCE_STALE if status is NonceStatus.STALE else AuthReason.NONCE_FORGED]
        # 5. H(A1) of the certificate's user, or a dummy: the steps behind take the same time.
        ha1 = credentials.ha1(expected_user, algorithm) if sent.username == expected_user.encode() else None
        # 6. The response, in constant time.
        ha2 = recent.ha2(algorithm, method, uri)
        right = response_of(algorithm, ha1 or DUMMY_HA1[algorithm], nonce, sent.nc_text, sent.cnonce, ha2)
        if not compare_digest(right, sent.response) or ha1 is None:
            return self._refusal(sent.username, expected_user, credentials, ha1)
        # 7. Only now the counter is spent: a stranger must not burn those of another.
        spent = self._ledger.spend(expected_user, nonce, sent.nc, now)
        if spent is not Spend.FRESH:
            return _UNSPENT[spent]
        return Authenticated(expected_user, algorithm)

    def challenge(self, *, listener: bytes, binding: bytes, now: float, entropy: bytes, stale: bool = False) -> bytes:
        """The value of one `WWW-Authenticate` field: a challenge for each algorithm, all with the same new nonce.

        ``entropy`` is at least `auth.nonces.ENTROPY_BYTES` unpredictable bytes, used once.
        """
        nonce = self._issuer.mint(listener=listener, binding=binding, now=now, entropy=entropy)
        return b", ".join(
            build_challenge(realm=self._realm, nonce=nonce, algorithm=algorithm, stale=stale)
            for algorithm in self._algorithms
        )

    def _other_spelling(self, name: bytes | None) -> Algorithm | None:
        return None if name is None else self._offered.get(name.upper())

    @staticmethod
    def _refusal(username: bytes, expected_user: str, credentials: Credentials, ha1: bytes | None) -> Unauthenticated:
        if username != expected_user.encode():
            return _REFUSALS[AuthReason.USER_MISMATCH]
        if not credentials.is_known(expected_user):
            return _REFUSALS[AuthReason.UNKNOWN_USER]
        if credentials.is_disabled(expected_user):
            return _REFUSALS[AuthReason.USER_DISABLED]
        # A user whose password was set before this algorithm was offered has no H(A1) for it.
        return _REFUSALS[AuthReason.ALGORITHM if ha1 is None else AuthReason.BAD_RESPONSE]
