"""Orders for the issuer, as data processes give them, and tokens to give them upon."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from gateway.home.session import HomeSession
from pki.enrolment import EnrolmentToken, build_token_id
from pki.keys import KeyType, generate_key
from pki.names import Role

ORIGIN = {"request_id": "r1", "source": "192.0.2.1:5000", "listener": "enroll"}


def key_info(kind: KeyType = KeyType.P256) -> bytes:
    """The SubjectPublicKeyInfo of a new key."""
    return generate_key(kind).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


def make_token(session: HomeSession, number: int = 1, **rules: Any) -> str:
    """Enter a token of the pool ``render``; its id. ``ago`` seconds old."""
    now = int(time.time()) - rules.pop("ago", 0)
    values: dict[str, Any] = {"role": Role.WORKER, "pool": "render", "labels": {"gpu": "a100"}}
    token = EnrolmentToken(
        id=build_token_id(number.to_bytes(8, "big")),
        **(values | {"created_at": now, "expires_at": now + 3600} | rules),
    )
    key = session.state_key()
    with session.engine.begin() as connection:
        session.tokens().add(token, "s" * 32, realm=session.basics.realm, state_key=key, connection=connection)
    return token.id


def enroll(token: str, key: bytes, *, name: str = "", role: str = "worker") -> dict[str, object]:
    """An order to certify this key upon this token."""
    return {"kind": "enroll", "token": token, "role": role, "name": name, "key": b64encode(key).decode(), **ORIGIN}


def renew(serial: str, key: bytes) -> dict[str, object]:
    """An order to certify a new key for the holder of this certificate."""
    return {"kind": "renew", "serial": serial, "key": b64encode(key).decode(), **ORIGIN}


def credentials(serial: str) -> dict[str, object]:
    """An order for the credentials of the holder of this certificate."""
    return {"kind": "credentials", "serial": serial, **ORIGIN}
