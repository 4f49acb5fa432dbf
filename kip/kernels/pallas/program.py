"""The place of a program of a layer's kernel, and how it reads there: its shift, strip, rows, and their values.

A program has one first image, as many second ones as it has lanes, one shift along y, and a strip of columns of the
image. Planes are arrays (shifts along y, h, shifts along x, w, P) of P = N M pairs, pair i M + j of first image i and
second image j. Positions whose partner lies outside the image hold anything; whoever reads them asks `inside`.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from kip.kernels.engine.dual import Variance
from kip.kernels.engine.pairs import Network
from kip.kernels.levels import Level

STRIPS = (2, 4)
"""Columns that a strip may have. They are even, so that a pool's cells are not cut. Eight columns would compute a tenth
less twice, and take 160 to 180 registers where four take 128: fewer threads would hide the time of memory."""
NARROW = 2
"""Columns of a strip of images with one shift along x, where the compiler loads a whole row ahead: with four columns it
takes 168 registers, with two 96."""


class Layer(NamedTuple):
    """The work of a kernel.

    Attributes:
        level: its level, of which `columns` is not None.
        network: the network's constants.
        convs: how many convolutions, each with its activation.
        pixels: whether it begins with the images; otherwise with planes.
        own: whether the pairs are of each image with itself, so that P = N.
        end: `planes`; `pool`, their 2-sums along x; or `covariances`, those before the (only) activation.
    """

    level: Level
    network: Network
    convs: int
    pixels: bool
    own: bool
    end: str

    @property
    def columns(self) -> int:
        """The radius of the shifts along x."""
        assert self.level.columns is not None
        return self.level.columns

    @property
    def shifts(self) -> int:
        """The number of shifts along x."""
        return 2 * self.columns + 1

    @property
    def strip(self) -> int:
        """The columns of a strip: those that cover the image with the fewest, their neighbours counted."""
        if self.pixels and not self.columns:
            return NARROW
        return min(STRIPS, key=lambda size: (-(-self.level.width // size) * (size + 2), -size))

    @property
    def strips(self) -> int:
        """The number of strips."""
        return -(-self.level.width // self.strip)

    @property
    def parts(self) -> int:
        """The number of K and T that go in: 1 where T is K, or is not wanted."""
        return 1 if self.pixels or not self.network.ntk else 2


class Side(NamedTuple):
    """One side's images, as a layer needs them.

    Attributes:
        pixels: (h, w, C, N); None where planes go in.
        variances: at each convolution: their values, then their inverse roots (`Variance`), (2, convs, h, w, N).
    """

    pixels: Any
    variances: Any


Row = list[list[Array]]
"""A row of a strip: for K, or for K and T, a vector of pairs for each column."""


class Program:
    """A program's place: its shift along y, the rows with partners in the image, and the first column of its strip."""

    def __init__(
        self, layer: Layer, edge: int, lanes: int, channels: int, state: Sequence[Any], first: Side, second: Side
    ):
        self.layer, self.edge, self.channels = layer, edge, channels
        self.state, self.first, self.second = state, first, second
        level = layer.level
        place = pl.program_id(2)
        self.shift, self.left = place // layer.strips, place % layer.strips * layer.strip
        self.along_y = self.shift - level.rows
        self.top, self.bottom = jnp.maximum(0, -self.along_y), jnp.minimum(level.height, level.height - self.along_y)
        self.zero = jnp.zeros((lanes,), jnp.float32)

    def over_shifts(self, plane: Callable[[Plane], None]) -> None:
        """Go through the shifts along x at which the strip has partners in the image."""
        columns, width = self.layer.columns, self.layer.level.width
        first = jnp.maximum(0, columns - self.left - (self.layer.strip - 1))
        stop = jnp.minimum(self.layer.shifts, columns + width - self.left)
        jax.lax.fori_loop(first, stop, lambda s, _: plane(Plane(self, s)), None)

    def over_rows(self, row: Callable[[Any], None]) -> None:
        """Go through all rows of the image."""
        jax.lax.fori_loop(0, self.layer.level.height, lambda y, _: row(y), None)

    def always_inside(self, j: int, width: int) -> bool:
        """Return whether column j of every strip is one of the first so many of the image."""
        return j >= 0 and (self.layer.strips - 1) * self.layer.strip + j < width

    def each_column(self, put: Callable[[int], None], step: int = 1) -> None:
        """Call a function for the columns of the strip, or for every second one with a column to its right."""
        width = self.layer.level.width // step * step
        for j in range(0, self.layer.strip, step):
            if self.always_inside(j, width):
                put(j)
            else:
                pl.when(self.left + j < width)(functools.partial(put, j))

    def no_rows(self, columns: int, parts: int) -> tuple[Row, Row]:
        """Return the sums of two rows and of one, for the first row's window: see `_window`."""
        row = [[self.zero] * columns for _ in range(parts)]
        return row, row

    def covariances(self, box: Row) -> Row:
        """Return w / 9 box + b."""
        network = self.layer.network
        return [[network.w * value + network.b for value in part] for part in box]


