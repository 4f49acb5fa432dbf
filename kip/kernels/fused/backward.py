"""The operations on a row of a plane, backward: each is the transpose of one in `forward.py`.

Cotangents go through rings as values do. A 3x3 window of ones is its own transpose, so that a convolution is pulled
back by the same sums. What belongs to one image is added up in vectors, each lane a pair, over all planes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kip.kernels.fused import activations
from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.forward import Row, column
from kip.kernels.fused.lanes import at, fma, put, zeros


class Sums(NamedTuple):
    """Cotangents of one side's images in vectors, of their pixels and of log q; and whether they are wanted at all."""

    pixels: Any
    logs: Any
    wanted: bool


class ImageSums(NamedTuple):
    """The sums of a chunk's images, whose cotangents of pixels begin at `pixel`, those of log q at `log`."""

    sums: Sums
    pixel: int
    log: int


class BackMemory(NamedTuple):
    """A thread's memory for the cotangents of K, or of T.

    Attributes:
        planes: cotangents of the input planes of all levels.
        ring: rings of rows of cotangents, one for each convolution, laid out as those of `Memory`.
    """

    planes: Any
    ring: Any


class Activated(NamedTuple):
    """A row of an activation, as its vjp needs it.

    Attributes:
        saved: `Row` of the `Saved` of the forward pass.
        x: `Row` of the first image's variances.
        z: `Row` of the second images' variances.
        to_x: the first images' `ImageSums`, with `log` that of the row.
        to_z: the second images' `ImageSums`, likewise.
        shared: whether T is K, so that the cotangents of both go where that of K goes.
    """

    saved: Row
    x: Row
    z: Row
    to_x: ImageSums
    to_z: ImageSums
    shared: bool


@inlined
def _add_logs(to_log, to, p):
    if to.sums.wanted:
        put(to.sums.logs, to.log + p, at(to.sums.logs, to.log + p) + to_log)


@inlined
def _pull_both(bar_k, bar_t, row, out_k, out_t, out, p):
    """Pull a position's cotangents of K' and T' back: write those of K and T, and add up those of log q."""
    saved, s = row.saved.of, row.saved.start + p
    to_k, to_t, to_log = activations.pull(
        bar_k,
        bar_t,
        at(saved.point, s),
        at(saved.slope, s),
        at(saved.t, s),
        row.x.of,
        row.x.start + p,
        row.z.of,
        row.z.start + p,
    )
    if row.shared:
        put(out_k, out + p, to_k + to_t)
    else:
        put(out_k, out + p, to_k)
        put(out_t, out + p, to_t)
    _add_logs(to_log, row.to_x, p)
    _add_logs(to_log, row.to_z, p)


@inlined
def _pull_one(bar_k, row, out_k, out, p):
    """Pull one vector of cotangents back for the NNGP, which has no T."""
    saved, s = row.saved.of, row.saved.start + p
    to_k, to_log = activations.pull_nngp(
        bar_k, at(saved.point, s), at(saved.slope, s), row.x.of, row.x.start + p, row.z.of, row.z.start + p
    )
    put(out_k, out + p, to_k)
    _add_logs(to_log, row.to_x, p)
    _add_logs(to_log, row.to_z, p)


@compiled
def pull_last(bars_k, bars_t, count, row, out_k, out_t, out):
    """Pull a row of cotangents back through a level's last activation.

    Args:
        bars_k: cotangents of K'.
        bars_t: cotangents of T'; None for the NNGP.
        count: positions.
        row: the activation's `Activated`.
        out_k: where the cotangent of K goes, from `out` on.
        out_t: where the cotangent of T goes, from `out` on.
    """
    for p in range(count):
        if bars_t is not None:
            _pull_both(at(bars_k, p), at(bars_t, p), row, out_k, out_t, out, p)
        else:
            _pull_one(at(bars_k, p), row, out_k, out, p)


@compiled
def pull_activation(ring_k, ring_t, window, row, out_k, out_t, out):
    """Pull a row back through the convolution above and an activation: `pull_last` of what the window's rows give."""
    rows, weight = window.rows, window.weight
    k_before, k_here = zeros(ring_k), column(ring_k, rows, 0)
    t_before = t_here = k_before
    if ring_t is not None:
        t_here = column(ring_t, rows, 0)
    for p in range(window.positions):
        k_after = column(ring_k, rows, p + 1)
        bar_k = (k_before + k_here + k_after) * weight
        k_before, k_here = k_here, k_after
        if ring_t is not None:
            t_after = column(ring_t, rows, p + 1)
            bar_t = (t_before + t_here + t_after) * weight
            t_before, t_here = t_here, t_after
            _pull_both(bar_k, bar_t, row, out_k, out_t, out, p)
        else:
            _pull_one(bar_k, row, out_k, out, p)


@compiled
def pull_planes(ring, window, out, out_row):
    """Write the cotangents of a level's input planes: those of its first convolution's input."""
    before, here = zeros(ring), column(ring, window.rows, 0)
    for p in range(window.positions):
        after = column(ring, window.rows, p + 1)
        put(out, out_row + p, (before + here + after) * window.weight)
        before, here = here, after


@compiled
def pull_products(ring, window, x, z, channels, stride, to_x, to_z):
    """Pull a row back through the first convolution and the products: add to the cotangents of both images' pixels.

    Args:
        ring: cotangents of K before the convolution.
        window: the convolution's.
        x: `Row` of the first image's pixels.
        z: `Row` of the second images' pixels.
        channels: the images' channels.
        stride: from a channel to the next.
        to_x: the first images' `ImageSums`, with `pixel` that of the row.
        to_z: the second images' `ImageSums`, likewise.
    """
    before, here = zeros(ring), column(ring, window.rows, 0)
    for p in range(window.positions):
        after = column(ring, window.rows, p + 1)
        bar = (before + here + after) * window.weight
        before, here = here, after
        for c in range(channels):
            if to_x.sums.wanted:
                i = to_x.pixel + c * stride + p
                put(to_x.sums.pixels, i, fma(bar, at(z.of, z.start + c * stride + p), at(to_x.sums.pixels, i)))
            if to_z.sums.wanted:
                i = to_z.pixel + c * stride + p
                put(to_z.sums.pixels, i, fma(bar, at(x.of, x.start + c * stride + p), at(to_z.sums.pixels, i)))


@compiled
def spread(bars, row, stride, count, left, shift, radius, out):
    """Write the cotangents of a row that `pool` has added to the planes above; see there."""
    zero = zeros(bars)
    if shift % 2 == 0:
        first = row + (shift // 2 + radius) * stride + left // 2
        for c in range(count // 2):
            bar = at(bars, first + c)
            put(out, 2 * c, bar)
            put(out, 2 * c + 1, bar)
        return
    for parity in range(2):
        up = ((parity + shift) >> 1) + radius
        inside = up >= 0 and up <= 2 * radius
        start = (left + parity) % 2
        first = row + up * stride + (left + start) // 2
        for c in range((count - start + 1) // 2):
            put(out, start + 2 * c, at(bars, first + c) if inside else zero)


@compiled
def fill(vector, count, out, start):
    """Write a vector, the only one of an array, to a row."""
    value = at(vector, 0)
    for p in range(count):
        put(out, start + p, value)
