"""Which role switch a request asks for, and the answers that go with it."""

from __future__ import annotations

import pytest

from rhttp.http1.head import parse_request_head, parse_response_head
from rhttp.reversal.upgrade import OFFER, PTTH_1_0, VARIANTS, chosen_variant


def ask(fields: bytes, line: bytes = b"POST /-/reverse/render HTTP/1.1") -> object:
    return chosen_variant(parse_request_head(line + b"\r\nHost: x\r\n" + fields + b"\r\n"))


@pytest.mark.parametrize(
    "fields",
    [
        b"Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n",
        b"Upgrade: ptth/1.0\r\nConnection: upgrade\r\n",
        b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket, PTTH/1.0\r\n",
        b"Upgrade: websocket\r\nUpgrade: PTTH/1.0\r\nConnection: upgrade\r\n",
    ],
)
def test_upgrade_names_a_variant_in_any_case_and_place(fields: bytes) -> None:
    """Tokens are compared without case (RFC 9110 section 7.8), among others, on one line or several."""
    assert ask(fields) is PTTH_1_0


@pytest.mark.parametrize(
    "fields",
    [
        b"",
        b"Upgrade: PTTH/1.0\r\n",
        b"Connection: Upgrade\r\n",
        b"Upgrade: websocket\r\nConnection: Upgrade\r\n",
        b"Upgrade: PTTH/1.1\r\nConnection: Upgrade\r\n",
        b"Upgrade: PTTH\r\nConnection: Upgrade\r\n",
        b"Upgrade: PTTH/1.0;q=1\r\nConnection: Upgrade\r\n",
    ],
)
def test_upgrade_to_something_else_names_none(fields: bytes) -> None:
    """No Connection option, no token, or not exactly this token: no role switch."""
    assert ask(fields) is None


def test_upgrade_in_http_1_0_is_none() -> None:
    """RFC 9110 section 7.8: a server must ignore Upgrade in HTTP/1.0."""
    assert ask(b"Upgrade: PTTH/1.0\r\nConnection: Upgrade\r\n", b"POST / HTTP/1.0") is None


def test_answers_to_an_upgrade_can_be_read_and_name_the_token() -> None:
    """Our 101 is a whole head that switches; 401 and 426 offer every token that we know."""
    for variant in VARIANTS:
        head = parse_response_head(variant.answer)
        assert (head.status, head.upgrade, head.connection) == (101, (variant.token,), (b"upgrade",))
        assert (b"Upgrade", variant.token) in OFFER.fields
        assert variant.methods == {b"POST", b"GET"}


def test_answer_to_ptth_holds_what_peers_compare_byte_by_byte() -> None:
    """The npm package wants `Connection` to be exactly this."""
    assert PTTH_1_0.answer == (b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: PTTH/1.0\r\nConnection: Upgrade\r\n\r\n")
