"""Chunks of pairs through all levels: one first image against a group of sixteen second ones; and groups' variances.

These are the functions that Python calls. Each goes through a run of images and groups, so that a call is worth its
price, and reads and writes its own parts of what it is given; any number run at a time.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kip.kernels.fused.backward import ImageSums, Sums
from kip.kernels.fused.compiled import compiled, entry
from kip.kernels.fused.forward import Image
from kip.kernels.fused.lanes import LANES, at, fma, lane, put
from kip.kernels.fused.level import clear, level_forward
from kip.kernels.fused.own import own_forward, own_pull
from kip.kernels.fused.pull import level_pull
from kip.kernels.fused.work import BackWork


class Side(NamedTuple):
    """Images of one side: their pixels and what is kept of their variances, and how many vectors (or numbers) of either
    an image has.
    """

    pixels: Any
    values: Any
    pixel_count: int
    value_count: int


class Part(NamedTuple):
    """The chunks that a call computes: first images, groups of second ones, and whether only those of j >= i count."""

    first: int
    stop: int
    first_group: int
    stop_group: int
    groups: int
    """The number of groups in the whole block."""
    triangle: bool


class Pull(NamedTuple):
    """The vjp of a part of a block.

    Attributes:
        back: backward memory.
        cotangents: (N groups, 16).
        x_sums: `Sums` of one first image, in which each of them is added up in turn.
        x_pixels: cotangents of the part's first images' pixels, a number each, (images pixel_count,); written.
        x_logs: cotangents of the log q of these images; written.
        z_sums: `Sums` of the part's groups, to which is added.
    """

    back: BackWork
    cotangents: Any
    x_sums: Sums
    x_pixels: Any
    x_logs: Any
    z_sums: Sums


@entry
def pairs(table, weight, bias, work, x, z, part, out, pull):
    """Write the kernel of a part of a block, and pull its cotangents back.

    Args:
        table: the `LEVEL` records of pairs.
        weight: what the sum over the last level is multiplied by.
        bias: what is then added.
        work: forward memory.
        x: the first images' `Side`.
        z: the second images' `Side`.
        part: which chunks.
        out: where the kernel goes, (N groups, 16).
        pull: the `Pull`; None: nothing is pulled back.
    """
    for i in range(part.first, part.stop):
        if pull is not None:
            _clear(pull.x_sums, x)
        for group in range(part.first_group, part.stop_group):
            if part.triangle and (group + 1) * LANES <= i:
                continue
            clear(work.total, 0, 1)
            for n in range(len(table)):
                first, second = _image(x, i, table[n]), _image(z, group, table[n])
                level_forward(table[n], n == 0, first, second, work.k, work.t, work.total)
            put(out, i * part.groups + group, fma(at(work.total, 0), weight, bias))
            if pull is not None:
                put(pull.back.total_bar, 0, at(pull.cotangents, i * part.groups + group) * weight)
                to = group - part.first_group
                for n in range(len(table) - 1, -1, -1):
                    level = table[n]
                    first, second = _image(x, i, level), _image(z, group, level)
                    to_x = ImageSums(pull.x_sums, 0, level.values)
                    to_z = ImageSums(pull.z_sums, to * z.pixel_count, to * z.value_count + level.values)
                    level_pull(level, n == 0, first, second, work.k, work.t, pull.back, to_x, to_z)
        if pull is not None:
            _write_sums(pull.x_sums, x, pull.x_pixels, pull.x_logs, i - part.first)


@compiled
def _image(side, number, level):
    """Return the `Image` of an image (or a group) of a side, with its variances at a level."""
    return Image(side.pixels, number * side.pixel_count, side.values, number * side.value_count + level.values)


@compiled
def _clear(sums, side):
    if sums.wanted:
        clear(sums.pixels, 0, side.pixel_count)
        clear(sums.logs, 0, side.value_count)


@compiled
def _write_sums(sums, side, pixels, logs, image):
    if sums.wanted:
        _sum_lanes(sums.pixels, side.pixel_count, pixels, image * side.pixel_count)
        _sum_lanes(sums.logs, side.value_count, logs, image * side.value_count)


@compiled
def _sum_lanes(source, count, out, start):
    """Write the sum over the sixteen pairs of each vector."""
    for p in range(count):
        vector = at(source, p)
        total = lane(vector, 0)
        for i in range(1, LANES):
            total += lane(vector, i)
        put(out, start + p, total)


@entry
def variances(table, own, work, side, first, stop, back, sums):
    """Write the variances of groups' images to `side.values`, and pull their cotangents back.

    Args:
        work: forward memory.
        first: the first group; the last is before `stop`.
        back: backward memory; None, as `sums`: nothing is pulled back.
        sums: the `Sums` of all groups; what a group's log q have there gives its pixels their part.
    """
    for group in range(first, stop):
        pixel, value = group * side.pixel_count, group * side.value_count
        image = Image(side.pixels, pixel, side.values, value)
        own_forward(table, own, image, work)
        if back is not None:
            clear(back.pairs.k.planes, 0, back.plane_count)
            own_pull(table, own, image, work, back, ImageSums(sums, pixel, value))
