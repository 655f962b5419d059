"""What becomes of orders, in a real home: certificates and passwords that are known, or nothing."""

from __future__ import annotations

import json
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import update
from support.homes import new_home, run_cli, uri_of
from support.orders import credentials, enroll, key_info, make_token, renew

from auth.store import UserStore
from gateway.audit.line import AuditUnavailable
from gateway.home.issue import sign
from gateway.home.layout import Home
from gateway.home.session import HomeSession
from gateway.issuer.orders import Certified, Given, Refusal, Refused, Result, Unavailable, parse_order
from gateway.issuer.signing import CannotOpen, Issuer
from gateway.issuer.works import MAX_VALID
from pki.enrolment import REPEAT_SECONDS, TokenReason
from pki.inventory import Identity
from pki.keys import KeyType, generate_key
from pki.names import Role, SpiffeId
from pki.selection import Selection
from pki.tables import certificates, enrolment_uses


def do(issuer: Issuer, *orders: dict[str, object]) -> list[Result]:
    """What becomes of these, given together."""
    return issuer.perform([parse_order(order) for order in orders])


def one(issuer: Issuer, order: dict[str, object]) -> Result:
    (result,) = do(issuer, order)
    return result


def certified(issuer: Issuer, order: dict[str, object]) -> Certified:
    result = one(issuer, order)
    assert isinstance(result, Certified), result
    return result


def lines(home: Home, *events: str) -> list[dict[str, Any]]:
    """The lines with these events that tell of an order."""
    texts = [text for file in sorted(home.audit.glob("cli-*.jsonl")) for text in file.read_text().splitlines()]
    return [line for line in map(json.loads, texts) if line["event"] in events and "request_id" in line]


def refused(reason: TokenReason | Refusal) -> Refused:
    return Refused(reason=reason)


def is_whole(home: Home) -> bool:
    return run_cli(home, "audit verify").exit_code == 0


# -- enrolment ---------------------------------------------------------------------------------------------------------


def test_enroll_certifies_the_key_as_the_token_says(home: Home, session: HomeSession, issuer: Issuer) -> None:
    """Role, pool and labels are the token's, and it is in the inventory and in the log before it is handed out."""
    token = make_token(session, name_prefix="w-")
    key = key_info()
    made = certified(issuer, enroll(token, key, name="w-1"))
    leaf, ca = (x509.load_der_x509_certificate(one) for one in made.chain)
    assert uri_of(leaf) == "spiffe://example.internal/worker/render/w-1"
    assert leaf.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo) == key
    leaf.verify_directly_issued_by(ca)
    record = session.inventory.by_serial(made.serial)
    assert record is not None
    assert (record.name, record.pool, dict(record.labels)) == ("w-1", "render", {"gpu": "a100"})
    (line,) = lines(home, "pki.issued")
    assert (line["identity"], line["serial"], line["request_id"], line["source"], line["detail"]["token"]) == (
        "worker/w-1",
        made.serial,
        "r1",
        "192.0.2.1:5000",
        token,
    )
    assert is_whole(home)


def test_enroll_finds_the_name(session: HomeSession, issuer: Issuer) -> None:
    """The one given, else the token's, else one by its prefix or role and the key's hash."""
    key = key_info()
    assert certified(issuer, enroll(make_token(session, 1, name="solo"), key)).name == "solo"
    made = certified(issuer, enroll(make_token(session, 2, name_prefix="w-"), key))
    assert made.name.startswith("w-")
    assert len(made.name) == 12
    longest = certified(issuer, enroll(make_token(session, 3, name_prefix="x" * 62), key))
    assert len(longest.name) == 63
    client = make_token(session, 4, role=Role.CLIENT, pool=None, labels={})
    assert certified(issuer, enroll(client, key, role="client")).name.startswith("client-")
    assert certified(issuer, enroll(make_token(session, 7), key, name="given")).name == "given"
    assert one(issuer, enroll(make_token(session, 5, name="w5"), key, name="w6")) == refused(TokenReason.WRONG_NAME)
    assert one(issuer, enroll(make_token(session, 6), key, name="No Name")) == refused(TokenReason.WRONG_NAME)


