"""The picture of `kip dcs`: each method's loss of the subsets against the errors of networks trained on them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kip.pictures.appearance import title_of
from kip.pictures.panels import Panel, Point, save_panels


def write(correlation: Mapping[str, Any], folder: Path) -> Path:
    """Write `dcs.png`; return its path.

    Args:
        correlation: what `kip.evaluate.dcs.correlate` returns.
        folder: where.

    Raises:
        OutputError: if the file cannot be written.
    """
    panels = []
    for name, score in correlation["scores"].items():
        series: dict[str, list[Point]] = {}
        for row in correlation["subsets"]:
            point = Point(row["losses"][name], 100 * row["error"])
            series.setdefault(f"{row['kind']}, {row['images_per_class']} per class", []).append(point)
        title = f"{name}: {as_text(score)}"
        panels.append(Panel(title, "the method's loss of the subset", "test error, %", series, connected=False))
    path = folder / "dcs.png"
    save_panels(path, panels, title=title_of(f"Does a method's loss rank sets as {correlation['network']} does?"))
    return path


def as_text(score: Mapping[str, float | None]) -> str:
    """Return a method's correlations in words."""
    spearman, dcs = ("undefined" if score[name] is None else f"{score[name]:+.2f}" for name in ("spearman", "dcs"))
    return f"DCS {dcs}, Spearman {spearman}"
