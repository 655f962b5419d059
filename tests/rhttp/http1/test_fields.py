"""Field lines of trailers: their grammar, their limit, what they cost; and the lists that fields hold."""

from __future__ import annotations

import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rhttp.errors import RemoteProtocolError
from rhttp.http1.fields import FORBIDDEN_IN_TRAILERS, HOP_BY_HOP, TOKEN, parse_field_block, serialize, tokens, values

TCHAR = b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz"
NAMES = st.lists(st.sampled_from(list(TCHAR)), min_size=1, max_size=12).map(bytes)
VALUE_BYTES = bytes([9, *range(0x20, 0x7F), *range(0x80, 0x100)])
VALUES = st.lists(st.sampled_from(list(VALUE_BYTES)), max_size=20).map(lambda found: bytes(found).strip(b" \t"))


@given(fields=st.lists(st.tuples(NAMES, VALUES), max_size=8))
def test_field_block_reads_back_what_was_serialized(fields: list[tuple[bytes, bytes]]) -> None:
    """What we write is what a strict reader finds."""
    assert parse_field_block(serialize(fields), maximum=8) == fields


def test_field_block_lowers_names_and_trims_values() -> None:
    """Names are compared without case; white space around a value is no part of it."""
    assert parse_field_block(b"X-Sum:\t a b \t\r\nY:\r\n", maximum=2) == [(b"x-sum", b"a b"), (b"y", b"")]


@pytest.mark.parametrize(
    "block",
    [
        b"X : a\r\n",
        b" X: a\r\n",
        b"X: a\n",
        b"X: a\r",
        b"X: a\rb\r\n",
        b"X: a\r\n b\r\n",
        b"X: a\r\n\tb\r\n",
        b"X: a\x00b\r\n",
        b"X: a\x7fb\r\n",
        b"X: a\x0bb\r\n",
        b": a\r\n",
        b"X\r\n",
        b"X\xe9: a\r\n",
        b"X(y): a\r\n",
        b"\r\n",
        b"X: a\r\n\r\nY: b\r\n",
        b"X: a",
    ],
)
def test_field_block_outside_the_grammar_is_refused(block: bytes) -> None:
    """RFC 9112 section 5: no space before the colon, no folding, no bare CR or LF, no control bytes."""
    with pytest.raises(RemoteProtocolError) as caught:
        parse_field_block(block, maximum=9)
    assert (caught.value.status, caught.value.code) == (400, "bad-request")


def test_field_block_is_limited_in_lines() -> None:
    """As many lines as allowed pass, one more does not."""
    assert len(parse_field_block(b"X: a\r\n" * 5, maximum=5)) == 5
    with pytest.raises(RemoteProtocolError) as caught:
        parse_field_block(b"X: a\r\n" * 6, maximum=5)
    assert caught.value.status == 431


@pytest.mark.parametrize("filler", [b" ", b"\t", b" a", b"a"])
def test_field_block_costs_no_more_than_its_length(filler: bytes) -> None:
    """A long line that ends in a bad byte is refused at once: no backtracking over it."""
    block = b"X:" + filler * 100_000 + b"\x00\r\n"
    began = time.process_time()
    with pytest.raises(RemoteProtocolError):
        parse_field_block(block, maximum=9)
    assert time.process_time() - began < 1.0  # with backtracking: minutes


@given(block=st.binary(max_size=60) | st.lists(st.sampled_from([b"X", b":", b" ", b"a", b"\r\n", b"\n"])).map(b"".join))
@example(block=b"X: a\r\n\r\n")
def test_field_block_parses_or_blames_the_peer(block: bytes) -> None:
    """Whatever the bytes: fields, or the one error that says whose fault it is."""
    try:
        fields = parse_field_block(block, maximum=100)
    except RemoteProtocolError:
        return
    for name, value in fields:
        assert TOKEN.fullmatch(name)
        assert name == name.lower()
        assert value == value.strip(b" \t")
        assert not set(value) - set(VALUE_BYTES)


def test_tokens_are_lower_case_members_without_empty_ones() -> None:
    """RFC 9110 section 5.6.1: empty members are to be ignored."""
    assert tokens(b" Upgrade,\t, HTTP2-Settings ,") == (b"upgrade", b"http2-settings")
    assert tokens(b"") == ()


def test_values_keep_their_order() -> None:
    """All lines of a field, none of another."""
    assert values([(b"a", b"1"), (b"b", b"2"), (b"a", b"3")], b"a") == [b"1", b"3"]


def test_fields_that_frame_or_authenticate_may_not_stand_in_trailers() -> None:
    """RFC 9110 section 6.5.1; every hop-by-hop field is among them."""
    assert HOP_BY_HOP < FORBIDDEN_IN_TRAILERS
    assert {b"content-length", b"host", b"authorization", b"transfer-encoding"} <= FORBIDDEN_IN_TRAILERS
