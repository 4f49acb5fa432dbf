"""Images in folders, one folder for each class: FOLDER/CLASS/IMAGE.png, as most image data sets and many sets come.

Classes are numbered in the order of their folders' names, whose numbers are compared as numbers: `class2` comes before
`class10`. Hidden files and folders, and those that archives and file systems leave behind, are passed over. A listing
counts the pictures and files that it leaves out.

Grey pictures of more than 8 bits are scaled by the range of their depth, and floats are taken as values in [0, 1].
Colours of 16 bits are read by their upper 8, as Pillow reads them.
"""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from kip.data import picture_file
from kip.errors import DataError, KipError, printable

SUFFIXES = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".bmp",
    ".webp",
    ".gif",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".avif",
)
"""Endings of the names of images, in lower case."""
LEFT_BEHIND = ("__MACOSX", "@eaDir", "lost+found", "$RECYCLE.BIN")
"""Folders that archives and file systems leave behind; no class is called so."""
PHOTOMETRIC = 262
"""The tag of a TIFF file that says whether zero is black (1) or white (0, as in scans and X-ray pictures)."""
Resize = Literal["crop", "pad", "stretch"]
"""The ways in which an image becomes a square: `crop` scales its shorter side and cuts out the middle; `pad` scales its
longer side and puts it in the middle of black; `stretch` scales both sides."""
DEPTHS = (8, 10, 12, 14, 16)
"""Bits of the values that cameras, microscopes and scanners write into grey pictures of 16 bits."""


class ValuesError(DataError):
    """A picture whose values have another range than its file, or its data set, says."""


class Look(NamedTuple):
    """The way in which pictures become arrays.

    Attributes:
        side: the side of the squares that they are brought to, in pixels; None leaves the size.
        resize: how.
        background: the colour that transparency is laid over: a name, or `#rrggbb`.
        depth: bits of the values of grey pictures of more than 8 bits; None: 16, for one picture alone.
    """

    side: int | None = None
    resize: Resize = "crop"
    background: str = "white"
    depth: int | None = None


class Header(NamedTuple):
    """The statements of a file about its picture, before that is decoded.

    Attributes:
        is_grey: whether it has one channel; a file that cannot be read counts as grey.
        is_deep: whether it holds integers of more than 8 bits.
        is_transparent: whether it has an alpha channel, or a colour that is transparent.
        has_frames: whether it has more than one frame or page.
    """

    is_grey: bool
    is_deep: bool
    is_transparent: bool
    has_frames: bool


class Listing(NamedTuple):
    """The images of a folder, by class."""

    paths: list[Path]
    classes: np.ndarray
    """The class of each path, (n,) int64."""
    names: tuple[str, ...]
    """The names of the classes, escaped by `kip.errors.printable`."""
    nested: int
    """The number of images in folders within the classes' that were left out."""
    others: Counter[str]
    """The number of files that were left out, by the endings of their names."""


def listing(folder: Path, *, recursive: bool = False) -> Listing:
    """List a folder's images; none is opened.

    Args:
        folder: the folder of the classes' folders.
        recursive: whether images in folders within a class's folder are of the class too.

    Raises:
        DataError: if the folder cannot be read, has no folders, or one of them has no image.
    """
    nested, files, others = 0, [], Counter[str]()
    try:
        classes = folders(folder)
        for of_class in classes:
            images, deeper = [], 0
            for path in _files(of_class):
                if path.suffix.lower() not in SUFFIXES:
                    others[path.suffix.lower()] += 1
                elif recursive or path.parent == of_class:
                    images.append(path)
                else:
                    deeper += 1
            if not images:
                raise DataError(
                    f"the folder {_shown(of_class)}",
                    got=f"no image in it, and {deeper} in folders within it" if deeper else "no image in it",
                    expected=f"files in {', '.join(SUFFIXES)}",
                    remedy="Take those too, with --data.recursive True."
                    if deeper
                    else "Put pictures into it, or move it out of the folder of the classes.",
                )
            above = len(of_class.parts)
            files.append(sorted(images, key=lambda path: [natural(part) for part in path.parts[above:]]))
            nested += deeper
    except OSError as error:
        raise DataError(f"cannot read the folder {_shown(folder)}", got=error.strerror or repr(error)) from error
    if not classes:
        raise DataError(
            f"the folder {_shown(folder)}", got="no folders in it", expected="a folder of images for each class"
        )
    numbers = np.repeat(np.arange(len(classes)), [len(paths) for paths in files])
    names = tuple(printable(path.name) for path in classes)
    return Listing([path for paths in files for path in paths], numbers, names, nested, others)


def folders(folder: Path) -> list[Path]:
    """Return the folders in a folder, in the order of classes, without those that are hidden or left behind."""
    inner = (path for path in folder.iterdir() if not _is_passed_over(path) and path.is_dir())
    return sorted(inner, key=lambda path: natural(path.name))


def images_in(folder: Path) -> list[Path]:
    """Return the images that lie in a folder itself, in the order of their names."""
    inner = (path for path in folder.iterdir() if not _is_passed_over(path) and path.is_file())
    return sorted((p for p in inner if p.suffix.lower() in SUFFIXES), key=lambda path: natural(path.name))


