"""Enrolments for tests: an order that would go well, and one that has to fail cleanly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.estserver import (
    PASSWORD,
    SECRET,
    TOKEN_ID,
    EstServer,
    cas,
)

from rhttp.worker.bundle import parse_gateway
from rhttp.worker.enrolment import EnrolmentOrder, enroll
from rhttp.worker.enrolment_failure import EnrolmentFailed
from rhttp.worker.est import Token


def order(server: EstServer, place: Path, **changes: Any) -> EnrolmentOrder:
    made = EnrolmentOrder(
        gateway=parse_gateway(server.url),
        fingerprint=bytes.fromhex(cas().fingerprint),
        token=Token(id=TOKEN_ID, secret=SECRET),
        role="worker",
        name=None,
        key_type="p256",
        out=place / "w1",
        wait=0,
    )
    return replace(made, **changes)


class Naps:
    """Time that passes without anybody waiting."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def __call__(self, seconds: float) -> None:
        self.taken.append(seconds)


def refused(made: EnrolmentOrder, **how: Any) -> EnrolmentFailed:
    """What the enrolment fails with; nothing is left of it, and nothing secret is in it."""
    with pytest.raises(EnrolmentFailed) as caught:
        enroll(made, **how)
    assert list(made.out.parent.iterdir()) == []
    return clean(caught.value)


def clean(error: EnrolmentFailed) -> EnrolmentFailed:
    told = f"{error!r} {error} {error.__cause__} {error.args}"
    assert SECRET not in told
    assert PASSWORD not in told
    assert "\n" not in str(error)
    return error
