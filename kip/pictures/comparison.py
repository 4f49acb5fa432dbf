"""The table of `kip compare` as CSV, Markdown, LaTeX and a picture, from its JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kip.pictures.appearance import title_of
from kip.pictures.dots import Dot, Dots, Line, save_dots
from kip.pictures.panels import Panel, Point, save_panels
from kip.storage.files import atomic_write

UNITS = ["accuracy", "deviation", "set_bytes", "cell_seconds", "making_seconds", "making_peak_memory_mib"]
"""Columns of the CSV beside those that say which cell it is: fractions, bytes, seconds, MiB."""
PICTURES = ("png", "svg", "pdf")
"""The endings of the pictures, which say their formats."""
TITLE = "Test accuracy of networks trained on each set"
MARK = "†"
LATEX = {"\\": r"\textbackslash{}", "±": r"$\pm$", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"} | {
    letter: f"\\{letter}" for letter in "&%$#_{}"
}
FITTED = ("RDED", "RDED-tiles", "HL-large", "MTT")
"""Protocols whose batch or rate depends on the set; the text says which it was."""


def write(table: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write `comparison.csv`, `.md`, `.tex`, `.png`, `.svg` and `.pdf`; return their paths.

    For each field that `--vary` gave several numbers, `comparison-FIELD.png`, `.svg` and `.pdf` have accuracy over it.

    Args:
        table: what `kip.evaluate.comparison.compare` returns.
        folder: where.

    Raises:
        OutputError: if a file cannot be written.
    """
    texts = {"csv": as_csv(table), "md": as_markdown(table), "tex": as_latex(table)}
    for ending, text in texts.items():
        atomic_write(folder / f"comparison.{ending}", lambda file, text=text: file.write(text.encode()))
    pictures = [folder / f"comparison.{ending}" for ending in PICTURES]
    save_dots(pictures, panels(table), title=TITLE)
    for field, drawn in over_numbers(table).items():
        for ending in PICTURES:
            pictures.append(folder / f"comparison-{field}.{ending}")
            save_panels(pictures[-1], drawn, title=TITLE)
    return [*(folder / f"comparison.{ending}" for ending in texts), *pictures]


