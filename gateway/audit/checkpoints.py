"""Signed checkpoints: who could rewrite the log up to one of them must hold the Ed25519 key.

Trust: trusted key holder (the supervisor, a command); what stands in the directory is verified before it is built on.

A checkpoint is one line of ``checkpoints.jsonl``::

    {"seq":2,"ts":"...","heads":{"p0":{"seq":9,"hash":"<64 hex>","file":"p0-000001.jsonl"}},"prev":"...","sig":"..."}

``sig`` (base64) signs `CONTEXT` followed by the line's bytes before ``,"sig":"``; ``prev`` is the SHA-256 of the line
before it, signature included, so the last valid signature vouches for every earlier checkpoint. ``heads`` names every
stream there ever was. ``bases``, when present, names for each stream the last line that retention took away.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Final

import orjson
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key, load_pem_public_key

from gateway.audit.line import STREAM

CONTEXT: Final = b"rhttp-pki audit checkpoint 1\n"
FILE: Final = "checkpoints.jsonl"
LOG: Final = "checkpoints"  # the name of the checkpoint log itself among `bases`
MAX_CHECKPOINT: Final = 1024 * 1024  # bytes a line: 4,000 streams
_HASH: Final = re.compile(r"[0-9a-f]{64}")
_FILE_NAME: Final = re.compile(r"[a-z0-9]{1,16}-[0-9]{6,9}\.jsonl")
_FRAME: Final = re.compile(rb'(\{"seq":.*),"sig":"([A-Za-z0-9+/]{86}==)"\}', re.DOTALL)


class CheckpointRefused(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """The checkpoints on disk are not ours or went back: nothing is signed on top of them."""


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


def are_heads(heads: Mapping[str, Head]) -> bool:
    """Whether a checkpoint with these heads could be read back."""
    return _heads(_plain(heads)) == heads and LOG not in heads


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
        return parse_signing_key(path.read_bytes())
    except OSError:
        return None


def parse_signing_key(pem: bytes) -> Ed25519PrivateKey | None:
    """The key in PEM; None when it is sealed, none at all, or of another kind."""
    try:
        key = load_pem_private_key(pem, None)
    except (ValueError, TypeError):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None


def read_public_key(path: Path) -> Ed25519PublicKey:
    """The PEM public key in the file; raises OSError, or ValueError when it is not an Ed25519 public key."""
    key = load_pem_public_key(path.read_bytes())
    if not isinstance(key, Ed25519PublicKey):
        raise ValueError("not an Ed25519 public key")
    return key
