"""The position pairs that an architecture's kernel needs: its resolutions, and the radius of the shifts at each.

A pair of images has a covariance for every two positions (p, p'). Convolutions, activations and a readout after a
flatten keep the shift p' - p; only 2x2 pooling mixes it: along an axis,

    out[S, P] = 1/4 (in[2S, 2P] + in[2S, 2P + 1] + in[2S + 1, 2P] + in[2S - 1, 2P + 1]),

so that shifts |S| <= r above a pooling need |s| <= 2 r + 1 below it, and no more. A flatten needs shift 0 only. A
global average pool needs every shift, r = side - 1.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

from kip.kernels.architecture import MYRTLE_BLOCKS, Architecture

End = Literal["pool", "flatten", "mean"]


class Level(NamedTuple):
    """The layers of one resolution: convolutions, each with its activation, and what ends them.

    Attributes:
        height: positions along y.
        width: positions along x.
        convs: how many convolutions, 3x3 with zeros outside the image, each followed by its activation; may be 0.
        end: a 2x2 average `pool` to the next level, or the readout: over equal positions (`flatten`), or over all pairs
            (`mean`).
        rows: the radius of the shifts along y; shifts -rows .. rows are computed.
        columns: the radius of the shifts along x; None means all pairs of columns, which are then laid out as such.
    """

    height: int
    width: int
    convs: int
    end: End
    rows: int
    columns: int | None

    @property
    def shifts(self) -> int:
        """The number of shifts along y, each with a plane."""
        return 2 * self.rows + 1

    @property
    def plane_size(self) -> int:
        """Position pairs in a plane."""
        return self.height * self.width * (self.width if self.columns is None else 2 * self.columns + 1)


def levels(architecture: Architecture, height: int, width: int) -> tuple[Level, ...]:
    """Return the levels of a pair's kernel, from the image up.

    Args:
        architecture: ConvVec, ConvNet, ConvNet3 or Myrtle.
        height: the height of the images in pixels, at least 2 ** architecture.poolings.
        width: the width of the images in pixels, at least the same.
    """
    shape = _shape(architecture)
    last = len(shape) - 1
    everything = shape[-1][1] == "mean"
    rows = (height >> last) - 1 if everything else 0
    columns = (width >> last) - 1 if everything else 0
    radii = [(rows, columns)]
    for _ in range(last):
        rows, columns = 2 * rows + 1, 2 * columns + 1
        radii.insert(0, (rows, columns))
    # A band as wide as the image is cheaper as all pairs, at this level and with it at those above.
    dense = 2 * radii[0][1] + 1 > width
    return tuple(
        Level(height >> i, width >> i, convs, end, rows, None if dense else columns)
        for i, ((convs, end), (rows, columns)) in enumerate(zip(shape, radii, strict=True))
    )


def variance_levels(pair_levels: tuple[Level, ...]) -> tuple[Level, ...]:
    """Return the levels of an image's covariance with itself, as far as its variance K(p, p) is needed.

    The last activation needs shift 0 at its level; below it the radii grow as a pair's do, to half of them.
    """
    top = max(i for i, level in enumerate(pair_levels) if level.convs)
    rows = columns = 0
    below: list[Level] = []
    for level in reversed(pair_levels[:top]):
        rows, columns = 2 * rows + 1, 2 * columns + 1
        below.insert(0, level._replace(rows=rows, columns=columns))
    dense = bool(below) and 2 * columns + 1 > below[0].width
    return tuple(level._replace(columns=None) if dense else level for level in below)


def _shape(architecture: Architecture) -> list[tuple[int, End]]:
    """List (convolutions, end) of each level."""
    depth = architecture.layers
    if architecture.family == "ConvVec":
        return [(depth, "flatten")]
    if architecture.family == "Myrtle":
        first, second, third = MYRTLE_BLOCKS[depth]
        return [(1 + first, "pool"), (second, "pool"), (third, "mean")]
    first = 2 if architecture.family == "ConvNet" else 1
    blocks: list[tuple[int, End]] = [(1, "pool")] * (depth - 1)
    return [(first, "pool"), *blocks, (0, "flatten")]
