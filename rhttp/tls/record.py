"""Reading and writing TLS records with one copy: what `Connection.recv` and `.send` do, without their detours.

pyOpenSSL takes new memory for every read and wraps every buffer. These two call the same functions of OpenSSL through
the same binding (`rhttp.tls.binding`) and raise the same errors.
"""

from __future__ import annotations

from typing import Any, Final

from OpenSSL import SSL

from rhttp.tls.binding import connection_of, ffi, forget_alpn, lib, raise_error, ssl_pointer

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
_WANT_READ: Final = lib.SSL_ERROR_WANT_READ
_WANT_WRITE: Final = lib.SSL_ERROR_WANT_WRITE

_BEFORE: Final = b"before SSL initialization"
"""OpenSSL's name for the state in which a server waits for a hello, or for the rest of one."""

# What a step of a handshake ended with.
SHAKEN: Final = 0
WANTS_READ: Final = 1
WANTS_WRITE: Final = 2


def _on_event(ssl: Any, where: int, code: int) -> None:
    if where == SSL.SSL_CB_READ_ALERT and not code & 0xFF:
        connection = connection_of(ssl)
        note = None if connection is None else connection.get_app_data()
        if note is not None:
            note.has_ended = True


_EVENT: Final = ffi.callback("void (*)(const SSL *, int, int)", _on_event)


def watch_end(connection: SSL.Connection) -> None:
    """From now on note a close_notify: ``has_ended`` of the connection's application data becomes true.

    OP_IGNORE_UNEXPECTED_EOF makes OpenSSL report a bare FIN as one, in its flags as well; only the alert tells. To be
    called when the handshake is done: during it OpenSSL would call some twenty times for nothing. What only the
    handshake needed is let go as well.
    """
    lib.SSL_set_info_callback(ssl_pointer(connection), _EVENT)
    forget_alpn(connection)


def do_handshake(connection: SSL.Connection) -> int:
    """Go on with the handshake: `SHAKEN`, `WANTS_READ` or `WANTS_WRITE` (the usual ends, so no exceptions).

    Raises:
        SSL.Error: as `SSL.Connection.do_handshake`, but neither `WantReadError` nor `WantWriteError`.
    """
    ssl = ssl_pointer(connection)
    _clear()
    result: int = _shake(ssl)
    if result == 1:
        return SHAKEN
    error = _error(ssl, result)
    if error == _WANT_READ:
        return WANTS_READ
    if error == _WANT_WRITE:
        return WANTS_WRITE
    raise_error(connection, ssl, result)
    return WANTS_READ


def has_taken_hello(connection: SSL.Connection) -> bool:
    """Whether a handshake of ours as a server is past the client's hello."""
    return connection.get_state_string() != _BEFORE


def shutdown(connection: SSL.Connection) -> None:
    """Send close_notify, once; a peer that is gone need not hear it."""
    ssl = ssl_pointer(connection)
    if not _shut_down(ssl) & SSL.SENT_SHUTDOWN:
        _clear()
        _shutdown(ssl)


def read(connection: SSL.Connection) -> bytes | None:
    """At most one record's plaintext; None when there is no whole record to read now (the usual end, so no exception).

    Raises:
        SSL.Error: as `SSL.Connection.recv`, but not `WantReadError`.
    """
    ssl = ssl_pointer(connection)
    _clear()  # SSL_get_error takes whatever another connection left in the thread's queue for this one's
    count: int = _read(ssl, _BUFFER, RECORD)
    if count > 0:
        data: bytes = _unpack(_BUFFER, count)
        return data
    if _error(ssl, count) == _WANT_READ:
        return None
    raise_error(connection, ssl, count)
    return None


def write(connection: SSL.Connection, data: bytes | memoryview) -> int:
    """Write at most one record; answer how many bytes were taken.

    Raises:
        SSL.Error: as `SSL.Connection.send`; after `WantWriteError` the same bytes must be given again.
    """
    ssl = ssl_pointer(connection)
    plain = data if type(data) is bytes else ffi.from_buffer(data)
    _clear()
    count: int = _write(ssl, plain, len(data))
    if count <= 0:
        raise_error(connection, ssl, count)
    return count
