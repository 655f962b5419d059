"""Lists of a running gateway: when they are signed, and what happens when they cannot be."""

from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from support.homes import listed, new_home, run_cli

from gateway.home import list_source, revocation_lists
from gateway.home.layout import Home
from gateway.home.list_source import ListSource

DAY = timedelta(days=1)
ALL = ["root", "client", "worker", "master", "server"]


@pytest.fixture(scope="module")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two clients."""
    home = new_home(tmp_path_factory.mktemp("pattern") / "home")
    for name in ("alice", "bob"):
        assert run_cli(home, "issue-client", name, "--no-user").exit_code == 0
    return home.path


@pytest.fixture
def home(pattern: Path, tmp_path: Path) -> Home:
    """A home of one's own."""
    shutil.copytree(pattern, tmp_path / "home")
    return Home(tmp_path / "home")


class Clock:
    """The time of day, as the source and the signing see it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.at = datetime.now(UTC).replace(microsecond=0)
        clock = self

        class Set(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
                return clock.at

        for module in (list_source, revocation_lists):
            monkeypatch.setattr(module, "datetime", Set)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def signed(source: ListSource, lifetime: timedelta = DAY) -> list[str]:
    """Which lists were due."""
    renewed = source.renew(lifetime)
    assert renewed.problems == []
    return [one.name for one in renewed.signed]


def test_lists_are_signed_once_and_again_when_half_of_their_time_is_over(home: Home, clock: Clock) -> None:
    """Not before, and not a second later; each time the version grows, and the numbers."""
    source = ListSource(home, None)
    assert sorted(signed(source)) == sorted(ALL)
    first = source.renew(DAY).published
    assert (first.version, sorted(first.lists)) == (1, sorted(ALL))
    clock.at += timedelta(hours=12, seconds=-1)
    assert signed(source) == []
    clock.at += timedelta(seconds=1)
    assert sorted(signed(source)) == sorted(ALL)
    second = source.renew(DAY).published
    assert second.version == 2
    assert all(second.lists[name].number == first.lists[name].number + 1 for name in ALL)
    for one in second.lists.values():
        found = x509.load_der_x509_crl(one.der)
        assert found.next_update_utc is not None
        assert (one.this_update, one.next_update) == (
            found.last_update_utc.timestamp(),
            found.next_update_utc.timestamp(),
        )
        assert one.next_update == (clock.at + DAY).timestamp()


def test_list_is_signed_for_a_revocation_and_no_other_list_is(home: Home, clock: Clock) -> None:
    """Only the CA that issued it signs; when the entry is dropped, a week after its end, nothing is due for that."""
    source = ListSource(home, None)
    signed(source)
    assert run_cli(home, "revoke", "bob").exit_code == 0
    assert signed(source) == ["client"]
    assert len(x509.load_der_x509_crl(source.renew(DAY).published.lists["client"].der)) == 1
    assert signed(source) == []


def test_lists_are_signed_when_their_lifetime_was_shortened_or_the_clock_set_back(home: Home, clock: Clock) -> None:
    """What was configured, or what the time is, counts from now on."""
    source = ListSource(home, None)
    signed(source)
    assert len(signed(source, DAY / 2)) == 5
    assert signed(source, DAY / 2) == []
    clock.at -= timedelta(minutes=1)
    assert len(signed(source, DAY / 2)) == 5


def test_responders_are_lent_a_key_with_ocsp_and_lose_it_without(home: Home, clock: Clock) -> None:
    """Each CA has one, of its own key; it is another one when half of its time is over, and none when OCSP is off."""
    source = ListSource(home, None)
    assert source.renew(DAY).published.responders == {}
    renewed = source.renew(DAY, ocsp=True)
    assert (renewed.problems, list(renewed.signed), sorted(renewed.lent)) == ([], [], sorted(ALL))
    first = renewed.published
    assert all(one.revoked == {} for one in first.lists.values())
    for name, lent in first.responders.items():
        certificate, issuer = map(x509.load_der_x509_certificate, (lent.certificate, lent.issuer))
        certificate.verify_directly_issued_by(issuer)
        assert certificate == renewed.lent[name]
        assert certificate.not_valid_after_utc == clock.at + DAY
    assert source.renew(DAY, ocsp=True).published == first
    assert run_cli(home, "revoke", "bob", "--reason", "superseded").exit_code == 0
    (bob,) = [entry for entry in listed(home) if entry["name"] == "bob"]
    when = int(datetime.fromisoformat(str(bob["revoked_at"])).timestamp())
    told = source.renew(DAY, ocsp=True).published.lists["client"]
    assert told.revoked == {bob["serial"]: (when, 4)}
    clock.at += DAY / 2
    second = source.renew(DAY, ocsp=True).published
    assert second.version == first.version + 2
    assert all(second.responders[name].key != first.responders[name].key for name in ALL)
    without = source.renew(DAY).published
    assert (without.version, without.responders) == (second.version + 1, {})
    assert without.lists["client"].revoked == {}
    assert source.renew(DAY).published == without


def test_list_of_a_ca_whose_key_is_elsewhere_is_missed_and_the_others_are_not(home: Home) -> None:
    """An offline root has its list made where it is; here it is told, by name, and the rest goes on."""
    home.root_key.rename(home.path.parent / "offline.key")
    renewed = ListSource(home, None).renew(DAY)
    assert sorted(renewed.published.lists) == sorted(set(ALL) - {"root"})
    (problem,) = renewed.problems
    assert problem.startswith("the revocation list of the root cannot be signed: ")


def test_lists_that_cannot_be_replaced_stay(home: Home, clock: Clock) -> None:
    """Without its database, or without the passphrase, what was signed before is served until its end."""
    source = ListSource(home, None)
    signed(source)
    before = source.renew(DAY).published
    clock.at += DAY
    (home.path / "state.db").rename(home.path / "away.db")
    renewed = source.renew(DAY)
    assert (renewed.published, list(renewed.signed)) == (before, [])
    assert len(renewed.problems) >= 1
    (home.path / "away.db").rename(home.path / "state.db")
    assert len(signed(source)) == 5


def test_lists_of_a_sealed_home_need_its_passphrase(tmp_path: Path) -> None:
    """With it they are signed; without, each is told."""
    home = new_home(tmp_path / "home", passphrase=b"open sesame")
    assert len(signed(ListSource(home, b"open sesame"))) == 5
    renewed = ListSource(home, None).renew(DAY)
    assert (len(renewed.problems), renewed.published.lists) == (5, {})


def test_lists_go_on_while_the_configuration_is_being_edited(home: Home) -> None:
    """A gateway.toml that cannot be read keeps no revocation from being listed."""
    source = ListSource(home, None)
    signed(source)
    home.config.write_text("half a li")
    assert run_cli(home, "revoke", "bob").exit_code == 0
    assert signed(source) == ["client"]


def test_source_shows_no_passphrase() -> None:
    """Its repr may be logged."""
    assert "sesame" not in repr(ListSource(Home(Path("/nowhere")), b"open sesame"))
