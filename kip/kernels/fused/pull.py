"""The vjp of a level of a chunk: rows are computed again, and their cotangents pulled back a few rows behind.

At step t of a plane with C convolutions, row t of the input is read, row t - 1 - c goes through convolution c and its
ReLU, row t - 2 C + 1 + c of the cotangents through the same backward, c from the last to the first, and row t - 2 C
reaches the level's input. A ReLU's forward pass is kept for the 2 C - 1 steps, at most, until then.
"""

from __future__ import annotations

from kip.kernels.fused.backward import Place, fill, pull_last, pull_planes, pull_products, pull_rectify, spread
from kip.kernels.fused.compiled import compiled
from kip.kernels.fused.forward import RING, copy, products, rectify, rectify_first, ring_rows
from kip.kernels.fused.layout import POOL
from kip.kernels.fused.level import clear, clear_margins, clear_zero_rows, shift_above


@compiled
def level_pull(
    level, first, x, x_image, z, z_image, x_values, x_value, z_values, z_value, planes_k, planes_t,
    ring_k, ring_t, row_k, row_t, bars_k, bars_t, back_k, back_t, saved, total_bar, to_x, x_pixels, x_logs,
    to_z, z_pixels, z_logs,
):  # fmt: skip
    """Pull the cotangents of a level's result back to its input and to both images' variances.

    Args:
        level: its `LEVEL` record, as all before `row_t` as for `level_forward`; input planes are read only.
        bars_k: cotangents of the input planes of all levels; the next level's are read, this level's written.
        bars_t: the same of T; None for the NNGP.
        back_k: rings of rows of cotangents of K, one for each convolution, as `ring_k`.
        back_t: the same of T; None for the NNGP.
        saved: `Saved`, with 2 convs - 1 rows for each convolution.
        total_bar: (1, 16), the cotangent of the readout's sum.
        to_x: the first images' `Sums`; this image's begin at `x_pixels` and `x_logs`.
        to_z: the second images' `Sums`; these images' begin at `z_pixels` and `z_logs`.
    """
    height, width, convs, length = level.height, level.width, level.convs, level.width + 1
    positions, kept = height * width, 2 * convs - 1
    clear_zero_rows(ring_k, convs, length)
    clear_zero_rows(back_k, convs, length)
    if bars_t is not None:
        clear_zero_rows(ring_t, convs, length)
        clear_zero_rows(back_t, convs, length)
    for sy in range(-level.rows, level.rows + 1):
        top, bottom = max(0, -sy), min(height, height - sy)
        for sx in range(-level.columns, level.columns + 1):
            left = max(0, -sx)
            count = min(width, width - sx) - left
            plane = level.planes + ((sy + level.rows) * (2 * level.columns + 1) + sx + level.columns) * positions
            if convs == 0:  # a readout alone
                for y in range(top, bottom):
                    if bars_t is not None:
                        clear(bars_k, plane + y * width + left, plane + y * width + left + count)
                        fill(total_bar, count, bars_t, plane + y * width + left)
                    else:
                        fill(total_bar, count, bars_k, plane + y * width + left)
                continue
            clear_margins(ring_k, convs, length, count)
            clear_margins(back_k, convs, length, count)
            if bars_t is not None:
                clear_margins(ring_t, convs, length, count)
                clear_margins(back_t, convs, length, count)
            for step in range(top, bottom + 2 * convs):
                here, partner = step * width + left, (step + sy) * width + left + sx
                if step < bottom:
                    row = step % 3 * length
                    if first:
                        products(x, x_image + here, z, z_image + partner, level.channels, positions, count, ring_k, row)
                    else:
                        copy(planes_k, plane + here, count, ring_k, row)
                        if bars_t is not None:
                            copy(planes_t, plane + here, count, ring_t, row)
                for conv in range(convs):
                    y = step - 1 - conv
                    if y < top or y >= bottom:
                        continue
                    rows = ring_rows(conv, y, top, bottom, length)
                    at_x = x_value + (conv * height + y) * width + left
                    at_z = z_value + (conv * height + y + sy) * width + left + sx
                    weight = level.weight if conv else level.first_weight
                    s = (conv * kept + y % kept) * length
                    out = ((conv + 1) * RING + y % 3) * length
                    _keep(
                        ring_k, ring_t, rows, count, weight, level.bias, x_values, at_x, z_values, at_z, out, saved, s,
                        first and conv == 0, conv == convs - 1,
                    )  # fmt: skip
                for conv in range(convs - 1, -1, -1):
                    y = step - 2 * convs + 1 + conv
                    if y < top or y >= bottom:
                        continue
                    at_x = (conv * height + y) * width + left
                    at_z = (conv * height + y + sy) * width + left + sx
                    x_place, z_place = Place(x_value + at_x, x_logs + at_x), Place(z_value + at_z, z_logs + at_z)
                    s = (conv * kept + y % kept) * length
                    out = (conv * RING + y % 3) * length
                    shared = first and conv == 0
                    if conv < convs - 1:
                        rows = ring_rows(conv + 1, y, top, bottom, length)
                        pull_rectify(
                            back_k, back_t, rows, count, level.weight, shared, saved, s, x_values, x_place,
                            z_values, z_place, back_k, back_t, out, to_x, to_z,
                        )  # fmt: skip
                        continue
                    _bars_of_row(level, y, sy, sx, left, count, bars_k, bars_t, total_bar, row_k, row_t)
                    pull_last(
                        row_k, row_t, 0, count, shared, saved, s, x_values, x_place, z_values, z_place,
                        back_k, back_t, out, to_x, to_z,
                    )  # fmt: skip
                y = step - 2 * convs
                if y < top:
                    continue
                rows = ring_rows(0, y, top, bottom, length)
                here, partner = y * width + left, (y + sy) * width + left + sx
                if first:
                    pull_products(
                        back_k, rows, count, level.first_weight, x, x_image + here, z, z_image + partner,
                        level.channels, positions, to_x, x_pixels + here, to_z, z_pixels + partner,
                    )  # fmt: skip
                else:
                    pull_planes(back_k, rows, count, level.first_weight, bars_k, plane + here)
                    if bars_t is not None:
                        pull_planes(back_t, rows, count, level.first_weight, bars_t, plane + here)


