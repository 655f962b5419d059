"""What our client side presents of its certificates, as a foreign server receives it."""

from __future__ import annotations

import asyncio
import functools
import socket
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from OpenSSL import SSL
from support.certs import Pair, forge
from support.tlspeers import Side, authority, key_of, leaf

from pki.issue import certificate_pem
from rhttp.tls.binding import context_pointer, ffi, lib
from rhttp.tls.context import client_context

both_versions = pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])


@functools.cache
def issuing(name: str = "test worker CA") -> Pair:
    """An issuing CA below the root of both sides."""
    now = datetime.now(UTC)
    return forge(
        name, authority(), ca=True, path_length=0, not_before=now - timedelta(days=1), not_after=now + timedelta(days=1)
    )


@functools.cache
def worker() -> Pair:
    """One that it issued."""
    now = datetime.now(UTC)
    return forge("w1", issuing(), not_before=now - timedelta(days=1), not_after=now + timedelta(days=1))


def dialling(*chain: Pair, trust: Sequence[Pair] = ()) -> SSL.Context:
    """The agent's settings with this chain; it trusts the common root, and these."""
    return client_context(
        chain=certificate_pem(*(pair.certificate for pair in chain)),
        key=key_of(chain[0]),
        anchors=[certificate_pem(pair.certificate) for pair in (authority(), *trust)],
        host="localhost",
    )


def foreign_server(version: int, names: Sequence[bytes]) -> SSL.Context:
    """A server that has nothing of ours: it names these authorities (DER) and takes whatever comes."""
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_min_proto_version(version)
    context.set_max_proto_version(version)
    pair = leaf("server", server=True)
    context.use_certificate(pair.certificate)
    context.use_privatekey(pair.key)  # type: ignore[arg-type]
    stack = lib.sk_X509_NAME_new_null()
    for name in names:
        der = ffi.from_buffer("unsigned char[]", name)
        parsed = lib.d2i_X509_NAME(ffi.NULL, ffi.new("unsigned char **", der), len(name))
        assert parsed != ffi.NULL
        assert lib.sk_X509_NAME_push(stack, parsed)
    lib.SSL_CTX_set_client_CA_list(context_pointer(context), stack)
    context.set_verify(SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, lambda *_: True)
    return context


async def presented(client: SSL.Context, version: int, names: Sequence[bytes]) -> list[x509.Certificate]:
    """What such a server receives, leaf first."""
    ours, theirs = socket.socketpair()
    theirs.setblocking(True)
    side = Side(ours, client, server=False)
    server = SSL.Connection(foreign_server(version, names), theirs)
    server.set_accept_state()
    try:
        await asyncio.to_thread(server.do_handshake)
        assert await side.outcome() is None
        first = server.get_peer_certificate(as_cryptography=True)
        found = server.get_peer_cert_chain(as_cryptography=True) or []
        assert first is not None
        return found if found[:1] == [first] else [first, *found]
    finally:
        theirs.close()
        side.link.abort()
        await asyncio.sleep(0)


def named(*pairs: Pair) -> list[bytes]:
    """Their subjects."""
    return [pair.certificate.subject.public_bytes() for pair in pairs]


UNREADABLE = bytes.fromhex("300e310c300a06035504031603ff42ff")
"""A common name that is said to be ASCII and is not: a name for OpenSSL, but for nobody who reads its text."""


@both_versions
async def test_leaf_goes_alone_to_a_server_that_names_its_issuer(version: int) -> None:
    """Whatever else the server names, and wherever in the list."""
    context = dialling(worker(), issuing())
    for names in (named(issuing()), named(authority(), issuing("another CA"), issuing())):
        assert await presented(context, version, names) == [worker().certificate]


@both_versions
async def test_chain_goes_whole_to_a_server_that_does_not_name_the_issuer(version: int) -> None:
    """One that names nobody, others only, or just the root; connections of one context do not touch each other."""
    context = dialling(worker(), issuing())
    whole = [worker().certificate, issuing().certificate]
    for names in ([], named(issuing("another CA")), named(authority())):
        assert await presented(context, version, names) == whole
        assert await presented(context, version, named(issuing())) == whole[:1]


@both_versions
async def test_name_that_cannot_be_read_is_nobodys(version: int) -> None:
    """Whoever else the server names still counts."""
    context = dialling(worker(), issuing())
    assert await presented(context, version, [UNREADABLE]) == [worker().certificate, issuing().certificate]
    assert await presented(context, version, [UNREADABLE, *named(issuing())]) == [worker().certificate]


@both_versions
async def test_leaf_goes_alone_though_its_issuer_is_trusted(version: int) -> None:
    """OpenSSL would fill a chain up from the anchors by itself."""
    context = dialling(worker(), issuing(), trust=[issuing()])
    assert await presented(context, version, named(issuing())) == [worker().certificate]


@both_versions
async def test_leaf_that_has_no_chain_is_presented_as_it_is(version: int) -> None:
    """A server that names its issuer and one that names nobody."""
    context = dialling(worker())
    assert await presented(context, version, named(issuing())) == [worker().certificate]
    assert await presented(context, version, []) == [worker().certificate]
