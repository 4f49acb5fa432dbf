"""The images and labels of a published file, wherever its authors put them.

| the file holds | what is taken |
|---|---|
| arrays by name | those asked for, or the first of `IMAGES`, `LABELS` and `RATES` that is there, small or capital |
| `[images, labels]` | both; with a third value, it is the learning rate of all updates |
| `[[images, labels], ...]`, also under `data` | one of the sets, by its index |
| `[[images, labels, rate], ...]` | the images of all steps, in their order, and the rate of each: a set of DD |
| images alone | labels come from a second file, or are the classes in their order |

Labels are classes, (n,) or (n, 1), whole numbers of any type; one-hot rows (n, c); or learned rows (n, c), which are
`scores` (the targets of a regression), `probabilities`, or `logits`, whose softmax is taken.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kip.data.labels import centred_one_hot
from kip.data.pickle_machine import escaped
from kip.errors import DataError
from kip.storage import bounds

LOGGER = logging.getLogger(__name__)
IMAGES = ("images", "image", "image_syn", "images_syn", "syn_images", "images_train", "x_proto", "x", "imgs", "data")
LABELS = (
    "labels",
    "classes",
    "label",
    "label_syn",
    "labels_syn",
    "syn_labels",
    "labels_train",
    "y_proto",
    "y",
    "targets",
)
RATES = ("learning_rates", "learning_rate", "syn_lr", "lrs", "lr", "rate", "rates")
LISTED = 12
"""Values of a file that an error lists."""
LabelsAre = Literal["scores", "probabilities", "logits"]


class Published(NamedTuple):
    """The arrays of a published file.

    Attributes:
        images: (n, H, W, C) or (n, C, H, W).
        labels: (n, c), or classes (n,).
        rates: the learning rates that it brings, one for all updates or one for each step; none where it has none.
    """

    images: np.ndarray
    labels: np.ndarray
    rates: tuple[float, ...] = ()


class Found(NamedTuple):
    """The parts of a set that a file holds, or of several along a first axis; labels may lie elsewhere."""

    images: np.ndarray
    labels: np.ndarray | None
    rates: tuple[float, ...]

    def with_labels(self, labels: np.ndarray, path: Path, index: int) -> Published:
        """Return one set.

        Args:
            labels: its labels, or those of all sets.
            path: the file, for errors.
            index: which set.

        Raises:
            DataError: if there is no such set.
        """
        if self.images.ndim != 5:
            _check_index(path, index, 1)
            return Published(self.images, labels, self.rates)
        _check_index(path, index, min(len(self.images), len(labels)))
        return Published(self.images[index], labels[index], self.rates)


def chosen(names: Iterable[Any], arrays: Sequence[str] = ()) -> tuple[str | None, str | None, str | None]:
    """Return the names of the images, the labels and the rates among those of a file; None for what is not there.

    Args:
        names: of all arrays.
        arrays: the names of the images and the labels, or of the images alone; none: the usual names.
    """
    by_lower = {name.lower(): name for name in names if isinstance(name, str)}
    usual = [next((by_lower[name] for name in known if name in by_lower), None) for known in (IMAGES, LABELS, RATES)]
    if arrays:
        there = set(by_lower.values())
        usual[:2] = [name if name in there else None for name in (*arrays, "")[:2]]
    return usual[0], usual[1], usual[2]


def found(path: Path, held: Any, *, index: int = 0, arrays: Sequence[str] = ()) -> tuple[Found, int]:
    """Return the images, labels and rates of what a file holds, and the index that is left among several sets of them.

    Args:
        path: the file, for errors.
        held: its arrays, in lists, tuples and dictionaries.
        index: which set, where it holds several.
        arrays: names of the images and the labels, or of the images alone; none: the usual names.

    Raises:
        DataError: if images are not found; it lists what is there.
    """
    several: Any = held.get("data") if isinstance(held, dict) and not arrays else held
    if _are_sets(several):
        _check_index(path, index, len(several))
        held, index = several[index], 0
    images, labels, rates = _parts(held, arrays)
    if images is None:
        raise missing(path, held)
    labels = None if labels is None else _array(path, "labels", labels)
    return Found(_array(path, "images", images), labels, _rates(path, rates)), index


def missing(path: Path, held: Any) -> DataError:
    """Return the error of a file that lacks images or labels, which lists what it has."""
    return DataError(
        f"arrays of {path}",
        got=described(held),
        expected="images and their labels",
        remedy="Name the arrays with --arrays IMAGES LABELS, the file of the labels with --labels, or the number of "
        "images of each class with --per-class where they stand in the classes' order.",
    )


def in_class_order(count: int, per_class: int, num_classes: int) -> np.ndarray:
    """Return the classes of images that stand in the classes' order, (count,): 0, ..., 0, 1, ..., 1, and so on.

    Raises:
        DataError: if the images are not `per_class` of each class.
    """
    if per_class < 1 or count != per_class * num_classes:
        raise DataError(
            "--per-class",
            got=f"{per_class} images of each of {num_classes} classes",
            expected=f"{count} images together, as the file has",
        )
    return np.repeat(np.arange(num_classes), per_class)


def scores_and_classes(
    labels: np.ndarray, count: int, classes: int, labels_are: LabelsAre | None = None
) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return labels (n, c), float32, the class of each image, (n,) int64, and whether the labels say more than it.

    Args:
        labels: as a file has them; see above.
        count: images, n.
        classes: c.
        labels_are: what rows (n, c) are; None: scores, with a warning where they might be logits.

    Raises:
        DataError: if they have another form, or rows are no probabilities where they should be.
    """
    if labels.dtype.kind == "f" and not np.isfinite(labels).all():
        raise DataError("labels of the set", got="values that are not finite", expected="numbers")
    column = labels[:, 0] if labels.ndim == 2 and labels.shape[1] == 1 else labels
    is_number = labels.dtype.kind in "biuf"
    if is_number and labels_are is None and column.shape == (count,) and _are_whole(column):
        whole = column.astype(np.int64)
        return centred_one_hot(whole, classes), whole, False
    if labels.shape != (count, classes) or not is_number:
        raise DataError(
            "labels of the set",
            got=f"shape {labels.shape}, dtype {labels.dtype}",
            expected=f"({count}, {classes}) floats, or ({count},) integer classes",
        )
    if labels.dtype.kind != "f":
        if not (np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()):
            raise DataError("labels of the set", got=f"{labels.dtype} rows", expected="rows with a single 1, or floats")
        return scores_and_classes(labels.argmax(axis=1), count, classes, None)
    rows = labels.astype(np.float64)
    sums, least = rows.sum(axis=1), rows.min(initial=0)
    are_probabilities = least >= -1e-3 and bool(np.all(np.abs(sums - 1) < 1e-2))
    if labels_are == "probabilities" and not are_probabilities:
        raise DataError(
            "labels of the set",
            got=f"rows from {least:.3g} whose sums are {sums.min():.3g} to {sums.max():.3g}",
            expected="probabilities, whose rows sum to 1",
            remedy="Say --labels-are logits or scores.",
        )
    if labels_are == "logits":
        rows = np.exp(rows - rows.max(axis=1, keepdims=True))
        rows /= rows.sum(axis=1, keepdims=True)
    elif labels_are is None and not are_probabilities and np.any(np.abs(sums) > 1e-2 * np.abs(rows).max(axis=1)):
        LOGGER.warning(
            "the labels are taken as scores, the targets of a regression; if they are a network's outputs, say "
            "--labels-are logits"
        )
    return rows.astype(np.float32), rows.argmax(axis=1), True


