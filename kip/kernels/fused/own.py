"""The variances of an image at every convolution, and their vjp: what pairs need of each image, once an image.

A convolution and its activation keep the shift 0 on their own: v <- w box(v') + b, where v' = v / 2 after a ReLU. A
pool mixes shifts, and needs the NNGP of the image with itself at as many of them, which the functions of pairs give,
each lane an image with itself.
"""

from __future__ import annotations

from kip.kernels.fused import activations
from kip.kernels.fused.backward import ImageSums
from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.forward import Image, Row, Three, Window, column, copy, products
from kip.kernels.fused.lanes import at, fma, put, zeros
from kip.kernels.fused.level import clear, level_forward
from kip.kernels.fused.pull import level_pull


@inlined
def _rows(y, height, length):
    """Return where rows y - 1, y, y + 1 of a whole plane begin; row `height` is zeros."""
    return Three((y - 1 if y else height) * length, y * length, (y + 1) * length)


@compiled
def _variances_of_row(plane, window, bias, values, out, out_row):
    """Write what pairs need of a row's variances, to a `Row`, and the variances after the activation."""
    before, here = zeros(plane), column(plane, window.rows, 0)
    for p in range(window.positions):
        after = column(plane, window.rows, p + 1)
        v = fma(before + here + after, window.weight, bias)
        before, here = here, after
        put(out, out_row + p, activations.keep(v, values.of, values.start + p))


@compiled
def own_forward(table, own, image, work):
    """Write the variances of sixteen images.

    Args:
        table: the `LEVEL` records of pairs.
        own: the `LEVEL` records of an image with itself.
        image: the images' `Image`, whose variances are written.
        work: `OwnWork`.
    """
    k, spare, spare_2 = work.pairs.k, work.spare, work.spare_2
    for i in range(len(table)):
        level = table[i]
        height, width, length = level.height, level.width, level.width + 1
        if level.convs == 0:
            continue
        clear(spare, 0, (height + 1) * length)
        clear(spare_2, 0, (height + 1) * length)
        for y in range(height):
            if i == 0:
                here = Row(image.pixels, image.pixel + y * width)
                products(here, here, level.channels, height * width, width, spare, y * length)
            else:
                copy(k.planes, _centre(own[i - 1]) + y * width, width, spare, y * length)
        for conv in range(level.convs):
            source, out = (spare_2, spare) if conv % 2 else (spare, spare_2)
            weight = level.weight if conv else level.first_weight
            start = image.value + level.values + conv * height * width
            for y in range(height):
                _variances_of_row(
                    source,
                    Window(_rows(y, height, length), width, weight),
                    level.bias,
                    Row(image.values, start + y * width),
                    out,
                    y * length,
                )
        if i < len(own):
            at_level = Image(image.pixels, image.pixel, image.values, image.value + own[i].values)
            level_forward(own[i], i == 0, at_level, at_level, k, None, work.pairs.total)


@inlined
def _centre(level):
    """Return where the plane of shift 0 begins among the next level's input planes."""
    positions = (level.height // 2) * (level.width // 2)
    return level.up_planes + (level.up_rows * (2 * level.up_columns + 1) + level.up_columns) * positions


@compiled
def _pull_variances_of_row(plane, window, logs, log, values, out, out_row):
    """Write dL/dv by the cotangent of log q and by that of the variances at the next convolution.

    Args:
        plane: cotangents of the next convolution's variances.
        window: the next convolution's.
        logs: cotangents of log q, from `log` on.
        values: `Row` of the variances.
        out: where dL/dv goes, from `out_row` on.
    """
    before, here = zeros(plane), column(plane, window.rows, 0)
    for p in range(window.positions):
        after = column(plane, window.rows, p + 1)
        of_log, of_next = activations.rates(values.of, values.start + p)
        bar = at(logs, log + p) * of_log
        put(out, out_row + p, fma((before + here + after) * of_next, window.weight, bar))
        before, here = here, after


@compiled
def _add_row(plane, window, out, out_row):
    """Add the window's sums, times its weight, to a row."""
    before, here = zeros(plane), column(plane, window.rows, 0)
    for p in range(window.positions):
        after = column(plane, window.rows, p + 1)
        put(out, out_row + p, fma(before + here + after, window.weight, at(out, out_row + p)))
        before, here = here, after


@compiled
def _add_to_pixels(plane, window, pixels, channels, stride, out, out_row):
    """Add to the cotangents of pixels x, a `Row`, what a row's sums over channels of x^2 get."""
    before, here = zeros(plane), column(plane, window.rows, 0)
    for p in range(window.positions):
        after = column(plane, window.rows, p + 1)
        bar = (before + here + after) * (2.0 * window.weight)
        before, here = here, after
        for c in range(channels):
            i = out_row + c * stride + p
            put(out, i, fma(bar, at(pixels.of, pixels.start + c * stride + p), at(out, i)))


@compiled
def own_pull(table, own, image, work, back, to):
    """Add to the cotangents of sixteen images' pixels what their variances get, and what those of lower levels get.

    Args:
        table: this and all before `back` as for `own_forward`, which has just run for the same images.
        own: the `LEVEL` records of an image with itself.
        image: the images' `Image`.
        work: `OwnWork`.
        back: `OwnBackWork`, whose planes are zeros.
        to: the images' `ImageSums`; what is there of log q is pulled back.
    """
    spare, spare_2 = work.spare, work.spare_2
    for i in range(len(table) - 1, -1, -1):
        level = table[i]
        height, width, length, positions = level.height, level.width, level.width + 1, level.height * level.width
        if level.convs == 0:
            continue
        if i < len(own):
            at_level = Image(image.pixels, image.pixel, image.values, image.value + level.values)
            to_level = ImageSums(to.sums, to.pixel, to.log + level.values)
            level_pull(own[i], i == 0, at_level, at_level, work.pairs.k, None, back.pairs, to_level, to_level)
        clear(spare, 0, (height + 1) * length)
        clear(spare_2, 0, (height + 1) * length)
        for conv in range(level.convs - 1, -1, -1):
            above, out = (spare, spare_2) if conv % 2 else (spare_2, spare)
            start = level.values + conv * positions
            for y in range(height):
                _pull_variances_of_row(
                    above,
                    Window(_rows(y, height, length), width, level.weight),
                    to.sums.logs,
                    to.log + start + y * width,
                    Row(image.values, image.value + start + y * width),
                    out,
                    y * length,
                )
        for y in range(height):
            window = Window(_rows(y, height, length), width, level.first_weight)
            if i == 0:
                _add_to_pixels(
                    spare,
                    window,
                    Row(image.pixels, image.pixel + y * width),
                    level.channels,
                    positions,
                    to.sums.pixels,
                    to.pixel + y * width,
                )
            else:
                _add_row(spare, window, back.pairs.k.planes, _centre(own[i - 1]) + y * width)
