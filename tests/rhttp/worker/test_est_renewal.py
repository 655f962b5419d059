"""Renewing a bundle over real TLS: what comes of it, what is refused, and what stays as it was."""

from __future__ import annotations

import base64
import errno
import os
import threading
import tomllib
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from support.enrolments import clean, order
from support.estserver import DOMAIN, KNOWN_TO_SSL, EstServer, Reply, Seen, cas, entropy, est_server, problem
from support.homes import leaf_of

from pki.issue import certificate_pem, issue_leaf, serial_hex
from pki.keys import generate_key, private_key_pem
from pki.names import Role, SpiffeId
from rhttp.worker import est_renewal
from rhttp.worker.bundle import Bundle, BundleInvalid, load_bundle, read_bundle
from rhttp.worker.enrolment import enroll
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.est import ROLES
from rhttp.worker.est_renewal import renew_over_est

CHANGING = ("cert.pem", "key.pem", "leaf.pem")
LASTING = ("trust.pem", "password", "curl.conf", "rhttp.toml")


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


@pytest.fixture
def place(server: EstServer, tmp_path: Path) -> Path:
    """A worker's bundle, enrolled a moment ago."""
    return enroll(order(server, tmp_path)).place


def held(place: Path, names: tuple[str, ...] = CHANGING + LASTING) -> dict[str, bytes]:
    return {name: (place / name).read_bytes() for name in names}


def refused(place: Path, **how: Any) -> EnrolmentFailed:
    """What the renewal fails with; the bundle is as it was, and nothing secret is told."""
    before = held(place)
    with pytest.raises(EnrolmentFailed) as caught:
        renew_over_est(place, **how)
    assert held(place) == before
    return clean(caught.value)


def spki(key: Any) -> bytes:
    return bytes(key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo))


# ---- what comes of it ----


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("key_type", KNOWN_TO_SSL)
def test_renewal_puts_a_new_key_and_certificate_of_the_same_identity(
    role: str, key_type: str, server: EstServer, tmp_path: Path
) -> None:
    """Of every role and kind of key; trust, password and settings stay to the byte."""
    place = enroll(order(server, tmp_path, role=role, key_type=key_type)).place
    old, before = leaf_of(place), held(place)
    renewed = renew_over_est(place)
    assert renewed is not None
    new, after = leaf_of(place), held(place)
    assert {name for name in after if after[name] != before[name]} == set(CHANGING)
    assert (renewed.role, renewed.name, renewed.serial) == (role, "w1", serial_hex(new.serial_number))
    assert new.serial_number != old.serial_number
    kind = x509.SubjectAlternativeName
    assert new.extensions.get_extension_for_class(kind) == old.extensions.get_extension_for_class(kind)
    key: Any = load_pem_private_key(after["key.pem"], None)
    assert spki(key.public_key()) == spki(new.public_key()) != spki(old.public_key())
    assert type(new.public_key()) is type(old.public_key())
    assert (place / "key.pem").stat().st_mode & 0o777 == 0o600
    assert server.seen[-1].target == f"/.well-known/est/{role}/simplereenroll"
    assert server.seen[-1].peer["serialNumber"] == f"{old.serial_number:X}".zfill(
        len(server.seen[-1].peer["serialNumber"])
    )


def test_renewal_asks_for_what_the_present_certificate_says(server: EstServer, place: Path) -> None:
    """RFC 7030 section 4.2.2: subject and alternative name of the request are those of the certificate."""
    old = leaf_of(place)
    renew_over_est(place)
    request = x509.load_der_x509_csr(base64.b64decode(server.seen[-1].content))
    assert request.subject == old.subject
    kind = x509.SubjectAlternativeName
    assert request.extensions.get_extension_for_class(kind).value == old.extensions.get_extension_for_class(kind).value
    assert [seen.step for seen in server.seen[-2:]] == ["simplereenroll"] * 2  # one was challenged


def test_renewal_that_is_no_longer_due_asks_nobody(server: EstServer, place: Path) -> None:
    """Somebody else renewed it meanwhile."""
    asked = len(server.seen)
    assert renew_over_est(place, is_due=lambda bundle: bundle.expires < 0) is None
    assert len(server.seen) == asked


