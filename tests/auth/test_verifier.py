"""Digest verification: what is a proof, and which reason every other request gets."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from support.digests import BINDING, NOW, PASSWORD, REALM, Verification, user
from support.slots import attributes

import auth.verifier
from auth.nonces import NonceIssuer, NonceKey, NonceLedger
from auth.verifier import Authenticated, AuthReason, DigestVerifier, Unauthenticated
from rhttp.digest.formula import (
    Algorithm,
    DigestClient,
    DigestCredentials,
    build_authorization,
    ha1,
    parse_authorization,
    parse_challenges,
    response,
)

STALE = {AuthReason.NONCE_FORGED, AuthReason.NONCE_STALE, AuthReason.REPLAYED_NC, AuthReason.NC_TOO_OLD}


def answer(here: Verification, method: bytes = b"GET", uri: bytes = b"/x", **client: Any) -> bytes:
    value = here.client(**client).authorize(method, uri)
    assert value is not None
    return value


def is_proof(outcome: Authenticated | Unauthenticated) -> bool:
    return isinstance(outcome, Authenticated)


def reason(outcome: Authenticated | Unauthenticated) -> AuthReason:
    assert isinstance(outcome, Unauthenticated)
    assert outcome.stale is (outcome.reason in STALE)
    return outcome.reason


def counted(here: Verification, counters: list[int], uri: bytes = b"/x") -> Iterator[bytes]:
    """Credentials under one nonce with exactly these counters."""
    nonce = parse_challenges([here.challenge()])[0].nonce
    secret = ha1("alice", REALM, PASSWORD, Algorithm.SHA_256).encode()
    for number in counters:
        nc = b"%08x" % number
        made = response(Algorithm.SHA_256, ha1=secret, nonce=nonce, nc=nc, cnonce=b"c", method=b"GET", uri=uri)
        yield build_authorization(
            username=b"alice",
            realm=REALM.encode(),
            nonce=nonce,
            uri=uri,
            algorithm=Algorithm.SHA_256,
            cnonce=b"c",
            nc=nc,
            response=made,
        )


def test_check_of_good_credentials_is_a_proof() -> None:
    """User and algorithm are in the proof."""
    here = Verification()
    proof = here.check(answer(here))
    assert isinstance(proof, Authenticated)
    assert (proof.user, proof.algorithm) == ("alice", "SHA-256")
    assert repr(proof) == "Authenticated(user='alice', algorithm='SHA-256')"


@settings(deadline=None)
@given(
    name=st.from_regex(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", fullmatch=True),
    password=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=50),
    realm=st.text(st.characters(min_codepoint=0x20, max_codepoint=0x7E), min_size=1, max_size=50),
    method=st.sampled_from([b"GET", b"POST", b"M-SEARCH"]),
    uri=st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=100).map(str.encode),
    algorithm=st.sampled_from(Algorithm),
)
def test_check_accepts_what_our_own_client_answers(
    name: str, password: str, realm: str, method: bytes, uri: bytes, algorithm: Algorithm
) -> None:
    """Client and verifier agree for every name, password, realm, method, target and algorithm."""
    here = Verification(
        user(name, password, realm=realm, algorithms=(algorithm,)), realm=realm, algorithms=(algorithm,)
    )
    client = here.client(name, password, algorithms=(algorithm,))
    for _ in range(3):
        value = client.authorize(method, uri) or b""
        assert is_proof(here.check(value, method=method, uri=uri, expected_user=name))
        assert reason(here.check(value, method=method, uri=uri, expected_user=name)) is AuthReason.REPLAYED_NC
    wrong = here.client(name, password + "x", algorithms=(algorithm,)).authorize(method, uri) or b""
    assert reason(here.check(wrong, method=method, uri=uri, expected_user=name)) is AuthReason.BAD_RESPONSE


# --- Every reason, from one good request with one thing broken -------------------------------------------------------


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        pytest.param(b"Digest ", b"Basic ", AuthReason.SCHEME, id="scheme"),
        pytest.param(b'username="alice", ', b"", AuthReason.MALFORMED, id="missing_parameter"),
        pytest.param(b"qop=auth", b"qop=auth, qop=auth", AuthReason.MALFORMED, id="twice"),
        pytest.param(b"qop=auth", b"qop=auth, userhash=true", AuthReason.MALFORMED, id="userhash"),
        pytest.param(b"nc=00000001", b"nc=1", AuthReason.MALFORMED, id="nc"),
        pytest.param(REALM.encode(), b"rhttp@EXAMPLE.internal", AuthReason.REALM, id="realm"),
        pytest.param(b'uri="/x"', b'uri="/y"', AuthReason.URI, id="uri"),
        pytest.param(b'uri="/x"', b'uri="/%78"', AuthReason.URI, id="uri_encoded_alike"),
        pytest.param(b'uri="/x"', b'uri="https://localhost/x"', AuthReason.URI, id="uri_absolute"),
        pytest.param(b'uri="/x"', b'uri="/x?"', AuthReason.URI, id="uri_empty_query"),
        pytest.param(b"SHA-256", b"SHA-512-256", AuthReason.ALGORITHM, id="algorithm_not_offered"),
        pytest.param(b"SHA-256", b"SHA-256-sess", AuthReason.ALGORITHM, id="algorithm_session"),
        pytest.param(b" algorithm=SHA-256,", b"", AuthReason.ALGORITHM, id="algorithm_absent_means_md5"),
        pytest.param(b"qop=auth", b"qop=auth-int", AuthReason.QOP, id="qop"),
        pytest.param(b"qop=auth", b"qop=AUTH", AuthReason.QOP, id="qop_case"),
        pytest.param(b"qop=auth, nc=00000001, ", b"", AuthReason.QOP, id="qop_absent"),
        pytest.param(b'"alice"', b'"bob"', AuthReason.USER_MISMATCH, id="user_mismatch"),
        pytest.param(b'"alice"', b'"Alice"', AuthReason.USER_MISMATCH, id="user_case"),
        pytest.param(b"nc=00000001", b"nc=00000002", AuthReason.BAD_RESPONSE, id="nc_changed"),
        pytest.param(b'cnonce="', b'cnonce="0', AuthReason.BAD_RESPONSE, id="cnonce_changed"),
        pytest.param(b'response="', b'response="0', AuthReason.BAD_RESPONSE, id="response_longer"),
    ],
)
def test_check_of_one_thing_broken_gives_its_reason(old: bytes, new: bytes, why: AuthReason) -> None:
    """Every fault has its reason, and the credentials are still good afterwards: nothing was spent."""
    here = Verification()
    value = answer(here)
    assert old in value
    assert reason(here.check(value.replace(old, new))) is why
    assert len(here.ledger) == 0
    assert is_proof(here.check(value))


def test_check_without_the_field_is_absent_and_with_two_malformed() -> None:
    """Exactly one field: none is the only reason that policy may forgive, two are never guessed about."""
    here = Verification()
    value = answer(here)
    assert reason(here.check()) is AuthReason.ABSENT
    assert reason(here.check(value, value)) is AuthReason.MALFORMED
    assert reason(here.check(value, b"")) is AuthReason.MALFORMED
    assert is_proof(here.check(value))


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({"method": b"POST"}, AuthReason.BAD_RESPONSE),
        ({"method": b"get"}, AuthReason.BAD_RESPONSE),
        ({"uri": b"/y"}, AuthReason.URI),
        ({"listener": b"dispatch"}, AuthReason.NONCE_FORGED),
        ({"binding": b"\x02" * 32}, AuthReason.NONCE_FORGED),
        ({"now": NOW + 300}, AuthReason.NONCE_STALE),
        ({"expected_user": "bob"}, AuthReason.USER_MISMATCH),
    ],
)
def test_check_for_another_request_or_peer_gives_its_reason(asked: dict[str, Any], why: AuthReason) -> None:
    """Credentials are for one method, target, listener, certificate, time and user."""
    here = Verification()
    value = answer(here)
    assert reason(here.check(value, **asked)) is why
    assert is_proof(here.check(value))
    assert reason(here.check(value, **asked)) is why


def test_check_nonce_of_another_key_is_forged_and_stale() -> None:
    """After a restart old nonces are not ours any more; the client is told stale and gets on by itself."""
    before, after = Verification(), Verification(key=b"n" * 32)
    outcome = after.check(answer(before))
    assert outcome == Unauthenticated(AuthReason.NONCE_FORGED, stale=True)


def test_check_nonce_of_another_realm_is_forged() -> None:
    """Two realms with one key do not take each other's nonces, even when the realm parameter is made to fit."""
    other = Verification(realm="other")
    value = answer(other).replace(b'realm="other"', b'realm="%b"' % REALM.encode())
    assert reason(Verification().check(value)) is AuthReason.NONCE_FORGED