def header(path: Path) -> Header:
    """Return what a file says of its picture."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with picture_file.opened(path) as file:
                is_grey = file.mode in ("1", "L", "LA", "F") or file.mode.startswith("I")
                has_frames = bool(getattr(file, "is_animated", False))
                return Header(is_grey, file.mode.startswith("I"), file.has_transparency_data, has_frames)
    except Exception:  # Pillow's readers raise whatever they like at a damaged file
        return Header(is_grey=True, is_deep=False, is_transparent=False, has_frames=False)


def largest(path: Path) -> int:
    """Return the largest value of a picture of integers; 0 for one that cannot be read.

    Raises:
        ValuesError: if a value is below 0, or above 16 bits.
    """
    try:
        with picture_file.decoding(path) as file:
            values = np.asarray(file)
    except Exception:  # decoding says later what is wrong with it
        return 0
    _check_range(path, values, 16)
    return int(values.max())


def decoded(path: Path, channels: int, look: Look = Look()) -> np.ndarray:  # noqa: B008 (a tuple)
    """Return an image, (H, W, C) uint8. Transparency is laid over the background; grey and colour are converted.

    Args:
        path: the file.
        channels: 1 or 3.
        look: its size, background and depth. It is scaled by Lanczos's filter.

    Raises:
        DataError: if it is no image that can be read, or claims more than `kip.storage.bounds.picture_pixels()`.
        ValuesError: if it has more bits than `look.depth`, or floats outside [0, 1].
    """
    with quietly():
        return decoded_in_thread(path, channels, look)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep Pillow from warning of large pictures: they are refused. Warnings are the process's, and not a thread's."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decoded_in_thread(path: Path, channels: int, look: Look) -> np.ndarray:
    """Return what `decoded` returns; for several threads within one `quietly`."""
    from PIL import Image, ImageOps

    try:
        with picture_file.decoding(path) as file:
            white_is_zero = file.format == "TIFF" and getattr(file, "tag_v2", {}).get(PHOTOMETRIC) == 0
            picture = ImageOps.exif_transpose(file)
            if picture.mode == "F" or picture.mode.startswith("I"):
                picture = _of_values(path, picture, look.depth or 16, white_is_zero=white_is_zero)
            else:
                if picture.has_transparency_data:
                    over = picture.convert("RGBA")
                    picture = Image.alpha_composite(Image.new("RGBA", over.size, look.background), over)
                picture = picture.convert("L" if channels == 1 else "RGB")
            if look.side is not None:
                picture = _square(picture, look.side, look.resize)
            pixels = np.array(picture)
    except KipError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like at a damaged file
        raise DataError(f"cannot read the image {_shown(path)}", got=f"{type(error).__name__}: {error}") from error
    if pixels.dtype != np.uint8:
        pixels = np.rint(np.clip(pixels, 0, 255)).astype(np.uint8)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], channels, axis=2)


def _square(picture: Any, side: int, resize: Resize) -> Any:
    from PIL import Image, ImageOps

    size, lanczos = (side, side), Image.Resampling.LANCZOS
    if resize == "crop":
        return ImageOps.fit(picture, size, lanczos)
    return ImageOps.pad(picture, size, lanczos) if resize == "pad" else picture.resize(size, lanczos)


def _of_values(path: Path, picture: Any, depth: int, *, white_is_zero: bool) -> Any:
    """Return a picture of integers of more than 8 bits, or of floats in [0, 1], as one of floats in 0..255.

    Pillow turns the values of TIFF files whose white is zero if they have up to 8 bits, and not if they have more.
    """
    from PIL import Image

    values = np.asarray(picture)
    if picture.mode != "F":
        _check_range(path, values, depth)
        most = 2**depth - 1
        return Image.fromarray(((most - values if white_is_zero else values) * (255 / most)).astype(np.float32))
    low, high = float(values.min()), float(values.max())
    if not (low >= -1e-3 and high <= 1 + 1e-3):  # which is so of NaN too
        raise ValuesError(
            f"the image {_shown(path)}",
            got=f"floats from {low:g} to {high:g}",
            expected="floats in [0, 1]",
            remedy="Scale its values to [0, 1], or write it as integers of 8 or 16 bits.",
        )
    return Image.fromarray(np.float32(255) * values)


def _check_range(path: Path, values: np.ndarray, depth: int) -> None:
    if values.min() < 0 or values.max() >= 2**depth:
        raise ValuesError(
            f"the image {_shown(path)}",
            got=f"values from {values.min()} to {values.max()}",
            expected=f"0 to {2**depth - 1}, which are {depth} bits",
            remedy="Name the bits of its values with --data.depth, or write it as integers of 8 or 16 bits.",
        )


def _files(folder: Path) -> Iterator[Path]:
    """Yield the files of a folder and of the folders in it, without those that are hidden or left behind."""
    for entry in os.scandir(folder):
        path = Path(entry.path)
        if _is_passed_over(path):
            continue
        if entry.is_file():
            yield path
        elif entry.is_dir(follow_symlinks=False):  # a link may lead back to where it lies
            yield from _files(path)


def _is_passed_over(path: Path) -> bool:
    return path.name.startswith(".") or path.name in LEFT_BEHIND


def _shown(path: Path) -> str:
    return printable(str(path))


def natural(name: str) -> tuple[tuple[int, int, str], ...]:
    """Return a sorting key by which numbers in names are numbers; names that differ in zeros alone keep an order."""
    parts = re.findall(r"\d+|\D+", name)
    return (*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (2, 0, name))
