"""A level of a chunk: every shift's plane, row by row through convolutions and ReLUs to what ends them."""

from __future__ import annotations

from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.forward import RING, copy, pool, products, read_out, rectify, rectify_first, ring_rows
from kip.kernels.fused.lanes import put, zeros
from kip.kernels.fused.layout import POOL


@compiled
def clear(array, start, stop):
    """Write zeros."""
    zero = zeros(array)
    for i in range(start, stop):
        put(array, i, zero)


@compiled
def clear_zero_rows(ring, rings, length):
    """Write the rows of zeros of rings, which levels of another width use otherwise."""
    for i in range(rings):
        clear(ring, (i * RING + 3) * length, (i * RING + 4) * length)


@compiled
def clear_margins(ring, rings, length, count):
    """Write the zeros behind the rows of rings."""
    zero = zeros(ring)
    for i in range(rings):
        for row in range(RING):
            put(ring, (i * RING + row) * length + count, zero)


@inlined
def shift_above(level, y, sy):
    """Return which shift along y of the next level a row is pooled to, from 0; -1 if to none that is needed."""
    even = level.height // 2 * 2
    up = ((y + sy) >> 1) - (y >> 1) + level.up_rows
    return -1 if y >= even or y + sy >= even or up > 2 * level.up_rows else max(up, -1)


@compiled
def level_forward(
    level, first, x, x_image, z, z_image, x_values, x_value, z_values, z_value,
    planes_k, planes_t, ring_k, ring_t, row_k, row_t, total,
):  # fmt: skip
    """Compute a level's result: the input planes of the next level, or the sum over the readout.

    Args:
        level: its `LEVEL` record.
        first: whether it is the first, whose input is the images.
        x: pixels of the first images, from `x_image` on; (n,) one image for all lanes, or (n, 16).
        z: pixels of the second images, (n, 16).
        x_values: the first images' `Variances`; this image's begin at `x_value`.
        z_values: the second images' `Variances`; these images' begin at `z_value`.
        planes_k: input planes of all levels, K; the next level's are written.
        planes_t: input planes of all levels, T; None for the NNGP, as `ring_t` and `row_t`.
        ring_k: rings of rows, one a convolution and one more, of level.width + 1 vectors a row; the fourth row of
            each.
        row_k: one row.
        total: (1, 16), to which the readout adds T, or K for the NNGP.
    """
    height, width, convs, length = level.height, level.width, level.convs, level.width + 1
    positions = height * width
    above = (height // 2) * (width // 2)
    size = (2 * level.up_rows + 1) * (2 * level.up_columns + 1) * above if level.end == POOL else 0
    clear(planes_k, level.up_planes, level.up_planes + size)
    clear_zero_rows(ring_k, convs, length)
    if ring_t is not None:
        clear(planes_t, level.up_planes, level.up_planes + size)
        clear_zero_rows(ring_t, convs, length)
    for sy in range(-level.rows, level.rows + 1):
        top, bottom = max(0, -sy), min(height, height - sy)
        for sx in range(-level.columns, level.columns + 1):
            left = max(0, -sx)
            count = min(width, width - sx) - left
            plane = level.planes + ((sy + level.rows) * (2 * level.columns + 1) + sx + level.columns) * positions
            clear_margins(ring_k, convs, length, count)
            if ring_t is not None:
                clear_margins(ring_t, convs, length, count)
            for step in range(top, bottom + convs):
                if step < bottom:
                    row = step % 3 * length
                    if first:
                        here, partner = step * width + left, (step + sy) * width + left + sx
                        products(x, x_image + here, z, z_image + partner, level.channels, positions, count, ring_k, row)
                    else:
                        copy(planes_k, plane + step * width + left, count, ring_k, row)
                        if ring_t is not None:
                            copy(planes_t, plane + step * width + left, count, ring_t, row)
                for conv in range(convs):
                    y = step - 1 - conv
                    if y < top or y >= bottom:
                        continue
                    last = conv == convs - 1
                    if last and level.end == POOL and shift_above(level, y, sy) < 0:
                        continue
                    rows = ring_rows(conv, y, top, bottom, length)
                    x_row = x_value + (conv * height + y) * width + left
                    z_row = z_value + (conv * height + y + sy) * width + left + sx
                    weight = level.weight if conv else level.first_weight
                    out = 0 if last else ((conv + 1) * RING + y % 3) * length
                    out_k = row_k if last else ring_k
                    if ring_t is not None:
                        out_t = row_t if last else ring_t
                        if first and conv == 0:
                            rectify_first(
                                ring_k, rows, count, weight, level.bias, x_values, x_row, z_values, z_row,
                                out_k, out_t, out, None, 0,
                            )  # fmt: skip
                        else:
                            rectify(
                                ring_k, ring_t, rows, count, weight, level.bias, x_values, x_row, z_values, z_row,
                                out_k, out_t, out, None, 0,
                            )  # fmt: skip
                    else:
                        rectify(
                            ring_k, None, rows, count, weight, level.bias, x_values, x_row, z_values, z_row,
                            out_k, None, out, None, 0,
                        )  # fmt: skip
                y = step - convs
                if y < top:
                    continue
                source = 0 if convs else y % 3 * length
                if level.end == POOL:
                    up = shift_above(level, y, sy)
                    if up < 0:
                        continue
                    half = width // 2
                    out = level.up_planes + up * (2 * level.up_columns + 1) * above + (y >> 1) * half
                    whole = min(count, 2 * half - left - max(sx, 0))
                    pool(row_k, source, whole, left, sx, level.up_columns, planes_k, out, above)
                    if ring_t is not None:
                        pool(row_t, source, whole, left, sx, level.up_columns, planes_t, out, above)
                elif ring_t is not None:
                    read_out(row_t if convs else ring_t, source, count, total)
                else:
                    read_out(row_k if convs else ring_k, source, count, total)
