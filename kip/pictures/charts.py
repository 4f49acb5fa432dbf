"""Charts of the page as SVG, drawn by matplotlib: lines, bars, and matrices with their colour scale.

Each is an image that the page carries in itself. What is drawn is the same for the same values, with the same version
of matplotlib.
"""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from kip.pictures.canvas import GRID, cut, drawing, legible, power_labels

SIZE = 4.6, 2.8
"""Width and height in inches; the page scales them to the room that there is."""
FEW = 30
"""Points of a line that are marked, each."""
NAMED = 20
"""Rows and columns of a matrix up to which each has its name."""
LONGEST = 16
"""The most letters of a name in a chart."""
Points = Sequence[tuple[float, float]]


class Picture(NamedTuple):
    """A picture that a page carries in itself.

    Attributes:
        source: a data URL.
        alt: what it shows, in words.
        title: what stands above it.
    """

    source: str
    alt: str
    title: str = ""


def lines(
    series: Mapping[str, Points], *, x: str, y: str, title: str = "", percent: bool = False, log: bool = False
) -> Picture | None:
    """Draw lines; None where there is no point.

    Args:
        series: points by name; those that are not finite are left out, and on a logarithmic axis those not above zero.
        x: the label of the horizontal axis.
        y: the label of the vertical axis.
        title: what stands above the picture.
        percent: whether y are fractions, which are written as percent.
        log: whether the vertical axis is logarithmic.
    """
    kept = {
        name: [(a, b) for a, b in points if math.isfinite(a) and math.isfinite(b) and (b > 0 or not log)]
        for name, points in series.items()
    }
    kept = {name: points for name, points in kept.items() if points}
    if not kept:
        return None

    def draw(axes: Any) -> None:
        for name, points in kept.items():
            across, up = zip(*points)
            marker = "o" if len(points) <= FEW else ""
            values = [(100 if percent else 1) * value for value in up]
            axes.plot(across, values, marker=marker, markersize=3, linewidth=1.4, label=name)
        axes.set(xlabel=x, ylabel=f"{y}, percent" if percent else y, yscale="log" if log else "linear")
        axes.grid(True, **GRID)
        if log:
            power_labels(axes.yaxis)
        if len(kept) > 1:
            axes.legend(fontsize=7, frameon=False)

    return _picture(draw, alt=f"{y} against {x}: {', '.join(kept)}", title=title)


def bars(series: Mapping[str, Sequence[float]], names: Sequence[str], *, y: str, title: str = "") -> Picture:
    """Draw groups of bars of fractions, written as percent: one group per name, one bar in it per series."""

    def draw(axes: Any) -> None:
        places, width = np.arange(len(names)), 0.8 / max(1, len(series))
        for index, (name, values) in enumerate(series.items()):
            axes.bar(places + (index - (len(series) - 1) / 2) * width, 100 * np.array(values), width, label=name)
        shown = [cut(legible(name), LONGEST) for name in names]
        turned = max(map(len, shown), default=0) * len(names) > 60
        axes.set_xticks(places, shown, rotation=60 if turned else 0, ha="right" if turned else "center", fontsize=7)
        axes.set_ylabel(f"{y}, percent")
        axes.grid(True, axis="y", **GRID)
        if len(series) > 1:
            axes.legend(fontsize=7, frameon=False)

    return _picture(draw, *names, alt=f"{y} of {', '.join(names)}", title=title)


def heat(
    matrix: Sequence[Sequence[float]],
    *,
    rows: str,
    columns: str,
    row_names: Sequence[str] = (),
    column_names: Sequence[str] = (),
    title: str = "",
) -> Picture:
    """Draw a matrix as coloured squares, red above zero and blue below, with the colours' scale beside it.

    Args:
        matrix: the values.
        rows: what the rows are.
        columns: what the columns are.
        row_names: the name of each row; none: their numbers.
        column_names: the name of each column; none: their numbers.
        title: what stands above the picture.
    """
    values = np.asarray(matrix, np.float64)

    def draw(axes: Any) -> None:
        from matplotlib.ticker import MaxNLocator

        most = float(np.abs(values).max()) or 1.0
        shown = axes.imshow(values, cmap="RdBu_r", vmin=-most, vmax=most, aspect="auto", interpolation="nearest")
        axes.set(xlabel=columns, ylabel=rows)
        for axis, names in ((axes.yaxis, row_names), (axes.xaxis, column_names)):
            axis.set_major_locator(MaxNLocator(integer=True))
            if 0 < len(names) <= NAMED:
                axis.set_ticks(range(len(names)), [cut(legible(name), LONGEST) for name in names])
        if 0 < len(column_names) <= NAMED and sum(map(len, column_names)) > 50:
            axes.tick_params(axis="x", rotation=60)
        axes.figure.colorbar(shown, ax=axes, fraction=0.05, pad=0.02).ax.tick_params(labelsize=7)

    return _picture(draw, *row_names, *column_names, alt=f"a matrix of {rows} against {columns}", title=title)


def _picture(draw: Callable[[Any], None], *texts: str, alt: str, title: str) -> Picture:
    buffer = io.StringIO()
    with drawing(*texts):
        import matplotlib
        from matplotlib.figure import Figure

        with matplotlib.rc_context({"svg.hashsalt": "kip", "svg.fonttype": "path"}):
            figure = Figure(figsize=SIZE, layout="constrained")
            axes = figure.subplots()
            axes.spines[["top", "right"]].set_visible(False)
            axes.tick_params(labelsize=7, which="both")
            draw(axes)
            for label in (axes.xaxis.label, axes.yaxis.label):
                label.set(fontsize=8)
            figure.savefig(buffer, format="svg", metadata={"Date": None})
    encoded = base64.b64encode(buffer.getvalue().encode()).decode()
    return Picture(f"data:image/svg+xml;base64,{encoded}", alt, title)
