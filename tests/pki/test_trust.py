"""Trust stores: what may be in one."""

from __future__ import annotations

import pytest
from support.certs import AT, DOMAIN, Pair, authority, entropy, forge, peer, pem, root

from pki.errors import StoreError
from pki.issue import IssuerKey, issue_ca, issue_root
from pki.keys import generate_key
from pki.names import Role
from pki.verify import TrustStore

WORKER_CA = pem(authority(Role.WORKER).certificate)
ROOT = pem(root().certificate)


def test_store_knows_its_own_certificates_and_no_others() -> None:
    store = TrustStore.from_pem(ROOT, {Role.WORKER: [WORKER_CA]})
    assert store.knows(root().certificate)
    assert store.knows(authority(Role.WORKER).certificate)
    assert not store.knows(authority(Role.CLIENT).certificate)
    assert store.issuer_of(peer(Role.CLIENT)) is None
    found = store.issuer_of(peer())
    assert found is not None
    assert found.role is Role.WORKER


def _other_root() -> IssuerKey:
    key = generate_key()
    return IssuerKey(certificate=issue_root(key=key, trust_domain=DOMAIN, at=AT, entropy=entropy()), key=key)


def _ca_of_other_root() -> bytes:
    key = generate_key().public_key()
    made = issue_ca(Role.WORKER, root=_other_root(), public_key=key, trust_domain=DOMAIN, at=AT, entropy=entropy())
    return pem(made)


def _lax_ca() -> bytes:
    return pem(forge("lax", Pair(certificate=root().certificate, key=root().key), ca=True))


@pytest.mark.parametrize(
    ("root_pem", "cas", "match"),
    [
        (b"junk", {Role.WORKER: WORKER_CA}, "root"),
        (ROOT, {Role.WORKER: b""}, "worker CA"),
        (ROOT + ROOT, {Role.WORKER: WORKER_CA}, "more than one"),
        (WORKER_CA, {Role.WORKER: WORKER_CA}, "not usable"),
        (ROOT, {Role.WORKER: ROOT}, "not usable"),
        (ROOT, {Role.SERVER: WORKER_CA}, "not usable"),
        (ROOT, {Role.WORKER: pem(peer())}, "not usable"),
        (ROOT, {Role.WORKER: WORKER_CA, Role.CLIENT: WORKER_CA}, "two roles"),
        (ROOT, {Role.WORKER: WORKER_CA + WORKER_CA}, "two roles"),
        (ROOT, {Role.WORKER: _ca_of_other_root()}, "not usable"),
        (
            ROOT,
            {Role.WORKER: _lax_ca()},
            "usable",
        ),
    ],
    ids=[
        "junk-root",
        "empty-ca",
        "two-roots",
        "ca-as-root",
        "root-as-ca",
        "worker-ca-for-servers",
        "leaf-as-ca",
        "two-roles",
        "twice",
        "foreign-root",
        "lax-ca",
    ],
)
def test_store_of_what_is_no_home_is_refused(root_pem: bytes, cas: dict[Role, bytes], match: str) -> None:
    """A store that could mislead is not built; the message says what is wrong."""
    with pytest.raises(StoreError, match=match):
        TrustStore.from_pem(root_pem, cas)
