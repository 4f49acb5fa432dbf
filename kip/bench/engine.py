"""Benchmarks of the kernel engine: against its XLA form and neural-tangents in one process, and how its cost grows.

Times are the best of several runs after compiling, since everything else that a machine does only adds; what is
compared takes turns. Each is divided by the entries of the block. fwd+vjp is the value and the gradient with respect to
the support images, as a tile of K(X_t, X_s) needs them. Memory is the temporary memory that XLA plans for a block, or
that the threads of the form for CPUs hold, divided likewise.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from kip.kernels import Architecture, Implementation, Products, fused, kernel_function
from kip.kernels.architecture import kernel_named
from kip.kernels.fused.layout import tables
from kip.pictures.canvas import with_grid
from kip.storage.files import atomic_write

LEAST_S, ENOUGH_S = 2.0, 10.0
"""A program runs `repeats` times, more often where they take less than the first, and less where more than the second,
seconds."""
OPERATIONS = 80
"""Arithmetic operations of a ReLU layer with its convolution for one position pair: NTK, forward, as JAX traces it."""


class Cost(NamedTuple):
    """The cost of a block's entry."""

    forward_us: float
    """The microseconds of the value alone."""
    vjp_us: float
    """The microseconds of the value and its gradient with respect to the support."""
    memory_kib: float
    """The temporary memory of fwd+vjp, in KiB."""


class Row(NamedTuple):
    """One line of the comparison."""

    kernel: str
    image: tuple[int, int, int]
    block: int
    """The number of images on each side of the block."""
    ours: Cost
    """The cost of the engine's form for this device: on CPUs, where it can, the form that Numba compiles."""
    neural_tangents: Cost
    forward_ratio: float
    vjp_ratio: float
    memory_ratio: float
    xla_forward_us: float | None
    """The microseconds per entry of the engine's form for XLA; None where `ours` is that form."""
    xla_vjp_us: float | None
    xla_forward_ratio: float | None
    xla_vjp_ratio: float | None
    difference: float
    """The largest difference of values and gradients, relative to the largest value or gradient, in float32."""
    roofline_us: float | None
    """The microseconds of the forward pass if its arithmetic ran at the rate that was measured here; None for FC."""
    roofline_fraction: float | None


def compare(kernels: Sequence[str], image: tuple[int, int, int], blocks: Sequence[int], repeats: int) -> Iterator[Row]:
    """Yield the engine's costs beside neural-tangents', for each kernel and block size.

    Args:
        kernels: names such as `ConvNet`, `ConvVec3`, `Myrtle5`, `FC1`.
        image: (H, W, C).
        blocks: sides of square blocks.
        repeats: runs, the best of which counts; see `LEAST_S`.
    """
    rate = arithmetic_rate()
    for name in kernels:
        architecture = kernel_named(name)
        assert isinstance(architecture, Architecture)
        for block in blocks:
            fast = fused.supports(architecture) and jax.default_backend() == "cpu"
            forms: list[Implementation] = ["numba", "engine"] if fast else ["engine"]
            *own, (theirs, expected) = measure(architecture, [*forms, "neural_tangents"], image, block, repeats)
            ours, results = own[0]
            xla = own[1][0] if fast else None
            difference = max(
                float(np.abs(a - b).max() / np.abs(b).max()) for a, b in zip(results, expected, strict=True)
            )
            bound = None
            if architecture.family != "FC":
                bound = 1e6 * position_pairs(architecture, image) * OPERATIONS / rate
            yield Row(
                name,
                image,
                block,
                ours,
                theirs,
                theirs.forward_us / ours.forward_us,
                theirs.vjp_us / ours.vjp_us,
                theirs.memory_kib / max(ours.memory_kib, 1e-9),
                xla and xla.forward_us,
                xla and xla.vjp_us,
                xla and xla.forward_us / ours.forward_us,
                xla and xla.vjp_us / ours.vjp_us,
                difference,
                bound,
                None if bound is None else bound / ours.forward_us,
            )


