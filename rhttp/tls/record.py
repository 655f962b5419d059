"""OpenSSL's connection on a socket: made, shaken, read and written with one copy, without pyOpenSSL's object on it.

pyOpenSSL takes new memory for every read and wraps every buffer, and its connection takes memory as long as it lives.
Here a connection is OpenSSL's own ``SSL *``, freed with its last reference. These functions call the same ones of
OpenSSL through the same binding (`rhttp.tls.binding`) and raise the same errors. Whoever has a connection keeps its
context, too: the callbacks live there.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL

from rhttp.tls.binding import context_pointer, ffi, lib, raise_error
from rhttp.tls.handshake import CURRENT, Handshake

RECORD: Final = 16384
"""Plaintext of the largest record; a shorter read means that the socket holds no whole record more."""

# One for the process: whoever reads takes the bytes out before anybody else can read.
_BUFFER: Final = ffi.new("char[]", RECORD)
_read: Final = lib.SSL_read
_write: Final = lib.SSL_write
_unpack: Final = ffi.unpack
_clear: Final = lib.ERR_clear_error
_error: Final = lib.SSL_get_error
_shake: Final = lib.SSL_do_handshake
_shutdown: Final = lib.SSL_shutdown
_shut_down: Final = lib.SSL_get_shutdown
_pending: Final = lib.SSL_pending
_WANT_READ: Final = lib.SSL_ERROR_WANT_READ
_WANT_WRITE: Final = lib.SSL_ERROR_WANT_WRITE

_BEFORE: Final = b"before SSL initialization"
"""OpenSSL's name for the state in which a server waits for a hello, or for the rest of one."""

# What a step of a handshake ended with.
SHAKEN: Final = 0
WANTS_READ: Final = 1
WANTS_WRITE: Final = 2


# The versions that our contexts take, as OpenSSL writes them.
_VERSIONS: Final = {SSL.TLS1_2_VERSION: "TLSv1.2", SSL.TLS1_3_VERSION: "TLSv1.3"}
# Those of our list (`rhttp.tls.context`), by OpenSSL's names in small letters.
_GROUPS: Final[dict[bytes, str]] = {
    b"x25519mlkem768": "X25519MLKEM768",
    b"x25519": "x25519",
    b"secp256r1": "secp256r1",
    b"prime256v1": "secp256r1",
    b"secp384r1": "secp384r1",
}
_ALPN: Final = ffi.new("unsigned char **")
_ALPN_SIZE: Final = ffi.new("unsigned int *")


def accepting(context: SSL.Context, descriptor: int) -> Any:
    """A connection whose peer dialled us, before its handshake.

    Raises:
        MemoryError: OpenSSL has none.
    """
    ssl = _connection(context, descriptor)
    lib.SSL_set_accept_state(ssl)
    return ssl


def dialling(context: SSL.Context, descriptor: int, server_name: bytes | None) -> Any:
    """A connection that we dialled, before its handshake; `server_name` is what we ask for (RFC 6066).

    Raises:
        MemoryError: OpenSSL has none.
    """
    ssl = _connection(context, descriptor)
    lib.SSL_set_connect_state(ssl)
    if server_name is not None:
        lib.SSL_set_tlsext_host_name(ssl, server_name)
    return ssl


def _connection(context: SSL.Context, descriptor: int) -> Any:
    ssl = lib.SSL_new(context_pointer(context))
    if ssl == ffi.NULL:
        raise MemoryError
    ssl = ffi.gc(ssl, lib.SSL_free)
    if lib.SSL_set_fd(ssl, descriptor) != 1:
        raise MemoryError
    return ssl


def _on_event(_ssl: Any, where: int, code: int) -> None:
    if where == SSL.SSL_CB_READ_ALERT and not code & 0xFF:
        CURRENT.has_ended = True


_EVENT: Final = ffi.callback("void (*)(const SSL *, int, int)", _on_event)


