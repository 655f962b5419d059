"""Plots as plain SVG text: axes with ticks that follow from the values, lines, dots and a legend; pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

Point = tuple[float, float]
FONT = 'font-family="Helvetica,Arial,sans-serif" font-size="12" fill="#222222"'
INK, PALE = "#222222", "#dddddd"
LEFT, TOP, BOTTOM, RIGHT = 76.0, 40.0, 48.0, 26.0
WIDTH, HEIGHT, ACROSS, LEGENDS = 470.0, 330.0, 2, 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points: joined, or as `dots`; by `steps`, where what was so stays so until the next; `dashed`: no measurement."""

    points: Sequence[Point]
    colour: str
    dashed: bool = False
    dots: bool = False
    steps: bool = False


@dataclass(frozen=True, slots=True)
class Axis:
    """From `low` to `high`, logarithmic when told, with a mark `every` so much; what lies outside is put on the end."""

    name: str
    low: float
    high: float
    log: bool = False
    every: float = 0.0

    @classmethod
    def of(cls, name: str, values: Sequence[float], *, log: bool = False) -> Axis:
        """Around the values: whole powers of ten, or from 0 to a round number."""
        if log:
            low = math.floor(math.log10(min(values)))
            return cls(name, 10.0**low, 10.0 ** max(math.ceil(math.log10(max(values))), low + 1), log)
        rough = max(*values, 1e-9) / 4
        power = 10.0 ** math.floor(math.log10(rough))
        step = next(n * power for n in (1.0, 2.0, 2.5, 5.0, 10.0) if n * power >= rough * 0.999)
        return cls(name, 0.0, step * max(1, math.ceil(max(values) / step - 1e-9)), every=step)

    def ticks(self) -> list[float]:
        """The values that get a mark."""
        if self.log:
            return [10.0**n for n in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = self.every or self.high / 5
        return [step * n for n in range(int(self.high / step + 1e-9) + 1)]

    def share(self, value: float) -> float:
        """Where a value lies between the ends, from 0 to 1."""
        ends = (value, self.low, self.high)
        value, low, high = (math.log10(max(one, 1e-12)) for one in ends) if self.log else ends
        return min(1.0, max(0.0, (value - low) / (high - low)))


@dataclass(frozen=True, slots=True)
class Panel:
    """One plot: two axes and what is drawn between them."""

    title: str
    x: Axis
    y: Axis
    series: Sequence[Series]

    def drawn(self) -> list[str]:
        """Its parts."""
        wide, high = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

        def at(x: float, y: float) -> Point:
            return LEFT + wide * self.x.share(x), TOP + high * (1 - self.y.share(y))

        parts = [text(LEFT, TOP - 16, self.title, more=' font-weight="bold"')]
        for value in self.x.ticks():
            across, _ = at(value, 0)
            parts.append(path([(across, TOP), (across, TOP + high)], PALE))
            parts.append(text(across, TOP + high + 18, f"{value:,g}", anchor="middle"))
        for value in self.y.ticks():
            _, up = at(0, value)
            parts.append(path([(LEFT, up), (LEFT + wide, up)], PALE))
            parts.append(text(LEFT - 8, up + 4, f"{value:,g}", anchor="end"))
        parts.append(path([(LEFT, TOP), (LEFT, TOP + high), (LEFT + wide, TOP + high)], INK))
        parts.append(text(LEFT + wide / 2, TOP + high + 38, self.x.name, anchor="middle"))
        middle = TOP + high / 2
        parts.append(text(14, middle, self.y.name, anchor="middle", more=f' transform="rotate(-90 14 {middle:.0f})"'))
        for one in self.series:
            places = [at(x, y) for x, y in one.points]
            if one.dots:
                parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{one.colour}"/>' for x, y in places]
                continue
            if one.steps:
                corners = ((before, (now[0], before[1])) for before, now in itertools.pairwise(places))
                places = [*itertools.chain.from_iterable(corners), places[-1]]
            parts.append(path(places, one.colour, dashed=one.dashed, thick=True))
        return parts


def svg(panels: Sequence[Panel], legend: Sequence[tuple[str, str, bool]] = ()) -> str:
    """The panels, two in a row, and below them the legend (name, colour, dashed), on white, as one SVG document."""
    whole, below = WIDTH * ACROSS, HEIGHT * math.ceil(len(panels) / ACROSS)
    tall = below + 22 * math.ceil(len(legend) / LEGENDS) + 8
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {whole:.0f} {tall:.0f}" role="img">',
        f'<rect width="{whole:.0f}" height="{tall:.0f}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        place = f"{number % ACROSS * WIDTH:.0f},{number // ACROSS * HEIGHT:.0f}"
        parts += [f'<g transform="translate({place})">', *panel.drawn(), "</g>"]
    for number, (name, colour, dashed) in enumerate(legend):
        x, y = LEFT + number % LEGENDS * (whole - LEFT) / LEGENDS, below + 22 * (number // LEGENDS) + 8
        parts += [path([(x, y), (x + 28, y)], colour, dashed=dashed), text(x + 34, y + 4, name)]
    return "\n".join([*parts, "</svg>"]) + "\n"


def path(places: Sequence[Point], colour: str, *, dashed: bool = False, thick: bool = False) -> str:
    """A polyline."""
    points = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
    more = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="{2 if thick else 1}"{more}/>'


def text(x: float, y: float, words: str, *, anchor: str = "start", more: str = "") -> str:
    """Some words."""
    return f'<text x="{x:.1f}" y="{y:.1f}" {FONT} text-anchor="{anchor}"{more}>{escape(words)}</text>'
