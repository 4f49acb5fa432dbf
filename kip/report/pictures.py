"""Pictures of a run: `images.png`, what was learned, and `curves.png`, how it went.

matplotlib is imported when a picture is drawn, draws without a window, and neither reads nor changes the caller's
backend and style. The same input gives the same bytes with the same versions of matplotlib and Pillow.
"""

from __future__ import annotations

import contextlib
import itertools
import math
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol

import numpy as np

from kip.errors import ShapeError
from kip.files import atomic_write

DPI = 100
INK, FAINT, CHANGED = "#222222", "#777777", "#c0392b"
BLUE, ORANGE, GREEN = "#1f5fa8", "#e07b00", "#2e8b57"
MARGIN, GAP, CAPTION, HEADER = 24, 6, 15, 20
"""Pixels: around the page, between images, below each image for its caption, above each column for its class."""
LETTER = 7
"""Pixels of a letter of a column's heading, about."""
MANY_CLASSES = 14
"""More classes than this are wrapped into bands of `BAND` columns."""
BAND = 20
SHOWN = 10
"""Images of a class that are shown; two where classes are many."""
FEW_SERIES = 6
"""Series up to which each panel has a legend of its own."""
LOG_STEPS = 200
"""More steps than this are drawn on a logarithmic axis: most of the gain comes early."""


