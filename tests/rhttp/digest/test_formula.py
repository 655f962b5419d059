"""The Digest formula, the grammar of credentials and challenges, and the answering side."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from itertools import count

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.slots import attributes

from rhttp.digest.formula import (
    HASHES,
    MAX_AUTHORIZATION,
    MAX_AUTHORIZATION_BESIDE_URI,
    MAX_CHALLENGE_BYTES,
    MAX_CHALLENGES,
    MAX_NC,
    OTHER_SCHEME,
    Algorithm,
    Challenge,
    DigestClient,
    DigestCredentials,
    Malformed,
    build_authorization,
    build_challenge,
    ha1,
    parse_authorization,
    parse_challenges,
    response,
)

# RFC 7616 §3.9.1
REALM = "http-auth@example.org"
NONCE = b"7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v"
CNONCE = b"f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ"
URI = b"/dir/index.html"
RESPONSES = {
    Algorithm.MD5: b"8ca523f5e9506fed4657c9700eebdbec",
    Algorithm.SHA_256: b"753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1",
}
VALUE = (
    b'Digest username="Mufasa", realm="http-auth@example.org", uri="/dir/index.html", algorithm=SHA-256, '
    b'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", nc=00000001, '
    b'cnonce="f2/wE4q74E6zIJEtWaHKaf5wv/H5QzzpXusqGemxURZJ", qop=auth, '
    b'response="753927fa0e85d155564e2e272a28d1802ca10daf4496794697cf8db5856cb6c1", '
    b'opaque="FQhe/qaU925kfnzjCev0ciny7QMkPqMAFRtzCUYo5tdS"'
)
VISIBLE = st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=40)


def entropy() -> Callable[[int], bytes]:
    """Bytes that differ at every call, the same in every run."""
    numbers = count(1)
    return lambda size: next(numbers).to_bytes(size, "big")


def parsed(value: bytes) -> DigestCredentials:
    found = parse_authorization(value)
    assert isinstance(found, DigestCredentials)
    return found


@pytest.mark.parametrize("algorithm", list(RESPONSES))
def test_response_of_the_rfc_example_is_reproduced(algorithm: Algorithm) -> None:
    """The worked example of RFC 7616 §3.9.1 comes out to the digit."""
    secret = ha1("Mufasa", REALM, "Circle of Life", algorithm).encode()
    made = response(algorithm, ha1=secret, nonce=NONCE, nc=b"00000001", cnonce=CNONCE, method=b"GET", uri=URI)
    assert made == RESPONSES[algorithm]


def test_response_of_sha_512_256_is_the_formula_over_that_hash() -> None:
    """SHA-512-256 is SHA-512/256 of FIPS 180-4, not SHA-512 cut short."""

    def hexed(text: str) -> str:
        return hashlib.new("sha512_256", text.encode()).hexdigest()

    right = hexed(f"{hexed('u:r:p')}:n:00000001:c:auth:{hexed('GET:/')}").encode()
    made = response(
        Algorithm.SHA_512_256,
        ha1=ha1("u", "r", "p", Algorithm.SHA_512_256).encode(),
        nonce=b"n",
        nc=b"00000001",
        cnonce=b"c",
        method=b"GET",
        uri=b"/",
    )
    assert made == right
    assert not hashlib.sha512(b"").hexdigest().startswith(HASHES[Algorithm.SHA_512_256](b"").hexdigest())


def test_ha1_of_composed_and_decomposed_text_is_the_same() -> None:
    """User and password are taken in NFC (RFC 7616 §4); the realm as it is."""
    assert ha1("Jäsøn", "r", "pä", Algorithm.SHA_256) == ha1("Ja\u0308søn", "r", "pa\u0308", Algorithm.SHA_256)
    assert ha1("u", "ä", "p", Algorithm.SHA_256) != ha1("u", "a\u0308", "p", Algorithm.SHA_256)
    assert ha1("u", "r", "pä", Algorithm.SHA_256) == hashlib.sha256("u:r:pä".encode()).hexdigest()


# --- Authorization ---------------------------------------------------------------------------------------------------


def test_parse_authorization_of_the_rfc_example_reads_every_parameter() -> None:
    """The example of RFC 7616 §3.9.1 as it stands there."""
    found = parsed(VALUE)
    assert (found.username, found.realm, found.nonce, found.uri) == (b"Mufasa", REALM.encode(), NONCE, URI)
    assert (found.algorithm, found.qop, found.nc, found.nc_text) == (b"SHA-256", b"auth", 1, b"00000001")
    assert (found.cnonce, found.response) == (CNONCE, RESPONSES[Algorithm.SHA_256])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"Digest ", b"digest ", id="scheme_lower"),
        pytest.param(b"Digest ", b"DIGEST   ", id="scheme_upper_with_spaces"),
        pytest.param(b"qop=auth", b'qop="auth"', id="quoted_qop"),
        pytest.param(b"algorithm=SHA-256", b'algorithm="SHA-256"', id="quoted_algorithm"),
        pytest.param(b"nc=00000001", b'nc="00000001"', id="quoted_nc"),
        pytest.param(b", ", b",", id="no_spaces"),
        pytest.param(b"qop=auth", b"qop=auth, userhash=false", id="userhash_false"),
        pytest.param(b"qop=auth", b'qop=auth, charset="UTF-8", x=y', id="unknown_parameters"),
        pytest.param(b'"Mufasa"', rb'"Mu\fas\a"', id="needless_escapes"),
    ],
)
def test_parse_authorization_tolerated_spelling_reads_the_same(old: bytes, new: bytes) -> None:
    """Spellings that real clients use mean the same as the RFC's own."""
    assert old in VALUE
    found, plain = parsed(VALUE.replace(old, new)), parsed(VALUE)
    assert all(getattr(found, name) == getattr(plain, name) for name in attributes(DigestCredentials))


