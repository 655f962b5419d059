"""I/O: what the checkpoints of a log prove, as far as they are genuine, and whether kept ones are among them.

Trust: trusts the public key it is given and nothing in the directory. Reads only; works while a gateway writes.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.audit.chain import Finding, HeadTable
from gateway.audit.checkpoints import FILE, LOG, MAX_CHECKPOINT, Checkpoint, Head, parse_checkpoint, verify_signature
from gateway.audit.files import list_segments, read_lines
from gateway.audit.line import GENESIS, line_hash


@dataclass(slots=True, kw_only=True)
class Proofs:
    """What the checkpoints prove, as far as they are genuine."""

    tables: dict[str, HeadTable] = field(default_factory=dict)
    bases: dict[str, list[Head]] = field(default_factory=dict)
    count: int = 0
    first: int = 0
    last: Checkpoint | None = None
    same: set[int] = field(default_factory=set)
    finding: Finding | None = None
    notes: list[str] = field(default_factory=list)


def read_proofs(directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint]) -> Proofs:
    paths = _checkpoint_files(directory)
    proofs = _scan(paths, None, kept)
    # Each line's hash covers the signature before it, so one good signature at the end vouches for all. When anything
    # is wrong, a second look asks every signature and keeps only what stands before the first bad line.
    if proofs.finding is not None or (proofs.last is not None and not verify_signature(proofs.last.line, key)):
        proofs = _scan(paths, key, kept)
        if proofs.finding is None:  # repaired while we read
            proofs.finding = Finding(file=FILE, line=0, what="changed while it was read")
    return proofs


def _checkpoint_files(directory: Path) -> list[Path]:
    # The running file may be renamed at any time: its number is looked at before the others are listed.
    running = directory / FILE
    identity = os.stat(running).st_ino if running.exists() else None
    rotated = [segment.path for segment in list_segments(directory).get(LOG, [])]
    if identity is None or (rotated and os.stat(rotated[-1]).st_ino == identity):
        return rotated
    return [*rotated, running]


def _scan(paths: Sequence[Path], key: Ed25519PublicKey | None, kept: Sequence[Checkpoint]) -> Proofs:
    proofs = Proofs()
    wanted = {checkpoint.seq: checkpoint.line for checkpoint in kept}
    for path in paths:
        for number, lines, rest in read_lines(path, MAX_CHECKPOINT):
            for index, line in enumerate(lines):
                wrong = _take_checkpoint(proofs, line, key)
                if wrong is not None:
                    proofs.finding = Finding(file=path.name, line=number + index, what=wrong)
                    return proofs
                if proofs.last is not None and wanted.get(proofs.last.seq) == line:
                    proofs.same.add(proofs.last.seq)
            if rest and path == paths[-1]:
                proofs.notes.append(f"{path.name}:{number + len(lines)}: torn tail, {len(rest)} bytes")
            elif rest:
                proofs.finding = Finding(file=path.name, line=number + len(lines), what="half a line within the log")
                return proofs
    first = proofs.first
    if first > 1 and not any(base.seq >= first - 1 for base in proofs.bases.get(LOG, [])):
        what = f"the first checkpoint is number {first}, and none says that retention took the others away"
        proofs.finding = Finding(file=paths[0].name, line=1, what=what)
    return proofs


def _take_checkpoint(proofs: Proofs, line: bytes, key: Ed25519PublicKey | None) -> str | None:
    checkpoint = parse_checkpoint(line)
    if checkpoint is None:
        return "not a checkpoint"
    if key is not None and not verify_signature(line, key):
        return f"checkpoint {checkpoint.seq} is not signed by this key: changed, forged, or another key"
    last = proofs.last
    if last is None:
        proofs.first = checkpoint.seq
        if checkpoint.seq == 1 and checkpoint.prev.encode() != GENESIS:
            return "prev of the first checkpoint is not 64 zeros"
    elif checkpoint.seq != last.seq + 1:
        return f"seq is {checkpoint.seq} where {last.seq + 1} was expected"
    elif checkpoint.prev.encode() != line_hash(last.line):
        return f"prev is not the hash of checkpoint {last.seq}"
    elif checkpoint.ts < last.ts:
        return "ts is earlier than the checkpoint before"
    elif not last.heads.keys() <= checkpoint.heads.keys():
        return f"leaves out streams: {', '.join(sorted(last.heads.keys() - checkpoint.heads.keys()))}"
    for stream, head in checkpoint.heads.items():
        table = proofs.tables.setdefault(stream, HeadTable())
        wrong = table.add(seq=head.seq, digest=head.hash, file=head.file, checkpoint=checkpoint.seq)
        if wrong is not None:
            return f"{stream} {wrong}"
    if last is None or checkpoint.bases != last.bases:
        for stream, base in checkpoint.bases.items():
            proofs.bases.setdefault(stream, []).append(base)
    proofs.count += 1
    proofs.last = checkpoint
    return None


def compare_kept(kept: Sequence[Checkpoint], proofs: Proofs, key: Ed25519PublicKey) -> list[Finding]:
    findings: list[Finding] = []
    last = proofs.last.seq if proofs.last is not None else 0
    for checkpoint in kept:
        number = checkpoint.seq
        if not verify_signature(checkpoint.line, key):
            what = f"the kept checkpoint {number} is not signed by this key"
        elif number in proofs.same:
            continue
        elif number > last:
            what = f"the log was put back: it ends at checkpoint {last}, but checkpoint {number} was kept"
        elif number < proofs.first:
            what = (
                f"the kept checkpoint {number} is older than the first one here ({proofs.first}): compare a newer one"
            )
        else:
            what = f"checkpoint {number} is another one than the kept: the log was written anew"
        findings.append(Finding(file=FILE, line=0, what=what))
    return findings
