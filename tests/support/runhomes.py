"""Real homes for tests of a running gateway: made once, copied for each test."""

from __future__ import annotations

import functools
import os
import re
import shutil
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from gateway.home.create import HomePlan, make_home
from gateway.home.layout import Home
from pki.issue import IssuerKey, certificate_pem, issue_ca
from pki.keys import generate_key, load_private_key
from pki.names import Role

PASSPHRASE = b"correct horse battery staple"


@functools.cache
def _template(sealed: bool) -> tuple[tempfile.TemporaryDirectory[str], Path]:
    folder = tempfile.TemporaryDirectory(prefix="rhttp-home-")
    place = Path(folder.name) / "home"
    plan = HomePlan(
        trust_domain="test.internal",
        realm="rhttp@test.internal",
        listen="127.0.0.1:0",
        passphrase=PASSPHRASE if sealed else None,
    )
    make_home(Home(place), plan, at=datetime.now(UTC))
    return folder, place  # the folder goes with the last reference to it


def copy_home(place: Path, *, sealed: bool = False) -> Path:
    """A fresh home at `place` that listens on port 0; every copy has the same keys."""
    shutil.copytree(_template(sealed)[1], place)
    return place


def new_ca(place: Path, role: Role) -> bytes:
    """PEM of another issuing CA for the role, under the root of an unsealed home; nothing is written."""
    home = Home(place)
    root = IssuerKey(
        certificate=x509.load_pem_x509_certificate(home.root_cert.read_bytes()),
        key=load_private_key(home.root_key.read_bytes()),
    )
    certificate = issue_ca(
        role,
        root=root,
        public_key=generate_key().public_key(),
        trust_domain="test.internal",
        at=datetime.now(UTC),
        entropy=os.urandom(20),
    )
    return certificate_pem(certificate)


def set_key(place: Path, key: str, value: str) -> None:
    """Set a top-level key of ``gateway.toml`` to a TOML value."""
    path = place / "gateway.toml"
    text, count = re.subn(rf"(?m)^{key} = .*$", f"{key} = {value}", path.read_text())
    path.write_text(text if count else f"{key} = {value}\n{text}")


def append(place: Path, text: str) -> None:
    """Add a table to ``gateway.toml``."""
    with (place / "gateway.toml").open("a") as file:
        file.write(f"\n{text}\n")