def test_enroll_again_with_the_same_key_tells_the_same(home: Home, session: HomeSession, issuer: Issuer) -> None:
    """An answer that was lost is told again, by another order or in the same batch, and the log has one line."""
    token, key = make_token(session, name="w1", uses=2), key_info()
    first, second = do(issuer, enroll(token, key), enroll(token, key))
    assert isinstance(first, Certified)
    assert isinstance(second, Certified)
    assert (first.repeated, second.repeated) == (False, True)
    third = certified(issuer, enroll(token, key))
    assert third.repeated
    assert first.chain == second.chain == third.chain
    assert len(lines(home, "pki.issued")) == 1
    assert session.tokens().list()[0].used == 1
    session.inventory.revoke(Selection(serial=first.serial), reason="keyCompromise", at=int(time.time()))
    assert one(issuer, enroll(token, key)) == refused(Refusal.REVOKED)


@pytest.mark.parametrize(
    ("rules", "order", "reason"),
    [
        ({"uses": 1, "name_prefix": "w-"}, {}, None),
        ({"name": "w1", "ago": 7200}, {}, TokenReason.EXPIRED),
        ({"name": "w1"}, {"role": "client"}, TokenReason.WRONG_ROLE),
        ({}, {"name": "local"}, Refusal.NAME_TAKEN),
        ({}, {"name": "bob"}, TokenReason.NAME_HELD),
        ({"name": "bob"}, {}, Refusal.NAME_TAKEN),
    ],
    ids=["taken", "expired", "role", "local", "held", "another's"],
)
def test_enroll_is_refused_for_what_the_token_or_the_name_forbids(
    home: Home, session: HomeSession, issuer: Issuer, rules: dict[str, Any], order: dict[str, Any], reason: Any
) -> None:
    """All that a data process asked is asked again here, and who is refused leaves nothing."""
    assert run_cli(home, "issue-client", "bob").exit_code == 0
    token = make_token(session, **rules)
    result = one(issuer, enroll(token, key_info(), **order))
    if reason is None:
        assert isinstance(result, Certified)
        result, reason = one(issuer, enroll(token, key_info(), **order)), TokenReason.USED_UP
    assert result == refused(reason)
    assert len(session.inventory.certificates(role=Role.WORKER)) == len(lines(home, "pki.issued"))


def test_enroll_without_a_token_is_refused(session: HomeSession, issuer: Issuer) -> None:
    """Neither one that never was nor one that was ended."""
    token = make_token(session, name="w1")
    session.tokens().revoke(token, int(time.time()))
    assert one(issuer, enroll(token, key_info())) == refused(TokenReason.REVOKED)
    assert one(issuer, enroll("et_ffffffffffffffff", key_info())) == refused(TokenReason.UNKNOWN)


def _compressed() -> bytes:
    """A P-256 key in another encoding of the same key, as RFC 5480 allows it: its point compressed."""
    key = generate_key().public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    point = key.public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    algorithm = bytes.fromhex("301306072a8648ce3d020106082a8648ce3d030107")
    bits = b"\x03" + bytes([len(point) + 1]) + b"\x00" + point
    return b"\x30" + bytes([len(algorithm) + len(bits)]) + algorithm + bits


@pytest.mark.parametrize(
    "key",
    [
        b"no key",
        ec.generate_private_key(ec.SECP521R1())
        .public_key()
        .public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo),
        _compressed(),
        key_info() + b"\0",
    ],
    ids=["noise", "p521", "compressed", "more behind it"],
)
def test_enroll_takes_only_keys_of_the_allow_list_in_one_encoding(
    session: HomeSession, issuer: Issuer, key: bytes
) -> None:
    """The kinds of `issue --csr`, and two texts never are the same key."""
    assert one(issuer, enroll(make_token(session, name="w1"), key)) == refused(Refusal.KEY_REFUSED)
    assert session.tokens().list()[0].used == 0


