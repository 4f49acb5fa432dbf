"""The vjp of a level of a chunk: rows are computed again, and their cotangents pulled back a few rows behind.

At step t of a plane with C convolutions, row t of the input is read, row t - 1 - c goes through convolution c and its
activation, row t - 2 C + 1 + c of the cotangents through the same backward, c from the last to the first, and row
t - 2 C reaches the level's input. An activation's forward pass is kept for the 2 C - 1 steps, at most, until then.
"""

from __future__ import annotations

from kip.kernels.fused.backward import (
    Activated,
    ImageSums,
    fill,
    pull_activation,
    pull_last,
    pull_planes,
    pull_products,
    spread,
)
from kip.kernels.fused.compiled import compiled
from kip.kernels.fused.forward import RING, Row, Window, activate, copy, products, ring_rows
from kip.kernels.fused.layout import POOL
from kip.kernels.fused.level import clear, clear_margins, clear_zero_rows, shift_above


@compiled
def level_pull(level, first, x, z, k, t, back, to_x, to_z):
    """Pull the cotangents of a level's result back to its input and to both images' variances.

    Args:
        level: its `LEVEL` record, as all before `back` as for `level_forward`; input planes are read only.
        first: whether it is the first.
        x: `Image` of the first side.
        z: `Image` of the second side.
        k: `Memory` for K.
        t: `Memory` for T; None for the NNGP.
        back: `BackWork`; of its planes, the next level's are read, this level's written.
        to_x: the first side's `ImageSums`, with those of log q at this level.
        to_z: the second side's `ImageSums`, likewise.
    """
    height, width, convs, length = level.height, level.width, level.convs, level.width + 1
    positions, kept = height * width, 2 * convs - 1
    back_k, back_t, saved = back.k, back.t, back.saved
    clear_zero_rows(k.ring, convs, length)
    clear_zero_rows(back_k.ring, convs, length)
    if t is not None:
        clear_zero_rows(t.ring, convs, length)
        clear_zero_rows(back_t.ring, convs, length)
    for sy in range(-level.rows, level.rows + 1):
        top, bottom = max(0, -sy), min(height, height - sy)
        for sx in range(-level.columns, level.columns + 1):
            left = max(0, -sx)
            count = min(width, width - sx) - left
            plane = level.planes + ((sy + level.rows) * (2 * level.columns + 1) + sx + level.columns) * positions
            if convs == 0:  # a readout alone
                for y in range(top, bottom):
                    here = plane + y * width + left
                    if t is not None:
                        clear(back_k.planes, here, here + count)
                        fill(back.total_bar, count, back_t.planes, here)
                    else:
                        fill(back.total_bar, count, back_k.planes, here)
                continue
            clear_margins(k.ring, convs, length, count)
            clear_margins(back_k.ring, convs, length, count)
            if t is not None:
                clear_margins(t.ring, convs, length, count)
                clear_margins(back_t.ring, convs, length, count)
            for step in range(top, bottom + 2 * convs):
                here, partner = step * width + left, (step + sy) * width + left + sx
                if step < bottom:
                    row = step % 3 * length
                    if first:
                        products(
                            Row(x.pixels, x.pixel + here),
                            Row(z.pixels, z.pixel + partner),
                            level.channels,
                            positions,
                            count,
                            k.ring,
                            row,
                        )
                    else:
                        copy(k.planes, plane + here, count, k.ring, row)
                        if t is not None:
                            copy(t.planes, plane + here, count, t.ring, row)
                for conv in range(convs):
                    y = step - 1 - conv
                    if y < top or y >= bottom:
                        continue
                    weight = level.weight if conv else level.first_weight
                    window = Window(ring_rows(conv, y, top, bottom, length), count, weight)
                    x_row = Row(x.values, x.value + (conv * height + y) * width + left)
                    z_row = Row(z.values, z.value + (conv * height + y + sy) * width + left + sx)
                    keep = Row(saved, (conv * kept + y % kept) * length)
                    out, last = ((conv + 1) * RING + y % 3) * length, conv == convs - 1
                    if t is not None:
                        if first and conv == 0:
                            _keep(k.ring, None, window, level.bias, x_row, z_row, t.ring, out, keep, last)
                        else:
                            _keep(k.ring, t.ring, window, level.bias, x_row, z_row, t.ring, out, keep, last)
                    else:
                        _keep(k.ring, None, window, level.bias, x_row, z_row, None, out, keep, last)
                for conv in range(convs - 1, -1, -1):
                    y = step - 2 * convs + 1 + conv
                    if y < top or y >= bottom:
                        continue
                    at_x = (conv * height + y) * width + left
                    at_z = (conv * height + y + sy) * width + left + sx
                    activated = Activated(
                        Row(saved, (conv * kept + y % kept) * length),
                        Row(x.values, x.value + at_x),
                        Row(z.values, z.value + at_z),
                        ImageSums(to_x.sums, to_x.pixel, to_x.log + at_x),
                        ImageSums(to_z.sums, to_z.pixel, to_z.log + at_z),
                        first and conv == 0,
                    )
                    out = (conv * RING + y % 3) * length
                    if conv < convs - 1:
                        window = Window(ring_rows(conv + 1, y, top, bottom, length), count, level.weight)
                        if t is not None:
                            pull_activation(back_k.ring, back_t.ring, window, activated, back_k.ring, back_t.ring, out)
                        else:
                            pull_activation(back_k.ring, None, window, activated, back_k.ring, None, out)
                    elif t is not None:
                        _bars_of_row(level, y, sy, sx, count, back, k.row, t.row)
                        pull_last(k.row, t.row, count, activated, back_k.ring, back_t.ring, out)
                    else:
                        _bars_of_row(level, y, sy, sx, count, back, k.row, None)
                        pull_last(k.row, None, count, activated, back_k.ring, None, out)
                y = step - 2 * convs
                if y < top:
                    continue
                window = Window(ring_rows(0, y, top, bottom, length), count, level.first_weight)
                here, partner = y * width + left, (y + sy) * width + left + sx
                if first:
                    pull_products(
                        back_k.ring,
                        window,
                        Row(x.pixels, x.pixel + here),
                        Row(z.pixels, z.pixel + partner),
                        level.channels,
                        positions,
                        ImageSums(to_x.sums, to_x.pixel + here, to_x.log),
                        ImageSums(to_z.sums, to_z.pixel + partner, to_z.log),
                    )
                else:
                    pull_planes(back_k.ring, window, back_k.planes, plane + here)
                    if t is not None:
                        pull_planes(back_t.ring, window, back_t.planes, plane + here)


