"""What is issued while others revoke and remove: one order or the other, never a certificate that outlives its end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection
from support.homes import new_home, run_cli
from support.postgres import installed_postgres

from gateway.home import issue, renew
from gateway.home.issue import IssueOrder, issue_bundle
from gateway.home.layout import Home
from gateway.home.renew import BundleInvalid, renew_bundle
from gateway.home.session import HomeSession
from pki.inventory import CertificateRecord, Identity, NameTaken, RevokedMeanwhile
from pki.names import Role
from pki.selection import Selection

W1 = Identity(name="w1", role=Role.WORKER, pool="render")


@pytest.fixture(scope="module")
def make_database() -> Iterator[Callable[[], str]]:
    """Empty PostgreSQL databases, of one server for all tests here."""
    with installed_postgres() as make:
        yield make


@pytest.fixture(params=["sqlite", "postgresql"])
def home(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Home]:
    """A home with the worker w1, its state in either database."""
    made = new_home(tmp_path / "home")
    if request.param == "sqlite":
        assert run_cli(made, "issue-worker", "w1", "--pool", "render").exit_code == 0
        yield made
        return
    make_database = request.getfixturevalue("make_database")
    text = made.config.read_text()
    made.config.write_text(f'{text}\n[state]\nurl = "{make_database()}"\n')
    assert run_cli(made, "db upgrade").exit_code == 0
    assert run_cli(made, "issue-worker", "w1", "--pool", "render").exit_code == 0
    yield made


@pytest.fixture
def session(home: Home) -> Iterator[HomeSession]:
    with HomeSession(home, None) as opened:
        yield opened


def valid(session: HomeSession) -> list[str]:
    """The serials of w1 that were not revoked."""
    return [record.serial for record in session.inventory.certificates(name="w1") if record.revoked_at is None]


def meanwhile(monkeypatch: pytest.MonkeyPatch, module: object, act: Callable[[], object]) -> None:
    """Have `act` happen when everything was asked and signed, and nothing entered yet."""
    real = issue.sign_peer

    def sign_peer(*arguments: object, **options: object) -> object:
        signed = real(*arguments, **options)  # type: ignore[arg-type]
        act()
        return signed

    monkeypatch.setattr(module, "sign_peer", sign_peer)


def an_order(session: HomeSession, out: Path, owner: Identity = W1, **options: bool) -> IssueOrder:
    return IssueOrder(owner=owner, out=out, **options)


@pytest.mark.parametrize("what", [("w1",), ("--serial", "SERIAL")])
def test_renew_overtaken_by_revoke_is_refused(
    session: HomeSession, monkeypatch: pytest.MonkeyPatch, what: tuple[str, ...]
) -> None:
    """A `renew` that began before `revoke` and would end after it issues nothing, and leaves the bundle alone."""
    bundle, (serial,) = session.home.bundles / "w1", valid(session)
    before = (bundle / "cert.pem").read_bytes()
    arguments = [serial if one == "SERIAL" else one for one in what]
    meanwhile(monkeypatch, renew, lambda: run_cli(session.home, "revoke", *arguments))
    with pytest.raises(BundleInvalid, match="was revoked"):
        renew_bundle(session, bundle)
    assert valid(session) == []
    assert len(session.inventory.certificates(name="w1")) == 1
    assert (bundle / "cert.pem").read_bytes() == before


@pytest.mark.parametrize("act", [("revoke", "w1"), ("user remove", "w1")])
def test_issue_again_overtaken_by_an_end_is_refused(
    session: HomeSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, act: tuple[str, str]
) -> None:
    """What ends a name while another certificate of it is being made wins; no user comes back with a new password."""
    meanwhile(monkeypatch, issue, lambda: run_cli(session.home, *act))
    before = valid(session)
    with pytest.raises(RevokedMeanwhile, match="issue again"):
        issue_bundle(session, an_order(session, tmp_path / "again"))
    assert valid(session) == ([] if act[0] == "revoke" else before)
    assert not (tmp_path / "again").exists()
    assert [user.name for user in session.users().list()] == (["w1"] if act[0] == "revoke" else [])


def test_issue_again_beside_user_disable_leaves_the_user_disabled(
    session: HomeSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Issuing never enables anybody."""
    meanwhile(monkeypatch, issue, lambda: run_cli(session.home, "user disable", "w1"))
    issue_bundle(session, an_order(session, tmp_path / "again"))
    assert [user.enabled for user in session.users().list()] == [False]


