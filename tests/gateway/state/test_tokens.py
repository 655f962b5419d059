"""Enrolment tokens in both databases: uses are taken once, told again for a while, and nothing grows for ever."""

from __future__ import annotations

import multiprocessing
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from queue import SimpleQueue
from threading import Thread

import pytest
from sqlalchemy import Connection, Engine, func, insert, select, update

import pki.tables
from auth.errors import CredentialsUnavailable
from gateway.state import tokens as module
from gateway.state.database import bump, open_state, read_version, reading, upgrade_schema
from gateway.state.tokens import (
    KEEP_SECONDS,
    TokenStore,
    TokenUnknown,
    TooManyTokens,
    Use,
    check_use,
    read_grants,
    take_use,
)
from pki.enrolment import REPEAT_SECONDS, EnrolmentToken, TokenReason, TokenRefused, Wanted, build_token_id
from pki.names import Role
from pki.tables import enrolment_tokens, enrolment_uses
from rhttp.digest.formula import Algorithm, ha1

KEY = b"k" * 32
REALM = "rhttp@example.internal"
SECRET = "s" * 32
W1 = Wanted(role=Role.WORKER, name="w1")
KEY_A, KEY_B = "aa" * 32, "bb" * 32


def token_id(number: int = 1) -> str:
    return build_token_id(number.to_bytes(8, "big"))


ID = token_id()
TOKEN = EnrolmentToken(id=ID, role=Role.WORKER, pool="render", labels={"gpu": "a100"}, created_at=1000, expires_at=4600)


@pytest.fixture
def engine(empty_url: str, tmp_path: Path) -> Iterator[Engine]:
    """A database of either kind, with the newest schema."""
    made = open_state(tmp_path, empty_url)
    upgrade_schema(made)
    yield made
    made.dispose()


@pytest.fixture
def store(engine: Engine) -> TokenStore:
    return TokenStore(engine, bump)


def add(engine: Engine, token: EnrolmentToken = TOKEN, secret: str = SECRET) -> None:
    with engine.begin() as connection:
        TokenStore(engine, bump).add(token, secret, realm=REALM, state_key=KEY, connection=connection)


def take(
    engine: Engine, wanted: Wanted = W1, *, key: str = KEY_A, serial: str = "01", at: int = 1001, token: str = ID
) -> Use:
    with engine.begin() as connection:
        return take_use(connection, token, wanted, key_hash=key, serial=serial, at=at, on_write=bump)


def refusal(engine: Engine, wanted: Wanted = W1, **how: object) -> TokenReason:
    """The reason of `take_use`, which `check_use` gives as well; neither leaves anything."""
    before = TokenStore(engine, bump).list()
    with pytest.raises(TokenRefused) as caught:
        take(engine, wanted, **how)  # type: ignore[arg-type]
    with reading(engine) as connection, pytest.raises(TokenRefused) as asked:
        check_use(
            connection,
            str(how.get("token", ID)),
            wanted,
            key_hash=str(how.get("key", KEY_A)),
            at=int(str(how.get("at", 1001))),
        )
    assert asked.value.reason is caught.value.reason
    assert TokenStore(engine, bump).list() == before
    return caught.value.reason


def count(engine: Engine, table: object) -> int:
    with reading(engine) as connection:
        return int(connection.execute(select(func.count()).select_from(table)).scalar_one())  # type: ignore[arg-type]


def enter_certificate(engine: Engine, **values: object) -> None:
    """A certificate of the worker w1, good until 2,000."""
    row = {"serial": "77", "name": "w1", "role": "worker", "pool": "render", "fingerprint": "f", "issuer": "ca"}
    with engine.begin() as connection:
        connection.execute(
            insert(pki.tables.authorities).values(fingerprint="ca", role="worker", not_before=0, not_after=9, pem="")
        )
        connection.execute(insert(pki.tables.identities).values(name="w1", role="worker", pool="render", created_at=0))
        connection.execute(
            insert(pki.tables.certificates).values(
                **row | {"not_before": 0, "not_after": 2000, "pem": "", "issued_at": 0} | values
            )
        )


def test_token_reads_back_as_it_was_made(engine: Engine, store: TokenStore) -> None:
    """Every rule of it is kept, the newest comes first, and a write is counted."""
    other = replace(
        TOKEN, id=token_id(2), role=Role.CLIENT, pool=None, labels={}, name_prefix="c-", uses=7, created_at=1500
    )
    add(engine)
    add(engine, other)
    assert store.list() == (other, TOKEN)
    assert read_version(engine) == 2


