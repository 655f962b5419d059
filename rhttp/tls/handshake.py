"""What OpenSSL calls back while it shakes hands, without pyOpenSSL's detours: the peer's path, ALPN, what we present.

pyOpenSSL wraps every certificate of a path and hands it over one by one; to read one costs a round through DER. Here
the path is taken once, when OpenSSL has accepted all of it, and told by the SHA-256 of each certificate: whoever knows
these need not read them again. As in `rhttp.tls.record`, the functions are those that pyOpenSSL itself calls.

Trust: meets certificates of untrusted peers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from cryptography import x509
from OpenSSL import SSL

from rhttp.tls.binding import certificate_at, context_pointer, ffi, lib, set_verify

MAX_DEPTH: Final = 4
HTTP11: Final = b"http/1.1"
_OFFER: Final = b"\x08http/1.1"

# One of each for the process: whoever has a digest made takes it out before anybody else can have one made.
_SHA256: Final = lib.EVP_get_digestbyname(b"SHA256")
_DIGEST: Final = ffi.new("unsigned char[]", 32)
_DIGEST_SIZE: Final = ffi.new("unsigned int *")
_DIGEST_BYTES: Final = ffi.buffer(_DIGEST, 32)
_PROTOCOL: Final = ffi.new("unsigned char[]", HTTP11)

_digest: Final = lib.X509_digest
_error_of: Final = lib.X509_STORE_CTX_get_error
_depth_of: Final = lib.X509_STORE_CTX_get_error_depth
_set_error: Final = lib.X509_STORE_CTX_set_error
_chain_of: Final = lib.X509_STORE_CTX_get1_chain
_size_of: Final = lib.sk_X509_num
_at: Final = lib.sk_X509_value
_free_chain: Final = lib.sk_X509_free
_free: Final = lib.X509_free
_ACCEPTED: Final[int] = lib.X509_V_OK
_REVOKED: Final = 23
"""``X509_V_ERR_CERT_REVOKED`` (OpenSSL's x509_vfy.h), which makes the alert ``certificate_revoked``."""
_CHOSEN: Final[int] = lib.SSL_TLSEXT_ERR_OK
_REFUSED: Final[int] = lib.SSL_TLSEXT_ERR_ALERT_FATAL


class Handshake:
    """What a handshake finds out: the verified peer, or the reason of the refusal."""

    __slots__ = ("has_begun", "peer", "refusal")

    def __init__(self) -> None:
        self.peer: object = None
        self.refusal: str | None = None
        self.has_begun = False
        """There was something to read, or to say first."""


class Current:
    """Whose handshake OpenSSL is at work on, or what it met in a record.

    It calls back only within our own calls, and one at a time, so a callback need not look up in a table whom it was
    called for. Whoever calls puts the handshake there and takes it out again; with a connection that others made there
    is none.
    """

    __slots__ = ("handshake", "has_ended")

    def __init__(self) -> None:
        self.handshake: Handshake | None = None
        self.has_ended = False
        """Whether the read that is under way, or was the last, met a close_notify."""


CURRENT: Final = Current()


class PresentedPath:
    """A path that OpenSSL accepted, leaf first: by the SHA-256 of each certificate, and parsed when somebody asks."""

    __slots__ = ("_pointers", "fingerprints")

    def __init__(self, pointers: list[Any]) -> None:
        self._pointers = pointers
        self.fingerprints: list[bytes] = []
        for pointer in pointers:
            if not _digest(pointer, _SHA256, _DIGEST, _DIGEST_SIZE) or _DIGEST_SIZE[0] != 32:
                raise ValueError("no digest of a certificate")
            self.fingerprints.append(_DIGEST_BYTES[:])

    def certificates(self) -> list[x509.Certificate]:
        """All of them, parsed anew."""
        found = []
        for pointer in self._pointers:
            lib.X509_up_ref(pointer)
            found.append(certificate_at(pointer).to_cryptography())
        return found


Verify = Callable[[PresentedPath], object]
"""Takes a path, answers the verified peer; raises an exception with a ``code`` or ``reason`` to refuse."""


def verify_with(context: SSL.Context, mode: int, verify: Verify) -> None:
    """Have ``verify`` decide once OpenSSL has accepted a path; both must accept. ``mode`` as `SSL.Context.set_verify`.

    A connection is served whose `Handshake` is `CURRENT`; any other is refused.
    """

    def on_verify(ok: int, store: Any) -> int:
        # An exception must not leave this callback: it could surface in another connection's turn.
        try:
            handshake = CURRENT.handshake
            if handshake is None:
                return 0
            if not ok:
                handshake.refusal = handshake.refusal or f"openssl_{_error_of(store)}"
                return 0
            if _depth_of(store) == 0:  # the last call: OpenSSL goes from the anchor down to the leaf
                handshake.peer = None
                if not _judge(handshake, store, verify):
                    return 0
            _set_error(store, _ACCEPTED)
            return 1
        except Exception:
            return 0

    callback = ffi.callback("int (*)(int, X509_STORE_CTX *)", on_verify, error=0)
    set_verify(context, mode, callback)


def _judge(handshake: Handshake, store: Any, verify: Verify) -> bool:
    try:
        chain = _chain_of(store)
        pointers = [ffi.gc(_at(chain, n), _free) for n in range(_size_of(chain))]
        _free_chain(chain)
        if not 1 <= len(pointers) <= MAX_DEPTH + 1:
            return False
        handshake.peer = verify(PresentedPath(pointers))
        return True
    except Exception as fault:
        handshake.refusal = str(getattr(fault, "reason", None) or getattr(fault, "code", None) or "internal")
        if handshake.refusal == "revoked":  # its holder may know, and should; for the rest the alert is internal_error
            _set_error(store, _REVOKED)
        return False


def _on_alpn(_ssl: Any, out: Any, out_size: Any, offered: Any, size: int, _: Any) -> int:
    """RFC 7301: HTTP/1.1, wherever it stands in the client's list."""
    names: bytes = ffi.buffer(offered, size)[:]
    at = 0
    while at < len(names):
        end = at + 1 + names[at]
        if names[at:end] == _OFFER:
            out[0] = _PROTOCOL
            out_size[0] = len(HTTP11)
            return _CHOSEN
        at = end
    handshake = CURRENT.handshake
    if handshake is not None:
        handshake.refusal = "alpn"
    return _REFUSED


_ALPN: Final = ffi.callback(
    "int (*)(SSL *, unsigned char **, unsigned char *, const unsigned char *, unsigned int, void *)",
    _on_alpn,
    error=_REFUSED,
)


def choose_http11(context: SSL.Context) -> None:
    """Agree on HTTP/1.1 with whoever offers protocols; who offers others only gets no_application_protocol."""
    lib.SSL_CTX_set_alpn_select_cb(context_pointer(context), _ALPN, ffi.NULL)


def _on_certificate_request(ssl: Any, leaf_alone: Any) -> int:
    # By then the server is verified, which is who wrote these names.
    names = lib.SSL_get_client_CA_list(ssl)
    issuer = lib.X509_get_issuer_name(lib.SSL_get_certificate(ssl))
    for n in range(lib.sk_X509_NAME_num(names)):
        if lib.X509_NAME_cmp(lib.sk_X509_NAME_value(names, n), issuer) == 0:
            lib.SSL_set_SSL_CTX(ssl, context_pointer(ffi.from_handle(leaf_alone)))
            break
    return 1


_CERTIFICATE_REQUEST: Final = ffi.callback("int (*)(SSL *, void *)", _on_certificate_request, error=1)
_NO_AUTO_CHAIN: Final = 8
"""``SSL_MODE_NO_AUTO_CHAIN`` (OpenSSL's ssl.h): send what was given, and nothing that is found among the anchors."""


def send_leaf_alone_where_known(context: SSL.Context, leaf_alone: SSL.Context) -> None:
    """Go on with ``leaf_alone`` once a server names the leaf's issuer among the authorities that it takes.

    RFC 8446 section 4.2.4 and RFC 5246 section 7.4.4: what they are named for is choosing a certificate. A server has
    those that it names, and one that is sent to it again it keeps as long as the connection. ``leaf_alone`` has to be
    like ``context`` but for the chain, and ``context`` has a chain; its application data is ours from now on.
    """
    handle = ffi.new_handle(leaf_alone)
    context.set_mode(_NO_AUTO_CHAIN)
    context.set_app_data((leaf_alone, handle))  # both have to live as long as it does
    lib.SSL_CTX_set_cert_cb(context_pointer(context), _CERTIFICATE_REQUEST, handle)
