"""`images.png`: what was learned, beside what it started from, with its labels."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kip.errors import ShapeError
from kip.pictures.appearance import are_learned, contrast, displayed, drawable, heading_of, tick_of
from kip.pictures.canvas import CHANGED, FAINT, INK, MARGIN, drawing, legible, page_of, save, wrapped
from kip.pictures.grid import GAP, HEADER, Grid, Place

LETTER = 7
"""Pixels of a letter of a column's heading, about."""
TICK_LETTER = 6
"""Pixels of a letter beside an axis, about."""
NAMED = 20
"""Classes up to which each has its name on the axes."""


def save_images(
    path: Path | str,
    images: np.ndarray,
    labels: np.ndarray,
    class_index: np.ndarray,
    *,
    before: np.ndarray | None = None,
    representations: bool = False,
    class_names: Sequence[str] = (),
    title: str,
) -> None:
    """Draw a distilled set: one column a class, beside (or below) the images that it started from.

    Below each learned image stands its class; where labels are learned, `3→5 0.42` says that an image of class 3 has
    its largest label entry, 0.42, at class 5. Learned labels are drawn whole in a second panel. At most 10 images of a
    class are shown, 2 where there are more than 14 classes, and the subtitle says how many of how many. Representations
    are a panel too, and have no part in captions.

    Values are clipped to [0, 1], black to white. Learned images leave that range (the inverse of ZCA makes high
    contrasts), and clipped alone they would turn to flat patches of pure colour; so the contrast of an image about mid
    grey is first divided by the 98th percentile of 2 |x - 1/2|, where that is above 1; the subtitle says if any was. A
    natural image, and a learned one with at most 2 % of its values outside, is shown as it is.

    Args:
        path: the PNG file, replaced atomically.
        images: pixel space, float (n, H, W, C), 1.0 = 255, C = 1 (grey) or 3 (RGB).
        labels: float (n, c); learned if they are neither one-hot nor centred one-hot.
        class_index: int (n,), the class each image started from.
        before: the images that learning started from, natural ones or noise, in the same order, like `images`; None, or
            equal to `images`, draws no such panel.
        representations: whether labels are representations, as KRR-ST's, whose entries are no classes.
        class_names: what stands above the columns, and beside their numbers on axes; none: the numbers alone. So do
            names whose letters no installed font has.
        title: the first line.

    Raises:
        ShapeError: if the shapes do not fit each other.
        OutputError: if the file cannot be written.
    """
    images, labels, class_index = np.asarray(images), np.asarray(labels, np.float64), np.asarray(class_index)
    before = None if before is None else np.asarray(before)
    _check(images, labels, class_index, before)
    unchanged = before is not None and np.allclose(before, images, atol=1e-3)  # a quarter of a grey level
    if unchanged:
        before = None
    has_heat = representations or are_learned(labels, class_index)
    labels_learned = has_heat and not representations
    num_classes = int(class_index.max()) + 1 if representations else labels.shape[1]
    grid = Grid.plan(images.shape, class_index, num_classes, beside=before is not None)
    subtitle = _subtitle(images, grid, unchanged, labels_learned)

    with drawing(title, *class_names):
        names = drawable(class_names)
        heat = _heat_size(labels, grid.width) if has_heat else (0, 0)
        of_entries = () if representations or labels.shape[1] > NAMED else names
        room = 40 + TICK_LETTER * max((len(tick_of(k, of_entries)) for k in range(len(of_entries))), default=0)
        width = 2 * MARGIN + max(grid.width, heat[0] and heat[0] + room + 110, 520)
        head = wrapped(legible(title), width, 10.5), wrapped(subtitle, width, 7.0)
        top = MARGIN + 22 * len(head[0]) + 15 * len(head[1]) + 10
        height = top + grid.height + MARGIN + (heat[1] + 100 if has_heat else 0)
        figure, page = page_of(width, height)
        page.text(MARGIN, MARGIN - 6, "\n".join(head[0]), size=13, weight="bold", color=INK, va="top", linespacing=1.25)
        page.text(
            MARGIN,
            MARGIN + 22 * len(head[0]),
            "\n".join(head[1]),
            size=8.5,
            color=FAINT,
            va="top",
            linespacing=1.3,
        )
        canvas = np.ones((height, width, 3))
        for place in grid.places(MARGIN + max(0, (width - 2 * MARGIN - grid.width) // 2), top):
            _draw_place(page, canvas, place, grid, images, before, labels, class_index, labels_learned)
            if place.header is not None:
                heading = heading_of(place.header, names, most=max(grid.cell[0], grid.pitch[0] - GAP) // LETTER)
                page.text(
                    place.x + grid.cell[0] / 2,
                    place.y - 4,
                    heading,
                    size=8,
                    color=INK,
                    ha="center",
                    va="bottom",
                    weight="bold",
                )
        page.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", zorder=0)
        if has_heat:
            corner = MARGIN + room, top + grid.height + 50
            _draw_labels(figure, labels, class_index, corner, heat, (width, height), representations, names)
        save(figure, path)


def _draw_place(
    page: Any,
    canvas: np.ndarray,
    place: Place,
    grid: Grid,
    images: np.ndarray,
    before: np.ndarray | None,
    labels: np.ndarray,
    class_index: np.ndarray,
    labels_learned: bool,
) -> None:
    """Put one image into the canvas, and its headings and caption onto the page."""
    width, height = grid.cell
    image = before[place.row] if place.is_before and before is not None else images[place.row]
    enlarged = displayed(image).repeat(grid.scale, axis=0).repeat(grid.scale, axis=1)
    canvas[place.y : place.y + height, place.x : place.x + width] = enlarged
    middle = place.x + width / 2
    if place.panel is not None:
        page.text(place.x, place.y - HEADER - 4, place.panel, size=9.5, color=INK, va="bottom")
    if place.is_before and grid.pairs:
        return
    label, own = labels[place.row], int(class_index[place.row])
    text, color = f"{own}", FAINT
    if labels_learned and not place.is_before:
        top = int(label.argmax())
        text, color = f"{own}→{top} {label[top]:.2f}", FAINT if top == own else CHANGED
    page.text(middle, place.y + height + 2, text, size=7, color=color, ha="center", va="top")


def _subtitle(images: np.ndarray, grid: Grid, unchanged: bool, labels_learned: bool) -> str:
    """Return what is shown, and how to read it."""
    n, height, width, channels = images.shape
    parts = [f"{n} images of {height} x {width} pixels, {'grey' if channels == 1 else 'RGB'}"]
    if grid.shown < n:
        most = max(map(len, grid.members))
        first = "the first" if most == 1 else f"the first {most}"
        parts = [f"{grid.shown} of {n} images shown, {first} of each class ({height} x {width} pixels)"]
    if grid.pairs:
        parts.append("above: what it started from, below: learned")
    if unchanged:
        parts.append("natural images, unchanged")
    if any(contrast(images[index]) > 1 for members in grid.members for index in members):
        parts.append("contrast lowered where values go beyond black and white")
    if labels_learned:
        parts.append("caption: class→class of the largest label entry, and that entry; red where they differ")
    return "; ".join(parts) + "."


def _heat_size(labels: np.ndarray, grid_width: int) -> tuple[int, int]:
    """Return the width and height in pixels of the label panel: square cells where there are few images."""
    n, c = labels.shape
    wide, high = (64, 34) if n * c <= 200 else (18, 18)
    return min(max(n * wide, 300), max(grid_width - 150, 500)), int(np.clip(c * high, 160, 500))


def _draw_labels(
    figure: Any,
    labels: np.ndarray,
    class_index: np.ndarray,
    corner: tuple[int, int],
    size: tuple[int, int],
    page: tuple[int, int],
    representations: bool,
    names: Sequence[str],
) -> None:
    """Draw the label matrix, entries x images, images sorted by the class that they started from."""
    order = np.argsort(class_index, kind="stable")
    matrix = labels[order].T
    c, n = matrix.shape
    limit = max(float(np.nanmax(np.abs(matrix))), 1e-12)

    def axes(x: int, width: int) -> Any:
        bottom = page[1] - corner[1] - size[1]
        return figure.add_axes((x / page[0], bottom / page[1], width / page[0], size[1] / page[1]))

    smooth = "nearest" if n <= size[0] else "antialiased"  # more columns than pixels would drop some
    ax = axes(corner[0], size[0])
    heat = ax.imshow(matrix, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation=smooth)
    bar = figure.colorbar(heat, cax=axes(corner[0] + size[0] + 14, 12))
    bar.ax.tick_params(labelsize=7.5)
    bar.outline.set_visible(False)
    ax.set_title("representations" if representations else "learned labels", size=9.5, color=INK, loc="left")
    entry_is = "entry of the representation" if representations else "class of the label entry"
    ax.set_ylabel(entry_is, size=8.5, color=INK)
    ax.set_xlabel("image, by the class it started from", size=8.5, color=INK)
    rows = range(0, c, 1 if c <= NAMED else 10 if c <= 200 else 50 * -(-c // 500))
    ax.set_yticks(rows, [str(k) if representations or c > NAMED else tick_of(k, names) for k in rows])
    classes, first, count = np.unique(class_index[order], return_index=True, return_counts=True)
    every = 1 if len(classes) <= NAMED else 10
    most = size[0] // (TICK_LETTER * len(classes))  # letters that have room below a class
    ticks = [tick_of(k, names) for k in classes]
    if max(map(len, ticks)) > most:
        ticks = [str(k) for k in classes]
    ax.set_xticks((first + (count - 1) / 2)[::every], ticks[::every])
    for boundary in first[1:] if len(classes) <= NAMED and n > len(classes) else ():
        ax.axvline(boundary - 0.5, color="white", linewidth=1)
    ax.tick_params(labelsize=7.5, length=2)
    ax.spines[:].set_visible(False)
    if n * c <= 200:
        for (row, column), entry in np.ndenumerate(matrix):
            color = "white" if abs(entry) > 0.6 * limit else INK
            ax.text(column, row, f"{entry:.2f}", size=6.5, color=color, ha="center", va="center")


def _check(images: np.ndarray, labels: np.ndarray, class_index: np.ndarray, before: np.ndarray | None) -> None:
    """Refuse arrays that do not fit each other."""
    n = len(images) if images.ndim else 0
    if images.ndim != 4 or 0 in images.shape or images.shape[3] not in (1, 3):
        raise ShapeError("shape of images", got=images.shape, expected="(n, H, W, 1 or 3), n >= 1")
    if labels.ndim != 2 or len(labels) != n:
        raise ShapeError("shape of labels", got=labels.shape, expected=f"({n}, classes)")
    if class_index.shape != (n,) or class_index.min() < 0 or class_index.max() >= labels.shape[1]:
        raise ShapeError("class_index", got=class_index.shape, expected=f"({n},), in 0..{labels.shape[1] - 1}")
    if before is not None and before.shape != images.shape:
        raise ShapeError("shape of before", got=before.shape, expected=f"that of images, {images.shape}")
