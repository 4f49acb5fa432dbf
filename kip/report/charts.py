"""Charts as inline SVG: no library, no script, scaled to the width that there is. Text takes the page's colour."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape

WIDTH, HEIGHT = 360, 210
LEFT, RIGHT, TOP, BOTTOM = 58, 18, 10, 36
COLOURS = ("#1f77b4", "#d9730d", "#2e8b57", "#9b4dca")
Points = Sequence[tuple[float, float]]


def lines(series: Mapping[str, Points], *, x: str, y: str, percent: bool = False, log: bool = False) -> str:
    """Draw lines with points.

    Args:
        series: points by name; those that are not finite are left out, and on a logarithmic axis those not above zero.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
        percent: whether y are fractions, which are written as percent.
        log: whether the vertical axis is logarithmic.
    """
    kept = {
        name: [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log)]
        for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return "<p>No values yet.</p>"
    scale = math.log10 if log else float
    xs = [a for points in kept.values() for a, _ in points]
    ys = [scale(b) for points in kept.values() for _, b in points]
    across, up = _Axis(min(xs), max(xs), LEFT, WIDTH - RIGHT), _Axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [_frame(x, y)]
    for tick in across.ticks():
        parts.append(_text(across(tick), HEIGHT - BOTTOM + 13, _number(tick), "middle"))
    for tick in up.powers() if log else up.ticks():
        at = up(tick)
        written = _number(10**tick) if log else f"{100 * tick:.3g} %" if percent else _number(tick)
        parts.append(f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}" class="grid"/>')
        parts.append(_text(LEFT - 4, at + 3, written, "end"))
    for colour, (_, points) in zip(_colours(len(kept)), kept.items()):
        path = " ".join(f"{across(a):.1f},{up(scale(b)):.1f}" for a, b in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.8"/>')
        if len(points) <= 30:
            parts += [
                f'<circle cx="{across(a):.1f}" cy="{up(scale(b)):.1f}" r="2.4" fill="{colour}"/>' for a, b in points
            ]
    return _svg(parts) + _legend(list(kept))


def bars(series: Mapping[str, Sequence[float]], names: Sequence[str], *, y: str) -> str:
    """Draw groups of bars of fractions, written as percent: one group a name, one bar in it a series."""
    most = max([value for values in series.values() for value in values] + [1e-9])
    up = _Axis(0.0, most, HEIGHT - BOTTOM, TOP)
    room = (WIDTH - LEFT - RIGHT) / max(1, len(names))
    wide = 0.8 * room / max(1, len(series))
    parts = [_frame("", y)]
    for tick in up.ticks():
        parts.append(_text(LEFT - 4, up(tick) + 3, f"{100 * tick:.3g} %", "end"))
    for group, name in enumerate(names):
        parts.append(_text(LEFT + (group + 0.5) * room, HEIGHT - BOTTOM + 13, name, "middle"))
        for index, (colour, values) in enumerate(zip(_colours(len(series)), series.values())):
            left = LEFT + (group + 0.1) * room + index * wide
            parts.append(
                f'<rect x="{left:.1f}" y="{up(values[group]):.1f}" width="{wide:.1f}" '
                f'height="{HEIGHT - BOTTOM - up(values[group]):.1f}" fill="{colour}"/>'
            )
    return _svg(parts) + _legend(list(series))


def heat(matrix: Sequence[Sequence[float]], *, rows: str, columns: str) -> str:
    """Draw a matrix as coloured squares, red above zero and blue below, each with its value as a tooltip."""
    count, across = len(matrix), max((len(row) for row in matrix), default=0)
    cell = min(26.0, (WIDTH - 30) / max(1, across))
    largest = max([abs(value) for row in matrix for value in row] + [1e-12])
    parts = []
    for i, row in enumerate(matrix):
        for j, value in enumerate(row):
            strength = abs(value) / largest
            colour = f"rgba({'201,42,42' if value > 0 else '30,90,200'},{strength:.3f})"
            parts.append(
                f'<rect x="{24 + j * cell:.1f}" y="{4 + i * cell:.1f}" width="{cell:.1f}" height="{cell:.1f}" '
                f'fill="{colour}" class="cell"><title>{rows} {i}, {columns} {j}: {value:.3f}</title></rect>'
            )
    if count <= 20:
        parts += [_text(20, 4 + (i + 0.65) * cell, str(i), "end") for i in range(count)]
        parts += [_text(24 + (j + 0.5) * cell, 16 + count * cell, str(j), "middle") for j in range(across)]
    parts.append(_text(24, 30 + count * cell, f"rows: {rows}; columns: {columns}", "start"))
    return _svg(parts, height=36 + count * cell)


class _Axis:
    """A linear map of values to pixels."""

    def __init__(self, low: float, high: float, first: float, last: float):
        self.low, self.high = (low, high) if high > low else (low - 0.5, high + 0.5)
        self.first, self.last = first, last

    def __call__(self, value: float) -> float:
        return self.first + (value - self.low) / (self.high - self.low) * (self.last - self.first)

    def ticks(self) -> list[float]:
        """Return some four round values within the axis."""
        raw = (self.high - self.low) / 4
        power = 10 ** math.floor(math.log10(raw))
        step = next(power * m for m in (1, 2, 5, 10) if power * m >= raw)
        first = math.ceil(self.low / step - 1e-9)
        ticks = [step * k for k in range(first, first + 10) if step * k <= self.high + 1e-9 * step]
        return ticks or [self.low]

    def powers(self) -> list[float]:
        """Return logarithms of round values: powers of ten, or 1, 2 and 5 times them, or else evenly spaced ones."""
        exponents = range(math.floor(self.low), math.ceil(self.high) + 1)
        for digits in ((1,), (1, 2, 5)):
            ticks = [k + math.log10(digit) for k in exponents for digit in digits]
            ticks = [tick for tick in ticks if self.low <= tick <= self.high]
            if len(ticks) > 2:
                return ticks
        even = _Axis(10**self.low, 10**self.high, 0, 1).ticks()
        return [math.log10(value) for value in even]


def _svg(parts: Sequence[str], height: float = HEIGHT) -> str:
    return f'<svg viewBox="0 0 {WIDTH} {height:.0f}" role="img">{"".join(parts)}</svg>'


def _frame(x: str, y: str) -> str:
    turned = f'<text transform="translate(11,{(TOP + HEIGHT - BOTTOM) / 2}) rotate(-90)" text-anchor="middle">'
    base = f'<line x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{HEIGHT - BOTTOM}" y2="{HEIGHT - BOTTOM}" class="axis"/>'
    return base + _text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 5, x, "middle") + f"{turned}{escape(y)}</text>"


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _legend(names: Sequence[str]) -> str:
    if len(names) < 2:
        return ""
    items = [f'<span><i style="background:{c}"></i>{escape(n)}</span>' for c, n in zip(_colours(len(names)), names)]
    return f'<p class="legend">{"".join(items)}</p>'


def _colours(count: int) -> list[str]:
    return [COLOURS[index % len(COLOURS)] for index in range(count)]


def _number(value: float) -> str:
    return f"{value:.4g}" if abs(value) < 1e4 else f"{value / 1000:g}k"
