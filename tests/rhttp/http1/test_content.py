"""Content framing: lengths, chunks in any pieces, and everything that a chunked reader must not take."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rhttp.errors import RemoteProtocolError
from rhttp.http1.content import (
    LAST_CHUNK,
    MAX_CHUNK_LINE,
    MAX_EXTENSIONS,
    ChunkedReader,
    CloseReader,
    ContentReader,
    LengthReader,
    chunk,
    last_chunk,
)
from rhttp.http1.fields import FORBIDDEN_IN_TRAILERS
from rhttp.message import Fields

SAMPLE = b"3\r\nabc\r\n5;x=y\r\ndefgh\r\n0A\r\n0123456789\r\n0\r\nX-Sum: 1\r\nX-Two: 2\r\n\r\n"
SAMPLE_CONTENT = b"abcdefgh0123456789"
SAMPLE_TRAILERS = [(b"x-sum", b"1"), (b"x-two", b"2")]


def read(data: bytes, cuts: list[int] | None = None, reader: ContentReader | None = None) -> tuple[bytes, bytes]:
    """All content and what came behind it; the reader must have ended by then."""
    reader = reader or ChunkedReader()
    pieces = [data]
    if cuts is not None:
        marks = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
        pieces = [data[a:b] for a, b in itertools.pairwise(marks)]
    content = bytearray()
    for number, piece in enumerate(pieces):
        got, ended, surplus = reader.feed(piece)
        content += got
        if ended:
            return bytes(content), surplus + b"".join(pieces[number + 1 :])
    raise AssertionError("the content did not end")


def feed_in_pieces(reader: ContentReader, data: bytes, size: int) -> None:
    for at in range(0, len(data), size):
        reader.feed(data[at : at + size])


def refused(data: bytes, status: int = 400, **limits: int) -> None:
    """Whole and byte by byte, the data is refused."""
    for size in (len(data), 1):
        with pytest.raises(RemoteProtocolError) as caught:
            feed_in_pieces(ChunkedReader(**limits), data, size)
        assert caught.value.status == status


@pytest.mark.parametrize("first", range(1, len(SAMPLE)))
def test_chunked_reader_reads_the_same_cut_anywhere(first: int) -> None:
    """Two pieces, cut at every byte: same content, same trailers, same surplus."""
    reader = ChunkedReader()
    assert read(SAMPLE + b"GET ", [first], reader) == (SAMPLE_CONTENT, b"GET ")
    assert reader.trailers == SAMPLE_TRAILERS


@given(cuts=st.lists(st.integers(0, 200), max_size=40))
@example(cuts=list(range(200)))
def test_chunked_reader_reads_the_same_in_any_pieces(cuts: list[int]) -> None:
    """Any number of pieces, down to single bytes."""
    reader = ChunkedReader()
    assert read(SAMPLE + b"next", cuts, reader) == (SAMPLE_CONTENT, b"next")
    assert reader.trailers == SAMPLE_TRAILERS


@given(pieces=st.lists(st.binary(min_size=1, max_size=40), max_size=6), cuts=st.lists(st.integers(0, 400), max_size=9))
def test_chunks_written_are_read_back(pieces: list[bytes], cuts: list[int]) -> None:
    """What we frame is what a strict reader finds."""
    trailers: Fields = [(b"x-t", b"1")]
    data = b"".join(map(chunk, pieces)) + last_chunk(trailers)
    reader = ChunkedReader()
    assert read(data, cuts, reader) == (b"".join(pieces), b"")
    assert reader.trailers == trailers


def test_last_chunk_without_trailers_is_the_constant() -> None:
    """The hot path writes it without building anything."""
    assert last_chunk([]) == LAST_CHUNK
    assert read(LAST_CHUNK) == (b"", b"")


@pytest.mark.parametrize(
    "data",
    [
        b"3\nabc\r\n",
        b"3\rabc\r\n\r\n",
        b"3\r\nabc\n0\r\n\r\n",
        b"3\r\nabcd\r\n",
        b"3\r\nabc0\r\n\r\n",
        b"3\r\nabc\rX",
        b"\r\n",
        b" 3\r\nabc\r\n",
        b"3 \r\nabc\r\n",
        b"+3\r\nabc\r\n",
        b"-3\r\nabc\r\n",
        b"0x3\r\nabc\r\n",
        b"3_0\r\nabc\r\n",
        b"g\r\n",
        b"\xb3\r\n",
        b"1" * 16 + b"\r\n",
        b"0" * 16 + b"\r\n",
        b"3;x\x00\r\nabc\r\n",
        b"3;x\ry\r\nabc\r\n",
        b"3,x\r\nabc\r\n",
        b"0\r\nX : 1\r\n\r\n",
        b"0\r\nX: 1\n\r\n\r\n",
        b"0\r\nX: 1\r\n Y: 2\r\n\r\n",
        b"0\r\n\nX: 1\r\n\r\n",
        b"0\r\n\n",
        b"0\r\nX: 1\n",
        b"0\r\nX: 1\r\n\n",
        b"0\r\nX: 1\nY: 2\r\n\r\n",
        b"0\r\nX\r\n\r\n",
    ],
)
def test_chunked_reader_refuses_what_is_outside_the_grammar(data: bytes) -> None:
    """Each of these is read differently by some server: RFC 9112 section 7.1, to the letter."""
    refused(data)


@pytest.mark.parametrize("name", sorted(FORBIDDEN_IN_TRAILERS))
def test_chunked_reader_refuses_trailers_that_frame_route_or_authenticate(name: bytes) -> None:
    """RFC 9110 section 6.5.1, whatever the case of the name."""
    refused(b"0\r\nX-Ok: 1\r\n" + name.title() + b": 1\r\n\r\n")


def test_chunk_line_is_limited() -> None:
    """A line of the limit passes; one byte more is refused, dribbled or not."""
    fill = MAX_CHUNK_LINE - len(b"1;\r\n")
    assert read(b"1;" + b"x" * fill + b"\r\na\r\n0\r\n\r\n") == (b"a", b"")
    assert read(b"1;" + b"x" * fill + b"\r\na\r\n0\r\n\r\n", list(range(400))) == (b"a", b"")
    refused(b"1;" + b"x" * (fill + 1) + b"\r\na\r\n0\r\n\r\n")
    refused(b"1;" + b"x" * 10_000)


def test_chunk_extensions_are_limited_in_sum() -> None:
    """Extensions of one message in all: at the limit, and one byte more."""
    extension = b";" + b"x" * 127
    line = b"1" + extension + b"\r\na\r\n"
    count = MAX_EXTENSIONS // len(extension)
    assert count * len(extension) == MAX_EXTENSIONS
    assert read(line * count + b"0\r\n\r\n") == (b"a" * count, b"")
    refused(line * count + b"1;\r\na\r\n0\r\n\r\n")


@pytest.mark.parametrize("cuts", [None, list(range(200))])
def test_trailers_are_limited_in_size(cuts: list[int] | None) -> None:
    """At the limit they pass, whole and byte by byte; one byte more is 431."""
    line = b"X: " + b"a" * 97
    assert read(b"0\r\n" + line + b"\r\n\r\n", cuts, ChunkedReader(max_trailers=100)) == (b"", b"")
    refused(b"0\r\n" + line + b"a\r\n\r\n", 431, max_trailers=100)
    refused(b"0\r\n" + b"a" * 10_000, 431, max_trailers=100)


def test_trailers_are_limited_in_lines() -> None:
    """As many as allowed pass, one more is 431."""
    assert read(b"0\r\n" + b"X: 1\r\n" * 3 + b"\r\n", None, ChunkedReader(max_fields=3)) == (b"", b"")
    refused(b"0\r\n" + b"X: 1\r\n" * 4 + b"\r\n", 431, max_fields=3)


def test_chunked_reader_takes_the_largest_size_that_it_can_count() -> None:
    """Fifteen digits stay below 2**63; nothing is set aside for what was only announced."""
    reader = ChunkedReader()
    assert reader.feed(b"f" * 15 + b"\r\nabc") == (b"abc", False, b"")


PARTS = [b"0", b"1", b"3", b"a", b"\r\n", b"\n", b"\r", b";", b"x", b"abc", b"X: 1", b":", b" ", b"\x00", b"f" * 15]


@given(
    data=st.binary(max_size=60) | st.lists(st.sampled_from(PARTS), max_size=30).map(b"".join),
    cuts=st.lists(st.integers(0, 100), max_size=6),
)
def test_chunked_reader_reads_or_blames_the_peer_the_same_in_any_pieces(data: bytes, cuts: list[int]) -> None:
    """Any bytes: content or `RemoteProtocolError`; the verdict does not depend on where TCP cuts."""

    def verdict(where: list[int]) -> object:
        reader = ChunkedReader()
        try:
            content, surplus = read(data, where, reader)
        except RemoteProtocolError as error:
            return error.status
        except AssertionError:
            return None
        return content, surplus, reader.trailers

    whole = verdict([])
    assert verdict(cuts) == whole
    assert verdict(list(range(100))) == whole


@given(data=st.binary(min_size=1, max_size=30), size=st.integers(1, 40), cuts=st.lists(st.integers(0, 40), max_size=5))
def test_length_reader_takes_exactly_its_length(data: bytes, size: int, cuts: list[int]) -> None:
    """Content, then the end, then surplus; never a byte more or less."""
    reader = LengthReader(size)
    if len(data) < size:
        assert reader.feed(data) == (data, False, b"")
        assert reader.left == size - len(data)
        return
    assert read(data, cuts, reader) == (data[:size], data[size:])
    assert reader.left == 0
    assert reader.trailers == []


def test_close_reader_takes_everything_and_never_ends() -> None:
    """Only the connection ends it."""
    reader = CloseReader()
    assert reader.feed(b"abc") == (b"abc", False, b"")
    assert reader.trailers == []
