"""Charts as SVG, written by hand: a few panels side by side, logarithmic or linear axes, points and curves."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape

WIDTH, HEIGHT = 380, 300
LEFT, RIGHT, TOP, BOTTOM = 62, 14, 34, 46
COLOURS = ("#1f5fa8", "#c2571a", "#2f7d4f", "#7a4a9e")


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Points with a name; `curve` draws a line without marks (a model), else marks (measurements) joined thinly."""

    name: str
    points: tuple[tuple[float, float], ...]
    curve: bool = False
    colour: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Panel:
    """One pair of axes."""

    title: str
    x: str
    y: str
    series: tuple[Series, ...] = field(default=())
    log_x: bool = True
    log_y: bool = False


def chart(panels: Sequence[Panel], *, columns: int = 2) -> str:
    """The panels in rows of `columns`, as one SVG document."""
    rows = (len(panels) + columns - 1) // columns
    width, height = WIDTH * min(columns, len(panels)), HEIGHT * rows
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
        'font-family="sans-serif" font-size="11">',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
    ]
    for number, panel in enumerate(panels):
        left, top = WIDTH * (number % columns), HEIGHT * (number // columns)
        parts.append(f'<g transform="translate({left},{top})">{"".join(drawn(panel))}</g>')
    return "\n".join([*parts, "</svg>", ""])


@dataclass(frozen=True, slots=True)
class Axis:
    """From values to places."""

    low: float
    high: float
    start: float
    end: float
    log: bool

    def place(self, value: float) -> float:
        low, high, at = (math.log10(v) if self.log else v for v in (self.low, self.high, max(value, self.low)))
        return self.start + (self.end - self.start) * (at - low) / (high - low)

    def ticks(self) -> list[float]:
        """Powers of ten, or four or five round numbers."""
        if self.log:
            return [10.0**n for n in range(round(math.log10(self.low)), round(math.log10(self.high)) + 1)]
        step = nice((self.high - self.low) / 4)
        return [step * n for n in range(math.ceil(self.low / step), math.floor(self.high / step + 1e-9) + 1)]


def nice(step: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(n * power for n in (1, 2, 5, 10) if n * power >= step * 0.999)


def axis(values: Sequence[float], start: float, end: float, *, log: bool) -> Axis:
    """An axis that has room for all values; a linear one begins at 0."""
    if log:
        low = 10.0 ** math.floor(math.log10(min(values)))
        high = 10.0 ** math.ceil(math.log10(max(values)))
        return Axis(low, high if high > low else low * 10, start, end, True)
    high = max(*values, 1e-9) * 1.08
    return Axis(0.0, high, start, end, False)


def drawn(panel: Panel) -> list[str]:
    """The elements of one panel."""
    points = [point for series in panel.series for point in series.points]
    across = axis([x for x, _ in points], LEFT, WIDTH - RIGHT, log=panel.log_x)
    up = axis([y for _, y in points], HEIGHT - BOTTOM, TOP, log=panel.log_y)
    parts = [text(WIDTH / 2, 18, panel.title, anchor="middle", weight="bold")]
    for tick in across.ticks():
        at = across.place(tick)
        parts.append(f'<path d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}" stroke="#e4e4e4"/>')
        parts.append(text(at, HEIGHT - BOTTOM + 15, label(tick), anchor="middle"))
    for tick in up.ticks():
        at = up.place(tick)
        parts.append(f'<path d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 6, at + 4, label(tick), anchor="end"))
    parts.append(f'<path d="M{LEFT} {TOP}V{HEIGHT - BOTTOM}H{WIDTH - RIGHT}" fill="none" stroke="#555555"/>')
    parts.append(text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, panel.x, anchor="middle"))
    parts.append(
        f'<text x="14" y="{(TOP + HEIGHT - BOTTOM) / 2:.0f}" text-anchor="middle" fill="#222222" '
        f'transform="rotate(-90 14 {(TOP + HEIGHT - BOTTOM) / 2:.0f})">{escape(panel.y)}</text>'
    )
    for number, series in enumerate(panel.series):
        colour = COLOURS[series.colour % len(COLOURS)]
        places = [(across.place(x), up.place(y)) for x, y in series.points]
        path = "M" + "L".join(f"{x:.1f} {y:.1f}" for x, y in places)
        if series.curve:
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-dasharray="5 3"/>')
        else:
            parts.append(f'<path d="{path}" fill="none" stroke="{colour}" stroke-opacity="0.45"/>')
            parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in places]
        at = TOP + 12 + 14 * number
        dash = ' stroke-dasharray="5 3"' if series.curve else ' stroke-width="3"'
        parts.append(f'<path d="M{LEFT + 8} {at - 4}h16" stroke="{colour}"{dash}/>')
        parts.append(text(LEFT + 28, at, series.name))
    return parts


def text(x: float, y: float, words: str, *, anchor: str = "start", weight: str = "normal") -> str:
    """One line of text."""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-weight="{weight}" fill="#222222">'
        f"{escape(words)}</text>"
    )


def label(value: float) -> str:
    """`20`, `0.5`, `10k`."""
    if value >= 1_000_000:
        return f"{value / 1_000_000:g}M"
    return f"{value / 1000:g}k" if value >= 1000 else f"{value:g}"