def test_check_of_unknown_and_disabled_users_gives_their_reasons() -> None:
    """The log tells them apart, with the right password or the wrong one; the peer gets the same 401."""
    gone = Verification(user("bob"))
    assert reason(gone.check(answer(gone))) is AuthReason.UNKNOWN_USER
    disabled = Verification(user(enabled=False))
    assert reason(disabled.check(answer(disabled))) is AuthReason.USER_DISABLED
    assert reason(disabled.check(answer(disabled, password="wrong"))) is AuthReason.USER_DISABLED


def test_check_of_a_user_without_that_algorithm_says_so() -> None:
    """A password set before an algorithm was offered cannot be verified by it."""
    here = Verification(user(), algorithms=("SHA-512-256", "SHA-256"))
    assert reason(here.check(answer(here, algorithms=(Algorithm.SHA_512_256,)))) is AuthReason.ALGORITHM
    assert is_proof(here.check(answer(here)))


@pytest.mark.parametrize("users", [[user("bob")], [user(enabled=False)]])
def test_check_never_accepts_the_dummy(users: list[Any]) -> None:
    """A response computed from the dummy H(A1), which everybody can read here, is no proof."""
    here = Verification(*users)
    sent = parse_authorization(answer(here))
    assert isinstance(sent, DigestCredentials)
    forged = response(
        Algorithm.SHA_256,
        ha1=auth.verifier.DUMMY_HA1[Algorithm.SHA_256],
        nonce=sent.nonce,
        nc=sent.nc_text,
        cnonce=sent.cnonce,
        method=b"GET",
        uri=b"/x",
    )
    assert not is_proof(here.check(answer(here).replace(sent.response, forged)))
    assert not is_proof(
        here.check(
            build_authorization(
                username=b"alice",
                realm=REALM.encode(),
                nonce=sent.nonce,
                uri=b"/x",
                algorithm=Algorithm.SHA_256,
                cnonce=sent.cnonce,
                nc=sent.nc_text,
                response=forged,
            )
        )
    )


