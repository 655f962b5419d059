"""Enrolling against a gateway over real TLS: the root, the bundle, the password, the place."""

from __future__ import annotations

import errno
import os
import ssl
import tomllib
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from support.enrolments import clean, order, refused
from support.estserver import (
    DOMAIN,
    KNOWN_TO_SSL,
    PASSWORD,
    SECRET,
    EstServer,
    Reply,
    Seen,
    cas,
    est_server,
    problem,
)
from support.homes import mode_of

from pki.issue import certificate_pem
from pki.keys import generate_key, private_key_pem
from pki.names import Role
from rhttp.worker import fresh_bundle
from rhttp.worker.bundle import load_bundle
from rhttp.worker.enrolment import NewBundle, enroll
from rhttp.worker.enrolment_failure import PasswordMissing
from rhttp.worker.fresh_bundle import PlaceTaken

FILES = {"cert.pem", "curl.conf", "key.pem", "leaf.pem", "password", "rhttp.toml", "trust.pem", "versions"}


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


# ---- what comes of it ----


@pytest.mark.parametrize("key_type", KNOWN_TO_SSL)
def test_enrolment_leaves_a_bundle_that_a_worker_can_use(key_type: str, server: EstServer, tmp_path: Path) -> None:
    """With a key made here, the chain, the root and the password: the files that `issue-worker` makes."""
    made = enroll(order(server, tmp_path, key_type=key_type))
    bundle = load_bundle(tmp_path / "w1")
    assert (bundle.name, bundle.pool, bundle.user, bundle.password) == ("w1", "render", "w1", PASSWORD)
    assert str(bundle.gateway) == server.gateway_url
    assert {path.name for path in (tmp_path / "w1").iterdir()} == FILES
    assert made == NewBundle(
        place=tmp_path / "w1",
        role="worker",
        pool="render",
        name="w1",
        gateway=bundle.gateway,
        expires=datetime.fromtimestamp(bundle.expires, UTC),
    )
    assert [path.name for path in tmp_path.iterdir()] == ["w1"]
    assert mode_of(tmp_path / "w1") == 0o700
    assert {mode_of(tmp_path / "w1" / name) for name in ("key.pem", "password", "curl.conf")} == {0o600}
    assert (tmp_path / "w1" / "trust.pem").read_bytes() == bundle.trust[0]
    chain = x509.load_pem_x509_certificates(bundle.chain)
    assert chain[1] == cas().issuing[Role.WORKER].certificate
    assert x509.load_pem_x509_certificates((tmp_path / "w1" / "leaf.pem").read_bytes()) == chain[:1]
    assert f'user = "w1:{PASSWORD}"' in (tmp_path / "w1" / "curl.conf").read_text()


@pytest.mark.parametrize("role", ["client", "master"])
def test_enrolment_of_another_role_leaves_its_bundle(role: str, server: EstServer, tmp_path: Path) -> None:
    """Clients and masters enrol like workers, and belong to no pool."""
    made = enroll(order(server, tmp_path, role=role, name="alice"))
    settings = tomllib.loads((tmp_path / "w1" / "rhttp.toml").read_text())
    assert settings == {"gateway": server.gateway_url, "name": "alice", "role": role, "user": "alice"}
    assert (made.role, made.pool, made.name) == (role, None, "alice")


def test_enrolment_fills_an_empty_directory(server: EstServer, tmp_path: Path) -> None:
    """It may be a mount, or somebody stands in it: the directory itself stays."""
    (tmp_path / "w1").mkdir(mode=0o755)
    before = (tmp_path / "w1").stat().st_ino
    enroll(order(server, tmp_path))
    assert {path.name for path in (tmp_path / "w1").iterdir()} == FILES
    assert ((tmp_path / "w1").stat().st_ino, mode_of(tmp_path / "w1")) == (before, 0o700)


def test_enrolment_tells_an_unverified_server_nothing(server: EstServer, tmp_path: Path) -> None:
    """Before the root is known there is one GET, and the secret is never on the wire at all."""
    enroll(order(server, tmp_path))
    first, *rest = server.seen
    assert (first.method, first.content, first.fields.get("Authorization")) == ("GET", b"", None)
    assert [seen.step for seen in rest] == ["simpleenroll", "simpleenroll", "credentials"]
    assert not any(SECRET in f"{seen.fields} {seen.content!r}" for seen in server.seen)
    assert all(b"PRIVATE" not in seen.content for seen in server.seen)
    assert rest[-1].fields["Content-Length"] == "0"


