"""Signed checkpoints: who could rewrite the log up to one of them must hold the Ed25519 key.

Posture: trusted key holder (the supervisor, a command); what stands in the directory is verified before it is built on.

A checkpoint is one line of ``checkpoints.jsonl``::

    {"seq":2,"ts":"...","heads":{"p0":{"seq":9,"hash":"<64 hex>","file":"p0-000001.jsonl"}},"prev":"...","sig":"..."}

``sig`` (base64) signs `CONTEXT` followed by the line's bytes before ``,"sig":"``; ``prev`` is the SHA-256 of the line
before it, signature included, so the last valid signature vouches for every earlier checkpoint. ``heads`` names every
stream there ever was. ``bases``, when present, names for each stream the last line that retention took away.
"""

from __future__ import annotations

import base64
import binascii
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from gateway.audit import GENESIS, STREAM, AuditUnavailable, format_stamp, line_hash
from gateway.auditfiles import (
    list_segments,
    locked,
    make_directory,
    read_tail,
    segment_name,
    set_aside,
    sync_directory,
    write_all,
)
from gateway.configvalues import AuditConfig

CONTEXT: Final = b"rhttp-pki audit checkpoint 1\n"
FILE: Final = "checkpoints.jsonl"
LOG: Final = "checkpoints"  # the name of the checkpoint log itself among `bases`
MAX_CHECKPOINT: Final = 1024 * 1024  # bytes a line: 4,000 streams
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME: Final = re.compile(r"[a-z0-9]{1,16}-[0-9]{6,9}\.jsonl")
_FRAME: Final = re.compile(rb'(\{"seq":.*),"sig":"([A-Za-z0-9+/]{86}==)"\}', re.DOTALL)


class CheckpointRefused(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The checkpoints on disk are not ours or went back: nothing is signed on top of them."""

    code = "checkpoint-refused"


@dataclass(frozen=True, slots=True, kw_only=True)
class Head:
    """The end of a stream: its last line's number and hash (lower hex), and the file that holds it."""

    seq: int
    hash: str
    file: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """One checkpoint; only `parse_checkpoint` and `verify_signature` together say that it is genuine."""

    seq: int
    ts: str
    heads: Mapping[str, Head]
    bases: Mapping[str, Head] = field(default_factory=dict)
    prev: str
    line: bytes = b""


def build_checkpoint(checkpoint: Checkpoint, key: Ed25519PrivateKey) -> Checkpoint:
    """The same checkpoint with its signed line (without newline)."""
    body: dict[str, object] = {"seq": checkpoint.seq, "ts": checkpoint.ts, "heads": _plain(checkpoint.heads)}
    if checkpoint.bases:
        body["bases"] = _plain(checkpoint.bases)
    signed = orjson.dumps({**body, "prev": checkpoint.prev})[:-1]
    return replace(checkpoint, line=b'%b,"sig":"%b"}' % (signed, base64.b64encode(key.sign(CONTEXT + signed))))


def _plain(heads: Mapping[str, Head]) -> dict[str, dict[str, object]]:
    return {name: {"seq": head.seq, "hash": head.hash, "file": head.file} for name, head in sorted(heads.items())}


def parse_checkpoint(line: bytes) -> Checkpoint | None:
    """Read a checkpoint line (without newline); None when it is not one. Its signature is not looked at."""
    if len(line) > MAX_CHECKPOINT or _FRAME.fullmatch(line) is None:
        return None
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(record, dict) or record.keys() - {"bases"} != {"seq", "ts", "heads", "prev", "sig"}:
        return None
    heads, bases = _heads(record["heads"]), _heads(record.get("bases", {}))
    seq, stamp, prev = record["seq"], record["ts"], record["prev"]
    if heads is None or bases is None or type(seq) is not int or not 0 < seq < 2**53:
        return None
    if not isinstance(stamp, str) or len(stamp) != 27 or not isinstance(prev, str) or not _HASH.fullmatch(prev):
        return None
    return Checkpoint(seq=seq, ts=stamp, heads=heads, bases=bases, prev=prev, line=line)


def _heads(value: object) -> dict[str, Head] | None:
    if not isinstance(value, dict):
        return None
    heads: dict[str, Head] = {}
    for name, entry in value.items():
        if name != LOG and STREAM.fullmatch(name) is None:
            return None
        if not isinstance(entry, dict) or entry.keys() != {"seq", "hash", "file"}:
            return None
        seq, digest, file = entry["seq"], entry["hash"], entry["file"]
        if type(seq) is not int or not 0 < seq < 2**53:
            return None
        if not isinstance(file, str) or not _FILE_NAME.fullmatch(file):
            return None
        if not isinstance(digest, str) or not _HASH.fullmatch(digest):
            return None
        heads[name] = Head(seq=seq, hash=digest, file=file)
    return heads


def verify_signature(line: bytes, key: Ed25519PublicKey) -> bool:
    """Whether the line's signature over its own bytes is this key's."""
    match = _FRAME.fullmatch(line)
    if match is None:
        return False
    try:
        key.verify(base64.b64decode(match[2], validate=True), CONTEXT + match[1])
    except (InvalidSignature, binascii.Error):
        return False
    return True


def read_signing_key(path: Path) -> Ed25519PrivateKey | None:
    """The key when the file opens without a passphrase; None when it is missing, sealed or of another kind."""
    try:
        key = load_pem_private_key(path.read_bytes(), None)
    except (OSError, ValueError, TypeError):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The PEM public key in the file; raises OSError, or ValueError when it is not an Ed25519 public key."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 public key")
    return key


