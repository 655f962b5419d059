"""Word count: how often each word occurs. A word is a run of letters, digits and underscores, in lower case.

No options. Pure.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence

from mapreduce.kinds import Kind, Members, register
from mapreduce.problems import invalid
from mapreduce.texts import Text

_WORD = re.compile(r"\w+")
_MAX_COUNT = 1 << 53
"""The largest number that every reader of JSON takes as it is."""

Counts = Mapping[str, int]


def _options(given: Members) -> None:
    if given:
        raise invalid(f"wordcount takes no options, not {sorted(given)[0][:80]!r}")


def _work(texts: Sequence[Text], options: None) -> Counts:
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(_WORD.findall(text.text.lower()))
    return counts


def _merge(parts: Sequence[Counts], options: None) -> Counts:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(part)
    return counts


def _read(value: Members) -> Counts:
    words = value.get("words")
    if not isinstance(words, dict):
        raise ValueError("no words")
    for word, count in words.items():
        if type(count) is not int or not 0 < count < _MAX_COUNT or not _WORD.fullmatch(word):
            raise ValueError("not a count of words")
    return words


def _show(result: Counts, top: int | None) -> dict[str, object]:
    # Most frequent first, equals by the word, so that the same texts always give the same answer.
    ranked = sorted(result.items(), key=lambda entry: (-entry[1], entry[0]))
    return {"total": sum(result.values()), "distinct": len(result), "words": dict(ranked[:top])}


WORDCOUNT = register(Kind(name="wordcount", options=_options, work=_work, merge=_merge, read=_read, show=_show))