def test_enrolment_goes_on_when_connections_are_closed_after_each_answer(server: EstServer, tmp_path: Path) -> None:
    """A challenge on one connection is answered on the next."""
    server.keep_alive = False
    enroll(order(server, tmp_path))
    assert server.steps() == ["cacerts", "simpleenroll", "simpleenroll", "credentials"]


# ---- the root ----


def test_enrolment_with_another_fingerprint_says_what_was_offered(server: EstServer, tmp_path: Path) -> None:
    """Before anything secret was said: both fingerprints, and how to compare."""
    error = refused(order(server, tmp_path, fingerprint=bytes(32)))
    assert error.code == "fingerprint"
    assert ":".join(["00"] * 32) in str(error)
    assert bytes.fromhex(cas().fingerprint).hex(":").upper() in str(error)
    assert "somebody may be in between" in str(error)
    assert server.steps() == ["cacerts"]


def test_enrolment_pinned_to_an_issuing_ca_is_refused(server: EstServer, tmp_path: Path) -> None:
    """What is pinned has to be a root."""
    issuing = cas().issuing[Role.WORKER].certificate
    error = refused(order(server, tmp_path, fingerprint=issuing.fingerprint(SHA256())))
    assert "is no root" in str(error)


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (Reply(200, b"?" * 64, {"Content-Type": "application/pkcs7-mime"}), "is not base64"),
        (Reply(200, b"AAAA", {"Content-Type": "application/pkcs7-mime"}), "is no PKCS #7"),
        (Reply(200, b"AAAA", {"Content-Type": "text/html"}), "another content type"),
        (Reply(200, b"A" * (1 << 20) + b"A", {"Content-Type": "application/pkcs7-mime"}), "longer than"),
        (Reply(200, b"", {"Content-Type": "application/pkcs7-mime", "Content-Length": "99999999999"}), "longer than"),
        (problem(404, "no such\x07 thing"), "404, no such? thing"),
        (Reply(302, b"", {"Location": "https://127.0.0.1:1/"}), "it answers 302"),
        (Reply(200, b"", {"Content-Length": "-1"}), "how long it is"),
        (Reply(200, b"", {"Content-Length": "0", "Transfer-Encoding": "chunked"}), "how long it is"),
        (Reply(200, b"", {"Content-Length": "0", "content-length": "0"}), "how long it is"),
        (Reply(200, b"", {"Content-Length": "5", "Connection": "close"}), "broke off"),
    ],
)
def test_enrolment_refuses_an_answer_that_holds_no_root(
    reply: Reply, says: str, server: EstServer, tmp_path: Path
) -> None:
    """Whatever a stranger answers, one line comes of it, and no second request."""
    server.replies["cacerts"] = [reply]
    assert says in str(refused(order(server, tmp_path)))
    assert server.steps() == ["cacerts"]


def test_enrolment_when_the_server_is_another_at_the_second_step_is_refused(server: EstServer, tmp_path: Path) -> None:
    """The root that was pinned vouches for whoever gets the credentials, not for whoever showed it."""

    def swap(seen: Seen) -> Reply:
        server.show(*cas(1).server())
        return server.cacerts(seen)

    server.replies["cacerts"] = [swap]
    error = refused(order(server, tmp_path))
    assert error.code == "untrusted"
    assert "did not sign" in str(error)
    assert server.steps() == ["cacerts"]


def test_enrolment_at_a_name_that_the_certificate_lacks_is_refused(tmp_path: Path) -> None:
    """The certificate has to be for the host that was dialled."""
    with est_server(names=("DNS:localhost",)) as server:
        error = refused(order(server, tmp_path))
    assert error.code == "untrusted"
    assert "does not name 127.0.0.1" in str(error)
    assert "--san IP:127.0.0.1" in str(error)


def test_enrolment_at_a_worker_that_poses_as_the_gateway_is_refused(server: EstServer, tmp_path: Path) -> None:
    """A certificate of the same root for another purpose is none of a server."""
    key = generate_key()
    leaf = cas().leaf(key.public_key())
    server.show(certificate_pem(leaf, cas().issuing[Role.WORKER].certificate), private_key_pem(key))
    assert refused(order(server, tmp_path)).code == "untrusted"
    assert server.steps() == ["cacerts"]