@pytest.mark.parametrize(
    "users", [[user()], [user("bob")], [user(enabled=False)]], ids=["known", "unknown", "disabled"]
)
@pytest.mark.parametrize("name", ["alice", "mallory"])
def test_check_does_the_same_work_whoever_the_user_is(
    users: list[Any], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whether a user exists must not show in the time: one response is computed and compared in every case."""
    work: list[tuple[int, int]] = []
    compare = auth.verifier.compare_digest

    def counting_compare(one: bytes, two: bytes) -> bool:
        work.append((len(one), len(two)))
        return compare(one, two)

    monkeypatch.setattr(auth.verifier, "compare_digest", counting_compare)
    here = Verification(*users)
    assert not is_proof(here.check(answer(here, name=name, password="wrong")))
    assert work == [(64, 64)]


# --- Counters --------------------------------------------------------------------------------------------------------


def test_check_out_of_order_within_the_window_is_accepted_once() -> None:
    """Slots of one agent share a nonce and overtake each other."""
    here = Verification()
    values = dict(zip([1, 3, 2, 1000], counted(here, [1, 3, 2, 1000]), strict=True))
    assert all(is_proof(here.check(value)) for value in values.values())
    assert all(reason(here.check(value)) is AuthReason.REPLAYED_NC for value in values.values())


def test_check_below_the_window_is_too_old() -> None:
    """A counter that can no longer be told from a spent one counts as spent."""
    here = Verification()
    late, edge, new = counted(here, [1, 2, 1025])
    assert is_proof(here.check(new))
    assert is_proof(here.check(edge))
    assert reason(here.check(late)) is AuthReason.NC_TOO_OLD


def test_check_of_a_wrong_response_spends_no_counter() -> None:
    """A stranger who saw a nonce cannot burn its owner's counters."""
    here = Verification()
    (value,) = counted(here, [7])
    sent = parse_authorization(value)
    assert isinstance(sent, DigestCredentials)
    assert reason(here.check(value.replace(sent.response, b"0" * 64))) is AuthReason.BAD_RESPONSE
    assert is_proof(here.check(value))


def test_check_beyond_256_nonces_makes_the_identity_s_oldest_stale() -> None:
    """An identity that hoards nonces loses its oldest; with ``stale`` it gets on by itself."""
    here = Verification()
    clients = []
    for number in range(257):
        client = DigestClient("alice", PASSWORD, entropy=here.entropy)
        assert client.challenged([here.challenge(now=NOW + number / 10)])
        assert is_proof(here.check(client.authorize(b"GET", b"/x") or b"", now=NOW + number / 10))
        clients.append(client)
    assert reason(here.check(clients[0].authorize(b"GET", b"/x") or b"", now=NOW + 65)) is AuthReason.NONCE_STALE
    assert is_proof(here.check(clients[1].authorize(b"GET", b"/x") or b"", now=NOW + 65))
    assert clients[0].challenged([here.challenge(now=NOW + 65, stale=True)]) is True
    assert is_proof(here.check(clients[0].authorize(b"GET", b"/x") or b"", now=NOW + 65))


def test_check_on_a_full_ledger_still_lets_everyone_in() -> None:
    """Overflow costs the oldest nonces, never the newest peer."""
    here = Verification(*[user(f"u{number}") for number in range(12)], ledger=NonceLedger(total=4))
    for number in range(12):
        name, now = f"u{number}", NOW + number
        client = DigestClient(name, PASSWORD, entropy=here.entropy)
        client.challenged([here.challenge(now=now)])
        assert is_proof(here.check(client.authorize(b"GET", b"/x") or b"", expected_user=name, now=now))
    assert len(here.ledger) == 4


# --- Whatever bytes come ---------------------------------------------------------------------------------------------


@settings(deadline=None)
@given(st.data())
def test_check_of_mutated_credentials_accepts_no_other_meaning(data: st.DataObject) -> None:
    """Cutting, doubling and replacing bytes never raises, and never yields a proof for anything but the original."""
    here = Verification()
    value = answer(here)
    mutated = bytearray(value)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(mutated)))
        to = data.draw(st.integers(at, min(len(mutated), at + 12)))
        mutated[at:to] = data.draw(
            st.sampled_from([b"", b'"', b"\\", b", ", b"=", b"\x00", b"\xff", b"a", bytes(mutated[at:to]) * 2])
            | st.binary(max_size=3)
        )
    outcome = here.check(bytes(mutated))
    if isinstance(outcome, Authenticated):
        left, right = parse_authorization(bytes(mutated)), parse_authorization(value)
        names = set(attributes(DigestCredentials))
        assert {name: getattr(left, name) for name in names} == {name: getattr(right, name) for name in names}


