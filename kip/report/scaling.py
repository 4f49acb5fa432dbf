"""The picture of `kip scaling`: errors over epochs, measured and as the law has them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kip.report.panels import Panel, Point, save_panels


def write(results: Mapping[str, Any], path: Path) -> Path:
    """Draw what `kip scaling` found; return the path.

    Args:
        results: `observations` with images, epochs, error, predicted and held_out.
        path: the PNG file.

    Raises:
        OutputError: if the file cannot be written.
    """
    series: dict[str, list[Point]] = {}
    errors: dict[str, list[Point]] = {}
    for row in sorted(results["observations"], key=lambda row: (row["images"], row["epochs"])):
        name = f"{row['images']} images"
        series.setdefault(f"{name}, measured", []).append(Point(row["epochs"], 100 * row["error"]))
        series.setdefault(f"{name}, law", []).append(Point(row["epochs"], 100 * row["predicted"]))
        kind = "held out" if row["held_out"] else "fitted"
        errors.setdefault(kind, []).append(Point(100 * row["predicted"], 100 * row["error"]))
    panels = [
        Panel("over epochs", "epochs", "test error, %", series),
        Panel("the law against measurements", "predicted test error, %", "test error, %", errors, connected=False),
    ]
    law = results["law"]
    title = f"y = {law['a']:.3g} n^b ... + {law['d']:.3g}, b = {law['b']:.3g}, tau = {law['tau']:.3g} epochs"
    save_panels(path, panels, title=title)
    return path
