"""The table of `kip compare` as CSV, as Markdown and as a picture, from its JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kip.pictures.appearance import title_of
from kip.pictures.panels import Panel, Point, save_panels
from kip.storage.files import atomic_write

UNITS = ["accuracy", "deviation", "set_bytes", "cell_seconds", "making_seconds", "making_peak_memory_mib"]
"""Columns of the CSV beside those that say which cell it is: fractions, bytes, seconds, MiB."""
FITTED = ("RDED", "RDED-tiles", "HL-large", "MTT")
"""Protocols whose batch or rate depends on the set; the text says which it was."""


def write(table: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `comparison.csv`, `comparison.md` and `comparison.png`; return their paths.

    Args:
        table: what `kip.evaluate.comparison.compare` returns.
        folder: where.

    Raises:
        OutputError: if a file cannot be written.
    """
    texts = {"comparison.csv": as_csv(table), "comparison.md": as_markdown(table)}
    for name, text in texts.items():
        atomic_write(folder / name, lambda file, text=text: file.write(text.encode()))
    picture = folder / "comparison.png"
    save_panels(picture, panels(table), title="Test accuracy of networks trained on each set")
    return [*(folder / name for name in texts), picture]


def as_csv(table: Mapping[str, Any]) -> str:
    """Return one row for each cell. Accuracies are fractions; a value that is not known is empty."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    columns = ["data", "preprocess", "set", "method", "images_per_class", "network", "protocol", *UNITS, "seeds"]
    rows.writerow([*columns, "batch", "rate", "teachers"])
    made = {row["name"]: row for row in table["sets"]}
    for cell in table["cells"]:
        of_set = made[cell["candidate"]]
        several = len(cell["accuracies"]) > 1
        rows.writerow(
            [
                cell["data"], cell["preprocess"], cell["candidate"], cell["method"], cell["images_per_class"],
                cell["network"], cell["protocol"], cell["mean"], cell["deviation"] if several else "",
                cell["set_bytes"], cell["seconds"], of_set["seconds"], of_set["peak_memory_mib"],
                len(cell["accuracies"]), cell["batch"], cell["rate"], "; ".join(cell["teachers"]),
            ]
        )  # fmt: skip
    return text.getvalue()


def as_markdown(table: Mapping[str, Any]) -> str:
    """Return a table for each data set and network: a row for each set, a column for each protocol."""
    parts = []
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for cell in table["cells"]:
        groups.setdefault((cell["data"], cell["preprocess"], cell["network"]), []).append(cell)
    made = {row["name"]: row for row in table["sets"]}
    for (data, preprocess, network), cells in groups.items():
        protocols = list(dict.fromkeys(cell["protocol"] for cell in cells))
        head = ["set", "images per class", *protocols, "own judge", "KiB", "seconds", "MiB"]
        lines = [f"### {data}, {preprocess}, {network}", "", _row(head), _row(["---"] * len(head))]
        for name in dict.fromkeys(cell["candidate"] for cell in cells):
            of_set = {cell["protocol"]: cell for cell in cells if cell["candidate"] == name}
            row = made[name]
            lines.append(
                _row(
                    [
                        name,
                        str(row["images_per_class"]),
                        *(_score(of_set.get(protocol)) for protocol in protocols),
                        "" if row["own_test_accuracy"] is None else f"{100 * row['own_test_accuracy']:.2f}",
                        " / ".join(f"{of_set[p]['set_bytes'] / 1024:.0f}" for p in protocols if p in of_set),
                        "" if row["seconds"] is None else f"{row['seconds']:.0f}",
                        "" if row["peak_memory_mib"] is None else str(row["peak_memory_mib"]),
                    ]
                )
            )
        parts.append("\n".join(lines))
    counts = " or ".join(map(str, sorted({len(cell["accuracies"]) for cell in table["cells"]}))) or "0"
    notes = [
        f"Test accuracy in percent: mean and standard deviation over {counts} networks. Own judge: what the set's run "
        "reports, by the judge of its method. KiB: images and labels that the training needs, for each protocol. "
        "Seconds and MiB: the making of the set, where it is known.",
        *_trainings(table["cells"]),
        *(
            f"A teacher of {teacher['data']} ({teacher['preprocess']}), {teacher['label']}: "
            f"{100 * teacher['test_accuracy']:.2f} % on test."
            for teacher in table["teachers"]
        ),
    ]
    return "\n\n".join([*parts, *notes]) + "\n"


def _trainings(cells: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return a line for each protocol that trains its sets in batches, or at rates, of several sizes."""
    kinds: dict[str, dict[tuple[int, float], list[str]]] = {}
    for cell in cells:
        names = kinds.setdefault(cell["protocol"], {}).setdefault((cell["batch"], cell["rate"]), [])
        names += [name for name in (cell["candidate"],) if name not in names]
    parts = {
        protocol: [f"{batch} at {rate:.3g} ({', '.join(names)})" for (batch, rate), names in trainings.items()]
        for protocol, trainings in kinds.items()
        if len(trainings) > 1 or protocol.split(" ")[0] in FITTED
    }
    return [f"{protocol} trains in batches of {'; '.join(listed)}." for protocol, listed in parts.items()]


def panels(table: Mapping[str, Any]) -> list[Panel]:
    """Return what the picture shows: for each data set, network and protocol, accuracy against size and against time.

    A series is a method. Of several sets of one method and size, all but the first are series of their own. A panel
    against time is left out where no set's time is known, and so are those of a single set beside others of several.
    """
    seconds = {row["name"]: row["seconds"] for row in table["sets"]}
    first: dict[tuple[Any, ...], str] = {}
    for row in table["sets"]:
        first.setdefault(tuple(row[name] for name in ("data", "preprocess", "method", "images_per_class")), row["name"])
    series = {name: kind[2] for kind, name in first.items()}
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for cell in table["cells"]:
        key = cell["data"], cell["preprocess"], cell["network"], cell["protocol"]
        groups.setdefault(key, []).append(cell)
    drawn, several = [], any(len(cells) > 1 for cells in groups.values())
    for key, cells in groups.items():
        if several and len(cells) == 1:
            continue
        by_size: dict[str, list[Point]] = {}
        by_time: dict[str, list[Point]] = {}
        for cell in sorted(cells, key=lambda cell: cell["images_per_class"]):
            at = 100 * cell["mean"], 100 * cell["deviation"]
            line = series.get(cell["candidate"], cell["candidate"])
            by_size.setdefault(line, []).append(Point(cell["images_per_class"], *at))
            if seconds[cell["candidate"]]:
                by_time.setdefault(line, []).append(Point(seconds[cell["candidate"]], *at))
        title = title_of(", ".join(part for part in key if part != "none"))
        drawn.append(Panel(title, "images per class", "test accuracy, %", by_size))
        if by_time:
            drawn.append(Panel(title, "seconds to make the set", "test accuracy, %", by_time))
    return drawn


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _score(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = f" ± {100 * cell['deviation']:.2f}" if len(cell["accuracies"]) > 1 else ""
    return f"{100 * cell['mean']:.2f}{spread}"
