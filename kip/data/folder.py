"""A data set of pictures in folders: FOLDER/train/CLASS/IMAGE and FOLDER/test/CLASS/IMAGE, or FOLDER/CLASS/IMAGE alone.

`val` or `validation` serves where there is no `test`. A folder without these parts gives a fixed fifth of each class as
test images. Classes are the folders of `train`, in the order that `kip.data.image_folder` gives them; a class may have
any number of images.

All images become one size and one number of channels. `side` scales the shorter side of an image to so many pixels
(Lanczos) and cuts out the middle square; without it, images must have one size. The set is grey where every image is,
and else RGB. An image that cannot be read is left out with a warning that names it.
"""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np

from kip.data import image_folder, npz
from kip.data.image_folder import Listing
from kip.errors import DataError

LOGGER = logging.getLogger(__name__)
TEST_PARTS = ("test", "val", "validation")
"""Names of the folder of test images, the first that is there."""
NAMED = 5
"""Unreadable images that the warning names."""


def read(folder: Path, side: int | None) -> tuple[npz.Arrays, tuple[str, ...], bool]:
    """Read a folder.

    Args:
        folder: the folder.
        side: the side that images are brought to, in pixels; None: they have one size.

    Returns:
        x_train, y_train, x_test, y_test as `kip.data.npz.check` has them; the classes' names; and whether there is a
        test part: else x_test is empty, and x_train has all images.

    Raises:
        DataError: if a part cannot be listed, `test` has a class that `train` has not, images differ in size without a
            `side`, or a class has no image that can be read.
    """
    train = image_folder.listing(folder / "train" if (folder / "train").is_dir() else folder)
    tests = [folder / name for name in TEST_PARTS if (folder / "train").is_dir() and (folder / name).is_dir()]
    parts = [train, *(image_folder.listing(test) for test in tests[:1])]
    if unknown := sorted({name for part in parts for name in part.names} - set(train.names)):
        raise DataError(f"the folder {tests[0]}", got=f"the class {unknown[0]}", expected="classes that train has")
    grey = all(image_folder.is_grey(path) for part in parts for path in part.paths)
    arrays = [array for part in parts for array in _decoded(part, train.names, 1 if grey else 3, side)]
    if len(parts) == 1:
        arrays += [arrays[0][:0], arrays[1][:0]]
        return (arrays[0], arrays[1], arrays[2], arrays[3]), train.names, False
    return npz.check(str(folder), *arrays), train.names, True


def _decoded(part: Listing, names: tuple[str, ...], channels: int, side: int | None) -> list[np.ndarray]:
    """Return the images of a part and their classes among `names`."""
    images, classes, unreadable = [], [], []
    for path, number in zip(part.paths, part.classes):
        try:
            image = image_folder.decoded(path, channels, side=side)
        except DataError as error:
            unreadable.append(f"{path} ({error.got})")
            continue
        if images and image.shape != images[0].shape:
            raise DataError(
                f"the image {path} has another size than the first",
                got=f"{image.shape[1]}x{image.shape[0]} pixels",
                expected=f"{images[0].shape[1]}x{images[0].shape[0]}",
                remedy="Bring all to one size with --data.side, such as --data.side 32.",
            )
        images.append(image)
        classes.append(names.index(part.names[number]))
    if unreadable:
        more = f", and {len(unreadable) - NAMED} more" if len(unreadable) > NAMED else ""
        LOGGER.warning(
            "%d of %d images cannot be read and are left out: %s%s",
            len(unreadable), len(part.paths), ", ".join(unreadable[:NAMED]), more,
        )  # fmt: skip
    for number, name in enumerate(part.names):
        if names.index(name) not in classes:
            raise DataError(
                f"the class {name}", got="no image that can be read", expected=f"one of {sum(part.classes == number)}"
            )
    return [np.stack(images), np.array(classes, np.int64)]
