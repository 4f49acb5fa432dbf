"""The places of a set's images on the page of `kip.pictures.images`."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

GAP, CAPTION, HEADER = 6, 15, 20
"""Pixels: between images, below each image for its caption, above each column for its class."""
MANY_CLASSES = 14
"""More classes than this are wrapped into bands of `BAND` columns."""
BAND = 20
SHOWN = 10
"""Images of a class that are shown; two where classes are many."""


class Place(NamedTuple):
    """One image of the grid: its row in the set, its pixel corner, and the class that heads its column."""

    row: int
    is_before: bool
    x: int
    y: int
    header: int | None
    panel: str | None


class Grid(NamedTuple):
    """The places of images, in pixels relative to the grid's corner.

    A class is a column; more than `MANY_CLASSES` are wrapped into bands of `BAND`. `pairs` puts each natural image
    above the learned one (one image a class, or bands); otherwise natural images have a panel of their own on the left.
    """

    members: list[np.ndarray]
    """The shown images of each class that has any, in order."""
    classes: list[int]
    columns: int
    scale: int
    cell: tuple[int, int]
    """The width and height of an image, enlarged."""
    has_before: bool
    pairs: bool

    @classmethod
    def plan(cls, shape: tuple[int, ...], class_index: np.ndarray, num_classes: int, *, beside: bool) -> Grid:
        """Return the grid of images of `shape` (n, H, W, C); `beside` says that natural images are drawn too."""
        most = SHOWN if num_classes <= MANY_CLASSES else 2
        classes = [c for c in range(num_classes) if np.any(class_index == c)]
        members = [np.flatnonzero(class_index == c)[:most] for c in classes]
        columns = len(classes) if num_classes <= MANY_CLASSES else min(BAND, len(classes))
        pairs = beside and (num_classes > MANY_CLASSES or max(map(len, members)) == 1)
        across = columns * (2 if beside and not pairs else 1)
        size = max(shape[1:3])
        scale = max(1, (100 if across <= MANY_CLASSES else 66) // size)  # a whole number keeps pixels square and even
        return cls(members, classes, columns, scale, (shape[2] * scale, shape[1] * scale), beside, pairs)

    @property
    def shown(self) -> int:
        """The number of images that are drawn."""
        return sum(map(len, self.members))

    @property
    def pitch(self) -> tuple[int, int]:
        """From one image to the next, across (at least as wide as a caption) and down."""
        return max(self.cell[0] + GAP, 62), self.cell[1] + CAPTION

    @property
    def panel_width(self) -> int:
        """The width of the learned images, or of the natural ones."""
        return self.columns * self.pitch[0] - GAP

    @property
    def width(self) -> int:
        """The width of all."""
        return self.panel_width * 2 + 36 if self.has_before and not self.pairs else self.panel_width

    def bands(self) -> Iterator[tuple[range, int]]:
        """Yield the classes of each band (positions in `classes`) and its rows of images."""
        for first in range(0, len(self.classes), self.columns):
            band = range(first, min(first + self.columns, len(self.classes)))
            yield band, max(len(self.members[c]) for c in band)

    def row_height(self) -> int:
        """Return the height of a row, of two images where natural ones stand above."""
        return self.pitch[1] + (self.cell[1] + 2 * GAP if self.pairs else 0)

    @property
    def lead(self) -> int:
        """Height of a band's headings."""
        return HEADER + (20 if self.has_before and not self.pairs else 0)

    @property
    def height(self) -> int:
        """The height of all."""
        return sum(self.lead + rows * self.row_height() + 8 for _, rows in self.bands()) - 8

    def places(self, x0: int, y0: int) -> Iterator[Place]:
        """Yield every image to draw, with its top left pixel."""
        for band, rows in self.bands():
            for column, position in enumerate(band):
                indent = (self.pitch[0] - GAP - self.cell[0]) // 2
                x = x0 + column * self.pitch[0] + indent
                for row, index in enumerate(self.members[position]):
                    y = y0 + self.lead + row * self.row_height()
                    header = self.classes[position] if row == 0 else None
                    first = header is not None and column == 0
                    if self.has_before and self.pairs:
                        yield Place(int(index), True, x, y, header, None)
                        yield Place(int(index), False, x, y + self.cell[1] + GAP, None, None)
                    elif self.has_before:
                        yield Place(int(index), True, x, y, header, "natural, before" if first else None)
                        right = x + self.panel_width + 36
                        yield Place(int(index), False, right, y, header, "learned, after" if first else None)
                    else:
                        yield Place(int(index), False, x, y, header, None)
            y0 += self.lead + rows * self.row_height() + 8
