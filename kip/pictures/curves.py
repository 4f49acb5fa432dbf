"""`curves.png`: how a run went, its loss, accuracy and condition number over its steps."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from kip.pictures.canvas import (
    BLUE,
    DPI,
    FAINT,
    GREEN,
    INK,
    ORANGE,
    drawing,
    legible,
    power_labels,
    save,
    with_grid,
    wrapped,
)

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

    with drawing(title):
        from matplotlib.figure import Figure
        from matplotlib.layout_engine import ConstrainedLayoutEngine

        head = wrapped(legible(title), 860, 10.5)
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
            with_grid(ax)
            ax.set_axisbelow(True)
            if panel == "loss":
                _line(ax, loss, color=BLUE)
                ax.set(yscale="log", ylabel="loss")
            elif panel == "condition":
                _line(ax, condition, color=FAINT)
                ax.set(yscale="log", ylabel="condition number\nof K(Xs, Xs) + λI")
            else:
                _draw_accuracy(ax, accuracies, reference)
            _readable_log(ax)
        _step_axis(axes[-1], steps)
        save(figure, path)


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
    else:
        power_labels(ax.yaxis)
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
