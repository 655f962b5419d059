"""`audit tail` and `audit verify`: the log for reading, and its proof."""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import NoReturn

import click
import orjson

from gateway.audit.anchor import Anchor
from gateway.audit.checkpoints import LOG, Checkpoint, parse_checkpoint, read_public_key
from gateway.audit.files import Segment, list_segments, read_lines, segment_name
from gateway.audit.line import MAX_LINE
from gateway.audit.verify import AuditUnreadable, Report, verify_directory
from gateway.cli.common import Settings, common_options, fail
from rhttp.worker.output import is_unread

_STATUS_TIMEOUT = 10.0
_POLL = 0.25  # seconds between two looks with -f
_MAX_LINES = 100_000
_MAX_KEPT = 1024 * 1024  # bytes of a file of kept checkpoints
_FIRST = ("event", "outcome", "reason", "identity", "target", "status", "ms")  # what people look for, in front


_ALONE = (
    "compared with nothing that is kept elsewhere: that the newest checkpoints were taken away with their lines would"
    " not show; see --checkpoint"
)


@click.group("audit")
def audit() -> None:
    """The audit log: read it, prove it."""


@audit.command("tail")
@click.option("-f", "--follow", is_flag=True, help="Go on with new lines until interrupted.")
@click.option("-n", "--lines", default=10, show_default=True, type=click.IntRange(0, _MAX_LINES), help="Last lines.")
@click.option("--json", "as_json", is_flag=True, help="The lines as they are stored.")
@common_options
def tail(settings: Settings, follow: bool, lines: int, as_json: bool) -> None:
    """Show the last lines of all streams in the order of their times."""
    directory = settings.home / "audit"
    try:
        segments = _streams(directory)
        tails = {stream: _Follower(stream, files[-1]) for stream, files in segments.items()}
        found = [line for stream, files in segments.items() for line in _last_lines(files, lines, tails[stream])]
        for line in sorted(found, key=_stamp)[len(found) - min(lines, len(found)) :]:
            _show(line, as_json)
        while follow and not is_unread():
            time.sleep(_POLL)
            for stream, files in _streams(directory).items():
                tails.setdefault(stream, _Follower(stream, files[0]))
            for line in sorted((line for one in tails.values() for line in one.read()), key=_stamp):
                _show(line, as_json)
    except OSError as error:
        fail(f"cannot read the audit log in {directory}: {error.strerror}; name the home with --home")
    except KeyboardInterrupt:
        sys.exit(0)


class _Follower:
    """Reads whole lines of one stream as they come, from file to file."""

    def __init__(self, stream: str, segment: Segment) -> None:
        self._stream = stream
        self._segment = segment
        self.offset = 0

    def read(self) -> Iterator[bytes]:
        """The whole lines since the last call."""
        while True:
            index = self._segment.index + 1
            later = self._segment.path.with_name(segment_name(self._stream, index))
            full = later.exists()  # looked at first: a file is not written any more once the next one is there
            with open(self._segment.path, "rb") as file:
                file.seek(self.offset)
                while (line := file.readline(MAX_LINE + 1)).endswith(b"\n"):
                    self.offset += len(line)
                    yield line[:-1]
            if not full:
                return
            self._segment = Segment(index=index, path=later)
            self.offset = 0


def _streams(directory: Path) -> dict[str, list[Segment]]:
    segments = list_segments(directory)
    segments.pop(LOG, None)
    return segments


def _last_lines(files: list[Segment], count: int, follower: _Follower) -> Iterator[bytes]:
    """The last ``count`` whole lines of a stream; ``follower`` goes on behind the last of them."""
    kept: deque[bytes] = deque(maxlen=count)
    wanted = files[-2:] if count else []
    for segment in wanted:
        for _, lines, _ in read_lines(segment.path, MAX_LINE):
            kept.extend(lines)
            if segment is files[-1]:
                follower.offset += sum(len(line) + 1 for line in lines)
    if not wanted:
        follower.offset = files[-1].path.stat().st_size
    return iter(kept)


def _stamp(line: bytes) -> bytes:
    start = line.find(b'"ts":"')
    return line[start + 6 : start + 33] if start >= 0 else b""


def _show(line: bytes, as_json: bool) -> None:
    if as_json:
        # What somebody else put into the file may hold anything: only printable ASCII reaches the terminal.
        click.echo(line.decode("ascii") if _is_plain(line) else json.dumps({"unreadable": line.decode("latin-1")}))
        return
    try:
        record = orjson.loads(line)
        words = [str(record.pop("ts")), f"{record.pop('stream')}/{record.pop('seq')}"]
        del record["prev"]
    except (orjson.JSONDecodeError, KeyError, AttributeError, TypeError):
        click.echo(f"unreadable: {json.dumps(line.decode('latin-1'))}")
        return
    named = [(name, record.pop(name)) for name in _FIRST if name in record]
    words += [_word(value) if name in ("event", "outcome") else f"{name}={_word(value)}" for name, value in named]
    click.echo(" ".join([*words, *(f"{name}={_word(value)}" for name, value in record.items())]))


def _word(value: object) -> str:
    text = ",".join(map(str, value)) if isinstance(value, list) else value
    plain = isinstance(text, str) and text.isascii() and text.isprintable() and " " not in text and '"' not in text
    return str(text) if plain and text else json.dumps(text)


def _is_plain(line: bytes) -> bool:
    return line.isascii() and line.decode("ascii").isprintable()


