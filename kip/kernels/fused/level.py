"""A level of a chunk: every shift's plane, row by row through convolutions and activations to what ends them."""

from __future__ import annotations

from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.forward import RING, Row, Window, activate, copy, pool, products, read_out, ring_rows
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
def level_forward(level, first, x, z, k, t, total):
    """Compute a level's result: the input planes of the next level, or the sum over the readout.

    Args:
        level: its `LEVEL` record.
        first: whether it is the first, whose input is the images.
        x: `Image` of the first side, with the variances at this level.
        z: `Image` of the second side, likewise.
        k: `Memory` for K; the next level's planes are written.
        t: `Memory` for T; None for the NNGP.
        total: (1, 16), to which the readout adds T, or K for the NNGP.
    """
    height, width, convs, length = level.height, level.width, level.convs, level.width + 1
    positions = height * width
    above = (height // 2) * (width // 2)
    size = (2 * level.up_rows + 1) * (2 * level.up_columns + 1) * above if level.end == POOL else 0
    clear(k.planes, level.up_planes, level.up_planes + size)
    clear_zero_rows(k.ring, convs, length)
    if t is not None:
        clear(t.planes, level.up_planes, level.up_planes + size)
        clear_zero_rows(t.ring, convs, length)
    for sy in range(-level.rows, level.rows + 1):
        top, bottom = max(0, -sy), min(height, height - sy)
        for sx in range(-level.columns, level.columns + 1):
            left = max(0, -sx)
            count = min(width, width - sx) - left
            plane = level.planes + ((sy + level.rows) * (2 * level.columns + 1) + sx + level.columns) * positions
            clear_margins(k.ring, convs, length, count)
            if t is not None:
                clear_margins(t.ring, convs, length, count)
            for step in range(top, bottom + convs):
                if step < bottom:
                    row = step % 3 * length
                    if first:
                        products(
                            Row(x.pixels, x.pixel + step * width + left),
                            Row(z.pixels, z.pixel + (step + sy) * width + left + sx),
                            level.channels,
                            positions,
                            count,
                            k.ring,
                            row,
                        )
                    else:
                        copy(k.planes, plane + step * width + left, count, k.ring, row)
                        if t is not None:
                            copy(t.planes, plane + step * width + left, count, t.ring, row)
                for conv in range(convs):
                    y = step - 1 - conv
                    if y < top or y >= bottom:
                        continue
                    last = conv == convs - 1
                    if last and level.end == POOL and shift_above(level, y, sy) < 0:
                        continue
                    weight = level.weight if conv else level.first_weight
                    window = Window(ring_rows(conv, y, top, bottom, length), count, weight)
                    x_row = Row(x.values, x.value + (conv * height + y) * width + left)
                    z_row = Row(z.values, z.value + (conv * height + y + sy) * width + left + sx)
                    out = 0 if last else ((conv + 1) * RING + y % 3) * length
                    out_k = k.row if last else k.ring
                    if t is not None:
                        out_t = t.row if last else t.ring
                        if first and conv == 0:
                            activate(k.ring, None, window, level.bias, x_row, z_row, out_k, out_t, out, None)
                        else:
                            activate(k.ring, t.ring, window, level.bias, x_row, z_row, out_k, out_t, out, None)
                    else:
                        activate(k.ring, None, window, level.bias, x_row, z_row, out_k, None, out, None)
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
                    pool(k.row, source, whole, left, sx, level.up_columns, k.planes, out, above)
                    if t is not None:
                        pool(t.row, source, whole, left, sx, level.up_columns, t.planes, out, above)
                elif t is not None:
                    read_out(t.row if convs else t.ring, source, count, total)
                else:
                    read_out(k.row if convs else k.ring, source, count, total)