def test_secret_is_nowhere_in_the_database(engine: Engine) -> None:
    """Neither the secret nor what Digest makes of it can be read without the state key."""
    add(engine)
    hashed = ha1(ID, REALM, SECRET, Algorithm.SHA_256)
    with reading(engine) as connection:
        stored = repr(connection.execute(select(enrolment_tokens)).all()).encode()
        sealed = connection.execute(select(enrolment_tokens.c.sealed)).scalar_one()
    for secret in (SECRET.encode(), hashed.encode(), bytes.fromhex(hashed)):
        assert secret not in stored
        assert secret not in bytes(sealed)


def test_credentials_are_those_that_digest_computes(engine: Engine) -> None:
    """The id is the user name and the secret the password, in the home's realm, with SHA-256."""
    add(engine)
    with reading(engine) as connection:
        (found,) = read_grants(connection, KEY, at=1001)
        with pytest.raises(CredentialsUnavailable, match=f"token revoke {ID}"):
            read_grants(connection, b"x" * 32, at=1001)
    assert (found.id, found.role, found.pool) == (ID, TOKEN.role.value, TOKEN.pool)
    assert found.ha1 == {"SHA-256": ha1(ID, REALM, SECRET, Algorithm.SHA_256)}


def test_sealed_secret_of_one_token_opens_for_no_other(engine: Engine) -> None:
    """Who may write to the database cannot give a token another one's secret."""
    add(engine)
    add(engine, replace(TOKEN, id=token_id(2)))
    sealed = enrolment_tokens.c.sealed
    with engine.begin() as connection:
        first = connection.execute(select(sealed).where(enrolment_tokens.c.id == ID)).scalar_one()
        connection.execute(update(enrolment_tokens).values(sealed=first))
        with pytest.raises(CredentialsUnavailable):
            read_grants(connection, KEY, at=1001)


@pytest.mark.parametrize(
    ("changes", "at", "there"),
    [
        ({}, 4599, True),
        ({}, 4600, False),
        ({"uses": 2, "used": 2, "used_at": 1500}, 1500 + REPEAT_SECONDS - 1, True),
        ({"uses": 2, "used": 2, "used_at": 1500}, 1500 + REPEAT_SECONDS, False),
        ({"uses": 2, "used": 1, "used_at": 4590}, 4590 + REPEAT_SECONDS - 1, True),
        ({"uses": 2, "used": 1, "used_at": 4590}, 4590 + REPEAT_SECONDS, False),
        ({"revoked_at": 1500}, 1501, False),
        ({"used": 1, "used_at": 1500, "revoked_at": 1500}, 1501, False),
    ],
)
def test_credentials_are_of_tokens_that_have_something_to_ask_for(
    engine: Engine, changes: dict[str, int], at: int, there: bool
) -> None:
    """A token that ended is asked for its secret only while its last use may be told again."""
    add(engine, replace(TOKEN, **changes))  # type: ignore[arg-type]
    with reading(engine) as connection:
        assert [one.id for one in read_grants(connection, KEY, at=at)] == ([ID] if there else [])


def test_use_is_taken_as_often_as_the_token_says(engine: Engine, store: TokenStore) -> None:
    """Each with a key of its own; the last one is good, the next is not."""
    add(engine, replace(TOKEN, uses=2))
    assert take(engine, key=KEY_A, serial="01") == Use(serial="01", repeated=False)
    assert take(engine, key=KEY_B, serial="02", at=1002) == Use(serial="02", repeated=False)
    assert refusal(engine, key="cc" * 32, serial="03", at=1003) is TokenReason.USED_UP
    (token,) = store.list()
    assert (token.used, token.used_at, token.state(1003)) == (2, 1002, "used_up")


def test_use_of_a_transaction_that_is_undone_is_not_taken(engine: Engine, store: TokenStore) -> None:
    """When the certificate cannot be entered, the token has lost nothing."""
    add(engine)
    with engine.connect() as connection:
        take_use(connection, ID, W1, key_hash=KEY_A, serial="01", at=1001, on_write=bump)
        connection.rollback()
    assert store.list() == (TOKEN,)
    assert take(engine).repeated is False


@pytest.mark.parametrize(
    ("changes", "wanted", "how", "reason"),
    [
        ({}, W1, {"token": token_id(9)}, TokenReason.UNKNOWN),
        ({}, W1, {"at": 4600}, TokenReason.EXPIRED),
        ({"revoked_at": 1000}, W1, {}, TokenReason.REVOKED),
        ({}, Wanted(role=Role.CLIENT, name="w1"), {}, TokenReason.WRONG_ROLE),
        ({}, Wanted(role=Role.WORKER, name="w1", pool="other"), {}, TokenReason.WRONG_POOL),
        ({"name": "w2"}, W1, {}, TokenReason.WRONG_NAME),
        ({"name_prefix": "x-"}, W1, {}, TokenReason.WRONG_NAME),
    ],
)
def test_use_is_refused_for_each_reason(
    engine: Engine, changes: dict[str, object], wanted: Wanted, how: dict[str, object], reason: TokenReason
) -> None:
    """Beforehand and when it is taken, alike, and nothing is left of the attempt."""
    add(engine, replace(TOKEN, **changes))  # type: ignore[arg-type]
    assert refusal(engine, wanted, **how) is reason
    assert count(engine, enrolment_uses) == 0


