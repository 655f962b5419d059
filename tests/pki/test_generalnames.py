"""The grammar of general names, as others write them."""

from __future__ import annotations

import ipaddress

import pytest
from cryptography import x509
from support.certs import common_name

from pki.generalnames import is_domain, is_host, is_well_formed, mailbox_host, uri_host

LABEL = "a" * 63


@pytest.mark.parametrize(
    "text",
    ["a", "a.example", "A.Example", "xn--strae-oqa.example", "1.a", "a-b.example", f"{LABEL}.a", "4.in-addr.arpa"],
)
def test_domain_in_preferred_syntax_is_one(text: str) -> None:
    """RFC 1034 section 3.5, with RFC 1123's digits in front."""
    assert is_domain(text)
    assert is_well_formed(x509.DNSName(text))
    assert is_well_formed(x509.DNSName(f"*.{text}"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "a.",
        ".a",
        "a..b",
        "a_b.example",
        "-a.b",
        "a-.b",
        "a b",
        "a\0b",
        "192.0.2.1",
        "a.1",
        f"{LABEL}a.b",
        "*",
        "*.",
        "*.*.a",
        "a.*",
        "x*.a",
        "*x.a",
        ".".join([LABEL] * 4),
        "\u00e4.example",
        "a\n",
    ],
)
def test_domain_in_another_syntax_is_none(text: str) -> None:
    """A wildcard is a whole first label, and nothing may be read as an address."""
    name = x509.DNSName._init_without_validation(text)
    assert not is_well_formed(name)
    assert not is_domain(text)


def test_domain_has_253_characters_at_most() -> None:
    longest = ".".join([LABEL, LABEL, LABEL, "a" * 61])
    assert len(longest) == 253
    assert is_domain(longest)
    assert not is_domain(longest + "a")


def test_host_may_have_underscores() -> None:
    """Trust domains of SPIFFE may, and hosts of URIs; DNS names of certificates may not."""
    assert is_host("a_b.example")
    assert not is_host("a b.example")


@pytest.mark.parametrize(
    ("text", "host"),
    [
        ("https://h.example", "h.example"),
        ("https://H.Example/p?q#f", "h.example"),
        ("https://u:p@h.example:8443/", "h.example"),
        ("https://h.example?q", "h.example"),
        ("spiffe://a_b.example/client/c", "a_b.example"),
        ("ldap://h.example/cn=a,o=b", "h.example"),
    ],
)
def test_uri_with_a_host_is_well_formed_and_names_it(text: str, host: str) -> None:
    assert uri_host(text) == host
    assert is_well_formed(x509.UniformResourceIdentifier(text))


@pytest.mark.parametrize(
    "text", ["urn:uuid:1", "tag:a.example,2026:x", "mailto:a@b", "https://192.0.2.1/", "https://[2001:db8::1]:1/"]
)
def test_uri_without_a_host_name_is_well_formed_and_names_none(text: str) -> None:
    assert uri_host(text) is None
    assert is_well_formed(x509.UniformResourceIdentifier(text))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a/b",
        "a",
        "urn:",
        "https://",
        "https:///p",
        "file:///p",
        "//h.example/",
        "1a:b",
        "https://h.example/ b",
        "https://h.example\\@x/",
        "https://a@b@c/",
        "https://h.example:x/",
        "https://[::1/",
        "http://a\tb/",
        "a:b\n",
    ],
)
def test_uri_that_two_readers_may_split_differently_is_malformed(text: str) -> None:
    """RFC 5280 section 4.2.1.6: absolute, with a host where there is an authority; RFC 3986's characters alone."""
    assert uri_host(text) is None
    assert not is_well_formed(x509.UniformResourceIdentifier._init_without_validation(text))


@pytest.mark.parametrize("text", ["a@h.example", "*@h.example", "a+b=c@h", '"a b"@h.example', "a@[192.0.2.1]"])
def test_mailbox_is_well_formed(text: str) -> None:
    assert is_well_formed(x509.RFC822Name._init_without_validation(text))


@pytest.mark.parametrize("text", ["", "a", "@h", "a@", "a@b@h.example", "a b@h.example", "A <a@h.example>", "a@-h"])
def test_mailbox_of_another_form_is_malformed(text: str) -> None:
    assert not is_well_formed(x509.RFC822Name._init_without_validation(text))
    assert mailbox_host(text) is None


def test_mailbox_that_constraints_cannot_judge_has_no_host() -> None:
    assert mailbox_host("a@[192.0.2.1]") is None
    assert mailbox_host("a@H.Example") == "h.example"


def test_addresses_and_directory_names_have_content() -> None:
    """An address is no network, a directory name is not empty; other forms are not looked at."""
    assert is_well_formed(x509.IPAddress(ipaddress.ip_address("192.0.2.1")))
    assert not is_well_formed(x509.IPAddress(ipaddress.ip_network("192.0.2.0/24")))
    assert is_well_formed(x509.DirectoryName(common_name("a")))
    assert not is_well_formed(x509.DirectoryName(x509.Name([])))
    assert is_well_formed(x509.RegisteredID(x509.ObjectIdentifier("1.2.3")))