def test_renewed_bundle_is_read_by_whoever_serves_with_it(place: Path) -> None:
    """By a worker, and by curl: `versions/current` leads to the second version."""
    renew_over_est(place)
    assert load_bundle(place).name == "w1"
    assert os.readlink(place / "versions" / "current") == "000002"
    assert tomllib.loads((place / "rhttp.toml").read_text())["role"] == "worker"


# ---- what a gateway refuses ----


@pytest.mark.parametrize(
    ("reply", "code", "text", "is_passing"),
    [
        (problem(401), "credentials", "does not take the password of w1", False),
        (problem(403, "Forbidden"), "forbidden", "lacks `workers-renew`", False),
        (problem(404), "not-found", "put `renew = true` into [enroll]", False),
        (problem(503, **{"Retry-After": "7"}), "unavailable", "cannot issue at the moment", True),
        (problem(503), "unavailable", "cannot issue at the moment", True),
        (problem(400), "request", "does not take the request", False),
        (problem(418), "refused", "it answers 418", False),
        (Reply(lost=True), "lost", "it closed the connection", True),
        (Reply(200, b"!", {"Content-Type": "application/pkcs7-mime"}), "certificate", "is not base64", False),
        (Reply(200, b"", {"Content-Type": "text/html"}), "certificate", "another content type", False),
        (Reply(200, b"", {"Content-Length": "9999999"}), "too-long", "longer than 1048576 bytes", False),
    ],
)
def test_renewal_that_a_gateway_refuses_says_what_to_do(
    reply: Reply, code: str, text: str, is_passing: bool, server: EstServer, place: Path
) -> None:
    """One line, and the bundle is as it was."""
    server.replies["simplereenroll"] = [reply]
    error = refused(place)
    assert (error.code, error.is_passing) == (code, is_passing)
    assert text in str(error)
    assert error.retry_after == (7.0 if "Retry-After" in reply.fields else None)


def test_renewal_with_a_changed_password_says_so(server: EstServer, place: Path) -> None:
    """A wrong password is looked at once, and told."""
    (place / "password").write_text("another\n")
    asked = len(server.seen)
    assert refused(place).code == "credentials"
    assert len(server.seen) == asked + 2


def other_name(server: EstServer, key: Any) -> Reply:
    return server.reply_certificates(cas().leaf(key, name="w2"), cas().issuing[Role.WORKER].certificate)


def other_pool(server: EstServer, key: Any) -> Reply:
    who = SpiffeId(trust_domain=DOMAIN, role=Role.WORKER, name="w1", pool="other")
    issuer = cas().issuing[Role.WORKER]
    leaf = issue_leaf(who, issuer=issuer, public_key=key, at=cas().at, entropy=entropy(), lifetime=timedelta(hours=1))
    return server.reply_certificates(leaf, issuer.certificate)


def other_role(server: EstServer, key: Any) -> Reply:
    return server.reply_certificates(cas().leaf(key, Role.CLIENT), cas().issuing[Role.CLIENT].certificate)


def other_key(server: EstServer, _key: Any) -> Reply:
    return server.reply_certificates(cas().leaf(generate_key().public_key()), cas().issuing[Role.WORKER].certificate)


def other_root(server: EstServer, key: Any) -> Reply:
    return server.reply_certificates(cas(1).leaf(key), cas(1).issuing[Role.WORKER].certificate)


def begins_later(server: EstServer, key: Any) -> Reply:
    leaf = cas().leaf(key, at=cas().at + timedelta(hours=2))
    return server.reply_certificates(leaf, cas().issuing[Role.WORKER].certificate)


@pytest.mark.parametrize(
    ("answer", "code", "text"),
    [
        (other_name, "certificate", "names somebody else"),
        (other_pool, "certificate", "names somebody else"),
        (other_role, "certificate", "names somebody else"),
        (other_key, "certificate", "for another key"),
        (other_root, "certificate", "does not lead to the root"),
        (begins_later, "clock", "look at the clock"),
    ],
)
def test_renewal_takes_no_certificate_but_its_own(
    answer: Callable[[EstServer, Any], Reply], code: str, text: str, server: EstServer, place: Path
) -> None:
    """Another identity, key, root or time: nothing of it reaches the bundle."""

    def reply(seen: Seen) -> Reply:
        return answer(server, x509.load_der_x509_csr(base64.b64decode(seen.content)).public_key())

    server.acts["simplereenroll"] = reply
    error = refused(place)
    assert error.code == code
    assert text in str(error)


