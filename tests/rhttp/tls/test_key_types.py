"""Certificates of every type of key at both ends of a connection, the groups agreed on, and keys that are refused."""

from __future__ import annotations

import asyncio
import re
import shutil
import socket
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from OpenSSL import SSL
from OpenSSL._util import lib
from support.certs import a_key
from support.tlspeers import (
    BlockingPeer,
    Side,
    alert_of,
    authority,
    dialling_context,
    joined,
    key_of,
    leaf,
    listening_context,
    plain_context,
)

from pki.issue import certificate_pem
from pki.keys import KeyType
from rhttp.tls.binding import use_private_key

POST_QUANTUM = (KeyType.MLDSA44, KeyType.MLDSA65, KeyType.MLDSA87)


@pytest.mark.parametrize("server", KeyType)
async def test_agent_of_each_type_is_served_by_a_server_of_the_type(server: KeyType) -> None:
    """Both ends are ours: TLS 1.3, X25519MLKEM768, and the server knows the client."""
    client = dialling_context(leaf("w1", kind=server))
    async with joined(listening_context(kind=server), client) as (ours, theirs):
        assert ours.peer == "CN=w1"
        assert (ours.link.version(), ours.link.group()) == ("TLSv1.3", "X25519MLKEM768")
        assert theirs.link.group() == "X25519MLKEM768"
        theirs.link.write(b"hello")
        await ours.owner.until(lambda: bytes(ours.owner.data) == b"hello")


@pytest.mark.parametrize("client", KeyType)
async def test_agent_of_each_type_is_served_by_a_classical_server(client: KeyType) -> None:
    """A mixture: what one end has says nothing about the other."""
    async with joined(listening_context(), dialling_context(leaf("w1", kind=client))) as (ours, _):
        assert ours.peer == "CN=w1"


async def meet(server: SSL.Context, client: SSL.Context) -> tuple[str | None, str, str]:
    """How the server's handshake ended, the alert that the client read ("": none), and the group ("": none)."""
    ours, theirs = socket.socketpair()
    side = Side(ours, server, server=True)
    peer = BlockingPeer(theirs, client)
    alert = ""
    try:
        await asyncio.to_thread(peer.shake)
    except SSL.Error as error:
        alert = alert_of(error)
    try:
        failure = await side.outcome()
        return failure, alert, side.link.group() if failure is None else ""
    finally:
        peer.close()
        side.link.abort()
        await asyncio.sleep(0)


@pytest.mark.parametrize("kind", [kind for kind in KeyType if kind not in POST_QUANTUM])
async def test_classical_types_work_in_tls_12(kind: KeyType) -> None:
    """RSA at both ends too: tools that need it are often old."""
    client = plain_context(leaf("c", kind=kind), version=SSL.TLS1_2_VERSION)
    failure, alert, group = await meet(listening_context(kind=kind), client)
    assert (failure, alert) == (None, "")
    assert group in {"x25519", "secp256r1", "secp384r1"}


@pytest.mark.parametrize("kind", POST_QUANTUM)
async def test_post_quantum_server_takes_nobody_in_tls_12(kind: KeyType) -> None:
    """There is no ML-DSA in TLS 1.2."""
    failure, alert, _ = await meet(listening_context(kind=kind), plain_context(leaf("c"), version=SSL.TLS1_2_VERSION))
    assert failure is not None
    assert "handshake failure" in alert


@pytest.mark.parametrize("kind", POST_QUANTUM)
async def test_post_quantum_client_shows_no_certificate_in_tls_12(kind: KeyType) -> None:
    """So it is refused, as whoever has none."""
    client = plain_context(leaf("c", kind=kind), version=SSL.TLS1_2_VERSION)
    failure, _, _ = await meet(listening_context(), client)
    assert failure is not None


@pytest.mark.parametrize(
    ("offered", "version", "group"),
    [
        (b"X25519MLKEM768:P-256", SSL.TLS1_3_VERSION, "X25519MLKEM768"),
        (b"X25519", SSL.TLS1_3_VERSION, "x25519"),
        (b"P-256", SSL.TLS1_3_VERSION, "secp256r1"),
        (b"P-384", SSL.TLS1_3_VERSION, "secp384r1"),
        (b"X25519MLKEM768:P-256", SSL.TLS1_2_VERSION, "secp256r1"),
        (b"X25519:P-256", SSL.TLS1_2_VERSION, "x25519"),
    ],
)
async def test_group_has_its_registered_name_in_each_version(offered: bytes, version: int, group: str) -> None:
    """IANA's name, whatever OpenSSL calls it; TLS 1.2 has no hybrid group."""
    context = plain_context(leaf("c"), version=version)
    assert lib.SSL_CTX_set1_curves_list(context._context, offered)
    assert await meet(listening_context(), context) == (None, "", group)


# ---- keys ----


@pytest.mark.parametrize("kind", KeyType)
def test_key_that_is_another_ones_or_none_is_refused(kind: KeyType) -> None:
    """No context is made with a key that does not belong to its certificate, or that cannot be read."""
    context = SSL.Context(SSL.TLS_METHOD)
    context.use_certificate(leaf("c", kind=kind).certificate)
    use_private_key(context, key_of(leaf("c", kind=kind)))
    other = a_key(kind, number=7).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    sealed = a_key(kind, number=1).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x"))
    for pem in (other, sealed, b"", b"junk", key_of(leaf("c", kind=kind))[:-60]):
        with pytest.raises(ValueError, match="private key"):
            use_private_key(context, pem)
    assert lib.ERR_peek_error() == 0


# ---- another build of OpenSSL ----


@pytest.mark.skipif(shutil.which("openssl") is None, reason="no openssl command")
@pytest.mark.parametrize("version", ["-tls1_2", "-tls1_3"])
@pytest.mark.parametrize("kind", [kind for kind in KeyType if kind not in POST_QUANTUM])
async def test_client_and_server_of_each_classical_type_meet_the_openssl_command(
    kind: KeyType, version: str, tmp_path: Path
) -> None:
    """It verifies our server and shows its own certificate, RSA as well as the others."""
    client = leaf("c", kind=kind)
    (tmp_path / "cert.pem").write_bytes(certificate_pem(client.certificate))
    (tmp_path / "key.pem").write_bytes(key_of(client))
    (tmp_path / "root.pem").write_bytes(certificate_pem(authority().certificate))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        command = ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", version, "-cert", "cert.pem", "-key"]
        command += ["key.pem", "-CAfile", "root.pem", "-verify_return_error", "-ign_eof"]
        running = asyncio.create_task(
            asyncio.to_thread(
                subprocess.run,
                command,
                stdin=subprocess.DEVNULL,
                cwd=tmp_path,
                capture_output=True,
                timeout=30,
                check=False,
            )
        )
        accepted = await asyncio.to_thread(listener.accept)
    side = Side(accepted[0], listening_context(kind=kind), server=True)
    assert await side.outcome() is None
    assert side.peer == "CN=c"
    side.link.abort()
    output = (await running).stdout.decode()
    assert re.search(r"Verif(y|ication).*(0 \(ok\)|OK)", output), output