def measure(
    architecture: Architecture,
    implementations: Sequence[Implementation],
    image: tuple[int, int, int],
    block: int,
    repeats: int,
    products: Products = "float32",
) -> list[tuple[Cost, list[np.ndarray]]]:
    """Return, for each implementation, what an entry of a block costs, and the block's value and gradient.

    Args:
        architecture: the kernel, computed in float32.
        implementations: what computes the kernel.
        image: (H, W, C); the images are normal random numbers.
        block: images on each side.
        repeats: runs, see `LEAST_S`.
        products: the precision of matrix products, see `kip.kernels.kernel_function`.
    """
    programs = [program(architecture, implementation, image, block, products) for implementation in implementations]
    forward_s = best_times([each.forward for each in programs], repeats)
    vjp_s = best_times([each.value_and_vjp for each in programs], repeats)
    us, costs = 1e6 / (block * block), []
    for each, forward_time, vjp_time in zip(programs, forward_s, vjp_s, strict=True):
        results = [np.asarray(part) for part in each.value_and_vjp()]
        memory = each.memory_bytes / (block * block) / 1024
        costs.append((Cost(us * forward_time, us * vjp_time, memory), results))
    return costs


class Program(NamedTuple):
    """A block's kernel, compiled for two sets of random images."""

    forward: Callable[[], Any]
    value_and_vjp: Callable[[], tuple[Any, Any]]
    memory_bytes: int


def program(
    architecture: Architecture,
    implementation: Implementation,
    image: tuple[int, int, int],
    block: int,
    products: Products = "float32",
) -> Program:
    """Return a block's program; see `measure`."""
    generator = np.random.default_rng(0)
    target, support = (generator.standard_normal((block, *image)).astype(np.float32) for _ in range(2))
    cotangent = np.ones((block, block), np.float32)
    if implementation == "numba":
        return _fused(architecture, target, support, cotangent)
    return _by_jax(kernel_function(architecture, implementation, products), target, support, cotangent)


def _by_jax(function: Callable[..., Any], target, support, cotangent) -> Program:

    def value_and_vjp(target, support, cotangent):
        value, pull = jax.vjp(functools.partial(function, target), support)
        return value, pull(cotangent)[0]

    forward = jax.jit(function).lower(target, support).compile()
    both = jax.jit(value_and_vjp).lower(target, support, cotangent).compile()
    analysis = both.memory_analysis()
    return Program(
        functools.partial(forward, target, support),
        functools.partial(both, target, support, cotangent),
        0 if analysis is None else analysis.temp_size_in_bytes,
    )


def _fused(architecture: Architecture, target, support, cotangent) -> Program:
    from kip.kernels.fused.form import Form

    form = Form(architecture)

    def value_and_vjp():
        values, _, gradient = form.value_and_pull(target, support, cotangent, False, True)
        return values, gradient

    return Program(
        functools.partial(form.forward, target, support),
        value_and_vjp,
        form.temporary_bytes(target.shape[1:], target.dtype.itemsize),
    )


def best_times(runs: Sequence[Callable[[], Any]], repeats: int) -> list[float]:
    """Return the seconds of each program's fastest run, after one that is not counted; they run in turns."""
    for run in runs:
        jax.block_until_ready(run())
    best, spent, count = ([start] * len(runs) for start in (np.inf, 0.0, 0))
    while True:
        due = [i for i in range(len(runs)) if spent[i] < (LEAST_S if count[i] >= repeats else ENOUGH_S)]
        if not due:
            return best
        for i in due:
            start = time.perf_counter()
            jax.block_until_ready(runs[i]())
            seconds = time.perf_counter() - start
            best[i], spent[i], count[i] = min(best[i], seconds), spent[i] + seconds, count[i] + 1


def position_pairs(architecture: Architecture, image: tuple[int, int, int]) -> int:
    """Return how many position pairs go through a ReLU for one entry, over all layers, where both lie in the image."""
    return tables(architecture, *image).position_pairs


