"""The private parts of pyOpenSSL that we stand on: all of them, and nowhere else.

pyOpenSSL does not promise to keep them, so they are looked for when this module is loaded, which everything does that
speaks TLS. Who finds one gone starts nothing: the error says what is missing, what is installed, and what is known to
be good. The functions here are those parts of its objects; what OpenSSL itself offers is in `lib` and `ffi`.

Trust: pure.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from OpenSSL import SSL, crypto

from rhttp.errors import UnfitLibrary

try:
    from OpenSSL import _util
except ImportError:
    _util = None  # type: ignore[assignment]

ffi: Final[Any] = getattr(_util, "ffi", None)
lib: Final[Any] = getattr(_util, "lib", None)

KNOWN_GOOD: Final = {"pyOpenSSL": "26.4.0", "cryptography": "50.0.2"}
"""What we are tested with, and lock."""

PARTS: Final[Mapping[str, str]] = {
    "OpenSSL._util.ffi": "NULL buffer callback from_buffer from_handle gc new new_handle string unpack",
    "OpenSSL._util.lib": (
        "BIO_free BIO_new_mem_buf ERR_clear_error EVP_PKEY_free EVP_get_digestbyname PEM_read_bio_PrivateKey"
        " SSL_CTX_set1_curves_list SSL_CTX_set1_sigalgs_list SSL_CTX_set_alpn_select_cb SSL_CTX_set_cert_cb"
        " SSL_CTX_set_verify SSL_CTX_use_PrivateKey SSL_ERROR_WANT_READ SSL_ERROR_WANT_WRITE"
        " SSL_TLSEXT_ERR_ALERT_FATAL SSL_TLSEXT_ERR_OK SSL_do_handshake SSL_free SSL_get0_alpn_selected"
        " SSL_get0_group_name SSL_get_certificate SSL_get_client_CA_list SSL_get_error SSL_get_shutdown SSL_new"
        " SSL_pending SSL_read SSL_set_SSL_CTX SSL_set_accept_state SSL_set_connect_state SSL_set_fd"
        " SSL_set_info_callback SSL_set_tlsext_host_name SSL_shutdown SSL_state_string_long SSL_version SSL_write"
        " X509_NAME_cmp X509_STORE_CTX_get1_chain X509_STORE_CTX_get_error X509_STORE_CTX_get_error_depth"
        " X509_STORE_CTX_set_error X509_V_OK X509_digest X509_free X509_get_issuer_name X509_up_ref"
        " sk_X509_NAME_num sk_X509_NAME_value sk_X509_free sk_X509_num sk_X509_value"
    ),
    "OpenSSL.SSL.Context": "_context _verify_callback _verify_helper",
    "OpenSSL.SSL.Connection": "_raise_ssl_error",
    "OpenSSL.crypto.X509": "_from_raw_x509_ptr",
}


def missing_parts() -> list[str]:
    """Those of `PARTS` that what is installed does not have."""
    context = SSL.Context(SSL.TLS_METHOD)
    places: dict[str, object] = {
        "OpenSSL._util.ffi": ffi,
        "OpenSSL._util.lib": lib,
        "OpenSSL.SSL.Context": context,
        "OpenSSL.SSL.Connection": SSL.Connection(context, None),
        "OpenSSL.crypto.X509": crypto.X509,
    }
    parts = [(place, name) for place, names in PARTS.items() for name in names.split()]
    return [f"{place}.{name}" for place, name in parts if not hasattr(places[place], name)]


def require_parts() -> None:
    """See to it that every part is there.

    Raises:
        UnfitLibrary: some are not.
    """
    missing = missing_parts()
    if missing:
        installed, good = _named({name: _version(name) for name in KNOWN_GOOD}), _named(KNOWN_GOOD)
        raise UnfitLibrary(
            f"the installed {installed} lacks what TLS needs here: {', '.join(missing)}; known to be good: {good}"
        )


def _version(name: str) -> str:
    from importlib.metadata import PackageNotFoundError, version  # here: it takes longer to load than all the rest

    try:
        return version(name)
    except PackageNotFoundError:
        return "of no version"


def _named(versions: Mapping[str, str]) -> str:
    return " with ".join(f"{name} {number}" for name, number in versions.items())


require_parts()


def context_pointer(context: SSL.Context) -> Any:
    """``SSL_CTX *`` of a context."""
    return context._context


_ANY: Final = SSL.Connection(SSL.Context(SSL.TLS_METHOD), None)
"""One of pyOpenSSL's connections, for what it knows of errors. Ours are OpenSSL's own: pyOpenSSL's takes a third of a
KiB besides, and is looked up in a table each time OpenSSL calls back."""


def raise_error(ssl: Any, result: int) -> None:
    """Raise what became of a call that ended with ``result``.

    Raises:
        SSL.Error: always.
    """
    _ANY._raise_ssl_error(ssl, result)


def set_verify(context: SSL.Context, mode: int, callback: Any) -> None:
    """Have OpenSSL ask ``callback`` itself; it is kept where pyOpenSSL keeps its own, with the context."""
    context._verify_helper = None
    context._verify_callback = callback
    lib.SSL_CTX_set_verify(context._context, mode, callback)


def certificate_at(pointer: Any) -> crypto.X509:
    """The certificate at an ``X509 *``, which belongs to it from now on."""
    return crypto.X509._from_raw_x509_ptr(pointer)


_NO_PASSPHRASE: Final = ffi.new("char[]", b"")
"""What a sealed PEM key is tried with, so that OpenSSL asks nobody at a terminal."""


def use_private_key(context: SSL.Context, pem: bytes) -> None:
    """Have the context sign with this key, which is PEM in the clear.

    OpenSSL reads it itself, from memory: pyOpenSSL takes key objects of `cryptography`, but none of ML-DSA, and no PEM.

    Raises:
        ValueError: it is no such key, or not that of the context's certificate.
    """
    bio = ffi.gc(lib.BIO_new_mem_buf(pem, len(pem)), lib.BIO_free)
    key = lib.PEM_read_bio_PrivateKey(bio, ffi.NULL, ffi.NULL, _NO_PASSPHRASE)
    if key != ffi.NULL and lib.SSL_CTX_use_PrivateKey(context._context, ffi.gc(key, lib.EVP_PKEY_free)) == 1:
        return
    lib.ERR_clear_error()
    raise ValueError("OpenSSL does not take the private key, or it is not the certificate's")
