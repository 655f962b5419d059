"""The short cut for alike Authorization values: it answers what the parser answers, always."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from support.slots import attributes

from rhttp.digest.authorization_cache import AuthorizationCache
from rhttp.digest.formula import (
    MAX_AUTHORIZATION,
    Algorithm,
    DigestCredentials,
    Malformed,
    ha1,
    parse_authorization,
    response,
    response_of,
)

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
    recent = AuthorizationCache()
    for number in range(1, 300):
        value = VALUE % (b"%064x" % (number * 7919), b"%08x" % number)
        found = recent.parse(value, b"/a")
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
        (VALUE % (HEX64, b"00000005")).replace(b'"/a"', b'"/b?c=d"'),
        (VALUE % (HEX64, b"00000006")).replace(b'"/a"', b'"*"'),
        (VALUE % (HEX64, b"00000007")).replace(b'"/a"', b'"/nc=00000007"'),
        (VALUE % (HEX64, b"00000008")).replace(b'"/a"', b'"/\\"x"'),
        (VALUE % (HEX64, b"00000009")).replace(b'"/a"', b'"/\xe9"'),
        (VALUE % (HEX64, b"0000000a")).replace(b'"/a"', b'"/ a"'),
        (VALUE % (HEX64, b"0000000b")).replace(b'uri="/a"', b'xuri="/a", uri="/b"'),
        (VALUE % (HEX64, b"0000000c")).replace(b'"alice"', b'"uri=/a"'),
        (VALUE % (b"a" * 63 + b"1", b"00000001")).replace(b'uri="/a"', b'uri="' + b"a" * 63 + b'1"'),
        b"Basic QWxhZGRpbjpvcGVu",
        b"",
    ]
)


targets = st.sampled_from([b"/a", b"/b?c=d", b"*", b"/nc=00000007", b'/\\"x', b"/\xe9", b"/ a", b"", b"/b"])


@given(
    values=st.lists(
        st.tuples(
            pieces,
            st.integers(0, 240),
            st.sampled_from([b"", b"0", b'"', b",", b"=", b" ", b"a"]),
            st.booleans(),
            targets,
        ),
        min_size=1,
        max_size=12,
    )
)
def test_recent_answers_what_the_parser_answers_whatever_came_before(
    values: list[tuple[bytes, int, bytes, bool, bytes]],
) -> None:
    """Any sequence of values, changed at any place, is read as if each came alone."""
    recent = AuthorizationCache()
    for base, at, insert, replace, target in values:
        value = base[:at] + insert + base[at + (len(insert) if replace else 0) :]
        assert facts(recent.parse(value, target)) == facts(parse_authorization(value))


def test_recent_reads_other_targets_of_one_connection_without_the_parser() -> None:
    """Only the first value is parsed, so all give one object: targets, counters and responses may all differ."""
    recent = AuthorizationCache()
    objects = set()
    for number in range(1, 40):
        target = b"/" + b"x" * number + b"?n=%d" % number
        value = (VALUE % (b"%064x" % number, b"%08x" % number)).replace(b'"/a"', b'"%b"' % target)
        found = recent.parse(value, target)
        assert isinstance(found, DigestCredentials)
        assert found.uri == target
        assert facts(found) == facts(parse_authorization(value))
        objects.add(id(found))
    assert len(objects) == 1


def test_recent_value_over_the_limit_is_refused_however_alike() -> None:
    """A target that makes the value too long is refused as it would be alone."""
    recent = AuthorizationCache()
    value = VALUE % (HEX64, b"00000001")
    recent.parse(value, b"/a")
    target = b"/" + b"x" * MAX_AUTHORIZATION
    value = value.replace(b'"/a"', b'"%b"' % target)
    assert isinstance(recent.parse(value, target), Malformed)


def test_recent_ha2_is_that_of_the_formula() -> None:
    """A remembered H(A2) is for the same algorithm, method and uri."""
    recent = AuthorizationCache()
    secret = ha1("u", "r", "p", Algorithm.SHA_256).encode()
    for method, uri in [(b"GET", b"/a"), (b"GET", b"/a"), (b"PUT", b"/a"), (b"GET", b"/b")]:
        ha2 = recent.ha2(Algorithm.SHA_256, method, uri)
        assert response_of(Algorithm.SHA_256, secret, b"n", b"00000001", b"c", ha2) == response(
            Algorithm.SHA_256, ha1=secret, nonce=b"n", nc=b"00000001", cnonce=b"c", method=method, uri=uri
        )
