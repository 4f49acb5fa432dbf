"""Sorted dots with their deviations, one line a name: the picture of a table of many methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kip.pictures.canvas import DPI, FAINT, INK, drawing, legible, save, with_grid, wrapped

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#000000")
"""Colours that readers of every kind of colour vision can tell apart (Okabe and Ito 2008)."""
MARKS = "osD^vPX"
ACROSS = 3
"""Panels side by side, at most."""


class Dot(NamedTuple):
    """A value, its standard deviation, and whether its mark is hollow."""

    value: float
    deviation: float = 0.0
    hollow: bool = False


class Line(NamedTuple):
    """A line of a panel: its dots, by the name of their series, and what stands at its right end."""

    name: str
    dots: Mapping[str, Dot]
    note: str = ""


class Dots(NamedTuple):
    """A panel of lines, from the top to the bottom, with a vertical rule at the reference of a series."""

    title: str
    x: str
    """The name of the x axis, with its unit."""
    lines: Sequence[Line]
    references: Mapping[str, float]


def save_dots(paths: Sequence[Path], panels: Sequence[Dots], *, title: str) -> None:
    """Draw panels of dots, up to three side by side, into files of the same content.

    Args:
        paths: files whose endings say their formats, .png, .svg or .pdf; each is replaced atomically.
        panels: what is drawn. A series has one colour and one mark in all of them.
        title: the first line.

    Raises:
        OutputError: if a file cannot be written.
    """
    series = list(dict.fromkeys(name for panel in panels for line in panel.lines for name in line.dots))
    with drawing(title, *(panel.title for panel in panels), *(line.name for panel in panels for line in panel.lines)):
        from matplotlib.figure import Figure

        across = min(ACROSS, max(1, len(panels)))
        rows = [panels[start : start + across] for start in range(0, len(panels), across)] or [[]]
        heights = [1.1 + 0.21 * max((len(panel.lines) for panel in row), default=0) for row in rows]
        figure = Figure(
            figsize=(5.2 * across, 0.7 + sum(heights)), dpi=DPI, facecolor="white", layout="constrained"
        )  # fmt: skip
        figure.suptitle(legible(title), size=13, weight="bold", color=INK, x=0.015, ha="left")
        axes = figure.subplots(len(rows), across, squeeze=False, height_ratios=heights)
        looks = {name: (COLOURS[n % len(COLOURS)], MARKS[n % len(MARKS)]) for n, name in enumerate(series)}
        for of_row, row in zip(axes, rows):
            for ax in of_row[len(row) :]:
                ax.set_axis_off()
            for ax, panel in zip(of_row, row):
                _draw(ax, panel, looks)
        if series:
            from matplotlib.lines import Line2D

            handles = [Line2D([], [], color=colour, marker=mark, linewidth=0) for colour, mark in looks.values()]
            figure.legend(handles, map(legible, looks), frameon=False, ncols=len(looks), loc="outside upper right")
        for path in paths:
            save(figure, path)


def _draw(ax: Any, panel: Dots, looks: Mapping[str, tuple[str, str]]) -> None:
    for name, value in panel.references.items():
        ax.axvline(value, color=looks[name][0], linewidth=1, linestyle=":")
    for place, line in enumerate(panel.lines):
        for name, dot in line.dots.items():
            colour, mark = looks[name]
            ax.errorbar(
                dot.value,
                place,
                xerr=dot.deviation,
                marker=mark,
                markersize=5,
                color=colour,
                markerfacecolor="white" if dot.hollow else colour,
                capsize=2,
                linewidth=1.2,
            )
        ax.annotate(
            line.note, (1, place), xycoords=("axes fraction", "data"), xytext=(4, 0), textcoords="offset points",
            size=7, color=FAINT, va="center",
        )  # fmt: skip
    ax.set(xlabel=panel.x, ylim=(len(panel.lines) - 0.4, -0.6))
    ax.set_yticks(range(len(panel.lines)), [legible(line.name) for line in panel.lines], size=8)
    ax.set_title("\n".join(wrapped(legible(panel.title), 480, 7.5)), size=10, loc="left", color=INK)
    with_grid(ax)