def test_parse_authorization_without_qop_leaves_the_counters_empty() -> None:
    """The form of RFC 2069 is read, so that the verifier can say what is missing."""
    found = parsed(b'Digest username="u", realm="r", nonce="n", uri="/", response="x"')
    assert (found.qop, found.cnonce, found.nc, found.nc_text, found.algorithm) == (None, b"", 0, b"", None)


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        pytest.param(b'username="Mufasa", ', b"", "missing_parameter", id="no_username"),
        pytest.param(b'realm="http-auth@example.org", ', b"", "missing_parameter", id="no_realm"),
        pytest.param(b'uri="/dir/index.html", ', b"", "missing_parameter", id="no_uri"),
        pytest.param(
            b'nonce="7ypf/xlj9XXwfDPEoM4URrv/xwf94BcCAzFZH4GiTo0v", ', b"", "missing_parameter", id="no_nonce"
        ),
        pytest.param(b'response="', b'request="', "missing_parameter", id="no_response"),
        pytest.param(b"nc=00000001, ", b"", "missing_parameter", id="no_nc"),
        pytest.param(b'cnonce="', b'xnonce="', "missing_parameter", id="no_cnonce"),
        pytest.param(b"00000001", b"0000001", "nc", id="nc_short"),
        pytest.param(b"00000001", b"000000001", "nc", id="nc_long"),
        pytest.param(b"00000001", b"0000000001", "nc", id="nc_ten"),
        pytest.param(b"00000001", b"0000000g", "nc", id="nc_no_hex"),
        pytest.param(b"00000001", b"0x000001", "nc", id="nc_prefixed"),
        pytest.param(b"00000001", b"+0000001", "nc", id="nc_signed"),
        pytest.param(b"00000001", b"0000_001", "nc", id="nc_underscored"),
        pytest.param(b"00000001", b'" 0000001"', "nc", id="nc_with_space"),
        pytest.param(b"00000001", b"00000000", "nc", id="nc_zero"),
        pytest.param(b"00000001", b'""', "nc", id="nc_empty"),
        pytest.param(b'username="Mufasa"', b"username*=UTF-8''Mufasa", "username_ext", id="username_ext"),
        pytest.param(b"qop=auth", b"qop=auth, username*=UTF-8''Mufasa", "username_ext", id="username_ext_beside"),
        pytest.param(b"qop=auth", b"qop=auth, userhash=true", "userhash", id="userhash"),
        pytest.param(b"qop=auth", b'qop=auth, userhash="TRUE"', "userhash", id="userhash_quoted"),
        pytest.param(b"qop=auth", b"qop=auth, qop=auth", "grammar", id="twice"),
        pytest.param(b"qop=auth", b"qop=auth-int, QOP=auth", "grammar", id="twice_by_case"),
        pytest.param(b"Mufasa", "Müfasa".encode(), "grammar", id="outside_ascii"),
        pytest.param(b"Mufasa", b"Mufasa\x00", "grammar", id="control"),
        pytest.param(b"Mufasa", b"Mufasa\t", "grammar", id="tab_in_quotes"),
        pytest.param(b"qop=auth", b"qop=auth Digest x=y", "grammar", id="two_credentials"),
        pytest.param(b"qop=auth", b"qop=auth, Digest x=y", "grammar", id="two_credentials_in_a_list"),
        pytest.param(b"Digest ", b"Digest", "scheme", id="no_space"),
        pytest.param(b"Digest ", b"Digest\t", "scheme", id="tab_behind_scheme"),
        pytest.param(b"Digest ", b" Digest ", "grammar", id="space_in_front"),
        pytest.param(b"Digest ", b"Digest, ", "grammar", id="comma_behind_scheme"),
        pytest.param(b"Digest ", b"Bearer ", "scheme", id="bearer"),
        pytest.param(b"Digest ", b"DigestX ", "scheme", id="longer_scheme"),
    ],
)
def test_parse_authorization_broken_value_names_the_fault(old: bytes, new: bytes, fault: str) -> None:
    """One thing broken in a good value: refused, and the log learns which kind of fault, not the value."""
    assert old in VALUE
    assert parse_authorization(VALUE.replace(old, new)) == Malformed(fault)


