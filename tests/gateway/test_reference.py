"""docs/reference.md is made from the code, has all of it, and is not forgotten when the code changes."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from gateway.config.models import TABLES, TopTable, keys_of
from gateway.http.problems import PROBLEMS
from gateway.ingress.endpoints import OWN_PATHS

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "gen_reference.py"


@pytest.fixture(scope="module")
def generator() -> ModuleType:
    """The generator as a module; it lies in no package."""
    spec = importlib.util.spec_from_file_location("gen_reference", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_reference_page_is_up_to_date() -> None:
    """Whoever changes a command, a key or a problem type also runs scripts/gen-reference."""
    done = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr) == (0, "")


def test_reference_has_every_key_with_its_default(generator: ModuleType) -> None:
    """Each key of each table has a row."""
    text = "\n".join(generator.config_lines())
    tables: list[type[Any]] = [TopTable]
    for written, table in TABLES.values():
        assert f"### `{written}`" in text
        tables.append(table)
    for key in (key for table in tables for key in keys_of(table)):
        assert f"| `{key.name}` | {key.expects} |" in text
    assert "| `head_timeout` | a number above 0 up to 300 (seconds) | `10` |" in text


def test_reference_has_every_problem_type(generator: ModuleType) -> None:
    """Each type has a row with its status."""
    text = "\n".join(generator.problem_lines())
    for kind in PROBLEMS.values():
        assert f"| `{kind.type}` | {kind.status} | {kind.title} |" in text


def test_reference_has_every_own_path_with_what_policy_is_asked(generator: ModuleType) -> None:
    """The table that requests are served by is the one that is printed."""
    page = generator.page()
    for endpoint in OWN_PATHS:
        row = next(line for line in page.splitlines() if line.startswith(f"| `{endpoint.pattern}` |"))
        asked = f"`{endpoint.action}` on {endpoint.resource}" if endpoint.action else "nothing"
        assert f"| {asked} |" in row


def test_reference_rows_cannot_be_broken_by_their_text(generator: ModuleType) -> None:
    """A bar or a line break in a help text stays inside its cell."""
    assert list(generator.table(["a"], [["x|y\nz"]]))[2] == r"| x\|y z |"
