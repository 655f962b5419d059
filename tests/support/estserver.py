"""A gateway as whoever enrols sees it: an enrolment listener and a TLS listener, in threads, with CAs of their own.

It answers properly until a test says otherwise, request by request.
"""

from __future__ import annotations

import base64
import functools
import http.server
import json
import secrets
import ssl
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final

from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs7
from cryptography.x509.oid import NameOID

from pki.issue import IssuerKey, certificate_pem, issue_ca, issue_leaf, issue_root
from pki.keys import PublicKey, generate_key, private_key_pem
from pki.names import Role, SpiffeId, parse_san
from rhttp.digest.formula import (
    Algorithm,
    DigestCredentials,
    build_challenge,
    ha1,
    parse_authorization,
    response,
)
from rhttp.worker.est import KEY_TYPES

DOMAIN = "example.internal"
TOKEN_ID = "et_0123456789abcdef"
SECRET = "correct-Horse_battery.Staple"
TOKEN = f"{TOKEN_ID}.{SECRET}"
PASSWORD = "pass-W0rd-of-w1"
REALM = f"rhttp@{DOMAIN}"
NAMES = ("DNS:localhost", "IP:127.0.0.1")


def entropy() -> bytes:
    return secrets.token_bytes(20)


KNOWN_TO_SSL: Final = tuple(kind for kind in KEY_TYPES if not kind.startswith("mldsa"))
"""Kinds of key that this server's TLS takes: the standard library's OpenSSL may know no ML-DSA. Those enrol in
`tests/integration/test_enrolment.py`."""


class Cas:
    """A root and its issuing CAs, as of now."""

    def __init__(self) -> None:
        self.at = datetime.now(UTC)
        key = generate_key()
        root = issue_root(key=key, trust_domain=DOMAIN, at=self.at, entropy=entropy())
        self.root = IssuerKey(certificate=root, key=key)
        self.issuing = {role: self._issuing(role) for role in Role}

    def _issuing(self, role: Role) -> IssuerKey:
        key = generate_key()
        made = issue_ca(
            role, root=self.root, public_key=key.public_key(), trust_domain=DOMAIN, at=self.at, entropy=entropy()
        )
        return IssuerKey(certificate=made, key=key)

    @property
    def fingerprint(self) -> str:
        return self.root.certificate.fingerprint(SHA256()).hex()

    def leaf(
        self,
        public_key: PublicKey,
        role: Role = Role.WORKER,
        name: str = "w1",
        *,
        at: datetime | None = None,
        lifetime: timedelta = timedelta(hours=8),
    ) -> x509.Certificate:
        who = SpiffeId(trust_domain=DOMAIN, role=role, name=name, pool="render" if role is Role.WORKER else None)
        return issue_leaf(
            who,
            issuer=self.issuing[role],
            public_key=public_key,
            at=at or self.at,
            entropy=entropy(),
            lifetime=lifetime,
        )

    def server(
        self, names: Sequence[str] = NAMES, *, at: datetime | None = None, lifetime: timedelta | None = None
    ) -> tuple[bytes, bytes]:
        """(chain, key) of a server, in PEM."""
        key = generate_key()
        leaf = issue_leaf(
            [parse_san(name) for name in names],
            issuer=self.issuing[Role.SERVER],
            public_key=key.public_key(),
            at=at or self.at,
            entropy=entropy(),
            lifetime=lifetime,
        )
        return certificate_pem(leaf, self.issuing[Role.SERVER].certificate), private_key_pem(key)


@functools.cache
def cas(number: int = 0) -> Cas:
    """CAs that are made once a run; `number` tells several apart."""
    return Cas()


def certs_only(*certificates: x509.Certificate) -> bytes:
    return base64.encodebytes(pkcs7.serialize_certificates(list(certificates), Encoding.DER))


@dataclass(frozen=True)
class Reply:
    """What is answered; `lost`: the connection is closed in place of an answer, after what a request does was done."""

    status: int = 200
    content: bytes = b""
    fields: dict[str, str] = field(default_factory=dict)
    lost: bool = False
    taken: Callable[[Any, Any], None] | None = None
    """Goes on with the connection (and what is read of it) in place of an answer."""


