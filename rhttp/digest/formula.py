"""HTTP Digest (RFC 7616): the formula, the grammar of challenges and credentials, the answering side. Pure.

Both ends use this file: the agent answers challenges with it, the gateway verifies with it. Only ``qop=auth`` is
spoken; session algorithms, ``auth-int``, ``userhash`` and ``username*`` are not. Text is UTF-8 after normalisation to
NFC (RFC 7616 §4), which is what curl, python-requests and httpx send for text typed as NFC.

Trust: untrusted peer on either side; bad input is answered with values, never with exceptions.
"""

from __future__ import annotations

import hashlib
import unicodedata
from binascii import Error as HexError
from binascii import unhexlify
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from rhttp.digest.grammar import is_token, parse_params, quote, split_list

if TYPE_CHECKING:
    from hashlib import _Hash

MAX_AUTHORIZATION: Final = 16384  # bytes of the whole value: a request line of 8 KiB comes back as `uri`
MAX_AUTHORIZATION_BESIDE_URI: Final = 2048  # bytes of everything else; real clients need about 400
MAX_CHALLENGE_BYTES: Final = 16384  # all challenges of one answer together
MAX_CHALLENGES: Final = 16
MAX_NC: Final = 0xFFFFFFFF


class Algorithm(StrEnum):
    """The hash algorithms of RFC 7616 §6.1, strongest first. MD5 is here for old peers that configuration lets in."""

    SHA_512_256 = "SHA-512-256"
    SHA_256 = "SHA-256"
    MD5 = "MD5"


def _sha512_256(data: bytes = b"") -> _Hash:
    return hashlib.new("sha512_256", data)


HASHES: Final[Mapping[Algorithm, Callable[[bytes], _Hash]]] = MappingProxyType(
    {Algorithm.SHA_512_256: _sha512_256, Algorithm.SHA_256: hashlib.sha256, Algorithm.MD5: hashlib.md5}
)


def ha1(user: str, realm: str, password: str, algorithm: Algorithm) -> str:
    """H(A1) in lower-case hex (RFC 7616 §3.4.2). It is worth as much as the password: keep it sealed, never log it.

    User and password are taken in NFC as UTF-8; the realm as it is.
    """
    text = f"{unicodedata.normalize('NFC', user)}:{realm}:{unicodedata.normalize('NFC', password)}"
    return HASHES[algorithm](text.encode()).hexdigest()


def response(
    algorithm: Algorithm, *, ha1: bytes, nonce: bytes, nc: bytes, cnonce: bytes, method: bytes, uri: bytes
) -> bytes:
    """The response for ``qop=auth`` in lower-case hex (RFC 7616 §3.4.1).

    ``nc`` is the text as it travels (eight hex digits), ``ha1`` the lower-case hex of `ha1`.
    """
    ha2 = HASHES[algorithm](b"%b:%b" % (method, uri)).hexdigest().encode()
    return response_of(algorithm, ha1, nonce, nc, cnonce, ha2)


def response_of(algorithm: Algorithm, ha1: bytes, nonce: bytes, nc: bytes, cnonce: bytes, ha2: bytes) -> bytes:
    """As `response`, with H(A2) at hand."""
    return HASHES[algorithm](b"%b:%b:%b:%b:auth:%b" % (ha1, nonce, nc, cnonce, ha2)).hexdigest().encode()


# --- Authorization ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Malformed:
    """An `Authorization` value that is no Digest credentials. ``fault`` is a fixed slug and holds none of the value."""

    fault: str


OTHER_SCHEME: Final = Malformed("scheme")
_GRAMMAR: Final = Malformed("grammar")
_TOO_LONG: Final = Malformed("too_long")
_MISSING: Final = Malformed("missing_parameter")
_NC: Final = Malformed("nc")
_USERNAME_EXT: Final = Malformed("username_ext")
_USERHASH: Final = Malformed("userhash")


class DigestCredentials:
    """What a well-formed `Authorization: Digest` says. Nothing in it is verified.

    ``qop`` None means the peer speaks the form of RFC 2069; then ``cnonce`` and ``nc_text`` are empty and ``nc`` is 0.
    A plain class with slots: one is made for every request, and a frozen dataclass costs more.
    """

    __slots__ = ("algorithm", "cnonce", "nc", "nc_text", "nonce", "qop", "realm", "response", "uri", "username")

    username: bytes
    realm: bytes
    nonce: bytes
    uri: bytes
    response: bytes
    algorithm: bytes | None
    cnonce: bytes
    qop: bytes | None
    nc: int
    nc_text: bytes

    def __repr__(self) -> str:
        return f"<DigestCredentials of {self.username!r}>"


