"""Enrolling where something is in the way: each refusal, what passes, and certificates that were not asked for."""

from __future__ import annotations

import base64
import contextlib
import socket
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from support.enrolments import Naps, clean, order, refused
from support.estserver import (
    TOKEN_ID,
    EstServer,
    Reply,
    Seen,
    cas,
    certs_only,
    est_server,
    problem,
)
from support.homes import mode_of

from pki.keys import generate_key
from pki.names import Role
from rhttp.worker import https
from rhttp.worker.bundle import load_bundle, parse_gateway
from rhttp.worker.enrolment import enroll
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.est import Token


@pytest.fixture
def server() -> Iterator[EstServer]:
    with est_server() as made:
        yield made


# ---- refusals ----


@pytest.mark.parametrize(
    ("status", "says"),
    [
        (400, "does not take the request (400, no)"),
        (401, "rhttp-pki token create --role worker --pool P"),
        (403, "may not be enrolled"),
        (404, "it enrols no worker"),
        (429, "too many ask"),
        (503, "cannot enrol anybody"),
        (500, "it answers 500"),
    ],
)
def test_enrolment_that_is_refused_says_what_to_do(status: int, says: str, server: EstServer, tmp_path: Path) -> None:
    """Each refusal has its line, with the mend."""
    server.replies["simpleenroll"] = [problem(status)]
    with pytest.raises(EnrolmentFailed) as caught:
        enroll(order(server, tmp_path))
    assert says in str(clean(caught.value))
    assert not (tmp_path / "w1").exists()


def test_enrolment_with_a_wrong_token_is_refused_once(server: EstServer, tmp_path: Path) -> None:
    """A token that was refused is not sent again: each try would count."""
    error = refused(order(server, tmp_path, token=Token(id=TOKEN_ID, secret="another-secret"), wait=60))
    assert error.code == "token"
    assert "compare the clocks" in str(error)
    assert server.steps() == ["cacerts", "simpleenroll", "simpleenroll"]


def test_enrolment_gives_up_on_nonces_that_are_always_stale(server: EstServer, tmp_path: Path) -> None:
    """A server that says stale for ever is asked three times."""

    def stale(seen: Seen) -> Reply:
        reply = server.challenge(replace(seen, fields={}))
        assert reply is not None
        value = f"{reply.fields['WWW-Authenticate']}, stale=true"
        return Reply(401, b"", {"WWW-Authenticate": value})

    server.acts["simpleenroll"] = stale
    assert refused(order(server, tmp_path)).code == "token"
    assert server.steps().count("simpleenroll") == 3


@pytest.mark.parametrize("challenge", ['Basic realm="x"', 'Digest realm="x", nonce="n", qop="auth", algorithm=MD5'])
def test_enrolment_answers_digest_with_sha256_alone(challenge: str, server: EstServer, tmp_path: Path) -> None:
    """To a server that wants the secret itself, or weaker proof of it, nothing is sent."""
    server.acts["simpleenroll"] = lambda _: Reply(401, b"", {"WWW-Authenticate": challenge})
    refused(order(server, tmp_path))
    assert [seen.fields.get("Authorization") for seen in server.seen] == [None, None]


# ---- trouble that passes ----


def test_enrolment_asks_again_after_503_as_late_as_it_is_told(server: EstServer, tmp_path: Path) -> None:
    """`Retry-After` is honoured, somebody hears of it, and the bundle is made in the end."""
    server.replies["simpleenroll"] = [problem(503, **{"Retry-After": "7"})]
    naps, told = Naps(), list[str]()
    enroll(order(server, tmp_path, wait=60), sleep=naps, tell=told.append)
    assert [7 <= nap < 8 for nap in naps.taken] == [True]
    assert ["trying again" in line for line in told] == [True]
    assert load_bundle(tmp_path / "w1").name == "w1"


