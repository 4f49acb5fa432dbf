"""The operations on a row of a plane, forward: products, convolution with its activation, pooling, readout.

A row is a run of vectors in an array; it is named by the array and the index of its first. Rows that a convolution
reads have a vector of zeros behind them, and lie in rings of four: three rows in turn, and one of zeros that stands for
what is above and below the plane.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from kip.kernels.fused import activations
from kip.kernels.fused.compiled import compiled, inlined
from kip.kernels.fused.lanes import at, fma, put, zeros

RING = 4
"""The number of rows of a ring, with the row of zeros."""


class Three(NamedTuple):
    """The beginnings of the three rows of a 3x3 window."""

    above: int
    here: int
    below: int


class Window(NamedTuple):
    """A row of positions that a 3x3 window goes along: its three rows, the positions, and the factor of its sums."""

    rows: Three
    positions: int
    weight: float


class Saved(NamedTuple):
    """The values that an activation's vjp needs of its forward pass, rows of its point, S and T; T is None for the
    NNGP. See `dual.py`.
    """

    point: Any
    slope: Any
    t: Any


class Row(NamedTuple):
    """A row: the arrays that it lies in, variances or a `Saved`, and the index of its first vector in each."""

    of: Any
    start: int


class Image(NamedTuple):
    """Images of a chunk: their pixels, from `pixel` on, and what is kept of their variances, from `value` on.

    The first side of a chunk is one image, whose arrays are (n,), a number for all lanes; the second sixteen, (n, 16).
    """

    pixels: Any
    pixel: int
    values: Any
    value: int


class Memory(NamedTuple):
    """A thread's memory for K, or for T.

    Attributes:
        planes: the input planes of all levels.
        ring: rings of rows, one a convolution and one more, of level.width + 1 vectors a row; the fourth row of each.
        row: one row.
    """

    planes: Any
    ring: Any
    row: Any


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
def products(x, z, channels, stride, count, out, out_row):
    """Write sums over channels of x z, of two `Row`s of pixels; `stride` is from a channel to the next."""
    for p in range(count):
        total = at(x.of, x.start + p) * at(z.of, z.start + p)
        for c in range(1, channels):
            total = fma(at(x.of, x.start + c * stride + p), at(z.of, z.start + c * stride + p), total)
        put(out, out_row + p, total)


@compiled
def copy(source, row, count, out, out_row):
    """Write a row as it is."""
    for p in range(count):
        put(out, out_row + p, at(source, row + p))


@compiled
def activate(ring_k, ring_t, window, bias, x, z, out_k, out_t, out, saved):
    """Write K' and T' after a convolution and its activation.

    Args:
        ring_k: K before the convolution.
        ring_t: T before the convolution; None where T is K, at the images' first convolution, and for the NNGP.
        window: the convolution's.
        bias: what is added to its sums.
        x: `Row` of the first image's variances.
        z: `Row` of the second images' variances.
        out_k: where K' goes, from `out` on; None: K' and T' are not wanted, only what is saved.
        out_t: where T' goes, or would go; None for the NNGP.
        saved: `Row` of the `Saved` that is kept; None keeps nothing.
    """
    rows = window.rows
    k_before, k_here = zeros(ring_k), column(ring_k, rows, 0)
    t_before = t_here = k_before
    if ring_t is not None:
        t_here = column(ring_t, rows, 0)
    for p in range(window.positions):
        k_after = column(ring_k, rows, p + 1)
        k = fma(k_before + k_here + k_after, window.weight, bias)
        k_before, k_here = k_here, k_after
        point, k_next, slope = activations.forward(k, x.of, x.start + p, z.of, z.start + p)
        if out_k is not None:
            put(out_k, out + p, k_next)
        if out_t is not None:
            t = k
            if ring_t is not None:
                t_after = column(ring_t, rows, p + 1)
                t = fma(t_before + t_here + t_after, window.weight, bias)
                t_before, t_here = t_here, t_after
            if out_k is not None:
                put(out_t, out + p, fma(t, slope, k_next))
            if saved is not None:
                put(saved.of.t, saved.start + p, t)
        if saved is not None:
            put(saved.of.point, saved.start + p, point)
            put(saved.of.slope, saved.start + p, slope)


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
