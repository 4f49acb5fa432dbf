"""The parts of a folder of pictures: train, validation and test, under the names that people give them.

| folder | its parts |
|---|---|
| FOLDER/CLASS/IMAGE | one part, of which a fixed fifth of each class is kept for testing |
| FOLDER/train/CLASS/IMAGE, and FOLDER/test likewise | train and test |
| the same, and FOLDER/valid or FOLDER/val | the test part where no `test` has classes, else the validation part |
| the same, with IMAGE alone in FOLDER/test | that `test` has no classes, and is left out |
| tiny-imagenet-200 | train/CLASS/images/IMAGE, and val/images with val_annotations.txt as the test part |

Small and capital letters are alike in the names of parts; `NAMES` has them.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kip.data import image_folder
from kip.data.class_order import plain
from kip.data.image_folder import Listing
from kip.errors import DataError, printable

Part = Literal["train", "validation", "test"]
NAMES: dict[str, Part] = {
    "train": "train", "training": "train", "train_set": "train", "training_set": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "val_set": "validation",
    "validation_set": "validation",
    "test": "test", "testing": "test", "test_set": "test", "testing_set": "test",
}  # fmt: skip
"""The names of parts, in lower case."""
ANNOTATIONS = "val_annotations.txt"
"""The file of tiny-imagenet-200 with a line for each image: its name, its class, and a box."""


class Layout(NamedTuple):
    """The pictures of a folder, by part.

    Attributes:
        train: the pictures to learn from, and the classes.
        test: the test part; None where there is none.
        validation: the validation part; None where there is none, or it is the test part.
        names: what the parts' folders are called.
        left_out: what the folder has beside them, in words.
    """

    train: Listing
    test: Listing | None
    validation: Listing | None
    names: dict[Part, str]
    left_out: list[str]


def layout(folder: Path, *, recursive: bool) -> Layout:
    """Find the parts of a folder of pictures; no picture is opened.

    Args:
        folder: the folder.
        recursive: whether images in folders within a class's folder are of the class too.

    Raises:
        DataError: if a part cannot be listed, two folders are the same part, or there are parts and none to learn from.
    """
    try:
        inner = image_folder.folders(folder)
        loose = len(image_folder.images_in(folder))
        parts = _parts(folder, inner)
    except OSError as error:
        raise DataError(f"cannot read the folder {_shown(folder)}", got=error.strerror or repr(error)) from error
    beside = [f"{loose} pictures in no class's folder"] if loose else []
    if not parts:
        train = image_folder.listing(folder, recursive=recursive)
        return Layout(train, None, None, {}, [*beside, *describe_left_out(train)])
    is_tiny = "validation" in parts and (parts["validation"] / ANNOTATIONS).is_file()
    train = image_folder.listing(parts["train"], recursive=recursive or is_tiny)
    others: dict[Part, Listing] = {}
    for part in ("validation", "test"):
        path = parts.get(part)
        if path is not None and part == "validation" and is_tiny:
            others[part] = _annotated(path, train.names)
        elif path is not None and _has_classes(path, train.names):
            others[part] = image_folder.listing(path, recursive=recursive)
        elif path is not None:
            count = len(image_folder.images_in(path)) + sum(
                len(image_folder.images_in(deeper)) for deeper in image_folder.folders(path)
            )
            beside.append(f"{_shown(Path(path.name))}, {count} pictures without classes")
    beside += [f"the folder {_shown(Path(path.name))}" for path in inner if path not in parts.values()]
    listings = [train, *others.values()]
    beside += describe_left_out(*listings)
    names: dict[Part, str] = {part: printable(path.name) for part, path in parts.items()}
    if "test" not in others and "validation" in others:
        others["test"], names["test"] = others.pop("validation"), names["validation"]
    return Layout(train, others.get("test"), others.get("validation"), names, beside)


def _parts(folder: Path, inner: list[Path]) -> dict[Part, Path]:
    """Return the folders of the parts; none where the folders are classes."""
    found: dict[Part, list[Path]] = {}
    for path in inner:
        if part := NAMES.get(path.name.lower().replace("-", "_").replace(" ", "_")):
            found.setdefault(part, []).append(path)
    # A class may be called `train`, as in bus, car, train: a part holds folders.
    train = [path for path in found.get("train", []) if image_folder.folders(path)]
    if train:
        found["train"] = train
        for paths in found.values():
            if len(paths) > 1:
                named = " and ".join(_shown(Path(path.name)) for path in paths)
                raise DataError(
                    f"the folder {_shown(folder)}",
                    got=f"{named}",
                    expected="one of them",
                    remedy="Move the other one elsewhere.",
                )
        return {part: paths[0] for part, paths in found.items()}
    tests = [path for part, paths in found.items() if part != "train" for path in paths]
    if not tests:
        return {}
    of_parts = {path for paths in found.values() for path in paths}
    classes = [path for path in inner if path not in of_parts]
    named = ", ".join(_shown(Path(path.name)) for path in (*found.get("train", []), *tests))
    raise DataError(
        f"the folder {_shown(folder)}",
        got=f"{named}, and {f'{len(classes)} other folders' if classes else 'no other folder'}",
        expected="`train` with a folder of pictures for each class, or folders of classes alone",
        remedy=f"Move the classes' folders into {_shown(folder / 'train')}; pictures without classes teach nothing."
        if classes
        else None,
    )


def _has_classes(part: Path, names: tuple[str, ...]) -> bool:
    """Return whether a part has folders for classes: one folder of another name holds pictures without classes."""
    inner = [plain(printable(path.name)) for path in image_folder.folders(part)]
    return len(inner) > 1 or any(name in map(plain, names) for name in inner)


def _annotated(part: Path, names: tuple[str, ...]) -> Listing:
    """Return the pictures that tiny-imagenet-200's file of annotations gives classes to."""
    paths, classes, absent = [], [], 0
    known = {name: number for number, name in enumerate(names)}
    try:
        lines = (part / ANNOTATIONS).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise DataError(f"cannot read {_shown(part / ANNOTATIONS)}", got=error.strerror or repr(error)) from error
    for line in lines:
        name, _, rest = line.partition("\t")
        label = rest.partition("\t")[0]
        path = part / "images" / Path(name).name
        if label not in known:
            raise DataError(f"{_shown(part / ANNOTATIONS)}", got=f"the class {label!r}", expected="classes of train")
        if path.is_file():
            paths.append(path)
            classes.append(known[label])
        else:
            absent += 1
    if not paths:
        raise DataError(f"the folder {_shown(part / 'images')}", got=f"none of {absent} pictures of {ANNOTATIONS}")
    others = Counter({"without a file": absent} if absent else {})
    return Listing(paths, np.array(classes, np.int64), names, 0, others)


def describe_left_out(*listings: Listing) -> list[str]:
    """Return what listings left out, in words."""
    words = []
    if nested := sum(of_part.nested for of_part in listings):
        words.append(f"{nested} in folders within a class (--data.recursive True takes them)")
    others = sum((of_part.others for of_part in listings), Counter[str]())
    words += [f"{count} {printable(ending) or 'without an ending'}" for ending, count in others.most_common(5)]
    if len(others) > 5:
        words.append(f"{sum(others.values()) - sum(count for _, count in others.most_common(5))} other files")
    return words


def _shown(path: Path) -> str:
    return printable(str(path))