@settings(deadline=None)
@given(st.lists(st.binary(max_size=100), max_size=3), st.binary(max_size=10), st.binary(max_size=10))
def test_check_of_any_bytes_never_raises(values: list[bytes], method: bytes, uri: bytes) -> None:
    """Noise is refused, whatever else is in the request."""
    assert reason(Verification().check(*values, method=method, uri=uri)) in AuthReason


# --- Challenges ------------------------------------------------------------------------------------------------------


def test_challenge_is_one_sha_256_challenge_by_default() -> None:
    """A second challenge would be taken first by some clients; ours is alone, and stale only when asked."""
    here = Verification()
    (plain,), (stale,) = parse_challenges([here.challenge()]), parse_challenges([here.challenge(stale=True)])
    assert (plain.realm, plain.algorithm, plain.qop) == (REALM, Algorithm.SHA_256, {b"auth"})
    assert (plain.is_stale, stale.is_stale) == (False, True)
    assert plain.nonce != stale.nonce


def test_challenge_with_several_algorithms_offers_all_and_takes_all() -> None:
    """With more configured, each has its challenge in order; an absent algorithm is then MD5."""
    offered = (Algorithm.SHA_512_256, Algorithm.SHA_256, Algorithm.MD5)
    here = Verification(user(algorithms=offered), algorithms=offered)
    assert [one.algorithm for one in parse_challenges([here.challenge()])] == list(offered)
    for algorithm in offered:
        proof = here.check(answer(here, algorithms=(algorithm,)))
        assert isinstance(proof, Authenticated)
        assert proof.algorithm == algorithm
    assert is_proof(here.check(answer(here, algorithms=(Algorithm.MD5,)).replace(b" algorithm=MD5,", b"")))
    assert is_proof(here.check(answer(here).replace(b"SHA-256", b"sha-256")))


