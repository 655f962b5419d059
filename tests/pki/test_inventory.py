"""The inventory: one owner for a name, every certificate known, revocation for good."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from functools import cache
from pathlib import Path

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, select

from pki.authority import Authority, Hierarchy, make_hierarchy
from pki.inventory import (
    CertificateRecord,
    Identity,
    Inventory,
    NameTaken,
    RevokedMeanwhile,
    UnknownCertificate,
    count_revocations,
    fingerprint_of,
    revoked_since,
)
from pki.keys import generate_key
from pki.names import Role, SpiffeId
from pki.revocation import RevocationReason, RevokedEntry
from pki.selection import Selection
from pki.tables import certificates, metadata

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = int(AT.timestamp())
ALICE = Identity(name="alice", role=Role.CLIENT)
W1 = Identity(name="w1", role=Role.WORKER, pool="render")


@cache
def hierarchy() -> Hierarchy:
    """One hierarchy for all tests: making keys takes a while."""
    return make_hierarchy("example.internal", at=AT, entropy=os.urandom)


def record_for(owner: Identity, *, at: datetime = AT, labels: dict[str, str] | None = None) -> CertificateRecord:
    """A certificate for the owner and its record."""
    authority = Authority(role=owner.role, issuer=hierarchy().issuing[owner.role])
    identity = SpiffeId(trust_domain="example.internal", role=owner.role, name=owner.name, pool=owner.pool)
    path = authority.issue(identity, public_key=generate_key().public_key(), at=at, entropy=os.urandom)
    return CertificateRecord.build(
        path[0], issuer=path[1], role=owner.role, owner=owner, labels=labels or {}, at=int(at.timestamp())
    )


class Writes:
    """Counts the calls of `on_write`."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, connection: Connection) -> None:
        assert connection.in_transaction()
        self.count += 1


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    """A database with the tables."""
    made = create_engine(f"sqlite:///{tmp_path}/x.db")
    event.listen(made, "connect", lambda connection, _: connection.execute("PRAGMA foreign_keys = ON"))
    metadata.create_all(made)
    yield made
    made.dispose()


@pytest.fixture
def writes() -> Writes:
    """The counter that the inventory calls."""
    return Writes()


@pytest.fixture
def inventory(engine: Engine, writes: Writes) -> Inventory:
    """An inventory with the CAs in it."""
    made = Inventory(engine, on_write=writes)
    made.add_authority(hierarchy().root.certificate, role=None)
    for role, issuer in hierarchy().issuing.items():
        made.add_authority(issuer.certificate, role=role)
    writes.count = 0
    return made


def test_record_is_read_back_as_it_was(inventory: Inventory, writes: Writes) -> None:
    """What was entered is what is found, by serial and by name, labels included; one write was counted."""
    record = record_for(W1, labels={"gpu": "a100", "zone": "b"})
    inventory.record(record)
    assert inventory.by_serial(record.serial) == record
    assert inventory.certificates(name="w1") == (record,)
    assert inventory.find("w1") == W1
    assert writes.count == 1


def test_record_says_what_the_certificate_says(inventory: Inventory) -> None:
    """Default lifetimes: a worker's certificate is good for 24 hours from the moment of issue."""
    record = record_for(W1)
    assert (record.not_after - NOW, record.issued_at) == (86_400, NOW)
    assert record.issuer == fingerprint_of(hierarchy().issuing[Role.WORKER].certificate)


def test_record_same_name_again_is_another_certificate(inventory: Inventory) -> None:
    """A name may hold many certificates of its role and pool."""
    for _ in range(2):
        inventory.record(record_for(W1))
    assert len(inventory.certificates(name="w1")) == 2


@pytest.mark.parametrize(
    "other",
    [
        Identity(name="w1", role=Role.WORKER, pool="other"),
        Identity(name="w1", role=Role.CLIENT),
        Identity(name="w1", role=Role.MASTER),
    ],
)
def test_record_name_of_another_role_or_pool_is_refused(inventory: Inventory, other: Identity) -> None:
    """A name has one role and pool while a certificate of it is valid, and a refusal writes nothing."""
    inventory.record(record_for(W1))
    with pytest.raises(NameTaken, match="w1 belongs to worker/render/w1"):
        inventory.require_free(other, at=NOW)
    with pytest.raises(NameTaken):
        inventory.record(record_for(other))
    assert inventory.find("w1") == W1
    assert len(inventory.certificates()) == 1


