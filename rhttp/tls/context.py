"""TLS settings of both sides: versions, ciphers, groups, signatures, ALPN, no resumption, and verification inside the
handshake.

Resumption is off in both of its forms: a resumed session never calls the verify callback, so it would let a peer in
that nobody looked at.

Trust: meets certificates of untrusted peers.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from OpenSSL import SSL, crypto

from rhttp.tls.binding import context_pointer, lib, use_private_key
from rhttp.tls.handshake import (
    HTTP11,
    MAX_DEPTH,
    Verify,
    choose_http11,
    send_leaf_alone_where_known,
    verify_with,
)

# TLS 1.2 suites: forward secrecy and AEAD only. TLS 1.3 has no others.
CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
GROUPS: Final = b"?*X25519MLKEM768/?*X25519:P-256/P-384"
"""Key exchange, in the words of OpenSSL 3.5 and later: a star is a share that a client sends with its hello, ``?``
something that this library need not know (FIPS), a slash an order that holds although the client sent a share for a
later one. No finite fields: an answer in them costs a server many times what asking costs the client."""
SIGNATURES: Final = b"ecdsa_secp256r1_sha256:ecdsa_secp384r1_sha384:ed25519:rsa_pss_rsae_sha256:mldsa44:mldsa65:mldsa87"
"""What the certificates of a home have, and their signatures: `pki.keys` and `pki.signatures` make no other. TLS 1.2
has no ML-DSA."""


def server_context(
    *, chain: bytes, key: bytes, anchors: Sequence[bytes], intermediates: Sequence[bytes], verify: Verify
) -> SSL.Context:
    """A context for listeners that demand a client certificate.

    Args:
        chain: PEM, our certificate and its issuing CA.
        key: PEM, unencrypted.
        anchors: PEM of trust anchors.
        intermediates: PEM of issuing CAs, so that peers that send only their leaf can be verified.
        verify: decides after OpenSSL has accepted; both must accept.

    Raises:
        ValueError, SSL.Error: the certificate or key cannot be used.
    """
    context = _context(SSL.TLS_SERVER_METHOD)
    _present(context, chain, key)
    store = context.get_cert_store()
    assert store is not None
    for pem in (*anchors, *intermediates):
        certificate = x509.load_pem_x509_certificate(pem)
        store.add_cert(crypto.X509.from_cryptography(certificate))
        context.add_client_ca(certificate)
    # A path may end at an issuing CA, which is as trusted as the root that signed it: one signature less to check.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    verify_with(context, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, verify)
    context.set_verify_depth(MAX_DEPTH)
    choose_http11(context)
    return context


def anonymous_context(*, chain: bytes, key: bytes) -> SSL.Context:
    """A context for a listener that asks for no certificate; `chain` and `key` as in `server_context`.

    Raises:
        ValueError, SSL.Error: the certificate or key cannot be used.
    """
    context = _context(SSL.TLS_SERVER_METHOD)
    _present(context, chain, key)
    choose_http11(context)
    return context


def client_context(*, chain: bytes | None, key: bytes | None, anchors: Sequence[bytes], host: str) -> SSL.Context:
    """A context that dials: verifies the server's path, purpose and name (RFC 9525) inside the handshake.

    Of a ``chain`` only the first certificate is sent to a server that names its issuer among the authorities that it
    takes; the others are sent to any other server.
    """
    context = _context(SSL.TLS_CLIENT_METHOD)
    if chain is not None and key is not None:
        certificates = _present(context, chain, key)
        if len(certificates) > 1:
            leaf_alone = _context(SSL.TLS_CLIENT_METHOD)
            _present(leaf_alone, certificates[0].public_bytes(Encoding.PEM), key)
            send_leaf_alone_where_known(context, leaf_alone)
    store = context.get_cert_store()
    assert store is not None
    for pem in anchors:
        store.add_cert(crypto.X509.from_cryptography(x509.load_pem_x509_certificate(pem)))
    verify_with(context, SSL.VERIFY_PEER, lambda path: check_service_identity(path.certificates()[0], host))
    context.set_verify_depth(MAX_DEPTH)
    context.set_alpn_protos([HTTP11])
    return context


def unsafe_client_context() -> SSL.Context:
    """A context that dials and takes any certificate: whoever uses it knows by other means what it reads, and tells
    nothing that is not everybody's."""
    context = _context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([HTTP11])
    return context


def _context(method: int) -> SSL.Context:
    context = SSL.Context(method)
    context.set_min_proto_version(SSL.TLS1_2_VERSION)
    context.set_cipher_list(CIPHERS)
    # pyOpenSSL offers neither; without them the library's own lists hold, which grow with its versions.
    if not lib.SSL_CTX_set1_curves_list(context_pointer(context), GROUPS):
        raise ValueError("OpenSSL does not take the list of groups")
    if not lib.SSL_CTX_set1_sigalgs_list(context_pointer(context), SIGNATURES):
        raise ValueError("OpenSSL does not take the list of signature algorithms")
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    context.set_options(
        SSL.OP_NO_TICKET
        | SSL.OP_NO_COMPRESSION
        | SSL.OP_CIPHER_SERVER_PREFERENCE
        | SSL.OP_NO_RENEGOTIATION
        | SSL.OP_IGNORE_UNEXPECTED_EOF
    )
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    return context


def _present(context: SSL.Context, chain: bytes, key: bytes) -> list[x509.Certificate]:
    """Have it show these certificates; answers them."""
    certificates = x509.load_pem_x509_certificates(chain)
    context.use_certificate(certificates[0])
    for certificate in certificates[1:]:
        context.add_extra_chain_cert(certificate)
    use_private_key(context, key)
    context.check_privatekey()
    return certificates


def check_service_identity(certificate: x509.Certificate, host: str) -> str:
    """Match a server certificate with the host that was dialled (RFC 9525): DNS names and IP addresses of its SAN.

    Raises:
        ServerNameMismatch: none of them is ``host``.
    """
    try:
        san = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        raise ServerNameMismatch(host) from None
    address = _address(host)
    if address is not None:
        # RFC 9525 section 6.2: an address is matched with addresses only, never with a DNS name of the same spelling.
        if address in san.get_values_for_type(x509.IPAddress):
            return host
        raise ServerNameMismatch(host)
    labels = host.lower().rstrip(".").split(".")
    for name in san.get_values_for_type(x509.DNSName):
        pattern = name.lower().split(".")
        if pattern == labels or (pattern[0] == "*" and len(pattern) > 2 and labels[0] and pattern[1:] == labels[1:]):
            return host
    raise ServerNameMismatch(host)


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(host.strip("[]"))
    except ValueError:
        return None


class ServerNameMismatch(Exception):  # noqa: N818 - says what is the case
    """The server's certificate is for other names than the one that was dialled."""

    code = "server_name"


def openssl_reason(error: SSL.Error) -> str:
    """OpenSSL's own words for a failed handshake; they contain nothing secret."""
    try:
        return str(error.args[0][-1][2]) or "tls"
    except (IndexError, TypeError):
        return "tls"
