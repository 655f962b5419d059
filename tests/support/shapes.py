"""JSON examples of a page, and whether a real value has the shape of one.

A shape is what keys there are and of what type their values are. ``null`` fits everything, since it stands for what may
be absent; so does an empty list. The values of `MAPS` are maps, whose keys depend on what there is.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, Final

MAPS: Final = frozenset({"labels", "masters", "connections", "detail", "cut"})
"""Keys whose value is a map; those within a map are not looked at."""
_BLOCK: Final = re.compile(r"^```json\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def examples(page: Path) -> dict[str, list[Any]]:
    """The JSON examples below each heading of a page, by the heading's text without its backquotes."""
    found: dict[str, list[Any]] = {}
    for section in re.split(r"^#{2,3} ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]:
        title, _, text = section.partition("\n")
        blocks = [json.loads(block) for block in _BLOCK.findall(text)]
        if blocks:
            found[title.replace("`", "")] = blocks
    return found


def differences(documented: Any, real: Any, where: str = "") -> list[str]:
    """Where the real value has another shape than the documented one."""
    if documented is None or real is None:
        return []
    if isinstance(documented, dict) and isinstance(real, dict):
        missing = documented.keys() - real.keys()
        found = [f"{where}: {key} is documented only" for key in sorted(missing)]
        found += [f"{where}: {key} is not documented" for key in sorted(real.keys() - documented.keys())]
        for key in documented.keys() & real.keys():
            if key in MAPS and isinstance(documented[key], dict) and isinstance(real[key], dict):
                continue
            found += differences(documented[key], real[key], f"{where}.{key}")
        return found
    if isinstance(documented, list) and isinstance(real, list):
        pattern = documented[0] if documented else None
        return [line for item in real for line in differences(pattern, item, f"{where}[]")]
    if _kind(documented) != _kind(real):
        return [f"{where}: {_kind(real)} where {_kind(documented)} is documented"]
    return []


def _kind(value: Any) -> str:
    if isinstance(value, bool):
        return "a boolean"
    if isinstance(value, int | float):
        return "a number"
    return "text" if isinstance(value, str) else "a list" if isinstance(value, list) else "an object"
