"""Who a verified path proves: worked out once for a certificate, and anew when what is known of it changes."""

from __future__ import annotations

import dataclasses

from gateway.core.peer import LocalPeer, peer_of
from pki.keys import KeyType
from pki.names import Role
from pki.verify import VerifiedPeer

PROVED = VerifiedPeer(
    role=Role.WORKER,
    name="w1",
    pool="render",
    serial=0x1F,
    serial_hex="1f",
    fingerprint=b"f" * 32,
    issuer=b"i" * 32,
    not_before=0.0,
    expires=2e9,
    key_type=KeyType.P256,
)


def test_peer_has_the_type_of_its_key_and_the_group_of_its_connection() -> None:
    """What policies see of them; the group is the connection's, so it is not shared."""
    one, other = (peer_of(PROVED, {}, source=None, group=group) for group in ("X25519MLKEM768", "x25519"))
    assert (one.key_type, one.group) == ("p256", "X25519MLKEM768")
    assert (other.key_type, other.group) == ("p256", "x25519")
    assert one.principal is other.principal
    assert (LocalPeer(None).key_type, LocalPeer(None).group) == (None, None)


def test_peers_of_one_certificate_share_what_it_says() -> None:
    """A worker's connections, and one for each source; what tells them apart is their own."""
    labels = {"1f": {"zone": "b", "gpu": "a100"}}
    one, other = (peer_of(PROVED, labels, source=source) for source in ("192.0.2.1", "192.0.2.2"))
    assert one.principal is other.principal
    assert one.identity is other.identity
    assert (one.identity, one.principal.labels) == ("worker/w1", (("gpu", "a100"), ("zone", "b")))
    assert (one.source, other.source) == ("192.0.2.1", "192.0.2.2")


def test_peer_whose_labels_changed_has_the_new_ones() -> None:
    """Also when they are gone, and when they came."""
    for labels, wanted in (({"1f": {"a": "1"}}, (("a", "1"),)), ({"1f": {"a": "2"}}, (("a", "2"),)), ({}, ())):
        assert peer_of(PROVED, labels, source=None).principal.labels == wanted
    assert peer_of(PROVED, {"1f": {"a": "1"}}, source=None).principal.labels == (("a", "1"),)


def test_peer_of_the_same_certificate_under_another_proof_is_the_other_proofs() -> None:
    """A new store verifies anew, and may find out something else about the same bytes."""
    assert peer_of(PROVED, {}, source=None).principal.pool == "render"
    moved = dataclasses.replace(PROVED, pool="other", role=Role.WORKER)
    assert peer_of(moved, {}, source=None).principal.pool == "other"
    client = dataclasses.replace(PROVED, role=Role.CLIENT, pool=None)
    assert peer_of(client, {"1f": {"a": "1"}}, source=None).identity == "client/w1"