class Published(Protocol):
    """A published result, such as `Experiment.reference`."""

    @property
    def source(self) -> str:
        """Paper, table and row."""
        ...

    @property
    def accuracy(self) -> float:
        """A fraction."""
        ...

    @property
    def spread(self) -> float | None:
        """A standard deviation, as a fraction."""
        ...


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
    """Draw a distilled set: one column a class, beside (or below) the natural images that it started from.

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
        before: the natural images in the same order, like `images`; None, or equal to `images`, draws no such panel.
        representations: whether labels are representations, as KRR-ST's, whose entries are no classes.
        class_names: what stands above the columns; none: the classes' numbers.
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
    grid = _Grid.plan(images.shape, class_index, num_classes, beside=before is not None)
    subtitle = _subtitle(images, grid, unchanged, labels_learned)

    with drawing():
        heat = _heat_size(labels, grid.width) if has_heat else (0, 0)
        width = 2 * MARGIN + max(grid.width, heat[0] and heat[0] + 150, 520)
        head = _wrapped(title, width, 10.5), _wrapped(subtitle, width, 7.0)
        top = MARGIN + 22 * len(head[0]) + 15 * len(head[1]) + 10
        height = top + grid.height + MARGIN + (heat[1] + 100 if has_heat else 0)
        figure, page = _page(width, height)
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
                heading = heading_of(place.header, class_names, most=grid.cell[0] // LETTER)
                page.text(
                    place.x + grid.cell[0] / 2, place.y - 4, heading, size=8, color=INK, ha="center", va="bottom",
                    weight="bold",
                )  # fmt: skip
        page.imshow(canvas, extent=(0, width, height, 0), interpolation="nearest", zorder=0)
        if has_heat:
            corner = MARGIN + 40, top + grid.height + 50
            _draw_labels(figure, labels, class_index, corner, heat, (width, height), representations)
        _save(figure, path)


def save_curves(
    path: Path | str,
    metrics: Sequence[Mapping[str, Any]],
    *,
    reference: Published | None = None,
    title: str,
) -> None:
    """Draw a run's loss, accuracy and condition number over its steps.

    Panels without a value are left out; so are values that are missing, None, not finite, or, on a logarithmic axis,
    not above zero. Above 200 steps the step axis is logarithmic.

    Args:
        path: the PNG file, replaced atomically.
        metrics: rows of `metrics.jsonl`: `step`, and any of `loss`, `batch_accuracy`, `validation_accuracy`,
            `test_accuracy` (fractions) and `condition`.
        reference: the published accuracy, drawn dashed with its deviation as a band.
        title: the first line.

    Raises:
        OutputError: if the file cannot be written.
    """
    loss, condition = _series(metrics, "loss", positive=True), _series(metrics, "condition", positive=True)
    accuracies = {name: _series(metrics, f"{name}_accuracy") for name in ("batch", "validation", "test")}
    has_accuracy = any(len(series.step) for series in accuracies.values())
    panels = [
        *(["loss"] if len(loss.step) else []),
        *(["accuracy"] if has_accuracy or reference is not None else []),
        *(["condition"] if len(condition.step) else []),
    ]
    steps = np.concatenate([series.step for series in (loss, condition, *accuracies.values())])
    weights = {"loss": 1.0, "accuracy": 1.5, "condition": 0.7}

    with drawing():
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        head = _wrapped(title, 860, 10.5)
        inches = 0.9 + 0.25 * len(head) + sum(2.2 * weights[panel] for panel in panels or ["loss"])
        figure = Figure(
            figsize=(8.6, inches), dpi=DPI, facecolor="white", layout=ConstrainedLayoutEngine(h_pad=0.08, w_pad=0.08)
        )
        figure.suptitle("\n".join(head), size=13, weight="bold", color=INK, x=0.015, ha="left")
        if not panels:
            axes = [figure.add_subplot()]
            axes[0].text(0.5, 0.5, "no metrics yet", ha="center", va="center", transform=axes[0].transAxes)
        else:
            ratios = [weights[panel] for panel in panels]
            axes = list(figure.subplots(len(panels), sharex=True, squeeze=False, height_ratios=ratios)[:, 0])
        for ax, panel in zip(axes, panels):
            ax.grid(True, color="#e6e6e6", linewidth=0.8)
            ax.set_axisbelow(True)
            ax.spines[["top", "right"]].set_visible(False)
            if panel == "loss":
                _line(ax, loss, color=BLUE)
                ax.set(yscale="log", ylabel="loss")
            elif panel == "condition":
                _line(ax, condition, color=FAINT)
                ax.set(yscale="log", ylabel="condition number\nof $K_{ss} + \\lambda I$")
            else:
                _draw_accuracy(ax, accuracies, reference)
            _readable_log(ax)
        _step_axis(axes[-1], steps)
        _save(figure, path)


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
    """Whether the points of a series are joined, in their order."""


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
    with drawing():
        import matplotlib
        from matplotlib.figure import Figure

        colours = dict(zip(names, matplotlib.colormaps["tab20"](np.linspace(0, 1, max(len(names), 2)))))
        marks = dict(zip(names, itertools.cycle("osD^vP*X")))
        together = len(names) > FEW_SERIES
        rows = max(1, -(-len(panels) // 2))
        height = max(0.8 + 3.6 * rows, 0.8 + 0.16 * len(names) * together)
        figure = Figure(figsize=(11 + 3 * together, height), dpi=DPI, facecolor="white", layout="constrained")
        figure.suptitle(title, size=13, weight="bold", color=INK, x=0.015, ha="left")
        axes = figure.subplots(rows, 2, squeeze=False).ravel()
        for ax in axes[len(panels) :]:
            ax.set_axis_off()
        for ax, panel in zip(axes, panels):
            for name, points in panel.series.items():
                ax.errorbar(
                    [point.x for point in points],
                    [point.y for point in points],
                    yerr=[point.deviation for point in points],
                    marker=marks[name], markersize=5, color=colours[name], capsize=2, label=name,
                    linewidth=1.2 if panel.connected else 0,
                )  # fmt: skip
            ax.set(xlabel=panel.x, ylabel=panel.y)
            ax.set_title("\n".join(_wrapped(panel.title, 520, 7.5)), size=10, loc="left", color=INK)
            ax.grid(True, color="#e6e6e6", linewidth=0.8)
            ax.spines[["top", "right"]].set_visible(False)
            _plain_log(ax, [point.x for points in panel.series.values() for point in points])
            if not together:
                ax.legend(fontsize=7, frameon=False, ncols=2)
        if together:
            by_name = {}
            for ax in axes:
                by_name |= {name: handle for handle, name in zip(*ax.get_legend_handles_labels())}
            figure.legend(by_name.values(), by_name, fontsize=7, frameon=False, loc="outside right upper")
        _save(figure, path)


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


def prototypes(images: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Return what each class looks like as its labels mix the images: x_c = sum_n y_nc x_n / sum_n y_nc, (c, H, W, C).

    For label distillation between data sets: letters, mixed by their learned digit labels, resemble digits. A class
    without any label is zeros.

    Args:
        images: pixel space, (n, H, W, C).
        labels: probabilities, (n, c).

    Raises:
        ShapeError: if a label is negative: such labels mix no image.

    Reference: Bohdal et al. 2020, figure 9.
    """
    if np.min(labels) < 0:
        raise ShapeError(
            "labels for prototypes", got=f"a least entry of {np.min(labels):.3g}", expected="probabilities",
            remedy="Label distillation learns such labels; those of KIP are centred.",
        )  # fmt: skip
    total = labels.sum(axis=0)
    weights = labels / np.where(total > 0, total, 1)
    return np.tensordot(weights.T, images, axes=1)