# ---- what cannot be asked ----


def test_renewal_of_an_expired_certificate_says_how_to_enrol_again(server: EstServer, place: Path) -> None:
    """No gateway is asked: it would not be let in."""
    asked = len(server.seen)
    error = refused(place, now=lambda: datetime.now(UTC) + timedelta(hours=2))
    assert error.code == "expired"
    assert "rhttp-pki enroll" in str(error)
    assert "--name w1" in str(error)
    assert len(server.seen) == asked


def test_renewal_at_a_server_of_another_root_says_so(place: Path, tmp_path: Path) -> None:
    """Nothing is said to it."""
    with est_server(cas(1)) as stranger:
        error = refused(place, gateway=stranger.gateway_url)
        assert error.code == "untrusted"
        assert f"the root in {place / 'trust.pem'} did not sign" in str(error)
        assert stranger.seen == []


def test_renewal_with_a_certificate_that_is_not_taken_says_how_to_enrol_again(server: EstServer, place: Path) -> None:
    """What the gateway's TLS alert says comes after the handshake."""
    trust = (place / "trust.pem").read_bytes()
    key = generate_key()
    (place / "cert.pem").unlink()
    (place / "key.pem").unlink()
    leaf = cas(1).leaf(key.public_key())
    (place / "cert.pem").write_bytes(certificate_pem(leaf, cas(1).issuing[Role.WORKER].certificate))
    (place / "key.pem").write_bytes(private_key_pem(key))
    (place / "key.pem").chmod(0o600)
    error = refused(place)
    while error.is_passing:  # it went away before its alert was read
        error = refused(place)
    assert error.code == "alert"
    assert "another home" in str(error)
    assert (place / "trust.pem").read_bytes() == trust


def test_renewal_of_a_bundle_without_its_key_says_so(place: Path) -> None:
    """Who keeps the key elsewhere puts it there, or renews in the home."""
    (place / "key.pem").unlink()
    with pytest.raises(BundleInvalid, match=r"key\.pem is missing"):
        renew_over_est(place)


def test_renewal_while_nobody_listens_may_be_tried_again(server: EstServer, place: Path) -> None:
    """It passes."""
    server.gateway.shutdown()
    server.gateway.server_close()
    error = refused(place)
    assert (error.code, error.is_passing) == ("unreachable", True)


# ---- the disk, and others ----


def test_renewal_on_a_full_disk_leaves_the_old_bundle_whole(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It fails in mid-swap, names the bundle, and the next one succeeds."""
    before = held(place)

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("rhttp.worker.versions.os.fsync", full)
        with pytest.raises(OSError, match="No space left") as caught:
            renew_over_est(place)
    assert caught.value.filename == str(place)
    assert held(place) == before
    assert load_bundle(place).name == "w1"
    assert renew_over_est(place) is not None
    assert held(place, CHANGING) != {name: before[name] for name in CHANGING}


def test_renewal_of_a_bundle_that_may_not_be_written_asks_nobody(
    server: EstServer, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A certificate that cannot be put there is not asked for."""
    asked = len(server.seen)
    monkeypatch.setattr("rhttp.worker.est_renewal.os.access", lambda *_: False)  # whoever is root may write everywhere
    assert refused(place).code == "place"
    assert len(server.seen) == asked


def test_renewals_of_one_bundle_at_once_are_one(server: EstServer, place: Path) -> None:
    """The second is told that another is under way, and changes nothing; when that is over it may."""
    begun, go_on = threading.Event(), threading.Event()

    def wait(seen: Seen) -> Reply:
        begun.set()
        assert go_on.wait(30)
        return server.simplereenroll(seen)

    server.acts["simplereenroll"] = wait
    done: list[Bundle | None] = []
    first = threading.Thread(target=lambda: done.append(renew_over_est(place)))
    first.start()
    try:
        assert begun.wait(30)
        error = refused(place)
        assert (error.code, error.is_passing) == ("busy", True)
    finally:
        go_on.set()
        first.join(60)
    (renewed,) = done
    assert renewed is not None
    assert renewed.serial == read_bundle(place).serial
    assert est_renewal.renew_over_est(place) is not None
