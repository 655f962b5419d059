"""The credential store: what it keeps, what it refuses, and that what is sealed stays where it belongs."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import pytest
from sqlalchemy import Connection, Engine, create_engine, event, insert, select, update

from auth.errors import CredentialsUnavailable, PasswordRefused, UserExists, UserNameInvalid, UserUnknown
from auth.store import Holder, StoredUser, UserStore, read_users, seal_ha1, unseal_ha1
from auth.tables import metadata, user_credentials, users
from rhttp.digest.formula import Algorithm, ha1

KEY = b"s" * 32
REALM = "rhttp@example.internal"


@pytest.fixture
def engine() -> Iterator[Engine]:
    made = create_engine("sqlite://")
    event.listen(made, "connect", lambda raw, _: raw.execute("PRAGMA foreign_keys = ON"))
    metadata.create_all(made)
    yield made
    made.dispose()


class Writes:
    """Counts what `on_write` is told, once it is committed: what is refused is undone."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, connection: Connection) -> None:
        assert connection.in_transaction()
        event.listen(connection, "commit", self._committed, once=True)

    def _committed(self, _: Connection) -> None:
        self.count += 1


@pytest.fixture
def writes() -> Writes:
    return Writes()


def open_store(engine: Engine, writes: Writes, key: bytes | None = KEY, **options: tuple[str, ...]) -> UserStore:
    ticks = count(1000)
    return UserStore(engine, key, REALM, writes, clock=lambda: float(next(ticks)), **options)


@pytest.fixture
def store(engine: Engine, writes: Writes) -> UserStore:
    return open_store(engine, writes)


def known(engine: Engine, key: bytes = KEY) -> dict[str, tuple[bool, dict[str, str]]]:
    with engine.connect() as connection:
        return {one.name: (one.enabled, dict(one.ha1)) for one in read_users(connection, key)}


def right(name: str, password: str, algorithm: Algorithm = Algorithm.SHA_256) -> dict[str, str]:
    return {algorithm.value: ha1(name, REALM, password, algorithm)}


def test_add_makes_an_enabled_user_with_its_credentials(engine: Engine, store: UserStore, writes: Writes) -> None:
    """The user is there for a snapshot, and for people without credentials."""
    store.add("alice", "pw", role="client")
    assert known(engine) == {"alice": (True, right("alice", "pw"))}
    assert store.list() == (
        StoredUser(
            name="alice", role="client", enabled=True, algorithms=("SHA-256",), created_at=1000.0, changed_at=1000.0
        ),
    )
    assert writes.count == 1


def test_add_twice_is_refused_and_changes_nothing(engine: Engine, store: UserStore, writes: Writes) -> None:
    """A user's password is never replaced by accident, disabled or not."""
    store.add("alice", "pw")
    store.disable("alice")
    before = known(engine), writes.count
    with pytest.raises(UserExists, match="user passwd alice"):
        store.add("alice", "other")
    assert (known(engine), writes.count) == before


@pytest.mark.parametrize(("name", "password", "error"), [("Alice", "pw", UserNameInvalid), ("a", "", PasswordRefused)])
def test_add_of_what_the_policy_refuses_writes_nothing(
    engine: Engine, store: UserStore, writes: Writes, name: str, password: str, error: type[Exception]
) -> None:
    """Names and passwords are checked before anything is written."""
    with pytest.raises(error):
        store.add(name, password)
    assert (known(engine), writes.count) == ({}, 0)


def test_passwd_replaces_the_password_and_nothing_else(engine: Engine, store: UserStore, writes: Writes) -> None:
    """A disabled user stays disabled; the change is dated."""
    store.add("alice", "pw", role="client")
    store.disable("alice")
    store.passwd("alice", "new")
    assert known(engine) == {"alice": (False, right("alice", "new"))}
    (shown,) = store.list()
    assert (shown.role, shown.created_at, shown.changed_at) == ("client", 1000.0, 1002.0)
    assert writes.count == 3


