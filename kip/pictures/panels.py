"""Panels of points, for tables: comparisons, correlations, laws and benchmarks."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip.pictures.canvas import DPI, INK, drawing, legible, save, with_grid, wrapped

FEW_SERIES = 6
"""Series up to which each panel has a legend of its own."""


class Point(NamedTuple):
    """A point of a panel, and the standard deviation of its y."""

    x: float
    y: float
    deviation: float = 0.0


class Panel(NamedTuple):
    """Points on a plane, by the name of their series."""

    title: str
    x: str
    """The name of the x axis, with its unit."""
    y: str
    """The name of the y axis, with its unit."""
    series: Mapping[str, Sequence[Point]]
    connected: bool = True
    """True if the points of a series are joined, in their order."""


def save_panels(path: Path | str, panels: Sequence[Panel], *, title: str) -> None:
    """Draw panels, two to a row. An x axis is logarithmic where all of its values are above zero and they spread.

    Names of few series stand in each panel, those of many once, beside all panels.

    Args:
        path: the PNG file, replaced atomically.
        panels: what is drawn. A series has one colour and one mark in all of them.
        title: the first line.

    Raises:
        OutputError: if the file cannot be written.
    """
    names = list(dict.fromkeys(name for panel in panels for name in panel.series))
    titles = [panel.title for panel in panels]
    with drawing(title, *titles, *names):
        import matplotlib
        from matplotlib.figure import Figure

        colours = dict(zip(names, matplotlib.colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))))
        marks = dict(zip(names, itertools.cycle("osD^vP*X")))
        together = len(names) > FEW_SERIES
        rows = max(1, -(-len(panels) // 2))
        height = max(0.8 + 3.6 * rows, 0.8 + 0.16 * len(names) * together)
        figure = Figure(figsize=(11 + 3 * together, height), dpi=DPI, facecolor="white", layout="constrained")
        figure.suptitle(legible(title), size=13, weight="bold", color=INK, x=0.015, ha="left")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(axes, panels):
            for name, points in panel.series.items():
                ax.errorbar(
                    [point.x for point in points],
                    [point.y for point in points],
                    yerr=[point.deviation for point in points],
                    marker=marks[name],
                    markersize=5,
                    color=colours[name],
                    capsize=2,
                    label=legible(name),
                    linewidth=1.2 if panel.connected else 0,
                )
            ax.set(xlabel=panel.x, ylabel=panel.y)
            ax.set_title("\n".join(wrapped(legible(panel.title), 520, 7.5)), size=10, loc="left", color=INK)
            with_grid(ax)
            _plain_log(ax, [point.x for points in panel.series.values() for point in points])
            if not together:
                ax.legend(fontsize=7, frameon=False, ncols=2)
        if together:
            by_name = {}
            for ax in axes:
                by_name |= {name: handle for handle, name in zip(*ax.get_legend_handles_labels())}
            figure.legend(by_name.values(), by_name, fontsize=7, frameon=False, loc="outside right upper")
        save(figure, path)


def _plain_log(ax: Any, values: Sequence[float]) -> None:
    """Make an x axis logarithmic if its values, all above zero, differ by more than four times; mark few integers."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    marked = sorted(set(values)) if len(set(values)) <= 6 and all(value == int(value) for value in values) else None
    if marked:
        ax.set_xticks(marked)
    if not values or min(values) <= 0 or max(values) <= 4 * min(values):
        return
    ax.set_xscale("log")
    if marked:
        ax.set_xticks(marked)
    elif max(values) <= 100 * min(values):
        ax.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    ax.xaxis.set_minor_formatter(NullFormatter())
