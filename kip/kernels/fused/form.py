"""Kernel blocks in the fused form: NumPy arrays in and out, over a pool of threads that the process shares.

A block's chunks are cut into parts by their number alone, and what parts add up is added in their order, so that the
bits do not depend on the number of threads.
"""

from __future__ import annotations

import functools
import math
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Any, NamedTuple, TypeVar

import numpy as np

from kip.kernels.architecture import Architecture
from kip.kernels.fused import chunk, transpose, work
from kip.kernels.fused.activations import DUALS
from kip.kernels.fused.backward import Sums
from kip.kernels.fused.layout import (
    LANES,
    Buffer,
    Tables,
    by_image,
    cotangents_in_lanes,
    in_lanes,
    kind_of,
    tables,
)

T = TypeVar("T")

PART = 1 << 15
"""Pairs of positions that a part goes through at least, in vectors: some milliseconds."""
MOST_PARTS = 64
"""Parts of a block; each has memory of its own for the gradients of its groups."""


class _Part(NamedTuple):
    first: int
    stop: int
    first_group: int
    stop_group: int


class Gradient(NamedTuple):
    """A block's values (N, M) and its gradients for x and z; None where it is not wanted."""

    values: np.ndarray
    x: np.ndarray | None
    z: np.ndarray | None


