"""Checkpoints: signed, chained, never on top of what is not ours."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest
from support.auditlogs import KEY, OTHER_KEY, edit_lines

from gateway.audit.checkpoint_log import CheckpointLog
from gateway.audit.checkpoints import (
    CONTEXT,
    Checkpoint,
    CheckpointRefused,
    Head,
    build_checkpoint,
    parse_checkpoint,
    read_public_key,
    read_signing_key,
    verify_signature,
)
from gateway.audit.line import GENESIS, line_hash
from gateway.config.values import AuditConfig

START = 1_767_225_600_000_000


def head(seq: int, stream: str = "p0") -> Head:
    return Head(seq=seq, hash=line_hash(f"{stream}{seq}".encode()).decode(), file=f"{stream}-000001.jsonl")


def checkpoint() -> Checkpoint:
    plain = Checkpoint(
        seq=1,
        ts="2026-01-01T00:00:00.000000Z",
        heads={"p0": head(9), "cli": head(2, "cli")},
        bases={"p0": head(3)},
        prev=GENESIS.decode(),
    )
    return build_checkpoint(plain, KEY)


def test_checkpoint_built_read_and_verified() -> None:
    """What was signed comes back as it was, and only this key's signature counts."""
    built = checkpoint()
    assert parse_checkpoint(built.line) == built
    assert verify_signature(built.line, KEY.public_key())
    assert not verify_signature(built.line, OTHER_KEY.public_key())


def test_checkpoint_signature_covers_the_bytes_before_it() -> None:
    """The documented recipe: the context line, then the line up to the signature."""
    line = checkpoint().line
    signed, _, rest = line.partition(b',"sig":"')
    KEY.public_key().verify(base64.b64decode(rest[:-2]), CONTEXT + signed)


def test_checkpoint_any_byte_changed_not_verified() -> None:
    """No single byte can change under the signature."""
    line = checkpoint().line
    for index in range(len(line)):
        for mask in (1, 0x20):
            changed = line[:index] + bytes([line[index] ^ mask]) + line[index + 1 :]
            assert not verify_signature(changed, KEY.public_key()) or parse_checkpoint(changed) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("seq", 0),
        ("seq", True),
        ("seq", "1"),
        ("ts", 5),
        ("ts", "2026"),
        ("prev", "0"),
        ("heads", []),
        ("heads", {"../x": {}}),
        ("heads", {"p0": {"seq": 1}}),
        ("heads", {"p0": {"seq": 1, "hash": "0" * 64, "file": "\x1b[2J"}}),
        ("heads", {"p0": {"seq": -1, "hash": "0" * 64, "file": "p0-000001.jsonl"}}),
        ("heads", {"p0": {"seq": 1, "hash": "X" * 64, "file": "p0-000001.jsonl"}}),
        ("bases", None),
        ("more", 1),
    ],
)
def test_parse_checkpoint_bad_shape_none(name: str, value: object) -> None:
    """Whatever is not exactly a checkpoint is none, even if somebody signed it."""
    record = {**json.loads(checkpoint().line), name: value}
    record["sig"] = record.pop("sig")
    assert parse_checkpoint(json.dumps(record, separators=(",", ":")).encode()) is None


@pytest.mark.parametrize("line", [b"", b"{}", b"[1]", b'{"seq":1,"sig":"' + b"A" * 86 + b'=="}'])
def test_parse_checkpoint_not_one_none(line: bytes) -> None:
    """Other lines are no checkpoints."""
    assert parse_checkpoint(line) is None


def test_log_appends_chain_and_carry_heads(tmp_path: Path) -> None:
    """Each checkpoint follows the one before and names every stream, also those that said nothing new."""
    log = CheckpointLog(tmp_path)
    log.append({"p0": head(3)}, KEY, now_us=START)
    log.append({"cli": head(1, "cli")}, KEY, now_us=START - 5_000_000)
    lines = (tmp_path / "checkpoints.jsonl").read_bytes().splitlines()
    first, second = (parse_checkpoint(line) for line in lines)
    assert first is not None
    assert second is not None
    assert (first.seq, first.prev) == (1, GENESIS.decode())
    assert (second.seq, second.prev) == (2, line_hash(lines[0]).decode())
    assert second.heads == {"p0": head(3), "cli": head(1, "cli")}
    assert second.ts == first.ts
    assert log.last == second


def test_log_nothing_new_no_checkpoint(tmp_path: Path) -> None:
    """The same heads again are not signed again."""
    log = CheckpointLog(tmp_path)
    assert log.append({"p0": head(3)}, KEY) is not None
    assert log.append({"p0": head(3)}, KEY) is None
    assert log.append({}, KEY) is None
    assert len((tmp_path / "checkpoints.jsonl").read_bytes().splitlines()) == 1


