"""Makes a home: every key, certificate and file of it, or nothing (I/O).

It is built in a directory beside its place (or inside it, when that exists and is empty) and moved there at the end, so
a failure or a crash leaves no half of a home, and of two that make the same home at the same time one is refused.
"""

from __future__ import annotations

import os
import secrets
from dataclasses import dataclass, field
from datetime import datetime

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from gateway.config.defaults import DEFAULT_LISTEN, DEFAULT_STATE_URL
from gateway.config.template import build_config
from gateway.home.issuance_log import audit_certificate
from gateway.home.issue import server_names, sign
from gateway.home.layout import Home
from gateway.state.database import bump, create_schema, open_state
from pki.authority import Authority, Hierarchy, HierarchyKeys, make_hierarchy
from pki.files import Staging, staged_directory
from pki.inventory import CertificateRecord, Inventory
from pki.issue import certificate_pem
from pki.keys import KeyType, generate_key, private_key_pem, public_key_pem, seal
from pki.names import Role

__all__ = ["HomePlan", "make_home"]

_STATE_KEY_BYTES = 32
_CERT_MODE = 0o644


@dataclass(frozen=True, slots=True, kw_only=True)
class HomePlan:
    """What a new home is to be. `realm` is part of every stored credential, so it never changes afterwards."""

    trust_domain: str
    realm: str
    sans: tuple[str, ...] = ()
    listen: str = DEFAULT_LISTEN
    server_key: KeyType = KeyType.P256
    ca_keys: HierarchyKeys = field(default_factory=HierarchyKeys)
    passphrase: bytes | None = field(default=None, repr=False)


def make_home(home: Home, plan: HomePlan, *, at: datetime) -> CertificateRecord:
    """Make the home and answer the record of its server certificate.

    Raises:
        DirectoryTaken: there is something at the place already.
        NameInvalid: a name in the plan is none.
        OSError, StateUnavailable: it cannot be written; nothing is left of it.
    """
    names = server_names(plan.sans)
    hierarchy = make_hierarchy(plan.trust_domain, at=at, entropy=os.urandom, keys=plan.ca_keys)
    with staged_directory(home.path) as staging:
        # The same paths under the directory in the making.
        draft = Home(staging.path)
        for place in (draft.keys, draft.certs, draft.bundles, draft.run, draft.audit):
            staging.directory(place.name)
        _write_texts(staging, plan)
        signing = _write_authorities(staging, draft, hierarchy, plan.passphrase)
        server = Authority(role=Role.SERVER, issuer=hierarchy.issuing[Role.SERVER])
        key = generate_key(plan.server_key)
        path, record = sign(server, names, key.public_key(), at=at)
        _put_key(staging, draft, draft.server_key.name, private_key_pem(key), plan.passphrase)
        _put_certificate(staging, draft.server_cert.name, certificate_pem(*path))
        _make_state(draft, hierarchy, record)
        audit_certificate(draft, "pki.issued", record, key=signing)
        staging.commit()
    return record


def _write_texts(staging: Staging, plan: HomePlan) -> None:
    from auth.policyschema import DEFAULT_POLICY, SCHEMA_TEXT

    config = build_config(trust_domain=plan.trust_domain, realm=plan.realm, listen=plan.listen)
    staging.write("gateway.toml", config)
    staging.write("certs/home.json", orjson.dumps({"trust_domain": plan.trust_domain, "realm": plan.realm}))
    staging.write("keys/state.json", orjson.dumps({"url": DEFAULT_STATE_URL}))
    staging.write("policy.cedar", DEFAULT_POLICY.encode())
    staging.write("policy.cedarschema", SCHEMA_TEXT.encode())


def _write_authorities(
    staging: Staging, draft: Home, hierarchy: Hierarchy, passphrase: bytes | None
) -> Ed25519PrivateKey:
    """Put the keys and certificates that sign there; the key of checkpoints."""
    _put_key(staging, draft, draft.root_key.name, private_key_pem(hierarchy.root.key), passphrase)
    _put_certificate(staging, draft.root_cert.name, certificate_pem(hierarchy.root.certificate))
    for role, issuer in hierarchy.issuing.items():
        _put_key(staging, draft, draft.ca_key(role).name, private_key_pem(issuer.key), passphrase)
        _put_certificate(staging, draft.ca_cert(role).name, certificate_pem(issuer.certificate))
    checkpoint = Ed25519PrivateKey.generate()
    _put_key(staging, draft, draft.checkpoint_key.name, private_key_pem(checkpoint), passphrase)
    _put_certificate(staging, draft.checkpoint_pub.name, public_key_pem(checkpoint.public_key()))
    _put_key(staging, draft, draft.state_key.name, secrets.token_bytes(_STATE_KEY_BYTES), passphrase)
    return checkpoint


def _put_key(staging: Staging, draft: Home, name: str, secret: bytes, passphrase: bytes | None) -> None:
    staging.write(f"{draft.keys.name}/{name}", secret if passphrase is None else seal(secret, passphrase))


def _put_certificate(staging: Staging, name: str, pem: bytes) -> None:
    staging.write(f"certs/{name}", pem, mode=_CERT_MODE)


def _make_state(draft: Home, hierarchy: Hierarchy, server: CertificateRecord) -> None:
    engine = open_state(draft, DEFAULT_STATE_URL)
    try:
        create_schema(engine)
        inventory = Inventory(engine, on_write=bump)
        inventory.add_authority(hierarchy.root.certificate, role=None)
        for role, issuer in hierarchy.issuing.items():
            inventory.add_authority(issuer.certificate, role=role)
        inventory.record(server)
    finally:
        # The last connection takes the write-ahead log back into the database: one file to move.
        engine.dispose()