class Form:
    """An architecture's kernel of blocks of images (N, H, W, C), all float32 or all float64, and its vjp.

    Args:
        architecture: ConvVec, ConvNet, ConvNet3 or Myrtle.
        threads: how many; None: as many as the process may use processors.
    """

    def __init__(self, architecture: Architecture, threads: int | None = None):
        self.architecture = architecture
        self.ntk = architecture.get == "ntk"
        self.variances = DUALS[architecture.activation].variances
        self.threads = threads or _processors()

    def forward(self, x: np.ndarray, z: np.ndarray) -> np.ndarray:
        """Return K(x, z), (N, M)."""
        if _chunks(z, x) < _chunks(x, z):
            return np.ascontiguousarray(_Block(self, z, x).values().T)
        return _Block(self, x, z).values()

    def forward_diagonal(self, x: np.ndarray) -> np.ndarray:
        """Return K(x, x), symmetric to the last bit."""
        block = _Block(self, x, None).values()
        return np.triu(block) + np.triu(block, 1).T

    def pull_columns(self, x: np.ndarray, z: np.ndarray, bar: np.ndarray) -> np.ndarray:
        """Return the gradient of sum(bar * K(x, z)) for z; nothing is computed for x."""
        gradient = self.value_and_pull(x, z, bar, False, True).z
        assert gradient is not None
        return gradient

    def pull_both(self, x: np.ndarray, z: np.ndarray, bar: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients for x and for z."""
        gradient = self.value_and_pull(x, z, bar, True, True)
        assert gradient.x is not None
        assert gradient.z is not None
        return gradient.x, gradient.z

    def pull_diagonal(self, x: np.ndarray, bar: np.ndarray) -> np.ndarray:
        """Return the gradient of sum(bar * K(x, x)) for x."""
        gradient = _Block(self, x, None).pull(np.triu(bar) + np.tril(bar, -1).T, True, True).x
        assert gradient is not None
        return gradient

    def value_and_pull(self, x: np.ndarray, z: np.ndarray, bar: np.ndarray, for_x: bool, for_z: bool) -> Gradient:
        """Return K(x, z), which the vjp computes anyhow, with the gradients of sum(bar * K(x, z)) that are wanted."""
        if _chunks(z, x) < _chunks(x, z):
            values, to_z, to_x = _Block(self, z, x).pull(bar.T, for_z, for_x)
            return Gradient(np.ascontiguousarray(values.T), to_x, to_z)
        return _Block(self, x, z).pull(bar, for_x, for_z)

    def temporary_bytes(self, shape: tuple[int, int, int], itemsize: int, threads: int | None = None) -> int:
        """Return the memory of a vjp's threads for images of a shape, whatever the size of the block."""
        dtype = np.dtype(f"f{itemsize}")
        table = _tables(self.architecture, shape)
        own = work.for_variances(table, dtype), work.for_own_pulls(table, dtype)
        pairs = work.for_pairs(table, dtype, self.ntk), work.for_pulls(table, dtype, self.ntk)
        return (threads or self.threads) * work.size((own, pairs, work.sums(table, dtype, 1)))


class _Block:
    """One block's images laid out, and what is done with them. A thread's next block takes the memory of its last.

    Args:
        form: whose.
        x: first images.
        z: second ones; None: the same, of which only pairs j >= i are computed.
    """

    def __init__(self, form: Form, x: np.ndarray, z: np.ndarray | None):
        self._form, self._dtype = form, x.dtype
        self._shape = x.shape[1:]
        self._count, self._second = len(x), len(x if z is None else z)
        self._tables = _tables(form.architecture, self._shape)
        self._triangle = z is None
        self._arena = work.arena()
        vectors, self._x = self._in_vectors(x), self._side(len(x))
        self._z = vectors if z is None else self._in_vectors(z)
        transpose.by_channel(x, self._x.pixels)
        for in_vectors, numbers in zip(vectors.values, self._x.values):
            transpose.flat_by_image(in_vectors, len(x), numbers)

    @property
    def _groups(self) -> int:
        return -(-self._second // LANES)

    def values(self) -> np.ndarray:
        """Return the kernel, (N, M); of a triangle, zeros or what a group computes anyhow for j < i."""
        table, ntk = self._tables, self._form.ntk
        out = Buffer((self._count * self._groups, LANES), self._dtype)

        def compute(part: _Part) -> None:
            self._call_pairs(work.of_thread(work.for_pairs, table, self._dtype, ntk), part, out, None)

        self._run(compute, self._parts())
        return self._cut(out)

    def pull(self, bar: np.ndarray, for_x: bool, for_z: bool) -> Gradient:
        """Return the kernel and the gradients of sum(bar * K) that are wanted; for a triangle x holds both."""
        table, ntk, dtype = self._tables, self._form.ntk, self._dtype
        out = Buffer((self._count * self._groups, LANES), dtype)
        cotangents = cotangents_in_lanes(np.asarray(bar, dtype))
        pixels, values = self._x.pixel_count, self._x.value_count

        def compute(part: _Part) -> tuple[Buffer, Buffer, Sums]:
            images, groups = part.stop - part.first, part.stop_group - part.first_group
            x_pixels, x_logs = (Buffer((images * size if for_x else 0,), dtype) for size in (pixels, values))
            z_sums = work.sums(table, dtype, groups if for_z else 0)
            memory = work.of_thread(work.for_pairs, table, dtype, ntk)
            back = work.of_thread(work.for_pulls, table, dtype, ntk)
            x_sums = work.of_thread(_one_sum, table, dtype, for_x)
            self._call_pairs(memory, part, out, chunk.Pull(back, cotangents, x_sums, x_pixels, x_logs, z_sums))
            return x_pixels, x_logs, z_sums

        to_x = np.zeros((self._count, pixels), dtype), np.zeros((self._count, values), dtype)
        to_z = work.sums(table, dtype, self._groups if for_z else 0)
        parts = self._parts()
        for part, (x_pixels, x_logs, z_sums) in zip(parts, self._run(compute, parts)):
            if for_x:
                to_x[0][part.first : part.stop] += x_pixels.array.reshape(-1, pixels)
                to_x[1][part.first : part.stop] += x_logs.array.reshape(-1, values)
            if for_z:
                to_z.pixels.array[part.first_group * pixels : part.stop_group * pixels] += z_sums.pixels.array
                to_z.logs.array[part.first_group * values : part.stop_group * values] += z_sums.logs.array
        if self._triangle:
            to_x[0][:] += by_image(to_z.pixels, self._count)
            to_x[1][:] += by_image(to_z.logs, self._count)
        x_gradient = z_gradient = None
        if for_x:
            x_gradient = self._pull_variances(
                self._x_in_vectors(), Sums(in_lanes(to_x[0]), in_lanes(to_x[1]), True), self._count
            )
        if for_z and not self._triangle:
            z_gradient = self._pull_variances(self._z, to_z, self._second)
        return Gradient(self._cut(out), x_gradient, z_gradient)

    def _in_vectors(self, images: np.ndarray) -> chunk.Side:
        """Lay images (N, H, W, C) out in vectors, with their variances."""
        side = self._side(-(-len(images) // LANES), LANES)
        transpose.in_vectors(images, side.pixels)
        self._variances(side, len(images), None)
        return side

    def _side(self, count: int, *lanes: int) -> chunk.Side:
        """Return memory for so many images; with `lanes`, for so many groups of images in vectors."""
        pixels, values, kept = math.prod(self._shape), self._tables.values, self._form.variances
        buffers = [
            Buffer((count * size, *lanes), self._dtype, self._arena.take)
            for size in (pixels, *[values] * len(kept._fields))
        ]
        return chunk.Side(buffers[0], kept(*buffers[1:]), pixels, values)

    def _x_in_vectors(self) -> chunk.Side:
        if self._triangle:
            return self._z
        pixels, values = self._x.pixel_count, self._x.value_count
        return chunk.Side(
            in_lanes(self._x.pixels.array.reshape(-1, pixels)),
            self._form.variances(*(in_lanes(part.array.reshape(-1, values)) for part in self._x.values)),
            pixels,
            values,
        )

    def _pull_variances(self, side: chunk.Side, sums: Sums, count: int) -> np.ndarray:
        """Add to the cotangents of images' pixels, in vectors, those of their variances; return them as images."""
        self._variances(side, count, sums)
        height, width, channels = self._shape
        return np.moveaxis(by_image(sums.pixels, count).reshape(count, channels, height, width), 1, 3)

    def _parts(self) -> list[_Part]:
        """Cut the block's chunks into parts, by their number and cost alone."""
        chunks = self._count * self._groups
        enough = -(-PART // self._tables.position_pairs)
        parts = min(MOST_PARTS, -(-chunks // enough))
        across = min(self._groups, parts)
        down = min(self._count, -(-parts // across))
        return [_Part(*rows, *columns) for rows in _cut(self._count, down) for columns in _cut(self._groups, across)]

    def _cut(self, out: Buffer) -> np.ndarray:
        return np.ascontiguousarray(out.array.reshape(self._count, -1)[:, : self._second])

    def _run(self, function: Callable[[Any], T], parts: Sequence[Any]) -> list[T]:
        return _on_threads(self._form.threads, function, parts)

    def _call_pairs(self, memory: work.Work, part: _Part, out: Buffer, pull: chunk.Pull | None) -> None:
        table, chunks = self._tables, chunk.Part(*part, self._groups, self._triangle)
        chunk.pairs(
            self._kind(self._form.architecture.get, vjp=pull is not None),
            table.pairs,
            table.weight,
            table.bias,
            memory,
            self._x,
            self._z,
            chunks,
            out,
            pull,
        )

    def _kind(self, *words: str, vjp: bool) -> str:
        """Return the words that all arguments of the same types share, see `kip.kernels.fused.compiled.entry`."""
        return " ".join((self._form.architecture.activation, *words, kind_of(self._dtype), *["vjp"] * vjp))

    def _variances(self, side: chunk.Side, count: int, sums: Sums | None) -> None:
        """Compute the variances of images in vectors, or, with `sums`, pull their cotangents back."""
        table, dtype = self._tables, self._dtype

        def compute(run: tuple[int, int]) -> None:
            memory = work.of_thread(work.for_variances, table, dtype)
            back = None if sums is None else work.of_thread(work.for_own_pulls, table, dtype)
            chunk.variances(self._kind(vjp=sums is not None), table.pairs, table.own, memory, side, *run, back, sums)

        groups = -(-count // LANES)
        self._run(compute, _cut(groups, min(groups, -(-groups * table.position_pairs // (4 * PART)))))


def _chunks(x: np.ndarray, z: np.ndarray) -> int:
    return len(x) * -(-len(z) // LANES)


def _cut(length: int, count: int) -> list[tuple[int, int]]:
    """Cut a range into so many runs of even length."""
    return [(length * i // count, length * (i + 1) // count) for i in range(count)]


@functools.cache
def _tables(architecture: Architecture, shape: tuple[int, int, int]) -> Tables:
    return tables(architecture, *shape)


def _one_sum(table: Tables, dtype: np.dtype, wanted: bool) -> Sums:
    return work.sums(table, dtype, int(wanted))


def _on_threads(threads: int, function: Callable[[Any], T], parts: Sequence[Any]) -> list[T]:
    """Return what a function returns for each part, in their order; the calling thread is one of the threads.

    Waking another thread takes as long as a small part, so that a single one is computed where it is asked for.
    """
    if len(parts) == 1:
        return [function(parts[0])]
    results: dict[int, T] = {}
    numbers = iter(range(len(parts)))

    def work() -> None:
        for number in numbers:  # a range's iterator gives each number to one thread
            results[number] = function(parts[number])

    helpers = [_pool(threads).submit(work) for _ in range(min(threads, len(parts)) - 1)]
    try:
        work()
    finally:
        for _ in numbers:  # after an error, the other threads begin no further part
            pass
        wait(helpers)
    for helper in helpers:
        helper.result()
    return [results[number] for number in range(len(parts))]


@functools.cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Return the threads that help the calling one."""
    return ThreadPoolExecutor(max(1, threads - 1), "kip-kernel")


def _processors() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
