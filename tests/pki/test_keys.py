"""Private keys: kinds, PEM, sealing."""

from __future__ import annotations

import dataclasses

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from hypothesis import given, settings
from hypothesis import strategies as st
from support.certs import a_key

from pki import keys
from pki.errors import InputUnreadable, KeyUnavailable
from pki.keys import KeyType, generate_key, is_sealed, key_type, load_private_key, private_key_pem, seal, unseal


@pytest.fixture(autouse=True)
def _cheap_scrypt(monkeypatch: pytest.MonkeyPatch) -> None:
    """The lowest cost that unseal takes; one test looks at the real one."""
    monkeypatch.setattr(keys, "_LOG2_N", 15)


@pytest.mark.parametrize("kind", KeyType)
def test_key_of_each_kind_survives_pem(kind: KeyType) -> None:
    """PKCS#8 PEM in the clear is read back as the same key of the same kind."""
    key = generate_key(kind)
    pem = private_key_pem(key)
    assert pem.startswith(b"-----BEGIN PRIVATE KEY-----")
    assert kind is key_type(key)
    assert key.public_key() == load_private_key(pem).public_key()


@settings(max_examples=12, deadline=None)
@given(secret=st.binary(max_size=500), passphrase=st.binary(min_size=1, max_size=80))
def test_sealed_secret_is_unsealed_by_its_passphrase_only(secret: bytes, passphrase: bytes) -> None:
    """Any secret comes back under its passphrase, and under no other."""
    envelope = seal(secret, passphrase)
    assert is_sealed(envelope)
    assert secret == unseal(envelope, passphrase)
    with pytest.raises(KeyUnavailable):
        unseal(envelope, passphrase + b"x")


@settings(max_examples=40, deadline=None)
@given(position=st.integers(min_value=0, max_value=10**6), flip=st.integers(min_value=1, max_value=255))
def test_sealed_envelope_with_any_byte_changed_is_not_opened(position: int, flip: int) -> None:
    """Header, salt, nonce, ciphertext and tag are all authenticated."""
    envelope = bytearray(ENVELOPE)
    envelope[position % len(envelope)] ^= flip
    with pytest.raises((KeyUnavailable, InputUnreadable)):
        unseal(bytes(envelope), b"passphrase")


ENVELOPE = seal(b"the secret", b"passphrase")


@pytest.mark.parametrize("cut", [0, 1, 9, 10, 40, len(ENVELOPE) - 1])
def test_sealed_envelope_cut_short_is_not_opened(cut: int) -> None:
    with pytest.raises((KeyUnavailable, InputUnreadable)):
        unseal(ENVELOPE[:cut], b"passphrase")


def test_sealed_envelope_hides_the_secret_and_never_repeats() -> None:
    """Salt and nonce are fresh for every envelope."""
    one, other = seal(b"the secret", b"passphrase"), seal(b"the secret", b"passphrase")
    assert b"the secret" not in one
    assert one != other
    assert one[13:41] != other[13:41]


@pytest.mark.parametrize(
    ("offset", "value"),
    [(9, 2), (10, 14), (10, 40), (11, 1), (11, 255), (12, 16)],
    ids=["version", "n-", "n+", "r-", "r+", "p"],
)
def test_sealed_envelope_of_foreign_cost_is_refused_before_any_derivation(
    offset: int, value: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forged header can ask for neither a cheap key nor all the memory."""
    monkeypatch.setattr(keys, "_derive", lambda *_: pytest.fail("derived"))
    envelope = bytearray(ENVELOPE)
    envelope[offset] = value
    with pytest.raises(InputUnreadable):
        unseal(bytes(envelope), b"passphrase")


def test_seal_costs_at_least_what_we_promise(monkeypatch: pytest.MonkeyPatch) -> None:
    """scrypt with N of 2^15 or more, r 8, p 1."""
    monkeypatch.undo()
    envelope = seal(b"s", b"p", entropy=bytes)
    assert envelope[10] >= 15
    assert (envelope[11], envelope[12]) == (8, 1)
    assert unseal(envelope, b"p") == b"s"


def test_seal_without_passphrase_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="empty"):
        seal(b"s", b"")


def test_sealed_key_without_or_with_wrong_passphrase_is_unavailable() -> None:
    """The two are told to the operator as such; neither message holds the passphrase."""
    pem = private_key_pem(a_key())
    envelope = seal(pem, b"right")
    assert load_private_key(unseal(envelope, b"right")).public_key() == a_key().public_key()
    with pytest.raises(InputUnreadable):
        load_private_key(envelope)
    with pytest.raises(KeyUnavailable) as caught:
        unseal(envelope, b"swordfish")
    assert "swordfish" not in repr(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"junk",
        private_key_pem(a_key())[:-40],
        rsa.generate_private_key(public_exponent=65537, key_size=2048).private_bytes(
            Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
        ),
        ec.generate_private_key(ec.SECP256K1()).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        a_key().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")),
    ],
    ids=["empty", "junk", "cut", "rsa", "curve", "pem-encrypted"],
)
def test_key_file_of_another_kind_is_unreadable(data: bytes) -> None:
    """Only our kinds, in the clear or in our envelope; the error quotes nothing of the file."""
    with pytest.raises(InputUnreadable) as caught:
        load_private_key(data)
    assert caught.value.__cause__ is None


def test_issuer_key_shows_no_key_in_its_repr() -> None:
    """The CA's key stays out of logs."""
    from support.certs import root

    assert "key=" not in repr(root())
    assert dataclasses.is_dataclass(root())
