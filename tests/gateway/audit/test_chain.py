"""One stream checked as data: every single change is found, and the first bad line is named."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.auditlogs import chain_again, lines_of

from gateway.audit.chain import ChainChecker, Finding, HeadTable
from gateway.audit.line import LineBuilder, line_hash

COUNT = 12
LINES = lines_of(COUNT)
FILE = "p0-000001.jsonl"


def table(*seqs: int, file: str = FILE) -> HeadTable:
    heads = HeadTable()
    for number, seq in enumerate(seqs, 1):
        assert heads.add(seq=seq, digest=line_hash(LINES[seq - 1]).decode(), file=file, checkpoint=number) is None
    return heads


def check(lines: list[bytes], heads: HeadTable | None = None, step: int = COUNT) -> Finding | None:
    checker = ChainChecker("p0", heads if heads is not None else table(COUNT))
    for start in range(0, len(lines), step):
        finding = checker.feed(FILE, start + 1, lines[start : start + step])
        if finding is not None:
            return finding
    return checker.end(FILE)


@pytest.mark.parametrize("step", [1, 5, COUNT])
def test_chain_as_written_sound(step: int) -> None:
    """Lines as they were written pass, in whatever portions they come."""
    assert check(LINES, table(3, 7), step) is None


@given(st.integers(0, COUNT - 1), st.integers(0, 10_000), st.integers(1, 255), st.sampled_from([1, 5, COUNT]))
def test_chain_any_byte_changed_found(index: int, position: int, mask: int, step: int) -> None:
    """Any changed byte of a covered line is found, in that line or (one line in hand) the next to it."""
    line = bytearray(LINES[index])
    line[position % len(line)] ^= mask
    finding = check([*LINES[:index], bytes(line), *LINES[index + 1 :]], step=step)
    assert finding is not None
    assert finding.line in ((index + 1,) if step == COUNT else (index, index + 1, index + 2))


@given(st.integers(0, COUNT - 1))
def test_chain_line_removed_found(index: int) -> None:
    """A missing line is found where the next one stands."""
    finding = check([*LINES[:index], *LINES[index + 1 :]])
    assert finding is not None
    assert finding.line == index + 1


@given(st.integers(0, COUNT - 1), st.integers(0, COUNT - 1))
def test_chain_line_inserted_found(index: int, source: int) -> None:
    """A line that was put in is the one that is named."""
    finding = check([*LINES[:index], LINES[source], *LINES[index:]])
    assert finding is not None
    assert finding.line == (index + 2 if source == index else index + 1)


@given(st.integers(0, COUNT - 2))
def test_chain_lines_swapped_found(index: int) -> None:
    """Of two swapped lines the first is named."""
    lines = list(LINES)
    lines[index], lines[index + 1] = lines[index + 1], lines[index]
    finding = check(lines)
    assert finding is not None
    assert finding.line == index + 1


@given(st.integers(1, COUNT))
def test_chain_tail_cut_found(count: int) -> None:
    """Lines cut off the end are missed back to the last checkpoint."""
    finding = check(LINES[: COUNT - count])
    assert finding is not None
    assert f"checkpoint 1 names line {COUNT}" in finding.what


@given(st.integers(0, 6))
def test_chain_computed_again_without_the_key_found(index: int) -> None:
    """Changing a line and computing all hashes again fails at the next checkpoint, which says since when."""
    lines = list(LINES)
    lines[index] = lines[index].replace(b"alice", b"mallo")
    chain_again(lines, index)
    finding = check(lines, table(7, COUNT))
    assert finding is not None
    assert finding.line == 7
    assert "a line from 1 to 7 was changed" in finding.what


def test_chain_behind_the_last_checkpoint_rewritten_not_detected() -> None:
    """The limit of it: behind the last checkpoint the chain alone proves nothing against a writer of new hashes."""
    lines = list(LINES)
    lines[9] = lines[9].replace(b"alice", b"mallo")
    chain_again(lines, 9)
    checker = ChainChecker("p0", table(7))
    assert checker.feed(FILE, 1, lines) is None
    assert checker.uncovered() == COUNT - 7


def test_chain_time_going_back_found() -> None:
    """A line whose time is before the last one's is named even when all hashes fit."""
    lines = list(LINES)
    lines[4] = lines[4].replace(b'"ts":"2026', b'"ts":"2025')
    chain_again(lines, 4)
    finding = check(lines, HeadTable())
    assert finding == Finding(file=FILE, line=5, what="ts is earlier than the line before")


@pytest.mark.parametrize(
    ("old", "new", "what"),
    [
        (b'"identity"', b'"password"', "unknown names: ['password']"),
        (b'"event":"request"', b'"event":"nothing"', "unknown event"),
        (b'"count":4', b'"count":x', "not JSON"),
        (b'"ts":"2026-01-01T', b'"ts":"2026-01-01 ', "not a line of the audit log"),
    ],
)
def test_chain_shape_of_uncovered_line_checked(old: bytes, new: bytes, what: str) -> None:
    """Lines that no checkpoint covers still have to be lines of this log."""
    lines = list(LINES)
    lines[4] = lines[4].replace(old, new)
    chain_again(lines, 4)
    finding = check(lines, HeadTable())
    assert finding is not None
    assert finding.line == 5
    assert finding.what in (what, "ts is not a time stamp")


def test_chain_foreign_stream_found() -> None:
    """A file of another stream under this one's name is named at its first line."""
    finding = check(lines_of(3, "p1"))
    assert finding is not None
    assert (finding.line, finding.what) == (1, "a line of stream p1, not of p0")


def test_chain_head_in_another_file_found() -> None:
    """A checkpoint also says in which file its line stood."""
    finding = check(LINES, table(5, file="p0-000002.jsonl"))
    assert finding is not None
    assert finding.line == 5


def test_chain_from_a_base_sound_and_held_to_it() -> None:
    """A log whose beginning was retired goes on from its base, and from no other line."""
    digest = line_hash(LINES[3])
    checker = ChainChecker("p0", table(2, 4, COUNT), seq=4, digest=digest)
    assert checker.start() is None
    assert checker.feed(FILE, 1, LINES[4:]) is None
    assert checker.end(FILE) is None
    forged = ChainChecker("p0", table(2, 4), seq=4, digest=line_hash(b"x"))
    assert forged.start() == "checkpoint 2 names another hash for line 4 before it"


def test_head_table_going_back_refused() -> None:
    """Checkpoints never go back and never contradict each other."""
    heads = table(5)
    assert heads.add(seq=4, digest="0" * 64, file=FILE, checkpoint=2) == "goes back from line 5 to 4"
    assert heads.add(seq=5, digest="0" * 64, file=FILE, checkpoint=2) == "names another hash for line 5"
    assert heads.add(seq=5, digest=line_hash(LINES[4]).decode(), file=FILE, checkpoint=2) is None
    assert len(heads) == 1


def test_chain_any_builder_output_passes_the_check() -> None:
    """Writer and check agree on every form a line may take."""
    builder = LineBuilder("cli")
    checker = ChainChecker("cli", HeadTable())
    for fields in ({}, {"target": b"\xff\n"}, {"detail": {"name": "a", "count": 3}}, {"policy": ["a", "b"], "ms": 0.1}):
        line = builder.build("user.added", fields, 1)
        builder.commit(line)
        assert checker.feed("cli-000001.jsonl", builder.head[0], [line[:-1]]) is None
