"""Grep: the lines that contain a pattern. The pattern is literal text, found as it stands.

Regular expressions are left out on purpose: a pattern comes from whoever may submit jobs, `re` has no time limit, and
one line of the wrong pattern keeps a worker busy for longer than anyone waits. Searching for a literal takes time in
proportion to the text. Options: ``pattern`` (1 to 1,000 characters without LF), ``ignore_case`` (false), ``limit``
(lines shown, 1,000; all are counted). Pure.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from mapreduce.kinds import Kind, Members, register
from mapreduce.problems import invalid
from mapreduce.texts import Text

_MAX_PATTERN = 1000
_MAX_LIMIT = 10_000
_MAX_LINE = 500
"""Characters of a line that are shown."""
_MAX_COUNT = 1 << 53


@dataclass(frozen=True, slots=True, kw_only=True)
class Search:
    """What to look for, and how many lines to show."""

    pattern: str
    ignore_case: bool = False
    limit: int = 1000


@dataclass(frozen=True, slots=True)
class Match:
    """One line that has the pattern in it; `text` is its beginning."""

    name: str
    line: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Matches:
    """The first lines in the order of the texts, and how many there are in all."""

    total: int
    found: tuple[Match, ...]


def _options(given: Members) -> Search:
    unknown = set(given) - {"pattern", "ignore_case", "limit"}
    if unknown:
        raise invalid(f"grep takes no option {sorted(unknown)[0][:80]!r}")
    pattern, ignore_case, limit = given.get("pattern"), given.get("ignore_case", False), given.get("limit", 1000)
    if not isinstance(pattern, str) or not 1 <= len(pattern) <= _MAX_PATTERN or "\n" in pattern:
        raise invalid(f"grep needs the option pattern: 1 to {_MAX_PATTERN} characters of one line, taken literally")
    if not isinstance(ignore_case, bool):
        raise invalid("ignore_case must be true or false")
    if type(limit) is not int or not 1 <= limit <= _MAX_LIMIT:
        raise invalid(f"limit must be a number from 1 to {_MAX_LIMIT}")
    return Search(pattern=pattern, ignore_case=ignore_case, limit=limit)


def _matches(text: Text, search: Search) -> Iterator[Match]:
    pattern = search.pattern.casefold() if search.ignore_case else search.pattern
    for number, line in enumerate(text.text.removesuffix("\n").split("\n"), text.line):
        if pattern in (line.casefold() if search.ignore_case else line):
            yield Match(text.name, number, line[:_MAX_LINE])


def _work(texts: Sequence[Text], options: Search) -> Matches:
    found: list[Match] = []
    total = 0
    for text in texts:
        for match in _matches(text, options):
            total += 1
            if total <= options.limit:
                found.append(match)
    return Matches(total=total, found=tuple(found))


def _merge(parts: Sequence[Matches], options: Search) -> Matches:
    # Every part shows its first `limit` lines, so the first `limit` of all are among them.
    found = [match for part in parts for match in part.found]
    return Matches(total=sum(part.total for part in parts), found=tuple(found[: options.limit]))


def _read(value: Members) -> Matches:
    total, lines = value.get("total"), value.get("lines")
    if type(total) is not int or not isinstance(lines, list) or len(lines) > min(total, _MAX_LIMIT):
        raise ValueError("not a number of lines")
    if total > _MAX_COUNT:
        raise ValueError("more lines than there can be")
    return Matches(total=total, found=tuple(map(_read_match, lines)))


def _read_match(value: object) -> Match:
    match value:
        case {"name": str(name), "line": int(line), "text": str(text)} if line > 0 and len(text) <= _MAX_LINE:
            return Match(name, line, text)
    raise ValueError("not a line")


def _show(result: Matches, top: int | None) -> dict[str, object]:
    lines = [{"name": match.name, "line": match.line, "text": match.text} for match in result.found[:top]]
    return {"total": result.total, "lines": lines}


GREP = register(Kind(name="grep", options=_options, work=_work, merge=_merge, read=_read, show=_show))
