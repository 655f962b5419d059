"""Selections: which certificates a command means."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from sqlalchemy import create_engine

from pki.authority import Authority, make_hierarchy
from pki.inventory import CertificateRecord, Identity, Inventory, UnknownCertificate
from pki.keys import generate_key
from pki.names import Role, SpiffeId
from pki.selection import Selection
from pki.tables import metadata

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)
NOW = int(AT.timestamp())
PEERS = {
    "w1": ("worker", "render", {"gpu": "a100", "zone": "a"}),
    "w2": ("worker", "render", {"gpu": "a100", "zone": "b"}),
    "w3": ("worker", "other", {"gpu": "a100"}),
    "w4": ("worker", "render", {}),
    "alice": ("client", None, {}),
}


@pytest.fixture(scope="module")
def pattern() -> tuple[list[CertificateRecord], Inventory]:
    """An inventory in memory of five peers; nothing in these tests writes to it but `revoke`."""
    hierarchy = make_hierarchy("example.internal", at=AT, entropy=os.urandom)
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    inventory = Inventory(engine, on_write=lambda _: None)
    for role in (None, *Role):
        issuer = hierarchy.root if role is None else hierarchy.issuing[role]
        inventory.add_authority(issuer.certificate, role=role)
    records = []
    for name, (kind, pool, labels) in PEERS.items():
        role = Role(kind)
        authority = Authority(role=role, issuer=hierarchy.issuing[role])
        owner = SpiffeId(trust_domain="example.internal", role=role, name=name, pool=pool)
        path = authority.issue(owner, public_key=generate_key().public_key(), at=AT, entropy=os.urandom)
        record = CertificateRecord.build(
            path[0],
            issuer=path[1],
            role=role,
            owner=Identity(name=name, role=role, pool=pool),
            labels=labels,
            at=NOW,
        )
        inventory.record(record)
        records.append(record)
    return records, inventory


@pytest.fixture
def inventory(pattern: tuple[list[CertificateRecord], Inventory], tmp_path: Path) -> Iterator[Inventory]:
    """A fresh inventory with the same certificates."""
    records, source = pattern
    engine = create_engine(f"sqlite:///{tmp_path}/state.db")
    metadata.create_all(engine)
    inventory = Inventory(engine, on_write=lambda _: None)
    for one in source.authorities():
        role = None if one.role == "root" else Role(one.role)
        inventory.add_authority(x509.load_pem_x509_certificate(one.pem.encode()), role=role)
    for record in records:
        inventory.record(record)
    yield inventory
    engine.dispose()


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        (Selection(name="w1"), {"w1"}),
        (Selection(role=Role.WORKER), {"w1", "w2", "w3", "w4"}),
        (Selection(role=Role.CLIENT), {"alice"}),
        (Selection(pool="render"), {"w1", "w2", "w4"}),
        (Selection(labels={"gpu": "a100"}), {"w1", "w2", "w3"}),
        (Selection(labels={"gpu": "a100", "zone": "b"}), {"w2"}),
        (Selection(pool="other", labels={"gpu": "a100"}), {"w3"}),
        (Selection(role=Role.WORKER, pool="render", labels={"zone": "a"}), {"w1"}),
    ],
    ids=str,
)
def test_selection_means_what_holds_all_of_it(inventory: Inventory, selection: Selection, names: set[str]) -> None:
    """Role, pool and every label that are given must hold; what is told beforehand is what is revoked."""
    told = inventory.affected(selection, at=NOW)
    assert {record.name for record in told} == names
    assert inventory.revoke(selection, reason="superseded", at=NOW) == told
    revoked = {record.name for record in inventory.certificates() if record.revoked_at is not None}
    assert revoked == names
    assert inventory.revoke(selection, reason="unspecified", at=NOW) == ()


def test_wide_selection_leaves_the_expired(inventory: Inventory) -> None:
    """Of a role nothing is revoked that has expired, not even the newest: that is for a name's end."""
    (worker,) = inventory.certificates(name="w1")
    assert len(inventory.affected(Selection(role=Role.WORKER), at=worker.not_after)) == 4
    assert inventory.affected(Selection(role=Role.WORKER), at=worker.not_after + 1) == ()


@pytest.mark.parametrize(
    "selection",
    [Selection(pool="nowhere"), Selection(labels={"gpu": "h100"}), Selection(role=Role.CLIENT, pool="render")],
    ids=str,
)
def test_selection_of_nothing_is_refused(inventory: Inventory, selection: Selection) -> None:
    """What nobody ever was is a typing mistake, and named as it was given."""
    with pytest.raises(UnknownCertificate, match=f"no certificate with the {selection} was issued"):
        inventory.affected(selection, at=NOW)
    with pytest.raises(UnknownCertificate):
        inventory.revoke(selection, reason="unspecified", at=NOW)


@pytest.mark.parametrize(
    "which",
    [{}, {"name": "a", "serial": "0a"}, {"name": "a", "pool": "p"}, {"serial": "0a", "labels": {"a": "b"}}],
    ids=str,
)
def test_selection_of_nothing_or_several_kinds_is_a_mistake_of_the_caller(which: dict[str, str]) -> None:
    """A name, a serial, or what may be of many: one of them says what is meant."""
    with pytest.raises(ValueError, match="one of them"):
        Selection(**which)  # type: ignore[arg-type]
