"""Everything a gateway starts from, read from the home and checked as a whole: ``--check``, start and reload share it.

What passes here starts, save for what only the moment can tell (a port in use, a full disk). All problems are told at
once, each with its key path or file and the mend. CA keys are never opened.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from operator import attrgetter
from pathlib import Path
from typing import Final, TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from sqlalchemy import Engine

from auth.cedar import PolicyEngine
from auth.errors import PolicyInvalid
from auth.policytext import Policy
from gateway.config.toml import parse_config
from gateway.config.values import Config, ConfigInvalid, ConfigProblem, LoadFailed, carry
from gateway.control.process_inputs import HomeInputs, ProcessInputs
from gateway.home.certificate_health import certificate_warnings, server_fault
from gateway.home.layout import Home, HomeInvalid
from gateway.state.database import (
    GATEWAY_PATIENCE,
    StateFile,
    StateUnavailable,
    check_schema,
    open_state,
    read_version,
)
from gateway.state.snapshot import StateSnapshot
from gateway.state.snapshot_query import load_snapshot
from gateway.state.watch import StateSource
from pki.errors import PkiError
from pki.keys import load_private_key
from pki.names import Role
from pki.verify import TrustStore
from rhttp.errors import UnfitLibrary
from rhttp.worker.text_file import NotText, decode_text

MAX_TEXT: Final = 4 * 1024 * 1024
"""Bytes of a configuration, policy or certificate file."""

FIXED: Final = (
    "trust_domain",
    "listen",
    "dispatch",
    "processes",
    "digest.realm",
    "state.url",
    "metrics.listen",
    "pki.listen",
    "enroll.listen",
    "enroll.renew",
)
"""Keys that a running gateway keeps: sockets are bound, names are in certificates and credentials."""

FIXED_OF_SEVERAL: Final = ("digest.window", "digest.nonces_per_identity")
"""Keys that it keeps when it has several data processes: the table of spent counters that they share has this size."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class Loaded:
    """A home as it was read: what the processes get, and what only the supervisor may hold."""

    home: Home
    config: Config
    policies: Sequence[Policy]
    shared: HomeInputs
    checkpoint_key: Ed25519PrivateKey
    state: StateSource
    snapshot: StateSnapshot

    def __repr__(self) -> str:
        return f"Loaded(home={self.home!r}, state={self.snapshot.version}, <keys withheld>)"

    def notices(self, snapshot: StateSnapshot | None = None) -> list[dict[str, str]]:
        """What is to be said of the gateway's own certificates now: ``path`` and ``message`` of each.

        `snapshot` is a later one than what was read with the rest.
        """
        revoked = (snapshot or self.snapshot).revoked
        found = certificate_warnings(self.shared.trust, self.shared.server_cert, revoked, datetime.now(UTC))
        return [{"path": path, "message": message} for path, message in found]

    def inputs(self, stream: str, *, snapshot: StateSnapshot, nonce_key: bytes) -> ProcessInputs:
        """What the data process with this audit stream gets."""
        return carry(ProcessInputs, self.shared, snapshot=snapshot, nonce_key=nonce_key, stream=stream)


class EngineSource:
    """The state behind an SQLAlchemy engine; an SQLite file that was replaced is noticed."""

    def __init__(self, engine: Engine, state_key: bytes) -> None:
        self._engine = engine
        self._state_key = state_key
        self._file = StateFile(engine)

    def read_version(self) -> int:
        self._file.reopen_if_replaced()
        return read_version(self._engine)

    def load(self) -> StateSnapshot:
        self._file.reopen_if_replaced()
        return load_snapshot(self._engine, self._state_key)


