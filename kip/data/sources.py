"""Data sets by name: the embedded digits, .npz files, folders of pictures, tensorflow-datasets; and their splits."""

from __future__ import annotations

import hashlib
import os
from functools import partial
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from kip import rng
from kip.config import value
from kip.data import folder as folder_source
from kip.data import npz, tfds
from kip.data.image_folder import Look, Resize
from kip.data.mirror import mirror_keeps_class
from kip.errors import DataError, did_you_mean, printable
from kip.progress import inner_stage
from kip.storage.images import Held, Images, Lazy, chosen, in_memory_bytes, parts

DATA_DIR_VARIABLE = "KIP_DATA_DIR"
USUAL = ("mnist", "fashion_mnist", "svhn_cropped", "cifar10", "cifar100")
"""Names of tensorflow-datasets that a mistyped one may stand for."""
ARCHIVES = (".zip", ".tar", ".gz", ".tgz", ".bz2", ".xz", ".7z", ".rar")
"""Endings of files that hold other files."""


@value
class Data:
    """A data set, and the size of its train part that is held out for choices (steps, hyperparameters, checkpoints)."""

    name: Annotated[str, Field(min_length=1, max_length=200)] = "digits"
    """The data set: `digits`, the stem of a .npz file or the name of a folder of pictures in the data folder, or a
    tensorflow-datasets name such as `cifar10`."""
    validation: Annotated[int, Field(ge=0)] | None = None
    """The number of train images that are held out, class-balanced. None holds out a tenth of train, but at most the
    5000 that the paper holds out; of a folder of pictures with a validation part beside its test part, it takes that
    part. 0 holds out none."""
    split_seed: Annotated[int, Field(ge=0)] = 0
    """The seed that draws the validation images. It is not the experiment's, so that repeats of a run share one
    split."""
    side: Annotated[int, Field(ge=1)] | None = None
    """The side of the squares that the pictures of a folder are brought to, in pixels, as `resize` says. None keeps
    them as they are; they must have one size then."""
    resize: Resize = "crop"
    """The way in which a picture becomes a square. `crop`: its shorter side is scaled, and the middle square is kept.
    `pad`: its longer side is scaled, and black fills the rest. `stretch`: both sides are scaled."""
    background: Annotated[str, Field(pattern=r"^(white|black|grey|#[0-9a-fA-F]{6})$")] = "white"
    """The colour that the transparency of a folder's pictures is laid over: white, black, grey, or #rrggbb."""
    depth: Annotated[int, Field(ge=1, le=16)] | None = None
    """The bits of the values of a folder's grey pictures of more than 8 bits: 12 makes 4095 white. None takes the least
    of 8, 10, 12, 14 and 16 that holds the largest value of all pictures."""
    recursive: bool = False
    """Take pictures in folders within a class's folder as the class's too. They are left out otherwise."""
    shrink: Annotated[int, Field(ge=1)] = 1
    """The side of the squares of pixels that are averaged into one: 2 makes MNIST 14x14. It must divide height and
    width."""
    mirror_keeps_class: bool | None = None
    """True if the mirror image of an image has the same class, so that training may flip images. None takes what is
    known of the name (`kip.data.mirror`); for an unknown name it means yes for RGB images and no for grey ones."""

    @property
    def look(self) -> Look:
        """The way in which the pictures of a folder become arrays."""
        return Look(self.side, self.resize, self.background, self.depth)


class Split(NamedTuple):
    """Images and their classes."""

    images: Images
    """uint8 (N, H, W, C), 0..255, C = 1 (grey) or 3 (RGB); `kip.storage.images.Lazy` where they are not in memory."""
    labels: np.ndarray
    """int64 (N,)."""

    def digest(self) -> str:
        """Return the SHA-256 of images and labels, which tells one data set from another on any machine."""
        content = hashlib.sha256(f"{self.images.shape} ".encode())
        for part in parts(self.images):
            content.update(np.ascontiguousarray(part).data)
        content.update(np.ascontiguousarray(self.labels, "<i8").data)
        return content.hexdigest()


class Source(NamedTuple):
    """A data set as its source has it.

    Attributes:
        train: the images to learn from.
        test: the test images.
        num_classes: C.
        class_names: the names of the classes; none where the source does not say.
        validation: the source's own validation images, where they are asked for; None: some of train are held out.
    """

    train: Split
    test: Split
    num_classes: int
    class_names: tuple[str, ...] = ()
    validation: Split | None = None


class Dataset(NamedTuple):
    """A data set, split once and for all: the three parts share no image."""

    name: str
    train: Split
    validation: Split
    test: Split
    num_classes: int
    mirror_keeps_class: bool
    """True if the mirror image of an image has the same class: no for digits and letters, yes for photographs."""
    class_names: tuple[str, ...] = ()
    """The names of the classes, in their order; none where the source does not say."""