def test_passwd_leaves_no_credentials_for_other_algorithms(engine: Engine, writes: Writes) -> None:
    """An old password must not go on working by an algorithm that is no longer configured."""
    both = ("SHA-256", "MD5")
    open_store(engine, writes, algorithms=both).add("alice", "old")
    assert set(known(engine)["alice"][1]) == set(both)
    open_store(engine, writes).passwd("alice", "new")
    assert known(engine) == {"alice": (True, right("alice", "new"))}


def test_disable_and_enable_keep_the_password(engine: Engine, store: UserStore) -> None:
    """Each says whether it changed anything; only a change is dated."""
    store.add("alice", "pw")
    assert [store.disable("alice"), store.disable("alice")] == [True, False]
    assert known(engine) == {"alice": (False, right("alice", "pw"))}
    assert [store.enable("alice"), store.enable("alice")] == [True, False]
    assert known(engine) == {"alice": (True, right("alice", "pw"))}
    assert store.list()[0].changed_at == 1002.0


def test_remove_leaves_nothing(engine: Engine, store: UserStore) -> None:
    """User and credentials go; a new user of that name starts over."""
    store.add("alice", "pw")
    store.add("bob", "pw")
    store.remove("alice")
    assert set(known(engine)) == {"bob"}
    with engine.connect() as connection:
        assert connection.execute(select(user_credentials.c.name)).scalars().all() == ["bob"]
    store.add("alice", "new")
    assert known(engine)["alice"] == (True, right("alice", "new"))


@pytest.mark.parametrize("act", ["passwd", "disable", "enable", "remove"])
def test_change_of_nobody_is_refused(store: UserStore, writes: Writes, act: str) -> None:
    """What is not there cannot be changed, and says where to look."""
    with pytest.raises(UserUnknown, match="user list"):
        getattr(store, act)("ghost", *(["pw"] if act == "passwd" else []))
    assert writes.count == 0


def test_add_in_a_caller_s_transaction_goes_with_it(engine: Engine, store: UserStore, writes: Writes) -> None:
    """With the caller's connection nothing is committed before the caller does."""
    with engine.connect() as connection:
        transaction = connection.begin()
        store.add("alice", "pw", connection=connection)
        assert [one.name for one in store.list(connection=connection)] == ["alice"]
        transaction.rollback()
    assert known(engine) == {}
    assert writes.count == 0


def test_export_writes_the_enabled_users_that_have_the_algorithm(engine: Engine, writes: Writes) -> None:
    """``user:realm:HA1``; a disabled user would be an enabled one elsewhere, so it is left out."""
    store = open_store(engine, writes, algorithms=("SHA-256", "MD5"))
    for name in ("carol", "alice", "bob"):
        store.add(name, "pw")
    open_store(engine, writes).passwd("carol", "pw")
    store.disable("bob")
    assert store.export() == tuple(
        f"{name}:{REALM}:{ha1(name, REALM, 'pw', Algorithm.SHA_256)}" for name in ("alice", "carol")
    )
    assert store.export("MD5") == (f"alice:{REALM}:{ha1('alice', REALM, 'pw', Algorithm.MD5)}",)


def test_store_without_the_key_still_locks_people_out(engine: Engine, store: UserStore, writes: Writes) -> None:
    """Disabling and removing need no passphrase; setting and exporting passwords do."""
    store.add("alice", "pw")
    keyless = open_store(engine, writes, None)
    with pytest.raises(CredentialsUnavailable):
        keyless.passwd("alice", "x")
    with pytest.raises(CredentialsUnavailable):
        keyless.export()
    assert keyless.disable("alice") is True
    keyless.remove("alice")
    assert keyless.list() == ()


# --- Sealing ---------------------------------------------------------------------------------------------------------


def test_seal_hides_the_value_and_differs_each_time() -> None:
    """Neither the value nor that two are equal shows in the database."""
    value = ha1("alice", REALM, "pw", Algorithm.SHA_256)
    one, two = (seal_ha1(KEY, "alice", "SHA-256", value) for _ in range(2))
    assert one != two
    assert value.encode() not in one
    assert unseal_ha1(KEY, "alice", "SHA-256", one) == unseal_ha1(KEY, "alice", "SHA-256", two) == value


