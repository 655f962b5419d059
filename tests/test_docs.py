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


ARCHITECTURE = ROOT / "docs" / "architecture.md"
PACKAGES = ("gateway", "auth", "pki", "rhttp")
# Words with a capital that the page has from RFC 9110, and not from our code.
_RFC_WORDS = frozenset({"Host", "Upgrade", "Authorization"})


def room_rows() -> dict[str, set[str]]:
    """The modules that the tables of docs/architecture.md name, by folder."""
    rows: dict[str, set[str]] = {}
    package: str | None = None
    for line in ARCHITECTURE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.split("|")]
        if len(cells) < 4 or not set(cells[1]) - set("-"):
            package = package if len(cells) >= 4 else None
        elif cells[1] in ("`gateway/`", "`rhttp/`", "flat"):
            package = "" if cells[1] == "flat" else cells[1].strip("`")
        elif package is not None:
            room = cells[1].strip("`") if cells[1].startswith("`") else ""
            rows[(package + room).rstrip("/")] = set(re.findall(r"`([a-z0-9_]+)`", cells[-2]))
    return rows


def test_architecture_names_every_module_in_its_room() -> None:
    """The page that says what stands where leaves nothing out, and names nothing that is gone."""
    here = {
        str(folder.relative_to(ROOT)): {path.stem for path in folder.glob("*.py")} - {"__init__"}
        for package in PACKAGES
        for folder in [ROOT / package, *(path.parent for path in (ROOT / package).glob("*/__init__.py"))]
    }
    assert room_rows() == {folder: modules for folder, modules in here.items() if modules}


def test_architecture_names_classes_and_modules_that_are_there() -> None:
    """Who follows the page from name to name ends nowhere."""
    text = _FENCE.sub("", ARCHITECTURE.read_text(encoding="utf-8"))
    files = {path: path.read_text(encoding="utf-8") for package in PACKAGES for path in (ROOT / package).rglob("*.py")}
    code = "\n".join(files.values())
    defined = set(re.findall(r"^class ([A-Za-z0-9]+)", code, re.MULTILINE))
    functions = set(re.findall(r"^ *(?:async )?def ([a-z0-9_]+)", code, re.MULTILINE))
    modules = {str(path.relative_to(ROOT).with_suffix("")).replace("/", ".") for path in files}
    modules |= {module.partition(".")[2] for module in modules}
    named = set(re.findall(r"`([A-Za-z0-9_.]+)`", text)) - _RFC_WORDS
    gone = {name for name in named if re.fullmatch(r"[A-Z][a-z]+[A-Za-z0-9]*", name) and name not in defined}
    for name in named:
        place, _, last = name.rpartition(".")
        is_elsewhere = not place or name in modules or f'"{name}"' in code or name.endswith((".toml", ".py"))
        if not is_elsewhere and (place not in modules | defined or last not in defined | functions):
            gone.add(name)
    gone |= {name for name in re.findall(r"`((?:[a-z0-9_]+/)+[a-z0-9_]+\.py)`", text) if not (ROOT / name).exists()}
    assert len(named) > 150
    assert gone == set()


@pytest.mark.parametrize("page", PAGES, ids=names(PAGES))
def test_page_names_no_place_of_the_machine_it_was_written_on(page: Path) -> None:
    """Home directories and work folders are nobody else's."""
    text = page.read_text(encoding="utf-8")
    assert re.findall(r"/(?:root|home|work|Users)/\S+", text) == []