class Plane:
    """The reader of a program for a shift s along x: rows t or y, and columns j from its strip's first."""

    def __init__(self, program: Program, s: Any):
        self._of, self.s = program, s
        layer = program.layer
        width = layer.level.width
        self._inside, self._pooled = (self._columns_inside(of) for of in (width, width // 2 * 2))

    def _columns_inside(self, width: int) -> Array:
        """Return a number with a bit for each column of the strip and its margins: 1 where both positions are inside.

        One register holds it for as long as the shift lasts, in place of one for each column.
        """
        layer, left, edge = self._of.layer, self._of.left, self._of.edge
        along_x = self.s - layer.columns
        first, stop = jnp.maximum(0, -along_x), jnp.minimum(width, width - along_x)
        bits = (
            jnp.where(between(left + j, first, stop), jnp.int32(1 << j + edge), jnp.int32(0))
            for j in range(-edge, layer.strip + edge)
        )
        return functools.reduce(operator.or_, bits)

    def _is_set(self, row: Array, columns: Array, j: int) -> Array:
        """Return whether a row is inside, and column j too."""
        return jnp.where(row, columns, jnp.int32(0)) & jnp.int32(1 << j + self._of.edge) > jnp.int32(0)

    def inside(self, y: Any, j: int) -> Array:
        """Return whether a position and its partner lie in the image."""
        return self._is_set(between(y, self._of.top, self._of.bottom), self._inside, j)

    def places(self, y: Any) -> Any:
        """Return where the strip's row y begins in planes."""
        layer = self._of.layer
        return (y * layer.shifts + self.s) * layer.level.width + self._of.left

    def read(self, plane: Any, y: Any, j: int) -> Array:
        """Return a plane's values, which are zero outside the image."""
        return _loaded(plane, self.places(y) + j, self.inside(y, j))

    def read_pooled(self, planes: Any, y: Any, j: int) -> Array:
        """Return the values that a position is pooled to, of planes (up + 2, h / 2, up + 2, w / 2).

        They are zero too where the position or its partner lies in an odd last row or column, which no pool takes.
        """
        level, shift = self._of.layer.level, self._of.shift
        half_rows, half_columns = level.height // 2, level.width // 2
        up = jnp.where(y & 1 == 0, (shift + 1) // 2, shift // 2 + 1)
        row = up * half_rows + (y >> 1)
        place = (row * (self._of.layer.columns + 2) + pooled_to(self.s)[j % 2]) * half_columns
        bottom = jnp.minimum(2 * half_rows, 2 * half_rows - self._of.along_y)
        inside = self._is_set(between(y, self._of.top, bottom), self._pooled, j)
        return _loaded(planes, place + self._of.left // 2 + j // 2, inside)

    def row(self, t: Any) -> Row:
        """Return row t of what goes in, of the strip and its margins; it is zero outside the image."""
        columns = range(-self._of.edge, self._of.layer.strip + self._of.edge)
        if self._of.state:
            return [[self.read(part, t, j) for j in columns] for part in self._of.state]
        x, z = self.pixels_of_first(t), self.pixels_of_second(t)
        return [[_mean_product(x(j), z(j)) for j in columns]]

    def pixels_of_first(self, t: Any) -> Callable[[int], list[Array]]:
        """Return the channels of the first image's pixels, a function of their column."""
        return self._pixels(self._of.first.pixels, self._first_places(t))

    def pixels_of_second(self, t: Any) -> Callable[[int], list[Array]]:
        """Return the channels of the partners' pixels in the second images, likewise."""
        return self._pixels(self._of.second.pixels, self._second_places(t))

    def _pixels(self, pixels: Any, places: Any) -> Callable[[int], list[Array]]:
        channels = self._of.channels
        begin = places * channels
        return lambda j: [pixels[begin + (j * channels + c)] for c in range(channels)]

    def variances(self, conv: int, y: Any) -> Callable[[int], tuple[Variance, Variance]]:
        """Return the variances of a row's positions and of their partners, a function of their column."""
        layer = self._of.layer
        rows = layer.level.height + 2 * self._of.edge

        def of(variances: Any, places: Any, width: int) -> Callable[[int], Variance]:
            return lambda j: Variance(
                *(variances[places + ((part * layer.convs + conv) * rows * width + j)] for part in range(2))
            )

        first = of(self._of.first.variances, self._first_places(y), self._width(0))
        second = of(self._of.second.variances, self._second_places(y), self._width(layer.columns))
        return lambda j: (first(j), second(j))

    def _width(self, columns: int) -> int:
        """Return the columns of an image with its margins."""
        return self._of.layer.strips * self._of.layer.strip + 2 * (self._of.edge + columns)

    def _first_places(self, y: Any) -> Any:
        edge = self._of.edge
        return (y + edge) * self._width(0) + self._of.left + edge

    def _second_places(self, y: Any) -> Any:
        # Shift s of the margin's width and along_x of the image's are the same place.
        edge = self._of.edge
        return (y + self._of.along_y + edge) * self._width(self._of.layer.columns) + self._of.left + self.s + edge


def _loaded(array: Any, place: Any, inside: Array) -> Array:
    """Return the values at a place, or zeros without loading where it is not inside.

    With a mask no place has to be brought inside, which would take a register for each column.
    """
    mask = jnp.broadcast_to(inside, array.shape[1:])
    of_old: Any = getattr(pl, "load", None)  # JAX before 0.7
    if of_old is not None:
        return of_old(array, (place, slice(None)), mask=mask, other=0.0)
    from jax.experimental.pallas import triton

    return triton.load(array.at[place], mask=mask, other=0.0)


def between(x: Any, first: Any, stop: Any) -> Array:
    """Return whether first <= x < stop."""
    return (x >= first) & (x < stop)


def pooled_to(s: Any) -> tuple[Any, Any]:
    """Return the shifts, counted from one that falls outside, that even and odd positions of a shift are pooled to."""
    return (s + 1) // 2, s // 2 + 1


def _mean_product(x: list[Array], z: list[Array]) -> Array:
    return functools.reduce(operator.add, (a * b for a, b in zip(x, z, strict=True))) * (1 / len(x))
