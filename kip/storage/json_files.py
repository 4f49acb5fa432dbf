"""The files that a run writes about itself: the lines of metrics.jsonl, and result.json.

A kill, a full disk or a text editor can leave anything in these files. What is not what it says is left out with a
warning, and a reader never stops a run.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from kip.storage.files import open_regular

LOG = logging.getLogger(__name__)
MOST_STEPS = 2**53
"""Steps are counted below this, so that a float holds each."""
LARGEST_NUMBER = 1e300
"""A finite number above this is none that a run writes, and an integer there has no float."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a `metrics.jsonl`, in the order of the file; none where there is no file.

    A row is a JSON object on a line of its own. Its `step` is an integer >= 0; `seconds`, where it has that, `loss` and
    whatever ends in `accuracy` are numbers. Lines that are no such row are left out, with one warning for the file.

    Args:
        path: the file; bytes that are no UTF-8 spoil their own line only.
    """
    try:
        with open_regular(path) as file:
            lines = file.read().splitlines()
    except FileNotFoundError:
        return []
    except OSError as error:
        LOG.warning("%s cannot be read (%s); its rows are left out", path, error.strerror or error)
        return []
    rows, bad = [], []
    for number, line in enumerate(lines, start=1):
        row = _parsed(line)
        if isinstance(row, dict) and _is_row(row):
            rows.append(row)
        elif line.strip():
            bad.append(number)
    if bad:
        LOG.warning(
            "%s: %d of %d lines are no rows of metrics and are left out, the first is line %d",
            path,
            len(bad),
            len(lines),
            bad[0],
        )
    return rows


def read_object(path: Path, numbers: Sequence[str] = ()) -> dict[str, Any] | None:
    """Return the object of a JSON file such as `result.json`; None where there is no file.

    None comes back, with a warning, for a file that is damaged or whose content is no object.

    Args:
        path: the file.
        numbers: keys that the object must have, each with a number; without them it counts as damaged.
    """
    try:
        with open_regular(path) as file:
            content = _parsed(file.read())
    except FileNotFoundError:
        return None
    except OSError as error:
        LOG.warning("%s cannot be read (%s) and is left out", path, error.strerror or error)
        return None
    if isinstance(content, dict) and all(is_number(content.get(name)) for name in numbers):
        return content
    LOG.warning("%s is damaged and is left out", path)
    return None


def is_number(value: object) -> bool:
    """Return whether a JSON value is a number; `true` is none. NaN and infinity are, as Python writes them."""
    if isinstance(value, float):
        return True
    return isinstance(value, int) and not isinstance(value, bool) and abs(value) <= LARGEST_NUMBER


def _is_row(row: dict[str, Any]) -> bool:
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < MOST_STEPS:
        return False
    return all(
        is_number(value) for name, value in row.items() if name in ("loss", "seconds") or name.endswith("accuracy")
    )


def _parsed(text: bytes) -> Any:
    """Return the JSON value; None where it is none, is no UTF-8, or is nested or written so that Python gives up."""
    try:
        return json.loads(text.decode("utf-8"))
    except (ValueError, RecursionError):
        return None