def described(held: Any) -> str:
    """Return what a file holds in words, such as `syn_images float32 (9, 3, 16, 16)`; lists are not written out."""
    if isinstance(held, Mapping):
        listed = [f"{escaped(str(name))} {_described(part)}" for name, part in list(held.items())[:LISTED]]
        more = f" and {len(held) - LISTED} more" if len(held) > LISTED else ""
        return ", ".join(listed) + more if listed else "nothing"
    if isinstance(held, list | tuple):
        parts = ", ".join(_described(part) for part in held[:3])
        return f"a {type(held).__name__} of {len(held)}: {parts}{', ...' if len(held) > 3 else ''}"
    return _described(held)


def _described(part: Any) -> str:
    if hasattr(part, "dtype") and hasattr(part, "shape"):
        return f"{part.dtype} {tuple(part.shape)}"
    if isinstance(part, list | tuple | dict):
        return f"(a {type(part).__name__} of {len(part)})"
    return "(left out)" if part is None else f"({type(part).__name__})"


def _are_sets(held: Any) -> bool:
    """Return whether a value is a list of pairs, of which each is a set."""
    return (
        isinstance(held, list | tuple)
        and bool(held)
        and all(isinstance(pair, list | tuple) and len(pair) == 2 and _is_array(pair[0], 4) for pair in held)
    )


