"""Which hosts are ours, and which origins are the same as where a request goes."""

from __future__ import annotations

import pytest

from gateway.http import hosts
from gateway.http.hosts import HostMatcher, cross_site, same_origin

OURS = ["gw.example.com", "Other.Example.", "127.0.0.1", "::1", "2001:db8::a"]


@pytest.mark.parametrize(
    "host",
    [
        b"gw.example.com",
        b"GW.Example.COM",
        b"gw.example.com.",
        b"gw.example.com:8443",
        b"gw.example.com:",
        b"gw.example.com:1",
        b"other.example",
        b"127.0.0.1:80",
        b"[::1]",
        b"[::1]:8443",
        b"[2001:DB8::a]",
    ],
)
def test_authority_of_ours_is_covered(host: bytes) -> None:
    """In any case, with or without a final dot, on any port: a forwarded port is nobody's fault."""
    assert HostMatcher(OURS).covers(host) is True


@pytest.mark.parametrize(
    "host",
    [
        b"example.com",
        b"a.gw.example.com",
        b"gw.example.com.evil",
        b"gw.example.com..",
        b"127.0.0.2",
        b"[::2]",
        b"localhost",
        b"gw.example.co",
    ],
)
def test_authority_of_somebody_else_is_not_covered(host: bytes) -> None:
    """421: well-formed, but not for us."""
    assert HostMatcher(OURS).covers(host) is False


@pytest.mark.parametrize(
    "host",
    [
        b"",
        b"user@gw.example.com",
        b"gw.example.com:x",
        b"gw.example.com:99999",
        b"gw.example.com/x",
        b"gw.example.com, x",
        b"gw example.com",
        b'gw.example.com"',
        b"::1",
        b"[::1",
        b"gw.example.com\x00",
        b"\xff",
    ],
)
def test_authority_outside_the_grammar_is_none_at_all(host: bytes) -> None:
    """400: not an authority by RFC 9112 section 3.2."""
    assert HostMatcher(OURS).covers(host) is not True


def test_authorities_remember_within_bounds() -> None:
    """What strangers name is remembered up to a number and a length, and changes no answer."""
    ours = HostMatcher(OURS)
    for number in range(3 * hosts._MEMO):
        assert ours.covers(b"h%d.example" % number) is False
    assert ours.covers(b"a" * 30_000) is not True
    assert ours.covers(b"gw.example.com") is True
    assert len(ours._memo) <= hosts._MEMO
    assert max(map(len, ours._memo)) < 1000


@pytest.mark.parametrize(
    ("origin", "host", "scheme", "same"),
    [
        (b"https://gw.example", b"gw.example", b"https", True),
        (b"https://gw.example:443", b"gw.example", b"https", True),
        (b"https://gw.example", b"gw.example:443", b"https", True),
        (b"https://gw.example:8443", b"gw.example:8443", b"https", True),
        (b"HTTPS://GW.Example", b"gw.example", b"https", True),
        (b"http://localhost:8080", b"localhost:8080", b"http", True),
        (b"http://localhost", b"localhost:80", b"http", True),
        (b"https://[::1]:8443", b"[::1]:8443", b"https", True),
        (b"http://gw.example", b"gw.example", b"https", False),
        (b"https://gw.example:8443", b"gw.example", b"https", False),
        (b"https://evil.example", b"gw.example", b"https", False),
        (b"https://gw.example.evil", b"gw.example", b"https", False),
        (b"https://user@gw.example", b"gw.example", b"https", False),
        (b"https://gw.example/", b"gw.example", b"https", False),
        (b"https://", b"", b"https", False),
        (b"null", b"gw.example", b"https", False),
        (b"", b"gw.example", b"https", False),
        (b"gw.example", b"gw.example", b"https", False),
        (b"https://gw.example", None, b"https", False),
    ],
)
def test_origin_is_ours_only_in_scheme_host_and_port(
    origin: bytes, host: bytes | None, scheme: bytes, same: bool
) -> None:
    """RFC 6454 section 5; anything else, null too, is another site."""
    assert same_origin(origin, host, scheme) is same


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ((), None),
        (((b"origin", b"https://gw.example"),), None),
        (((b"sec-fetch-site", b"same-origin"), (b"origin", b"https://gw.example:443")), None),
        (((b"sec-fetch-site", b"none"),), None),
        (((b"origin", b"https://evil.example"),), "cross_site_origin"),
        (((b"origin", b"null"),), "cross_site_origin"),
        (((b"origin", b"https://gw.example"), (b"origin", b"https://evil.example")), "cross_site_origin"),
        (((b"sec-fetch-site", b"cross-site"),), "cross_site_fetch"),
        (((b"sec-fetch-site", b"same-site"),), "cross_site_fetch"),
        (((b"sec-fetch-site", b"Same-Origin"),), "cross_site_fetch"),
        (((b"sec-fetch-site", b""),), "cross_site_fetch"),
        (((b"origin", b"https://gw.example"), (b"sec-fetch-site", b"cross-site")), "cross_site_fetch"),
    ],
)
def test_request_is_cross_site_when_a_browser_says_so(
    fields: tuple[tuple[bytes, bytes], ...], reason: str | None
) -> None:
    """Either field is enough, and what is not plainly ours is another site's."""
    assert cross_site(fields, b"gw.example", b"https") == reason