def shown_class(labels: np.ndarray, class_index: np.ndarray) -> np.ndarray:
    """Return the class that each image is drawn under, (n,): its own, or, of another data set, its largest label's."""
    return labels.argmax(axis=1) if np.max(class_index) >= labels.shape[1] else class_index


def are_learned(labels: np.ndarray, class_index: np.ndarray) -> bool:
    """Return whether labels (n, c) are neither one-hot nor centred one-hot for their classes (n,)."""
    one_hot = np.eye(labels.shape[1])[class_index]
    return not any(np.allclose(labels, y, atol=1e-6) for y in (one_hot, one_hot - 1 / labels.shape[1]))


def heading_of(number: int, class_names: Sequence[str], *, most: int | None = None) -> str:
    """Return what a class is called in pictures: its name, cut to so many letters, or `class 3`."""
    if number >= len(class_names) or class_names[number].isdecimal():
        return f"class {number}"
    name = class_names[number]
    return name if most is None or len(name) <= most else f"{name[: most - 1]}…"


def displayed(image: np.ndarray) -> np.ndarray:
    """Return an image (H, W, 1 or 3) as RGB (H, W, 3) in [0, 1], by the rule that `save_images` states."""
    shown = np.clip((np.asarray(image, np.float64) - 0.5) / _contrast(image) + 0.5, 0, 1)
    return np.broadcast_to(np.nan_to_num(shown, nan=0.5), (*image.shape[:2], 3))


def _contrast(image: np.ndarray) -> float:
    """Return what the contrast of an image is divided by, 1 or more; pixels that are not finite have no say."""
    distance = 2 * np.abs(image[np.isfinite(image)].astype(np.float64) - 0.5)
    return max(1.0, float(np.percentile(distance, 98))) if distance.size else 1.0


class _Place(NamedTuple):
    """One image of the grid: which, whether as it was before, its pixel corner, and the class that heads its column."""

    index: int
    is_before: bool
    x: int
    y: int
    header: int | None
    panel: str | None


class _Grid(NamedTuple):
    """Where images go, in pixels relative to the grid's corner.

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
    def plan(cls, shape: tuple[int, ...], class_index: np.ndarray, num_classes: int, *, beside: bool) -> _Grid:
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
        return sum(map(len, self.members))

    @property
    def pitch(self) -> tuple[int, int]:
        """From one image to the next, across (at least as wide as a caption) and down."""
        return max(self.cell[0] + GAP, 62), self.cell[1] + CAPTION

    @property
    def panel_width(self) -> int:
        return self.columns * self.pitch[0] - GAP

    @property
    def width(self) -> int:
        return self.panel_width * 2 + 36 if self.has_before and not self.pairs else self.panel_width

    def bands(self) -> Iterator[tuple[range, int]]:
        """Yield the classes of each band (positions in `classes`) and its rows of images."""
        for first in range(0, len(self.classes), self.columns):
            band = range(first, min(first + self.columns, len(self.classes)))
            yield band, max(len(self.members[c]) for c in band)

    def row_height(self) -> int:
        return self.pitch[1] + (self.cell[1] + 2 * GAP if self.pairs else 0)

    @property
    def lead(self) -> int:
        """Height of a band's headings."""
        return HEADER + (20 if self.has_before and not self.pairs else 0)

    @property
    def height(self) -> int:
        return sum(self.lead + rows * self.row_height() + 8 for _, rows in self.bands()) - 8

    def places(self, x0: int, y0: int) -> Iterator[_Place]:
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
                        yield _Place(int(index), True, x, y, header, None)
                        yield _Place(int(index), False, x, y + self.cell[1] + GAP, None, None)
                    elif self.has_before:
                        yield _Place(int(index), True, x, y, header, "natural, before" if first else None)
                        right = x + self.panel_width + 36
                        yield _Place(int(index), False, right, y, header, "learned, after" if first else None)
                    else:
                        yield _Place(int(index), False, x, y, header, None)
            y0 += self.lead + rows * self.row_height() + 8


