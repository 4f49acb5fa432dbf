"""The variances of an image at every convolution, and their vjp: what pairs need of each image, once an image.

A convolution and ReLU keep the shift 0 on their own: v <- w box(v / 2) + b. A pool mixes shifts, and needs the NNGP
of the image with itself at as many of them, which the functions of pairs give, each lane an image with itself.
"""

from __future__ import annotations

from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.forward import Three, column, copy, products
from kip.kernels.fused.lanes import at, below, fma, put, sqrt, zeros
from kip.kernels.fused.level import clear, level_forward
from kip.kernels.fused.pull import level_pull


@inlined
def _rows(y, height, length):
    """Return where rows y - 1, y, y + 1 of a whole plane begin; row `height` is zeros."""
    return Three((y - 1 if y else height) * length, y * length, (y + 1) * length)


@compiled
def _variances_of_row(plane, rows, count, weight, bias, values, value, out, out_row):
    """Write a row's r, (r^2 - v) / 2 and 1 / r, and what the ReLU leaves of v, with the rounding that pairs have."""
    before, here = zeros(plane), column(plane, rows, 0)
    for p in range(count):
        after = column(plane, rows, p + 1)
        v = fma(before + here + after, weight, bias)
        before, here = here, after
        root = sqrt(v)
        put(values.root, value + p, root)
        put(values.error, value + p, 0.5 * fma(root, root, -v))
        put(values.inverse, value + p, below(0.0, v, 1.0 / below(0.0, v, root, 1.0), 0.0))
        put(out, out_row + p, root * root * 0.5)


@compiled
def own_forward(table, own, pixels, image, values, value, planes, ring, row, spare, spare_2, total):
    """Write the variances of sixteen images.

    Args:
        table: the `LEVEL` records of pairs.
        own: the `LEVEL` records of an image with itself.
        pixels: (n, 16); these images begin at `image`.
        values: where the `Variances` go, from `value` on.
        planes: input planes of the levels of `own`, and of the one after them.
        ring: `ring_k` of `level_forward`.
        row: `row_k` of `level_forward`.
        spare: a whole plane of rows of width + 1 vectors, and one row more.
        spare_2: a second plane of this kind.
        total: as for `level_forward`.
    """
    for i in range(len(table)):
        level = table[i]
        height, width, length = level.height, level.width, level.width + 1
        if level.convs == 0:
            continue
        clear(spare, 0, (height + 1) * length)
        clear(spare_2, 0, (height + 1) * length)
        for y in range(height):
            if i == 0:
                here = image + y * width
                products(pixels, here, pixels, here, level.channels, height * width, width, spare, y * length)
            else:
                copy(planes, _centre(own[i - 1]) + y * width, width, spare, y * length)
        for conv in range(level.convs):
            source, out = (spare_2, spare) if conv % 2 else (spare, spare_2)
            weight = level.weight if conv else level.first_weight
            start = value + level.values + conv * height * width
            for y in range(height):
                _variances_of_row(
                    source, _rows(y, height, length), width, weight, level.bias, values, start + y * width,
                    out, y * length,
                )  # fmt: skip
        if i < len(own):
            level = own[i]
            at_value = value + level.values
            level_forward(
                level, i == 0, pixels, image, pixels, image, values, at_value, values, at_value,
                planes, None, ring, None, row, None, total,
            )  # fmt: skip


@inlined
def _centre(level):
    """Return where the plane of shift 0 begins among the next level's input planes."""
    positions = (level.height // 2) * (level.width // 2)
    return level.up_planes + (level.up_rows * (2 * level.up_columns + 1) + level.up_columns) * positions


@compiled
def _pull_variances_of_row(plane, rows, count, weight, logs, log, values, value, out, out_row):
    """Write dL/dv by the cotangent of log v and by that of v at the next convolution, whose window's rows are given."""
    before, here = zeros(plane), column(plane, rows, 0)
    for p in range(count):
        after = column(plane, rows, p + 1)
        inverse = at(values.inverse, value + p)
        bar = at(logs, log + p) * (inverse * inverse)
        put(out, out_row + p, fma(before + here + after, weight, bar))
        before, here = here, after


@compiled
def _add_row(plane, rows, count, weight, out, out_row):
    """Add the window's sums, times a weight, to a row."""
    before, here = zeros(plane), column(plane, rows, 0)
    for p in range(count):
        after = column(plane, rows, p + 1)
        put(out, out_row + p, fma(before + here + after, weight, at(out, out_row + p)))
        before, here = here, after


@compiled
def _add_to_pixels(plane, rows, count, weight, pixels, row, channels, stride, out, out_row):
    """Add to the cotangents of pixels x what a row's sums over channels of x^2 get."""
    before, here = zeros(plane), column(plane, rows, 0)
    for p in range(count):
        after = column(plane, rows, p + 1)
        bar = (before + here + after) * (2.0 * weight)
        before, here = here, after
        for c in range(channels):
            i = out_row + c * stride + p
            put(out, i, fma(bar, at(pixels, row + c * stride + p), at(out, i)))


@compiled
def own_pull(
    table, own, pixels, image, values, value, planes, ring, row, spare, spare_2, bars, back, saved, total_bar,
    sums, sum_pixels, sum_logs,
):  # fmt: skip
    """Add to the cotangents of sixteen images' pixels what their variances get, and what those of lower levels get.

    Args:
        table: this and all before `bars` as for `own_forward`, which has just run for the same images.
        bars: cotangents of `planes`, zeros.
        back: `back_k` of `level_pull`.
        saved: as for `level_pull`.
        total_bar: as for `level_pull`.
        sums: the images' `Sums`, theirs from `sum_pixels` and `sum_logs` on; what is there of log v is pulled back.
    """
    for i in range(len(table) - 1, -1, -1):
        level = table[i]
        height, width, length, positions = level.height, level.width, level.width + 1, level.height * level.width
        if level.convs == 0:
            continue
        if i < len(own):
            at_value, at_log = value + level.values, sum_logs + level.values
            level_pull(
                own[i], i == 0, pixels, image, pixels, image, values, at_value, values, at_value, planes, None,
                ring, None, row, None, bars, None, back, None, saved, total_bar,
                sums, sum_pixels, at_log, sums, sum_pixels, at_log,
            )  # fmt: skip
        clear(spare, 0, (height + 1) * length)
        clear(spare_2, 0, (height + 1) * length)
        for conv in range(level.convs - 1, -1, -1):
            above, out = (spare, spare_2) if conv % 2 else (spare_2, spare)
            start = level.values + conv * positions
            for y in range(height):
                # The ReLU before the convolution above halves v.
                _pull_variances_of_row(
                    above, _rows(y, height, length), width, 0.5 * level.weight, sums.logs, sum_logs + start + y * width,
                    values, value + start + y * width, out, y * length,
                )  # fmt: skip
        for y in range(height):
            rows = _rows(y, height, length)
            if i == 0:
                _add_to_pixels(
                    spare, rows, width, level.first_weight, pixels, image + y * width, level.channels, positions,
                    sums.pixels, sum_pixels + y * width,
                )  # fmt: skip
            else:
                _add_row(spare, rows, width, level.first_weight, bars, _centre(own[i - 1]) + y * width)