@pytest.mark.parametrize(
    ("certificate", "changes", "refused"),
    [
        ({}, {}, True),
        ({}, {"name_prefix": "w"}, True),
        ({}, {"name": "w1"}, False),
        ({"not_after": 1001}, {}, True),
        ({"not_after": 1000}, {}, False),
        ({"revoked_at": 5, "reason": "superseded"}, {}, False),
    ],
)
def test_use_for_a_name_that_somebody_holds_takes_a_token_for_that_name(
    engine: Engine, certificate: dict[str, object], changes: dict[str, object], refused: bool
) -> None:
    """Whoever has a token for many names becomes none of those who are there already."""
    enter_certificate(engine, **certificate)
    add(engine, replace(TOKEN, **changes))  # type: ignore[arg-type]
    if refused:
        assert refusal(engine) is TokenReason.NAME_HELD
    else:
        assert take(engine).repeated is False


def test_same_key_within_ten_minutes_is_the_same_use(engine: Engine, store: TokenStore) -> None:
    """Whoever lost the answer gets it again, also of a token that is used up or expired since; no use is taken."""
    add(engine, replace(TOKEN, expires_at=1100))
    take(engine, serial="01", at=1001)
    enter_certificate(engine, serial="01")
    for at in (1001, 1100, 1001 + REPEAT_SECONDS - 1):
        assert take(engine, serial="02", at=at) == Use(serial="01", repeated=True)
        with reading(engine) as connection:
            assert check_use(connection, ID, W1, key_hash=KEY_A, at=at) == "01"
    assert refusal(engine, serial="02", at=1001 + REPEAT_SECONDS) is TokenReason.USED_UP
    assert [token.used for token in store.list()] == [1]


def test_same_key_of_a_revoked_token_is_refused(engine: Engine, store: TokenStore) -> None:
    """What is revoked gives out nothing, not even again."""
    add(engine)
    take(engine)
    assert store.revoke(ID, 1002)
    assert refusal(engine, at=1003) is TokenReason.REVOKED


@pytest.mark.parametrize(("key", "name"), [(KEY_B, "w1"), (KEY_A, "w2")])
def test_other_key_or_name_is_another_use(engine: Engine, key: str, name: str) -> None:
    """The certificate of before says neither, so it is not what is asked for."""
    add(engine, replace(TOKEN, uses=2))
    take(engine, serial="01")
    wanted = replace(W1, name=name)
    assert take(engine, wanted, key=key, serial="02") == Use(serial="02", repeated=False)
    with pytest.raises(TokenRefused, match="used_up"):
        take(engine, wanted, key="cc" * 32, serial="03")


def test_same_key_after_ten_minutes_takes_a_use_of_its_own(engine: Engine) -> None:
    """And from then on that one is told again."""
    add(engine, replace(TOKEN, uses=2))
    take(engine, serial="01", at=1001)
    later = 1001 + REPEAT_SECONDS
    assert take(engine, serial="02", at=later) == Use(serial="02", repeated=False)
    assert take(engine, serial="03", at=later + 1) == Use(serial="02", repeated=True)
    assert count(engine, enrolment_uses) == 1  # the old one went when the new one came


def test_revoke_says_whether_it_changed_anything(engine: Engine, store: TokenStore) -> None:
    """The time of the first one stays; an id that nobody knows is an error with the mend."""
    add(engine)
    assert [store.revoke(ID, 1500), store.revoke(ID, 1600)] == [True, False]
    assert [(token.revoked_at, token.state(1600)) for token in store.list()] == [(1500, "revoked")]
    with pytest.raises(TokenUnknown, match="token list"):
        store.revoke(token_id(9), 1500)


@pytest.mark.parametrize(
    "ended",
    [
        {"created_at": 0, "expires_at": 5000},
        {"revoked_at": 5000, "expires_at": 10**6},
        {"used": 1, "used_at": 5000, "expires_at": 10**6},
    ],
)
def test_token_that_ended_is_forgotten_thirty_days_later(
    engine: Engine, store: TokenStore, ended: dict[str, int]
) -> None:
    """However it ended; told apart when the next one is made."""
    add(engine, replace(TOKEN, **ended))  # type: ignore[arg-type]
    gone = 5000 + KEEP_SECONDS
    for number, at, left in ((2, gone - 1, True), (3, gone, False)):
        add(engine, replace(TOKEN, id=token_id(number), created_at=at, expires_at=at + 60))
        assert (ID in {token.id for token in store.list()}) is left