def test_issue_for_two_pools_at_once_gives_the_name_to_one(
    session: HomeSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A free name that two commands ask for goes to who enters it first."""
    other = Identity(name="w2", role=Role.WORKER, pool="other")
    mine = Identity(name="w2", role=Role.WORKER, pool="render")
    arguments = ("w2", "--pool", "render", "--no-user", "--out", tmp_path / "first")
    meanwhile(monkeypatch, issue, lambda: (monkeypatch.undo(), run_cli(session.home, "issue-worker", *arguments)))
    with pytest.raises(NameTaken, match="belongs to worker/render/w2"):
        issue_bundle(session, an_order(session, tmp_path / "second", other, with_user=False))
    assert session.inventory.find("w2") == mine


def test_revoke_waits_for_a_certificate_that_is_being_entered_and_catches_it(session: HomeSession) -> None:
    """The other order: what was asked in the transaction holds until it is committed, in either database."""
    asked, ended = threading.Event(), threading.Event()
    revoked: list[CertificateRecord] = []

    def revoke() -> None:
        assert asked.wait(10)
        with HomeSession(session.home, None) as other:
            revoked.extend(other.inventory.revoke(Selection(name="w1"), reason="unspecified", at=first.issued_at))
        ended.set()

    (serial,) = valid(session)
    first = session.inventory.by_serial(serial)
    assert first is not None
    _, second = issue.sign_peer(session, W1, issue.generate_key().public_key(), None, {})
    thread = threading.Thread(target=revoke)
    thread.start()

    def ask_again(connection: Connection) -> None:
        asked.set()
        assert not ended.wait(0.3)  # it is held up

    session.inventory.record(second, ask_again)
    thread.join(20)
    assert ended.is_set()
    assert {record.serial for record in revoked} == {first.serial, second.serial}


def test_name_goes_to_another_pool_once_its_certificates_and_user_have_ended(
    session: HomeSession, tmp_path: Path
) -> None:
    """A name that was given to a wrong pool is in use until `revoke` and `user remove`, and can then be given again."""
    home = session.home
    arguments = ("issue-worker", "w1", "--pool", "other", "--out", tmp_path / "w1")
    refusal = run_cli(home, *arguments)
    assert (refusal.exit_code, "rhttp-pki revoke w1" in refusal.stderr) == (1, True)
    assert run_cli(home, "revoke", "w1").exit_code == 0
    refusal = run_cli(home, *arguments)
    assert (refusal.exit_code, "rhttp-pki user remove w1" in refusal.stderr) == (1, True)
    assert run_cli(home, "user remove", "w1").exit_code == 0
    assert run_cli(home, *arguments).exit_code == 0
    assert session.inventory.find("w1") == Identity(name="w1", role=Role.WORKER, pool="other")
    log = b"".join(path.read_bytes() for path in sorted(home.audit.glob("cli-*.jsonl")))
    assert log.count(b'"formerly":"worker/render/w1"') == 1
    # The bundle of before opens nothing and is not renewed.
    with pytest.raises(BundleInvalid, match="was revoked"):
        renew_bundle(session, home.bundles / "w1")


def test_renew_of_an_expired_bundle_after_its_name_ended_is_refused(
    session: HomeSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`revoke NAME` passes over what expired; a bundle that lay there with such a certificate is no way back."""
    with session.engine.begin() as connection:
        connection.exec_driver_sql("UPDATE certificates SET not_after = issued_at - 1 WHERE name = 'w1'")
    assert run_cli(session.home, "issue-worker", "w1", "--pool", "render", "--out", tmp_path / "again").exit_code == 0
    assert run_cli(session.home, "revoke", "w1").exit_code == 0
    with pytest.raises(BundleInvalid, match="expired, and w1 was revoked since"):
        renew_bundle(session, session.home.bundles / "w1")
    assert valid(session) == [
        record.serial for record in session.inventory.certificates(name="w1") if record.not_after < record.issued_at
    ]