@pytest.mark.parametrize(("fields", "tries"), [({}, 1), ({"Retry-After": "3"}, 2)])
def test_enrolment_asks_again_after_429_only_when_told_when(
    fields: dict[str, str], tries: int, server: EstServer, tmp_path: Path
) -> None:
    """A limit that does not say when it ends is the operator's to wait for."""
    server.acts["cacerts"] = lambda seen: problem(429, **fields) if len(server.seen) == 1 else server.cacerts(seen)
    naps = Naps()
    if tries == 1:
        assert refused(order(server, tmp_path, wait=60), sleep=naps).code == "too-many"
    else:
        enroll(order(server, tmp_path, wait=60), sleep=naps)
    assert server.steps().count("cacerts") == tries


def test_enrolment_does_not_wait_longer_than_it_may(server: EstServer, tmp_path: Path) -> None:
    """A pause that would end after the time is up is not begun."""
    server.acts["cacerts"] = lambda _: problem(503, **{"Retry-After": "61"})
    naps = Naps()
    assert refused(order(server, tmp_path, wait=60), sleep=naps).code == "unavailable"
    assert naps.taken == []


def test_enrolment_whose_answer_was_lost_asks_again_with_the_same_key(server: EstServer, tmp_path: Path) -> None:
    """So that the gateway can tell it the same certificate, and no use of the token is lost."""
    granted = server.acts["simpleenroll"]

    def lose(seen: Seen) -> Reply:
        return replace(granted(seen), lost=True)

    server.replies["simpleenroll"] = [granted, lose]
    enroll(order(server, tmp_path, wait=60), sleep=Naps())
    assert len(server.certified) == 1
    assert server.steps().count("simpleenroll") >= 4


def test_enrolment_that_failed_in_passing_goes_on_with_its_key_when_run_again(
    server: EstServer, tmp_path: Path
) -> None:
    """The key of a run that may have got a certificate stays, 0600, and nothing is to be seen at the place."""
    granted = server.acts["simpleenroll"]
    server.replies["simpleenroll"] = [granted, lambda seen: replace(granted(seen), lost=True)]
    with pytest.raises(EnrolmentFailed, match="run this again within ten minutes"):
        enroll(order(server, tmp_path))
    assert not (tmp_path / "w1").exists()
    (kept,) = tmp_path.iterdir()
    assert (mode_of(kept), mode_of(kept / "key.pem")) == (0o700, 0o600)
    key = (kept / "key.pem").read_bytes()
    enroll(order(server, tmp_path))
    assert (tmp_path / "w1" / "key.pem").read_bytes() == key
    assert [path.name for path in tmp_path.iterdir()] == ["w1"]
    assert len(server.certified) == 1


def test_enrolment_at_nobody_says_where_nobody_is(tmp_path: Path) -> None:
    """One line with the address, after the time for waiting."""
    with est_server() as server, socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and never listens
        there = parse_gateway(f"https://127.0.0.1:{taken.getsockname()[1]}")
        error = refused(order(server, tmp_path, gateway=there))
    assert error.code == "unreachable"
    assert str(there) in str(error)


def test_enrolment_at_something_without_tls_is_refused(tmp_path: Path) -> None:
    """A port that speaks something else is told as such."""
    with est_server() as server, socket.create_server(("127.0.0.1", 0)) as listener:
        there = parse_gateway(f"https://127.0.0.1:{listener.getsockname()[1]}")

        def greet() -> None:
            peer, _ = listener.accept()
            with peer, contextlib.suppress(OSError):
                peer.recv(1)
                peer.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                peer.recv(65536)

        thread = threading.Thread(target=greet)
        thread.start()
        try:
            error = refused(order(server, tmp_path, gateway=there))
        finally:
            thread.join(timeout=60)
    assert error.code in ("tls", "lost")


