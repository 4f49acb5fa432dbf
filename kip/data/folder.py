"""A data set of pictures in folders: FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE, or FOLDER/CLASS/IMAGE alone.

`kip.data.layout` says which folders are which part. A folder without parts gives a fixed fifth of each class as test
images. Classes are the folders of `train`, in the order that `kip.data.image_folder` gives them; a class may have any
number of images. One line in the log says what was found, used and left out, and why.

All images become one size and one number of channels. `side` brings them to squares of so many pixels, by the rule
`resize`; without it, images must have one size. The set is grey where every image is, and else RGB. An image that
cannot be read is left out with a warning that names it.

Pictures are decoded once. Where they take more than `kip.storage.images.in_memory_bytes()`, they are decoded into a
file of the cache folder (`kip.data.decoded`), and read from there by rows.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kip.data import decoded, npz
from kip.data.class_order import plain
from kip.data.decoded import Decoded
from kip.data.image_folder import Listing, Look
from kip.data.layout import Layout, layout
from kip.errors import DataError, printable
from kip.storage.images import Images, chosen

LOGGER = logging.getLogger(__name__)
NAMED = 5
"""Unreadable images that the warning names."""
Labelled = tuple[Images, np.ndarray]
"""Images and their classes."""


class Contents(NamedTuple):
    """The content of a folder.

    Attributes:
        train: the images to learn from; all of a folder without a test part.
        test: the test images; None where the folder has no such part.
        validation: the validation images; None where the folder has no such part, or it is not asked for.
        class_names: the names of the classes.
    """

    train: Labelled
    test: Labelled | None
    validation: Labelled | None
    class_names: tuple[str, ...]


def read(folder: Path, look: Look = Look(), *, recursive: bool = False, validation: bool = True) -> Contents:  # noqa: B008
    """Read a folder.

    Args:
        folder: the folder.
        look: how pictures become arrays.
        recursive: whether images in folders within a class's folder are of the class too.
        validation: whether a validation part beside a test part is asked for.

    Raises:
        DataError: if a part cannot be listed, `test` has a class that `train` has not, images differ in size without a
            side, an image has values of another range, or a class has no image that can be read.
        OutputError: if pictures that do not fit into memory cannot be kept in the cache folder.
    """
    parts = layout(folder, recursive=recursive)
    if parts.validation is not None and not validation:
        unused = f"{parts.names['validation']}, because --data.validation holds out train images"
        parts = parts._replace(validation=None, left_out=[*parts.left_out, unused])
    _warn_of_alike(folder, parts.train.names)
    parts = parts._replace(test=_named_as_train(parts, "test"), validation=_named_as_train(parts, "validation"))
    chosen_parts = [part for part in (parts.train, parts.test, parts.validation) if part is not None]
    for part in chosen_parts:
        if unknown := sorted(set(part.names) - set(parts.train.names)):
            raise DataError(
                f"the folder {printable(str(part.paths[0].parent.parent))}",
                got=f"the class {unknown[0]}",
                expected="classes that train has",
            )
    pictures = decoded.pictures([path for part in chosen_parts for path in part.paths], look)
    arrays, begin = [], 0
    for part in chosen_parts:
        arrays.append(_readable(part, parts.train.names, pictures, begin))
        begin += len(part.paths)
    _log_contents(folder, parts, pictures)
    of_test = arrays[1] if parts.test is not None else None
    if of_test is not None:
        checked = npz.check(printable(str(folder)), *arrays[0], *of_test)
        arrays[0], of_test = checked[:2], checked[2:]
    return Contents(arrays[0], of_test, arrays[2] if parts.validation is not None else None, parts.train.names)


def _warn_of_alike(folder: Path, names: tuple[str, ...]) -> None:
    """Say which classes have one name but for case, spaces or the code of their letters: one of them may be a slip."""
    by_plain: dict[str, list[str]] = {}
    for name in names:
        by_plain.setdefault(plain(name), []).append(name)
    if alike := [" and ".join(map(repr, same)) for same in by_plain.values() if len(same) > 1]:
        LOGGER.warning(
            "%s: %s are taken as different classes; if they are one, put their pictures into one folder",
            printable(folder.name),
            ", ".join(alike),
        )


def _named_as_train(parts: Layout, part: Literal["test", "validation"]) -> Listing | None:
    """Return a part whose classes are called as in train, where case, spaces or codes of letters alone differ."""
    listing = parts.test if part == "test" else parts.validation
    if listing is None:
        return None
    by_plain: dict[str, list[str]] = {}
    for name in parts.train.names:
        by_plain.setdefault(plain(name), []).append(name)
    names, changed = [], []
    for name in listing.names:
        meant = by_plain.get(plain(name), [])
        if name not in parts.train.names and len(meant) == 1:
            changed.append(f"{name!r} as {meant[0]!r}")
            name = meant[0]
        names.append(name)
    if changed:
        LOGGER.warning("%s: takes the class %s of train", parts.names[part], ", ".join(changed))
    return listing._replace(names=tuple(names))


def _log_contents(folder: Path, parts: Layout, pictures: Decoded) -> None:
    """Say in one line what was found, used and left out; a line that leaves nothing out is no warning."""
    total = sum(len(part.paths) for part in (parts.train, parts.test, parts.validation) if part is not None)
    line = f"{printable(folder.name)}: {total} pictures of {len(parts.train.names)} classes"
    if parts.test is None:
        line += ", a fixed fifth of each class for testing"
    else:
        line += f": {len(parts.train.paths)} to learn from, {len(parts.test.paths)} for testing"
        line += f" ({parts.names['test']})"
        if absent := [name for name in parts.train.names if name not in parts.test.names]:
            named = ", ".join(absent[:NAMED]) + (", ..." if len(absent) > NAMED else "")
            line += f", none of {len(absent)} classes ({named})"
    if parts.validation is not None:
        line += f", {len(parts.validation.paths)} for validation ({parts.names['validation']})"
    if parts.left_out:
        line += f"; left out: {', '.join(parts.left_out)}"
    LOGGER.log(logging.WARNING if parts.left_out else logging.INFO, "%s", "; ".join([line, *pictures.notes]))


def _readable(part: Listing, names: tuple[str, ...], pictures: Decoded, begin: int) -> Labelled:
    """Return the images of a part that could be read, and their classes among `names`.

    Args:
        part: its paths and classes.
        names: all classes.
        pictures: the pictures of all parts.
        begin: the place of the first of this part.
    """
    lost = [place - begin for place in sorted(pictures.unreadable) if begin <= place < begin + len(part.paths)]
    if lost:
        named = ", ".join(f"{part.paths[place]} ({pictures.unreadable[begin + place]})" for place in lost[:NAMED])
        more = f", and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        LOGGER.warning(
            "%d of %d images cannot be read and are left out: %s%s", len(lost), len(part.paths), printable(named), more
        )
    kept = np.setdiff1d(np.arange(len(part.paths)), lost)
    of_part = np.bincount(part.classes[kept], minlength=len(part.names))
    tried = np.bincount(part.classes, minlength=len(part.names))
    for number, name in enumerate(part.names):
        if tried[number] and not of_part[number]:
            raise DataError(f"the class {name}", got="no image that can be read", expected=f"one of {tried[number]}")
    numbers = np.array([names.index(name) for name in part.names], np.int64)
    return chosen(pictures.images, begin + kept), numbers[part.classes[kept]]
