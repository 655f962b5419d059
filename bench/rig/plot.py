"""Plots as plain SVG text: axes, lines, points and a legend; pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from xml.sax.saxutils import escape

Point = tuple[float, float]
FONT = 'font-family="Helvetica,Arial,sans-serif" font-size="12"'
INK, PALE = "#222222", "#dddddd"
LEFT, TOP, BOTTOM, RIGHT = 76.0, 40.0, 48.0, 26.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Points that are joined, or, as `dots`, not; drawn dashed when they are not a measurement."""

    points: Sequence[Point]
    colour: str
    dashed: bool = False
    dots: bool = False
    steps: bool = False  # from point to point by steps: what was so stays so until the next


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """What an axis shows: its ends, the values that get a mark, and what it is called. Logarithmic when told."""

    name: str
    low: float
    high: float
    ticks: Sequence[tuple[float, str]]
    log: bool = False

    def share(self, value: float) -> float:
        """Where a value lies between the ends: 0 to 1, and what lies outside is put on the end."""
        if self.log:
            value, low, high = (math.log10(max(number, 1e-12)) for number in (value, self.low, self.high))
        else:
            low, high = self.low, self.high
        return min(1.0, max(0.0, (value - low) / (high - low)))


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One plot: two axes and what is drawn between them."""

    title: str
    x: Axis
    y: Axis
    lines: Sequence[Line] = field(default_factory=tuple)


@dataclass(frozen=True, slots=True, kw_only=True)
class Legend:
    """One entry below the plots."""

    name: str
    colour: str
    dashed: bool = False


def svg(panels: Sequence[Panel], legend: Sequence[Legend], *, width: float = 470.0, height: float = 340.0) -> str:
    """The panels side by side, the legend below them, on white, as one SVG document."""
    rows = math.ceil(len(legend) / 4)
    whole, tall = width * len(panels), height + 22 * rows + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole:.0f} {tall:.0f}" role="img">',
        f'<rect width="{whole:.0f}" height="{tall:.0f}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        parts += [f'<g transform="translate({number * width:.0f},0)">', *drawn(panel, width, height), "</g>"]
    for number, entry in enumerate(legend):
        x, y = LEFT + (number % 4) * (whole - LEFT) / 4, height + 22 * (number // 4) + 8
        parts.append(path([(x, y), (x + 28, y)], entry.colour, dashed=entry.dashed))
        parts.append(text(x + 34, y + 4, entry.name))
    return "\n".join([*parts, "</svg>"]) + "\n"


def drawn(panel: Panel, width: float, height: float) -> list[str]:
    """The parts of one panel."""
    wide, high = width - LEFT - RIGHT, height - TOP - BOTTOM

    def across(value: float) -> float:
        return LEFT + wide * panel.x.share(value)

    def up(value: float) -> float:
        return TOP + high * (1 - panel.y.share(value))

    parts = [text(LEFT, TOP - 16, panel.title, bold=True)]
    for value, name in panel.x.ticks:
        parts.append(path([(across(value), TOP), (across(value), TOP + high)], PALE))
        parts.append(text(across(value), TOP + high + 18, name, anchor="middle"))
    for value, name in panel.y.ticks:
        parts.append(path([(LEFT, up(value)), (LEFT + wide, up(value))], PALE))
        parts.append(text(LEFT - 8, up(value) + 4, name, anchor="end"))
    parts.append(path([(LEFT, TOP), (LEFT, TOP + high), (LEFT + wide, TOP + high)], INK))
    parts.append(text(LEFT + wide / 2, TOP + high + 38, panel.x.name, anchor="middle"))
    middle = TOP + high / 2
    parts.append(text(14, middle, panel.y.name, anchor="middle", more=f' transform="rotate(-90 14 {middle:.0f})"'))
    for line in panel.lines:
        parts += shapes(line, across, up)
    return parts


def shapes(line: Line, across: Callable[[float], float], up: Callable[[float], float]) -> list[str]:
    """One line, or its dots."""
    places = [(across(x), up(y)) for x, y in line.points]
    if line.dots:
        return [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{line.colour}"/>' for x, y in places]
    if line.steps:
        corners = ((before, (now[0], before[1])) for before, now in itertools.pairwise(places))
        last = places[-1]
        places = [*itertools.chain.from_iterable(corners), last]
    return [path(places, line.colour, dashed=line.dashed, thick=True)]


def path(places: Sequence[Point], colour: str, *, dashed: bool = False, thick: bool = False) -> str:
    """A polyline."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    more = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{2 if thick else 1}"{more}/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", bold: bool = False, more: str = "") -> str:
    """Some words."""
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" {FONT} fill="{INK}" text-anchor="{anchor}"{weight}{more}>{escape(words)}</text>'
    )