class _Reader:
    """Collects problems while things are read; what could not be read is None."""

    def __init__(self, home: Home, passphrase: bytes | None) -> None:
        self.home = home
        self.passphrase = passphrase
        self.problems: list[ConfigProblem] = []

    def problem(self, where: Path | str, message: str) -> None:
        if isinstance(where, Path) and where.is_relative_to(self.home.path):
            where = where.relative_to(self.home.path)
        problem = ConfigProblem(path=str(where), message=message)
        if problem not in self.problems:
            self.problems.append(problem)

    def bytes_of(self, path: Path) -> bytes | None:
        try:
            with path.open("rb") as file:
                data = file.read(MAX_TEXT + 1)
        except FileNotFoundError:
            self.problem(path, f"{path} is missing; restore it from a backup")
            return None
        except OSError as error:
            self.problem(path, f"cannot read {path}: {error.strerror}")
            return None
        if len(data) > MAX_TEXT:
            self.problem(path, f"over {MAX_TEXT} bytes; this cannot be the right file")
            return None
        return data

    def text_of(self, path: Path) -> str | None:
        data = self.bytes_of(path)
        try:
            return None if data is None else decode_text(data)
        except NotText as error:
            self.problem(path, str(error))
            return None

    def secret_of(self, path: Path) -> bytes | None:
        try:
            return self.home.read_secret(path, self.passphrase)
        except HomeInvalid as error:
            self.problem(path, str(error))
            return None

    def attempt(self, where: Path | str, read: Callable[[], T], *refusals: type[Exception]) -> T | None:
        """What ``read`` returns; the text of one of these exceptions becomes a problem."""
        try:
            return read()
        except refusals as error:
            self.problem(where, str(error))
            return None


def fixed_changes(old: Config, new: Config) -> tuple[tuple[str, str], ...]:
    """A problem (key path, message) for each key that differs and cannot change while the gateway runs."""
    fixed = FIXED + FIXED_OF_SEVERAL if old.processes > 1 else FIXED
    return tuple(
        (key, "cannot change while the gateway runs; put it back, or restart the gateway")
        for key in fixed
        if attrgetter(key)(old) != attrgetter(key)(new)
    )


def load(
    place: Path, *, overrides: Mapping[str, object], passphrase: bytes | None, state: StateSource | None = None
) -> Loaded:
    """Read and check a home. ``state`` is what an earlier load opened, for a reload; otherwise it is opened here.

    Raises:
        LoadFailed: something is wrong; nothing was changed.
    """
    try:
        home = Home.open(place)
    except HomeInvalid as error:
        raise LoadFailed((ConfigProblem(path="", message=str(error)),)) from None
    reader = _Reader(home, passphrase)
    _check_library(reader)
    config_text = reader.text_of(home.config)
    config = None if config_text is None else _config(reader, config_text, overrides)
    policy_text = None
    if not any(problem.path == "policy" for problem in reader.problems):
        policy_text = reader.text_of(home.policy if config is None else config.policy)
    policies = None if policy_text is None else _policies(reader, policy_text, config)
    trust = _trust(reader)
    server = _server(reader, trust)
    checkpoint_key = _checkpoint_key(reader)
    opened = state or _open_state(reader, config)
    snapshot = None if opened is None else reader.attempt("state", opened.load, StateUnavailable)
    if server is not None:
        leaf = x509.load_pem_x509_certificates(server[0])[0]
        fault = server_fault(leaf, () if snapshot is None else snapshot.revoked, datetime.now(UTC))
        if fault is not None:
            reader.problem(home.server_cert, fault)
    if (
        reader.problems
        or config_text is None
        or config is None
        or policy_text is None
        or policies is None
        or server is None
        or checkpoint_key is None
        or opened is None
        or snapshot is None
    ):
        raise LoadFailed(tuple(reader.problems))
    return Loaded(
        home=home,
        config=config,
        policies=policies,
        shared=HomeInputs(
            config_text=config_text,
            overrides=dict(overrides),
            home=str(home.path),
            policy_text=policy_text,
            trust=trust,
            server_cert=server[0],
            server_key=server[1],
        ),
        checkpoint_key=checkpoint_key,
        state=opened,
        snapshot=snapshot,
    )


def _in_file(name: str, problem: ConfigProblem) -> ConfigProblem:
    """A line's number does not say of which file it is, as a key does."""
    if problem.path.startswith("line "):
        return ConfigProblem(path=f"{name}, {problem.path}", message=problem.message)
    return problem