@pytest.mark.parametrize("kind", list(KeyType))
def test_enroll_takes_every_kind_of_key_that_is_certified(session: HomeSession, issuer: Issuer, kind: KeyType) -> None:
    """Whatever `issue --csr` takes."""
    assert certified(issuer, enroll(make_token(session, name="w1"), key_info(kind))).name == "w1"


def test_batch_gives_the_last_use_once_and_a_refusal_undoes_no_other(
    home: Home, session: HomeSession, issuer: Issuer
) -> None:
    """Of many who want the last use at once exactly one gets it; others in the batch get theirs."""
    last, many = make_token(session, 1, name_prefix="a-"), make_token(session, 2, name_prefix="b-", uses=5)
    orders = [enroll(token, key_info()) for _ in range(5) for token in (last, many)]
    results = do(issuer, *orders)
    assert [isinstance(result, Certified) for result in results[1::2]] == [True] * 5
    assert sum(isinstance(result, Certified) for result in results[::2]) == 1
    assert results[::2].count(refused(TokenReason.USED_UP)) == 4
    assert len(lines(home, "pki.issued")) == 6
    assert is_whole(home)


# -- renewal -----------------------------------------------------------------------------------------------------------


def test_renew_certifies_another_key_for_the_same_holder(home: Home, session: HomeSession, issuer: Issuer) -> None:
    """Same role, pool, name and labels; the log names the old one, which stays valid."""
    old = certified(issuer, enroll(make_token(session, name="w1"), key_info()))
    new = certified(issuer, renew(old.serial, key_info()))
    before, after = session.inventory.by_serial(old.serial), session.inventory.by_serial(new.serial)
    assert before is not None
    assert after is not None
    assert (after.name, after.role, after.pool, after.labels) == (before.name, before.role, before.pool, before.labels)
    assert before.revoked_at is None
    (line,) = lines(home, "pki.renewed")
    assert (line["serial"], line["detail"]["serial"], line["request_id"]) == (new.serial, old.serial, "r1")
    assert is_whole(home)


def _issue(session: HomeSession, lifetime: timedelta, at: datetime) -> str:
    owner = Identity(name="w9", role=Role.WORKER, pool="render")
    identity = SpiffeId(trust_domain="example.internal", role=Role.WORKER, name="w9", pool="render")
    authority = session.authority(Role.WORKER)
    _, record = sign(authority, identity, generate_key().public_key(), lifetime, owner=owner, at=at)
    session.inventory.record(record)
    return record.serial


@pytest.mark.parametrize(("hours", "renewed"), [(1, 1), (24, 24), (48, 24)])
def test_renew_keeps_a_short_lifetime_and_no_long_one(
    session: HomeSession, issuer: Issuer, hours: int, renewed: int
) -> None:
    """Who was given less than the default gets as little again; more is the operator's to give."""
    serial = _issue(session, timedelta(hours=hours), datetime.now(UTC))
    record = session.inventory.by_serial(certified(issuer, renew(serial, key_info())).serial)
    assert record is not None
    assert record.not_after - record.issued_at == renewed * 3600


def test_renew_is_refused_for_what_has_ended(home: Home, session: HomeSession, issuer: Issuer) -> None:
    """Revoked, expired, unknown, or no peer's: nobody gets another one by it."""
    old = certified(issuer, enroll(make_token(session, name="w1"), key_info()))
    assert run_cli(home, "revoke", "w1").exit_code == 0
    assert one(issuer, renew(old.serial, key_info())) == refused(Refusal.REVOKED)
    # The CA is as old as the test: what expired is told so by its record.
    expired = _issue(session, timedelta(seconds=1), datetime.now(UTC))
    with session.engine.begin() as connection:
        past = int(time.time()) - 5
        connection.execute(update(certificates).where(certificates.c.serial == expired).values(not_after=past))
    assert one(issuer, renew(expired, key_info())) == refused(Refusal.EXPIRED)
    assert one(issuer, renew("0a", key_info())) == refused(Refusal.UNKNOWN_CERTIFICATE)
    served = session.served_serial()
    assert served is not None
    assert one(issuer, renew(served, key_info())) == refused(Refusal.UNKNOWN_CERTIFICATE)
    assert one(issuer, renew(_issue(session, timedelta(hours=1), datetime.now(UTC)), b"x")) == refused(
        Refusal.KEY_REFUSED
    )