@pytest.mark.parametrize(
    ("realm", "algorithms"), [("", ["MD5"]), ("ä", ["MD5"]), ("a\n", ["MD5"]), ("r", []), ("r", ["X"])]
)
def test_verifier_that_cannot_work_is_not_made(realm: str, algorithms: list[str]) -> None:
    """A realm that cannot travel or an algorithm that is not built is refused at once, not request by request."""
    issuer = NonceIssuer(NonceKey(b"k" * 32), realm.encode())
    with pytest.raises(ValueError):  # noqa: PT011 - two sources, one promise
        DigestVerifier(realm, algorithms, issuer, NonceLedger())


def test_check_remembers_nothing_across_peers() -> None:
    """A verdict kept for one peer is not another's: alternating peers get the same answers every time."""
    here = Verification()
    values = list(counted(here, [1, 2, 3]))
    for value in values:
        assert reason(here.check(value, binding=b"other")) is AuthReason.NONCE_FORGED
        assert is_proof(here.check(value, binding=BINDING))


# --- What real clients send ------------------------------------------------------------------------------------------


def test_check_accepts_python_requests() -> None:
    """requests quotes algorithm and qop; several requests go under one challenge."""
    here = Verification()
    digest = requests.auth.HTTPDigestAuth("alice", PASSWORD)
    digest.init_per_thread_state()
    challenge = here.challenge().decode().removeprefix("Digest ")
    digest._thread_local.chal = requests.utils.parse_dict_header(challenge)
    for nc in (b"00000001", b"00000002"):
        value = (digest.build_digest_header("GET", "https://localhost:8443/x?a=b,c") or "").encode()
        assert b'algorithm="SHA-256", qop="auth", nc=' + nc in value
        assert is_proof(here.check(value, uri=b"/x?a=b,c"))
        assert reason(here.check(value, uri=b"/x?a=b,c")) is AuthReason.REPLAYED_NC


def test_check_accepts_httpx() -> None:
    """httpx answers a 401 by itself and reuses the challenge."""
    here = Verification()
    seen: list[AuthReason | None] = []

    def gateway(request: httpx.Request) -> httpx.Response:
        values = [value for name, value in request.headers.raw if name.lower() == b"authorization"]
        outcome = here.check(*values, method=request.method.encode(), uri=request.url.raw_path)
        seen.append(None if isinstance(outcome, Authenticated) else outcome.reason)
        if isinstance(outcome, Authenticated):
            return httpx.Response(200)
        return httpx.Response(401, headers={"WWW-Authenticate": here.challenge(stale=outcome.stale).decode()})

    with httpx.Client(transport=httpx.MockTransport(gateway), auth=httpx.DigestAuth("alice", PASSWORD)) as client:
        assert [client.post("https://localhost/x?q=%20", content=b"c").status_code for _ in range(2)] == [200, 200]
    assert seen == [AuthReason.ABSENT, None, None]


@pytest.mark.parametrize(
    "template",
    [
        pytest.param(
            'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", algorithm=SHA-256, '
            'response="{response}", qop=auth, nc={nc}, cnonce="{cnonce}"',
            id="load_rig",
        ),
        pytest.param(
            'Digest username="{user}", realm="{realm}", nonce="{nonce}", uri="{uri}", cnonce="{cnonce}", nc={nc}, '
            'qop=auth, response="{response}", algorithm=SHA-256',
            id="curl_7_88",
        ),
        pytest.param(
            'Digest username="{user}",realm="{realm}",nonce="{nonce}",uri="{uri}",qop="auth",nc={nc},'
            'cnonce="{cnonce}",response="{response}",algorithm="SHA-256"',
            id="by_hand_in_node",
        ),
    ],
)
def test_check_accepts_the_order_of(template: str) -> None:
    """Orders and quoting of clients that are not in Python."""
    here = Verification()
    sent = parse_authorization(answer(here))
    assert isinstance(sent, DigestCredentials)
    value = template.format(
        user="alice",
        realm=REALM,
        nonce=sent.nonce.decode(),
        uri="/x",
        response=sent.response.decode(),
        nc=sent.nc_text.decode(),
        cnonce=sent.cnonce.decode(),
    )
    assert is_proof(here.check(value.encode()))
