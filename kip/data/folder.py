"""A data set of pictures in folders: FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE, or FOLDER/CLASS/IMAGE alone.

`val` or `validation` serves where there is no `test`. A folder without these parts gives a fixed fifth of each class as
test images. Classes are the folders of `train`, in the order that `kip.data.image_folder` gives them; a class may have
any number of images.

All images become one size and one number of channels. `side` brings them to squares of so many pixels, by the rule
`resize`; without it, images must have one size. The set is grey where every image is, and else RGB. An image that
cannot be read is left out with a warning that names it.

Pictures are decoded once. Where they take more than `kip.lazy.in_memory_bytes()`, they are decoded into a file of the
cache folder (`kip.data.decoded`), and read from there by rows.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kip.data import decoded, image_folder, npz
from kip.data.image_folder import Listing, Resize
from kip.errors import DataError
from kip.lazy import Images, chosen

LOGGER = logging.getLogger(__name__)
TEST_PARTS = ("test", "val", "validation")
"""Names of the folder of test images, the first that is there."""
NAMED = 5
"""Unreadable images that the warning names."""


def read(folder: Path, side: int | None, resize: Resize = "crop") -> tuple[npz.Arrays, tuple[str, ...], bool]:
    """Read a folder.

    Args:
        folder: the folder.
        side: the side that images are brought to, in pixels; None: they have one size.
        resize: how they are brought to it; see `kip.data.image_folder.Resize`.

    Returns:
        x_train, y_train, x_test, y_test as `kip.data.npz.check` has them; the classes' names; and whether there is a
        test part: else x_test is empty, and x_train has all images.

    Raises:
        DataError: if a part cannot be listed, `test` has a class that `train` has not, images differ in size without a
            `side`, or a class has no image that can be read.
        OutputError: if pictures that do not fit into memory cannot be kept in the cache folder.
    """
    train = image_folder.listing(folder / "train" if (folder / "train").is_dir() else folder)
    tests = [folder / name for name in TEST_PARTS if (folder / "train").is_dir() and (folder / name).is_dir()]
    parts = [train, *(image_folder.listing(test) for test in tests[:1])]
    if unknown := sorted({name for part in parts for name in part.names} - set(train.names)):
        raise DataError(f"the folder {tests[0]}", got=f"the class {unknown[0]}", expected="classes that train has")
    images, unreadable = decoded.pictures([path for part in parts for path in part.paths], side, resize)
    arrays, begin = [], 0
    for part in parts:
        arrays += _readable(part, train.names, images, unreadable, begin)
        begin += len(part.paths)
    if len(parts) == 1:
        none = np.arange(0)
        return (arrays[0], arrays[1], chosen(arrays[0], none), arrays[1][none]), train.names, False
    return npz.check(str(folder), arrays[0], arrays[1], arrays[2], arrays[3]), train.names, True


def _readable(
    part: Listing, names: tuple[str, ...], images: Images, unreadable: dict[int, str], begin: int
) -> tuple[Images, np.ndarray]:
    """Return the images of a part that could be read, and their classes among `names`.

    Args:
        part: its paths and classes.
        names: all classes.
        images: of all parts.
        unreadable: what is wrong with images that could not be read, by their place in all parts.
        begin: the place of the first of this part.
    """
    lost = [place - begin for place in sorted(unreadable) if begin <= place < begin + len(part.paths)]
    if lost:
        named = ", ".join(f"{part.paths[place]} ({unreadable[begin + place]})" for place in lost[:NAMED])
        more = f", and {len(lost) - NAMED} more" if len(lost) > NAMED else ""
        LOGGER.warning("%d of %d images cannot be read and are left out: %s%s", len(lost), len(part.paths), named, more)
    kept = np.setdiff1d(np.arange(len(part.paths)), lost)
    of_part = np.bincount(part.classes[kept], minlength=len(part.names))
    for number, name in enumerate(part.names):
        if not of_part[number]:
            raise DataError(
                f"the class {name}", got="no image that can be read", expected=f"one of {sum(part.classes == number)}"
            )
    numbers = np.array([names.index(name) for name in part.names], np.int64)
    return chosen(images, begin + kept), numbers[part.classes[kept]]