def arithmetic_rate() -> float:
    """Return the float32 operations per second that this device reaches: on CPUs in a matrix product, elsewhere in
    chains of multiply-adds, eight beside each other, because products have units of their own there.
    """
    if jax.default_backend() == "cpu":
        side = 2048
        product = jax.jit(lambda x: x @ x)
        square = jnp.ones((side, side), jnp.float32)
        return 2 * side**3 / best_times([lambda: product(square)], 10)[0]
    chains, steps, size = 8, 16, 1 << 18

    @jax.jit
    def multiply_adds(x):
        values = [x + 0.1 * number for number in range(chains)]
        for _ in range(steps):
            values = [value * x + 0.5 for value in values]
        return sum(values)

    x = jnp.linspace(-0.5, 0.5, size, dtype=jnp.float32)
    return 2 * chains * steps * size / best_times([lambda: multiply_adds(x)], 50)[0]


def table(rows: Sequence[Row]) -> str:
    """Return a comparison as text."""
    lines = [
        f"{'':22}{'microseconds an entry, fwd / fwd+vjp':^44}{'ratio':^18}{'to XLA':^14}{'KiB an entry':^20}"
        f"{'rel.':>9}{'of':>7}",
        f"{'kernel':10}{'block':>8}    {'kip':>18}{'neural-tangents':>24}  {'fwd':>7}{'fwd+vjp':>9}"
        f"{'fwd':>6}{'fwd+vjp':>9}{'kip':>10}{'n.-t.':>10}{'diff.':>9}{'peak':>8}",
    ]
    for row in rows:
        ours, theirs = row.ours, row.neural_tangents
        times = [f"{cost.forward_us:.4g} / {cost.vjp_us:.4g}" for cost in (ours, theirs)]
        to_xla = [f"{ratio:.1f}" if ratio else "-" for ratio in (row.xla_forward_ratio, row.xla_vjp_ratio)]
        lines.append(
            f"{row.kernel:10}{f'{row.block}x{row.block}':>8}    {times[0]:>18}{times[1]:>24}  "
            f"{row.forward_ratio:7.1f}{row.vjp_ratio:9.1f}{to_xla[0]:>6}{to_xla[1]:>9}"
            f"{ours.memory_kib:10.3g}{theirs.memory_kib:10.3g}"
            f"{row.difference:9.0e}" + (f"{row.roofline_fraction:8.0%}" if row.roofline_fraction else f"{'-':>8}")
        )
    return "\n".join(lines)


class Growth(NamedTuple):
    """The growth of an entry's cost: (x, Cost) pairs against image side, depth and block side."""

    by_side: list[tuple[int, Cost]]
    by_depth: list[tuple[int, Cost]]
    by_block: list[tuple[int, Cost]]


def growth(repeats: int) -> Growth:
    """Measure the ConvNet kernel against the image's side, its depth, and the block's side; RGB."""

    def cost(architecture: Architecture, side: int, block: int) -> Cost:
        fast = jax.default_backend() == "cpu"
        return measure(architecture, ["numba" if fast else "engine"], (side, side, 3), block, repeats)[0][0]

    convnet = Architecture("ConvNet")
    return Growth(
        [(side, cost(convnet, side, 8)) for side in (8, 12, 16, 24, 32, 48)],
        [(depth, cost(Architecture("ConvNet", depth), 32, 8)) for depth in (1, 2, 3, 4)],
        [(block, cost(convnet, 32, block)) for block in (1, 2, 4, 6, 8, 10, 16)],
    )


def draw_growth(growth: Growth, path: Path) -> None:
    """Draw what `growth` measured: three panels, both axes logarithmic, forward and fwd+vjp.

    Raises:
        OutputError: if the file cannot be written.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 2.9), dpi=150, layout="constrained")
    titles = ("image side, pixels", "depth: pooled blocks", "block side, images")
    for ax, title, points in zip(figure.subplots(1, 3), titles, growth, strict=True):
        x = [at for at, _ in points]
        ax.loglog(x, [cost.vjp_us for _, cost in points], "o-", color="#c0504d", label="fwd+vjp")
        ax.loglog(x, [cost.forward_us for _, cost in points], "o-", color="#2f6db3", label="forward")
        ax.set(xlabel=title, xticks=x, xticklabels=[str(at) for at in x])
        ax.minorticks_off()
        with_grid(ax)
    figure.axes[0].set_ylabel("microseconds an entry")
    figure.axes[0].legend(frameon=False)
    atomic_write(path, lambda file: figure.savefig(file, format="png"))