def watch_end(ssl: Any) -> None:
    """From now on note a close_notify, for `met_end`.

    OP_IGNORE_UNEXPECTED_EOF makes OpenSSL report a bare FIN as one, in its flags as well; only the alert tells. To be
    called when the handshake is done: during it OpenSSL would call some twenty times for nothing.
    """
    lib.SSL_set_info_callback(ssl, _EVENT)


def do_handshake(ssl: Any, handshake: Handshake) -> int:
    """Go on with the handshake: `SHAKEN`, `WANTS_READ` or `WANTS_WRITE` (the usual ends, so no exceptions).

    Raises:
        SSL.Error: as `SSL.Connection.do_handshake`, but neither `WantReadError` nor `WantWriteError`.
    """
    _clear()
    CURRENT.handshake = handshake
    result: int = _shake(ssl)
    CURRENT.handshake = None
    if result == 1:
        return SHAKEN
    error = _error(ssl, result)
    if error == _WANT_READ:
        return WANTS_READ
    if error == _WANT_WRITE:
        return WANTS_WRITE
    raise_error(ssl, result)
    return WANTS_READ


def has_taken_hello(ssl: Any) -> bool:
    """Whether a handshake of ours as a server is past the client's hello."""
    state: bytes = ffi.string(lib.SSL_state_string_long(ssl))
    return state != _BEFORE


def version(ssl: Any) -> str:
    """The TLS version that was agreed on, as OpenSSL writes it (``TLSv1.3``)."""
    number: int = lib.SSL_version(ssl)
    return _VERSIONS.get(number, "unknown")


def group(ssl: Any) -> str:
    """The group in which keys were agreed on, by its name in IANA's registry; OpenSSL's names differ with the version
    of TLS."""
    name = lib.SSL_get0_group_name(ssl)
    return _GROUPS.get(ffi.string(name).lower(), "unknown") if name != ffi.NULL else "unknown"


def protocol(ssl: Any) -> bytes:
    """The ALPN protocol that was agreed on, or nothing."""
    lib.SSL_get0_alpn_selected(ssl, _ALPN, _ALPN_SIZE)
    size: int = _ALPN_SIZE[0]
    found: bytes = ffi.buffer(_ALPN[0], size)[:] if size else b""
    return found


def pending(ssl: Any) -> int:
    """Bytes that OpenSSL has read and deciphered, and nobody has taken."""
    count: int = _pending(ssl)
    return count


def shutdown(ssl: Any) -> None:
    """Send close_notify, once; a peer that is gone need not hear it."""
    if not _shut_down(ssl) & SSL.SENT_SHUTDOWN:
        _clear()
        _shutdown(ssl)


def met_end() -> bool:
    """Whether the last `read` of all met a close_notify, and not just a FIN; to be asked at once."""
    return CURRENT.has_ended


def read(ssl: Any) -> bytes | None:
    """At most one record's plaintext; None when there is no whole record to read now (the usual end, so no exception).

    Raises:
        SSL.Error: as `SSL.Connection.recv`, but not `WantReadError`.
    """
    _clear()  # SSL_get_error takes whatever another connection left in the thread's queue for this one's
    CURRENT.has_ended = False
    count: int = _read(ssl, _BUFFER, RECORD)
    if count > 0:
        data: bytes = _unpack(_BUFFER, count)
        return data
    if _error(ssl, count) == _WANT_READ:
        return None
    raise_error(ssl, count)
    return None


def write(ssl: Any, data: bytes | memoryview) -> int:
    """Write at most one record; answer how many bytes were taken.

    Raises:
        SSL.Error: as `SSL.Connection.send`; after `WantWriteError` the same bytes must be given again.
    """
    plain = data if type(data) is bytes else ffi.from_buffer(data)
    _clear()
    count: int = _write(ssl, plain, len(data))
    if count <= 0:
        raise_error(ssl, count)
    return count
