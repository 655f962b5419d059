"""A piece of text to work on, and the lines in it. A line ends with LF, nothing else.

Pure.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Text:
    """A text, or a part of one that was cut at the end of a line: `line` is the number of its first line."""

    name: str
    text: str
    line: int = 1

    def cut(self, at: int) -> tuple[Text, Text]:
        """Two parts, the first of `at` characters. `at` must be 0, the length, or just behind a line's end."""
        rest = self.line + self.text.count("\n", 0, at)
        return (
            Text(name=self.name, text=self.text[:at], line=self.line),
            Text(name=self.name, text=self.text[at:], line=rest),
        )