def parse_authorization(value: bytes) -> DigestCredentials | Malformed:
    """Read one `Authorization` field value (RFC 7616 §3.4). Total: any bytes give an answer.

    It does not look at the meaning of realm, nonce, uri, algorithm or qop. `OTHER_SCHEME` is the answer to every
    scheme that is not Digest, however broken the rest is.
    """
    if len(value) > MAX_AUTHORIZATION:
        return _TOO_LONG
    if value[:7] != b"Digest " and (fault := _scheme_fault(value)):
        return fault
    params = parse_params(value[6:])
    if params is None:
        return _GRAMMAR
    found = DigestCredentials()
    try:
        found.username = params[b"username"]
        found.realm = params[b"realm"]
        found.nonce = params[b"nonce"]
        found.uri = uri = params[b"uri"]
        found.response = params[b"response"]
        found.algorithm = params.get(b"algorithm")
        found.qop = qop = params.get(b"qop")
        if qop is None:
            found.cnonce = found.nc_text = b""
            found.nc = 0
        else:
            found.cnonce = params[b"cnonce"]
            found.nc_text = nc = params[b"nc"]
            # unhexlify is the strict one: int() takes signs, underscores, spaces and 0x.
            found.nc = int.from_bytes(unhexlify(nc), "big")
            if len(nc) != 8 or found.nc == 0:
                return _NC
    except KeyError:
        return _USERNAME_EXT if b"username*" in params else _MISSING
    except HexError:
        return _NC
    if len(value) - len(uri) > MAX_AUTHORIZATION_BESIDE_URI:
        return _TOO_LONG
    if b"userhash" in params or b"username*" in params:
        return _extras_fault(params) or found
    return found


def _scheme_fault(value: bytes) -> Malformed | None:
    scheme, _, rest = value.lstrip(b" \t").partition(b" ")
    if scheme.lower() != b"digest":
        return OTHER_SCHEME if scheme.rstrip(b",").lower() != b"digest" else _GRAMMAR
    return None if rest and value[:1] not in b" \t" else _GRAMMAR


def _extras_fault(params: Mapping[bytes, bytes]) -> Malformed | None:
    if b"username*" in params:
        return _USERNAME_EXT
    if params.get(b"userhash", b"false").lower() != b"false":
        return _USERHASH
    return None


def build_authorization(
    *,
    username: bytes,
    realm: bytes,
    nonce: bytes,
    uri: bytes,
    algorithm: Algorithm,
    cnonce: bytes,
    nc: bytes,
    response: bytes,
    opaque: bytes | None = None,
) -> bytes:
    """An `Authorization` value for ``qop=auth``. It does not check its arguments: visible ASCII and spaces only."""
    return b"".join(
        (
            *(b"Digest username=", quote(username), b", realm=", quote(realm), b", nonce=", quote(nonce)),
            *(b", uri=", quote(uri), b", algorithm=", algorithm.encode(), b", qop=auth, nc=", nc),
            *(b", cnonce=", quote(cnonce), b', response="', response, b'"'),
            b"" if opaque is None else b", opaque=" + quote(opaque),
        )
    )


# --- WWW-Authenticate ------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """A Digest challenge as it came. ``algorithm`` is None when it names one that we do not know."""

    realm: str
    nonce: bytes
    algorithm: Algorithm | None
    qop: frozenset[bytes]
    opaque: bytes | None = None
    is_stale: bool = False


def build_challenge(*, realm: str, nonce: bytes, algorithm: Algorithm, stale: bool = False) -> bytes:
    """The value of a `WWW-Authenticate` field with one Digest challenge (RFC 7616 §3.3)."""
    return b'Digest realm=%b, qop="auth", algorithm=%b, nonce=%b%b' % (
        *(quote(realm.encode()), algorithm.encode(), quote(nonce)),
        b", stale=true" if stale else b"",
    )


def parse_challenges(values: Iterable[bytes]) -> list[Challenge]:
    """The Digest challenges in all `WWW-Authenticate` values of one answer, in their order (RFC 9110 §11.6.1).

    Other schemes and malformed challenges are left out; so is everything beyond `MAX_CHALLENGE_BYTES` and
    `MAX_CHALLENGES`.
    """
    found: list[Challenge] = []
    room = MAX_CHALLENGE_BYTES
    for value in values:
        room -= len(value)
        if room < 0:
            break
        for scheme, params in _schemes(value):
            if scheme == b"digest" and (challenge := _challenge(params)) is not None:
                found.append(challenge)
    return found[:MAX_CHALLENGES]


def _schemes(value: bytes) -> list[tuple[bytes, bytes]]:
    """Cut a value into (lower-case scheme, its parameters): a scheme starts where a token is not followed by "="."""
    schemes: list[tuple[bytes, list[bytes]]] = []
    for element in split_list(value) or ():
        first, space, rest = element.replace(b"\t", b" ").partition(b" ")
        if is_token(first) and not rest.lstrip(b" ").startswith(b"="):
            schemes.append((first.lower(), [element[len(first) :]] if space else []))
        elif schemes:
            schemes[-1][1].append(element)
    return [(scheme, b",".join(params)) for scheme, params in schemes]


