"""The common ground of all pictures: matplotlib without a window and in its own style, colours, pages of pixels, files.

matplotlib is imported when a picture is drawn, and neither reads nor changes the caller's backend and style. The same
input gives the same bytes with the same versions of matplotlib and Pillow, and, for letters that matplotlib's own font
lacks, the same fonts; but for SVG, in which matplotlib names shapes anew each time.

Text is drawn as it is: a `$` in a name begins no mathematics.
"""

from __future__ import annotations

import contextlib
import logging
import math
import textwrap
import unicodedata
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, BinaryIO

from kip.storage.files import atomic_write

LOGGER = logging.getLogger(__name__)
DPI = 100
INK, FAINT, CHANGED = "#222222", "#777777", "#c0392b"
BLUE, ORANGE, GREEN = "#1f5fa8", "#e07b00", "#2e8b57"
GRID = {"color": "#e6e6e6", "linewidth": 0.8}
"""The look of the lines of a grid."""
OWN_FONT = "DejaVu Sans"
"""The font that comes with matplotlib."""
LAST = "Last Resort"
"""A font that comes with matplotlib and has a box for every letter, which nobody reads."""
SUPERSCRIPTS = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
MARGIN = 24
"""Pixels around a page."""


def wrapped(text: str, width: int, character: float) -> list[str]:
    """Break a text into lines for a page of `width` pixels, at `character` pixels a letter."""
    return textwrap.wrap(text, max(20, int((width - 2 * MARGIN) / character))) or [""]


@contextlib.contextmanager
def drawing(*texts: str) -> Iterator[None]:
    """Draw in matplotlib's own default style, whatever the user's matplotlibrc says, and leave theirs as it was.

    Args:
        texts: names and titles from elsewhere. Letters that matplotlib's own font lacks are drawn in an installed font
            that has them.
    """
    import matplotlib.style

    with matplotlib.style.context("default"):
        others = {family for letter in "".join(texts) if (family := _family_with(letter)) not in (None, OWN_FONT)}
        matplotlib.rcParams.update({"text.parse_math": False, "font.family": [OWN_FONT, *sorted(others)]})
        yield


def legible(text: str) -> str:
    """Return a text with the letters that no installed font has replaced by the sign of an unknown letter."""
    missing = {letter for letter in text if _family_with(letter) is None}
    if missing:
        _tell_of_fonts()
    return "".join("\N{REPLACEMENT CHARACTER}" if letter in missing else letter for letter in text)


def is_legible(text: str) -> bool:
    """Return whether an installed font has each letter of a text."""
    return legible(text) == text


def cut(text: str, most: int) -> str:
    """Return a text of at most so many letters, of which wide ones, such as Chinese, count twice.

    >>> cut("aeroplane", 6), cut("猫", 2)
    ('aerop…', '猫')
    """
    if sum(map(_width, text)) <= most:
        return text
    kept, room = "", most - 1
    for letter in text:
        room -= _width(letter)
        if room < 0:
            break
        kept += letter
    return f"{kept}…"


def _width(letter: str) -> int:
    return 2 if unicodedata.east_asian_width(letter) in "WF" else 1


@cache
def _tell_of_fonts() -> None:
    """Say, once, that names are not drawn as they are."""
    LOGGER.warning(
        "no installed font has all letters of the names: pictures show the classes' numbers in their place. "
        "A font such as Noto Sans CJK, installed, is used by itself."
    )


@cache
def _family_with(letter: str) -> str | None:
    """Return the family of a font that has a letter, matplotlib's own first; None where no installed font has it."""
    if letter.isspace():
        return OWN_FONT
    return next((family for family, letters in _fonts(ord(letter) < 0x300) if ord(letter) in letters), None)


@cache
def _fonts(own: bool) -> list[tuple[str, frozenset[int]]]:
    """Return the families of fonts and the letters that they have; `own`: matplotlib's alone, which is fast."""
    from matplotlib import font_manager

    families: dict[str, Any] = {OWN_FONT: font_manager.findfont(OWN_FONT)}
    if not own:
        for entry in sorted(font_manager.fontManager.ttflist, key=lambda entry: ("CJK" not in entry.name, entry.fname)):
            if entry.style == "normal" and entry.weight in (400, "normal", "regular") and LAST not in entry.name:
                families.setdefault(entry.name, entry.fname)
    found = []
    for family, file in families.items():
        with contextlib.suppress(Exception):  # a font that cannot be read has no letters
            found.append((family, frozenset(font_manager.get_font(file).get_charmap())))
    return found


def power_labels(axis: Any) -> None:
    """Label a logarithmic axis by powers of ten, as plain text; where it has none or one, by numbers between them."""
    from matplotlib.ticker import FuncFormatter

    axis.set_major_formatter(FuncFormatter(lambda value, _: _power(value)))
    axis.set_minor_formatter(FuncFormatter(lambda value, _: _between(value, *axis.get_view_interval())))


def _between(value: float, low: float, high: float) -> str:
    """Return the label of a number between powers of ten on an axis from `low` to `high`."""
    powers = math.floor(math.log10(high)) - math.ceil(math.log10(low)) + 1
    digit = f"{value:.0e}"[0]
    return f"{value:.3g}" if powers < 1 or (powers == 1 and digit in "25") else ""


def _power(value: float) -> str:
    """Return a number of a logarithmic axis as text, powers of ten by their exponent."""
    digits, _, exponent = f"{value:.3e}".partition("e")
    if float(digits) != 1:
        return f"{value:.3g}"
    return "10" + str(int(exponent)).translate(SUPERSCRIPTS)


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
    """Write a figure as a PNG, SVG or PDF file, as the path ends, which is replaced atomically."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    kind = Path(path).suffix.removeprefix(".").lower() or "png"
    kept = {"png": {"Software": "kip"}, "svg": {"Date": None, "Creator": "kip"}, "pdf": {"CreationDate": None}}
    canvas = FigureCanvasAgg(figure)

    def write(file: BinaryIO) -> None:
        canvas.print_figure(file, format=kind, metadata=kept[kind])

    atomic_write(path, write)