@audit.command("verify")
@click.argument("path", required=False, type=click.Path(path_type=Path, file_okay=False))
@click.option("--key", "key_file", type=click.Path(path_type=Path, dir_okay=False), help="The public key (PEM).")
@click.option(
    "--checkpoint",
    "kept_file",
    type=click.Path(path_type=Path, dir_okay=False),
    help="Checkpoint lines kept elsewhere.",
)
@click.option("--json", "as_json", is_flag=True, help="The report as one JSON object.")
@common_options
def verify(settings: Settings, path: Path | None, key_file: Path | None, kept_file: Path | None, as_json: bool) -> None:
    """Prove the log in PATH (default HOME/audit): 0 sound, 1 not, 2 nothing to read.

    1: it was tampered with, or the gateway that runs says that it cannot write it now.
    """
    ours = settings.home / "audit"
    directory = path or ours
    # What the home keeps tells of its own log alone; a copy elsewhere is compared with --checkpoint.
    at_home = directory.resolve() == ours.resolve()
    mend = "name it with --key" if key_file else "name the home with --home, or a copy of its key with --key"
    key_file = key_file or settings.home / "certs" / "checkpoint.pub"
    try:
        key = read_public_key(key_file)
    except (OSError, ValueError) as error:
        _unreadable(f"cannot read the public key {key_file} ({_reason(error)}); {mend}")
    try:
        anchor = Anchor(settings.home / "keys") if at_home else None
        report = verify_directory(directory, key, _read_kept(kept_file) if kept_file else (), anchor)
        if kept_file is None and (anchor is None or anchor.checkpoint() is None):
            report = replace(report, notes=(*report.notes, _ALONE))
    except AuditUnreadable as error:
        _unreadable(f"cannot check {directory}: {error}")
    if as_json:
        click.echo(orjson.dumps(_as_json(report)).decode())
    else:
        _print(report)
    faults = _running_faults(settings.home) if at_home else []
    if report.findings:
        _say(f"Error: {directory}: {len(report.findings)} finding(s), the first: {report.findings[0]}")
    if report.missing:
        _say(f"warning: {report.missing} lines could not be written and are missing (admin.audit_resumed)")
    for fault in faults:
        _say(f"Error: the running gateway says: {fault}")
    if report.findings or faults:
        sys.exit(1)


def _say(text: str) -> None:
    click.echo(text, err=True)


def _running_faults(home: Path) -> list[str]:
    """What the gateway of this home cannot write or sign now; nothing when none runs."""
    from gateway.admin.client import AdminFailed, call

    try:
        status = call(home, "GET", "/status", timeout=_STATUS_TIMEOUT)
    except AdminFailed as error:
        _say(f"warning: the running gateway does not say how its log fares: {error}")
        return []
    told = (status or {}).get("audit")
    faults = told.get("faults") if isinstance(told, dict) else None
    return [str(fault) for fault in faults] if isinstance(faults, list) else []


def _read_kept(path: Path) -> tuple[Checkpoint, ...]:
    try:
        with open(path, "rb") as file:
            data = file.read(_MAX_KEPT + 1)
    except OSError as error:
        _unreadable(f"cannot read the kept checkpoint {path} ({_reason(error)})")
    lines = [line for line in data.split(b"\n") if line]
    kept = [parse_checkpoint(line) for line in lines]
    if not lines or len(data) > _MAX_KEPT or any(checkpoint is None for checkpoint in kept):
        _unreadable(f"{path} holds no checkpoint; copy whole lines of checkpoints.jsonl, at most 1 MiB")
    return tuple(checkpoint for checkpoint in kept if checkpoint is not None)


def _reason(error: Exception) -> str:
    return (error.strerror or "unreadable") if isinstance(error, OSError) else "no Ed25519 public key in PEM"


def _unreadable(message: str) -> NoReturn:
    click.echo(f"Error: {message}", err=True)
    sys.exit(2)


def _as_json(report: Report) -> dict[str, object]:
    last = report.last_checkpoint
    return {
        "sound": not report.findings,
        "findings": [{"file": one.file, "line": one.line or None, "what": one.what} for one in report.findings],
        "notes": list(report.notes),
        "streams": [
            {
                "stream": one.stream,
                "files": one.files,
                "lines": one.lines,
                "first": one.first,
                "last": one.last,
                "uncovered": one.uncovered,
            }
            for one in report.streams
        ],
        "checkpoints": report.checkpoints,
        "missing": report.missing,
        "last_checkpoint": {"seq": last.seq, "ts": last.ts} if last else None,
    }


def _print(report: Report) -> None:
    for finding in report.findings:
        click.echo(f"BAD {finding}")
    for note in report.notes:
        click.echo(f"note: {note}")
    for one in report.streams:
        read = f"lines {one.first} to {one.last}" if one.last >= one.first else "not one line to be trusted"
        click.echo(f"{one.stream}: {read} in {one.files} files, {one.uncovered} uncovered")
    last = report.last_checkpoint
    until = f", the last one number {last.seq} of {last.ts}" if last else ""
    lines = sum(one.lines for one in report.streams)
    uncovered = sum(one.uncovered for one in report.streams)
    verdict = "tampered with" if report.findings else "sound"
    click.echo(
        f"{verdict}: {len(report.streams)} streams, {lines} lines, {report.checkpoints} checkpoints{until};"
        f" {uncovered} lines behind the last checkpoint"
    )
