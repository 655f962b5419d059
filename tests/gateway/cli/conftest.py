"""Homes for the tests of commands."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from support.homes import new_home

from gateway.home.layout import Home


@pytest.fixture(scope="package")
def pattern(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home that is made once and copied for each test."""
    return new_home(tmp_path_factory.mktemp("pattern") / "home", sans=("DNS:gw.example.com",)).path


@pytest.fixture
def home(pattern: Path, tmp_path: Path) -> Home:
    """A home of one's own, unsealed."""
    shutil.copytree(pattern, tmp_path / "home")
    return Home(tmp_path / "home")