@compiled
def _keep(ring_k, ring_t, window, bias, x, z, out_t, out, saved, last):
    """Keep a row of an activation's forward pass, and give K' and T' to the next convolution's ring, if there is one.

    `ring_t` is None where T is K, too; `out_t` is the ring of T, None for the NNGP.
    """
    if last:
        activate(ring_k, ring_t, window, bias, x, z, None, out_t, out, saved)
    else:
        activate(ring_k, ring_t, window, bias, x, z, ring_k, out_t, out, saved)


@compiled
def _bars_of_row(level, y, sy, sx, count, back, row_k, row_t):
    """Write the cotangents of the last activation's row, from the next level's planes or the readout."""
    if level.end == POOL:
        left, half, above = max(0, -sx), level.width // 2, level.height // 2 * (level.width // 2)
        whole = min(count, 2 * half - left - max(sx, 0))
        up = shift_above(level, y, sy)
        if up < 0:
            whole = 0
        row = level.up_planes + up * (2 * level.up_columns + 1) * above + (y >> 1) * half
        spread(back.k.planes, row, above, whole, left, sx, level.up_columns, row_k)
        clear(row_k, whole, count)
        if row_t is not None:
            spread(back.t.planes, row, above, whole, left, sx, level.up_columns, row_t)
            clear(row_t, whole, count)
    elif row_t is not None:
        clear(row_k, 0, count)
        fill(back.total_bar, count, row_t, 0)
    else:
        fill(back.total_bar, count, row_k, 0)
