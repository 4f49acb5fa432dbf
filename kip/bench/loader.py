"""Benchmark of the way from pictures to a training: decoding them once, and batches that are read and preprocessed.

Pictures are random JPEGs, a quarter larger than they are needed, in a folder that is removed afterwards. They lie in
the system's page cache then: a disk that is slower than memory is not measured.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np

from kip.data import decoded
from kip.data.image_folder import Look
from kip.preprocess import Preprocess, fit
from kip.rng import generator, key
from kip.storage.images import Lazy
from kip.training.batches import Batches
from kip.training.prefetch import THREADS, gather_batches

TEMPLATES = 20
"""Different pictures; the others are copies of these under other names."""


class Rate(NamedTuple):
    """The images that pass through a part of the way in a second.

    Attributes:
        part: the part.
        images: how many were measured.
        seconds: in all.
    """

    part: str
    images: int
    seconds: float

    @property
    def images_per_second(self) -> float:
        """Images a second."""
        return self.images / self.seconds


def measure(side: int, count: int, batch: int, batches: int) -> Iterator[Rate]:
    """Yield the rate of each part.

    Args:
        side: pixels that pictures are brought to.
        count: pictures.
        batch: images of an update.
        batches: updates.
    """
    with tempfile.TemporaryDirectory() as folder:
        paths = written(Path(folder) / "pictures", side + side // 4, count)
        wanted = decoded.Pictures(paths, (side, side, 3), Look(side))
        cache = Path(folder) / "cache"
        began = time.perf_counter()
        pixels, _ = decoded.on_disk(wanted, cache)
        yield Rate("decoding, once", count, time.perf_counter() - began)
        began = time.perf_counter()
        pixels, _ = decoded.on_disk(wanted, cache)
        yield Rate("checking what was decoded, at each start", count, time.perf_counter() - began)
        began = time.perf_counter()
        transform = fit(Preprocess("standardize"), pixels)
        yield Rate("fitting the standardisation", count, time.perf_counter() - began)
        inputs = transform.apply(pixels)
        draws = generator(0, "loader benchmark")
        began = time.perf_counter()
        for _ in range(batches):
            _ = inputs[draws.integers(0, count, batch)]
        yield Rate(f"batches of {batch}, read and standardised", batch * batches, time.perf_counter() - began)
        yield _ahead(inputs, Batches(count, batch, "draws"), batches)


def _ahead(inputs: Lazy, batches: Batches, updates: int) -> Rate:
    """Return the rate at which a training that took no time itself would be given batches."""
    seconds = 0.0
    for steps in (range(2), range(updates)):  # the first compiles
        began = time.perf_counter()
        for made in gather_batches(inputs, np.zeros(batches.count), batches, key(0, "loader benchmark"), steps):
            jax.block_until_ready(made.images)
        seconds = time.perf_counter() - began
    part = f"batches of {batches.size}, ahead in {THREADS} threads, on the device"
    return Rate(part, batches.size * updates, seconds)


def written(folder: Path, side: int, count: int) -> list[Path]:
    """Write pictures of a class, JPEGs with some structure, side x side; return their paths.

    Args:
        folder: is made.
        side: pixels.
        count: how many.
    """
    from PIL import Image

    folder.mkdir(parents=True)
    draws, contents = generator(0, "pictures of a benchmark"), []
    for _ in range(min(TEMPLATES, count)):
        coarse = Image.fromarray(draws.integers(0, 256, (8, 8, 3)).astype(np.uint8))
        path = folder / "template.jpg"
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(path, quality=90)
        contents.append(path.read_bytes())
        path.unlink()
    paths = [folder / f"{number}.jpg" for number in range(count)]
    for number, path in enumerate(paths):
        path.write_bytes(contents[number % len(contents)])
    return paths


def table(rates: Sequence[Rate]) -> str:
    """Return the rates as text."""
    width = max(len(rate.part) for rate in rates)
    lines = [f"{'':{width}}  images a second"]
    return "\n".join(lines + [f"{rate.part:{width}}  {rate.images_per_second:15.0f}" for rate in rates])