def test_renew_has_a_bound_for_a_name(session: HomeSession, issuer: Issuer) -> None:
    """Whoever stole a certificate does not fill the inventory with it: a name has so many valid ones, and no more."""
    first = certified(issuer, enroll(make_token(session, name="w1"), key_info()))
    results = do(issuer, *(renew(first.serial, key_info()) for _ in range(MAX_VALID)))
    assert sum(isinstance(result, Certified) for result in results) == MAX_VALID - 1
    assert results[-1] == refused(Refusal.TOO_MANY_VALID)
    session.inventory.revoke(Selection(serial=first.serial), reason="superseded", at=int(time.time()))
    other = results[0]
    assert isinstance(other, Certified)
    assert certified(issuer, renew(other.serial, key_info())).name == "w1"


# -- credentials -------------------------------------------------------------------------------------------------------


def given(issuer: Issuer, serial: str) -> Given:
    result = one(issuer, credentials(serial))
    assert isinstance(result, Given), result
    return result


def test_credentials_are_given_once_for_an_enrolment(home: Home, session: HomeSession, issuer: Issuer) -> None:
    """The user is made with a password that only the answer has, and the log says for which token and certificate."""
    token = make_token(session, name="w1", uses=2)
    made = certified(issuer, enroll(token, key_info()))
    answer = given(issuer, made.serial)
    assert (answer.user, len(answer.password)) == ("w1", 32)
    (user,) = session.users().list()
    assert (user.name, user.role, user.enabled) == ("w1", "worker", True)
    assert one(issuer, credentials(made.serial)) == refused(Refusal.CREDENTIALS_GIVEN)
    before = session.users().export()
    again = certified(issuer, enroll(token, key_info()))
    assert given(issuer, again.serial).password != answer.password
    assert session.users().export() != before
    first, second = lines(home, "user.added", "user.password")
    assert (first["event"], second["event"]) == ("user.added", "user.password")
    assert first["detail"] == {"user": "w1", "token": token, "serial": made.serial}
    assert answer.password not in "".join(file.read_text() for file in home.audit.glob("*.jsonl"))
    assert is_whole(home)


def test_credentials_are_refused_without_a_recent_enrolment(session: HomeSession, issuer: Issuer) -> None:
    """Neither for a certificate that no token gave, nor for one whose use is long ago, nor for a revoked one."""
    assert one(issuer, credentials("0a")) == refused(Refusal.UNKNOWN_CERTIFICATE)
    made = certified(issuer, enroll(make_token(session, name="w1", uses=2), key_info()))
    renewed = certified(issuer, renew(made.serial, key_info()))
    assert one(issuer, credentials(renewed.serial)) == refused(Refusal.UNKNOWN_CERTIFICATE)
    with session.engine.begin() as connection:
        connection.execute(update(enrolment_uses).values(used_at=int(time.time()) - REPEAT_SECONDS))
    assert one(issuer, credentials(made.serial)) == refused(Refusal.UNKNOWN_CERTIFICATE)
    assert session.users().list() == ()


def test_credentials_are_refused_to_the_revoked_and_the_disabled(session: HomeSession, issuer: Issuer) -> None:
    """Who was locked out since is not let in by a token; nothing is taken by the refusal."""
    made = certified(issuer, enroll(make_token(session, name="w1"), key_info()))
    users: UserStore = session.users()
    users.add("w1", "x" * 20)
    users.disable("w1")
    assert one(issuer, credentials(made.serial)) == refused(Refusal.USER_DISABLED)
    users.enable("w1")
    session.inventory.revoke(Selection(serial=made.serial), reason="keyCompromise", at=int(time.time()))
    assert one(issuer, credentials(made.serial)) == refused(Refusal.REVOKED)


