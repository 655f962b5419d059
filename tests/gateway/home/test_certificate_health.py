"""What is said of the gateway's own certificates, and when."""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
from support.certs import AT, authority, pem, root, server

from gateway.home.certificate_health import certificate_warnings
from pki.issue import serial_hex
from pki.names import Role

SECOND = timedelta(seconds=1)
CA_END = authority(Role.WORKER).certificate.not_valid_after_utc
ROOT_END = root().certificate.not_valid_after_utc
LEAF = server()


def said(at: datetime, revoked: tuple[str, ...] = ()) -> dict[str, str]:
    trust = {"root": pem(root().certificate), "worker": pem(authority(Role.WORKER).certificate)}
    return dict(certificate_warnings(trust, pem(LEAF), revoked, at))


def test_nothing_is_said_of_certificates_that_live_on() -> None:
    """Silence while all is well."""
    assert said(AT) == {}


def test_server_certificate_that_was_revoked_is_told_with_the_mend() -> None:
    """It goes on being served until there is another; somebody has to be told."""
    assert said(AT, (serial_hex(LEAF.serial_number),)) == {
        "certs/server.pem": "was revoked; make a new one with `rhttp-pki issue-server`"
    }
    assert said(AT, ("0a",)) == {}


@pytest.mark.parametrize(
    ("before", "text"), [(timedelta(days=5) + SECOND, None), (timedelta(days=5), "in 5 days"), (SECOND, "in 0 minutes")]
)
def test_server_certificate_is_spoken_of_before_it_ends(before: timedelta, text: str | None) -> None:
    """From five days on."""
    message = said(LEAF.not_valid_after_utc - before).get("certs/server.pem")
    assert (message is None) if text is None else (message is not None and text in message)


def test_server_certificate_that_expired_is_told() -> None:
    """Its very last second counts no more, as for who starts with it."""
    assert "not now; make a new one" in said(LEAF.not_valid_after_utc)["certs/server.pem"]


@pytest.mark.parametrize(
    ("before", "text"),
    [
        (timedelta(days=90) + SECOND, None),
        (timedelta(days=90), "in 90 days"),
        (timedelta(days=1), "in 1 day,"),
        (timedelta(hours=23), "in 23 hours"),
        (timedelta(minutes=1), "in 1 minute,"),
        (-SECOND, "ended on"),
    ],
)
def test_ca_is_spoken_of_from_ninety_days_before_its_end(before: timedelta, text: str | None) -> None:
    """A new home takes a while to move to; the mend is in every such line."""
    message = said(CA_END - before).get("certs/worker-ca.pem")
    if text is None:
        assert message is None
        return
    assert message is not None
    assert text in message
    assert "make a new home" in message


def test_root_is_spoken_of_too() -> None:
    """Nothing outlives it either."""
    assert "the root ends on" in said(ROOT_END - timedelta(days=3))["certs/root.pem"]
