"""The short cut for alike Authorization values: it answers what the parser answers, always."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.slots import attributes

from rhttp.digest import Algorithm, DigestCredentials, ha1, parse_authorization, response, response_of
from rhttp.recent import RecentAuthorization

VALUE = (
    b'Digest username="alice", realm="r", nonce="n0nce", uri="/a", algorithm=SHA-256, response="%b", '
    b'qop=auth, nc=%b, cnonce="c"'
)
OTHER_ORDER = b'Digest nc=%b, username="alice", realm="r", nonce="n", uri="/a", response="%b", qop=auth, cnonce="c"'
HEX64 = b"0123456789abcdef" * 4


def facts(found: object) -> object:
    if isinstance(found, DigestCredentials):
        return {name: getattr(found, name) for name in attributes(DigestCredentials)}
    return found


def test_recent_reads_counters_and_responses_of_one_connection() -> None:
    """Value after value is read as the parser reads it."""
    recent = RecentAuthorization()
    for number in range(1, 300):
        value = VALUE % (b"%064x" % (number * 7919), b"%08x" % number)
        found = recent.parse(value)
        assert isinstance(found, DigestCredentials)
        assert (found.nc, found.response) == (number, b"%064x" % (number * 7919))
        assert facts(found) == facts(parse_authorization(value))


pieces = st.sampled_from(
    [
        VALUE % (HEX64, b"00000001"),
        VALUE % (HEX64[::-1], b"00000002"),
        VALUE % (HEX64, b"00000000"),
        VALUE % (HEX64, b"zzzzzzzz"),
        VALUE % (HEX64[:-1] + b'"', b"00000001"),
        VALUE % (HEX64[:-1] + b"\\", b"00000001"),
        VALUE % (HEX64[:-1] + b",", b"00000001"),
        OTHER_ORDER % (b"00000003", HEX64),
        OTHER_ORDER % (b"00000004", HEX64[::-1]),
        (VALUE % (HEX64, b"00000001")).replace(b"alice", HEX64),
        (VALUE % (HEX64, b"00000001")).replace(b"alice", b"nc=00000001"),
        (VALUE % (HEX64, b"00000001")).replace(b"nc=00000001", b'nc="00000001"'),
        (VALUE % (HEX64, b"00000001")).replace(b"cnonce", b"nc"),
        (VALUE % (HEX64, b"00000001")).replace(b"nc=00000001", b'nc="00000001", xnc=00000001'),
        (VALUE % (HEX64, b"00000001")).replace(b"nc=00000001", b'nc="00000001", xnc=00000002'),
        (VALUE % (HEX64, b"00000001")).replace(b"nc=00000001", b'nc="00000001", x=" nc=00000001,"'),
        (VALUE % (HEX64, b"00000001")).replace(b"nc=00000001", b'nc="00000001", x=" nc=00000002,"'),
        (VALUE % (b"a" * 63 + b"1", b"00000001")).replace(b'uri="/a"', b'uri="' + b"a" * 63 + b'1"'),
        b"Basic QWxhZGRpbjpvcGVu",
        b"",
    ]
)


@given(
    values=st.lists(
        st.tuples(
            pieces, st.integers(0, 240), st.sampled_from([b"", b"0", b'"', b",", b"=", b" ", b"a"]), st.booleans()
        ),
        min_size=1,
        max_size=12,
    )
)
def test_recent_answers_what_the_parser_answers_whatever_came_before(
    values: list[tuple[bytes, int, bytes, bool]],
) -> None:
    """Any sequence of values, changed at any place, is read as if each came alone."""
    recent = RecentAuthorization()
    for base, at, insert, replace in values:
        value = base[:at] + insert + base[at + (len(insert) if replace else 0) :]
        assert facts(recent.parse(value)) == facts(parse_authorization(value))


def test_recent_ha2_is_that_of_the_formula() -> None:
    """A remembered H(A2) is for the same algorithm, method and uri."""
    recent = RecentAuthorization()
    secret = ha1("u", "r", "p", Algorithm.SHA_256).encode()
    for method, uri in [(b"GET", b"/a"), (b"GET", b"/a"), (b"PUT", b"/a"), (b"GET", b"/b")]:
        ha2 = recent.ha2(Algorithm.SHA_256, method, uri)
        assert response_of(Algorithm.SHA_256, secret, b"n", b"00000001", b"c", ha2) == response(
            Algorithm.SHA_256, ha1=secret, nonce=b"n", nc=b"00000001", cnonce=b"c", method=method, uri=uri
        )
