"""Groups and signature algorithms: one list of our own, as a foreign peer meets it from outside."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shutil
import socket
import subprocess

import pytest
from OpenSSL import SSL
from OpenSSL._util import lib
from support.hellos import ClientHello, read_hello
from support.tlspeers import BlockingPeer, Side, alert_of, dialling_context, leaf, listening_context, plain_context

X25519MLKEM768, X25519, P256, P384 = 0x11EC, 0x001D, 0x0017, 0x0018
SIGNATURES = [0x0403, 0x0503, 0x0807, 0x0804, 0x0904, 0x0905, 0x0906]
"""ECDSA on P-256 and P-384, Ed25519, RSA-PSS with SHA-256 (RFC 8446), ML-DSA-44, -65, -87."""


def foreign(*, groups: bytes = b"", signatures: bytes = b"", version: int = SSL.TLS1_3_VERSION) -> SSL.Context:
    """A client that offers just these."""
    context = plain_context(leaf("w1"), version=version)
    if groups:
        assert lib.SSL_CTX_set1_curves_list(context._context, groups)
    if signatures:
        assert lib.SSL_CTX_set1_sigalgs_list(context._context, signatures)
    return context


async def meet(client: SSL.Context) -> tuple[str | None, str]:
    """How the server's handshake ended, and the alert that the client read ("": none)."""
    ours, theirs = socket.socketpair()
    side = Side(ours, listening_context(), server=True)
    peer = BlockingPeer(theirs, client)
    alert = ""
    try:
        await asyncio.to_thread(peer.shake)
    except SSL.Error as error:
        alert = alert_of(error)
    try:
        return await side.outcome(), alert
    finally:
        peer.close()
        side.link.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("group", [b"X25519MLKEM768", b"X25519", b"P-256", b"P-384"])
async def test_server_takes_each_group_of_its_list(group: bytes) -> None:
    """A client that has one of them only is served."""
    assert await meet(foreign(groups=group)) == (None, "")


@pytest.mark.parametrize("group", [b"ffdhe2048", b"ffdhe3072", b"ffdhe8192", b"curveSM2", b"P-521", b"X448"])
async def test_server_refuses_every_other_group(group: bytes) -> None:
    """Finite fields, whose answer costs the server most, SM2, and what is larger than anybody here needs."""
    failure, alert = await meet(foreign(groups=group))
    assert failure is not None
    assert "handshake failure" in alert


@pytest.mark.parametrize(
    ("signature", "version"),
    [
        (b"sm2sig_sm3", SSL.TLS1_3_VERSION),  # TLS 1.2 has no place for it
        (b"RSA-PSS+SHA256", SSL.TLS1_3_VERSION),
        (b"RSA-PSS+SHA256", SSL.TLS1_2_VERSION),
        (b"ed448", SSL.TLS1_3_VERSION),
        (b"ed448", SSL.TLS1_2_VERSION),
    ],
)
async def test_server_refuses_other_signature_algorithms(signature: bytes, version: int) -> None:
    """Its certificate, of P-256 here, signs by the list, or not at all."""
    failure, alert = await meet(foreign(signatures=signature, version=version))
    assert failure is not None
    assert "handshake failure" in alert


async def test_client_offers_the_list_and_nothing_else() -> None:
    """What an agent says to whoever it dials; the shares of the first two groups go with the hello."""
    hello = await dialled()
    assert hello.groups == [X25519MLKEM768, X25519, P256, P384]
    assert hello.shares == [X25519MLKEM768, X25519]
    assert hello.signatures == SIGNATURES


async def dialled() -> ClientHello:
    """The hello of the agent's own context."""
    ours, theirs = socket.socketpair()
    side = Side(ours, dialling_context(leaf("w1")), server=False)
    try:
        return await asyncio.to_thread(read_hello, theirs)
    finally:
        theirs.close()
        side.link.abort()
        await asyncio.sleep(0)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
@pytest.mark.parametrize(
    ("options", "is_served"),
    [
        (("-groups", "P-256"), True),
        (("-groups", "X25519"), True),
        (("-groups", "ffdhe2048"), False),
        (("-groups", "ffdhe2048:P-384"), True),
        (("-sigalgs", "ecdsa_secp256r1_sha256"), True),
        (("-sigalgs", "rsa_pss_rsae_sha256"), False),
    ],
)
async def test_server_is_met_by_the_openssl_command_as_by_the_list(options: tuple[str, str], is_served: bool) -> None:
    """Another build of OpenSSL, in a process of its own."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", "-tls1_3", *options]
        running = asyncio.create_task(
            asyncio.to_thread(subprocess.run, command, input=b"", capture_output=True, timeout=30, check=False)
        )
        accepted = await asyncio.to_thread(listener.accept)
    side = Side(accepted[0], listening_context(), server=True)
    output = (await running).stdout.decode()
    side.link.abort()
    with contextlib.suppress(TimeoutError):
        await side.outcome()
    cipher = re.search(r"New, (TLSv1\.3|\(NONE\)),", output)
    assert cipher is not None
    assert (cipher[1] == "TLSv1.3") == is_served, output