@dataclass(frozen=True)
class Seen:
    """One request."""

    method: str
    target: str
    fields: Any
    content: bytes
    peer: dict[str, Any]

    @property
    def step(self) -> str:
        return self.target.rsplit("/", 1)[-1]


def problem(status: int, title: str = "no", **fields: str) -> Reply:
    text = json.dumps({"type": "about:blank", "title": title, "status": status})
    return Reply(status, text.encode(), {"Content-Type": "application/problem+json", **fields})


Act = Callable[[Seen], Reply]


class EstServer:
    """Both listeners. `acts` says what the last segment of a path does; `replies` come before it, one a request."""

    def __init__(self, trust: Cas, scratch: Path, names: Sequence[str]) -> None:
        self.cas = trust
        self.seen: list[Seen] = []
        self.acts: dict[str, Act] = {
            "cacerts": self.cacerts,
            "simpleenroll": self.simpleenroll,
            "credentials": self.credentials,
            "simplereenroll": self.simplereenroll,
        }
        self.replies: dict[str, list[Reply | Act]] = {}
        self.certified: dict[bytes, x509.Certificate] = {}
        self.lifetime = timedelta(hours=1)
        """Of certificates that replace others."""
        self.keep_alive = True
        self._scratch = scratch
        self._nonces: set[bytes] = set()
        self._enrol_context = self._context(names)
        self._gateway_context = self._context(NAMES)
        root = scratch / "root.pem"
        root.write_bytes(certificate_pem(trust.root.certificate))
        self._gateway_context.load_verify_locations(root)
        self._gateway_context.verify_mode = ssl.CERT_REQUIRED
        self.enrolment = _Listener(self, self._enrol_context)
        self.gateway = _Listener(self, self._gateway_context)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.enrolment.server_port}"

    @property
    def gateway_url(self) -> str:
        return f"https://127.0.0.1:{self.gateway.server_port}"

    def steps(self) -> list[str]:
        return [seen.step for seen in self.seen]

    def show(self, chain: bytes, key: bytes) -> None:
        """From now on the enrolment listener shows this certificate."""
        self._load(self._enrol_context, chain, key)

    def _context(self, names: Sequence[str]) -> ssl.SSLContext:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._load(context, *self.cas.server(names))
        return context

    def _load(self, context: ssl.SSLContext, chain: bytes, key: bytes) -> None:
        place = self._scratch / "server.pem"
        place.write_bytes(chain + key)
        context.load_cert_chain(place)

    def answer(self, seen: Seen) -> Reply:
        self.seen.append(seen)
        queued = self.replies.get(seen.step)
        now = queued.pop(0) if queued else self.acts.get(seen.step, lambda _: problem(404))
        return now if isinstance(now, Reply) else now(seen)

    # ---- what a gateway does ----

    def cacerts(self, _seen: Seen) -> Reply:
        issuing = [issuer.certificate for issuer in self.cas.issuing.values()]
        return self.reply_certificates(self.cas.root.certificate, *issuing)

    def simpleenroll(self, seen: Seen) -> Reply:
        """Digest first; the same key gets the same certificate again."""
        if (refused := self.challenge(seen)) is not None:
            return refused
        request = x509.load_der_x509_csr(base64.b64decode(seen.content))
        assert request.is_signature_valid
        assert seen.fields["Content-Type"] == "application/pkcs10"
        asked = request.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        role = Role(seen.target.split("/")[-2])
        key: Any = request.public_key()
        name = str(asked[0].value) if asked else "w1"
        der = key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        made = self.cas.leaf(key, role, name, at=datetime.now(UTC), lifetime=self.lifetime)
        leaf = self.certified.setdefault(der, made)
        return self.reply_leaf(leaf, self.cas.issuing[role].certificate)

    def simplereenroll(self, seen: Seen) -> Reply:
        """Digest with the password, and the next certificate of whoever shows one."""
        (uri,) = (value for kind, value in seen.peer["subjectAltName"] if kind == "URI")
        name, role = uri.rsplit("/", 1)[-1], Role(seen.target.split("/")[-2])
        if (refused := self.challenge(seen, name, PASSWORD)) is not None:
            return refused
        request = x509.load_der_x509_csr(base64.b64decode(seen.content))
        assert request.is_signature_valid
        key: Any = request.public_key()
        leaf = self.cas.leaf(key, role, name, at=datetime.now(UTC), lifetime=self.lifetime)
        return self.reply_certificates(leaf, self.cas.issuing[role].certificate)

    def challenge(self, seen: Seen, user: str = TOKEN_ID, secret: str = SECRET) -> Reply | None:
        """A challenge, or None when the credentials are right: a token's, when no others are named."""
        value = seen.fields.get("Authorization")
        found = parse_authorization(value.encode()) if value is not None else None
        if isinstance(found, DigestCredentials) and found.nonce in self._nonces:
            hashed = ha1(user, REALM, secret, Algorithm.SHA_256).encode()
            right = response(
                Algorithm.SHA_256,
                ha1=hashed,
                nonce=found.nonce,
                nc=found.nc_text,
                cnonce=found.cnonce,
                method=seen.method.encode(),
                uri=seen.target.encode(),
            )
            if found.username == user.encode() and found.response == right and found.uri == seen.target.encode():
                return None
        nonce = secrets.token_hex(16).encode()
        self._nonces.add(nonce)
        made = build_challenge(realm=REALM, nonce=nonce, algorithm=Algorithm.SHA_256)
        return problem(401, "unauthenticated", **{"WWW-Authenticate": made.decode()})

    def credentials(self, seen: Seen) -> Reply:
        (uri,) = (value for kind, value in seen.peer["subjectAltName"] if kind == "URI")
        text = json.dumps({"user": uri.rsplit("/", 1)[-1], "password": PASSWORD})
        return Reply(200, text.encode(), {"Content-Type": "application/json", "Cache-Control": "no-store"})

    def reply_certificates(self, *certificates: x509.Certificate, **fields: str) -> Reply:
        kind = {"Content-Type": "application/pkcs7-mime; smime-type=certs-only"}
        return Reply(200, certs_only(*certificates), {**kind, **fields})

    def reply_leaf(self, *certificates: x509.Certificate) -> Reply:
        return self.reply_certificates(*certificates, **{"Rhttp-Gateway": self.gateway_url})


