"""Addresses of the configuration: one spelling each, and the same place is seen through every spelling."""

from __future__ import annotations

import pytest

from gateway.config.address import (
    is_loopback,
    is_loopback_literal,
    overlap,
    parse_master_url,
    parse_tcp,
    public_url_problem,
)
from gateway.config.values import MasterUrl, TcpAddress


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8443", "127.0.0.1", 8443),
        ("0.0.0.0:0", "0.0.0.0", 0),
        ("[::1]:65535", "::1", 65535),
        ("[::]:1", "::", 1),
        ("Localhost:80", "localhost", 80),
        ("gw.example.com.:80", "gw.example.com.", 80),
        ("my_host:80", "my_host", 80),
    ],
)
def test_tcp_address_is_read_and_written_back(text: str, host: str, port: int) -> None:
    """Host without brackets and port; the text form has the brackets again."""
    address = parse_tcp(text)
    assert address == TcpAddress(host=host, port=port)
    assert parse_tcp(str(address)) == address


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "host and a port"),
        ("8443", "host and a port"),
        ("localhost", "host and a port"),
        (":8443", "no valid host"),
        ("*:8443", "no valid host"),
        ("a b:1", "no valid host"),
        ("a..b:1", "no valid host"),
        ("-a:1", "no valid host"),
        ("é:1", "no valid host"),
        ("h/x:1", "no valid host"),
        (f"{'a' * 64}:1", "no valid host"),
        ("h:", "port from 0"),
        ("h:x", "port from 0"),
        ("h:+1", "port from 0"),
        ("h:65536", "port from 0"),
        ("h:000001", "port from 0"),
        ("h:١", "port from 0"),
        ("::1:8443", "brackets"),
        ("[::1]", "port from 0"),
        ("[::1]x:1", "brackets"),
        ("[::1:1", "brackets"),
        ("[127.0.0.1]:1", "brackets"),
        ("[fe80::1%eth0]:1", "brackets"),
        ("127.1:80", "four numbers"),
        ("2130706433:80", "four numbers"),
        ("0x7f.1:80", "four numbers"),
        ("0x7f000001:80", "four numbers"),
        ("127.0.0.01:80", "four numbers"),
        ("256.0.0.1:80", "four numbers"),
        ("127.0.0.1.:80", "four numbers"),
    ],
)
def test_tcp_address_that_is_none_is_told_with_its_mend(text: str, words: str) -> None:
    """Nothing is guessed, least of all forms that the resolver would read as some IPv4 address."""
    answer = parse_tcp(text)
    assert isinstance(answer, str)
    assert words in answer


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ("http://h", "http://h:80"),
        ("http://h/", "http://h:80"),
        ("HTTP://H:9000", "http://h:9000"),
        ("http://[::1]:1", "http://[::1]:1"),
        ("http://[::1]", "http://[::1]:80"),
    ],
)
def test_master_url_has_one_form(text: str, url: str) -> None:
    """Port and case are made plain; an empty path is none."""
    answer = parse_master_url(text)
    assert isinstance(answer, MasterUrl)
    assert str(answer) == url


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "is no URL"),
        ("127.0.0.1:9000", "is no URL"),
        ("https://h", "not supported yet"),
        ("HTTPS://h", "not supported yet"),
        ("ftp://h", "only http://"),
        ("unix:///run/x", "only http://"),
        ("http://u:p@h", "credentials"),
        ("http://h/api", "write 'http://h'"),
        ("http://h//", "write 'http://h'"),
        ("http://h?x", "write 'http://h'"),
        ("http://h#x", "write 'http://h'"),
        ("http://", "no valid host"),
        ("http://:80", "no valid host"),
        ("http://h:", "port from 1"),
        ("http://h:0", "port from 1"),
        ("http://h:65536", "port from 1"),
        ("http://127.1", "four numbers"),
        ("http://a b", "no valid host"),
    ],
)
def test_master_url_that_is_none_is_told_with_its_mend(text: str, words: str) -> None:
    """Only plain http to a host: no path, no credentials, nothing guessed; the message never repeats a password."""
    answer = parse_master_url(text)
    assert isinstance(answer, str)
    assert words in answer
    assert "u:p" not in answer


@pytest.mark.parametrize(
    ("one", "other", "answer"),
    [
        ("127.0.0.1:1", "127.0.0.1:1", True),
        ("127.0.0.1:1", "127.0.0.1:2", False),
        ("127.0.0.1:0", "127.0.0.1:0", False),
        ("127.0.0.1:1", "127.0.0.2:1", False),
        ("127.0.0.1:1", "[::1]:1", False),
        ("localhost:1", "127.0.0.1:1", True),
        ("localhost:1", "[::1]:1", True),
        ("0.0.0.0:1", "192.0.2.1:1", True),
        ("0.0.0.0:1", "[::1]:1", False),
        ("0.0.0.0:1", "[::]:1", False),
        ("[::]:1", "[2001:db8::1]:1", True),
        ("[::]:1", "127.0.0.1:1", False),
        ("0.0.0.0:1", "localhost:1", True),
        ("[::]:1", "localhost:1", True),
        ("a.example:1", "A.example.:1", True),
        ("a.example:1", "b.example:1", False),
    ],
)
def test_listeners_overlap_when_both_cannot_be_bound(one: str, other: str, answer: bool) -> None:
    """A wildcard takes the whole family, ``localhost`` both loopback addresses; the question has no direction."""
    a, b = parse_tcp(one), parse_tcp(other)
    assert isinstance(a, TcpAddress)
    assert isinstance(b, TcpAddress)
    assert overlap(a, b) is overlap(b, a) is answer


def test_loopback_is_told_by_literal_or_localhost() -> None:
    """The dispatch listener takes literals only; IPv4-mapped addresses are none."""
    assert [is_loopback_literal(h) for h in ("127.0.0.1", "127.3.2.1", "::1")] == [True] * 3
    assert [is_loopback_literal(h) for h in ("localhost", "0.0.0.0", "::", "10.0.0.1", "::ffff:127.0.0.1")] == [
        False
    ] * 5
    assert is_loopback("localhost")
    assert not is_loopback("localhost.example")


@pytest.mark.parametrize(
    "text",
    [
        "http://pki.example.com",
        "http://pki.example.com:8088",
        "http://192.0.2.1:80",
        "http://[2001:db8::1]:8088",
        "http://pki.example.com/rhttp/lists",
        "http://" + "a" * 60 + "." + "b" * 60 + "/" + "c" * 71,
    ],
)
def test_public_url_that_others_can_fetch_from_is_taken(text: str) -> None:
    """A name or address, a port, a path of plain segments; up to 200 characters."""
    assert public_url_problem(text) is None


@pytest.mark.parametrize(
    "text",
    [
        "",
        "pki.example.com",
        "https://pki.example.com",
        "HTTP://pki.example.com",
        "ldap://pki.example.com",
        "http://",
        "http://pki.example.com:",
        "http://pki.example.com:0",
        "http://pki.example.com:x",
        "http://me@pki.example.com",
        "http://pki.example.com/",
        "http://pki.example.com/a/",
        "http://pki.example.com/a//b",
        "http://pki.example.com/a?b",
        "http://pki.example.com#b",
        "http://pki.example.com/%41",
        "http://pki.example.com/a b",
        "http://pki.example.com/\u00e9",
        "http://" + "a" * 60 + "." + "b" * 60 + "/" + "c" * 72,
    ],
)
def test_public_url_of_another_form_is_a_problem(text: str) -> None:
    """What a relying party might read in another way, or not at all."""
    assert public_url_problem(text) is not None
