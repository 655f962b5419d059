"""Audit directories for tests: a home with a checkpoint key, a log of some shape, and ways to spoil it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import Head
from gateway.audit.line import GENESIS, LineBuilder, line_hash
from gateway.audit.verify import Report, verify_directory
from gateway.audit.writer import AuditWriter
from gateway.config.values import AuditConfig

ROOT = Path(__file__).parents[2]
KEY = Ed25519PrivateKey.from_private_bytes(b"\x07" * 32)
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(b"\x08" * 32)
FIELDS: Mapping[str, object] = {
    "request_id": "01JDEX4QZ8T7V9",
    "identity": "client/alice",
    "serial": "5f3a9c0d11223344",
    "source": "127.0.0.1:53214",
    "listener": "tls",
    "outcome": "allowed",
    "policy": ["clients-request"],
    "target": "/jobs/render/17",
    "status": 200,
    "ms": 1.25,
}


def make_home(path: Path, *, key: Ed25519PrivateKey = KEY) -> Path:
    """The part of a home that the audit log needs, its checkpoint key in the clear."""
    for name in ("", "keys", "certs", "audit"):
        (path / name).mkdir(mode=0o700, exist_ok=True)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    (path / "keys" / "checkpoint.key").write_bytes(pem)
    public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    (path / "certs" / "checkpoint.pub").write_bytes(public)
    return path


def head_of(writer: AuditWriter) -> Head:
    """The writer's durable head."""
    writer.sync()
    head = writer.durable()
    assert head is not None
    return head


def make_log(
    directory: Path, *, streams: int = 1, rounds: int = 3, each: int = 4, tail: int = 0, max_bytes: int = 1 << 20
) -> CheckpointLog:
    """``rounds`` times ``each`` lines in every stream and a checkpoint, then ``tail`` lines without one."""
    config = AuditConfig(max_bytes=max_bytes)
    log = CheckpointLog(directory, config)
    writers = {f"p{number}": AuditWriter.open(directory, f"p{number}", config) for number in range(streams)}
    for index in range(rounds):
        for writer in writers.values():
            for number in range(each):
                writer.write("request", {**FIELDS, "count": index * each + number + 1})
        log.append({name: head_of(writer) for name, writer in writers.items()}, KEY)
    for writer in writers.values():
        for _ in range(tail):
            writer.write("request", FIELDS)
        writer.close()
    return log


def edit_lines(path: Path, edit: Callable[[list[bytes]], object]) -> None:
    """Change a file's lines (without newlines) in place."""
    lines = path.read_bytes().split(b"\n")[:-1]
    edit(lines)
    path.write_bytes(b"".join(line + b"\n" for line in lines))


def chain_again(lines: list[bytes], start: int = 0) -> None:
    """Compute every ``prev`` from line ``start`` on, as anyone without the key can."""
    for index in range(start, len(lines)):
        prev = line_hash(lines[index - 1]) if index else GENESIS
        lines[index] = lines[index][: -len(b'"}') - 64] + prev + b'"}'


def lines_of(count: int, stream: str = "p0", start_us: int = 1_767_225_600_000_000) -> list[bytes]:
    """A sound chain without newlines, made in memory."""
    builder = LineBuilder(stream)
    lines: list[bytes] = []
    for number in range(count):
        line = builder.build("request", {**FIELDS, "count": number}, start_us + number * 999)
        builder.commit(line)
        lines.append(line[:-1])
    return lines


def records(directory: Path, stream: str = "p0") -> list[dict[str, object]]:
    """Every line of a stream as JSON."""
    files = sorted(directory.glob(f"{stream}-*.jsonl"))
    return [json.loads(line) for file in files for line in file.read_bytes().splitlines()]


def verified(directory: Path) -> Report:
    """The report on a log that must be sound."""
    report = verify_directory(directory, KEY.public_key())
    assert report.findings == ()
    return report


def run_python(code: str, *arguments: object) -> subprocess.Popen[bytes]:
    """Another process that runs ``code`` with the project on its path."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