def _config(reader: _Reader, text: str, overrides: Mapping[str, object]) -> Config | None:
    try:
        config = parse_config(text, home=reader.home.path, overrides=overrides, with_files=True)
    except ConfigInvalid as error:
        reader.problems += (_in_file(reader.home.config.name, problem) for problem in error.problems)
        return None
    fixed = {"trust_domain": config.trust_domain, "digest.realm": config.digest.realm}
    for key, message in reader.attempt("certs", lambda: reader.home.changed_settings(fixed), HomeInvalid) or ():
        reader.problem(key, message)
    return config


def _check_library(reader: _Reader) -> None:
    try:
        import rhttp.tls.binding  # noqa: F401 - it looks for what it needs, and we need none of it
    except UnfitLibrary as error:
        reader.problem("", str(error))


def _policies(reader: _Reader, text: str, config: Config | None) -> Sequence[Policy] | None:
    path = reader.home.policy if config is None else config.policy
    groups, resources = ({}, None) if config is None else (config.groups, config.resources())
    try:
        return PolicyEngine.load(text, groups=groups, resources=resources, file=path.name).policies
    except PolicyInvalid as error:
        for problem in error.problems:
            reader.problem("policy", str(problem))
        return None


def _trust(reader: _Reader) -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for name, path in (("root", reader.home.root_cert), *((role.value, reader.home.ca_cert(role)) for role in Role)):
        pem = reader.bytes_of(path)
        if pem is not None:
            found[name] = pem
    if len(found) == len(Role) + 1:
        cas = {role: [found[role.value]] for role in Role}
        reader.attempt("certs", lambda: TrustStore.from_pem(found["root"], cas), PkiError)
    return found


def _server(reader: _Reader, trust: Mapping[str, bytes]) -> tuple[bytes, bytes] | None:
    """The server certificate's path and key, checked against each other and our own server CA."""
    home = reader.home
    missing = [place for place in (home.server_cert, home.server_key) if not os.path.lexists(place)]
    for place in missing:
        reader.problem(place, "is missing; make a new one with `rhttp-pki issue-server`")
    if missing:
        return None
    pem, key_pem = reader.bytes_of(home.server_cert), reader.secret_of(home.server_key)
    if pem is None or key_pem is None:
        return None
    key = reader.attempt(home.server_key, lambda: load_private_key(key_pem), PkiError)
    try:
        path = x509.load_pem_x509_certificates(pem)
    except ValueError:
        reader.problem(home.server_cert, "holds no PEM certificate; make one with `rhttp-pki issue-server`")
        return None
    leaf = path[0]
    if key is not None and _spki(key.public_key()) != _spki(leaf.public_key()):
        reader.problem(home.server_cert, "does not belong to keys/server.key; make both with `rhttp-pki issue-server`")
    if Role.SERVER.value in trust and not _issued_by(leaf, trust[Role.SERVER.value]):
        reader.problem(home.server_cert, "is not signed by certs/server-ca.pem; make one with `rhttp-pki issue-server`")
    return pem, key_pem


def _spki(key: object) -> bytes:
    return key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)  # type: ignore[attr-defined, no-any-return]


def _issued_by(leaf: x509.Certificate, issuer_pem: bytes) -> bool:
    try:
        leaf.verify_directly_issued_by(x509.load_pem_x509_certificate(issuer_pem))
    except (ValueError, TypeError, InvalidSignature):
        return False
    return True


def _checkpoint_key(reader: _Reader) -> Ed25519PrivateKey | None:
    path = reader.home.checkpoint_key
    pem = reader.secret_of(path)
    if pem is None:
        return None
    key = reader.attempt(path, lambda: load_private_key(pem), PkiError)
    if key is not None and not isinstance(key, Ed25519PrivateKey):
        reader.problem(path, "is no Ed25519 key; restore it from a backup")
        return None
    return key


def _open_state(reader: _Reader, config: Config | None) -> EngineSource | None:
    if config is None:
        return None
    key = reader.secret_of(reader.home.state_key)
    engine = reader.attempt(
        "state.url", lambda: open_state(reader.home, config.state.url, patience=GATEWAY_PATIENCE), StateUnavailable
    )
    if key is None or engine is None:
        return None
    try:
        check_schema(engine)
    except StateUnavailable as error:
        reader.problem("state", str(error))
        engine.dispose()
        return None
    return EngineSource(engine, key)
