"""Request targets: what is refused, what the normal form is, and that normalising twice changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rhttp.http1.target import (
    BadTarget,
    Target,
    TargetFault,
    is_same_authority,
    parse_target,
    readings,
    split_authority,
)

F = TargetFault


def accepted(target: bytes, *, method: bytes = b"GET", **allowances: bool) -> Target:
    answer = parse_target(target, method=method, **allowances)
    assert isinstance(answer, Target), answer
    return answer


def refused(target: bytes, *, method: bytes = b"GET", **allowances: bool) -> BadTarget:
    answer = parse_target(target, method=method, **allowances)
    assert isinstance(answer, BadTarget), answer
    return answer


@pytest.mark.parametrize(
    ("raw", "path", "query"),
    [
        (b"/", b"/", None),
        (b"/jobs/42", b"/jobs/42", None),
        (b"/jobs/", b"/jobs/", None),
        (b"/jobs?", b"/jobs", b""),
        (b"/?a=b", b"/", b"a=b"),
        (b"/a?b?c", b"/a", b"b?c"),
        (b"/a-._~!$&'()*+,;=:@b", b"/a-._~!$&'()*+,;=:@b", None),
        (b"/%41%7a%30%2D%2e%5f%7E", b"/Az0-._~", None),
        (b"/%e2%82%ac", b"/%E2%82%AC", None),
        (b"/a%20b%25", b"/a%20b%25", None),
        (b"/%252F%252e%252e", b"/%252F%252e%252e", None),
        (b"/%25%32%46", b"/%252F", None),
        (b"/.well-known/est", b"/.well-known/est", None),
        (b"/a..b/...", b"/a..b/...", None),
        (b"/..a/b;..", b"/..a/b;..", None),
        (b"/a[0]|b", b"/a%5B0%5D%7Cb", None),
        (b"/s?a[]=1&b={x|y}^`", b"/s", b"a[]=1&b={x|y}^`"),
        (b"/s?u=http%3a%2f%2fh/..//../%5c%00%2e", b"/s", b"u=http%3a%2f%2fh/..//../%5c%00%2e"),
        (b"/s?%41=%7e", b"/s", b"%41=%7e"),
    ],
)
def test_target_in_origin_form_gets_its_normal_form(raw: bytes, path: bytes, query: bytes | None) -> None:
    """In the path unreserved characters are decoded and hex is upper-cased; the query passes byte for byte."""
    target = accepted(raw)
    assert (target.raw, target.path, target.query) == (raw, path, query)
    assert target.authority is None
    assert not target.asterisk
    assert target.normal == (path if query is None else path + b"?" + query)


@pytest.mark.parametrize(
    ("raw", "fault"),
    [
        (b"", F.FORM),
        (b"jobs", F.FORM),
        (b"?a", F.FORM),
        (b"*", F.FORM),
        (b"**", F.FORM),
        (b"*/", F.FORM),
        (b"host:443", F.FORM),
        (b"ftp://host/", F.FORM),
        (b"ws://host/", F.FORM),
        (b"http:/host", F.FORM),
        (b"http:host", F.FORM),
        (b" /a", F.FORM),
        (b"http://", F.AUTHORITY),
        (b"http:///a", F.AUTHORITY),
        (b"http://u@h/", F.AUTHORITY),
        (b"http://u:p@h/", F.AUTHORITY),
        (b"http://h:0/", F.AUTHORITY),
        (b"http://h:65536/", F.AUTHORITY),
        (b"http://h:1:2/", F.AUTHORITY),
        (b"http://h%41/", F.AUTHORITY),
        (b"http://[::1/", F.AUTHORITY),
        (b"http://[1:2]/", F.AUTHORITY),
        (b"http://[v1.a]/", F.AUTHORITY),
        (b"http://h\\x/", F.AUTHORITY),
        (b"http://h#x", F.AUTHORITY),
        (b"/a b", F.CHARACTER),
        (b"/a\tb", F.CHARACTER),
        (b"/a\r\nb", F.CHARACTER),
        (b"/a\n", F.CHARACTER),
        (b"/a\x00", F.CHARACTER),
        (b"/a\x1f", F.CHARACTER),
        (b"/a\x7f", F.CHARACTER),
        (b"/caf\xc3\xa9", F.CHARACTER),
        (b"/a\\b", F.CHARACTER),
        (b"/a#b", F.CHARACTER),
        (b'/a"b', F.CHARACTER),
        (b"/a<b>", F.CHARACTER),
        (b"/a{b}", F.CHARACTER),
        (b"/a^b", F.CHARACTER),
        (b"/a`b", F.CHARACTER),
        (b"/a?b#c", F.CHARACTER),
        (b"/a?b\\c", F.CHARACTER),
        (b"/a?b c", F.CHARACTER),
        (b"/a?\x00", F.CHARACTER),
        (b"/a?\x80", F.CHARACTER),
        (b"/a%", F.PERCENT_ENCODING),
        (b"/a%4", F.PERCENT_ENCODING),
        (b"/a%4g", F.PERCENT_ENCODING),
        (b"/%%41", F.PERCENT_ENCODING),
        (b"/%4%411", F.PERCENT_ENCODING),
        (b"/%u0041", F.PERCENT_ENCODING),
        (b"/a?%", F.PERCENT_ENCODING),
        (b"/a?%zz", F.PERCENT_ENCODING),
        (b"/a%00", F.ENCODED_CHARACTER),
        (b"/a%5cb", F.ENCODED_CHARACTER),
        (b"/a%5Cb", F.ENCODED_CHARACTER),
        (b"/%5c..%5c", F.ENCODED_CHARACTER),
        (b"/.", F.DOT_SEGMENT),
        (b"/..", F.DOT_SEGMENT),
        (b"/./a", F.DOT_SEGMENT),
        (b"/a/../b", F.DOT_SEGMENT),
        (b"/a/..", F.DOT_SEGMENT),
        (b"/a/.", F.DOT_SEGMENT),
        (b"/a/../", F.DOT_SEGMENT),
        (b"/%2e", F.DOT_SEGMENT),
        (b"/%2E%2e/b", F.DOT_SEGMENT),
        (b"/.%2e/b", F.DOT_SEGMENT),
        (b"/%2e./b", F.DOT_SEGMENT),
        (b"/a/..;x=1/b", F.DOT_SEGMENT),
        (b"/a/%2e%2e%3bx/b", F.DOT_SEGMENT),
        (b"/a/.;/b", F.DOT_SEGMENT),
        (b"/a/..?q", F.DOT_SEGMENT),
        (b"http://h/../x", F.DOT_SEGMENT),
        (b"//", F.EMPTY_SEGMENT),
        (b"//a", F.EMPTY_SEGMENT),
        (b"/a//b", F.EMPTY_SEGMENT),
        (b"/a//", F.EMPTY_SEGMENT),
        (b"//?q", F.EMPTY_SEGMENT),
        (b"http://h//", F.EMPTY_SEGMENT),
        (b"/a%2fb", F.ENCODED_SLASH),
        (b"/a%2Fb", F.ENCODED_SLASH),
        (b"/%2F", F.ENCODED_SLASH),
        (b"/%2f%2f", F.ENCODED_SLASH),
        # What no route may allow is told first.
        (b"/a%2f..%2fb", F.DOT_SEGMENT),
        (b"//../%2f", F.DOT_SEGMENT),
        (b"//%00", F.ENCODED_CHARACTER),
    ],
)
def test_target_that_can_be_misread_is_refused(raw: bytes, fault: TargetFault) -> None:
    """Every shape that two receivers could read differently is refused, with its fault named."""
    assert refused(raw).fault is fault


@pytest.mark.parametrize(
    ("raw", "path", "query", "authority"),
    [
        (b"http://h/a", b"/a", None, b"h"),
        (b"HTTPS://Host.Example:8443/%41?q", b"/A", b"q", b"Host.Example:8443"),
        (b"http://h", b"/", None, b"h"),
        (b"http://h?q", b"/", b"q", b"h"),
        (b"http://h:/?%7e", b"/", b"%7e", b"h:"),
        (b"https://[::1]:8443/", b"/", None, b"[::1]:8443"),
        (b"http://127.0.0.1:80", b"/", None, b"127.0.0.1:80"),
    ],
)
def test_target_in_absolute_form_yields_path_and_authority(
    raw: bytes, path: bytes, query: bytes | None, authority: bytes
) -> None:
    """Absolute-form is accepted for http and https; an empty path is the root (RFC 9110 section 4.2.3)."""
    assert accepted(raw) == Target(raw, path, query, authority)


def test_target_asterisk_is_accepted_for_options_only() -> None:
    """RFC 9112 section 3.2.4: the asterisk belongs to OPTIONS, whatever the spelling of other methods."""
    assert accepted(b"*", method=b"OPTIONS").asterisk
    for method in (b"GET", b"options", b"CONNECT", b""):
        assert refused(b"*", method=method).fault is F.FORM


def test_target_of_connect_is_refused_in_authority_form() -> None:
    """CONNECT is not served, so its form of target is not known."""
    assert refused(b"h.example:443", method=b"CONNECT").fault is F.FORM


@pytest.mark.parametrize("octet", range(256))
def test_target_with_any_octet_is_refused_or_normal_in_rfc3986(octet: int) -> None:
    """Over all 256 octets: refused, or the path has RFC 3986 characters only and the query is as it came."""
    allowed = set(b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~!$&'()*+,;=:@/?%")
    for raw in (b"/a" + bytes((octet,)) + b"b", b"/a?" + bytes((octet,))):
        answer = parse_target(raw, method=b"GET")
        if isinstance(answer, Target):
            assert set(answer.path) <= allowed
            assert answer.query in (None, bytes((octet,)), b"b")
            assert octet in allowed or octet in b"[]|{}^`"
        else:
            assert octet not in allowed or octet == ord("%")


@pytest.mark.parametrize("octet", range(256))
def test_target_with_any_encoded_octet_is_decoded_only_when_unreserved(octet: int) -> None:
    """Over all 256 percent-encodings in both cases of hex: one normal form each, and the fault list is exact."""
    answers = {parse_target(form % octet, method=b"GET") for form in (b"/a%%%02xb", b"/a%%%02Xb")}
    character = bytes((octet,))
    if octet < 0x20 or octet in (0x2F, 0x5C, 0x7F):
        assert all(isinstance(answer, BadTarget) for answer in answers)
        return
    expected = character if (character.isalnum() and octet < 128) or character in b"-._~" else b"%%%02X" % octet
    assert {answer.path for answer in answers if isinstance(answer, Target)} == {b"/a" + expected + b"b"}


@pytest.mark.parametrize(
    ("raw", "prefix"),
    [
        (b"//a", b"/"),
        (b"/x//a", b"/x/"),
        (b"/x/a//b%2Fc", b"/x/a/"),
        (b"/x/a%2Fb//c", b"/x/"),
        (b"/%78/a%2fb", b"/x/"),
        (b"/a%2Fb", b"/"),
        (b"/x/a?b%2Fc//", None),
        (b"/x//..", None),
        (b"/x%2F%2e", None),
        (b"/x//%zz", None),
    ],
)
def test_target_that_an_allowance_could_help_names_the_literal_prefix(raw: bytes, prefix: bytes | None) -> None:
    """The prefix ends before the first doubtful segment; with any other fault there is none to ask by."""
    answer = parse_target(raw, method=b"GET")
    assert (answer.literal_prefix if isinstance(answer, BadTarget) else None) == prefix


def test_target_allowances_permit_what_they_name_and_no_more() -> None:
    """Each allowance covers its own fault; dot segments stay refused behind encoded slashes."""
    assert accepted(b"/x//a/", allow_empty_segments=True).path == b"/x//a/"
    assert accepted(b"/x/a%2fb", allow_encoded_slash=True).path == b"/x/a%2Fb"
    assert accepted(b"/x/a%2f", allow_encoded_slash=True).path == b"/x/a%2F"
    assert refused(b"/x/a%2fb", allow_empty_segments=True).fault is F.ENCODED_SLASH
    assert refused(b"/x//a", allow_encoded_slash=True).fault is F.EMPTY_SEGMENT
    assert refused(b"/x/%2fa", allow_encoded_slash=True).fault is F.EMPTY_SEGMENT
    assert refused(b"/x/a%2f/b", allow_encoded_slash=True).fault is F.EMPTY_SEGMENT
    both: Any = {"allow_empty_segments": True, "allow_encoded_slash": True}
    assert accepted(b"/x/%2f/a", **both).path == b"/x/%2F/a"
    for dots in (b"/x/..%2fa", b"/x/a%2f..", b"/x/a%2f%2e%2e%2fb", b"/x//..//a", b"/x/a%2f..;v%2fb"):
        assert refused(dots, **both).fault is F.DOT_SEGMENT
    for hard in (b"/x//%5c", b"/x%2f%00", b"/x//\\"):
        assert refused(hard, **both).literal_prefix is None


PIECES = st.sampled_from(
    rb"/ // . .. %2e %2E %2f %2F %5c %00 %25 % %3b ; ? a B ~ [ | ^ # \ %7e %c3%A9 - x : @ 2e 5C".split()
)
TARGETS = st.one_of(
    st.lists(PIECES, max_size=12).map(lambda pieces: b"/" + b"".join(pieces)),
    st.lists(PIECES, max_size=12).map(b"".join),
    st.binary(max_size=40),
)


@given(TARGETS, st.booleans(), st.booleans())
@example(b"/%25%32%46", False, False)
def test_target_normal_form_is_stable_and_free_of_traps(raw: bytes, empty: bool, slash: bool) -> None:
    """Whatever came in, the normal form parses to itself and has none of the refused shapes."""
    allowances: Any = {"allow_empty_segments": empty, "allow_encoded_slash": slash}
    answer = parse_target(raw, method=b"GET", **allowances)
    if isinstance(answer, BadTarget):
        return
    again = accepted(answer.normal, **allowances)
    assert (again.path, again.query) == (answer.path, answer.query)
    assert answer.path.startswith(b"/")
    for reading in readings(answer.path):
        assert not {b".", b".."} & {part.partition(b";")[0] for part in reading.split(b"/")}
    assert empty or b"//" not in answer.path
    assert slash or b"%2F" not in answer.path
    assert not any(trap in answer.path for trap in (b"\\", b"%5C", b"%00", b"#", b"%2f"))


@given(TARGETS)
def test_target_strict_answer_is_the_permissive_one_or_a_refusal(raw: bytes) -> None:
    """An allowance never changes the reading of a target that needs none, and always helps where a prefix is named."""
    strict = parse_target(raw, method=b"GET")
    lax = parse_target(raw, method=b"GET", allow_empty_segments=True, allow_encoded_slash=True)
    if isinstance(strict, Target):
        assert lax == strict
        assert readings(strict.path) == (strict.path,)
    elif strict.literal_prefix is None:
        assert lax == strict
    else:
        assert isinstance(lax, Target)
        assert lax.path.startswith(strict.literal_prefix)
        assert len(readings(lax.path)) > 1


def test_readings_of_a_permissive_path_are_all_that_receivers_make_of_it() -> None:
    """Slashes merged or not, encoded slashes decoded or not; both undone comes last."""
    assert readings(b"/a/b") == (b"/a/b",)
    assert readings(b"/a//b") == (b"/a//b", b"/a/b")
    assert readings(b"/a%2Fb") == (b"/a%2Fb", b"/a/b")
    assert readings(b"/a//b%2F%2Fc") == (b"/a//b%2F%2Fc", b"/a/b%2F%2Fc", b"/a//b//c", b"/a/b/c")


@pytest.mark.parametrize(
    ("authority", "split"),
    [
        (b"Example.COM", (b"example.com", None)),
        (b"h:1", (b"h", 1)),
        (b"h:65535", (b"h", 65535)),
        (b"a_b", (b"a_b", None)),
        (b"[::1]", (b"::1", None)),
        (b"[0:0::1]:80", (b"::1", 80)),
        (b"[::FFFF:1.2.3.4]", (b"::ffff:102:304", None)),
        (b"", None),
        (b":80", None),
        (b"h:", (b"h", None)),
        (b"h:00080", (b"h", 80)),
        (b"h:000080", None),
        (b"h:-1", None),
        (b"::1", None),
        (b"[::1%25eth0]", None),
        (b"[::1]x", None),
        (b"h ", None),
        (b"h,i", None),
        (b"h\n", None),
        (b"-h", None),
        (b"a" * 255, (b"a" * 255, None)),
        (b"a" * 256, None),
    ],
)
def test_authority_is_split_strictly(authority: bytes, split: tuple[bytes, int | None] | None) -> None:
    """Host and port, or nothing: no user information, no empty host, no oversized parts."""
    assert split_authority(authority) == split


@pytest.mark.parametrize(
    ("one", "other", "port", "is_same"),
    [
        (b"h.example", b"H.Example", 443, True),
        (b"h.example", b"h.example.", 443, True),
        (b"h.example", b"h.example:", 443, True),
        (b"h.example:", b"h.example:443", 443, True),
        (b"h.example:443", b"h.example", 443, True),
        (b"h.example:00443", b"h.example", 443, True),
        (b"h.example:80", b"h.example", 80, True),
        (b"h.example:8443", b"H.EXAMPLE.:8443", 443, True),
        (b"[::1]", b"[0:0::1]:443", 443, True),
        (b"h.example:80", b"h.example", 443, False),
        (b"h.example:8443", b"h.example:8444", 443, False),
        (b"h.example", b"h.example..", 443, False),
        (b"h.example", b"g.example", 443, False),
        (b"[::1]", b"127.0.0.1", 443, False),
        (b"h.example", b"u@h.example", 443, False),
        (b"u@h", b"u@h", 443, False),
        (b"", b"", 443, False),
        (b"h", b"%68", 443, False),
    ],
)
def test_authority_in_two_spellings_is_one(one: bytes, other: bytes, port: int, *, is_same: bool) -> None:
    """Case, a final dot, an empty port and the scheme's own port are spelling; everything else is another authority."""
    assert is_same_authority(one, other, default_port=port) is is_same
    assert is_same_authority(other, one, default_port=port) is is_same
