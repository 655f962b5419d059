"""I/O: `audit verify`: reads a log directory as a stream of lines and says whether it is what was written.

Trust: trusts the public key it is given and nothing in the directory. Reads only; works while a gateway writes.

Not detected: that whole lines behind the last checkpoint were changed by someone who computed their hashes again; and
that log and checkpoints were put back together to an earlier state, unless a checkpoint kept elsewhere is compared,
as it is with the ``anchor`` of the log's own home.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from gateway.audit.anchor import Anchor, KeptCli
from gateway.audit.chain import ChainChecker, Finding, HeadTable
from gateway.audit.checkpoints import FILE, LOG, Checkpoint, Head
from gateway.audit.cli_stream import CLI
from gateway.audit.files import Segment, list_segments, read_lines
from gateway.audit.line import MAX_LINE, AuditUnavailable, parse_line
from gateway.audit.proofs import Proofs, compare_kept, read_proofs
from gateway.audit.statements import read_statements

_TRIES: Final = 3  # retention and rotation may change the directory under a reader


class AuditUnreadable(Exception):  # noqa: N818 - says what is the case, like every error of ours
    """There is no log to check, or a file of it cannot be read."""


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
    missing: int
    """Lines that could not be written, by what the log says of itself."""


def verify_directory(
    directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint] = (), anchor: Anchor | None = None
) -> Report:
    """Check every chain, every checkpoint and both against each other, and against checkpoints ``kept`` elsewhere.

    With the ``anchor`` of the home that the log belongs to, also against what the home keeps of it.

    Raises:
        AuditUnreadable: no such directory, no log in it, or a file that cannot be read.
    """
    if not directory.exists() and anchor is None:
        raise AuditUnreadable("there is no such directory")
    for attempt in range(1, _TRIES + 1):
        before = _fingerprint(directory)
        try:
            report = _verify_once(directory, key, kept, anchor)
        except FileNotFoundError as error:
            if attempt == _TRIES:
                raise AuditUnreadable(f"{error.filename}: went away while it was read") from error
            continue
        except AuditUnavailable as error:
            raise AuditUnreadable(str(error)) from error
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


def _verify_once(directory: Path, key: Ed25519PublicKey, kept: Sequence[Checkpoint], anchor: Anchor | None) -> Report:
    # What is kept comes first: the log, which is read then, holds at least that.
    ends = anchor.cli() if anchor is not None else None
    last = anchor.checkpoint() if anchor is not None else None
    moved = last is not None and ends is not None and ends.begun == last.checkpoint.seq
    if last is not None:
        kept = (*kept, last.checkpoint)
    if last is not None and not directory.is_dir():
        return _gone(last.checkpoint)
    # Checkpoints before lines: every line that they name was written before them, so it is there when the log is read.
    proofs = read_proofs(directory, key, kept)
    segments = list_segments(directory)
    segments.pop(LOG, None)
    if not segments and proofs.count == 0 and proofs.finding is None and last is None:
        raise AuditUnreadable(f"{directory} holds no audit log")
    findings = [proofs.finding] if proofs.finding is not None else []
    if ends is not None and (end := ends.ends[0]).seq:
        table = proofs.tables.setdefault(CLI, HeadTable())
        wrong = None
        if end.seq >= table.last():
            wrong = table.add(seq=end.seq, digest=end.hash, file=end.file, checkpoint=0)
        if wrong is not None:
            findings.append(Finding(file=FILE, line=0, what=f"what is kept in keys/ of {CLI} {wrong}"))
    notes = list(proofs.notes)
    streams: list[StreamReport] = []
    missing = 0
    for stream in sorted(segments.keys() | proofs.tables.keys()):
        finding, checker = _verify_stream(stream, segments.get(stream, []), proofs, notes)
        stated, said, lost = read_statements(checker.statements)
        findings += [finding] if finding is not None else []
        findings += stated
        notes += said
        missing += lost
        streams.append(_report(checker, segments.get(stream, [])))
        if stream == CLI and finding is None and anchor is not None:
            findings += _not_ours(checker, anchor.cli(), segments.get(stream, []))
    if moved and proofs.count == 0 and last is not None:
        kept = kept[:-1]
    findings += compare_kept(kept, proofs, key)
    if proofs.count == 0 and proofs.finding is None:
        if any(report.stream != CLI and report.lines for report in streams):
            findings.append(Finding(file=FILE, line=0, what="no checkpoint at all, although a gateway wrote the log"))
        else:
            notes.append("no checkpoint yet: nothing but the chain speaks for these lines")
    return Report(
        findings=tuple(findings),
        notes=tuple(notes),
        streams=tuple(streams),
        checkpoints=proofs.count,
        last_checkpoint=proofs.last,
        missing=missing,
    )


def _gone(last: Checkpoint) -> Report:
    what = f"there is no log at all, but checkpoint {last.seq} of one was kept"
    finding = Finding(file=FILE, line=0, what=what)
    return Report(findings=(finding,), notes=(), streams=(), checkpoints=0, last_checkpoint=None, missing=0)


def _not_ours(checker: ChainChecker, kept: KeptCli | None, segments: list[Segment]) -> list[Finding]:
    """Lines behind the last one that a writer of ours wrote. ``kept`` was read after the log."""
    if kept is None:
        return []
    seq, digest = checker.head
    most = max(checker.signed, *(end.seq for end in kept.ends))
    if seq > most:
        what = f"lines {most + 1} to {seq} are not ours: no command of this home wrote them"
    elif seq and any(end.seq == seq and end.hash != digest for end in kept.ends) and len(kept.ends) == 1:
        what = f"line {seq} is not the one that a command of this home wrote"
    else:
        return []
    return [Finding(file=segments[-1].path.name if segments else f"{CLI}-*.jsonl", line=0, what=what)]


def _report(checker: ChainChecker, segments: list[Segment]) -> StreamReport:
    return StreamReport(
        stream=checker.stream,
        files=len(segments),
        lines=checker.lines,
        first=checker.first,
        last=checker.seq,
        uncovered=checker.uncovered(),
    )


def _verify_stream(
    stream: str, segments: list[Segment], proofs: Proofs, notes: list[str]
) -> tuple[Finding | None, ChainChecker]:
    table = proofs.tables.get(stream) or HeadTable()
    base = _base_of(segments, proofs.bases.get(stream, []))
    checker = (
        ChainChecker(stream, table, seq=base.seq, digest=base.hash.encode()) if base else ChainChecker(stream, table)
    )
    return _walk(checker, segments, base, notes), checker


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