def _challenge(text: bytes) -> Challenge | None:
    params = parse_params(text)
    if params is None or b"realm" not in params or not params.get(b"nonce"):
        return None
    try:
        algorithm: Algorithm | None = Algorithm(params.get(b"algorithm", b"MD5").decode().upper())
    except ValueError:
        algorithm = None
    return Challenge(
        realm=params[b"realm"].decode(),  # parse_params lets nothing but ASCII pass
        nonce=params[b"nonce"],
        algorithm=algorithm,
        qop=frozenset(qop.strip(b" \t").lower() for qop in params.get(b"qop", b"").split(b",")),
        opaque=params.get(b"opaque"),
        is_stale=params.get(b"stale", b"").lower() == b"true",
    )


# --- The answering side ----------------------------------------------------------------------------------------------


class DigestClient:
    """Credentials that answer challenges of one protection space; shared by all connections of one agent.

    One nonce serves many connections: ``nc`` is a counter here, and the gateway accepts them out of order within its
    window. Not for use from several threads. Its repr shows the user only.

    Args:
        user: visible ASCII without ":" (RFC 7616 §3.4.4); anything else is a ValueError.
        password: normalised to NFC, sent as UTF-8 into the hash, kept in memory for new realms.
        algorithms: what it may use, most wanted first. MD5 only if named here.
        entropy: gives that many unpredictable bytes, for the client nonce (`os.urandom`, `secrets.token_bytes`).
    """

    def __init__(
        self,
        user: str,
        password: str,
        *,
        entropy: Callable[[int], bytes],
        algorithms: Sequence[Algorithm] = (Algorithm.SHA_256, Algorithm.SHA_512_256),
    ) -> None:
        if not user or not user.isascii() or not user.isprintable() or ":" in user:
            raise ValueError("a Digest user name is visible ASCII without a colon")
        self._user = user
        self._password = password
        self._algorithms = tuple(algorithms)
        self._entropy = entropy
        self._challenge: Challenge | None = None
        self._algorithm = Algorithm.SHA_256
        self._ha1 = b""
        self._ha1_of: tuple[str, Algorithm] | None = None
        self._cnonce = b""
        self._nc = 0
        self._has_answered = False

    def __repr__(self) -> str:
        return f"<DigestClient of {self._user!r}>"

    def authorize(self, method: bytes, uri: bytes) -> bytes | None:
        """The `Authorization` value for one request, each with its own ``nc``; None before the first challenge.

        ``uri`` is the request target exactly as it will stand in the request line, ``method`` as it will be sent.
        """
        challenge = self._challenge
        if challenge is None or self._nc >= MAX_NC:
            self._challenge = None
            return None
        self._nc += 1
        self._has_answered = True
        nc = b"%08x" % self._nc
        return build_authorization(
            username=self._user.encode(),
            realm=challenge.realm.encode(),
            nonce=challenge.nonce,
            uri=uri,
            algorithm=self._algorithm,
            cnonce=self._cnonce,
            nc=nc,
            response=response(
                self._algorithm,
                ha1=self._ha1,
                nonce=challenge.nonce,
                nc=nc,
                cnonce=self._cnonce,
                method=method,
                uri=uri,
            ),
            opaque=challenge.opaque,
        )

    def challenged(self, values: Iterable[bytes], *, answered: bool | None = None) -> bool:
        """Take the `WWW-Authenticate` values of a 401; whether the same request is worth another try.

        False means: no challenge that we can answer, or the gateway looked at our credentials and refused them. A new
        challenge is taken up either way. A caller bounds its tries: a peer may say ``stale=true`` for ever.

        Args:
            answered: whether the refused request carried credentials. None goes by whether any were made since the
                last challenge, which is right for one connection at a time; several need to say it.
        """
        was_answered = self._has_answered if answered is None else answered
        self._has_answered = False
        usable = [challenge for challenge in parse_challenges(values) if self._can_answer(challenge)]
        if not usable:
            return False
        self._take(min(usable, key=lambda challenge: self._algorithms.index(challenge.algorithm or Algorithm.MD5)))
        return not was_answered or any(challenge.is_stale for challenge in usable)

    def accepted(self, values: Iterable[bytes]) -> None:
        """Take the `Authentication-Info` values of a good answer: ``nextnonce`` replaces the nonce (RFC 7616 §3.5)."""
        for value in values:
            params = parse_params(value) if len(value) <= MAX_CHALLENGE_BYTES else None
            nonce = params.get(b"nextnonce") if params else None
            if nonce and self._challenge is not None and nonce != self._challenge.nonce:
                self._take(replace(self._challenge, nonce=nonce))

    def _can_answer(self, challenge: Challenge) -> bool:
        return challenge.algorithm in self._algorithms and b"auth" in challenge.qop

    def _take(self, challenge: Challenge) -> None:
        if self._challenge is not None and challenge.nonce == self._challenge.nonce:
            return  # its counter goes on
        algorithm = challenge.algorithm or Algorithm.MD5
        if self._ha1_of != (challenge.realm, algorithm):
            self._ha1 = ha1(self._user, challenge.realm, self._password, algorithm).encode()
            self._ha1_of = (challenge.realm, algorithm)
        self._challenge, self._algorithm, self._nc = challenge, algorithm, 0
        self._cnonce = self._entropy(12).hex().encode()