class _Listener(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def __init__(self, owner: EstServer, context: ssl.SSLContext) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.owner = owner
        self._context = context

    def get_request(self) -> tuple[Any, Any]:
        sock, address = super().get_request()
        sock.settimeout(30)
        return self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False), address

    def handle_error(self, _request: Any, _address: Any) -> None:
        """A peer that does not trust us goes away."""


class _Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and content are two writes
    server: _Listener

    def log_message(self, *_: object) -> None: ...

    def _serve(self) -> None:
        owner = self.server.owner
        content = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        connection: Any = self.connection
        peer = connection.getpeercert() or {}
        reply = owner.answer(Seen(self.command, self.path, self.headers, content, peer))
        if reply.taken is not None:
            self.close_connection = True
            reply.taken(connection, self.rfile)
            return
        if reply.lost:
            self.close_connection = True
            return
        self.send_response(reply.status)
        for name, value in reply.fields.items():
            self.send_header(name, value)
        if "Content-Length" not in reply.fields:
            self.send_header("Content-Length", str(len(reply.content)))
        if not owner.keep_alive or reply.fields.get("Connection") == "close":
            self.close_connection = True
        if not owner.keep_alive:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(reply.content)

    do_GET = _serve  # noqa: N815
    do_POST = _serve  # noqa: N815


@contextmanager
def est_server(trust: Cas | None = None, names: Sequence[str] = NAMES) -> Iterator[EstServer]:
    """One that serves until the block ends."""
    with tempfile.TemporaryDirectory() as scratch:
        server = EstServer(trust or cas(), Path(scratch), names)
        threads = [
            threading.Thread(target=one.serve_forever, args=(0.01,)) for one in (server.enrolment, server.gateway)
        ]
        for thread in threads:
            thread.start()
        try:
            yield server
        finally:
            for listener in (server.enrolment, server.gateway):
                listener.shutdown()
                listener.server_close()
            for thread in threads:
                thread.join(timeout=60)
