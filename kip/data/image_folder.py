"""Images in folders, one folder for each class: FOLDER/CLASS/IMAGE.png, as most image data sets and many sets come.

Classes are numbered in the order of their folders' names, whose numbers are compared as numbers: `class2` comes before
`class10`. Hidden files and files that are no images by their names are passed over.
"""

from __future__ import annotations

import contextlib
import re
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from kip.data import picture_file
from kip.errors import DataError, KipError

SUFFIXES = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
"""Endings of the names of images, in lower case."""
Resize = Literal["crop", "pad", "stretch"]
"""How an image becomes a square: `crop` scales its shorter side and cuts out the middle; `pad` scales its longer side
and puts it in the middle of black; `stretch` scales both sides."""


class Listing(NamedTuple):
    """The images of a folder, by class."""

    paths: list[Path]
    classes: np.ndarray
    """The class of each path, (n,) int64."""
    names: tuple[str, ...]
    """The names of the classes."""


def listing(folder: Path) -> Listing:
    """List a folder's images; none is opened.

    Raises:
        DataError: if the folder cannot be read, has no folders, or one of them has no image.
    """
    try:
        classes = sorted((p for p in folder.iterdir() if p.is_dir() and not p.name.startswith(".")), key=_natural)
        files = [sorted((p for p in of_class.iterdir() if _is_image(p)), key=_natural) for of_class in classes]
    except OSError as error:
        raise DataError(f"cannot read the folder {folder}", got=error.strerror or repr(error)) from error
    if not classes:
        raise DataError(f"the folder {folder}", got="no folders in it", expected="a folder of images for each class")
    for of_class, paths in zip(classes, files):
        if not paths:
            raise DataError(f"the folder {of_class}", got="no image in it", expected=f"files in {', '.join(SUFFIXES)}")
    numbers = np.repeat(np.arange(len(classes)), [len(paths) for paths in files])
    return Listing([path for paths in files for path in paths], numbers, tuple(path.name for path in classes))


def is_grey(path: Path) -> bool:
    """Return whether a file says that its image is grey; one that cannot be read counts as grey."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with picture_file.opened(path) as file:
                return file.mode in ("1", "L", "LA", "I", "I;16", "F")
    except Exception:  # Pillow's readers raise whatever they like at a damaged file
        return True


def decoded(path: Path, channels: int, *, side: int | None = None, resize: Resize = "crop") -> np.ndarray:
    """Return an image, (H, W, C) uint8. Transparency is laid over black; grey and colour are converted.

    Args:
        path: the file.
        channels: 1 or 3.
        side: pixels of each side that it is brought to (Lanczos); None leaves the size.
        resize: how.

    Raises:
        DataError: if it is no image that can be read, or claims more than `kip.bounds.picture_pixels()`.
    """
    with quietly():
        return decoded_in_thread(path, channels, side, resize)


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Keep Pillow from warning of large pictures: they are refused. Warnings are the process's, and not a thread's."""
    from PIL import Image

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        yield


def decoded_in_thread(path: Path, channels: int, side: int | None, resize: Resize) -> np.ndarray:
    """Return what `decoded` returns; for several threads within one `quietly`."""
    from PIL import Image, ImageOps

    try:
        with picture_file.decoding(path) as file:
            picture = ImageOps.exif_transpose(file)
            if picture.has_transparency_data:
                over = picture.convert("RGBA")
                picture = Image.alpha_composite(Image.new("RGBA", over.size, (0, 0, 0, 255)), over)
            picture = picture.convert("L" if channels == 1 else "RGB")
            if side is not None:
                size, lanczos = (side, side), Image.Resampling.LANCZOS
                if resize == "crop":
                    picture = ImageOps.fit(picture, size, lanczos)
                elif resize == "pad":
                    picture = ImageOps.pad(picture, size, lanczos)
                else:
                    picture = picture.resize(size, lanczos)
            pixels = np.array(picture)
    except KipError:
        raise
    except Exception as error:  # Pillow's decoders raise whatever they like at a damaged file
        raise DataError(f"cannot read the image {path}", got=f"{type(error).__name__}: {error}") from error
    return pixels[..., None] if channels == 1 else pixels


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file()


def _natural(path: Path) -> tuple[tuple[int, int, str], ...]:
    """Return a key that compares numbers in names as numbers; names that differ in zeros alone keep an order."""
    parts = re.findall(r"\d+|\D+", path.name)
    return (*((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts), (2, 0, path.name))
