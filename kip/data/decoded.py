"""Pictures decoded once: into memory, or, where they take more than that may hold, into a file of the cache folder.

    CACHE/pictures-5f0c.../pixels        the pictures in their order, uint8 (N, H, W, C); zeros for an unreadable one
    CACHE/pictures-5f0c.../chunks.json   a CRC-32 for each chunk that is there, and what is wrong with unreadable files

The folder's name depends on the paths, sizes and times of the files, on how they are looked at, and on the decoder.
Chunks are written in their order, and reach the disk before they are noted: a kill loses one chunk. Before the file is
used, each chunk is held against its checksum, and one that differs is decoded again.

Decoding runs in threads: Pillow lets go of Python's lock while it decodes and scales. `kip bench loader` measures it.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import time
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kip.data import image_folder
from kip.data.image_folder import DEPTHS, Look, ValuesError
from kip.errors import DataError, OutputError, printable
from kip.progress import progress_bar
from kip.storage.files import atomic_write, cache_dir
from kip.storage.images import Images, Stored, in_memory_bytes
from kip.storage.json_files import read_object
from kip.storage.locks import has_writer, sole_writer

VERSION = 3
"""A number that is raised whenever the same files would give other pixels."""
CHUNK_BYTES = 2**25
"""Bytes of the pictures that are decoded and written at once."""
THREADS = 8
"""The most threads that decode."""
LOOKS = 0.5
"""Seconds between two looks at whether another process has decoded the same pictures."""
JPEG = (".jpg", ".jpeg", ".jpe", ".jfif")
"""Pictures that are neither deep nor transparent: millions of them need not be opened to know that."""
PIXELS, CHUNKS = "pixels", "chunks.json"
REMEDY = "Make room, or set KIP_CACHE_DIR to another folder, and run the same command again."


class Pictures(NamedTuple):
    """Pictures that are to be decoded, and the arrays that they become.

    Attributes:
        paths: the files.
        shape: of each picture, (H, W, C).
        look: how they become arrays.
    """

    paths: Sequence[Path]
    shape: tuple[int, int, int]
    look: Look

    @property
    def chunk(self) -> int:
        """Pictures of a chunk."""
        return max(1, CHUNK_BYTES // int(np.prod(self.shape)))

    @property
    def chunks(self) -> list[slice]:
        """The chunks, as slices of `paths`."""
        count = len(self.paths)
        return [slice(first, min(first + self.chunk, count)) for first in range(0, count, self.chunk)]


class Decoded(NamedTuple):
    """Pictures as arrays.

    Attributes:
        images: (N, H, W, C) uint8; zeros for one that cannot be read.
        unreadable: what is wrong with those that cannot be read, by index.
        notes: what a user should know of how they were looked at.
    """

    images: Images
    unreadable: dict[int, str]
    notes: list[str]


def pictures(paths: Sequence[Path], look: Look) -> Decoded:
    """Return the pixels of pictures.

    Grey pictures of more than 8 bits have one depth, the least of `kip.data.image_folder.DEPTHS` that holds the largest
    value of all, unless `look.depth` says it: 12 bits in a file of 16 are not told from dark pictures one by one.

    Args:
        paths: the files.
        look: how they become arrays.

    Raises:
        DataError: if none can be read, they differ in size without a side, or one has values of another range.
        OutputError: if they do not fit into memory and cannot be kept in the cache folder.
    """
    others = [path for path in paths if path.suffix.lower() not in JPEG]
    headers = [image_folder.header(path) for path in others]
    notes = []
    if clear := sum(header.is_transparent for header in headers):
        notes.append(f"{clear} have transparency, which is laid over {look.background} (--data.background)")
    if several := sum(header.has_frames for header in headers):
        notes.append(f"{several} have several frames or pages, of which the first is taken")
    if deep := [path for path, header in zip(others, headers) if header.is_deep]:
        if look.depth is None:
            look = look._replace(depth=_depth(deep))
        notes.append(f"{len(deep)} have values of {look.depth} bits (--data.depth)")
    plain = (path for path in paths if path.suffix.lower() in JPEG)
    grey = all(header.is_grey for header in headers) and all(image_folder.header(path).is_grey for path in plain)
    channels = 1 if grey else 3
    shape = _shape(paths, channels, look) if look.side is None else (look.side, look.side, channels)
    wanted = Pictures(paths, shape, look)
    if len(paths) * int(np.prod(shape)) > in_memory_bytes():
        return Decoded(*on_disk(wanted, cache_dir()), notes)
    pixels, unreadable = np.zeros((len(paths), *shape), np.uint8), {}
    with _decoders() as threads:
        for part in wanted.chunks:
            pixels[part], lost = _decode(wanted, part, threads)
            unreadable |= lost
    return Decoded(pixels, unreadable, notes)


def with_depth(paths: Sequence[Path], look: Look) -> Look:
    """Return a look with the depth of the grey pictures of more than 8 bits, where there are such and it says none."""
    deep = [path for path in paths if image_folder.header(path).is_deep]
    return look if look.depth is not None or not deep else look._replace(depth=_depth(deep))


def _depth(paths: Sequence[Path]) -> int:
    """Return the bits of the values of grey pictures."""
    with _decoders() as threads:
        most = max(threads.map(image_folder.largest, paths))
    return next(depth for depth in DEPTHS if most < 2**depth)


def on_disk(wanted: Pictures, cache: Path) -> tuple[Stored, dict[int, str]]:
    """Return the pixels of pictures in a folder's file; what is not there yet, or damaged, is decoded first.

    Args:
        wanted: the pictures.
        cache: the folder.

    Raises:
        DataError, OutputError: as `pictures`.
    """
    folder = cache / f"pictures-{_identity(wanted)}"
    noted = _Noted(folder, wanted)
    if noted.missing():
        while has_writer(folder):  # it decodes the same pictures
            time.sleep(LOOKS)
        with sole_writer(folder):
            noted = _Noted(folder, wanted)
            _complete(noted)
    return Stored(folder / PIXELS, 0, (len(wanted.paths), *wanted.shape), np.uint8), noted.unreadable


class _Noted:
    """The chunks of a folder, as far as they are known.

    Args:
        folder: the folder; it may be missing.
        wanted: what it holds, or will hold.
    """

    def __init__(self, folder: Path, wanted: Pictures):
        self.folder, self.wanted = folder, wanted
        saved = read_object(folder / CHUNKS) or {}
        sums, unreadable = saved.get("crc32"), saved.get("unreadable")
        is_whole = isinstance(sums, list) and len(sums) <= len(wanted.chunks) and isinstance(unreadable, dict)
        self.sums: list[Any] = sums if is_whole and isinstance(sums, list) else []
        self.unreadable: dict[int, str] = {}
        if is_whole and isinstance(unreadable, dict):
            self.unreadable = {int(place): str(reason) for place, reason in unreadable.items() if place.isdecimal()}

    @property
    def pixels(self) -> Path:
        """The file of the pixels."""
        return self.folder / PIXELS

    def missing(self) -> list[int]:
        """Return the chunks that are not in the file as they were noted."""
        try:
            with self.pixels.open("rb") as file:
                return [number for number in range(len(self.wanted.chunks)) if not self._is_there(file, number)]
        except OSError:
            return list(range(len(self.wanted.chunks)))

    def _is_there(self, file: Any, number: int) -> bool:
        if number >= len(self.sums):
            return False
        part = self.wanted.chunks[number]
        of_picture = int(np.prod(self.wanted.shape))
        file.seek(part.start * of_picture)
        content = file.read((part.stop - part.start) * of_picture)
        return len(content) == (part.stop - part.start) * of_picture and zlib.crc32(content) == self.sums[number]

    def write(self, number: int, content: np.ndarray, unreadable: dict[int, str]) -> None:
        """Write a chunk, and note it when it is on the disk."""
        part, data = self.wanted.chunks[number], content.tobytes()
        with self.pixels.open("r+b") as file:
            file.seek(part.start * int(np.prod(self.wanted.shape)))
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.sums[number : number + 1] = [zlib.crc32(data)]
        self.unreadable = {
            place: reason for place, reason in self.unreadable.items() if not part.start <= place < part.stop
        } | unreadable
        text = json.dumps({"crc32": self.sums, "unreadable": self.unreadable})
        atomic_write(self.folder / CHUNKS, lambda file: file.write(text.encode()))


def _complete(noted: _Noted) -> None:
    """Decode what a folder lacks.

    Raises:
        OutputError: if it cannot be written.
        DataError: as `pictures`.
    """
    wanted, missing = noted.wanted, noted.missing()
    of_picture = int(np.prod(wanted.shape))
    left = sum(wanted.chunks[number].stop - wanted.chunks[number].start for number in missing)
    try:
        if (free := shutil.disk_usage(noted.folder).free) < left * of_picture:
            raise OutputError(
                f"{noted.folder} has no room for the decoded pictures",
                got=f"{free / 2**30:.1f} GiB",
                expected=f"{left * of_picture / 2**30:.1f} GiB",
                remedy=REMEDY,
            )
        noted.pixels.touch()
        os.truncate(noted.pixels, len(wanted.paths) * of_picture)
        count = len(wanted.paths)
        bar = progress_bar(count, "decoding pictures", shown=True, unit=" pictures", initial=count - left)
        with bar, _decoders() as threads:
            for number in missing:
                content, unreadable = _decode(wanted, wanted.chunks[number], threads)
                noted.write(number, content, unreadable)
                bar.update(len(content))
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"cannot write {noted.pixels}", got=error.strerror or repr(error), remedy=REMEDY) from error


def _decode(wanted: Pictures, part: slice, threads: ThreadPoolExecutor) -> tuple[np.ndarray, dict[int, str]]:
    """Return the pixels of a part, (m, H, W, C), and what is wrong with those that cannot be read, by index."""
    content, unreadable = np.zeros((part.stop - part.start, *wanted.shape), np.uint8), {}
    for place, result in enumerate(threads.map(partial(_pixels, wanted), wanted.paths[part])):
        if isinstance(result, str):
            unreadable[part.start + place] = result
        elif result.shape != wanted.shape:
            raise DataError(
                f"the image {printable(str(wanted.paths[part.start + place]))} has another size than the first",
                got=f"{result.shape[1]}x{result.shape[0]} pixels",
                expected=f"{wanted.shape[1]}x{wanted.shape[0]}",
                remedy="Bring all to one size with --data.side, such as --data.side 32.",
            )
        else:
            content[place] = result
    return content, unreadable


def _pixels(wanted: Pictures, path: Path) -> np.ndarray | str:
    """Return a picture, or what is wrong with it."""
    try:
        return image_folder.decoded_in_thread(path, wanted.shape[2], wanted.look)
    except ValuesError:  # the file is whole: leaving it out would not mend the set
        raise
    except DataError as error:
        return str(error.got)


def _shape(paths: Sequence[Path], channels: int, look: Look) -> tuple[int, int, int]:
    """Return the shape of the first picture that can be read."""
    for path in paths:
        try:
            height, width, _ = image_folder.decoded(path, channels, look).shape
        except ValuesError:
            raise
        except DataError:
            continue
        return height, width, channels
    raise DataError(
        f"the folder {printable(str(paths[0].parent.parent))}",
        got="no image that can be read",
        expected="one, at least",
    )


def _identity(wanted: Pictures) -> str:
    """Return a name that depends on all that the pixels depend on; no file is opened."""
    import PIL

    content = sha256(json.dumps([VERSION, PIL.__version__, wanted.shape, wanted.look]).encode())
    for path in wanted.paths:
        try:
            status = path.stat()
        except OSError as error:
            raise DataError(
                f"cannot read the image {printable(str(path))}", got=error.strerror or repr(error)
            ) from error
        content.update(json.dumps([str(path.absolute()), status.st_size, status.st_mtime_ns]).encode())
    return content.hexdigest()[:32]


@contextlib.contextmanager
def _decoders() -> Iterator[ThreadPoolExecutor]:
    """Give the threads that decode."""
    count = min(THREADS, os.cpu_count() or 1)
    with image_folder.quietly(), ThreadPoolExecutor(count, thread_name_prefix="kip-decode") as threads:
        yield threads
