"""The compiled build: all of its modules or none, and no source that mypyc would compile into something else."""

from __future__ import annotations

import ast
import builtins
import importlib.util
import os
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


def _compiled_modules() -> list[str]:
    """`sources()` of the build hook, which cannot be imported without the build tools."""
    text = (ROOT / "hatch_build.py").read_text()
    for node in ast.parse(text).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "HOT":
            hot: dict[str, str] = ast.literal_eval(node.value)
            return [f"{room.replace('.', '/')}/{name}.py" for room, names in hot.items() for name in names.split()]
    raise AssertionError("no HOT in hatch_build.py")


HOT = _compiled_modules()
INTERPRETED = [
    str(path.relative_to(ROOT))
    for package in ("rhttp", "auth", "gateway", "pki", "examples")
    for path in sorted((ROOT / package).rglob("*.py"))
    if str(path.relative_to(ROOT)) not in HOT
]


def clashes(source: str) -> list[str]:
    """Functions in which one name stands for errors of two types."""
    found = []
    for function in ast.walk(ast.parse(source)):
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef):
            kinds: dict[str, set[str]] = {}
            for node in ast.walk(function):
                if isinstance(node, ast.ExceptHandler) and node.name and node.type is not None:
                    kinds.setdefault(node.name, set()).add(ast.unparse(node.type))
            found += [f"{function.name}: {name}" for name, types in kinds.items() if len(types) > 1]
    return found


def test_clashes_sees_a_name_for_two_types() -> None:
    """The search below finds what it looks for."""
    both = "def f():\n try: g()\n except OSError as e: h(e)\n except ValueError as {}: h(e)\n"
    assert clashes(both.format("e")) == ["f: e"]
    assert clashes(both.format("other")) == []


@pytest.mark.parametrize("module", HOT)
def test_handlers_of_a_compiled_function_have_a_name_for_each_type(module: str) -> None:
    """mypyc gives a variable one type: a handler that reuses the name for another raises TypeError instead."""
    assert clashes((ROOT / module).read_text()) == []


KNOWN_BUILTINS = frozenset(
    kind.__name__ for kind in (int, str, bytes, bool, float, list, dict, set, frozenset, tuple, bytearray, range, type)
)


def strange_fields(source: str) -> list[str]:
    """Fields of dataclasses whose annotation is a bare name of a builtin that mypyc does not know."""
    return [
        f"{kind.name}.{ast.unparse(node.target)}"
        for kind in ast.walk(ast.parse(source))
        if isinstance(kind, ast.ClassDef) and any("dataclass" in ast.unparse(one) for one in kind.decorator_list)
        for node in kind.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.annotation, ast.Name)
        if hasattr(builtins, node.annotation.id) and node.annotation.id not in KNOWN_BUILTINS
    ]


def test_strange_fields_sees_a_builtin_that_mypyc_looks_for_in_the_module() -> None:
    """The search below finds what it looks for."""
    source = "@dataclass(frozen=True)\nclass A:\n x: {}\n"
    assert [strange_fields(source.format(name)) for name in ("object", "Exception")] == [["A.x"], ["A.x"]]
    assert [strange_fields(source.format(name)) for name in ("int", "Any", "Other", "list[object]")] == [[]] * 4


@pytest.mark.parametrize("module", HOT)
def test_fields_of_compiled_dataclasses_have_types_that_mypyc_finds(module: str) -> None:
    """mypyc looks for ``object``, and for some others, in the module itself: its import raises KeyError."""
    assert strange_fields((ROOT / module).read_text()) == []


def left_out(source: str) -> list[str]:
    """Functions with an argument whose default is an ellipsis."""
    return [
        function.name
        for function in ast.walk(ast.parse(source))
        if isinstance(function, ast.FunctionDef | ast.AsyncFunctionDef)
        for default in (*function.args.defaults, *function.args.kw_defaults)
        if isinstance(default, ast.Constant) and default.value is ...
    ]


def test_left_out_sees_a_default_that_is_an_ellipsis() -> None:
    """The search below finds what it looks for."""
    source = "class A(Protocol):\n def f(self, x: str = {}, *, y: int = {}) -> None: ...\n"
    assert left_out(source.format("...", "1")) == left_out(source.format("'a'", "...")) == ["f"]
    assert left_out(source.format("'a'", "1")) == []


@pytest.mark.parametrize("module", HOT)
def test_arguments_of_compiled_protocols_have_defaults_of_their_type(module: str) -> None:
    """mypyc stores them as that type when the module is imported: an ellipsis for a str raises TypeError."""
    assert left_out((ROOT / module).read_text()) == []


def test_interpreted_classes_inherit_from_no_compiled_one() -> None:
    """CPython refuses that when the class is made or first used, and only in the compiled build."""
    compiled = {
        node.name
        for module in HOT
        for node in ast.parse((ROOT / module).read_text()).body
        if isinstance(node, ast.ClassDef)
    }
    wrong = [
        f"{module}: {node.name}"
        for module in INTERPRETED
        for node in ast.walk(ast.parse((ROOT / module).read_text()))
        if isinstance(node, ast.ClassDef) and compiled & {ast.unparse(base).split(".")[-1] for base in node.bases}
    ]
    assert wrong == []


def test_modules_are_all_compiled_or_none() -> None:
    """A mixture would be slow and would check types only here and there; and the run is of the kind that it says."""
    found = set()
    for module in HOT:
        name = module.removesuffix(".py").replace("/", ".")
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        found.add(spec.origin.endswith(".py"))
    assert found == {os.environ.get("RHTTP_PKI_COMPILED") != "1"}, sys.prefix