@pytest.mark.parametrize("ended", ["revoked", "expired"])
def test_record_name_whose_certificates_have_ended_goes_to_another_pool(inventory: Inventory, ended: str) -> None:
    """A name that was given to a wrong pool is free again when nothing of it is valid; what was issued stays known."""
    old, other = record_for(W1), Identity(name="w1", role=Role.WORKER, pool="other")
    inventory.record(old)
    at = AT
    if ended == "revoked":
        inventory.revoke(Selection(name="w1"), reason="unspecified", at=NOW)
    else:
        at = datetime.fromtimestamp(old.not_after, UTC)
        with pytest.raises(NameTaken):  # its last second
            inventory.record(record_for(other, at=at))
        at = datetime.fromtimestamp(old.not_after + 1, UTC)
    inventory.require_free(other, at=int(at.timestamp()))
    inventory.record(record_for(other, at=at))
    assert inventory.find("w1") == other
    assert {record.pool for record in inventory.certificates(name="w1")} == {"render", "other"}


def test_record_is_asked_again_first_and_a_refusal_undoes_all(inventory: Inventory, engine: Engine) -> None:
    """What is asked in the transaction sees what others have committed, and nothing is entered when it refuses."""
    inventory.record(record_for(W1))
    with engine.connect() as connection:
        before = count_revocations(connection, "w1")
    inventory.revoke(Selection(name="w1"), reason="unspecified", at=NOW)

    def ask_again(connection: Connection) -> None:
        if revoked_since(connection, "w1", before):
            raise RevokedMeanwhile("gone")

    with pytest.raises(RevokedMeanwhile):
        inventory.record(record_for(W1), ask_again)
    assert len(inventory.certificates(name="w1")) == 1


def test_require_free_passes_new_names_and_the_owner(inventory: Inventory) -> None:
    """Nobody's name and one's own name are free."""
    inventory.require_free(W1, at=NOW)
    inventory.record(record_for(W1))
    inventory.require_free(W1, at=NOW)


def test_record_with_more_is_one_transaction(inventory: Inventory) -> None:
    """When what was to be done beside it fails, the certificate is not entered either."""

    def fail(_: Connection) -> None:
        raise RuntimeError

    with pytest.raises(RuntimeError):
        inventory.record(record_for(ALICE), fail)
    assert inventory.find("alice") is None
    assert inventory.certificates() == ()


def test_record_of_an_unknown_issuer_is_refused(engine: Engine, writes: Writes) -> None:
    """A certificate whose CA is not in the inventory cannot be entered; the mend enters the home's CAs."""
    with pytest.raises(UnknownCertificate, match="rhttp-pki db upgrade"):
        Inventory(engine, on_write=writes).record(record_for(ALICE))


def test_server_certificate_has_no_name(inventory: Inventory) -> None:
    """The gateway's own certificate takes no name from anybody, and is listed first."""
    issuer = hierarchy().issuing[Role.SERVER]
    from pki.names import parse_san

    path = Authority(role=Role.SERVER, issuer=issuer).issue(
        [parse_san("DNS:localhost")], public_key=generate_key().public_key(), at=AT, entropy=os.urandom
    )
    server = CertificateRecord.build(path[0], issuer=path[1], role=Role.SERVER, owner=None, labels={}, at=NOW)
    inventory.record(record_for(ALICE))
    inventory.record(server)
    assert [record.name for record in inventory.certificates()] == [None, "alice"]
    assert inventory.certificates(role=Role.SERVER) == (server,)


def test_revoke_by_name_takes_every_certificate_of_it_and_no_other(inventory: Inventory) -> None:
    """All certificates of the name are revoked, with time and reason; those of others stay."""
    mine, also_mine, other = record_for(W1), record_for(W1), record_for(ALICE)
    for record in (mine, also_mine, other):
        inventory.record(record)
    revoked = inventory.revoke(Selection(name="w1"), reason="keyCompromise", at=NOW + 5)
    assert {record.serial for record in revoked} == {mine.serial, also_mine.serial}
    assert [(one.revoked_at, one.reason) for one in inventory.certificates(name="w1")] == [
        (NOW + 5, "keyCompromise")
    ] * 2
    assert inventory.by_serial(other.serial) == other


def test_revoke_by_serial_takes_one(inventory: Inventory) -> None:
    """Only the certificate of that serial is revoked."""
    mine, also_mine = record_for(W1), record_for(W1)
    inventory.record(mine)
    inventory.record(also_mine)
    assert [
        record.serial for record in inventory.revoke(Selection(serial=mine.serial), reason="superseded", at=NOW)
    ] == [mine.serial]
    assert inventory.by_serial(also_mine.serial) == also_mine


def test_revoke_again_keeps_the_first_time_and_reason(inventory: Inventory) -> None:
    """Revocation is for ever: a second one changes nothing and names nothing."""
    record = record_for(ALICE)
    inventory.record(record)
    inventory.revoke(Selection(name="alice"), reason="keyCompromise", at=NOW)
    assert inventory.revoke(Selection(name="alice"), reason="superseded", at=NOW + 9) == ()
    assert inventory.revoke(Selection(serial=record.serial), reason="superseded", at=NOW + 9) == ()
    found = inventory.by_serial(record.serial)
    assert found is not None
    assert (found.revoked_at, found.reason) == (NOW, "keyCompromise")


