"""The pages hold together: links lead somewhere, tests that are named exist, and no place of a desk is in them."""

from __future__ import annotations

import ast
import re
import unicodedata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page for places in ("*", "docs/*", "bench/*", "findings/*", "examples/**/*") for page in ROOT.glob(f"{places}.md")
)
# reference.shapes.md is a part of reference.md, which has its links and anchors.
WHOLE = [page for page in PAGES if page.name != "reference.shapes.md"]
_LINK = re.compile(r"\[[^\]\n]*\]\(([^)\s]+)\)")
_HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
_FENCE = re.compile(r"^( *)```.*?^\1```", re.MULTILINE | re.DOTALL)
_TEST = re.compile(r"`(test_[a-z0-9_]+)`")
_SHAPE = re.compile(r"`([a-z0-9]+(?:-[a-z0-9]+)+|unknown|future|expired)`")


def names(pages: list[Path]) -> list[str]:
    """Pages by their path in the checkout, for test ids."""
    return [str(page.relative_to(ROOT)) for page in pages]


def anchors(page: Path) -> set[str]:
    """The anchors that a forge makes of a page's headings."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        kept = "".join(char for char in heading.lower() if char in " -_" or unicodedata.category(char)[0] in "LN")
        found.add(kept.replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", WHOLE, ids=names(WHOLE))
def test_links_lead_to_pages_and_headings_that_are_there(page: Path) -> None:
    """Nobody who follows a link of ours ends nowhere."""
    broken = []
    for link in _LINK.findall(_FENCE.sub("", page.read_text(encoding="utf-8"))):
        if "://" in link:
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            broken.append(link)
    assert broken == []


def test_standards_name_tests_that_are_there() -> None:
    """Every claim in docs/standards.md names a test that exists."""
    claims = set(_TEST.findall((ROOT / "docs" / "standards.md").read_text(encoding="utf-8")))
    assert len(claims) > 80
    found = {
        node.name
        for path in ROOT.glob("tests/**/test_*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    }
    assert claims - found == set()


def test_standards_name_path_shapes_that_are_there() -> None:
    """The cases of the table of paths are cases of the test that it names."""
    text = (ROOT / "docs" / "standards.md").read_text(encoding="utf-8")
    table = text.partition("## RFC 5280")[2].partition("*Stricter* than §6.1")[0]
    named = {case for row in table.splitlines() if row.startswith("| ") for case in _SHAPE.findall(row.split("|")[3])}
    known = set(
        re.findall(r'^    "([a-z0-9-]+)": \(', (ROOT / "tests/pki/test_path_shapes.py").read_text(), re.MULTILINE)
    )
    assert len(named) > 30
    assert named - known == set()


def test_architecture_names_every_module() -> None:
    """The page that says what stands where leaves nothing out."""
    table = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    rows = "\n".join(line for line in table.splitlines() if line.startswith("| `"))
    named = set(re.findall(r"`([a-z_*]+)`", rows))
    stars = tuple(name[:-1] for name in named if name.endswith("*"))
    for package in ("gateway", "auth", "pki", "rhttp"):
        modules = {path.stem for path in (ROOT / package).glob("*.py")} - {"__init__"}
        assert {name for name in modules - named if not name.startswith(stars)} == set(), package


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_page_names_no_place_of_the_machine_it_was_written_on(page: Path) -> None:
    """Home directories and work folders are nobody else's."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"/(?:root|home|work|Users)/\S+", text) == []
