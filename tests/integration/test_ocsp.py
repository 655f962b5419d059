"""OCSP of a running gateway, with OpenSSL and curl as those who ask."""

from __future__ import annotations

import base64
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509 import ocsp
from support.rig import Rig, wait_for
from support.wire import Answer, Wire

CONFIG = """
[pki]
listen = "127.0.0.1:0"
ocsp = true
"""
TYPE = "Content-Type: application/ocsp-request"


@pytest.fixture(scope="module")
def rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rig]:
    """A gateway that answers OCSP; alice is good, eve was revoked."""
    peers = ("issue-client alice", "issue-client eve", "revoke eve --reason keyCompromise", "issue-worker w1 --pool p")
    with Rig(tmp_path_factory.mktemp("ocsp"), CONFIG, peers=peers) as rig:
        yield rig


def openssl(rig: Rig, issuer: str, *arguments: str | Path) -> tuple[int, str]:
    """`openssl ocsp` with the root as trust; its exit status and what it said."""
    command = ["openssl", "ocsp", "-url", f"{rig.served.listeners['pki']}/-/pki/ocsp"]
    command += ["-CAfile", rig.home / "certs" / "root.pem", "-issuer", rig.home / "certs" / issuer, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def leaf(rig: Rig, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((rig.bundle(name) / "cert.pem").read_bytes())


def ca(rig: Rig, name: str) -> x509.Certificate:
    return x509.load_pem_x509_certificate((rig.home / "certs" / name).read_bytes())


def question(rig: Rig, name: str, *, nonce: bytes | None = None) -> bytes:
    builder = ocsp.OCSPRequestBuilder().add_certificate(leaf(rig, name), ca(rig, "client-ca.pem"), hashes.SHA256())
    if nonce is not None:
        builder = builder.add_extension(x509.OCSPNonce(nonce), False)
    return builder.build().public_bytes(Encoding.DER)


def plain(rig: Rig) -> Wire:
    url = urlsplit(rig.served.listeners["pki"])
    assert url.hostname is not None
    assert url.port is not None
    return Wire(rig.tcp_to((url.hostname, url.port)))


def read(answer: Answer) -> ocsp.OCSPResponse:
    assert (answer.status, answer["content-type"]) == (200, "application/ocsp-response"), answer
    return ocsp.load_der_ocsp_response(answer.content)


@pytest.mark.parametrize("digest", ["-sha1", "-sha256", "-sha384", "-sha512"])
def test_openssl_is_told_who_is_good_and_who_was_revoked(rig: Rig, digest: str) -> None:
    """Its checks of the responder's certificate, the nonce and the times pass; reason and time are told."""
    status, said = openssl(rig, "client-ca.pem", digest, "-cert", rig.bundle("alice") / "cert.pem")
    assert status == 0, said
    assert "Response verify OK" in said
    assert "cert.pem: good" in said
    assert "WARNING" not in said
    status, said = openssl(rig, "client-ca.pem", digest, "-cert", rig.bundle("eve") / "cert.pem")
    assert "cert.pem: revoked" in said
    assert "Reason: keyCompromise" in said
    assert "Revocation Time: " in said


def test_openssl_may_ask_about_several_of_one_ca(rig: Rig) -> None:
    """One answer tells of all, each with its own status."""
    places = [part for name in ("alice", "eve") for part in ("-cert", rig.bundle(name) / "cert.pem")]
    _status, said = openssl(rig, "client-ca.pem", *places)
    assert "Response verify OK" in said
    assert len(re.findall(r"cert\.pem: (?:good|revoked)", said)) == 2


@pytest.mark.parametrize(
    ("issuer", "certificate"), [("root.pem", "certs/client-ca.pem"), ("worker-ca.pem", "bundles/w1/cert.pem")]
)
def test_every_ca_has_a_responder(rig: Rig, issuer: str, certificate: str) -> None:
    """The root answers about the issuing CAs."""
    status, said = openssl(rig, issuer, "-cert", rig.home / certificate)
    assert status == 0, said
    assert "Response verify OK" in said
    assert "pem: good" in said


def test_certificate_of_another_issuer_is_not_spoken_of(rig: Rig) -> None:
    """Who is asked about a CA that is not ours says that it may not say."""
    _status, said = openssl(rig, "server-ca.pem", "-cert", rig.home / "certs/root.pem")
    assert "Responder Error: unauthorized" in said
    strange = ocsp.OCSPRequestBuilder().add_certificate_by_hash(b"x" * 32, b"y" * 32, 5, hashes.SHA256()).build()
    with plain(rig) as wire:
        answer = read(wire.ask("/-/pki/ocsp", "POST", TYPE, content=strange.public_bytes(Encoding.DER)))
    assert answer.response_status is ocsp.OCSPResponseStatus.UNAUTHORIZED


def test_answer_by_get_may_be_kept_and_by_post_not(rig: Rig) -> None:
    """RFC 5019: what has no nonce is cacheable by its target; the same bytes come again."""
    encoded = quote(base64.b64encode(question(rig, "alice")).decode(), safe="")
    with plain(rig) as wire:
        first = wire.ask(f"/-/pki/ocsp/{encoded}")
        again = wire.ask(f"/-/pki/ocsp/{encoded}")
        posted = wire.ask("/-/pki/ocsp", "POST", TYPE, content=question(rig, "alice"))
    found = read(first)
    assert found.certificate_status is ocsp.OCSPCertStatus.GOOD
    assert first.content == again.content == posted.content
    public, age = first["cache-control"].split(", max-age=")
    assert (public, 0 < int(age) <= 86400, posted["cache-control"]) == ("public", True, "no-store")
    (signer,) = found.certificates
    assert list(signer.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [
        x509.ExtendedKeyUsageOID.OCSP_SIGNING
    ]
    assert signer.extensions.get_extension_for_class(x509.OCSPNoCheck)
    signer.verify_directly_issued_by(ca(rig, "client-ca.pem"))


@pytest.mark.parametrize("nonce", [b"n", b"n" * 32, b"n" * 128], ids=len)
def test_nonce_comes_back(rig: Rig, nonce: bytes) -> None:
    """Up to the 128 octets of RFC 9654; such an answer is never kept by anybody."""
    encoded = quote(base64.b64encode(question(rig, "alice", nonce=nonce)).decode(), safe="")
    with plain(rig) as wire:
        answer = wire.ask(f"/-/pki/ocsp/{encoded}")
    assert read(answer).extensions.get_extension_for_class(x509.OCSPNonce).value.nonce == nonce
    assert answer["cache-control"] == "no-store"


def test_revocation_is_told_as_soon_as_it_is_listed(rig: Rig) -> None:
    """The answer that was kept before is not given again."""
    rig.run("issue-client", "mallory")
    asked = question(rig, "mallory")

    def status() -> ocsp.OCSPCertStatus:
        with plain(rig) as wire:
            return read(wire.ask("/-/pki/ocsp", "POST", TYPE, content=asked)).certificate_status

    assert status() is ocsp.OCSPCertStatus.GOOD
    rig.run("revoke", "mallory")
    wait_for(status, lambda one: one is ocsp.OCSPCertStatus.REVOKED)


@pytest.mark.parametrize(
    ("method", "target", "lines", "content", "status"),
    [
        ("POST", "/-/pki/ocsp", ["Content-Type: text/plain"], b"x", 415),
        ("POST", "/-/pki/ocsp", [], b"x", 415),
        ("POST", "/-/pki/ocsp", [TYPE], b"x" * 4097, 413),
        (
            "POST",
            "/-/pki/ocsp",
            [TYPE, "Transfer-Encoding: chunked"],
            b"1001\r\n" + b"x" * 4097 + b"\r\n0\r\n\r\n",
            413,
        ),
        ("PUT", "/-/pki/ocsp", [TYPE], b"x", 405),
        ("GET", "/-/pki/ocsp", [], b"", 405),
        ("POST", "/-/pki/ocsp/MAA", [TYPE], b"x", 404),
        ("GET", "/-/pki/ocspx", [], b"", 404),
    ],
)
def test_what_is_no_ocsp_over_http_is_refused(
    rig: Rig, method: str, target: str, lines: list[str], content: bytes, status: int
) -> None:
    """Another type, too much, another method: an error of HTTP, in bounded memory."""
    with plain(rig) as wire:
        if any("chunked" in line for line in lines):
            head = "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *lines, "", ""])
            wire.send(head.encode() + content)
            answer = wire.one()
        else:
            answer = wire.ask(target, method, *lines, content=content)
    assert answer.status == status


@pytest.mark.parametrize("target", ["/-/pki/ocsp/", "/-/pki/ocsp/!!!", "/-/pki/ocsp/MAA", "/-/pki/ocsp/MAA%3D"])
def test_what_is_no_request_is_malformed(rig: Rig, target: str) -> None:
    """Whatever stands where a request should, the answer is one of OCSP."""
    with plain(rig) as wire:
        answer = wire.ask(target)
    assert read(answer).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST
    assert answer["cache-control"] == "no-store"


def test_ocsp_over_tls_needs_a_certificate_and_no_more(rig: Rig) -> None:
    """POST, with content in one piece or in chunks; it is written down. What is refused is a problem."""
    asked = question(rig, "eve")
    with rig.connect("alice") as wire:
        answer = wire.ask("/-/pki/ocsp", "POST", TYPE, content=asked)
        assert read(answer).certificate_status is ocsp.OCSPCertStatus.REVOKED
        head = f"POST /-/pki/ocsp HTTP/1.1\r\nHost: localhost\r\n{TYPE}\r\nTransfer-Encoding: chunked\r\n\r\n"
        wire.send(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(asked), asked))
        assert wire.one().content == answer.content
        assert wire.ask("/-/pki/ocsp", "GET").status == 405
        assert wire.ask("/-/pki/ocsp", "POST", content=asked).problem == "bad-request"
    with rig.connect("alice") as wire:
        assert wire.ask("/-/pki/ocsp", "POST", TYPE, content=b"x" * 4097).problem == "content-too-large"
    line = rig.line_of(answer)
    assert (line["event"], line["outcome"], line["target"], line["status"]) == (
        "request",
        "allowed",
        "/-/pki/ocsp",
        200,
    )


def test_content_that_breaks_off_over_tls_is_in_the_log(rig: Rig) -> None:
    """Half a request is not answered, and its line says so."""
    with rig.connect("alice") as wire:
        wire.send(f"POST /-/pki/ocsp HTTP/1.1\r\nHost: localhost\r\n{TYPE}\r\nContent-Length: 100\r\n\r\nabc".encode())
    rig.wait_line(event="request", outcome="aborted", target="/-/pki/ocsp")


def test_content_at_its_bound_is_read(rig: Rig) -> None:
    """4,096 bytes are read and judged."""
    with plain(rig) as wire:
        answer = wire.ask("/-/pki/ocsp", "POST", TYPE, content=b"\x30" * 4096)
    assert read(answer).response_status is ocsp.OCSPResponseStatus.MALFORMED_REQUEST


def test_ocsp_goes_and_comes_with_a_reload(rig: Rig) -> None:
    """Without it the path is not there, on either listener; with it answers come again. The lists stay."""
    config = rig.home / "gateway.toml"
    text = config.read_text()
    asked = question(rig, "alice")

    def status() -> int:
        with plain(rig) as wire:
            return wire.ask("/-/pki/ocsp", "POST", TYPE, content=asked).status

    config.write_text(text.replace("ocsp = true", "ocsp = false"))
    try:
        rig.run("reload")
        wait_for(status, lambda one: one == 404)
        with rig.connect("alice") as wire:
            assert wire.ask("/-/pki/ocsp", "POST", TYPE, content=asked).problem == "not-found"
        with plain(rig) as wire:
            assert wire.ask("/-/pki/client.crl").status == 200
    finally:
        config.write_text(text)
        rig.run("reload")
    wait_for(status, lambda one: one == 200)


def test_certificates_say_where_openssl_finds_list_and_responder(rig: Rig) -> None:
    """With `[pki] url` OpenSSL downloads the list by itself, and knows whom to ask; a worker for a day says nothing."""
    url = rig.served.listeners["pki"]
    config = rig.home / "gateway.toml"
    text = config.read_text()
    config.write_text(text.replace("ocsp = true", f'ocsp = true\nurl = "{url}"'))
    try:
        rig.run("issue-client", "carol")
        rig.run("issue-client", "dave")
        rig.run("issue-worker", "w2", "--pool", "p")
    finally:
        config.write_text(text)
    rig.run("revoke", "dave")
    carol, dave = rig.bundle("carol"), rig.bundle("dave")
    found = openssl_x509(carol / "cert.pem", "-ocsp_uri")
    assert found == f"{url}/-/pki/ocsp"

    def verified(bundle: Path) -> str:
        command = ["openssl", "verify", "-crl_download", "-crl_check", "-CAfile", bundle / "trust.pem"]
        command += ["-untrusted", bundle / "cert.pem", bundle / "cert.pem"]
        done = subprocess.run(list(map(str, command)), capture_output=True, text=True, timeout=60)
        return done.stdout + done.stderr

    assert verified(carol).endswith("cert.pem: OK\n")
    wait_for(lambda: verified(dave), lambda said: "certificate revoked" in said)
    assert not any(isinstance(one.value, x509.CRLDistributionPoints) for one in leaf(rig, "w2").extensions)


def openssl_x509(place: Path, *arguments: str) -> str:
    command = ["openssl", "x509", "-in", str(place), "-noout", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True).stdout.strip()