# -- what cannot be done -----------------------------------------------------------------------------------------------


def test_log_that_cannot_be_written_leaves_nothing(
    home: Home, session: HomeSession, issuer: Issuer, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is not in the log is not in the state either: no certificate, no use, no user; refusals are taken back."""
    token = make_token(session, name="w1", uses=2)
    made = certified(issuer, enroll(token, key_info()))
    with monkeypatch.context() as patch:

        def full(*_: object) -> None:
            raise AuditUnavailable("the disk is full")

        patch.setattr(issuer._log, "append_all", full)
        results = do(issuer, enroll(token, key_info()), credentials(made.serial), credentials("0a"))
    assert results == [Unavailable(what="audit")] * 3
    assert said == ["the disk is full"]
    assert session.tokens().list()[0].used == 1
    assert len(session.inventory.certificates(name="w1")) == 1
    assert session.users().list() == ()
    assert given(issuer, made.serial).user == "w1"
    assert is_whole(home)


def test_bug_in_one_order_ends_no_other(
    session: HomeSession, issuer: Issuer, said: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each order has a savepoint of its own."""
    token = make_token(session, name_prefix="w-", uses=5)
    normal = issuer.certify
    calls: list[str] = []

    def certify(owner: Identity, *rest: Any) -> Any:
        calls.append(owner.name)
        if len(calls) == 2:
            raise ZeroDivisionError
        return normal(owner, *rest)

    monkeypatch.setattr(issuer, "certify", certify)
    results = do(issuer, *(enroll(token, key_info()) for _ in range(3)))
    assert [type(result) for result in results] == [Certified, Unavailable, Certified]
    assert said == ["an order failed: ZeroDivisionError"]
    assert session.tokens().list()[0].used == 2


def test_state_that_is_gone_is_said_and_nothing_is_done(tmp_path: Path) -> None:
    """An answer that something is missing, once it is back everything goes on."""
    home = new_home(tmp_path / "home")
    said: list[str] = []
    with HomeSession(home, None) as session:
        token = make_token(session, name="w1")
        issuer = Issuer.open(home.path, session.basics.state_url, None, said.append)
    state = home.path / "state.db"
    away = state.rename(home.path / "away.db")
    order = enroll(token, key_info())
    assert one(issuer, order) == Unavailable(what="state")
    assert said[0].startswith("the state database is missing")
    away.rename(state)
    assert certified(issuer, order).name == "w1"
    issuer.close()


def test_open_says_what_cannot_be_opened(tmp_path: Path) -> None:
    """One line with the mend: a passphrase that is missing or wrong, a key that is gone, another state."""
    home = new_home(tmp_path / "home", passphrase=b"correct horse battery")
    url = home.basics().state_url

    def fault(url: str = url, passphrase: bytes | None = b"correct horse battery") -> str:
        with pytest.raises(CannotOpen) as caught:
            Issuer.open(home.path, url, passphrase, print)
        return str(caught.value)

    assert "is sealed" in fault(passphrase=None)
    assert "the passphrase does not open" in fault(passphrase=b"wrong")
    assert "state.url is another one" in fault("sqlite:///other.db")
    Issuer.open(home.path, url, b"correct horse battery", print).close()
    home.ca_key(Role.MASTER).unlink()
    assert "master-ca.key is missing" in fault()


def test_open_needs_neither_the_root_nor_the_server_key(tmp_path: Path) -> None:
    """They are not the issuer's: it opens and issues where they are not."""
    home = new_home(tmp_path / "home")
    for path in (home.root_key, home.ca_key(Role.SERVER), home.server_key, home.checkpoint_key):
        path.unlink()
    with HomeSession(home, None) as session:
        issuer = Issuer.open(home.path, session.basics.state_url, None, print)
        assert certified(issuer, enroll(make_token(session, name="w1"), key_info())).name == "w1"
        issuer.close()