def test_revoke_by_name_leaves_the_expired_but_for_the_newest(inventory: Inventory) -> None:
    """An expired certificate need not be revoked with the name's others. When all have expired the newest is, so that
    the name's end is written down; by its serial any can be."""
    old = record_for(W1)
    new = record_for(W1, at=datetime.fromtimestamp(NOW + 60, UTC))
    inventory.record(old)
    inventory.record(new)
    assert [
        one.serial for one in inventory.revoke(Selection(name="w1"), reason="unspecified", at=old.not_after + 1)
    ] == [new.serial]
    assert inventory.revoke(Selection(name="w1"), reason="unspecified", at=new.not_after + 1) == ()
    assert inventory.revoke(Selection(serial=old.serial), reason="unspecified", at=new.not_after + 1) == (old,)
    last = record_for(W1, at=datetime.fromtimestamp(NOW + 120, UTC))
    inventory.record(last)
    assert inventory.revoke(Selection(name="w1"), reason="unspecified", at=last.not_after + 1) == (last,)


def test_revoke_unknown_is_refused(inventory: Inventory) -> None:
    """What was never issued cannot be revoked: that is a typing mistake, not a success."""
    with pytest.raises(UnknownCertificate, match="name nobody"):
        inventory.revoke(Selection(name="nobody"), reason="unspecified", at=NOW)
    with pytest.raises(UnknownCertificate, match="serial 0a"):
        inventory.revoke(Selection(serial="0a"), reason="unspecified", at=NOW)


def test_certificates_valid_at_leaves_out_the_expired(inventory: Inventory) -> None:
    """A certificate is listed up to and including its last second."""
    record = record_for(W1)
    inventory.record(record)
    assert inventory.certificates(valid_at=record.not_after) == (record,)
    assert inventory.certificates(valid_at=record.not_after + 1) == ()


def test_revoked_by_is_one_issuer_only(inventory: Inventory) -> None:
    """A CA's list names what it issued and nothing else, and no longer what had expired at the time that is given."""
    alice = record_for(ALICE)
    inventory.record(alice)
    inventory.record(record_for(W1))
    for owner in (ALICE, W1):
        inventory.revoke(Selection(name=owner.name), reason="keyCompromise", at=NOW)
    issuer = fingerprint_of(hierarchy().issuing[Role.CLIENT].certificate)
    entry = RevokedEntry(serial=int(alice.serial, 16), revoked_at=AT, reason=RevocationReason.KEY_COMPROMISE)
    assert inventory.revoked_by(issuer, valid_at=alice.not_after) == (entry,)
    assert inventory.revoked_by(issuer, valid_at=alice.not_after + 1) == ()


def test_next_crl_number_grows_for_each_ca_by_itself(inventory: Inventory) -> None:
    """A number is never given twice (RFC 5280 section 5.2.3)."""
    client, worker = (fingerprint_of(hierarchy().issuing[role].certificate) for role in (Role.CLIENT, Role.WORKER))
    assert [inventory.next_crl_number(one) for one in (client, client, worker)] == [1, 2, 1]
    with pytest.raises(UnknownCertificate):
        inventory.next_crl_number("00" * 32)


def test_authorities_are_the_root_and_one_for_each_role(inventory: Inventory) -> None:
    """The inventory knows every CA by its fingerprint."""
    found = {record.role: record.fingerprint for record in inventory.authorities()}
    assert set(found) == {"root", *Role}
    assert found["root"] == fingerprint_of(hierarchy().root.certificate)


def test_every_write_is_counted_once_and_no_read_is(inventory: Inventory, writes: Writes) -> None:
    """Each writing method calls `on_write` once in its transaction; reading never does."""
    inventory.record(record_for(ALICE))
    inventory.revoke(Selection(name="alice"), reason="unspecified", at=NOW)
    inventory.next_crl_number(fingerprint_of(hierarchy().root.certificate))
    assert writes.count == 3
    inventory.find("alice")
    inventory.certificates()
    inventory.authorities()
    inventory.revoked_by("x", valid_at=NOW)
    inventory.affected(Selection(name="alice"), at=NOW)
    assert writes.count == 3


def test_no_repr_shows_pem(inventory: Inventory, engine: Engine) -> None:
    """Records are short in logs."""
    record = record_for(ALICE)
    inventory.record(record)
    assert "BEGIN" not in repr(record) + repr(inventory.authorities())
    with engine.connect() as connection:
        assert connection.execute(select(certificates.c.pem)).scalar_one().startswith("-----BEGIN CERTIFICATE-----")
