"""What a gateway's life begins with, before any process does."""

from __future__ import annotations

import dataclasses
import errno
import os
from pathlib import Path

import pytest
from support.fakegateway import FakeState, make_loaded

import auth.sharedledger
from gateway.config import Config
from gateway.loader import LoadFailed
from gateway.serve import make_ledger


def config(place: Path, processes: int) -> Config:
    loaded = make_loaded(place, FakeState(), processes=processes).config
    return dataclasses.replace(loaded, digest=dataclasses.replace(loaded.digest, window=64, nonces_per_identity=2))


def test_ledger_of_one_process_is_its_own(tmp_path: Path) -> None:
    """Nothing is shared with nobody."""
    assert make_ledger(config(tmp_path, 1)) is None


def test_ledger_of_several_is_a_table_with_the_configured_bounds(tmp_path: Path) -> None:
    """The processes map it by its descriptor, which no program gets that is not one of them."""
    fd = make_ledger(config(tmp_path, 2))
    assert fd is not None
    assert not os.get_inheritable(fd)
    ledger = auth.sharedledger.SharedLedger(fd)
    assert (ledger.window, ledger.per_identity) == (64, 2)
    ledger.close()


def test_ledger_without_memory_is_one_clear_refusal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A gateway does not start with several processes that could each spend a counter."""

    def create(**_bounds: int) -> int:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    monkeypatch.setattr(auth.sharedledger, "create", create)
    with pytest.raises(LoadFailed, match="table of spent counters: Cannot allocate memory"):
        make_ledger(config(tmp_path, 2))
