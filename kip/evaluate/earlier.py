"""The rows of earlier commands, which a comparison keeps of the table in its folder."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kip.evaluate.cells import of_dict

SET = ("name", "data", "preprocess", "method", "images", "images_per_class", "own_test_accuracy")
"""The fields that a row of a set must have, and by which it is the row of the same set."""
CELL = ("candidate", "data", "preprocess", "network", "protocol")
"""The fields that tell a cell from others."""
ABOUT = ("data", "preprocess", "method", "images_per_class", "batch", "rate", "teachers")
"""The fields of a cell beside those of `kip.evaluate.cells.Cell`."""
TEACHER = ("data", "preprocess", "label")
"""The fields that tell a teacher from others."""


def join_tables(
    earlier: Mapping[str, Any] | None, table: Mapping[str, Any], progress: Callable[[str], Any] = lambda line: None
) -> dict[str, Any]:
    """Return a table with the sets, cells and teachers of an earlier one before its own.

    What both have comes from the new one. Of an earlier row,

    - the cells go where its set was made anew under the same name, which `progress` is told;
    - the name is that of its data and set, where the new table calls a set of other data, or of another method or
      size, the same;
    - the protocol has its number of epochs in its name, where the new table has another number under that name.

    Args:
        earlier: the content of comparison.json, which is read as data: what does not look like a row is left out; None:
            there is none.
        table: the new table, whose averages and scores stay those of its own cells.
        progress: called with a line for each set whose earlier cells go, and one for all that is no cell of today's.
    """
    if earlier is None:
        return dict(table)
    new = {row["name"]: row for row in table["sets"]}
    names: dict[str, str] = {}
    sets = []
    for row in _rows(earlier, "sets", SET):
        name, ours = str(row["name"]), new.get(str(row["name"]))
        if ours is not None and all(row[field] == ours[field] for field in SET[1:-1]):
            if row["own_test_accuracy"] != ours["own_test_accuracy"]:
                progress(f"{name} was made anew since the earlier rows, which are dropped")
                continue
        elif ours is not None:
            row = {**row, "name": f"{row['data']} {row['preprocess']} {row['method']} {row['images']}: {name}"}
        names[name] = row["name"]
        if row["name"] not in new:
            sets.append(row)
    known_epochs = earlier.get("epochs")
    epochs: dict[str, Any] = known_epochs if isinstance(known_epochs, dict) else {}
    protocols = {
        name: f"{name} {count}" if table["epochs"].get(name, count) != count else name for name, count in epochs.items()
    }
    cells, known = [], {tuple(cell[field] for field in CELL) for cell in table["cells"]}
    earlier_cells = earlier.get("cells")
    strange = len(earlier_cells) if isinstance(earlier_cells, list) else 0
    for row in _rows(earlier, "cells", (*CELL, *ABOUT)):
        cell = {name: part for name, part in row.items() if name != "above_random"}  # of the old table; it is said anew
        are_texts = all(isinstance(cell[field], str) for field in CELL)
        if not are_texts or of_dict({k: v for k, v in cell.items() if k not in ABOUT}) is None:
            continue
        strange -= 1
        if cell["candidate"] not in names:
            continue
        kept = {
            **cell,
            "candidate": names[cell["candidate"]],
            "protocol": protocols.get(cell["protocol"], cell["protocol"]),
        }
        if tuple(kept[field] for field in CELL) not in known:
            cells.append(kept)
    if strange:
        progress(f"{strange} earlier cells are damaged, or of an older kip, and are dropped")
    of_new = [[teacher[field] for field in TEACHER] for teacher in table["teachers"]]
    teachers = [
        teacher
        for teacher in _rows(earlier, "teachers", (*TEACHER, "network", "augment", "squeezed", "test_accuracy"))
        if [teacher[field] for field in TEACHER] not in of_new
    ]
    return {
        **table,
        "sets": [*sets, *table["sets"]],
        "cells": [*cells, *table["cells"]],
        "teachers": [*teachers, *table["teachers"]],
        "epochs": {**{protocols[name]: count for name, count in epochs.items()}, **table["epochs"]},
    }


def _rows(table: Mapping[str, Any], part: str, fields: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return the rows of a part that have the fields."""
    rows = table.get(part)
    return [row for row in rows if isinstance(row, dict) and row.keys() >= {*fields}] if isinstance(rows, list) else []
