"""Which server certificates are for the host that was dialled, and what our contexts are set to."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from support.certs import a_key, authority, forge, root, server

from pki.issue import certificate_pem
from pki.keys import PrivateKey
from pki.names import Role
from rhttp.tls.context import ServerNameMismatch, check_service_identity, client_context, server_context


def certificate(*names: str) -> x509.Certificate:
    """A certificate with these DNS names and addresses, also ones that issuing would refuse."""
    san: list[x509.GeneralName] = []
    for name in names:
        try:
            san.append(x509.IPAddress(ipaddress.ip_address(name)))
        except ValueError:
            san.append(x509.DNSName(name.removeprefix("dns:")))
    return forge("common.example", extensions=[(x509.SubjectAlternativeName(san), False)]).certificate


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["gw.example.com"], "gw.example.com"),
        (["gw.example.com"], "GW.Example.COM"),
        (["GW.Example.COM"], "gw.example.com"),
        (["gw.example.com"], "gw.example.com."),
        (["other.example", "gw.example.com"], "gw.example.com"),
        (["*.example.com"], "gw.example.com"),
        (["localhost"], "localhost"),
        (["127.0.0.1"], "127.0.0.1"),
        (["::1"], "::1"),
        (["::1"], "[::1]"),
        (["::1"], "0:0:0:0:0:0:0:1"),
        (["2001:db8::a"], "2001:DB8::A"),
    ],
)
def test_service_identity_is_one_of_the_names(names: Sequence[str], host: str) -> None:
    """RFC 9525 section 6: without regard to case, to a final dot, or to how an address is written."""
    assert check_service_identity(certificate(*names), host) == host


@pytest.mark.parametrize(
    ("names", "host"),
    [
        (["gw.example.com"], "example.com"),
        (["example.com"], "gw.example.com"),
        (["gw.example.com"], "gw.example.com.evil.org"),
        (["gw.example.com"], "xgw.example.com"),
        (["*.example.com"], "example.com"),
        (["*.example.com"], "a.b.example.com"),
        (["*.example.com"], ".example.com"),
        (["*.com"], "example.com"),
        (["*"], "localhost"),
        (["g*.example.com"], "gw.example.com"),
        (["*w.example.com"], "gw.example.com"),
        (["gw.*.com"], "gw.example.com"),
        (["*.*.com"], "gw.example.com"),
        (["common.example.org"], "common.example"),
        (["127.0.0.1"], "127.0.0.2"),
        (["127.0.0.1"], "localhost"),
        (["dns:127.0.0.1"], "127.0.0.1"),
        (["dns:*.0.0.1"], "127.0.0.1"),
        (["127.0.0.1"], "::ffff:127.0.0.1"),
        (["::1"], "127.0.0.1"),
        (["gw.example.com"], ""),
    ],
)
def test_service_identity_of_another_is_refused(names: Sequence[str], host: str) -> None:
    """Wildcards stand for one whole leftmost label of three or more; addresses match addresses; the subject counts
    for nothing."""
    with pytest.raises(ServerNameMismatch):
        check_service_identity(certificate(*names), host)


def test_service_identity_needs_a_subject_alternative_name() -> None:
    """RFC 9525 section 2: the common name is no identity."""
    bare = forge("gw.example.com", drop=[x509.SubjectAlternativeName]).certificate
    with pytest.raises(ServerNameMismatch):
        check_service_identity(bare, "gw.example.com")


def key_pem(key: PrivateKey | None = None) -> bytes:
    return (key or a_key()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def contexts() -> list[SSL.Context]:
    """One of each side."""
    anchor = certificate_pem(root().certificate)
    chain = certificate_pem(server(), authority(Role.SERVER).certificate)
    return [
        server_context(chain=chain, key=key_pem(), anchors=[anchor], intermediates=[], verify=lambda path: path),
        client_context(chain=None, key=None, anchors=[anchor], host="localhost"),
    ]


@pytest.mark.parametrize("side", [0, 1], ids=["server", "client"])
def test_context_resumes_nothing_and_renegotiates_never(side: int) -> None:
    """Sessions and tickets both off: either alone still resumes TLS 1.2."""
    context = contexts()[side]
    assert context.get_session_cache_mode() == SSL.SESS_CACHE_OFF
    options = context.set_options(0)
    for option in (SSL.OP_NO_TICKET, SSL.OP_NO_RENEGOTIATION, SSL.OP_NO_COMPRESSION):
        assert options & option


def test_context_demands_a_certificate_of_clients() -> None:
    """A client without one is refused by OpenSSL itself."""
    demanding, dialling = contexts()
    assert demanding.get_verify_mode() == SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT
    assert demanding.get_verify_depth() <= 4
    assert dialling.get_verify_mode() & SSL.VERIFY_PEER


def test_context_with_a_key_of_another_certificate_is_refused() -> None:
    """At load, not at the first handshake."""
    chain = certificate_pem(server(), authority(Role.SERVER).certificate)
    with pytest.raises((ValueError, SSL.Error)):
        server_context(
            chain=chain, key=key_pem(a_key(number=7)), anchors=[], intermediates=[], verify=lambda path: path
        )


def test_context_with_a_broken_certificate_is_refused() -> None:
    """ValueError, as promised, for what is no PEM."""
    with pytest.raises(ValueError, match="PEM"):
        server_context(chain=b"nothing", key=key_pem(), anchors=[], intermediates=[], verify=lambda path: path)