def test_tokens_that_ended_are_kept_up_to_a_number(
    engine: Engine, store: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest end goes first; one whose use may be told again stays for that."""
    monkeypatch.setattr(module, "MAX_ENDED", 2)
    for number, expires in ((1, 1500), (2, 1300), (3, 1400), (4, 1200)):
        add(engine, replace(TOKEN, id=token_id(number), expires_at=expires))
    take(engine, token=token_id(4), at=1190)
    add(engine, replace(TOKEN, id=token_id(5), created_at=1600, expires_at=9000))
    assert {token.id for token in store.list()} == {token_id(number) for number in (1, 3, 4, 5)}
    add(engine, replace(TOKEN, id=token_id(6), created_at=1190 + REPEAT_SECONDS, expires_at=9000))
    assert {token.id for token in store.list()} == {token_id(number) for number in (1, 3, 5, 6)}
    assert count(engine, enrolment_uses) == 0


def test_live_tokens_have_a_number_that_they_do_not_pass(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """The one too many is refused with the mend; those that ended do not count."""
    monkeypatch.setattr(module, "MAX_LIVE", 2)
    add(engine)
    add(engine, replace(TOKEN, id=token_id(2)))
    with pytest.raises(TooManyTokens, match="token revoke"):
        add(engine, replace(TOKEN, id=token_id(3)))
    take(engine)
    add(engine, replace(TOKEN, id=token_id(3), created_at=1002))
    assert count(engine, enrolment_tokens) == 3


def _take_often(home: str, url: str, number: int, granted: multiprocessing.SimpleQueue[int]) -> None:
    """Try 15 keys of one's own, with nothing but the UPDATE itself between us and the others."""
    engine = open_state(Path(home), url)
    mine = 0
    for attempt in range(15):
        serial = f"{number:02x}{attempt:02x}"
        try:
            with engine.begin() as connection:
                take_use(connection, ID, W1, key_hash=serial, serial=serial, at=1001, on_write=lambda _: None)
                mine += 1
        except TokenRefused:
            pass
    granted.put(mine)
    engine.dispose()


def test_uses_are_never_more_than_there_are_however_many_processes_race(
    engine: Engine, store: TokenStore, empty_url: str, tmp_path: Path
) -> None:
    """Four processes want 60 uses of 20 at once: 20 are given, and written down."""
    add(engine, replace(TOKEN, uses=20))
    context = multiprocessing.get_context("spawn")
    granted = context.SimpleQueue()
    takers = [
        context.Process(target=_take_often, args=(str(tmp_path), empty_url, number, granted)) for number in range(4)
    ]
    for taker in takers:
        taker.start()
    for taker in takers:
        taker.join(60)
    assert [taker.exitcode for taker in takers] == [0] * 4
    assert sum(granted.get() for _ in takers) == 20
    assert [token.used for token in store.list()] == [20]
    assert count(engine, enrolment_uses) == 20


def test_same_key_in_two_transactions_at_once_takes_one_use(engine: Engine, store: TokenStore) -> None:
    """The second waits for the first, and is told its certificate."""
    add(engine, replace(TOKEN, uses=5))
    answers: SimpleQueue[Use] = SimpleQueue()
    with engine.begin() as connection:
        first = take_use(connection, ID, W1, key_hash=KEY_A, serial="01", at=1001, on_write=bump)
        second = Thread(target=lambda: answers.put(take(engine, serial="02")))
        second.start()
    second.join(30)
    assert (first, answers.get(timeout=1)) == (Use(serial="01", repeated=False), Use(serial="01", repeated=True))
    assert [token.used for token in store.list()] == [1]


def test_use_that_was_overtaken_between_asking_and_taking_is_refused(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was read before does not count: the UPDATE sees what is there, and says why."""
    real = module.judge_use

    def check(changes: dict[str, int]) -> TokenReason:
        def overtaken(*arguments: object, **options: object) -> TokenReason | None:
            connection.execute(update(enrolment_tokens).values(**changes))
            return real(*arguments, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(module, "judge_use", overtaken)
        connection: Connection
        with engine.connect() as connection:
            with pytest.raises(TokenRefused) as caught:
                take_use(connection, ID, W1, key_hash=KEY_A, serial="01", at=1001, on_write=bump)
            connection.rollback()
        return caught.value.reason

    add(engine)
    assert check({"revoked_at": 1001}) is TokenReason.REVOKED
    assert check({"used": 1, "used_at": 1001}) is TokenReason.USED_UP
    assert check({"expires_at": 1001}) is TokenReason.EXPIRED