def load(data: Data, data_dir: Path | None = None) -> Dataset:
    """Load a data set by name.

    A name is looked up in this order: `digits`; NAME.npz in the data folder; the folder NAME there (`kip.data.folder`);
    tensorflow-datasets, which downloads once into its own folder ($TFDS_DATA_DIR, else ~/tensorflow_datasets).

    Images that take more than `kip.storage.images.in_memory_bytes()` come as `kip.storage.images.Lazy`. Those of
    folders and of uncompressed .npz files stay on the disk; those of other sources are in memory as bytes, and never
    as floats.

    Args:
        data: name and split.
        data_dir: the data folder; None: $KIP_DATA_DIR, and no folder where that is unset.

    Returns:
        Train, validation and test. The test part is the source's own and is never touched.

    Raises:
        DataError: if `data_dir` does not exist, if no source has the name (it lists where it looked), if a file is
            malformed, if a class is too small for the validation split, or if `shrink` does not divide the images'
            sides.
    """
    with inner_stage(f"reading {data.name}"):
        return _load(data, data_dir)


def _load(data: Data, data_dir: Path | None) -> Dataset:
    source = _read(data, data_dir)
    given = [split for split in (source.train, source.test, source.validation) if split is not None]
    splits = [split._replace(images=shrunk(split.images, data.shrink)) for split in given]
    if sum(split.images.nbytes for split in splits) > in_memory_bytes():
        splits = [split._replace(images=_lazy(split.images)) for split in splits]
    train, test = splits[:2]
    if source.validation is not None:
        validation = splits[2]
    else:
        count = min(len(train.labels) // 10, 5000) if data.validation is None else data.validation
        of_train = held_out(
            train.labels, count, num_classes=source.num_classes, seed=data.split_seed, purpose="validation split"
        )
        validation = _take(train, of_train)
        train = _take(train, np.setdiff1d(np.arange(len(train.labels)), of_train))
    keeps = data.mirror_keeps_class
    if keeps is None:
        keeps = mirror_keeps_class(data.name, channels=train.images.shape[3])
    return Dataset(data.name, train, validation, test, source.num_classes, keeps, source.class_names)


def data_folder(data_dir: Path | None = None) -> Path | None:
    """Return the data folder: the one that is given, else $KIP_DATA_DIR; None where neither is."""
    folder = data_dir if data_dir is not None else os.environ.get(DATA_DIR_VARIABLE) or None
    return None if folder is None else Path(folder).expanduser()


def _lazy(images: Images) -> Lazy:
    return images if isinstance(images, Lazy) else Held(images)


def shrunk(images: Images, factor: int) -> Images:
    """Return images, uint8 (N, H, W, C), with squares of factor x factor pixels averaged, rounded to uint8.

    Raises:
        DataError: if the factor does not divide height and width.
    """
    _, height, width, channels = images.shape
    if height % factor or width % factor:
        raise DataError(
            "data.shrink", got=factor, expected=f"a divisor of both sides of the images, {height} and {width}"
        )
    if factor == 1:
        return images
    if isinstance(images, Lazy):
        return images.made(
            partial(_averaged, factor=factor), shape=(height // factor, width // factor, channels), dtype=np.uint8
        )
    return _averaged(images, factor)


def _averaged(images: np.ndarray, factor: int) -> np.ndarray:
    count, height, width, channels = images.shape
    result = np.empty((count, height // factor, width // factor, channels), np.uint8)
    for start in range(0, count, 10_000):  # so that the float copy stays small
        part = images[start : start + 10_000]
        squares = part.reshape(len(part), height // factor, factor, width // factor, factor, channels)
        result[start : start + 10_000] = np.rint(squares.mean((2, 4)))
    return result


def held_out(labels: np.ndarray, count: int, *, num_classes: int, seed: int, purpose: str) -> np.ndarray:
    """Choose images to hold out, class-balanced as far as the classes allow.

    Every class gives the same number, except that none gives more than half of its images: what a small class cannot
    give, the larger ones do. A remainder goes to classes drawn at random.

    Args:
        labels: int (N,), in 0..num_classes-1.
        count: how many images.
        num_classes: C.
        seed: draws the images, through `kip.rng`.
        purpose: names the stream.

    Returns:
        int64 indices, ascending, (count,).

    Raises:
        DataError: if `count` is more than the halves of all classes together.
    """
    generator = rng.generator(seed, purpose)
    room = np.bincount(labels, minlength=num_classes) // 2
    if count > room.sum():
        raise DataError(
            "the validation split is too large",
            got=f"{count} of {len(labels)} train images",
            expected=f"at most {room.sum()}, half of each class",
            remedy="Hold out fewer images.",
        )
    taken = np.zeros(num_classes, dtype=np.int64)
    while (missing := count - taken.sum()) > 0:
        open_classes = np.flatnonzero(taken < room)
        if missing < len(open_classes):
            taken[generator.choice(open_classes, missing, replace=False)] += 1
        else:
            taken[open_classes] += np.minimum(missing // len(open_classes), (room - taken)[open_classes])
    drawn = [generator.choice(np.flatnonzero(labels == c), n, replace=False) for c, n in enumerate(taken)]
    return np.sort(np.concatenate(drawn)).astype(np.int64)


def _read(data: Data, data_dir: Path | None) -> Source:
    """Return a data set from the first source that has its name."""
    name = data.name
    # Said at once, because a mistyped folder would otherwise look like an unknown name, or start a download.
    if data_dir is not None and not Path(data_dir).expanduser().is_dir():
        raise DataError("--data-dir", got=str(data_dir), expected="a folder of NAME.npz files that exists")
    if name == "digits":
        return Source(*_digits(), tuple("0123456789"))
    folder = data_folder(data_dir)
    looked = ["the embedded sets (digits)"]
    if folder is None:
        looked.append(f"no data folder (${DATA_DIR_VARIABLE} is unset)")
    else:
        path = folder / f"{name}.npz"
        if os.path.isfile(path):  # `Path.is_file` raises an error at a name that no file system takes
            arrays = npz.read(path)
            return _parts(path, arrays, npz.class_names(path))
        looked.append(str(path))
        if os.path.isdir(folder / name):
            return _pictures(folder / name, data)
        looked.append(f"the folder {folder / name}")
    try:
        arrays, class_names = tfds.read(name)
    except tfds.UnknownName as error:
        looked.append(f"tensorflow-datasets ({error})")
        hint = _nearest(name, folder)
        name = name.removesuffix(".npz")
        raise DataError(
            f"no data set named {data.name!r}",
            got="nothing from " + ", ".join(looked),
            remedy=f"{hint}Put {name}.npz with x_train, y_train, x_test, y_test, or a folder {name} with a folder of "
            f"pictures for each class, into a folder, and name it with --data-dir or ${DATA_DIR_VARIABLE}. Or use "
            "digits or a tensorflow-datasets name such as cifar10.",
        ) from None
    return _parts(f"tensorflow-datasets {name}", arrays, class_names)


def _nearest(name: str, folder: Path | None) -> str:
    """Return what a name may stand for: a set of nearly that name, or a file of that name that is no set."""
    sets, files = ["digits", *USUAL], []
    if folder is not None and folder.is_dir():
        for path in sorted(folder.iterdir()):
            if path.suffix == ".npz" or (path.is_dir() and not path.name.startswith(".")):
                sets.append(path.name.removesuffix(".npz"))
            elif path.is_file() and name in (path.name, path.stem):
                files.append(path)
    if files:
        stem = files[0].name.partition(".")[0]
        is_archive = files[0].suffix.lower() in ARCHIVES
        how = f"unpack it into a folder {stem}" if is_archive else f"write its arrays into {stem}.npz"
        return f"{printable(files[0].name)} lies in the data folder: {how}. "
    return did_you_mean(name.removesuffix(".npz"), sets)


def _parts(source: object, arrays: npz.Arrays, class_names: tuple[str, ...]) -> Source:
    num_classes = int(arrays[1].max()) + 1
    if class_names and len(class_names) != num_classes:
        raise DataError(
            f"{source}: names of the classes", got=len(class_names), expected=f"{num_classes}, one for each class"
        )
    return Source(Split(*arrays[:2]), Split(*arrays[2:]), num_classes, class_names)


def _pictures(path: Path, data: Data) -> Source:
    """Return the parts of a folder of pictures; where it has no test part, a fixed fifth of each class is test."""
    contents = folder_source.read(path, data.look, recursive=data.recursive, validation=data.validation is None)
    class_names = contents.class_names
    if contents.test is not None:
        source = _parts(path, (*contents.train, *contents.test), class_names)
        return source if contents.validation is None else source._replace(validation=Split(*contents.validation))
    whole = Split(*contents.train)
    sizes = np.bincount(whole.labels, minlength=len(class_names))
    if len(sizes) < 2 or sizes.min() < 2:
        small = class_names[int(sizes.argmin())]
        within = len(sizes) == 1 and any(inner.is_dir() for inner in (path / small).glob("*"))
        raise DataError(
            f"the folder {path}",
            got=f"{len(sizes)} classes, and {sizes.min()} images of {small}",
            expected="at least 2 classes of 2 images, of which a fifth is kept for testing",
            remedy=f"Name the folder within it: --data.name {small} --data-dir {path}." if within else None,
        )
    draw = rng.generator(0, "folder test split")
    of_test = np.concatenate(
        [draw.choice(np.flatnonzero(whole.labels == c), max(1, size // 5), False) for c, size in enumerate(sizes)]
    )
    kept = np.setdiff1d(np.arange(len(whole.labels)), of_test)
    return Source(_take(whole, kept), _take(whole, np.sort(of_test)), len(sizes), class_names)


def _digits() -> tuple[Split, Split, int]:
    """Return scikit-learn's 1797 handwritten digits, 8x8 grey, a fixed fifth of them as test (not a standard split)."""
    from sklearn.datasets import load_digits

    bunch = load_digits()
    images = np.rint(bunch.images[..., None] * (255 / 16)).astype(np.uint8)  # 16 grey levels above black
    whole = Split(images, bunch.target.astype(np.int64))
    of_test = held_out(whole.labels, len(images) // 5, num_classes=10, seed=0, purpose="digits test split")
    return _take(whole, np.setdiff1d(np.arange(len(images)), of_test)), _take(whole, of_test), 10


def _take(split: Split, indices: np.ndarray) -> Split:
    return Split(chosen(split.images, indices), split.labels[indices])
