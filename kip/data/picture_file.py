"""Opening pictures that anybody may have made: in formats that Pillow decodes by itself, and within a bound of memory.

The ending of a file's name says nothing of its format, and Pillow hands some formats to other programs: PostScript,
which is a programming language, goes to Ghostscript. Every picture is therefore opened here, by a closed list.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from kip import machine
from kip.errors import DataError
from kip.storage import bounds

if TYPE_CHECKING:
    from PIL.Image import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "AVIF")
"""Formats that are decoded in this process; AVIF where this Pillow has it."""
LARGE = 8 * 10**6
"""Pixels of a picture whose memory is given back at once; that takes milliseconds."""


class _Room:
    """Pixels that are being decoded; whoever wants to decode waits until there is room for its picture."""

    def __init__(self) -> None:
        self._taken = 0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def __call__(self, pixels: int, most: int) -> Iterator[None]:
        with self._changed:
            self._changed.wait_for(lambda: not self._taken or self._taken + pixels <= most)
            self._taken += pixels
        try:
            yield
        finally:
            with self._changed:
                self._taken -= pixels
                self._changed.notify_all()


_room = _Room()


@contextlib.contextmanager
def opened(source: Path | BinaryIO, formats: Sequence[str] = FORMATS) -> Iterator[Image]:
    """Open a picture, of which Pillow has read the header and nothing else.

    Args:
        source: the file, or its bytes.
        formats: those that it may have, of `FORMATS`.

    Raises:
        DataError: if it has more than `kip.storage.bounds.picture_pixels()`.
        OSError and others: what Pillow raises at a file that is no picture in one of the formats.
    """
    from PIL import Image

    Image.init()
    with Image.open(source, formats=[name for name in formats if name in Image.OPEN]) as file:
        most = bounds.picture_pixels()
        if file.width * file.height > most:
            raise DataError(
                f"the image {source}" if isinstance(source, Path) else "an image",
                got=f"{file.width}x{file.height} pixels",
                expected=f"at most {most} pixels",
                remedy=f"Make it smaller, or set ${bounds.PICTURE_VARIABLE} to more than {most // 10**6}.",
            )
        yield file


@contextlib.contextmanager
def decoding(path: Path) -> Iterator[Image]:
    """Open a picture that will be decoded: all threads together decode no more pixels than one picture may have.

    A thread decodes one picture at a time: whoever is within this context and asks for another may wait for ever.

    Raises:
        DataError, OSError and others: as `opened`.
    """
    with opened(path) as file:
        pixels = file.width * file.height
        with _room(pixels, bounds.picture_pixels()):
            try:
                yield file
            finally:
                file.close()  # its pixels are freed before the next thread has the room
                if pixels >= LARGE:
                    machine.give_back_memory()
