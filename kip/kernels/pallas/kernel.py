"""The two kernels of a layer: convolutions with their activations, forward, and one of them pulled back.

A program has one first image, as many second ones as it has lanes, one shift along y, and a strip of columns of the
image. It goes through the shifts along x, and for each of them down the strip's rows, which lie in registers:

    products or planes -> sums of three rows -> box, f -> sums of three rows -> box, f -> planes, or their pool along x

A convolution takes a column more on either side of the strip than it gives, which neighbouring strips compute as well.
What a program adds up over shifts along x, pooled values and cotangents of the first image, is its own part of memory:
no other program writes there, and the order is that of the loop.

`kip.kernels.pallas.program` reads what lies at a program's place.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.experimental import pallas as pl

from kip.kernels.engine.pairs import Planes
from kip.kernels.memory import LANES
from kip.kernels.pallas.program import Layer, Plane, Program, Row, Side, between, pooled_to
from kip.placement import platform

MOST_WARPS = 4
"""Warps of a program."""
PULL_EDGE = 2
"""Columns that the vjp of a convolution reads on either side of a strip: its window's, and its transpose's."""


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
        kernel(Program(layer, edge, lanes, channels, state, *of_sides), take(len(bars)), take(len(outs)))

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


def _window(row: Row, before: tuple[Row, Row]) -> tuple[Row, tuple[Row, Row]]:
    """Return the 3x3 sums around the row above, from the sums of the two rows above and of the last; and the next ones.

    Each is of three columns, so that there are two columns less than in the row.
    """
    across = [[part[j] + part[j + 1] + part[j + 2] for j in range(len(part) - 2)] for part in row]
    of_two, of_one = before
    return _sum(of_two, across), (_sum(of_one, across), across)


def _sum(one: Row, other: Row) -> Row:
    return [[a + b for a, b in zip(x, y, strict=True)] for x, y in zip(one, other, strict=True)]


def _forward(program: Program, bars: Sequence[Any], outs: Sequence[Any]) -> None:
    """Write a layer's planes, or their pool along x."""
    layer = program.layer
    network, convs, strip = layer.network, layer.convs, layer.strip
    pooled = layer.end == "pool"
    half, shifts_up = layer.level.width // 2, layer.columns + 2

    def activated(plane: Plane, conv: int, y: Any, box: Row) -> Row:
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

    def write(plane: Plane, y: Any, row: Row) -> None:
        begin = plane.places(y)

        def put(j: int) -> None:
            for out, part in zip(outs, row):
                out[begin + j] = part[j]

        program.each_column(put)

    def add_pooled(plane: Plane, y: Any, row: Row) -> None:
        begins = [(y * shifts_up + up) * half + program.left // 2 for up in pooled_to(plane.s)]

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

    def compute(plane: Plane) -> None:
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


def _pull(program: Program, bars: Sequence[Any], outs: Sequence[Any]) -> None:
    """Write the cotangents of a convolution's planes, or add up those of pixels; add up those of log q."""
    layer, channels = program.layer, program.channels
    network, strip, width = layer.network, layer.strip, layer.level.width
    *to_inputs, to_logs = outs

    def pulled(plane: Plane, y: Any, covariances: Row) -> tuple[Row, list[Array]]:
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

    def add_pixels(plane: Plane, y: Any, row: Row) -> None:
        begin, pixels = (y * width + program.left) * channels, plane.pixels_of_second(y)

        def add(j: int) -> None:
            bar = row[0][j] * (1 / channels)
            for c, pixel in enumerate(pixels(j)):
                at = begin + (j * channels + c)
                to_inputs[0][at] = to_inputs[0][at] + bar * pixel

        program.each_column(add)

    def write(plane: Plane, y: Any, row: Row) -> None:
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

    def compute(plane: Plane) -> None:
        def step(t: Any, rings: tuple[Any, Any]) -> tuple[Any, Any]:
            box, ahead = _window(plane.row(t), rings[0])
            row, logs = pulled(plane, t - 1, program.covariances(box))
            # At once, so that no register holds them for longer.
            pl.when(between(t - 1, program.top, program.bottom))(lambda: add_logs(t - 1, logs))
            box, behind = _window(row, rings[1])
            bar = [[network.w * value for value in part] for part in box]
            pl.when(t - 2 >= program.top)(lambda: (add_pixels if layer.pixels else write)(plane, t - 2, bar))
            return ahead, behind

        rings = program.no_rows(strip + 2, layer.parts), program.no_rows(strip, layer.parts)
        jax.lax.fori_loop(program.top, program.bottom + 2, step, rings)

    program.over_rows(clear)
    program.over_shifts(compute)
