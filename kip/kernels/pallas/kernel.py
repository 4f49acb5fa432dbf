"""The two kernels of a layer: convolutions with their activations, forward, and one of them pulled back.

A program has one first image, as many second ones as it has lanes, one shift along y, and a strip of columns of the
image. It goes through the shifts along x, and for each of them down the strip's rows, which lie in registers:

    products or planes -> sums of three rows -> box, f -> sums of three rows -> box, f -> planes, or their pool along x

A convolution takes a column more on either side of the strip than it gives, which neighbouring strips compute as well.
What a program adds up over shifts along x, pooled values and cotangents of the first image, is its own part of memory:
no other program writes there, and the order is that of the loop.

Planes are arrays (shifts along y, h, shifts along x, w, P) of P = N M pairs, pair i M + j of first image i and second
image j. Positions whose partner lies outside the image hold anything; whoever reads them asks `inside`.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from kip.kernels.engine.dual import Variance
from kip.kernels.engine.pairs import Network, Planes
from kip.kernels.levels import Level
from kip.kernels.memory import LANES
from kip.placement import platform

MOST_WARPS = 4
"""Warps of a program."""
STRIPS = (2, 4)
"""Columns that a strip may have. They are even, so that a pool's cells are not cut. Eight columns would compute a tenth
less twice, and take 160 to 180 registers where four take 128: fewer threads would hide the time of memory."""
OF_PLANES = 2
"""The most columns of a strip where planes of both K and T are pulled back: four take 138 registers, which leave less
than a quarter of the threads, or spill."""
PULL_EDGE = 2
"""Columns that the vjp of a convolution reads on either side of a strip: its window's, and its transpose's."""


class Layer(NamedTuple):
    """The work of a kernel.

    Attributes:
        level: its level, of which `columns` is not None.
        network: the network's constants.
        convs: how many convolutions, each with its activation.
        pixels: whether it begins with the images; otherwise with planes.
        own: whether the pairs are of each image with itself, so that P = N.
        end: `planes`; `pool`, their 2-sums along x; or `covariances`, those before the (only) activation.
        widest: the most columns that a strip may have, if `STRIPS` has as few.
    """

    level: Level
    network: Network
    convs: int
    pixels: bool
    own: bool
    end: str
    widest: int = STRIPS[-1]

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
        sizes = [size for size in STRIPS if size <= self.widest] or STRIPS[:1]
        return min(sizes, key=lambda size: (-(-self.level.width // size) * (size + 2), -size))

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


def lanes_of(images: int) -> int:
    """Return how many second images a program takes: whole warps, as many as fill all programs alike."""
    return LANES * math.gcd(-(-images // LANES), MOST_WARPS)


def forward(layer: Layer, planes: Planes | None, first: Side, second: Side) -> Planes:
    """Return a layer's planes; pooled along x they are (shifts, h, up + 2, w / 2, P), with what falls outside.

    Args:
        layer: what is computed.
        planes: its input; None for the images.
        first: the first images; for a layer of images with themselves, the same as the second ones.
        second: the second images, a multiple of `lanes_of` of them.
    """
    level = layer.level
    shape = (layer.columns + 2, level.width // 2) if layer.end == "pool" else (layer.shifts, level.width)
    count = 2 if layer.network.ntk else 1
    outs = [(level.shifts, level.height, *shape)] * count
    return Planes(*_call(_forward, layer, layer.convs, planes, first, second, [], outs), *[None] * (2 - count))


def pull(
    layer: Layer, planes: Planes | None, first: Side, second: Side, bars: Planes
) -> tuple[Planes | None, Array | None, Array]:
    """Return the cotangents of the planes, and, before they are added up over shifts and pairs, of the first images.

    Args:
        layer: of one convolution.
        planes: its input; None for the images.
        first: the first images.
        second: the second images.
        bars: cotangents of the layer's planes. Where they are pooled, cotangents of what is pooled along both axes,
            (up + 2, h / 2, up + 2, w / 2, P), with zeros where it falls outside.

    Returns:
        The cotangents of the planes; of pixels, (shifts, h, w, C, P); and of log q, (shifts, h, w, P).
    """
    level = layer.level
    if layer.parts == 2:
        layer = layer._replace(widest=OF_PLANES)
    logs = (level.shifts, level.height, level.width)
    if layer.pixels:
        outs = [(*logs, first.pixels.shape[2])]
    else:
        outs = [(level.shifts, level.height, layer.shifts, level.width)] * layer.parts
    *found, to_logs = _call(_pull, layer, PULL_EDGE, planes, first, second, _present(bars), [*outs, logs])
    if layer.pixels:
        return None, found[0], to_logs
    return Planes(*found, *[None] * (2 - layer.parts)), None, to_logs


def _call(
    kernel: Callable[..., None],
    layer: Layer,
    edge: int,
    planes: Planes | None,
    first: Side,
    second: Side,
    bars: Sequence[Array],
    outs: Sequence[tuple[int, ...]],
) -> Sequence[Array]:
    """Call a kernel over all its programs.

    Every array is seen as (places, images) or (places, pairs), of which a program is given its lanes; planes and
    results as (shifts along y, places, pairs), of which it is given its shift. Images get margins of `edge` positions,
    and the second ones room for the shifts.
    """
    count = second.variances.shape[-1]
    lanes = lanes_of(count)
    groups, strips = count // lanes, layer.strips
    rows = 1 if layer.own else first.variances.shape[-1]
    spare = strips * layer.strip - layer.level.width
    sides = (
        _with_margins(first, edge, (edge, edge + spare)),
        _with_margins(second, edge, (edge + layer.columns, edge + layer.columns + spare)),
    )
    of_first = (lanes, lambda i, g, q: (0, g)) if layer.own else (None, lambda i, g, q: (0, i))
    of_pair = (lanes, lambda i, g, q: (0, i * groups + g))
    of_shift = (lanes, lambda i, g, q: (q // strips, 0, i * groups + g))
    of_bars = of_pair if layer.end == "pool" else of_shift
    arrays: list[tuple[Array, Any]] = [
        *((part, of_shift) for part in ([] if planes is None else _present(planes))),
        *((part, of_first) for part in sides[0] if part is not None),
        *((part, (lanes, lambda i, g, q: (0, g))) for part in sides[1] if part is not None),
        *((part, of_bars) for part in bars),
    ]
    given, given_specs = zip(*(_seen(part, *where, shifted=where is of_shift) for part, where in arrays))
    results = [jax.ShapeDtypeStruct((*shape, rows * count), jnp.float32) for shape in outs]
    shapes, specs = zip(*(_seen(part, *of_shift, shifted=True) for part in results))
    for array in (*given, *shapes):
        assert array.size < 1 << 31, "a tile whose places a 32-bit number cannot tell"

    def body(*refs: Any) -> None:
        parts = iter(refs)

        def take(number: int) -> list[Any]:
            return [next(parts) for _ in range(number)]

        state = take(0 if planes is None else layer.parts)
        of_sides = [Side(*take(1 if layer.pixels else 0) or [None], *take(1)) for _ in range(2)]
        channels = first.pixels.shape[2] if layer.pixels else 0
        kernel(_Program(layer, edge, lanes, channels, state, *of_sides), take(len(bars)), take(len(outs)))

    interpret = platform() != "gpu"
    params: dict[str, Any] = {}
    if not interpret:
        from jax.experimental.pallas import triton

        params["compiler_params"] = triton.CompilerParams(num_warps=lanes // LANES, num_stages=1)
    found = pl.pallas_call(
        body,
        out_shape=shapes,
        in_specs=given_specs,
        out_specs=specs,
        grid=(rows, groups, layer.level.shifts * strips),
        interpret=interpret,
        name=f"kip{kernel.__name__}",
        **params,
    )(*given)
    return [part.reshape(like.shape) for part, like in zip(found, results, strict=True)]


def _seen(array: Any, lanes: int | None, index: Callable[..., Any], *, shifted: bool) -> tuple[Any, pl.BlockSpec]:
    """Return an array, or its shape, as programs see it, and what each is given of it."""
    shape = (array.shape[0],) if shifted else ()
    shape = (*shape, math.prod(array.shape[len(shape) : -1]), array.shape[-1])
    seen = array.reshape(shape) if hasattr(array, "reshape") else jax.ShapeDtypeStruct(shape, array.dtype)
    return seen, pl.BlockSpec((*[None] * shifted, shape[-2], lanes), index)


def _present(planes: Planes) -> list[Array]:
    return [part for part in planes if part is not None]


def _with_margins(side: Side, rows: int, columns: tuple[int, int]) -> Side:
    around = ((rows, rows), columns)
    pixels = None if side.pixels is None else jnp.pad(side.pixels, (*around, (0, 0), (0, 0)))
    return Side(pixels, jnp.pad(side.variances, ((0, 0), (0, 0), *around, (0, 0)), constant_values=1))


class _Program:
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

    def over_shifts(self, plane: Callable[[_Plane], None]) -> None:
        """Go through the shifts along x at which the strip has partners in the image."""
        columns, width = self.layer.columns, self.layer.level.width
        first = jnp.maximum(0, columns - self.left - (self.layer.strip - 1))
        stop = jnp.minimum(self.layer.shifts, columns + width - self.left)
        jax.lax.fori_loop(first, stop, lambda s, _: plane(_Plane(self, s)), None)

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


class _Plane:
    """The reader of a program for a shift s along x: rows t or y, and columns j from its strip's first."""

    def __init__(self, program: _Program, s: Any):
        self._of, self.s = program, s
        layer = program.layer
        width, left, edge = layer.level.width, program.left, program.edge
        everywhere = range(-edge, layer.strip + edge)
        along_x = s - layer.columns
        self._columns = {
            j: left + j if program.always_inside(j, width) else jnp.clip(left + j, 0, width - 1) for j in everywhere
        }
        self._inside, self._pooled = (
            {j: _between(left + j, jnp.maximum(0, -along_x), jnp.minimum(of, of - along_x)) for j in everywhere}
            for of in (width, width // 2 * 2)
        )

    def inside(self, y: Any, j: int) -> Array:
        """Return whether a position and its partner lie in the image."""
        return _between(y, self._of.top, self._of.bottom) & self._inside[j]

    def places(self, y: Any) -> Any:
        """Return where the strip's row y begins in planes."""
        layer = self._of.layer
        return (y * layer.shifts + self.s) * layer.level.width + self._of.left

    def read(self, plane: Any, y: Any, j: int) -> Array:
        """Return a plane's values, which are zero outside the image."""
        layer = self._of.layer
        row = (jnp.clip(y, 0, layer.level.height - 1) * layer.shifts + self.s) * layer.level.width
        return jnp.where(self.inside(y, j), plane[row + self._columns[j]], 0)

    def read_pooled(self, planes: Any, y: Any, j: int) -> Array:
        """Return the values that a position is pooled to, of planes (up + 2, h / 2, up + 2, w / 2).

        They are zero too where the position or its partner lies in an odd last row or column, which no pool takes.
        """
        level, shift = self._of.layer.level, self._of.shift
        half_rows, half_columns = level.height // 2, level.width // 2
        up = jnp.where(y % 2 == 0, (shift + 1) // 2, shift // 2 + 1)
        row = up * half_rows + jnp.clip(y // 2, 0, half_rows - 1)
        place = (row * (self._of.layer.columns + 2) + _pooled_to(self.s)[j % 2]) * half_columns
        bottom = jnp.minimum(2 * half_rows, 2 * half_rows - self._of.along_y)
        inside = _between(y, self._of.top, bottom) & self._pooled[j]
        return jnp.where(inside, planes[place + jnp.minimum(self._columns[j] // 2, half_columns - 1)], 0)

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


def _between(x: Any, first: Any, stop: Any) -> Array:
    return (x >= first) & (x < stop)


def _pooled_to(s: Any) -> tuple[Any, Any]:
    """Return the shifts, counted from one that falls outside, that even and odd positions of a shift are pooled to."""
    return (s + 1) // 2, s // 2 + 1


def _mean_product(x: list[Array], z: list[Array]) -> Array:
    return functools.reduce(operator.add, (a * b for a, b in zip(x, z, strict=True))) * (1 / len(x))


def _window(row: Row, before: tuple[Row, Row]) -> tuple[Row, tuple[Row, Row]]:
    """Return the 3x3 sums around the row above, from the sums of the two rows above and of the last; and the next ones.

    Each is of three columns, so that there are two columns less than in the row.
    """
    across = [[part[j] + part[j + 1] + part[j + 2] for j in range(len(part) - 2)] for part in row]
    of_two, of_one = before
    return _sum(of_two, across), (_sum(of_one, across), across)


def _sum(one: Row, other: Row) -> Row:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def _forward(program: _Program, bars: Sequence[Any], outs: Sequence[Any]) -> None:
    """Write a layer's planes, or their pool along x."""
    layer = program.layer
    network, convs, strip = layer.network, layer.convs, layer.strip
    pooled = layer.end == "pool"
    half, shifts_up = layer.level.width // 2, layer.columns + 2

    def activated(plane: _Plane, conv: int, y: Any, box: Row) -> Row:
        covariances = program.covariances(box)
        if layer.end == "covariances":
            return covariances
        margin = convs - 1 - conv
        variances = plane.variances(conv, y)
        result: Row = [[] for _ in outs]
        for j in range(-margin, strip + margin):
            v_x, v_z = variances(j)
            nngp, ntk = (part[j + margin] for part in (covariances[0], covariances[-1]))
            point = network.dual.point(nngp, v_x, v_z)
            values: Any = network.dual.values(point, ntk if network.ntk else None, v_x, v_z)
            for part, value in zip(result, values):
                # Beyond the image the next convolution adds zeros.
                part.append(value if conv == convs - 1 else jnp.where(plane.inside(y, j), value, 0))
        return result

    def write(plane: _Plane, y: Any, row: Row) -> None:
        begin = plane.places(y)

        def put(j: int) -> None:
            for out, part in zip(outs, row):
                out[begin + j] = part[j]

        program.each_column(put)

    def add_pooled(plane: _Plane, y: Any, row: Row) -> None:
        begins = [(y * shifts_up + up) * half + program.left // 2 for up in _pooled_to(plane.s)]

        def add(j: int) -> None:
            for out, part in zip(outs, row):
                for begin, value in zip(begins, part[j : j + 2]):
                    out[begin + j // 2] = out[begin + j // 2] + value

        program.each_column(add, 2)

    def clear(y: Any) -> None:
        def put(j: int) -> None:
            for out in outs:
                for up in range(shifts_up):
                    out[(y * shifts_up + up) * half + program.left // 2 + j // 2] = program.zero

        program.each_column(put, 2)

    def compute(plane: _Plane) -> None:
        def step(t: Any, rings: list[tuple[Row, Row]]) -> list[tuple[Row, Row]]:
            row, after = plane.row(t), []
            for conv in range(convs):
                box, ring = _window(row, rings[conv])
                after.append(ring)
                row = activated(plane, conv, t - 1 - conv, box)
            pl.when(t - convs >= program.top)(lambda: (add_pooled if pooled else write)(plane, t - convs, row))
            return after

        rings = [
            program.no_rows(strip + 2 * (convs - 1 - conv), len(outs) if conv else layer.parts) for conv in range(convs)
        ]
        jax.lax.fori_loop(program.top, program.bottom + convs, step, rings)

    if pooled:
        program.over_rows(clear)
    program.over_shifts(compute)


def _pull(program: _Program, bars: Sequence[Any], outs: Sequence[Any]) -> None:
    """Write the cotangents of a convolution's planes, or add up those of pixels; add up those of log q."""
    layer, channels = program.layer, program.channels
    network, strip, width = layer.network, layer.strip, layer.level.width
    *to_inputs, to_logs = outs

    def pulled(plane: _Plane, y: Any, covariances: Row) -> tuple[Row, list[Array]]:
        """Return the cotangents of a row before the activation, and those of log q."""
        variances = plane.variances(0, y)
        read = plane.read_pooled if layer.end == "pool" else plane.read
        result: Row = [[] for _ in range(layer.parts)]
        logs = []
        for j in range(-1, strip + 1):
            v_x, v_z = variances(j)
            nngp, ntk = (part[j + 1] for part in (covariances[0], covariances[-1]))
            point = network.dual.point(nngp, v_x, v_z)
            ntk = ntk if network.ntk else None
            bar, *ntk_bar = (read(part, y, j) for part in bars)
            to_ntk: Any
            to_nngp, to_ntk, to_log = network.dual.pull(point, ntk, v_x, v_z, bar, *(ntk_bar or [None]))
            if layer.parts == 2:
                result[0].append(to_nngp)
                result[1].append(to_ntk)
            else:  # T is K, or there is none
                result[0].append(to_nngp if to_ntk is None else to_nngp + to_ntk)
            logs.append(to_log)
        return result, logs

    def add_logs(y: Any, logs: list[Array]) -> None:
        begin = y * width + program.left

        def add(j: int) -> None:
            to_logs[begin + j] = to_logs[begin + j] + logs[j + 1]

        program.each_column(add)

    def add_pixels(plane: _Plane, y: Any, row: Row) -> None:
        begin, pixels = (y * width + program.left) * channels, plane.pixels_of_second(y)

        def add(j: int) -> None:
            bar = row[0][j] * (1 / channels)
            for c, pixel in enumerate(pixels(j)):
                at = begin + (j * channels + c)
                to_inputs[0][at] = to_inputs[0][at] + bar * pixel

        program.each_column(add)

    def write(plane: _Plane, y: Any, row: Row) -> None:
        begin = plane.places(y)

        def put(j: int) -> None:
            for out, part in zip(to_inputs, row):
                out[begin + j] = part[j]

        program.each_column(put)

    def clear(y: Any) -> None:
        begin = y * width + program.left

        def put(j: int) -> None:
            to_logs[begin + j] = program.zero
            for c in range(channels):
                to_inputs[0][(begin + j) * channels + c] = program.zero

        program.each_column(put)

    def compute(plane: _Plane) -> None:
        def step(t: Any, rings: tuple[Any, Any]) -> tuple[Any, Any]:
            box, ahead = _window(plane.row(t), rings[0])
            row, logs = pulled(plane, t - 1, program.covariances(box))
            box, behind = _window(row, rings[1])
            bar = [[network.w * value for value in part] for part in box]
            pl.when(_between(t - 1, program.top, program.bottom))(lambda: add_logs(t - 1, logs))
            pl.when(t - 2 >= program.top)(lambda: (add_pixels if layer.pixels else write)(plane, t - 2, bar))
            return ahead, behind

        rings = program.no_rows(strip + 2, layer.parts), program.no_rows(strip, layer.parts)
        jax.lax.fori_loop(program.top, program.bottom + 2, step, rings)

    program.over_rows(clear)
    program.over_shifts(compute)
