"""The operations on a row of a plane, backward: each is the transpose of one in `forward.py`.

Cotangents go through rings as values do. A 3x3 window of ones is its own transpose, so that a convolution is pulled
back by the same sums. What belongs to one image is added up in vectors, each lane a pair, over all planes.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.dual import pull_dual, pull_moment
from kip.kernels.fused.forward import column
from kip.kernels.fused.lanes import at, fma, put, zeros


class Sums(NamedTuple):
    """Cotangents of one side's images in vectors, of their pixels and of log v; and whether they are wanted at all."""

    pixels: Any
    logs: Any
    wanted: bool


class Place(NamedTuple):
    """Where a row of one image begins among its variances, and among its sums of cotangents of log v."""

    value: int
    log: int


@inlined
def _add_logs(to_log, to_x, x_place, to_z, z_place, p):
    if to_x.wanted:
        put(to_x.logs, x_place.log + p, at(to_x.logs, x_place.log + p) + to_log)
    if to_z.wanted:
        put(to_z.logs, z_place.log + p, at(to_z.logs, z_place.log + p) + to_log)


@inlined
def _pull_both(bar_k, bar_t, shared, saved, s, x, x_place, z, z_place, out_k, out_t, out, to_x, to_z, p):
    """Pull a position's cotangents of K' and T' back: write those of K and T, and add up those of log v."""
    i, j = x_place.value + p, z_place.value + p
    to_k, to_t, to_log = pull_dual(
        bar_k, bar_t, at(saved.w, s + p), at(saved.slope, s + p), at(saved.t, s + p),
        at(x.root, i) * at(z.root, j), at(x.inverse, i) * at(z.inverse, j),
    )  # fmt: skip
    if shared:
        put(out_k, out + p, to_k + to_t)
    else:
        put(out_k, out + p, to_k)
        put(out_t, out + p, to_t)
    _add_logs(to_log, to_x, x_place, to_z, z_place, p)


@inlined
def _pull_one(bar_k, saved, s, x, x_place, z, z_place, out_k, out, to_x, to_z, p):
    """Pull one vector of cotangents back for the NNGP, which has no T."""
    scale = at(x.root, x_place.value + p) * at(z.root, z_place.value + p)
    to_k, to_log = pull_moment(bar_k, at(saved.w, s + p), at(saved.slope, s + p), scale)
    put(out_k, out + p, to_k)
    _add_logs(to_log, to_x, x_place, to_z, z_place, p)


@compiled
def pull_last(
    bars_k, bars_t, row, count, shared, saved, s, x, x_place, z, z_place, out_k, out_t, out, to_x, to_z
):  # fmt: skip
    """Pull a row of cotangents back through a level's last ReLU.

    Args:
        bars_k: cotangents of K', from `row` on.
        bars_t: cotangents of T'; None for the NNGP.
        count: positions.
        shared: whether T is K, so that the cotangents of both go to `out_k`.
        saved: the `Saved` of the forward pass, from `s` on.
        x: the first image's `Variances`, which are at `x_place`, as are their cotangents; `z` likewise.
        out_k: where the cotangent of K goes, from `out` on.
        out_t: where the cotangent of T goes, from `out` on.
        to_x: the `Sums` of the first images.
        to_z: the `Sums` of the second images.
    """
    for p in range(count):
        if bars_t is not None:
            _pull_both(
                at(bars_k, row + p), at(bars_t, row + p), shared, saved, s, x, x_place, z, z_place,
                out_k, out_t, out, to_x, to_z, p,
            )  # fmt: skip
        else:
            _pull_one(at(bars_k, row + p), saved, s, x, x_place, z, z_place, out_k, out, to_x, to_z, p)


@compiled
def pull_rectify(
    ring_k, ring_t, rows, count, weight, shared, saved, s, x, x_place, z, z_place, out_k, out_t, out, to_x, to_z
):  # fmt: skip
    """Pull a row back through the convolution above and a ReLU: `pull_last` of what the window's three rows give."""
    k_before, k_here = zeros(ring_k), column(ring_k, rows, 0)
    t_before = t_here = k_before
    if ring_t is not None:
        t_here = column(ring_t, rows, 0)
    for p in range(count):
        k_after = column(ring_k, rows, p + 1)
        bar_k = (k_before + k_here + k_after) * weight
        k_before, k_here = k_here, k_after
        if ring_t is not None:
            t_after = column(ring_t, rows, p + 1)
            bar_t = (t_before + t_here + t_after) * weight
            t_before, t_here = t_here, t_after
            _pull_both(
                bar_k, bar_t, shared, saved, s, x, x_place, z, z_place, out_k, out_t, out, to_x, to_z, p
            )  # fmt: skip
        else:
            _pull_one(bar_k, saved, s, x, x_place, z, z_place, out_k, out, to_x, to_z, p)


@compiled
def pull_planes(ring, rows, count, weight, out, out_row):
    """Write the cotangents of a level's input planes: those of its first convolution's input."""
    before, here = zeros(ring), column(ring, rows, 0)
    for p in range(count):
        after = column(ring, rows, p + 1)
        put(out, out_row + p, (before + here + after) * weight)
        before, here = here, after


@compiled
def pull_products(ring, rows, count, weight, x, x_row, z, z_row, channels, stride, to_x, x_sum, to_z, z_sum):
    """Pull a row back through the first convolution and the products: add to the cotangents of both images' pixels."""
    before, here = zeros(ring), column(ring, rows, 0)
    for p in range(count):
        after = column(ring, rows, p + 1)
        bar = (before + here + after) * weight
        before, here = here, after
        for c in range(channels):
            if to_x.wanted:
                i = x_sum + c * stride + p
                put(to_x.pixels, i, fma(bar, at(z, z_row + c * stride + p), at(to_x.pixels, i)))
            if to_z.wanted:
                i = z_sum + c * stride + p
                put(to_z.pixels, i, fma(bar, at(x, x_row + c * stride + p), at(to_z.pixels, i)))


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