@pytest.mark.parametrize("value", [b"Basic YWxpY2U6cHc=", b"Negotiate", b"", b" ", b"\xff\x00", b"Bearer abc"])
def test_parse_authorization_other_scheme_is_told_apart(value: bytes) -> None:
    """Whatever does not name Digest is another scheme, however broken."""
    assert parse_authorization(value) is OTHER_SCHEME


def test_parse_authorization_digest_without_parameters_is_malformed() -> None:
    """The scheme alone is no credentials."""
    assert parse_authorization(b"Digest") == Malformed("grammar")
    assert parse_authorization(b"Digest ") == Malformed("missing_parameter")


def test_parse_authorization_nc_takes_hex_of_either_case() -> None:
    """Eight hex digits, upper or lower case, up to the largest."""
    assert parsed(VALUE.replace(b"00000001", b"0000abCD")).nc == 0xABCD
    assert parsed(VALUE.replace(b"00000001", b"FFFFFFFF")).nc == MAX_NC


def test_parse_authorization_length_is_bounded_at_the_limits() -> None:
    """The target may be long; everything else, and the whole, is bounded: taken at the limit, refused one above."""
    beside = len(VALUE) - len(URI)
    padded = VALUE.replace(b"Mufasa", b"M" * (6 + MAX_AUTHORIZATION_BESIDE_URI - beside))
    assert len(parsed(padded).username) == 6 + MAX_AUTHORIZATION_BESIDE_URI - beside
    assert parse_authorization(padded.replace(b"MM", b"MMM", 1)) == Malformed("too_long")
    target = b"/" * (MAX_AUTHORIZATION - beside)
    assert parsed(VALUE.replace(URI, target)).uri == target
    assert parse_authorization(VALUE.replace(URI, target + b"/")) == Malformed("too_long")


def test_parse_authorization_repr_shows_no_secret() -> None:
    """Nonce, response and counters stay out of logs."""
    text = repr(parsed(VALUE))
    assert "Mufasa" in text
    assert not any(secret.decode() in text for secret in (NONCE, CNONCE, RESPONSES[Algorithm.SHA_256]))


@settings(deadline=None)
@given(st.data())
def test_parse_authorization_mutated_value_never_raises(data: st.DataObject) -> None:
    """Cut, doubled or replaced bytes anywhere give credentials or a fault."""
    value = bytearray(VALUE)
    for _ in range(data.draw(st.integers(1, 5))):
        at = data.draw(st.integers(0, len(value)))
        to = data.draw(st.integers(at, min(len(value), at + 20)))
        value[at:to] = data.draw(
            st.sampled_from([b"", b'"', b"\\", b",", b"=", bytes(value[at:to]) * 2, b"\xff", b"\t"])
        )
    found = parse_authorization(bytes(value))
    assert isinstance(found, DigestCredentials | Malformed)