@pytest.mark.parametrize("bound", ["HANDSHAKE_TIMEOUT", "ANSWER_TIMEOUT"])
def test_enrolment_at_a_server_that_says_nothing_ends(
    bound: str, server: EstServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every step has its time, however long the other side keeps the connection."""
    monkeypatch.setattr(https, bound, 0.05)
    if bound == "ANSWER_TIMEOUT":
        done = threading.Event()
        server.acts["cacerts"] = lambda seen: Reply(lost=done.wait(60))
        try:
            error = refused(order(server, tmp_path))
        finally:
            done.set()
    else:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            there = parse_gateway(f"https://127.0.0.1:{silent.getsockname()[1]}")
            error = refused(order(server, tmp_path, gateway=there))
    assert (error.code, error.is_passing) == ("timeout", True)


# ---- the certificate ----


def other_key(server: EstServer) -> x509.Certificate:
    return cas().leaf(generate_key().public_key())


Change = Callable[[EstServer, Any], Reply]


def _reply(server: EstServer, leaf: x509.Certificate, issuer: x509.Certificate | None = None) -> Reply:
    return server.reply_leaf(leaf, issuer or cas().issuing[Role.WORKER].certificate)


ANSWERS: dict[str, tuple[Change, str, str]] = {
    "another key": (lambda s, _: _reply(s, other_key(s)), "certificate", "another key"),
    "another role": (
        lambda s, key: s.reply_leaf(cas().leaf(key, Role.CLIENT), cas().issuing[Role.CLIENT].certificate),
        "certificate",
        "is for a client",
    ),
    "another name": (lambda s, key: _reply(s, cas().leaf(key, name="w2")), "certificate", "is for the name w2"),
    "another root": (
        lambda s, key: _reply(s, cas(1).leaf(key), cas(1).issuing[Role.WORKER].certificate),
        "certificate",
        "does not lead to the root",
    ),
    "no issuer": (lambda s, key: s.reply_leaf(cas().leaf(key)), "certificate", "does not lead to the root"),
    "the issuer alone": (
        lambda s, _: s.reply_leaf(cas().issuing[Role.WORKER].certificate),
        "certificate",
        "another key",
    ),
    "the future": (
        lambda s, key: _reply(s, cas().leaf(key, at=datetime.now(UTC) + timedelta(hours=2))),
        "clock",
        "look at the clock",
    ),
    "not base64": (
        lambda s, key: replace(_reply(s, cas().leaf(key)), content=b"\xff\xfe"),
        "certificate",
        "is not base64",
    ),
    "too long": (lambda s, key: replace(_reply(s, cas().leaf(key)), content=b"A" * 1048577), "too-long", "longer than"),
    "no gateway": (
        lambda s, key: Reply(
            200,
            certs_only(cas().leaf(key), cas().issuing[Role.WORKER].certificate),
            {"Content-Type": "application/pkcs7-mime"},
        ),
        "gateway",
        "Rhttp-Gateway",
    ),
    "a gateway in the clear": (
        lambda s, key: replace(
            _reply(s, cas().leaf(key)),
            fields={"Content-Type": "application/pkcs7-mime", "Rhttp-Gateway": "http://h:1"},
        ),
        "gateway",
        "https://HOST",
    ),
}


@pytest.mark.parametrize("what", ANSWERS)
def test_enrolment_takes_no_certificate_but_the_one_it_asked_for(what: str, server: EstServer, tmp_path: Path) -> None:
    """For our key, of the role and name asked for, leading to the pinned root, in its time; else there is no bundle."""
    change, code, says = ANSWERS[what]

    def answer(seen: Seen) -> Reply:
        if (refused := server.challenge(seen)) is not None:
            return refused
        return change(server, x509.load_der_x509_csr(base64.b64decode(seen.content)).public_key())

    server.acts["simpleenroll"] = answer
    error = refused(order(server, tmp_path, name="w1"))
    assert (error.code, says in str(error)) == (code, True), str(error)


def test_enrolment_by_a_clock_that_runs_ahead_names_the_clock(server: EstServer, tmp_path: Path) -> None:
    """A certificate that has expired by our clock was not made a second ago by the gateway's."""
    later = datetime.now(UTC) + timedelta(hours=2)
    error = refused(order(server, tmp_path), now=lambda: later)
    assert error.code == "clock"
    assert "look at the clock" in str(error)
