"""No test and no script waits without end: a process or thread that hangs fails its test, and not the whole run."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = sorted(path for folder in ("tests", "scripts") for path in (ROOT / folder).rglob("*.py"))
RUNS = frozenset({"run", "check_output", "check_call", "call"})


def unbounded(text: str) -> Iterator[str]:
    """Calls that wait for a process or thread without a limit. What is awaited is the event loop's, and its test's."""
    tree = ast.parse(text)
    awaited = {id(inner) for node in ast.walk(tree) if isinstance(node, ast.Await) for inner in ast.walk(node)}
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute) or id(node) in awaited:
            continue
        has_limit = any(keyword.arg == "timeout" for keyword in node.keywords)
        name, owner = node.func.attr, node.func.value
        bare = name in {"wait", "join", "communicate"} and not node.args
        runs = name in RUNS and isinstance(owner, ast.Name) and owner.id == "subprocess"
        if (bare or runs) and not has_limit:
            yield f"line {node.lineno}: {ast.unparse(node.func)}() has no timeout"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_waits_of_a_file_have_a_limit(path: Path) -> None:
    """Processes and threads are waited for with a timeout."""
    assert list(unbounded(path.read_text())) == []


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("process.wait()", 1),
        ("process.wait(5)", 0),
        ("process.communicate(timeout=5)", 0),
        ("thread.join()", 1),
        ("subprocess.run(['x'])", 1),
        ("subprocess.run(['x'], timeout=5)", 0),
        ("async def f():\n    await asyncio.wait_for(event.wait(), 5)", 0),
        ("', '.join(words)", 0),
    ],
)
def test_unbounded_finds_what_has_no_limit(text: str, found: int) -> None:
    """The look itself sees a wait without a limit, and nothing else."""
    assert len(list(unbounded(text))) == found