@settings(deadline=None)
@given(username=VISIBLE, realm=VISIBLE, nonce=VISIBLE, uri=VISIBLE, cnonce=VISIBLE, opaque=st.none() | VISIBLE)
def test_build_authorization_is_read_back(**texts: str | None) -> None:
    """Quotes, backslashes, commas and equals in any parameter survive building and parsing."""
    parts = {name: text.encode() for name, text in texts.items() if text is not None}
    value = build_authorization(algorithm=Algorithm.SHA_256, nc=b"0000000a", response=b"ab", **parts)
    found = parsed(value)
    assert {name: getattr(found, name) for name in parts if name != "opaque"} == {
        name: text for name, text in parts.items() if name != "opaque"
    }
    assert (found.nc, found.qop, found.response, found.algorithm) == (10, b"auth", b"ab", b"SHA-256")


# --- WWW-Authenticate ------------------------------------------------------------------------------------------------


def test_build_challenge_has_the_form_that_clients_were_tested_with() -> None:
    """One line, held byte for byte: real clients read it with parsers of their own."""
    made = build_challenge(realm='a"b', nonce=b"n", algorithm=Algorithm.SHA_256)
    assert made == rb'Digest realm="a\"b", qop="auth", algorithm=SHA-256, nonce="n"'
    stale = build_challenge(realm="r", nonce=b"n", algorithm=Algorithm.MD5, stale=True)
    assert stale == b'Digest realm="r", qop="auth", algorithm=MD5, nonce="n", stale=true'


@settings(deadline=None)
@given(realm=VISIBLE, nonce=VISIBLE, algorithm=st.sampled_from(Algorithm), stale=st.booleans())
def test_build_challenge_is_read_back(realm: str, nonce: str, algorithm: Algorithm, stale: bool) -> None:
    """Every challenge that we make is one that we read."""
    value = build_challenge(realm=realm, nonce=nonce.encode(), algorithm=algorithm, stale=stale)
    assert parse_challenges([value]) == [
        Challenge(realm=realm, nonce=nonce.encode(), algorithm=algorithm, qop=frozenset({b"auth"}), is_stale=stale)
    ]


def test_parse_challenges_in_one_value_or_many_are_all_found() -> None:
    """Schemes may share a value or have one each (RFC 9110 §11.6.1); others are stepped over."""
    one = b'Digest realm="a, Digest b", nonce="1", qop="auth-int , auth", opaque="o", algorithm=sha-256'
    two = b'digest realm="r", nonce="2", stale=TRUE'
    values = [b"Negotiate abc==, " + one + b', Basic realm="x", ' + two, b"Basic", b'Digest realm="r",nonce="3"']
    found = parse_challenges(values)
    assert [challenge.nonce for challenge in found] == [b"1", b"2", b"3"]
    assert found[0].realm == "a, Digest b"
    assert found[0].qop == {b"auth", b"auth-int"}
    assert (found[0].opaque, found[0].algorithm, found[0].is_stale) == (b"o", Algorithm.SHA_256, False)
    assert (found[1].algorithm, found[1].is_stale, found[1].opaque) == (Algorithm.MD5, True, None)


@pytest.mark.parametrize(
    "value",
    [
        b"",
        b"Digest",
        b'Digest realm="r"',
        b'Digest nonce="n"',
        b'Digest realm="r", nonce=""',
        b'Digest realm="r", nonce="n", nonce="m"',
        b'Digest realm="r", nonce="n',
        b'Digest realm="\xc3\xa4", nonce="n"',
        b'realm="r", nonce="n"',
    ],
)
def test_parse_challenges_malformed_are_left_out(value: bytes) -> None:
    """A challenge that cannot be answered for sure is none."""
    assert parse_challenges([value]) == []


def test_parse_challenges_of_unknown_algorithm_says_so() -> None:
    """An algorithm that we do not know is None, never MD5."""
    found = parse_challenges([b'Digest realm="r", nonce="n", algorithm=SHA-3-512'])
    assert [challenge.algorithm for challenge in found] == [None]


