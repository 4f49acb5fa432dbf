"""From one layout of images to another, by compiled code.

NumPy takes as long to lay out a block of images as a cheap kernel takes to compute it. Here images are read and written
in runs of `RUN` positions, so that the sixteen images that share a vector share a few lines of the first cache.
"""

from __future__ import annotations

import numpy as np

from kip.kernels.fused.compiled import compiled, entry
from kip.kernels.fused.lanes import LANES, at, lane, put
from kip.kernels.fused.layout import Buffer, kind_of

RUN = 16
"""Positions of an image that are moved at a time."""


def in_vectors(images: np.ndarray, out: Buffer) -> None:
    """Write images (N, H, W, C) channel by channel, as `layout.in_lanes` lays out their rows (N, C H W)."""
    count, height, width, channels = images.shape
    source = Buffer.of(np.ascontiguousarray(images))
    _in_vectors(kind_of(images.dtype), source, count, -(-count // LANES), height * width, channels, out.numbers())


def by_channel(images: np.ndarray, out: Buffer) -> None:
    """Write images (N, H, W, C) one after another, each channel by channel: (N C H W,)."""
    count, height, width, channels = images.shape
    source = Buffer.of(np.ascontiguousarray(images))
    _by_channel(kind_of(images.dtype), source, count, height * width, channels, out)


def flat_by_image(vectors: Buffer, count: int, out: Buffer) -> None:
    """Write the values of so many images, which lie in vectors, image by image: (count k,)."""
    size = len(out.array) // count
    _flat_by_image(kind_of(out.array.dtype), vectors.numbers(), count, size, out)


@compiled
def _move(source, read, out, write):
    put(out, write, lane(at(source, read), 0))


@entry
def _in_vectors(images, count, groups, positions, channels, out):
    for group in range(groups):
        for first in range(0, positions, RUN):
            stop = min(first + RUN, positions)
            for i in range(LANES):
                image = min(group * LANES + i, count - 1)
                for c in range(channels):
                    read = (image * positions + first) * channels + c
                    write = ((group * channels + c) * positions + first) * LANES + i
                    for p in range(stop - first):
                        _move(images, read + p * channels, out, write + p * LANES)


@entry
def _by_channel(images, count, positions, channels, out):
    for image in range(count):
        for c in range(channels):
            read, write = image * positions * channels + c, (image * channels + c) * positions
            for p in range(positions):
                _move(images, read + p * channels, out, write + p)


@entry
def _flat_by_image(vectors, count, size, out):
    for group in range((count + LANES - 1) // LANES):
        for first in range(0, size, RUN):
            stop = min(first + RUN, size)
            for image in range(group * LANES, min((group + 1) * LANES, count)):
                read, write = (group * size + first) * LANES + image % LANES, image * size + first
                for v in range(stop - first):
                    _move(vectors, read + v * LANES, out, write + v)
