"""The home's authorities: one root, one CA for each role, each issuing for its role only."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from functools import cache

import pytest
from support.certs import NOTHING_REVOKED

from pki.authority import Authority, Hierarchy, make_hierarchy
from pki.errors import InputUnreadable, NameInvalid, ProfileViolation, StoreError
from pki.issue import certificate_pem
from pki.keys import generate_key, private_key_pem
from pki.names import PEER_ROLES, Role, SpiffeId, parse_san
from pki.verify import TrustStore, verify_peer

AT = datetime(2026, 3, 1, 12, tzinfo=UTC)


@cache
def hierarchy() -> Hierarchy:
    """One hierarchy for all tests: making keys takes a while."""
    return make_hierarchy("example.internal", at=AT, entropy=os.urandom)


def authority(role: Role) -> Authority:
    return Authority(role=role, issuer=hierarchy().issuing[role])


def identity_of(role: Role) -> SpiffeId:
    pool = "render" if role is Role.WORKER else None
    return SpiffeId(trust_domain="example.internal", role=role, name="n1", pool=pool)


def test_hierarchy_is_a_root_and_a_ca_for_each_role() -> None:
    """Every role has its own CA under the root, for two of the root's ten years, each with its own key."""
    made = hierarchy()
    assert set(made.issuing) == set(Role)
    assert made.root.certificate.not_valid_after_utc - AT == timedelta(days=3650)
    for issuer in made.issuing.values():
        assert issuer.certificate.issuer == made.root.certificate.subject
        assert issuer.certificate.not_valid_after_utc - AT == timedelta(days=730)
    assert len({private_key_pem(issuer.key) for issuer in (made.root, *made.issuing.values())}) == 5


def test_hierarchy_of_no_trust_domain_is_refused() -> None:
    """A trust domain that no identity could have makes no hierarchy."""
    with pytest.raises((NameInvalid, ProfileViolation)):
        make_hierarchy("Not A Domain", at=AT, entropy=os.urandom)


@pytest.mark.parametrize("role", sorted(PEER_ROLES))
def test_authority_issues_what_the_gateway_accepts(role: Role) -> None:
    """A path as issued verifies for its role, and says name and pool."""
    path = authority(role).issue(identity_of(role), public_key=generate_key().public_key(), at=AT, entropy=os.urandom)
    trust = TrustStore.from_pem(
        certificate_pem(hierarchy().root.certificate),
        {one: [certificate_pem(issuer.certificate)] for one, issuer in hierarchy().issuing.items()},
    )
    peer = verify_peer(path, trust=trust, roles=frozenset({role}), at=AT, revocation=NOTHING_REVOKED)
    assert (peer.role, peer.name, peer.pool) == (role, "n1", "render" if role is Role.WORKER else None)


@pytest.mark.parametrize("role", sorted(PEER_ROLES))
@pytest.mark.parametrize("asked", sorted(PEER_ROLES))
def test_authority_issues_for_its_own_role_only(role: Role, asked: Role) -> None:
    """A CA at work refuses identities of another role, and servers."""
    key = generate_key().public_key()
    if asked is not role:
        with pytest.raises(ValueError, match=f"issues nothing for a {asked.value}"):
            authority(role).issue(identity_of(asked), public_key=key, at=AT, entropy=os.urandom)
    with pytest.raises(ValueError, match="issues nothing for a server"):
        authority(role).issue([parse_san("DNS:localhost")], public_key=key, at=AT, entropy=os.urandom)


def test_authority_lifetime_ends_with_the_issuer() -> None:
    """A certificate asked for late in the CA's life is cut to it."""
    late = AT + timedelta(days=729)
    path = authority(Role.CLIENT).issue(
        identity_of(Role.CLIENT), public_key=generate_key().public_key(), at=late, entropy=os.urandom
    )
    assert path[0].not_valid_after_utc == path[1].not_valid_after_utc


def test_authority_from_pem_is_the_one_that_was_saved() -> None:
    """Certificate and key as they lie in a home make the CA again."""
    issuer = hierarchy().issuing[Role.WORKER]
    loaded = Authority.from_pem(
        Role.WORKER, certificate=certificate_pem(issuer.certificate), key=private_key_pem(issuer.key)
    )
    assert loaded.issuer.certificate == issuer.certificate


def test_authority_from_parts_that_do_not_belong_together_is_refused() -> None:
    """Another CA's key, two certificates, or rubbish never make a CA."""
    worker, client = (hierarchy().issuing[role] for role in (Role.WORKER, Role.CLIENT))
    pem, key = certificate_pem(worker.certificate), private_key_pem(worker.key)
    with pytest.raises(StoreError):
        Authority.from_pem(Role.WORKER, certificate=pem, key=private_key_pem(client.key))
    with pytest.raises(StoreError, match="2 certificates"):
        Authority.from_pem(Role.WORKER, certificate=pem * 2, key=key)
    with pytest.raises(InputUnreadable):
        Authority.from_pem(Role.WORKER, certificate=b"", key=key)
    with pytest.raises(InputUnreadable):
        Authority.from_pem(Role.WORKER, certificate=pem, key=b"")


def test_no_repr_shows_a_key() -> None:
    """Keys stay out of logs."""
    assert "PrivateKey" not in repr(hierarchy()) + repr(authority(Role.CLIENT))