def test_parse_challenges_bytes_and_number_are_bounded() -> None:
    """A peer cannot make us read for ever: what is beyond the limits is left out."""
    one = build_challenge(realm="r", nonce=b"n", algorithm=Algorithm.SHA_256)
    assert len(parse_challenges([one] * (MAX_CHALLENGES + 1))) == MAX_CHALLENGES
    padding = MAX_CHALLENGE_BYTES - len(one)
    assert len(parse_challenges([b" " * padding, one])) == 1
    assert parse_challenges([b" " * (padding + 1), one]) == []


@settings(deadline=None)
@given(st.lists(st.binary(max_size=80) | st.text('Digest=,\\"nonce rlm', max_size=80).map(str.encode), max_size=3))
def test_parse_challenges_any_bytes_never_raise(values: list[bytes]) -> None:
    """Any bytes give challenges with a nonce, or none."""
    assert all(challenge.nonce for challenge in parse_challenges(values))


# --- The answering side ----------------------------------------------------------------------------------------------


def client(**options: object) -> DigestClient:
    return DigestClient("alice", "pw", entropy=entropy(), **options)  # type: ignore[arg-type]


def challenge(nonce: bytes = b"n1", *, algorithm: Algorithm = Algorithm.SHA_256, stale: bool = False) -> bytes:
    return build_challenge(realm="r", nonce=nonce, algorithm=algorithm, stale=stale)


def test_client_before_a_challenge_has_no_answer() -> None:
    """Without a challenge there is nothing to send."""
    assert client().authorize(b"GET", b"/") is None


def test_client_answers_a_challenge_with_counters_from_one() -> None:
    """Each request has its own nc, under one cnonce, and the response that the formula gives."""
    asked = client()
    assert asked.challenged([challenge()]) is True
    answers = [parsed(asked.authorize(b"GET", b"/x") or b"") for _ in range(3)]
    assert [answer.nc_text for answer in answers] == [b"00000001", b"00000002", b"00000003"]
    assert len({answer.cnonce for answer in answers}) == 1
    for answer in answers:
        assert answer.response == response(
            Algorithm.SHA_256,
            ha1=ha1("alice", "r", "pw", Algorithm.SHA_256).encode(),
            nonce=b"n1",
            nc=answer.nc_text,
            cnonce=answer.cnonce,
            method=b"GET",
            uri=b"/x",
        )


def test_client_refused_after_an_answer_does_not_try_again() -> None:
    """A second challenge that is not stale means: wrong credentials. The new nonce is kept all the same."""
    asked = client()
    asked.challenged([challenge(b"n1")])
    asked.authorize(b"GET", b"/")
    assert asked.challenged([challenge(b"n2")]) is False
    assert parsed(asked.authorize(b"GET", b"/") or b"").nonce == b"n2"


def test_client_stale_after_an_answer_tries_again_with_a_new_count() -> None:
    """``stale=true`` is worth another try, with the new nonce, nc from one and another cnonce."""
    asked = client()
    asked.challenged([challenge(b"n1")])
    first = parsed(asked.authorize(b"GET", b"/") or b"")
    assert asked.challenged([challenge(b"n2", stale=True)]) is True
    second = parsed(asked.authorize(b"GET", b"/") or b"")
    assert (second.nonce, second.nc) == (b"n2", 1)
    assert first.cnonce != second.cnonce


def test_client_shared_by_connections_goes_by_what_each_request_carried() -> None:
    """A connection whose request carried nothing tries again although another one has answered meanwhile."""
    asked = client()
    asked.challenged([challenge(b"n1")], answered=False)
    asked.authorize(b"GET", b"/")
    assert asked.challenged([challenge(b"n2")], answered=False) is True
    assert asked.challenged([challenge(b"n3")], answered=True) is False


def test_client_same_nonce_again_keeps_counting() -> None:
    """A counter never starts over under one nonce: that would be a replay."""
    asked = client()
    asked.challenged([challenge(b"n1")])
    asked.authorize(b"GET", b"/")
    asked.challenged([challenge(b"n1", stale=True)])
    assert parsed(asked.authorize(b"GET", b"/") or b"").nc == 2


