"""I/O: `audit verify`: reads a log directory as a stream of lines and says whether it is what was written.

Posture: trusts the public key it is given and nothing in the directory. Reads only; works while a gateway writes.

Not detected: that whole lines behind the last checkpoint were changed by someone who computed their hashes again, and
that log and checkpoints were put back together to an earlier state, unless a checkpoint kept elsewhere is compared.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.audit import GENESIS, MAX_LINE, line_hash, parse_line
from gateway.auditchain import ChainChecker, Finding, HeadTable
from gateway.auditfiles import Segment, list_segments
from gateway.checkpoints import FILE, LOG, MAX_CHECKPOINT, Checkpoint, Head, parse_checkpoint, verify_signature

_CHUNK: Final = 1024 * 1024
_TRIES: Final = 3  # retention and rotation may change the directory under a reader


class AuditUnreadable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """There is no log to check, or a file of it cannot be read."""

    code = "audit-unreadable"


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamReport:
    """What was read of one stream; ``uncovered`` lines stand behind the last checkpoint."""

    stream: str
    files: int
    lines: int
    first: int
    last: int
    uncovered: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """The outcome: sound when there are no findings. The first finding of each stream is the first bad line of it."""

    findings: tuple[Finding, ...]
    notes: tuple[str, ...]
    streams: tuple[StreamReport, ...]
    checkpoints: int
    last_checkpoint: Checkpoint | None


@dataclass(slots=True, kw_only=True)
class _Proofs:
    """What the checkpoints prove, as far as they are genuine."""

    tables: dict[str, HeadTable] = field(default_factory=dict)
    bases: dict[str, list[Head]] = field(default_factory=dict)
    count: int = 0
    first: int = 0
    last: Checkpoint | None = None
    same: set[int] = field(default_factory=set)
    finding: Finding | None = None
    notes: list[str] = field(default_factory=list)


def verify_directory(directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint] = ()) -> Report:
    """Check every chain, every checkpoint and both against each other, and against checkpoints ``kept`` elsewhere.

    Raises:
        AuditUnreadable: no such directory, no log in it, or a file that cannot be read.
    """
    for attempt in range(1, _TRIES + 1):
        before = _fingerprint(directory)
        try:
            report = _verify_once(directory, key, kept)
        except FileNotFoundError as error:
            if attempt == _TRIES:
                raise AuditUnreadable(f"{error.filename}: went away while it was read") from error
            continue
        except OSError as error:
            raise AuditUnreadable(f"{error.filename or directory}: {error.strerror}") from error
        # A finding may come from retention that ran in between: it always writes a checkpoint first.
        if not report.findings or _fingerprint(directory) == before:
            break
    return report


def _fingerprint(directory: Path) -> tuple[int, int] | None:
    try:
        stat = os.stat(directory / FILE)
    except OSError:
        return None
    return stat.st_ino, stat.st_size


def _verify_once(directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint]) -> Report:
    # Checkpoints first: every line that they name was written before them, so it is there when the log is read.
    proofs = _read_checkpoints(directory, key, kept)
    segments = list_segments(directory)
    segments.pop(LOG, None)
    if not segments and proofs.count == 0 and proofs.finding is None:
        raise AuditUnreadable(f"{directory} holds no audit log")
    findings = [proofs.finding] if proofs.finding is not None else []
    notes = list(proofs.notes)
    streams: list[StreamReport] = []
    for stream in sorted(segments.keys() | proofs.tables.keys()):
        finding, report = _verify_stream(stream, segments.get(stream, []), proofs, notes)
        streams.append(report)
        if finding is not None:
            findings.append(finding)
    findings += _compare_kept(kept, proofs, key)
    if proofs.count == 0 and proofs.finding is None:
        if any(report.stream != "cli" and report.lines for report in streams):
            findings.append(Finding(file=FILE, line=0, what="no checkpoint at all, although a gateway wrote the log"))
        else:
            notes.append("no checkpoint yet: nothing but the chain speaks for these lines")
    return Report(
        findings=tuple(findings),
        notes=tuple(notes),
        streams=tuple(streams),
        checkpoints=proofs.count,
        last_checkpoint=proofs.last,
    )


def _read_checkpoints(directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint]) -> _Proofs:
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


def _scan(paths: Sequence[Path], key: Ed25519PublicKey | None, kept: Sequence[Checkpoint]) -> _Proofs:
    proofs = _Proofs()
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


def _take_checkpoint(proofs: _Proofs, line: bytes, key: Ed25519PublicKey | None) -> str | None:
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


def _verify_stream(
    stream: str, segments: list[Segment], proofs: _Proofs, notes: list[str]
) -> tuple[Finding | None, StreamReport]:
    table = proofs.tables.get(stream) or HeadTable()
    base = _base_of(segments, proofs.bases.get(stream, []))
    checker = (
        ChainChecker(stream, table, seq=base.seq, digest=base.hash.encode()) if base else ChainChecker(stream, table)
    )
    finding = _walk(checker, segments, base, notes)
    report = StreamReport(
        stream=stream,
        files=len(segments),
        lines=checker.lines,
        first=checker.first,
        last=checker.seq,
        uncovered=checker.uncovered(),
    )
    return finding, report


def _walk(checker: ChainChecker, segments: list[Segment], base: Head | None, notes: list[str]) -> Finding | None:
    name = f"{checker.stream}-*.jsonl"
    if not segments:
        return checker.end(name)
    wrong = checker.start()
    if wrong is not None:
        return Finding(file=segments[0].path.name, line=1, what=wrong)
    index = segments[0].index if base is not None else 1
    for segment in segments:
        name = segment.path.name
        if segment.index != index:
            gone = f"{checker.stream}-{index:06d}.jsonl"
            return Finding(
                file=gone, line=0, what=f"the file is missing (line {checker.seq + 1} of {checker.stream} on)"
            )
        index += 1
        for number, lines, rest in read_lines(segment.path, MAX_LINE):
            finding = checker.feed(name, number, lines)
            if finding is None and rest:
                where = number + len(lines)
                if segment is not segments[-1]:
                    return Finding(file=name, line=where, what="half a line within the log")
                finding = checker.end(name)
                notes.append(f"{name}:{where}: torn tail, {len(rest)} bytes")
            if finding is not None:
                return finding
    return checker.end(name)


def _base_of(segments: list[Segment], bases: list[Head]) -> Head | None:
    """The line that the first one goes on from, when retention took it away; None: it must be the very first line."""
    if not segments or not bases:
        return None
    for segment in segments:
        for _, lines, _ in read_lines(segment.path, MAX_LINE):
            parsed = parse_line(lines[0]) if lines else None
            if parsed is None or parsed.seq == 1:
                return None if segments[0].index == 1 else bases[-1]
            before = parsed.seq - 1
            named = next((base for base in bases if base.seq == before), None)
            if named is None and any(base.seq > before for base in bases):
                # Retention was interrupted: more files than these were signed away, and a later head proves them.
                named = Head(seq=before, hash=parsed.prev.decode(), file="")
            return named or bases[-1]
    return None


def _compare_kept(kept: Sequence[Checkpoint], proofs: _Proofs, key: Ed25519PublicKey) -> list[Finding]:
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


def read_lines(path: Path, limit: int) -> Iterator[tuple[int, list[bytes], bytes]]:
    """Whole lines of a file in large steps, with the number of the first; the last step also gives what has no newline.

    What grows past ``limit`` bytes without a newline is handed out as if it were a line, for the check to refuse.
    """
    number, rest = 1, b""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(_CHUNK):
            lines = (rest + chunk).split(b"\n")
            rest = lines.pop()
            if len(rest) > limit:
                lines.append(rest)
                rest = b""
            if lines:
                yield number, lines, b""
                number += len(lines)
    if rest:
        yield number, [], rest
