"""The picture of `kip scaling`: errors over epochs, measured and as the law has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from kip.pictures.canvas import DPI, FAINT, INK, drawing, save, with_grid


def write(results: Mapping[str, Any], path: Path) -> Path:
    """Draw what `kip scaling` found; return the path.

    Left, the errors of each size over epochs: a mark where a training was measured, and a broken line of the same
    colour for the law. Right, the errors against those that the law predicts, which are equal on the diagonal. Rings
    are the trainings that the law was not fitted to.

    Args:
        results: `law`, and `observations` with images, epochs, error, predicted and held_out.
        path: the PNG file.

    Raises:
        OutputError: if the file cannot be written.
    """
    rows = sorted(results["observations"], key=lambda row: (row["images"], row["epochs"]))
    sizes = sorted({row["images"] for row in rows})
    law = results["law"]
    with drawing():
        import matplotlib
        from matplotlib.figure import Figure
        from matplotlib.lines import Line2D

        colours = dict(zip(sizes, matplotlib.colormaps["viridis"](np.linspace(0, 0.9, len(sizes)))))
        figure = Figure(figsize=(11, 4.4), dpi=DPI, facecolor="white", layout="constrained")
        figure.suptitle(
            f"Test error of n images after k epochs, and the law: a = {law['a']:.3g}, b = {law['b']:.3g}, "
            f"d = {law['d']:.3g}, tau = {law['tau']:.4g} epochs",
            size=12,
            weight="bold",
            color=INK,
            x=0.015,
            ha="left",
        )
        over_epochs, against = figure.subplots(1, 2)
        for size in sizes:
            of_size = [row for row in rows if row["images"] == size]
            epochs, predicted = ([row[name] for row in of_size] for name in ("epochs", "predicted"))
            over_epochs.plot(epochs, 100 * np.array(predicted), "--", color=colours[size])
        for row in rows:
            colour = colours[row["images"]]
            mark = {"color": colour, "markerfacecolor": "none" if row["held_out"] else colour, "markersize": 7}
            over_epochs.plot(row["epochs"], 100 * row["error"], "o", **mark)
            against.plot(100 * row["predicted"], 100 * row["error"], "o", **mark)
        ends = [f(100 * row[name] for row in rows for name in ("error", "predicted")) for f in (min, max)]
        against.plot(ends, ends, color=FAINT, linewidth=1, zorder=0)
        over_epochs.set_xscale("log")
        marked = sorted({row["epochs"] for row in rows})
        over_epochs.set_xticks(marked, map(str, marked))
        over_epochs.minorticks_off()
        over_epochs.set(xlabel="epochs k", ylabel="test error, %")
        against.set(xlabel="test error by the law, %", ylabel="test error, %")
        kinds = [Line2D([], [], marker="o", linewidth=0, color=colours[size], label=f"{size} images") for size in sizes]
        kinds += [
            Line2D([], [], linestyle="--", color=FAINT, label="the law"),
            Line2D([], [], marker="o", linewidth=0, color=FAINT, markerfacecolor="none", label="not fitted to"),
        ]
        over_epochs.legend(handles=kinds, fontsize=8, frameon=False, ncols=2)
        for ax in (over_epochs, against):
            with_grid(ax)
        save(figure, path)
    return path