class CheckpointLog:
    """I/O: the file of checkpoints. Every append takes a lock and reads the end again, so commands and the supervisor
    may both write; the supervisor's memory of its last checkpoint also shows when the file was put back.
    """

    def __init__(self, directory: Path, config: AuditConfig | None = None) -> None:
        self._directory = directory
        self._config = config or AuditConfig()
        self._last: Checkpoint | None = None
        self.regressed: frozenset[str] = frozenset()

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint that this object wrote or verified."""
        return self._last

    def append(
        self,
        heads: Mapping[str, Head],
        key: Ed25519PrivateKey,
        *,
        bases: Mapping[str, Head] | None = None,
        now_us: int | None = None,
    ) -> Checkpoint | None:
        """Sign and store one checkpoint, on disk when this returns; None when it would say nothing new.

        Streams that ``heads`` does not name keep the head they had; a head with number 0 (no line yet) is passed over.
        A head behind the stored one is not taken (lines were lost or cut; ``regressed`` names the streams, `audit
        verify` will say where).

        Raises:
            ValueError: a head that no checkpoint may have; nothing is signed.
            CheckpointRefused: the file's last checkpoint has not this key's signature, or is older than the one known.
            AuditUnavailable: the file cannot be read or written; nothing of the new line stays in it.
        """
        heads = {name: head for name, head in heads.items() if head.seq != 0}
        if _heads(_plain(heads)) != heads or LOG in heads:
            raise ValueError(f"not heads: {heads!r}")  # signed, it would be a checkpoint that nobody can read
        try:
            make_directory(self._directory)
            with locked(self._directory / "checkpoints.lock"):
                return self._append(heads, bases or {}, key, now_us)
        except OSError as error:
            raise AuditUnavailable(f"{self._directory / FILE}: {error.strerror}") from error

    def _append(
        self, heads: Mapping[str, Head], bases: Mapping[str, Head], key: Ed25519PrivateKey, now_us: int | None
    ) -> Checkpoint | None:
        path = self._directory / FILE
        fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            tail = read_tail(fd, lambda line: parse_checkpoint(line) is not None)
            set_aside(self._directory, fd, FILE, tail)
            last = self._trusted(tail.line or self._rotated_line(), key)
            merged = dict(last.heads) if last else {}
            self.regressed = frozenset(name for name, head in heads.items() if _is_behind(head, merged.get(name)))
            merged.update({name: head for name, head in heads.items() if name not in self.regressed})
            kept = {**(last.bases if last else {}), **bases}
            if (merged, kept) == ((last.heads, last.bases) if last else ({}, {})):
                self._last = last
                return None
            stamp = format_stamp(time.time_ns() // 1000 if now_us is None else now_us)
            checkpoint = build_checkpoint(
                Checkpoint(
                    seq=last.seq + 1 if last else 1,
                    ts=max(stamp, last.ts) if last else stamp,
                    heads=merged,
                    bases=kept,
                    prev=line_hash(last.line).decode() if last else GENESIS.decode(),
                ),
                key,
            )
            fd = self._rotate(fd, tail.end, len(checkpoint.line))
            self._store(fd, checkpoint.line)
            self._last = checkpoint
            return checkpoint
        finally:
            os.close(fd)

    def _trusted(self, line: bytes | None, key: Ed25519PrivateKey) -> Checkpoint | None:
        known = self._last
        if line is None:
            if known is not None:
                raise CheckpointRefused(f"{FILE} lost its checkpoints; run `audit verify`")
            return None
        if known is not None and known.line == line:
            return known
        last = parse_checkpoint(line)
        if last is None or not verify_signature(line, key.public_key()):
            raise CheckpointRefused(f"the last checkpoint in {FILE} is not signed by this key; run `audit verify`")
        if known is not None and last.seq <= known.seq:
            raise CheckpointRefused(f"{FILE} went back from {known.seq} to {last.seq}; run `audit verify`")
        return last

    def _rotated_line(self) -> bytes | None:
        rotated = list_segments(self._directory).get(LOG)
        if not rotated:
            return None
        fd = os.open(rotated[-1].path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            return read_tail(fd, lambda line: parse_checkpoint(line) is not None).line
        finally:
            os.close(fd)

    def _rotate(self, fd: int, size: int, more: int) -> int:
        if size == 0 or size + more < self._config.max_bytes:
            return fd
        rotated = list_segments(self._directory).get(LOG)
        index = rotated[-1].index + 1 if rotated else 1
        path = self._directory / FILE
        os.rename(path, self._directory / segment_name(LOG, index))
        fresh = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        os.close(fd)
        return fresh

    def _store(self, fd: int, line: bytes) -> None:
        size = os.fstat(fd).st_size
        try:
            write_all(fd, line + b"\n")
            os.fdatasync(fd)
            if size == 0:
                sync_directory(self._directory)
        except OSError:
            os.ftruncate(fd, size)
            raise


def _is_behind(head: Head, known: Head | None) -> bool:
    return known is not None and (head.seq < known.seq or (head.seq == known.seq and head.hash != known.hash))
