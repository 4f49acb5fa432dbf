"""`kip.kernel` inside JAX programs, against the blocks that KIP uses and against neural-tangents by the same call.

Times are the best of several runs in turns, after compiling, as in `kip.bench.engine`; neural-tangents comes behind
them, once where it takes many seconds. `value` is K(x, z) under `jax.jit`; `gradient` is that of sum(bar K(x, z)) for z
alone, under `jax.jit` of `jax.grad`, as a tile of K(X_t, X_s) needs it. KIP's blocks are a tile's forward and its
pull-back, called directly.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kip.bench.engine import ENOUGH_S, best_times
from kip.blocks import Images, Tile, TileSize, tile
from kip.functions.kernel import kernel as kip_kernel
from kip.kernels import Architecture
from kip.kernels.architecture import kernel_named


class Times(NamedTuple):
    """The seconds of one block's value and gradient."""

    value_s: float
    gradient_s: float


class Row(NamedTuple):
    """One kernel and block."""

    kernel: str
    image: tuple[int, int, int]
    block: int
    """The number of images on each side."""
    blocks: Times
    """KIP's blocks."""
    function: Times
    """`kip.kernel` in a program."""
    neural_tangents: Times | None
    first: Times
    """The first calls of `kip.kernel` in this process: they trace and compile, Numba too if nothing is kept."""
    difference: float | None
    """The largest difference of values and gradients from neural-tangents', relative to the largest one."""

    @property
    def ratios(self) -> Times:
        """The time of `kip.kernel` over that of the blocks."""
        return Times(*(ours / theirs for ours, theirs in zip(self.function, self.blocks)))

    @property
    def times_as_fast(self) -> Times | None:
        """The time of neural-tangents over that of `kip.kernel`."""
        if self.neural_tangents is None:
            return None
        return Times(*(theirs / ours for ours, theirs in zip(self.function, self.neural_tangents)))


def measure(
    kernels: Sequence[str], image: tuple[int, int, int], blocks: Sequence[int], repeats: int, reference: bool
) -> Iterator[Row]:
    """Yield a row for each kernel and block size, of random images in float32.

    Args:
        kernels: names of networks.
        image: (H, W, C).
        blocks: sides of square blocks.
        repeats: runs, the best of which counts.
        reference: whether neural-tangents is measured too.
    """
    for name in kernels:
        architecture = kernel_named(name)
        assert isinstance(architecture, Architecture)
        for side in blocks:
            yield _row(architecture, image, side, repeats, reference)


def _row(architecture: Architecture, image: tuple[int, int, int], side: int, repeats: int, reference: bool) -> Row:
    generator = np.random.default_rng(0)
    x, z = (generator.standard_normal((side, *image)).astype(np.float32) for _ in range(2))
    bar = generator.standard_normal((side, side)).astype(np.float32)
    on_device = [jnp.asarray(array) for array in (x, z, bar)]
    value, gradient = _programs(functools.partial(kip_kernel, kernel=architecture))
    runs = [(lambda: value(*on_device[:2])), (lambda: gradient(*on_device))]
    first = Times(*map(_seconds, runs))
    images, where = Images(architecture, z, x, TileSize(side, side, side)), Tile("ts", (0, side), (0, side))
    runs += [lambda: tile.forward(images, where), lambda: tile.backward(images, where, bar).columns]
    best = best_times(runs, repeats)
    theirs, difference = None, None
    if reference:
        from kip.kernels.neural_tangents import network

        functions = _programs(lambda x, z: network(architecture)(x, z, architecture.get))
        arguments = [on_device[:2], on_device]
        programs = [function.lower(*given).compile() for function, given in zip(functions, arguments)]
        timed = [_best_time(lambda p=p, a=a: p(*a), repeats) for p, a in zip(programs, arguments)]
        theirs = Times(*(seconds for seconds, _ in timed))
        pairs = [(run(), result) for run, (_, result) in zip(runs, timed)]
        difference = max(float(jnp.abs(ours - result).max() / jnp.abs(result).max()) for ours, result in pairs)
    return Row(
        architecture.label,
        image,
        side,
        Times(*best[2:]),
        Times(*best[:2]),
        theirs,
        first,
        difference,
    )


def _best_time(run: Callable[[], Any], repeats: int) -> tuple[float, Any]:
    """Return the seconds of a compiled program's fastest run, and its result. A run of many seconds is the only one."""
    start = time.perf_counter()
    result = jax.block_until_ready(run())
    seconds = time.perf_counter() - start
    return (seconds if seconds > ENOUGH_S else best_times([run], repeats)[0]), result


def _programs(function: Any) -> tuple[Any, Any]:
    def summed(z: Any, x: Any, bar: Any) -> Any:
        return jnp.sum(bar * function(x, z))

    return jax.jit(function), jax.jit(lambda x, z, bar: jax.grad(summed)(z, x, bar))


def _seconds(run: Any) -> float:
    start = time.perf_counter()
    jax.block_until_ready(run())
    return time.perf_counter() - start


def _milliseconds(times: Times) -> str:
    return " / ".join(f"{1e3 * t:.4g}" if t < 1.0 else f"{1e3 * t:.0f}" for t in times)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as text, in milliseconds a block, value / gradient."""
    heads = (
        "kernel",
        "block",
        "KIP's blocks",
        "kip.kernel",
        "ratio",
        "n.-t.",
        "times as fast",
        "first calls, s",
        "diff.",
    )
    lines = [f"{heads[0]:10}{heads[1]:>7}" + "".join(f"{head:>19}" for head in heads[2:8]) + f"{heads[8]:>8}"]
    for row in rows:
        fast = row.times_as_fast
        cells = [
            *(_milliseconds(times) for times in (row.blocks, row.function)),
            "{:.2f} / {:.2f}".format(*row.ratios),
            "-" if row.neural_tangents is None else _milliseconds(row.neural_tangents),
            "-" if fast is None else "{:.0f} / {:.0f}".format(*fast),
            "{:.2f} / {:.2f}".format(*row.first),
        ]
        difference = "-" if row.difference is None else f"{row.difference:.0e}"
        sides = f"{row.block}x{row.block}"
        lines.append(f"{row.kernel:10}{sides:>7}" + "".join(f"{cell:>19}" for cell in cells) + f"{difference:>8}")
    return "\n".join(lines)
