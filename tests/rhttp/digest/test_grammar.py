"""The grammar of authentication parameters: what passes, what does not, and that nothing raises."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rhttp.digest.grammar import MAX_PARAMS, is_token, parse_params, quote, split_list

VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), max_size=40).map(str.encode)
TOKEN = st.text("abcXYZ019-._~!*", min_size=1, max_size=12).map(str.encode)
WHITE = st.sampled_from([b"", b" ", b"\t", b"  ", b" \t "])


@pytest.mark.parametrize(
    ("text", "params"),
    [
        pytest.param(b"", {}, id="nothing"),
        pytest.param(b' realm="r"', {b"realm": b"r"}, id="quoted"),
        pytest.param(b" nc=00000001", {b"nc": b"00000001"}, id="token"),
        pytest.param(b'realm="r",nc=1,uri="/"', {b"realm": b"r", b"nc": b"1", b"uri": b"/"}, id="no_spaces"),
        pytest.param(b'\trealm = "r" ,\tnc\t=\t1 ', {b"realm": b"r", b"nc": b"1"}, id="bad_white_space_is_taken"),
        pytest.param(b' ,, realm="r", , ,nc=1,', {b"realm": b"r", b"nc": b"1"}, id="empty_elements"),
        pytest.param(b'REALM="r", Nc=1', {b"realm": b"r", b"nc": b"1"}, id="names_ignore_case"),
        pytest.param(b'realm="a,b=c, d"', {b"realm": b"a,b=c, d"}, id="comma_in_quotes"),
        pytest.param(rb'realm="a\"b\\c\d"', {b"realm": rb'a"b\cd'}, id="quoted_pairs"),
        pytest.param(rb'realm="\\", nc=1', {b"realm": b"\\", b"nc": b"1"}, id="escaped_backslash_at_the_end"),
        pytest.param(rb'realm="\\\\\""', {b"realm": rb"\\" + b'"'}, id="runs_of_backslashes"),
        pytest.param(b'realm="", x=1', {b"realm": b"", b"x": b"1"}, id="empty_quoted_string"),
        pytest.param(b'x-unknown="1", y.2=z', {b"x-unknown": b"1", b"y.2": b"z"}, id="unknown_names"),
        pytest.param(b"algorithm=SHA-512-256", {b"algorithm": b"SHA-512-256"}, id="token_with_hyphens"),
    ],
)
def test_parse_params_wellformed_gives_the_values(text: bytes, params: dict[bytes, bytes]) -> None:
    """Everything that RFC 9110 §11.2 allows is read, with quoted strings unescaped."""
    assert parse_params(text) == params


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(b'realm="r', id="unterminated"),
        pytest.param(b'realm="r\\"', id="escaped_end"),
        pytest.param(b'realm="r" nc=1', id="no_comma"),
        pytest.param(b'realm="r"x, nc=1', id="text_behind_a_quoted_string"),
        pytest.param(b'realm="r""s"', id="two_quoted_strings"),
        pytest.param(b'realm="r" uri="/"', id="no_comma_between_quoted_strings"),
        pytest.param(b"realm", id="no_value"),
        pytest.param(b"nc=", id="empty_token"),
        pytest.param(b"=1", id="no_name"),
        pytest.param(b'="1"', id="no_name_quoted"),
        pytest.param(b'a b="1"', id="two_names"),
        pytest.param(b"nc=1 2", id="white_space_in_a_token"),
        pytest.param(b"nc=a/b", id="no_token_character"),
        pytest.param(b"nc=1=2", id="two_equals"),
        pytest.param(b'nc=1"2"', id="token_then_quotes"),
        pytest.param(b'"realm"="r"', id="quoted_name"),
        pytest.param(b'realm="r", realm="r"', id="twice_quoted"),
        pytest.param(b"nc=1, NC=1", id="twice_token"),
        pytest.param(b'nc=1, nc="1"', id="twice_mixed"),
        pytest.param(b'x="1", y=2, x=1', id="twice_unknown"),
        pytest.param(b'realm="a\tb"', id="tab_in_quotes"),
        pytest.param(b'realm="a\x00b"', id="nul"),
        pytest.param(b'realm="a\x7fb"', id="delete"),
        pytest.param(b'realm="a\\\x01b"', id="escaped_control"),
        pytest.param('realm="ä"'.encode(), id="outside_ascii"),
        pytest.param(b'realm="r"\r\nX: y', id="line_end"),
        pytest.param(b"realm=\\r", id="backslash_outside_quotes"),
    ],
)
def test_parse_params_malformed_gives_none(text: bytes) -> None:
    """What the grammar, or our narrower reading of it, does not allow is refused whole."""
    assert parse_params(text) is None


@pytest.mark.parametrize("form", [b'p%d="v"', b"p%d=v"])
def test_parse_params_count_is_bounded_at_the_limit(form: bytes) -> None:
    """Exactly the documented number of parameters is taken, one more is not."""
    fits = b", ".join(form % index for index in range(MAX_PARAMS))
    assert len(parse_params(fits) or {}) == MAX_PARAMS
    assert parse_params(fits + b", " + form % MAX_PARAMS) is None


@settings(deadline=None)
@given(
    st.lists(st.tuples(TOKEN, VISIBLE, st.booleans()), max_size=10, unique_by=lambda item: item[0].lower()), st.data()
)
def test_parse_params_reads_back_what_was_written(items: list[tuple[bytes, bytes, bool]], data: st.DataObject) -> None:
    """Whatever is quoted or written as a token comes back, however the white space lies."""
    parts = []
    for name, value, quoted in items:
        written = quote(value) if quoted or not is_token(value) else value
        white = [data.draw(WHITE) for _ in range(4)]
        parts.append(white[0] + name + white[1] + b"=" + white[2] + written + white[3])
    assert parse_params(b",".join(parts)) == {name.lower(): value for name, value, _ in items}


@settings(deadline=None)
@given(st.binary(max_size=200) | st.text('=,\\" \tab-nc/', max_size=60).map(str.encode))
def test_parse_params_any_bytes_never_raise(text: bytes) -> None:
    """Any bytes give parameters with sound names, or None."""
    params = parse_params(text)
    assert params is None or all(is_token(name) and name == name.lower() for name in params)


@settings(deadline=None)
@given(st.text('=,\\" \tab', max_size=60).map(str.encode))
def test_parse_params_agrees_with_a_scanner_by_character(text: bytes) -> None:
    """The quick tokenizer and a plain state machine over single characters accept the same and read the same."""
    assert parse_params(text) == _slow_params(text)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.sampled_from(
            [
                b", algorithm=SHA-256",
                b", qop=auth",
                b", nc=00000001",
                b", nc=0000001",
                b", nc=0000000001",
                b", NC=00000002",
                b', cnonce="c"',
                b', response="r"',
                b', nc="1"',
                b', qop="auth"',
                b", cnonce=",
                b'"x"',
                b"\t",
                b",",
                b" ",
            ]
        ),
        max_size=8,
    ).map(b"".join)
)
def test_parse_params_usual_forms_agree_with_the_scanner(text: bytes) -> None:
    """The short cut for what real clients write takes and refuses the same, parameters twice included."""
    assert parse_params(text) == _slow_params(text)


def _slow_params(text: bytes) -> dict[bytes, bytes] | None:
    params: dict[bytes, bytes] = {}
    at = 0

    def white() -> None:
        nonlocal at
        while at < len(text) and text[at] in b" \t":
            at += 1

    def token() -> bytes:
        nonlocal at
        start = at
        while at < len(text) and is_token(text[at : at + 1]):
            at += 1
        return text[start:at]

    while True:
        white()
        if at < len(text) and text[at] != 0x2C:
            name = token().lower()
            white()
            if not name or name in params or text[at : at + 1] != b"=":
                return None
            at += 1
            white()
            if text[at : at + 1] == b'"':
                at += 1
                value = bytearray()
                while at < len(text) and text[at] != 0x22:
                    at += text[at] == 0x5C
                    if at >= len(text) or text[at] == 0x09:
                        return None
                    value.append(text[at])
                    at += 1
                if at >= len(text):
                    return None
                at += 1
                params[name] = bytes(value)
            else:
                params[name] = token()
                if not params[name]:
                    return None
            white()
        if at >= len(text):
            return params
        if text[at] != 0x2C:
            return None
        at += 1


@pytest.mark.parametrize(
    ("text", "elements"),
    [
        (b"", []),
        (b" a , b,,c ", [b"a", b"b", b"c"]),
        (b'Digest realm="a,b", nonce="c", Basic', [b'Digest realm="a,b"', b'nonce="c"', b"Basic"]),
        (rb'x="\",", y', [rb'x="\","', b"y"]),
        (b'x="a', None),
    ],
)
def test_split_list_respects_quotes(text: bytes, elements: list[bytes] | None) -> None:
    """Only commas outside quoted strings part elements; a quoted string without end is no list."""
    assert split_list(text) == elements
