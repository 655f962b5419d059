"""Principals."""

from __future__ import annotations

from dataclasses import FrozenInstanceError

import pytest

from auth.principal import LOCAL_MASTER, Principal


def test_principal_identity_is_role_and_name() -> None:
    """Groups, audit and `Rhttp-Identity` all use one form."""
    assert Principal(kind="Client", name="alice").identity == "client/alice"
    assert LOCAL_MASTER.identity == "master/local"


def test_principal_is_a_value() -> None:
    """Equal by content and unchangeable, so it can be a cache key."""
    one, two = (Principal(kind="Worker", name="w1", pool="p", labels=(("a", "b"),)) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert one != Principal(kind="Worker", name="w1", pool="q", labels=(("a", "b"),))
    with pytest.raises(FrozenInstanceError):
        one.name = "w2"  # type: ignore[misc]
