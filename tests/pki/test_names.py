"""Names: exact grammar, one text for one identity."""

from __future__ import annotations

import re

import pytest
from cryptography import x509
from hypothesis import given
from hypothesis import strategies as st

from pki.errors import NameInvalid
from pki.names import PEER_ROLES, Role, SpiffeId, parse_dns_name, parse_name, parse_san, parse_spiffe_id

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True)
DOMAINS = st.from_regex(r"([a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?\.){0,3}[a-z]{2,8}", fullmatch=True)


@pytest.mark.parametrize("text", ["a", "0", "w1", "a-b", "a--b", "x" * 63])
def test_name_in_grammar_is_answered_unchanged(text: str) -> None:
    """A name of 1 to 63 lower-case letters, digits and inner hyphens is itself."""
    assert text == parse_name(text)


@pytest.mark.parametrize(
    "text",
    ["", "-a", "a-", "A", "a.b", "a_b", "a b", "a\n", "\na", "ä", "x" * 64, "a/b", "..", "a\0", "١"],
)
def test_name_outside_grammar_is_refused(text: str) -> None:
    """Anything else is refused: a trailing newline and foreign digits too."""
    with pytest.raises(NameInvalid):
        parse_name(text)


@given(st.text(max_size=70))
def test_name_accepted_exactly_when_the_published_pattern_matches(text: str) -> None:
    """The parser and the pattern of the contract agree on every text."""
    published = re.fullmatch(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", text) is not None
    try:
        parse_name(text)
    except NameInvalid:
        assert not published
    else:
        assert published


@given(domain=DOMAINS, role=st.sampled_from(sorted(PEER_ROLES)), name=NAMES, pool=NAMES)
def test_spiffe_id_built_is_parsed_back(domain: str, role: Role, name: str, pool: str) -> None:
    """What `str` writes, the parser reads as the same identity."""
    built = SpiffeId(trust_domain=domain, role=role, name=name, pool=pool if role is Role.WORKER else None)
    assert built == parse_spiffe_id(str(built))


@given(st.text(alphabet="spifeclntworkmasd:/.-_%?#@A1\n", max_size=60).map(lambda tail: "spiffe://" + tail))
def test_spiffe_id_parsed_is_written_back_unchanged(text: str) -> None:
    """No two texts name one identity: parsing either refuses or keeps every character."""
    try:
        parsed = parse_spiffe_id(text)
    except NameInvalid:
        return
    assert text == str(parsed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "spiffe://",
        "spiffe://d.example",
        "spiffe://d.example/",
        "spiffe://d.example/client",
        "spiffe://d.example/client/",
        "spiffe://d.example/client/a/",
        "spiffe://d.example/client/a/b",
        "spiffe://d.example//client/a",
        "spiffe://d.example/worker/w1",
        "spiffe://d.example/worker/p/w1/x",
        "spiffe://d.example/server/s",
        "spiffe://d.example/Client/a",
        "spiffe://d.example/client/A",
        "spiffe://d.example/client/a?x=1",
        "spiffe://d.example/client/a#f",
        "spiffe://d.example/client/%61",
        "spiffe://d.example:443/client/a",
        "spiffe://u@d.example/client/a",
        "spiffe://D.example/client/a",
        "spiffe:///client/a",
        "SPIFFE://d.example/client/a",
        "https://d.example/client/a",
        "spiffe:/d.example/client/a",
        " spiffe://d.example/client/a",
        "spiffe://d.example/client/a\n",
        "spiffe://d.example/client/" + "a" * 64,
        "spiffe://" + "a." * 130 + "example/client/a",
    ],
)
def test_spiffe_id_of_another_form_is_refused(text: str) -> None:
    """Only the three forms of the contract are identities."""
    with pytest.raises(NameInvalid):
        parse_spiffe_id(text)


@pytest.mark.parametrize(
    ("role", "pool"), [(Role.CLIENT, "p"), (Role.MASTER, "p"), (Role.WORKER, None), (Role.SERVER, None)]
)
def test_spiffe_id_with_role_and_pool_that_disagree_is_refused(role: Role, pool: str | None) -> None:
    """Workers have a pool, nobody else has, and servers have no identity of this kind."""
    with pytest.raises(NameInvalid):
        SpiffeId(trust_domain="d.example", role=role, name="a", pool=pool)


@pytest.mark.parametrize("text", ["localhost", "a.example", "xn--bcher-kva.example", "1a.example", "a" * 63 + ".b"])
def test_dns_name_in_lower_case_is_answered_unchanged(text: str) -> None:
    assert text == parse_dns_name(text)


@pytest.mark.parametrize(
    "text",
    ["", ".", "a.", ".a", "a..b", "*.a", "A.b", "a_b", "bücher.example", "127.0.0.1", "1", "a b", "a." * 127 + "aa"],
)
def test_dns_name_that_could_be_misread_is_refused(text: str) -> None:
    """No wildcard, no final dot, nothing that reads as an address, no upper case."""
    with pytest.raises(NameInvalid):
        parse_dns_name(text)


def test_san_of_each_kind_becomes_its_general_name() -> None:
    """`DNS:` and `IP:` prefixes choose the kind."""
    assert parse_san("DNS:a.example") == x509.DNSName("a.example")
    assert isinstance(parse_san("IP:::1"), x509.IPAddress)
    assert str(parse_san("IP:10.0.0.1").value) == "10.0.0.1"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a.example",
        "dns:a.example",
        "DNS:",
        "IP:",
        "IP:10.0.0.0/8",
        "IP:fe80::1%eth0",
        "IP:x",
        "URI:spiffe://x/y",
        "IP:010.0.0.1",
    ],
)
def test_san_of_another_form_is_refused(text: str) -> None:
    with pytest.raises(NameInvalid):
        parse_san(text)
