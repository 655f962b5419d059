"""Remembered heads: they are what the parser says, every time."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from support.slots import attributes

from rhttp.errors import RemoteProtocolError
from rhttp.http1 import head_cache
from rhttp.http1.head import parse_request_head, parse_response_head
from rhttp.http1.head_cache import HeadForm, read_response_head
from rhttp.message import Extent, RequestHead, ResponseHead

PLAIN = [name for name in attributes(RequestHead) if name not in ("fields", "forwarded")]
REQUEST = b"POST /a?b HTTP/1.1\r\nHost: x\r\nX-A: 1\r\nAuthorization: Digest a=b\r\nContent-Length: 3\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Type: a/b\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"


def read_request_head(block: bytes, *, max_fields: int, max_line: int) -> RequestHead:
    """The head alone, without its form."""
    return head_cache.read_request_head(block, max_fields=max_fields, max_line=max_line)[0]


def form_of(block: bytes) -> HeadForm:
    """What a connection remembers of its last head."""
    form = head_cache.read_request_head(block, max_fields=100, max_line=8192)[1]
    assert form is not None
    return form


def facts(read: Callable[[], RequestHead]) -> object:
    """Everything that a head says; its fields without Authorization, whose place is `authorization`."""
    try:
        head = read()
    except RemoteProtocolError as error:
        return error.status
    return {name: getattr(head, name) for name in PLAIN}, head.fields


inserts = st.sampled_from(
    [
        b"",
        b"\r\n",
        b"\n",
        b"\r",
        b"\x00",
        b" ",
        b"\t",
        b"\xff",
        b"Authorization: Digest c=d\r\n",
        b"authorization: Basic e\r\n",
        b"AUTHORIZATION:\tBasic f\r\n",
        b"\r\nAuthorization: x",
        b"Transfer-Encoding: chunked\r\n",
        b"Connection: Upgrade\r\nUpgrade: PTTH/1.0\r\n",
        b"Cookie: a=b\r\n",
        b"Host: y\r\n",
        b"Expect: 100-continue\r\n",
    ]
)


@given(at=st.integers(0, len(REQUEST) - 4), insert=inserts, cut=st.integers(0, 3))
@example(at=0, insert=b"AUTHORIZATION:\tBasic f\r\n", cut=0)  # one space in the first line, so no target
def test_request_head_read_before_or_not_is_what_the_parser_says(at: int, insert: bytes, cut: int) -> None:
    """Any change anywhere: the same head, or the same status."""
    block = REQUEST[:at] + insert + REQUEST[at + cut : -4].rstrip(b"\r\n") + b"\r\n\r\n"
    end = block.find(b"\r\n\r\n") + 4
    block = block[:end]
    expected = facts(lambda: parse_request_head(block))
    for _ in range(2):
        assert facts(lambda: read_request_head(block, max_fields=100, max_line=8192)) == expected


FORMS = [
    REQUEST,
    b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /a HTTP/1.1\r\nauthorization: Digest a=b\r\nHost: x\r\n\r\n",
]


@given(form=st.sampled_from(FORMS), block=st.sampled_from(FORMS), data=st.data(), insert=inserts, cut=st.integers(0, 3))
def test_form_takes_a_head_only_for_what_the_parser_says(
    form: bytes, block: bytes, data: st.DataObject, insert: bytes, cut: int
) -> None:
    """Whatever comes next on a connection: the form of the last head gives the parser's answer, or none.

    It is given more than a head, too: it answers for one that ends where the data does.
    """
    at = data.draw(st.integers(0, len(block)))
    changed = block[:at] + insert + block[at + cut :]
    head = form_of(form).read(changed, max_fields=100, max_line=8192)
    if head is not None:
        assert changed.find(b"\r\n\r\n") + 4 == len(changed)
        assert facts(lambda: head) == facts(lambda: parse_request_head(changed))


def test_form_knows_the_next_head_whatever_its_target_and_credentials() -> None:
    """What differs from one request of a client to the next costs no other form."""
    form = form_of(REQUEST)
    for target, value in ((b"/a?b", b"Digest a=b"), (b"/c/d%20e", b"Digest nc=00000002, x"), (b"/" + b"t" * 999, b"B")):
        block = REQUEST.replace(b"/a?b", target).replace(b"Digest a=b", value)
        head = form.read(block, max_fields=100, max_line=8192)
        assert head is not None
        assert facts(lambda head=head: head) == facts(lambda block=block: parse_request_head(block))  # type: ignore[misc]
        assert form_of(block) is form


@pytest.mark.parametrize("block", FORMS)
def test_form_is_held_to_the_limits_of_the_moment(block: bytes) -> None:
    """They may have become lower by a reload since the form was made: at n it answers, at n - 1 the parser does."""
    form = form_of(block)
    fields, line = block.count(b"\r\n") - 2, block.find(b"\r\n")
    assert form.read(block, max_fields=fields, max_line=line) is not None
    assert form.read(block, max_fields=fields - 1, max_line=line) is None
    assert form.read(block, max_fields=fields, max_line=line - 1) is None


TARGET_BYTES = st.sampled_from(
    [bytes((byte,)) for byte in range(256)] + [b"%2F", b"//", b"/../", b" HTTP/1.1", b"?a=b"]
)


@given(
    method=st.sampled_from([b"GET", b"POST", b"OPTIONS", b"CONNECT", b"PRI", b"BREW", b"get"]),
    target=st.lists(TARGET_BYTES, max_size=6).map(b"".join).flatmap(lambda t: st.sampled_from([t, b"/" + t])),
    version=st.sampled_from([b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 "]),
    lines=st.sampled_from(
        [b"", b"Authorization: Digest a=b\r\n", b"Transfer-Encoding: chunked\r\n", b"Upgrade: h2c\r\n"]
    ),
)
def test_request_head_with_another_target_is_what_the_parser_says(
    method: bytes, target: bytes, version: bytes, lines: bytes
) -> None:
    """Field lines that were read for one target are read for none that the parser would mind."""
    block = b"%b %b %b\r\nHost: x\r\n%b\r\n" % (method, target, version, lines)
    block = block[: block.find(b"\r\n\r\n") + 4]
    expected = facts(lambda: parse_request_head(block))
    usual = block.replace(target, b"/usual", 1) if target else block
    facts(lambda: read_request_head(usual, max_fields=100, max_line=8192))
    for _ in range(2):
        assert facts(lambda: read_request_head(block, max_fields=100, max_line=8192)) == expected


def test_request_line_is_held_to_its_limit_every_time() -> None:
    """At the limit it passes, one byte above it does not, whatever was read before."""
    for size, fits in ((20, True), (21, False), (20, True)):
        block = b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % (b"a" * (size - 14))
        told = facts(lambda block=block: read_request_head(block, max_fields=100, max_line=20))  # type: ignore[misc]
        assert (told != 414) is fits
        assert told == facts(lambda block=block: parse_request_head(block, max_line=20))  # type: ignore[misc]


def test_request_heads_for_many_targets_are_kept_as_one_without_any() -> None:
    """However many are asked for: what stands in a target, a query too, is gone with its request."""
    head_cache._forms.clear()
    heads = [
        read_request_head(
            b"GET /t0p5ecret/%d?k=5ecret HTTP/1.1\r\nHost: many\r\n\r\n" % n, max_fields=100, max_line=8192
        )
        for n in range(10)
    ]
    assert [head.target for head in heads] == [b"/t0p5ecret/%d?k=5ecret" % n for n in range(10)]
    assert {id(head.forwarded) for head in heads} == {id(heads[0].forwarded)}
    ((key, kept),) = head_cache._forms.items()
    assert SECRET not in key
    assert kept.head.target == b"/"


@given(at=st.integers(0, len(RESPONSE) - 4), insert=inserts, cut=st.integers(0, 3))
def test_response_head_read_before_or_not_is_what_the_parser_says(at: int, insert: bytes, cut: int) -> None:
    """Any change anywhere: the same head, or the same refusal."""

    def told(read: Callable[[], ResponseHead]) -> object:
        try:
            head = read()
        except RemoteProtocolError as error:
            return error.status
        return [getattr(head, name) for name in attributes(ResponseHead) if name != "forwarded"]

    block = RESPONSE[:at] + insert + RESPONSE[at + cut :]
    block = block[: block.find(b"\r\n\r\n") + 4] if b"\r\n\r\n" in block else block
    expected = told(lambda: parse_response_head(block))
    for _ in range(2):
        assert told(lambda: read_response_head(block, max_fields=100)) == expected


def test_request_heads_of_two_users_share_no_credentials() -> None:
    """Equal heads but for Authorization: each has its own."""
    one = read_request_head(REQUEST, max_fields=100, max_line=8192)
    two = read_request_head(REQUEST.replace(b"a=b", b"c=d"), max_fields=100, max_line=8192)
    none = read_request_head(REQUEST.replace(b"Authorization: Digest a=b\r\n", b""), max_fields=100, max_line=8192)
    assert (one.authorization, two.authorization, none.authorization) == ((b"Digest a=b",), (b"Digest c=d",), None)


@pytest.mark.parametrize("fields", [1, 2, 3, 4])
def test_request_head_counts_authorization_among_its_fields(fields: int) -> None:
    """The limit of fields is the same with and without the short cut."""
    expected = facts(lambda: parse_request_head(REQUEST, max_fields=fields))
    assert facts(lambda: read_request_head(REQUEST, max_fields=fields, max_line=8192)) == expected


SECRET = b"5ecret"
CREDENTIALS = [
    b"Authorization: Digest 5ecret",
    b"authorization: Digest 5ecret",
    b"AUTHORIZATION: Digest 5ecret",
    b"aUTHORIZATION:Digest 5ecret",
    b"Authorization:Digest 5ecret",
    b"Authorization:\tDigest 5ecret",
    b"Authorization:  Digest 5ecret",
    b"Authorization: Digest 5ecret ",
    b"Authorization: a\r\nAuthorization: Digest 5ecret",
    b"Authorization: a\r\nauthorization: Digest 5ecret\r\nAUTHORIZATION:5ecret",
    b"Proxy-Authorization: Basic 5ecret",
    b"proxy_authorization:Basic 5ecret",
    b"Cookie: a=5ecret",
    b"COOKIE:a=5ecret",
    b"cOOkIE: a=5ecret",
    b"Cookie2: 5ecret",
]


@pytest.mark.parametrize("line", CREDENTIALS)
def test_request_head_that_carries_a_credential_is_never_kept(line: bytes) -> None:
    """In whatever spelling, in whatever place: no credential is in memory behind its request."""
    for block in (
        b"GET /a HTTP/1.1\r\nHost: x\r\n" + line + b"\r\n\r\n",
        b"GET /a HTTP/1.1\r\n" + line + b"\r\nHost: x\r\n\r\n",
        b"GET /a HTTP/1.1\r\nHost: x\r\nAuthorization: Digest 5ecret\r\n" + line + b"\r\n\r\n",
    ):
        read_request_head(block, max_fields=100, max_line=8192)
        for kept, form in head_cache._forms.items():
            assert SECRET not in kept
            assert form.head.authorization is None
            assert SECRET not in repr(form.head.fields).encode()


@pytest.mark.parametrize("name", [b"Set-Cookie", b"SET-COOKIE", b"set-cookie2", b"WWW-Authenticate", b"set_cookie"])
def test_response_head_that_carries_a_credential_is_never_kept(name: bytes) -> None:
    """An answer's cookies and challenges are one requester's."""
    read_response_head(b"HTTP/1.1 200 OK\r\n" + name + b": 5ecret\r\nContent-Length: 0\r\n\r\n", max_fields=100)
    assert not [kept for kept in head_cache._responses if SECRET in kept]


def test_heads_that_are_shared_cannot_be_changed() -> None:
    """Equal heads are one object for every peer: what is in them is a tuple, or bytes."""
    block = b"GET /shared HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: a\r\nExpect: 100-continue\r\n\r\n"
    one, two = (read_request_head(block, max_fields=100, max_line=8192) for _ in range(2))
    assert one.fields is two.fields
    answer = read_response_head(b"HTTP/1.1 200 OK\r\nConnection: close\r\nUpgrade: a\r\n\r\n", max_fields=100)
    for head in (one, answer):
        for name in attributes(type(head)):
            value = getattr(head, name)
            assert name == "forwarded" or isinstance(value, tuple | bytes | str | bool | int | Extent | None), name
