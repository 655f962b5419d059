"""Orders and results as JSON: one shape each, and nothing else passes."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.orders import ORIGIN, credentials, enroll, key_info, renew

from gateway.issuer.orders import (
    MAX_KEY,
    MAX_TEXT,
    Certified,
    Credentials,
    Enroll,
    Given,
    OrderMalformed,
    Origin,
    Refusal,
    Refused,
    Renew,
    Unavailable,
    parse_order,
)
from pki.enrolment import TokenReason
from pki.names import Role

TOKEN = "et_0123456789abcdef"
KEY = key_info()
FROM = Origin(**ORIGIN)
WHOLE = [enroll(TOKEN, KEY, name="w1"), renew("0a", KEY), credentials("0a")]


def test_order_of_each_kind_is_read() -> None:
    """What a data process says comes out as the value that it means; no name is None."""
    assert parse_order(enroll(TOKEN, KEY, name="w1")) == Enroll(
        origin=FROM, token=TOKEN, role=Role.WORKER, name="w1", key=KEY
    )
    assert parse_order(enroll(TOKEN, KEY, role="master")) == Enroll(
        origin=FROM, token=TOKEN, role=Role.MASTER, name=None, key=KEY
    )
    assert parse_order(renew("0a1b", KEY)) == Renew(origin=FROM, serial="0a1b", key=KEY)
    assert parse_order(credentials("0a1b")) == Credentials(origin=FROM, serial="0a1b")


@pytest.mark.parametrize("order", WHOLE, ids=lambda order: order["kind"])
def test_order_with_a_key_more_or_less_is_refused(order: dict[str, object]) -> None:
    """A key that this version does not know could be a condition: nothing is done without it."""
    for key in order:
        with pytest.raises(OrderMalformed):
            parse_order({name: value for name, value in order.items() if name != key})
    with pytest.raises(OrderMalformed):
        parse_order({**order, "lifetime": 5})


@pytest.mark.parametrize(
    "change",
    [
        {"kind": "sign"},
        {"kind": ["enroll"]},
        {"token": f"{TOKEN}0"},
        {"token": f"{TOKEN}.secret"},
        {"token": 5},
        {"role": "server"},
        {"role": "root"},
        {"name": None},
        {"name": "x" * (MAX_TEXT + 1)},
        {"source": ""},
        {"request_id": "x" * (MAX_TEXT + 1)},
        {"key": ""},
        {"key": "AAA"},
        {"key": "AA=="[:3] + "!"},
        {"key": "AB=="},
        {"key": b64encode(b"x" * (MAX_KEY + 1)).decode()},
        {"key": ["AA=="]},
    ],
    ids=repr,
)
def test_order_with_a_value_out_of_bounds_is_refused(change: dict[str, object]) -> None:
    """Types, lengths and alphabets are fixed; Base64 has one form (RFC 4648 section 3.5)."""
    with pytest.raises(OrderMalformed):
        parse_order({**enroll(TOKEN, KEY), **change})


@pytest.mark.parametrize("serial", ["", "0", "0A", "0x0a", "00" * 21, " 0a", "0a\n", 10])
def test_order_with_a_serial_that_is_none_is_refused(serial: object) -> None:
    """A serial number is pairs of lower-case hex digits, at most 20 octets."""
    with pytest.raises(OrderMalformed):
        parse_order({**credentials("0a"), "serial": serial})


def test_order_at_the_bounds_is_read() -> None:
    """Texts and keys of exactly the longest length pass."""
    longest = parse_order({**enroll(TOKEN, b"x" * MAX_KEY), "source": "x" * MAX_TEXT})
    assert isinstance(longest, Enroll)
    assert (len(longest.key), len(longest.origin.source)) == (MAX_KEY, MAX_TEXT)
    assert isinstance(parse_order(renew("00" * 20, KEY)), Renew)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(WHOLE), st.data())
def test_order_of_any_shape_is_read_or_malformed(order: dict[str, object], data: Any) -> None:
    """Whatever stands in place of a value, the answer is an order or `OrderMalformed`, and nothing else is raised."""
    key = data.draw(st.sampled_from(sorted(order)))
    try:
        made = parse_order({**order, key: data.draw(JSON)})
    except OrderMalformed:
        pass
    else:
        assert isinstance(made, Enroll | Renew | Credentials)


def test_results_have_one_shape_each() -> None:
    """What data processes read."""
    made = Certified(chain=(b"leaf", b"ca"), serial="0a", name="w1")
    assert made.to_wire() == {"chain": ["bGVhZg==", "Y2E="], "serial": "0a", "name": "w1", "repeated": False}
    assert Refused(reason=TokenReason.USED_UP).to_wire() == {"refused": "used_up"}
    assert Refused(reason=Refusal.TOO_MANY_VALID).to_wire() == {"refused": "too_many_valid"}
    assert Unavailable(what="state").to_wire() == {"unavailable": "state"}


def test_given_password_is_in_no_text_of_it() -> None:
    """A log that shows the value does not show the password."""
    given = Given(user="w1", password="secret-word")
    assert "secret-word" not in f"{given} {given!r}"
    assert given.to_wire() == {"user": "w1", "password": "secret-word"}