def test_client_prefers_sha_256_and_leaves_md5_alone_unless_named() -> None:
    """The order of ``algorithms`` decides, whatever the order of the challenges; MD5 only when asked for."""
    offers = [challenge(b"md5", algorithm=Algorithm.MD5), challenge(b"512", algorithm=Algorithm.SHA_512_256)]
    asked = client()
    assert asked.challenged([*offers, challenge(b"256")]) is True
    assert parsed(asked.authorize(b"GET", b"/") or b"").nonce == b"256"
    other = client()
    assert other.challenged(offers) is True
    assert parsed(other.authorize(b"GET", b"/") or b"").nonce == b"512"
    assert client().challenged(offers[:1]) is False
    old = client(algorithms=(Algorithm.MD5,))
    assert old.challenged(offers) is True
    assert parsed(old.authorize(b"GET", b"/") or b"").algorithm == b"MD5"


@pytest.mark.parametrize(
    "value",
    [
        b'Basic realm="r"',
        b'Digest realm="r", nonce="n", algorithm=SHA-256, qop="auth-int"',
        b'Digest realm="r", nonce="n", algorithm=SHA-256',
        b'Digest realm="r", nonce="n", algorithm=SHA-256-sess, qop="auth"',
    ],
)
def test_client_challenge_that_it_cannot_answer_is_refused(value: bytes) -> None:
    """Without qop=auth, or with an algorithm that we do not speak, there is no answer."""
    asked = client()
    assert asked.challenged([value]) is False
    assert asked.authorize(b"GET", b"/") is None


def test_client_nextnonce_replaces_the_nonce() -> None:
    """`Authentication-Info: nextnonce` is used from the next request on; nonsense there changes nothing."""
    asked = client()
    asked.accepted([b'nextnonce="early"'])
    assert asked.authorize(b"GET", b"/") is None
    asked.challenged([challenge(b"n1")])
    asked.authorize(b"GET", b"/")
    asked.accepted([b'nextnonce="', b"", b'nextnonce=""', b'nextnonce="' + b"x" * MAX_CHALLENGE_BYTES + b'"'])
    assert parsed(asked.authorize(b"GET", b"/") or b"").nonce == b"n1"
    asked.accepted([b'qop=auth, nextnonce="n2"'])
    again = parsed(asked.authorize(b"GET", b"/") or b"")
    assert (again.nonce, again.nc) == (b"n2", 1)


def test_client_opaque_is_sent_back_and_quotes_are_escaped() -> None:
    """What came quoted goes back quoted, with quotes and backslashes escaped."""
    asked = DigestClient(r'a"b\c', "pw", entropy=entropy())
    assert asked.challenged([rb'Digest realm="x\"y", nonce="n", qop="auth", algorithm=SHA-256, opaque="o\\p"'])
    value = asked.authorize(b"GET", b"/") or b""
    assert rb'username="a\"b\\c"' in value
    assert rb'realm="x\"y"' in value
    assert rb'opaque="o\\p"' in value
    assert parsed(value).username == rb'a"b\c'


def test_client_counter_at_its_end_asks_for_a_new_challenge() -> None:
    """After the last nc the nonce is given up instead of wrapping round."""
    asked = client()
    asked.challenged([challenge()])
    asked._nc = MAX_NC - 1
    assert parsed(asked.authorize(b"GET", b"/") or b"").nc == MAX_NC
    assert asked.authorize(b"GET", b"/") is None
    assert asked.authorize(b"GET", b"/") is None


@pytest.mark.parametrize("user", ["", "a:b", "ä", "a\n", "a\x7f"])
def test_client_user_that_cannot_travel_is_refused(user: str) -> None:
    """A name with a colon, control characters or beyond ASCII cannot be sent unambiguously."""
    with pytest.raises(ValueError, match="visible ASCII"):
        DigestClient(user, "pw", entropy=entropy())


def test_client_repr_shows_no_password() -> None:
    """Neither the password nor its hash is shown."""
    asked = DigestClient("alice", "hunter2", entropy=entropy())
    asked.challenged([challenge()])
    assert repr(asked) == "<DigestClient of 'alice'>"