@pytest.mark.parametrize(
    ("key", "name", "algorithm"),
    [(b"x" * 32, "alice", "SHA-256"), (KEY, "bob", "SHA-256"), (KEY, "alice", "MD5"), (KEY, "alice", "SHA-512-256")],
)
def test_unseal_elsewhere_is_refused(key: bytes, name: str, algorithm: str) -> None:
    """A sealed value opens with its key, for its user and its algorithm only."""
    sealed = seal_ha1(KEY, "alice", "SHA-256", "ab" * 32)
    with pytest.raises(CredentialsUnavailable):
        unseal_ha1(key, name, algorithm, sealed)


def test_unseal_of_any_damage_is_refused() -> None:
    """Every changed, missing or surplus byte is found."""
    sealed = seal_ha1(KEY, "alice", "SHA-256", "ab" * 32)
    damaged = [sealed[:at] + bytes([sealed[at] ^ 1]) + sealed[at + 1 :] for at in range(len(sealed))]
    for wrong in [*damaged, b"", sealed[:-1], sealed + b"x", sealed[:13]]:
        with pytest.raises(CredentialsUnavailable):
            unseal_ha1(KEY, "alice", "SHA-256", wrong)


def test_unseal_of_a_value_of_wrong_length_is_refused() -> None:
    """What was sealed right but is no H(A1) would make a verifier that never accepts: said at load instead."""
    with pytest.raises(CredentialsUnavailable):
        unseal_ha1(KEY, "alice", "SHA-256", seal_ha1(KEY, "alice", "SHA-256", "ab" * 16))


def test_read_users_with_a_row_swapped_fails_whole(engine: Engine, store: UserStore) -> None:
    """Whoever can write the database but has no key cannot give one user another's password."""
    store.add("alice", "pw")
    store.add("mallory", "known")
    with engine.begin() as connection:
        mine = select(user_credentials.c.sealed).where(user_credentials.c.name == "mallory").scalar_subquery()
        connection.execute(update(user_credentials).where(user_credentials.c.name == "alice").values(sealed=mine))
    with pytest.raises(CredentialsUnavailable, match="alice"):
        known(engine)


def test_read_users_with_another_key_fails_without_showing_one(engine: Engine, store: UserStore) -> None:
    """The wrong key opens nothing; a key of wrong length is told as such."""
    store.add("alice", "pw")
    with pytest.raises(CredentialsUnavailable) as caught:
        known(engine, b"x" * 32)
    assert "xxxx" not in str(caught.value)
    with pytest.raises(CredentialsUnavailable, match="31 bytes"):
        known(engine, b"x" * 31)
    with pytest.raises(CredentialsUnavailable, match="16 bytes"):
        open_store(engine, Writes(), b"x" * 16)


def test_read_users_without_password_is_a_user_that_cannot_sign_in(engine: Engine) -> None:
    """A user row without credentials is known and has none."""
    with engine.begin() as connection:
        row = {"name": "alice", "role": None, "enabled": True, "created_at": 0.0, "changed_at": 0.0}
        connection.execute(insert(users), row)
    assert known(engine) == {"alice": (True, {})}


def test_reprs_show_no_secret(engine: Engine, store: UserStore) -> None:
    """No repr of store or credentials has a hash or key in it."""
    store.add("alice", "pw")
    with engine.connect() as connection:
        (one,) = read_users(connection, KEY)
    assert repr(one) == "<UserCredentials of alice>"
    assert repr(store) == f"<UserStore of realm {REALM!r}>"


def test_sealed_value_of_one_kind_of_holder_opens_as_no_other() -> None:
    """A user's password moved into the row of a token, or back, is worth nothing there."""
    value = right("alice", "pw")["SHA-256"]
    for sealed_for, opened_as in ((Holder.USER, Holder.TOKEN), (Holder.TOKEN, Holder.USER)):
        sealed = seal_ha1(KEY, "alice", "SHA-256", value, sealed_for)
        assert unseal_ha1(KEY, "alice", "SHA-256", sealed, sealed_for) == value
        with pytest.raises(CredentialsUnavailable):
            unseal_ha1(KEY, "alice", "SHA-256", sealed, opened_as)
