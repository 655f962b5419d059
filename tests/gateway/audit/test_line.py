"""The audit line: its form, its allow-list, its chain; what no value can do to it."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import auditlogs

from gateway.audit.line import (
    DETAIL_KEYS,
    FIELDS,
    GENESIS,
    MAX_LINE,
    MAX_STRING,
    FieldRefused,
    LineBuilder,
    format_stamp,
    is_event,
    line_hash,
    parse_line,
    parse_stamp,
    render_fields,
)

START = 1_767_225_600_000_000

texts = st.one_of(
    st.text(max_size=60),
    st.text(alphabet='\n\r\x85\u2028\x1b\x7f\x9b"\\{}[]?:,nul', max_size=60),
    st.integers(0, 9000).map(lambda count: "\udc80" * count),
    st.integers(2040, 70000).map(lambda count: "é" * count),
)
scalars = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), texts, st.binary(max_size=80), st.binary(min_size=2000)
)
values = st.one_of(scalars, st.lists(scalars.filter(lambda value: value is not None), max_size=60))
records = st.dictionaries(st.sampled_from(sorted(FIELDS - {"detail"})), values)
details = st.dictionaries(st.sampled_from(sorted(DETAIL_KEYS)), values)


def render(fields: dict[str, object]) -> dict[str, object]:
    loaded = json.loads(b"{%b}" % render_fields(fields))
    assert isinstance(loaded, dict)
    return loaded


@given(records, st.none() | details)
def test_line_any_values_one_printable_json_line(fields: dict[str, object], detail: dict[str, object] | None) -> None:
    """Whatever the values are, a line is one line of printable ASCII, bounded, JSON, and says only what was allowed."""
    if detail is not None:
        fields = {**fields, "detail": detail}
    line = LineBuilder("p0").build("request", fields, START)
    assert line.endswith(b"\n")
    assert len(line) <= MAX_LINE
    assert all(0x20 <= byte < 0x7F for byte in line[:-1])
    record = json.loads(line)
    assert record.keys() - FIELDS == {"stream", "seq", "ts", "event", "prev"}
    assert record["event"] == "request"
    assert None not in record.values()
    assert parse_line(line[:-1]) is not None


@given(st.dictionaries(st.sampled_from(["identity", "reason", "worker"]), st.text(max_size=MAX_STRING)))
def test_line_text_values_come_back_unchanged(fields: dict[str, object]) -> None:
    """Text up to the cap is stored as it is, however it has to be escaped."""
    assert render(fields) == fields


@given(st.binary(max_size=MAX_STRING))
def test_line_bytes_come_back_as_latin1(value: bytes) -> None:
    """Bytes are kept one to one as the characters U+0000 to U+00FF."""
    assert str(render({"reason": value})["reason"]).encode("latin-1") == value


@pytest.mark.parametrize("length", [MAX_STRING, MAX_STRING + 1, 1_000_000])
@pytest.mark.parametrize("kind", [str, bytes])
def test_line_long_string_capped_with_marker(length: int, kind: type) -> None:
    """A string of the cap's length stays, one more character is cut and the marker says how many are gone."""
    value = "a" * length if kind is str else b"a" * length
    expected = "a" * length if length == MAX_STRING else "a" * MAX_STRING + f"...[+{length - MAX_STRING}]"
    assert render({"target": value})["target"] == expected


def test_line_absent_values_left_out() -> None:
    """None means absent; zero, empty and false are values."""
    assert render({"identity": None, "reason": "", "count": 0}) == {"reason": "", "count": 0}


def test_line_query_never_in_target() -> None:
    """A query that a caller forgot to cut off does not reach the log."""
    assert render({"target": "/a?password=x"}) == {"target": "/a"}
    assert render({"target": b"/a?\xff", "reason": "why?"}) == {"target": "/a", "reason": "why?"}


def test_line_numbers_without_json_form_become_text() -> None:
    """Numbers that JSON cannot carry are spelled out, not lost."""
    record = render({"ms": float("nan"), "count": 2**70})
    assert record == {"ms": "nan", "count": hex(2**70)}


