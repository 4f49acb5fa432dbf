"""What all pictures share: matplotlib without a window and in its own style, colours, pages of pixels, files.

matplotlib is imported when a picture is drawn, and neither reads nor changes the caller's backend and style. The same
input gives the same bytes with the same versions of matplotlib and Pillow.
"""

from __future__ import annotations

import contextlib
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from kip.files import atomic_write

DPI = 100
INK, FAINT, CHANGED = "#222222", "#777777", "#c0392b"
BLUE, ORANGE, GREEN = "#1f5fa8", "#e07b00", "#2e8b57"
GRID = {"color": "#e6e6e6", "linewidth": 0.8}
"""How the lines of a grid look."""
MARGIN = 24
"""Pixels around a page."""


def wrapped(text: str, width: int, character: float) -> list[str]:
    """Break a text into lines for a page of `width` pixels, at `character` pixels a letter."""
    return textwrap.wrap(text, max(20, int((width - 2 * MARGIN) / character))) or [""]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in matplotlib's own default style, whatever the user's matplotlibrc says, and leave theirs as it was."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        yield


def with_grid(ax: Any) -> None:
    """Give axes a faint grid, and a frame that is open above and at the right."""
    ax.grid(True, **GRID)
    ax.spines[["top", "right"]].set_visible(False)


def page_of(width: int, height: int) -> tuple[Any, Any]:
    """Return a figure of so many pixels, and axes over all of it whose units are pixels, y downwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    return figure, page


def save(figure: Any, path: Path | str) -> None:
    """Write a figure as a PNG file, which is replaced atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)

    def write(file: BinaryIO) -> None:
        canvas.print_png(file, metadata={"Software": "kip"})

    atomic_write(path, write)
