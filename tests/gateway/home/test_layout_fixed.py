"""What `init` fixes for good: another trust domain or realm would leave certificates and passwords worth nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from support.homes import run_cli
from support.runhomes import copy_home, set_key


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [("trust_domain", '"other.example"', "trust_domain"), ("realm", '"zzz"', "digest.realm")],
)
def test_setting_that_init_fixed_cannot_become_another_one(tmp_path: Path, key: str, value: str, named: str) -> None:
    """Neither a gateway nor a command goes on with it; both name the key and the mend."""
    home = copy_home(tmp_path / "home")
    set_key(home, key, value)
    for command in (["gateway", "--check"], ["issue-client", "alice"], ["issue-worker", "w1", "--pool", "p"]):
        result = run_cli(home, *command)
        assert result.exit_code == 1
        assert named in result.stderr
        assert "this home was made for" in result.stderr
        assert "put that back" in result.stderr


def test_home_without_its_record_is_taken_as_it_is(tmp_path: Path) -> None:
    """Homes that lost it, or never had one, go on."""
    home = copy_home(tmp_path / "home")
    (home / "certs" / "home.json").unlink()
    assert run_cli(home, "gateway", "--check").exit_code == 0
