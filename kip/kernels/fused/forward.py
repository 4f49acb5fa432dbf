"""The operations on a row of a plane, forward: products, convolution with ReLU, pooling, readout.

A row is a run of vectors in an array; it is named by the array and the index of its first. Rows that a convolution
reads have a vector of zeros behind them, and lie in rings of four: three rows in turn, and one of zeros that stands for
what is above and below the plane.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.dual import moment_and_slope, versine
from kip.kernels.fused.lanes import at, fma, put, zeros

RING = 4
"""The number of rows of a ring, with the row of zeros."""


class Three(NamedTuple):
    """Where the three rows of a 3x3 window begin."""

    above: int
    here: int
    below: int


class Variances(NamedTuple):
    """The values that are kept of variances v: r, the root of v; (r^2 - v) / 2; and 1 / r, 0 where v = 0. See
    `dual.py`.
    """

    root: Any
    error: Any
    inverse: Any


class Saved(NamedTuple):
    """The values that a ReLU's vjp needs of its forward pass, rows of w, S and T; T is None for the NNGP. See
    `dual.py`.
    """

    w: Any
    slope: Any
    t: Any


@inlined
def ring_rows(ring, y, first, stop, length):
    """Return where rows y - 1, y and y + 1 of a ring begin; rows outside first .. stop - 1 are zeros."""
    above = (y + 2) % 3 if y > first else 3
    below = (y + 1) % 3 if y + 1 < stop else 3
    ring = ring * RING
    return Three((ring + above) * length, (ring + y % 3) * length, (ring + below) * length)


@inlined
def column(array, rows, p):
    """Return the sum over the three rows at position p."""
    return at(array, rows.above + p) + at(array, rows.here + p) + at(array, rows.below + p)


@compiled
def products(x, x_row, z, z_row, channels, stride, count, out, out_row):
    """Write sums over channels of x z; `stride` is from a channel to the next."""
    for p in range(count):
        total = at(x, x_row + p) * at(z, z_row + p)
        for c in range(1, channels):
            total = fma(at(x, x_row + c * stride + p), at(z, z_row + c * stride + p), total)
        put(out, out_row + p, total)


@compiled
def copy(source, row, count, out, out_row):
    """Write a row as it is."""
    for p in range(count):
        put(out, out_row + p, at(source, row + p))


@compiled
def rectify(ring_k, ring_t, rows, count, weight, bias, x, x_row, z, z_row, out_k, out_t, out_row, saved, saved_row):
    """Write K' and T' after a convolution and its ReLU.

    Args:
        ring_k: K before the convolution.
        ring_t: T before the convolution; None for the NNGP.
        rows: where the window's three rows begin.
        count: positions.
        weight: what the sum over the window is multiplied by.
        bias: what is added to it.
        x: variances of the first image; `x_row` is where this row's begin.
        z: variances of the second image; `z_row` is where this row's begin.
        out_k: where K' goes, from `out_row` on; None: K' and T' are not wanted, only what is saved.
        out_t: where T' goes.
        saved: where w, S and T go, from `saved_row` on; None keeps nothing.
    """
    k_before, k_here = zeros(ring_k), column(ring_k, rows, 0)
    t_before = t_here = k_before
    if ring_t is not None:
        t_here = column(ring_t, rows, 0)
    for p in range(count):
        k_after = column(ring_k, rows, p + 1)
        k = fma(k_before + k_here + k_after, weight, bias)
        k_before, k_here = k_here, k_after
        r, r_z = at(x.root, x_row + p), at(z.root, z_row + p)
        u, beyond, w = versine(
            k,
            r,
            at(x.error, x_row + p),
            at(x.inverse, x_row + p),
            r_z,
            at(z.error, z_row + p),
            at(z.inverse, z_row + p),
        )
        moment, slope = moment_and_slope(u, beyond, w)
        k_next = r * r_z * moment
        if out_k is not None:
            put(out_k, out_row + p, k_next)
        if ring_t is not None:
            t_after = column(ring_t, rows, p + 1)
            t = fma(t_before + t_here + t_after, weight, bias)
            t_before, t_here = t_here, t_after
            if out_k is not None:
                put(out_t, out_row + p, fma(t, slope, k_next))
            if saved is not None:
                put(saved.t, saved_row + p, t)
        if saved is not None:
            put(saved.w, saved_row + p, w)
            put(saved.slope, saved_row + p, slope)


@compiled
def rectify_first(ring_k, rows, count, weight, bias, x, x_row, z, z_row, out_k, out_t, out_row, saved, saved_row):
    """Do as `rectify` does, for the images' first convolution, where T = K."""
    k_before, k_here = zeros(ring_k), column(ring_k, rows, 0)
    for p in range(count):
        k_after = column(ring_k, rows, p + 1)
        k = fma(k_before + k_here + k_after, weight, bias)
        k_before, k_here = k_here, k_after
        r, r_z = at(x.root, x_row + p), at(z.root, z_row + p)
        u, beyond, w = versine(
            k,
            r,
            at(x.error, x_row + p),
            at(x.inverse, x_row + p),
            r_z,
            at(z.error, z_row + p),
            at(z.inverse, z_row + p),
        )
        moment, slope = moment_and_slope(u, beyond, w)
        k_next = r * r_z * moment
        if out_k is not None:
            put(out_k, out_row + p, k_next)
            put(out_t, out_row + p, fma(k, slope, k_next))
        if saved is not None:
            put(saved.w, saved_row + p, w)
            put(saved.slope, saved_row + p, slope)
            put(saved.t, saved_row + p, k)


@compiled
def pool(source, row, count, left, shift, radius, out, out_row, stride):
    """Add a row to the planes of the level above, along x; sixteen pairs of positions are added up, not averaged.

    Args:
        source: the row, from `row` on: positions left .. left + count - 1, whose partners are `shift` further.
        radius: the largest shift along x of the level above; larger shifts are dropped.
        out: the planes; `out_row` is where the row in the plane of shift -radius begins.
        stride: from a plane to that of the next shift.
    """
    if shift % 2 == 0:  # both positions of a cell have partners in one cell
        first = out_row + (shift // 2 + radius) * stride + left // 2
        for c in range(count // 2):
            put(out, first + c, at(out, first + c) + (at(source, row + 2 * c) + at(source, row + 2 * c + 1)))
        return
    for parity in range(2):
        up = ((parity + shift) >> 1) + radius
        if up < 0 or up > 2 * radius:
            continue
        start = (left + parity) % 2
        first, row_start = out_row + up * stride + (left + start) // 2, row + start
        for c in range((count - start + 1) // 2):
            put(out, first + c, at(out, first + c) + at(source, row_start + 2 * c))


@compiled
def read_out(source, row, count, out):
    """Add the sum of a row to a single vector."""
    total = zeros(source)
    for p in range(count):
        total = total + at(source, row + p)
    put(out, 0, at(out, 0) + total)