@compiled
def _keep(ring_k, ring_t, rows, count, weight, bias, x, at_x, z, at_z, out, saved, s, first, last):
    """Keep a row of a ReLU's forward pass, and give K' and T' to the next convolution's ring, if there is one."""
    if ring_t is None:
        if last:
            rectify(ring_k, None, rows, count, weight, bias, x, at_x, z, at_z, None, None, 0, saved, s)
        else:
            rectify(ring_k, None, rows, count, weight, bias, x, at_x, z, at_z, ring_k, None, out, saved, s)
    elif first and last:
        rectify_first(ring_k, rows, count, weight, bias, x, at_x, z, at_z, None, None, 0, saved, s)
    elif first:
        rectify_first(ring_k, rows, count, weight, bias, x, at_x, z, at_z, ring_k, ring_t, out, saved, s)
    elif last:
        rectify(ring_k, ring_t, rows, count, weight, bias, x, at_x, z, at_z, None, None, 0, saved, s)
    else:
        rectify(ring_k, ring_t, rows, count, weight, bias, x, at_x, z, at_z, ring_k, ring_t, out, saved, s)


@compiled
def _bars_of_row(level, y, sy, sx, left, count, bars_k, bars_t, total_bar, row_k, row_t):
    """Write the cotangents of the last ReLU's row, from the next level's planes or the readout."""
    if level.end == POOL:
        half, above = level.width // 2, level.height // 2 * (level.width // 2)
        whole = min(count, 2 * half - left - max(sx, 0))
        up = shift_above(level, y, sy)
        if up < 0:
            whole = 0
        row = level.up_planes + up * (2 * level.up_columns + 1) * above + (y >> 1) * half
        spread(bars_k, row, above, whole, left, sx, level.up_columns, row_k)
        clear(row_k, whole, count)
        if bars_t is not None:
            spread(bars_t, row, above, whole, left, sx, level.up_columns, row_t)
            clear(row_t, whole, count)
    elif bars_t is not None:
        clear(row_k, 0, count)
        fill(total_bar, count, row_t, 0)
    else:
        fill(total_bar, count, row_k, 0)