def _draw_place(
    page: Any,
    canvas: np.ndarray,
    place: _Place,
    grid: _Grid,
    images: np.ndarray,
    before: np.ndarray | None,
    labels: np.ndarray,
    class_index: np.ndarray,
    labels_learned: bool,
) -> None:
    """Put one image into the canvas, and its headings and caption onto the page."""
    width, height = grid.cell
    image = before[place.index] if place.is_before and before is not None else images[place.index]
    enlarged = displayed(image).repeat(grid.scale, axis=0).repeat(grid.scale, axis=1)
    canvas[place.y : place.y + height, place.x : place.x + width] = enlarged
    middle = place.x + width / 2
    if place.panel is not None:
        page.text(place.x, place.y - HEADER - 4, place.panel, size=9.5, color=INK, va="bottom")
    if place.is_before and grid.pairs:
        return
    label, own = labels[place.index], int(class_index[place.index])
    text, color = f"{own}", FAINT
    if labels_learned and not place.is_before:
        top = int(label.argmax())
        text, color = f"{own}→{top} {label[top]:.2f}", FAINT if top == own else CHANGED
    page.text(middle, place.y + height + 2, text, size=7, color=color, ha="center", va="top")


def _subtitle(images: np.ndarray, grid: _Grid, unchanged: bool, labels_learned: bool) -> str:
    """Return what is shown, and how to read it."""
    n, height, width, channels = images.shape
    parts = [f"{n} images of {height} x {width} pixels, {'grey' if channels == 1 else 'RGB'}"]
    if grid.shown < n:
        most = max(map(len, grid.members))
        first = "the first" if most == 1 else f"the first {most}"
        parts = [f"{grid.shown} of {n} images shown, {first} of each class ({height} x {width} pixels)"]
    if grid.pairs:
        parts.append("above: the natural image it started from, below: learned")
    if unchanged:
        parts.append("natural images, unchanged")
    if any(_contrast(images[index]) > 1 for members in grid.members for index in members):
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
    ax.set_yticks(range(0, c, 1 if c <= 20 else 10 if c <= 200 else 50 * -(-c // 500)))
    classes, first, count = np.unique(class_index[order], return_index=True, return_counts=True)
    every = 1 if len(classes) <= 20 else 10
    ax.set_xticks((first + (count - 1) / 2)[::every], [str(k) for k in classes[::every]])
    for boundary in first[1:] if len(classes) <= 20 and n > len(classes) else ():
        ax.axvline(boundary - 0.5, color="white", linewidth=1)
    ax.tick_params(labelsize=7.5, length=2)
    ax.spines[:].set_visible(False)
    if n * c <= 200:
        for (row, column), entry in np.ndenumerate(matrix):
            color = "white" if abs(entry) > 0.6 * limit else INK
            ax.text(column, row, f"{entry:.2f}", size=6.5, color=color, ha="center", va="center")


class _Series(NamedTuple):
    """A quantity over steps, without missing values."""

    step: np.ndarray
    value: np.ndarray


def _series(metrics: Sequence[Mapping[str, Any]], key: str, *, positive: bool = False) -> _Series:
    """Return a key's finite values in the order of their steps; of two rows of one step, the later."""
    values: dict[int, float] = {}
    for row in metrics:
        entry = row.get(key)
        if row.get("step") is not None and entry is not None and math.isfinite(entry) and (entry > 0 or not positive):
            values[int(row["step"])] = float(entry)
    steps = sorted(values)
    return _Series(np.array(steps, float), np.array([values[step] for step in steps], float))


def _line(ax: Any, series: _Series, **style: Any) -> None:
    """Draw a line, with markers where the points are few enough to be told apart."""
    marker = {"marker": "o", "markersize": 3.5} if len(series.step) <= 30 else {}
    ax.plot(series.step, series.value, **{"linewidth": 1.4, **marker, **style})


def _draw_accuracy(ax: Any, accuracies: Mapping[str, _Series], reference: Published | None) -> None:
    """Draw accuracies in percent: the batch's faint, validation strong, the reference dashed."""
    batch, validation, test = (
        _Series(series.step, 100 * series.value) for series in (accuracies[k] for k in ("batch", "validation", "test"))
    )
    if len(batch.step):
        _line(ax, batch, color=BLUE, alpha=0.35, linewidth=1.0, label="target batch, before the update")
    if len(validation.step):
        best = int(validation.value.argmax())
        label = f"validation, best {validation.value[best]:.1f} % at step {validation.step[best]:.0f}"
        size = 5 if len(validation.step) <= 60 else 2.5
        ax.plot(*validation, color=ORANGE, linewidth=1.8, marker="o", markersize=size, label=label, zorder=3)
    if len(test.step):
        ax.plot(
            *test, color=INK, linestyle="", marker="D", markersize=6, zorder=4, label=f"test, {test.value[-1]:.1f} %"
        )
    if reference is not None:
        mean, spread = 100 * reference.accuracy, 100 * (reference.spread or 0)
        printed = f"{mean:.1f} %" if reference.spread is None else f"{mean:.1f} ± {spread:.1f} %"
        ax.axhline(mean, color=GREEN, linestyle="--", linewidth=1.4, label=f"{printed}: {reference.source}")
        if spread:
            ax.axhspan(mean - spread, mean + spread, color=GREEN, alpha=0.15, linewidth=0)
    ax.set_ylabel("accuracy, %")
    ax.margins(y=0.12)
    low, high = ax.get_ylim()
    if high - low < 10:  # do not make a mountain of a tenth of a percent
        ax.set_ylim((low + high) / 2 - 5, (low + high) / 2 + 5)
    handles, names = ax.get_legend_handles_labels()
    wrapped = [textwrap.fill(name, 90) for name in names]
    ax.legend(handles, wrapped, fontsize=8, frameon=False, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2)


def _readable_log(ax: Any) -> None:
    """Label a logarithmic axis that spans less than a decade, where powers of ten alone would leave it bare."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    if ax.get_yscale() != "log":
        return
    low, high = ax.get_ylim()
    if high / low < 1.05:  # one value, or nearly
        middle = math.sqrt(low * high)
        ax.set_ylim(middle / 1.5, middle * 1.5)
        low, high = ax.get_ylim()
    if high / low < 30:
        ax.yaxis.set_major_locator(LogLocator(subs=(1, 1.5, 2, 3, 5, 7) if high / low < 8 else (1, 2, 5)))
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}".replace("e+0", "e")))
    elif low > 1e-4 and high < 1e4:
        ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.4g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())


def _step_axis(ax: Any, steps: np.ndarray) -> None:
    """Scale and label the axis of steps; symmetric-logarithmic, so that step 0 has a place."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, MaxNLocator, NullLocator

    ax.set_xlabel("step")
    if not len(steps):
        return
    low, high = steps.min(), steps.max()
    if high - low > LOG_STEPS:
        ax.set_xscale("symlog", linthresh=1, linscale=0.4)
        decades = [10**k for k in range(math.ceil(math.log10(high)) + 1) if low <= 10**k <= high]
        ax.set_xticks([*([0] if low < 1 else []), *decades])
        ax.xaxis.set_minor_locator(NullLocator())
        ax.set_xlim(low - (0.3 if low < 1 else 0.05 * low), high * 1.15)
    else:
        ax.xaxis.set_major_locator(MaxNLocator(integer=True) if high > low else FixedLocator([low]))
        edge = max(0.03 * (high - low), 0.5)
        ax.set_xlim(low - edge, high + edge)
    ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}".replace(",", " ")))


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


def _wrapped(text: str, width: int, character: float) -> list[str]:
    """Break a text into lines for a page of `width` pixels, at `character` pixels a letter."""
    return textwrap.wrap(text, max(20, int((width - 2 * MARGIN) / character))) or [""]


@contextlib.contextmanager
def drawing() -> Iterator[None]:
    """Draw in matplotlib's own default style, whatever the user's matplotlibrc says, and leave theirs as it was."""
    import matplotlib.style

    with matplotlib.style.context("default"):
        yield


def _page(width: int, height: int) -> tuple[Any, Any]:
    """Return a figure of so many pixels, and axes over all of it whose units are pixels, y downwards."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="white")
    page = figure.add_axes((0, 0, 1, 1))
    page.set(xlim=(0, width), ylim=(height, 0))
    page.set_axis_off()
    return figure, page


def _save(figure: Any, path: Path | str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    canvas = FigureCanvasAgg(figure)

    def write(file: BinaryIO) -> None:
        canvas.print_png(file, metadata={"Software": "kip"})

    atomic_write(path, write)