@pytest.mark.parametrize(
    ("begins", "lifetime", "says"),
    [
        (timedelta(minutes=-2), timedelta(minutes=1), "has expired"),
        (timedelta(hours=2), timedelta(hours=1), "is not valid yet"),
    ],
)
def test_enrolment_at_a_server_out_of_its_time_names_the_clock(
    begins: timedelta, lifetime: timedelta, says: str, server: EstServer, tmp_path: Path
) -> None:
    """More often than a gateway that forgot to renew, it is a clock that is off."""
    server.show(*cas().server(at=cas().at + begins, lifetime=lifetime))
    text = str(refused(order(server, tmp_path)))
    assert says in text
    assert "look at the clock of this machine" in text


# ---- the password ----


@pytest.mark.parametrize(
    ("reply", "says"),
    [
        (problem(409, "given"), "it was given out before (409, given)"),
        (problem(403), "the policy does not give it"),
        (problem(404), "the gateway gives out none"),
        (problem(500), "it was refused (500, no)"),
        (Reply(200, b"{"), "holds no password"),
        (Reply(200, b"[" * 60000), "holds no password"),
        (Reply(200, b'{"user": "w2", "password": "x"}'), "is not for w1"),
        (Reply(200, b'{"user": "w1", "password": "x\\ny"}'), "holds no password"),
        (Reply(200, b" " * 65537), "longer than"),
        (Reply(lost=True), "closed the connection"),
    ],
)
def test_enrolment_without_a_password_keeps_the_bundle_and_says_so(
    reply: Reply, says: str, server: EstServer, tmp_path: Path
) -> None:
    """The certificate is good; what is missing, and how it gets there, is in one line."""
    server.replies["credentials"] = [reply]
    with pytest.raises(PasswordMissing) as caught:
        enroll(order(server, tmp_path))
    text = str(clean(caught.value))
    assert says in text
    assert "rhttp-pki user passwd w1 --generate --out FILE" in text
    assert {path.name for path in (tmp_path / "w1").iterdir()} == FILES - {"password"}
    assert [path.name for path in tmp_path.iterdir()] == ["w1"]
    (tmp_path / "w1" / "password").write_text("brought-later\n")
    (tmp_path / "w1" / "password").chmod(0o600)
    assert load_bundle(tmp_path / "w1").password == "brought-later"


def test_enrolment_presents_the_new_certificate_for_the_password(server: EstServer, tmp_path: Path) -> None:
    """Over mutual TLS: who asks is who was certified."""
    enroll(order(server, tmp_path))
    assert server.seen[-1].peer["subjectAltName"] == (("URI", f"spiffe://{DOMAIN}/worker/render/w1"),)


# ---- the place ----


def test_enrolment_on_a_full_disk_spends_no_password(
    server: EstServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What can be written is written before it is asked for, and the next run goes on with the same certificate."""

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(fresh_bundle, "write_version", full)
        with pytest.raises(OSError, match="No space"):
            enroll(order(server, tmp_path))
    assert "credentials" not in server.steps()
    assert not (tmp_path / "w1").exists()
    enroll(order(server, tmp_path))
    assert len(server.certified) == 1
    assert load_bundle(tmp_path / "w1").password == PASSWORD


@pytest.mark.parametrize("what", ["a file", "a full directory", "a link"])
def test_enrolment_into_a_place_that_is_taken_asks_nobody(what: str, server: EstServer, tmp_path: Path) -> None:
    """No use of a token is spent on what could not be put anywhere."""
    place = tmp_path / "w1"
    if what == "a file":
        place.write_text("x")
    elif what == "a link":
        place.symlink_to(tmp_path / "nowhere")
    else:
        place.mkdir()
        (place / "x").touch()
    with pytest.raises(PlaceTaken, match="name a new directory"):
        enroll(order(server, tmp_path))
    assert server.seen == []


def test_enrolment_key_is_the_one_of_the_certificate(server: EstServer, tmp_path: Path) -> None:
    """And it opens TLS with it by the standard library, too."""
    enroll(order(server, tmp_path))
    context = ssl.create_default_context(cafile=tmp_path / "w1" / "trust.pem")
    context.load_cert_chain(tmp_path / "w1" / "cert.pem", tmp_path / "w1" / "key.pem")
    load_pem_private_key((tmp_path / "w1" / "key.pem").read_bytes(), None)