def _parts(held: Any, arrays: Sequence[str]) -> tuple[Any, Any, Any]:
    """Return images, labels and rates, None for each that is not there."""
    if isinstance(held, dict):
        images, labels, rates = (None if name is None else held[name] for name in chosen(held, arrays))
        return images, labels, rates
    if isinstance(held, np.ndarray):
        return held, None, None
    if not isinstance(held, list | tuple):
        return None, None, None
    if len(held) in (2, 3) and _is_array(held[0], 4):
        return held[0], held[1], held[2] if len(held) == 3 else None
    if held and all(isinstance(step, list | tuple) and len(step) == 3 and _is_array(step[0], 4) for step in held):
        images, labels, rates = zip(*held)
        if len({part.shape[1:] for part in images}) == 1 and all(isinstance(part, np.ndarray) for part in labels):
            if sum(part.nbytes for part in (*images, *labels)) > bounds.file_bytes(0):
                return None, None, None
            flat = [np.atleast_1d(part) for part in labels]
            if len({part.shape[1:] for part in flat}) == 1:
                return np.concatenate(images), np.concatenate(flat), list(rates)
    return None, None, None


def _is_array(value: Any, axes: int) -> bool:
    return isinstance(value, np.ndarray) and value.ndim >= axes


def _array(path: Path, what: str, value: Any) -> np.ndarray:
    """Return an array, or the numbers of a list or of a list of rows as one."""
    if isinstance(value, list | tuple) and value:
        rows = value if isinstance(value[0], list | tuple) else [value]
        flat = all(isinstance(row, list | tuple) and len(row) == len(rows[0]) for row in rows)
        if flat and len(rows) * len(rows[0]) * 8 <= bounds.file_bytes(0) >> 4:
            numbers = [entry for row in rows for entry in row]
            if all(isinstance(entry, int | float) and abs(entry) < 2**62 for entry in numbers):
                made = np.array(numbers).reshape(len(rows), -1)
                return made if rows is value else made[0]
    if not isinstance(value, np.ndarray):
        raise DataError(f"{what} of {path}", got=f"a {type(value).__name__}", expected="an array of numbers")
    if value.dtype.kind not in "biuf":
        raise DataError(f"{what} of {path}", got=f"{value.dtype} {value.shape}", expected="an array of numbers")
    return value


def _rates(path: Path, given: Any) -> tuple[float, ...]:
    """Return learning rates; what is beside the images under such a name and is no rate is left out."""
    values = list(given) if isinstance(given, list | tuple) else [given]
    if isinstance(given, np.ndarray) and given.ndim == 1:
        values = list(given[:100_000])
    rates = []
    for value in values:
        number = value.reshape(-1)[0] if isinstance(value, np.ndarray) and value.size == 1 else value
        if not isinstance(number, int | float | np.number) or isinstance(number, bool):
            return ()
        if isinstance(number, int) and abs(number) > 2**62:
            return ()
        rates.append(float(number))
    if not all(math.isfinite(rate) and rate > 0 for rate in rates):
        LOGGER.warning("%s: its learning rates are left out, because they are not all finite and above 0", path)
        return ()
    return tuple(rates)


def _are_whole(values: np.ndarray) -> bool:
    return values.dtype.kind in "biu" or bool((np.abs(values) < 2**53).all() and (values == np.rint(values)).all())


def _check_index(path: Path, index: int, count: int) -> None:
    if not 0 <= index < count:
        several = f"0 to {count - 1}" if count > 1 else "0: the file holds one set"
        raise DataError(f"set of {path}", got=index, expected=several)