def as_csv(table: Mapping[str, Any]) -> str:
    """Return one row for each cell. Accuracies are fractions; a value that is not known is empty."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    columns = ["data", "preprocess", "set", "method", "images_per_class", "network", "protocol", *UNITS, "seeds"]
    rows.writerow([*columns, "batch", "rate", "teachers", "above_random"])
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
                {True: "yes", False: "no", None: ""}[cell.get("above_random")],
            ]
        )  # fmt: skip
    return text.getvalue()


def as_markdown(table: Mapping[str, Any]) -> str:
    """Return a table for each data set and network: a row for each set, a column for each protocol."""
    parts = []
    for title, head, rows in _tables(table):
        parts.append("\n".join([f"### {title}", "", *map(_row, [head, ["---"] * len(head), *rows])]))
    return "\n\n".join([*parts, *_notes(table)]) + "\n"


def as_latex(table: Mapping[str, Any]) -> str:
    """Return the same tables for LaTeX, with the rules of the package booktabs; the notes are comments."""
    parts = [f"% {note}" for note in _notes(table)]
    for title, head, rows in _tables(table):
        lines = [" & ".join(map(_in_latex, row)) + r" \\" for row in [head, *rows]]
        parts.append(
            "\n".join(
                [
                    f"% {title}",
                    rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}",
                    r"\toprule",
                    lines[0],
                    r"\midrule",
                    *lines[1:],
                    r"\bottomrule",
                    r"\end{tabular}",
                ]
            )
        )
    return "\n".join(parts) + "\n"


def _tables(table: Mapping[str, Any]) -> Iterator[tuple[str, list[str], list[list[str]]]]:
    """Yield the title, the head and the rows of each data set, preprocessing and network."""
    groups: dict[tuple[str, str, str], list[Mapping[str, Any]]] = {}
    for cell in table["cells"]:
        groups.setdefault((cell["data"], cell["preprocess"], cell["network"]), []).append(cell)
    made = {row["name"]: row for row in table["sets"]}
    for key, cells in groups.items():
        protocols = list(dict.fromkeys(cell["protocol"] for cell in cells))
        rows = []
        for name in dict.fromkeys(cell["candidate"] for cell in cells):
            of_set = {cell["protocol"]: cell for cell in cells if cell["candidate"] == name}
            row = made[name]
            rows.append(
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
        yield ", ".join(key), ["set", "images per class", *protocols, "own judge", "KiB", "seconds", "MiB"], rows
    if table.get("runs"):
        head = ["configuration", "network", "protocol", "runs", "mean", "deviation of runs", "deviation of networks"]
        numbers = ("mean", "deviation_of_runs", "deviation_of_networks")
        yield (
            "Over runs",
            head,
            [
                [
                    row["name"],
                    row["network"],
                    row["protocol"],
                    str(row["runs"]),
                    *(f"{100 * row[n]:.2f}" for n in numbers),
                ]
                for row in table["runs"]
            ],
        )


def _notes(table: Mapping[str, Any]) -> list[str]:
    """Return the sentences beneath the tables."""
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
    if any(cell.get("above_random") is False for cell in table["cells"]):
        notes.insert(1, f"{MARK}: not better than random natural images of the same size.")
    return notes


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


def panels(table: Mapping[str, Any]) -> list[Dots]:
    """Return what the picture shows: for each data set, network and protocol, a line for each method, best first.

    A series is a number of images of each class. Of several sets of one method and size, all but the first are lines of
    their own; several runs of one configuration are one dot, with the deviation of the runs. Dots that are not above
    random images of their size, whose accuracy is a vertical rule, are hollow; the seconds that the sets took stand at
    the right. Panels of a single set are left out beside others of several.
    """
    seconds = {row["name"]: row["seconds"] for row in table["sets"]}
    first: dict[tuple[Any, ...], str] = {}
    for row in table["sets"]:
        first.setdefault(tuple(row[name] for name in ("data", "preprocess", "method", "images_per_class")), row["name"])
    named = {name: kind[2] for kind, name in first.items()}
    groups: dict[tuple[str, ...], list[Mapping[str, Any]]] = {}
    for cell in _together(table):
        key = cell["data"], cell["preprocess"], cell["network"], cell["protocol"]
        groups.setdefault(key, []).append(cell)
    drawn, several = [], any(len(cells) > 1 for cells in groups.values())
    for key, cells in groups.items():
        if several and len(cells) == 1:
            continue
        ordered = sorted(cells, key=lambda cell: cell["images_per_class"])
        random = {_size(cell["images_per_class"]): 100 * cell["mean"] for cell in ordered if cell["method"] == "random"}
        lines: dict[str, dict[str, Dot]] = {}
        notes: dict[str, list[str]] = {}
        for cell in ordered:
            name, size = named.get(cell["candidate"], cell["candidate"]), _size(cell["images_per_class"])
            is_below = cell["method"] != "random" and 100 * cell["mean"] <= random.get(size, -1)
            lines.setdefault(name, {})[size] = Dot(100 * cell["mean"], 100 * cell["deviation"], hollow=is_below)
            if seconds[cell["candidate"]]:
                notes.setdefault(name, []).append(f"{seconds[cell['candidate']]:.0f}")
        best = sorted(lines, key=lambda name: [dot.value for dot in reversed(lines[name].values())], reverse=True)
        drawn.append(
            Dots(
                title_of(", ".join(part for part in key if part != "none")),
                "test accuracy, %",
                [Line(name, lines[name], f"{', '.join(notes[name])} s" if name in notes else "") for name in best],
                random,
            )
        )
    return drawn


def over_numbers(table: Mapping[str, Any]) -> dict[str, list[Panel]]:
    """Return, by each field that `--vary` gave several numbers, accuracy against it, as a panel for each column.

    A series is a configuration with the other values that were given.
    """
    runs_of = {row["name"]: row.get("run_of") or row["name"] for row in table["sets"]}
    fields: dict[str, dict[str, dict[str, list[Point]]]] = {}
    for cell in _together(table):
        base, *changes = runs_of[cell["candidate"]].split(" ")
        for change in changes:
            field, equals, text = change.partition("=")
            if not equals or (number := _number(text)) is None:
                continue
            others = " ".join([base, *(other for other in changes if other != change)])
            title = ", ".join(
                cell[part] for part in ("data", "preprocess", "network", "protocol") if cell[part] != "none"
            )
            point = Point(number, 100 * cell["mean"], 100 * cell["deviation"])
            fields.setdefault(field, {}).setdefault(title_of(title), {}).setdefault(others, []).append(point)
    drawn = {
        field: [
            Panel(title, field, "test accuracy, %", {name: sorted(points) for name, points in series.items()})
            for title, series in by_title.items()
            if any(len(points) > 1 for points in series.values())
        ]
        for field, by_title in fields.items()
    }
    return {field: panels for field, panels in drawn.items() if panels}


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _together(table: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """Yield the cells, those of several runs of one configuration as one."""
    rows = {(name, row["network"], row["protocol"]): row for row in table.get("runs", []) for name in row["candidates"]}
    for cell in table["cells"]:
        row = rows.get((cell["candidate"], cell["network"], cell["protocol"]))
        if row is None:
            yield cell
        elif cell["candidate"] == row["candidates"][0]:
            yield {**cell, "mean": row["mean"], "deviation": row["deviation_of_runs"]}


def _size(images_per_class: int) -> str:
    """Return the name of a series."""
    return f"{images_per_class} image{'s' * (images_per_class > 1)} a class"


def _row(values: Sequence[str]) -> str:
    return f"| {' | '.join(values)} |"


def _score(cell: Mapping[str, Any] | None) -> str:
    if cell is None:
        return ""
    spread = f" ± {100 * cell['deviation']:.2f}" if len(cell["accuracies"]) > 1 else ""
    return f"{100 * cell['mean']:.2f}{spread}{f' {MARK}' if cell.get('above_random') is False else ''}"


def _in_latex(text: str) -> str:
    """Return a text with the letters that LaTeX reads as commands."""
    escaped = "".join(LATEX.get(letter, letter) for letter in text)
    return escaped.replace(f" {MARK}", r"$^\dagger$")