def test_log_head_of_an_empty_stream_passed_over(tmp_path: Path) -> None:
    """A stream without lines has nothing to sign, and does not keep the others from it."""
    log = CheckpointLog(tmp_path)
    empty = Head(seq=0, hash="", file="")
    assert log.append({"p1": empty}, KEY) is None
    taken = log.append({"p0": head(3), "p1": empty}, KEY)
    assert taken is not None
    assert taken.heads == {"p0": head(3)}


@pytest.mark.parametrize(
    "heads",
    [
        {"p0": replace(head(1), hash="")},
        {"p0": replace(head(1), seq=-1)},
        {"p0": replace(head(1), file="../x")},
        {"nothing": head(1)},
        {"checkpoints": head(1)},
    ],
)
def test_log_malformed_head_never_signed(tmp_path: Path, heads: dict[str, Head]) -> None:
    """What could not be read back as a checkpoint is refused before it is signed."""
    with pytest.raises(ValueError, match="not heads"):
        CheckpointLog(tmp_path).append(heads, KEY)
    assert list(tmp_path.iterdir()) == []


def test_log_two_writers_one_chain(tmp_path: Path) -> None:
    """A command's checkpoint between the supervisor's is built upon."""
    supervisor, command = CheckpointLog(tmp_path), CheckpointLog(tmp_path)
    for number in range(1, 4):
        supervisor.append({"p0": head(number)}, KEY)
        command.append({"cli": head(number, "cli")}, KEY)
    lines = (tmp_path / "checkpoints.jsonl").read_bytes().splitlines()
    assert [json.loads(line)["seq"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert all(json.loads(lines[n])["prev"] == line_hash(lines[n - 1]).decode() for n in range(1, 6))


def test_log_head_behind_not_taken(tmp_path: Path) -> None:
    """A stream that went back keeps its signed head, so that verification shows the loss."""
    log = CheckpointLog(tmp_path)
    log.append({"p0": head(9), "cli": head(1, "cli")}, KEY)
    changed = replace(head(9), hash="0" * 64)
    for back in (head(5), changed):
        taken = log.append({"p0": back, "cli": head(2 if back is changed else 3, "cli")}, KEY)
        assert log.regressed == ({"p0", "cli"} if taken is None else {"p0"})
        assert log.last is not None
        assert log.last.heads["p0"] == head(9)


def test_log_forged_last_checkpoint_refused(tmp_path: Path) -> None:
    """Nothing is signed on top of a checkpoint with another signature."""
    CheckpointLog(tmp_path).append({"p0": head(3)}, OTHER_KEY)
    with pytest.raises(CheckpointRefused, match="not signed by this key"):
        CheckpointLog(tmp_path).append({"p0": head(4)}, KEY)


def test_log_put_back_while_running_refused(tmp_path: Path) -> None:
    """The running supervisor notices when its checkpoints are cut, replaced or removed."""
    log = CheckpointLog(tmp_path)
    for number in (1, 2):
        log.append({"p0": head(number)}, KEY)
    path = tmp_path / "checkpoints.jsonl"
    edit_lines(path, lambda lines: lines.pop())
    with pytest.raises(CheckpointRefused, match="went back from 2 to 1"):
        log.append({"p0": head(3)}, KEY)
    path.unlink()
    with pytest.raises(CheckpointRefused, match="lost"):
        log.append({"p0": head(3)}, KEY)


def test_log_torn_last_line_set_aside(tmp_path: Path) -> None:
    """A crash within a checkpoint costs that checkpoint only."""
    CheckpointLog(tmp_path).append({"p0": head(1)}, KEY)
    with open(tmp_path / "checkpoints.jsonl", "ab") as file:
        file.write(b'{"seq":2,"ts"')
    taken = CheckpointLog(tmp_path).append({"p0": head(2)}, KEY)
    assert taken is not None
    assert taken.seq == 2
    assert len(list(tmp_path.glob("*.torn"))) == 1


def test_log_rotates_and_chain_goes_on(tmp_path: Path) -> None:
    """The file of checkpoints is bounded too; the chain goes on across its files, and after a restart."""
    for number in range(1, 9):
        CheckpointLog(tmp_path, AuditConfig(max_bytes=800)).append({"p0": head(number)}, KEY)
    files = [*sorted(tmp_path.glob("checkpoints-*.jsonl")), tmp_path / "checkpoints.jsonl"]
    assert len(files) > 2
    lines = [line for file in files for line in file.read_bytes().splitlines()]
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 9))
    assert all(json.loads(lines[n])["prev"] == line_hash(lines[n - 1]).decode() for n in range(1, 8))


def test_keys_of_another_kind_refused(tmp_path: Path) -> None:
    """Only an Ed25519 key in the clear opens; anything else is none, or an error for the public half."""
    path = tmp_path / "key"
    assert read_signing_key(path) is None
    path.write_bytes(b"RHTTPSEAL\x01")
    assert read_signing_key(path) is None
    with pytest.raises(ValueError, match=r".+"):
        read_public_key(path)