@pytest.mark.parametrize(
    "fields",
    [
        {"authorization": "Digest x"},
        {"stream": "p1"},
        {"prev": "0"},
        {"detail": {"password": "x"}},
        {"detail": "x"},
        {"reason": {"a": 1}},
        {"reason": object()},
        {"policy": [{"a": 1}]},
    ],
)
def test_line_outside_the_allow_list_refused(fields: dict[str, object]) -> None:
    """A name or a type that the log does not know is a caller's bug, and no line is made."""
    builder = LineBuilder("p0")
    with pytest.raises(FieldRefused) as caught:
        builder.build("request", fields, START)
    assert "Digest x" not in str(caught.value)
    assert builder.head == (0, GENESIS, "")


@pytest.mark.parametrize("event", ["user.added", "admin.audit_resumed", "pki.crl_made", "gateway.start"])
def test_event_known_taken(event: str) -> None:
    """The events of the contract and its open families are taken."""
    assert is_event(event)


@pytest.mark.parametrize("event", ["", "user.", "user.A", "requests", "other.x", 'request","x":"', "user.a\n"])
def test_event_unknown_refused(event: str) -> None:
    """Anything else is not an event."""
    with pytest.raises(FieldRefused):
        LineBuilder("p0").build(event, {}, START)


@pytest.mark.parametrize("stream", ["", "p", "p01", "p0 ", "P0", "p12345", "../x", "checkpoints"])
def test_builder_bad_stream_refused(stream: str) -> None:
    """A stream's name is a file's name: only the two forms exist."""
    with pytest.raises(ValueError, match="stream"):
        LineBuilder(stream)


def test_builder_lines_chain_by_hash() -> None:
    """seq counts from 1 and prev is the hash of the bytes before, without the newline; the first has zeros."""
    builder = LineBuilder("p0")
    before = GENESIS
    for seq in range(1, 6):
        line = builder.build("request", auditlogs.FIELDS, START + seq)
        builder.commit(line)
        record = json.loads(line)
        assert (record["stream"], record["seq"], record["prev"].encode()) == ("p0", seq, before)
        before = line_hash(line.rstrip(b"\n"))
    assert builder.head[:2] == (5, before)


def test_builder_line_not_committed_built_again() -> None:
    """A line that could not be written leaves no trace in the chain."""
    builder = LineBuilder("p0")
    first = builder.build("request", auditlogs.FIELDS, START)
    assert builder.build("request", auditlogs.FIELDS, START) == first


@given(st.lists(st.integers(0, 4_000_000_000_000_000), min_size=1, max_size=20))
def test_builder_time_never_goes_back(times: list[int]) -> None:
    """A clock that is set back repeats the last time; one that goes on is written to the microsecond."""
    builder = LineBuilder("p0")
    latest = 0
    for now in times:
        latest = max(latest, now)
        line = builder.build("request", {}, now)
        builder.commit(line)
        assert json.loads(line)["ts"] == format_stamp(latest)


@given(st.integers(0, 4_000_000_000_000_000))
def test_stamp_round_trip(now_us: int) -> None:
    """Stamps are RFC 3339 in UTC and lose nothing."""
    stamp = format_stamp(now_us)
    assert datetime.fromisoformat(stamp) == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=now_us)
    assert parse_stamp(stamp.encode()) == now_us


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{}",
        b'{"stream":"p0","seq":0,"ts":"2026-01-01T00:00:00.000000Z","event":"request","prev":"' + b"0" * 64 + b'"}',
        b'{"stream":"p0","seq":1,"ts":"2026-13-01T00:00:00.000000Z","event":"request","prev":"' + b"0" * 64 + b'"}',
        b'{"stream":"p0","seq":1,"ts":"2026-01-01T00:00:00.000000Z","event":"request","prev":"' + b"0" * 63 + b'"}',
        b'{"stream":"p0","seq":1,"ts":"2026-01-01T00:00:00.000000Z","event":"request","a":"\n","prev":"'
        + b"0" * 64
        + b'"}',
    ],
)
def test_parse_line_not_a_line_none(line: bytes) -> None:
    """What has not the frame of a line is not one."""
    assert parse_line(line) is None
